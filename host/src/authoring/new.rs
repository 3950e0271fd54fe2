//! `presence plugin new`: writes a small working project out of what this binary holds. Needs no network.

use std::fs;
use std::path::{Path, PathBuf};

use super::command::{Language, NewArguments};
use crate::commands::{EXIT_UNAVAILABLE, EXIT_USAGE};
use crate::plugins::CONTRACT;

/// Tables of paths and texts, made by `build.rs`.
mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

use embedded::{SDK, TEMPLATES, WORKSPACE};

/// Of a plugin each guest of which holds an engine for its language.
const FEW_GUESTS: &str =
    "\n[plugin.delivery]\nconcurrency = 2                         # guests at work at once\n";

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error("`{0}` is no name for a plugin: 1 to 64 of a-z, 0-9 and `-`, beginning with a letter")]
    Name(String),
    #[error("`{}` is there already: nothing was written; choose another place with --dir", .0.display())]
    Exists(PathBuf),
    #[error("`{}` can't be written: {error}", .path.display())]
    Io { path: PathBuf, error: std::io::Error },
    /// A fault of this binary: a test looks for it.
    #[error("the template is broken: {0}")]
    Template(String),
}

pub(super) fn run(arguments: &NewArguments) -> u8 {
    let folder = arguments.dir.clone().unwrap_or_else(|| PathBuf::from(&arguments.name));
    match write(&folder, &arguments.name, arguments.lang) {
        Ok(()) => {
            let (folder, name) = (folder.display(), &arguments.name);
            println!(
                "{folder}/ is there; README.md says what is in it. Next:\n\n  presence plugin build {folder}\n  \
                 presence plugin test {folder}\n  presence plugin run {folder}/dist/{name}.wasm --hook user-online \
                 --user alice --config {folder}/plugin.toml"
            );
            0
        }
        Err(error) => {
            eprintln!("presence: {error}");
            if matches!(error, NotWritten::Io { .. }) { EXIT_UNAVAILABLE } else { EXIT_USAGE }
        }
    }
}

fn write(folder: &Path, name: &str, language: Language) -> Result<(), NotWritten> {
    let files = files_of(name, language)?;
    if folder.exists() {
        return Err(NotWritten::Exists(folder.to_owned()));
    }
    for (path, text) in files {
        let path = folder.join(path);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        made.map_err(|error| NotWritten::Io { path, error })?;
    }
    Ok(())
}

/// The files of a new project: paths and texts.
fn files_of(name: &str, language: Language) -> Result<Vec<(PathBuf, String)>, NotWritten> {
    let letter = |byte: u8| byte.is_ascii_lowercase();
    let valid = |byte: u8| letter(byte) || byte.is_ascii_digit() || byte == b'-';
    let fits = name.len() <= 64 && name.bytes().next().is_some_and(letter) && !name.ends_with('-');
    if !fits || !name.bytes().all(valid) {
        return Err(NotWritten::Name(name.to_owned()));
    }
    let parts: &[&str] = match language {
        Language::Rust => &["rust", "web"],
        Language::Js => &["js", "web", "wit"],
        Language::Python => &["python", "wit"],
    };
    let rust = workspace()?["workspace"]["package"]["rust-version"].as_str().unwrap_or_default().to_owned();
    let type_name: String = name.split('-').map(capitalised).collect();
    let fill = |text: &str| {
        let text = text.replace("{{guests}}\n", if language == Language::Rust { "" } else { FEW_GUESTS });
        let text = text.replace("{{name}}", name).replace("{{type}}", &type_name);
        text.replace("{{contract}}", CONTRACT).replace("{{rust}}", &rust)
    };
    let mut files = Vec::new();
    for (path, text) in TEMPLATES {
        if *path == "gitignore" {
            files.push((PathBuf::from(".gitignore"), (*text).to_owned()));
        }
        let Some((part, inside)) = path.split_once('/').filter(|(part, _)| parts.contains(part)) else {
            continue;
        };
        let inside = if part == "wit" { format!("wit/{inside}") } else { inside.to_owned() };
        files.push((PathBuf::from(&inside), fill(text)));
    }
    match language {
        Language::Rust => files.extend(sdk()?),
        Language::Js | Language::Python => {
            let place = PathBuf::from("wit/deps/presence-plugin/presence-plugin.wit");
            files.push((place, contract()?.to_owned()));
        }
    }
    Ok(files)
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

fn workspace() -> Result<toml::Table, NotWritten> {
    WORKSPACE.parse().map_err(|error: toml::de::Error| NotWritten::Template(error.to_string()))
}

/// The contract of this host.
fn contract() -> Result<&'static str, NotWritten> {
    let ours = format!("package presence:plugin@{CONTRACT};");
    let found = SDK.iter().find(|(path, text)| path.ends_with("presence-plugin.wit") && text.contains(&ours));
    found.map(|(_, text)| *text).ok_or_else(|| NotWritten::Template(format!("no WIT file says {ours}")))
}

/// The SDK and its macros, below `sdk/`; their manifests stand without the workspace they come from.
fn sdk() -> Result<Vec<(PathBuf, String)>, NotWritten> {
    let workspace = workspace()?;
    let mut files = Vec::new();
    for (path, text) in SDK {
        let text =
            if path.ends_with("Cargo.toml") { standalone(text, &workspace)? } else { (*text).to_owned() };
        files.push((Path::new("sdk").join(path), text));
    }
    Ok(files)
}

/// A manifest with what it inherits written out.
fn standalone(manifest: &str, workspace: &toml::Table) -> Result<String, NotWritten> {
    let broken = |reason: String| NotWritten::Template(reason);
    let mut manifest: toml::Table =
        manifest.parse().map_err(|error: toml::de::Error| broken(error.to_string()))?;
    manifest.remove("lints");
    let root = workspace.get("workspace").and_then(toml::Value::as_table);
    let root = root.ok_or_else(|| broken("no [workspace]".to_owned()))?;
    if let Some(package) = manifest.get_mut("package").and_then(toml::Value::as_table_mut) {
        inherit(package, root.get("package"));
    }
    let inherited = root.get("dependencies");
    let mut sections = vec![&mut manifest];
    while let Some(section) = sections.pop() {
        for (name, value) in section.iter_mut() {
            match value {
                toml::Value::Table(table) if name.ends_with("dependencies") => inherit(table, inherited),
                // `[target.'cfg(…)'.dependencies]`
                toml::Value::Table(table) => sections.push(table),
                _ => {}
            }
        }
    }
    toml::to_string(&manifest).map_err(|error| broken(error.to_string()))
}

/// Puts the workspace's own value where an entry says `workspace = true`, and keeps the features it adds.
fn inherit(table: &mut toml::Table, from: Option<&toml::Value>) {
    for (name, value) in table.iter_mut() {
        let inherits = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
        let Some(theirs) = from.and_then(|from| from.get(name)).filter(|_| inherits) else {
            continue;
        };
        let mut theirs = theirs.clone();
        if name == "presence-plugin-macros" {
            // Beside the SDK there, and below it here.
            theirs = toml::Value::Table(toml::Table::from_iter([("path".to_owned(), "macros".into())]));
        }
        if let (Some(features), Some(theirs)) = (value.get("features"), theirs.as_table_mut()) {
            theirs.insert("features".to_owned(), features.clone());
        }
        *value = theirs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn text<'a>(files: &'a [(PathBuf, String)], path: &str) -> &'a str {
        let found = files.iter().find(|(file, _)| file == Path::new(path));
        &found
            .unwrap_or_else(|| {
                panic!("no {path} in {:?}", files.iter().map(|(file, _)| file).collect::<Vec<_>>())
            })
            .1
    }

    const LANGUAGES: [Language; 3] = [Language::Rust, Language::Js, Language::Python];

    #[test]
    fn nothing_is_left_to_fill_in() {
        for language in LANGUAGES {
            let files = files_of("my-greeter", language).unwrap();
            for (path, text) in &files {
                assert!(!text.contains("{{"), "{}", path.display());
            }
            for needed in ["README.md", "plugin.toml", ".gitignore", "scenarios/comes.toml"] {
                assert!(!text(&files, needed).is_empty());
            }
        }
    }

    #[test]
    fn entries_and_scenarios_can_be_read() {
        for language in LANGUAGES {
            let files = files_of("greeter", language).unwrap();
            let folder = std::env::temp_dir().join(format!("presence-new-{:032x}", fastrand::u128(..)));
            write(&folder, "greeter", language).unwrap();
            let settings = config::load(&folder.join("plugin.toml"), &|_| None).unwrap();
            assert_eq!(settings.plugins[0].path, folder.join("dist/greeter.wasm"));
            for (path, _) in files.iter().filter(|(path, _)| path.starts_with("scenarios")) {
                let read = config::scenario(&folder.join(path), Path::new("x.wasm"));
                read.unwrap_or_else(|errors| panic!("{errors}"));
            }
            let again = write(&folder, "greeter", language).unwrap_err();
            assert!(matches!(again, NotWritten::Exists(_)), "{again}");
            fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn the_sdk_comes_along_and_stands_alone() {
        let files = files_of("greeter", Language::Rust).unwrap();
        let manifest: toml::Table = text(&files, "sdk/Cargo.toml").parse().unwrap();
        assert_eq!(manifest["dependencies"]["presence-plugin-macros"]["path"].as_str(), Some("macros"));
        for path in ["sdk/Cargo.toml", "sdk/macros/Cargo.toml"] {
            assert!(!text(&files, path).contains("workspace"), "{path}");
        }
        assert!(text(&files, "src/lib.rs").contains("impl Greeter"));
        assert!(!text(&files, "sdk/src/lib.rs").is_empty());
        let contract =
            text(&files_of("greeter", Language::Js).unwrap(), "wit/deps/presence-plugin/presence-plugin.wit")
                .to_owned();
        assert!(contract.contains(&format!("package presence:plugin@{CONTRACT};")));
    }

    #[test]
    fn names_that_tools_refuse_are_refused_here() {
        for name in ["", "A", "a_b", "1a", "a-", "-a", "../a", "a b"] {
            assert!(matches!(files_of(name, Language::Rust), Err(NotWritten::Name(_))), "{name}");
        }
    }
}
