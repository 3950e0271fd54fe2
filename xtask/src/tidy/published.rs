//! What is published stays: files that a list `published.sha256` names are never changed again. There is one for the
//! plugin contract (`plugin-sdk/wit`) and one for the plugins that were built against it (`plugin-sdk/compat`).
//!
//! The list has a line `<sha256>  <version>/<file>` for each, as `sha256sum` writes it. A folder of which it lists
//! anything is closed: no file of it may change, go, or come. A folder that it does not know is a draft.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::{Fault, files};

/// A folder with a list, and why its files stay.
struct Kept {
    folder: &'static str,
    must_stay: &'static str,
    instead: &'static str,
}

const CONTRACT: Kept = Kept {
    folder: "plugin-sdk/wit",
    must_stay: "plugins are built against it",
    instead: "new things go into a new version, in a folder of its own",
};
const PLUGINS: Kept = Kept {
    folder: "plugin-sdk/compat",
    must_stay: "it stands for plugins that nobody builds again",
    instead: "it must be the one that was built when its version was the newest",
};
const LIST: &str = "published.sha256";

/// What differs from the lists. Where nothing was published there is nothing to hold against one.
pub fn faults(root: &Path) -> anyhow::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for kept in [CONTRACT, PLUGINS] {
        faults.extend(faults_in(root, &kept)?);
    }
    Ok(faults)
}

fn faults_in(root: &Path, kept: &Kept) -> anyhow::Result<Vec<Fault>> {
    let folder = root.join(kept.folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let list = folder.join(LIST);
    let text = fs::read_to_string(&list).with_context(|| format!("can't read `{}`", list.display()))?;
    let mut found = BTreeMap::new();
    for file in files(&folder)? {
        let name = file.strip_prefix(&folder).unwrap_or(&file).to_string_lossy().into_owned();
        let bytes = fs::read(&file).with_context(|| format!("can't read `{}`", file.display()))?;
        found.insert(name, hex(&Sha256::digest(bytes)));
    }
    Ok(differences(kept, &text, &found))
}

/// `found` has the digest of each file by its name below the folder.
fn differences(kept: &Kept, list: &str, found: &BTreeMap<String, String>) -> Vec<Fault> {
    let folder = Path::new(kept.folder);
    let mut faults = Vec::new();
    let mut published = BTreeMap::new();
    for (line, text) in (1..).zip(list.lines()) {
        match text.split_once("  ") {
            Some((digest, name)) => _ = published.insert(name, digest),
            None => {
                faults.push(Fault::new(&folder.join(LIST), line, "must be `<sha256>  <version>/<file>`"));
            }
        }
    }
    let mut fault = |name: &str, what: String| faults.push(Fault::new(&folder.join(name), 0, what));
    for (name, digest) in &published {
        match found.get(*name) {
            None => fault(name, format!("is published and must stay: {}", kept.must_stay)),
            Some(actual) if actual != digest => {
                fault(name, format!("is published and was changed: {}", kept.instead));
            }
            Some(_) => {}
        }
    }
    let closed: BTreeSet<&str> = published.keys().filter_map(|name| version(name)).collect();
    for name in found.keys().filter(|name| !published.contains_key(name.as_str())) {
        if version(name).is_some_and(|version| closed.contains(version)) {
            fault(name, format!("was added to a version that is published: {}", kept.instead));
        }
    }
    faults
}

/// The folder of a file.
fn version(name: &str) -> Option<&str> {
    name.split_once('/').map(|(version, _)| version)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST_OF_ONE: &str = "aa  0.1.0/presence-plugin.wit\n";

    fn told(list: &str, found: &[(&str, &str)]) -> Vec<String> {
        let found = found.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect();
        differences(&CONTRACT, list, &found).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_published_stays_as_it_is() {
        let contract = ("0.1.0/presence-plugin.wit", "aa");
        let others = [contract, ("sdk/sdk.wit", "cc"), ("0.2.0/draft.wit", "dd"), ("published.sha256", "ee")];
        assert_eq!(told(LIST_OF_ONE, &others), [] as [&str; 0]);
        let changed = told(LIST_OF_ONE, &[("0.1.0/presence-plugin.wit", "ab")]);
        assert_eq!(changed.len(), 1);
        assert!(
            changed[0].starts_with("plugin-sdk/wit/0.1.0/presence-plugin.wit: is published and was changed")
        );
        assert!(told(LIST_OF_ONE, &[])[0].contains("must stay"));
        let added = told(LIST_OF_ONE, &[contract, ("0.1.0/more.wit", "bb")]);
        assert!(added[0].starts_with("plugin-sdk/wit/0.1.0/more.wit: was added"), "{added:?}");
        assert!(told("nonsense", &[])[0].contains("published.sha256:1: must be"));
    }

    #[test]
    fn a_changed_byte_of_the_contract_is_found() {
        let root = std::env::temp_dir().join(format!("presence-published-{}", std::process::id()));
        let folder = root.join(CONTRACT.folder);
        fs::create_dir_all(folder.join("0.1.0")).unwrap();
        fs::write(folder.join("0.1.0/a.wit"), "package a;").unwrap();
        let digest = hex(&Sha256::digest("package a;"));
        fs::write(folder.join(LIST), format!("{digest}  0.1.0/a.wit\n")).unwrap();
        assert_eq!(faults(&root).unwrap(), []);
        fs::write(folder.join("0.1.0/a.wit"), "package b;").unwrap();
        assert_eq!(faults(&root).unwrap().len(), 1);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_plugin_of_a_published_contract_stays_as_it_was_built() {
        let found = |digest: &str| [("0.1.0/compat.wasm".to_owned(), digest.to_owned())].into();
        let list = "aa  0.1.0/compat.wasm\n";
        assert_eq!(differences(&PLUGINS, list, &found("aa")), []);
        let changed = differences(&PLUGINS, list, &found("ab"))[0].to_string();
        assert!(
            changed.starts_with("plugin-sdk/compat/0.1.0/compat.wasm: is published and was changed"),
            "{changed}"
        );
        let gone = differences(&PLUGINS, list, &BTreeMap::new())[0].to_string();
        assert!(gone.contains("must stay: it stands for plugins"), "{gone}");
    }

    #[test]
    fn what_this_repository_has_published_is_as_it_was() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(faults(&root).unwrap(), []);
        for (kept, file) in [(CONTRACT, "0.1.0/presence-plugin.wit"), (PLUGINS, "0.1.0/compat.wasm")] {
            let list = fs::read_to_string(root.join(kept.folder).join(LIST)).unwrap();
            assert!(list.contains(&format!("  {file}")), "{list}");
        }
    }
}
