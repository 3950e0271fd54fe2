//! The plugin contract is published: files that `plugin-sdk/wit/published.sha256` lists are never changed again.
//!
//! The list has a line `<sha256>  <version>/<file>` for each, as `sha256sum` writes it. A folder of which it lists
//! anything is closed: no file of it may change, go, or come. A folder that it does not know is a draft.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::{Fault, files};

const FOLDER: &str = "plugin-sdk/wit";
const LIST: &str = "published.sha256";

/// What differs from the list. Without a contract there is nothing to hold against it.
pub fn faults(root: &Path) -> anyhow::Result<Vec<Fault>> {
    let folder = root.join(FOLDER);
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
    Ok(differences(&text, &found))
}

/// `found` has the digest of each file by its name below the folder.
fn differences(list: &str, found: &BTreeMap<String, String>) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut published = BTreeMap::new();
    for (line, text) in (1..).zip(list.lines()) {
        match text.split_once("  ") {
            Some((digest, name)) => _ = published.insert(name, digest),
            None => {
                let fault =
                    Fault::new(&Path::new(FOLDER).join(LIST), line, "must be `<sha256>  <version>/<file>`");
                faults.push(fault);
            }
        }
    }
    let mut fault = |name: &str, what: &str| faults.push(Fault::new(&Path::new(FOLDER).join(name), 0, what));
    for (name, digest) in &published {
        match found.get(*name) {
            None => fault(name, "is published and must stay: plugins are built against it"),
            Some(actual) if actual != digest => {
                fault(
                    name,
                    "is published and was changed: new things go into a new version, in a folder of its own",
                );
            }
            Some(_) => {}
        }
    }
    let closed: BTreeSet<&str> = published.keys().filter_map(|name| version(name)).collect();
    for name in found.keys().filter(|name| !published.contains_key(name.as_str())) {
        if version(name).is_some_and(|version| closed.contains(version)) {
            fault(name, "was added to a version that is published: it goes into a new version");
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
        differences(list, &found).iter().map(ToString::to_string).collect()
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
        let folder = root.join(FOLDER);
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
    fn the_contract_of_this_repository_is_as_published() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(faults(&root).unwrap(), []);
        let list = fs::read_to_string(root.join(FOLDER).join(LIST)).unwrap();
        assert!(list.contains("  0.1.0/presence-plugin.wit"), "{list}");
    }
}
