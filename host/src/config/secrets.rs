//! `secrets` of a `[[plugin]]`: texts from files or variables that are given to `configure` with the rest of `config`;
//! and files that hold any secret. Knows not what they are for; no error tells a value.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;

use super::reader::{Found, Table};
use crate::settings::Secrets;

/// The largest file, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 10;

/// Adds the secrets to `config` and returns what must never be told: they, and what variables brought into `config`.
pub(super) fn merge(
    table: &mut Table<'_, '_>,
    folder: &Path,
    config: &mut Value,
    variables: Vec<String>,
) -> Secrets {
    let mut secrets = Secrets { values: variables, warnings: Vec::new() };
    let mut inside = table.table("secrets");
    let names = inside.names();
    let Some(config) = config.as_object_mut() else {
        if !names.is_empty() {
            table.missing("secrets", "needs a `config` that is a table: secrets become keys of it");
        }
        names.iter().for_each(|name| _ = inside.any(name));
        return secrets;
    };
    for name in names {
        let Some((written, found)) = inside.written(&name) else { continue };
        if config.contains_key(&name) {
            inside.wrong(&found, &format!("is in `config` as well, under \"{name}\": leave one of them"));
        }
        if let Some(value) = read(&inside, written, &found, folder, &mut secrets.warnings) {
            config.insert(name, Value::String(value.clone()));
            secrets.values.push(value);
        }
    }
    secrets
}

fn read(
    table: &Table<'_, '_>,
    written: &str,
    found: &Found<String>,
    folder: &Path,
    warnings: &mut Vec<String>,
) -> Option<String> {
    let value = match (written.strip_prefix("file:"), found.value.strip_prefix("file:")) {
        (Some(_), Some(path)) => read_file(table, found, &folder.join(path), warnings)?,
        _ if written.contains("${") => found.value.clone(),
        _ => {
            table.wrong(
                found,
                "must be \"file:PATH\" or hold a \"${VARIABLE}\": a secret has no place in this file",
            );
            return None;
        }
    };
    if value.is_empty() {
        table.wrong(found, "is empty: a secret has at least one character");
        return None;
    }
    Some(value)
}

fn read_file(
    table: &Table<'_, '_>,
    found: &Found<String>,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Option<String> {
    let text = String::from_utf8(read_bytes(table, found, path, warnings)?);
    if text.is_err() {
        let shown = path.display();
        table.wrong(
            found,
            &format!("{shown} is not UTF-8 text: `configure` is given text, so encode it, as base64 say"),
        );
    }
    text.ok()
}

/// What is in a file that holds a secret, without the end of its last line.
pub(super) fn read_bytes(
    table: &Table<'_, '_>,
    found: &Found<String>,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Option<Vec<u8>> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        if metadata.is_file() {
            file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        }
        Ok(metadata)
    });
    let metadata = match opened {
        Ok(metadata) => metadata,
        Err(error) => {
            let message =
                format!("{shown} can't be read ({error}): put the secret there, readable for this user");
            table.wrong(found, &message);
            return None;
        }
    };
    if !metadata.is_file() {
        table.wrong(found, &format!("{shown} is not a file: name the file that holds the secret"));
        return None;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("{shown} has {} bytes; a secret has at most {MAX_FILE_BYTES}", metadata.size());
        table.wrong(found, &message);
        return None;
    }
    if metadata.permissions().mode() & 0o004 != 0 {
        warnings.push(format!("{}: everybody on this machine may read {shown}: `chmod o-r` it", found.key));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use crate::config::parse;
    use crate::plugins::testing::Folder;
    use crate::settings::PluginSettings;

    /// What is said of a plugin with these lines; the secret files are in the folder.
    fn check(folder: &Folder, lines: &str) -> Result<PluginSettings, Vec<String>> {
        let text = format!("[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\n{lines}\n");
        let env = |name: &str| match name {
            "TOKEN" => Some("from-the-environment".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        match parse(&text, &folder.path().join("presence.toml"), &env) {
            Ok(mut settings) => Ok(settings.plugins.remove(0)),
            Err(errors) => Err(errors
                .errors
                .iter()
                .map(|error| format!("{}: {}: {}", error.line, error.key, error.message))
                .collect()),
        }
    }

    fn secret(folder: &Folder, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = folder.write(name, content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn secrets_become_keys_of_config() {
        let folder = Folder::new();
        secret(&folder, "one", "the first\nand more\n\n", 0o600);
        let path = secret(&folder, "two", "second\r\n", 0o600);
        let lines = format!(
            "config = {{ url = \"http://a\" }}\nsecrets = {{ one = \"file:one\", two = \"file:{}\", three = \"Bearer ${{TOKEN}}\" }}",
            path.display()
        );
        let plugin = check(&folder, &lines).unwrap();
        assert_eq!(
            plugin.config,
            r#"{"one":"the first\nand more\n","three":"Bearer from-the-environment","two":"second","url":"http://a"}"#
        );
        assert_eq!(plugin.secrets.values.len(), 3);
        assert_eq!(plugin.secrets.warnings, [""; 0]);
        let shown = format!("{plugin:?}");
        assert!(
            !shown.contains("first") && !shown.contains("from-the") && !shown.contains("second"),
            "{shown}"
        );
    }

    #[test]
    fn what_variables_bring_into_config_is_known_and_no_default_is() {
        let folder = Folder::new();
        let lines = "config = { deep = { list = [\"x ${TOKEN}\", \"${NONE:-default}\"] } }";
        let plugin = check(&folder, lines).unwrap();
        assert_eq!(plugin.config, r#"{"deep":{"list":["x from-the-environment","default"]}}"#);
        assert_eq!(plugin.secrets.values, ["from-the-environment"]);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_no_value() {
        let folder = Folder::new();
        secret(&folder, "large", vec![b'x'; (64 << 10) + 1], 0o600);
        secret(&folder, "binary", b"\xff\xfe", 0o600);
        secret(&folder, "empty", "\n", 0o600);
        secret(&folder, "both", "the secret", 0o600);
        let lines = "config = { both = 1 }\n[plugin.secrets]\nmissing = \"file:none\"\nlarge = \"file:large\"\n\
                     binary = \"file:binary\"\nempty = \"file:empty\"\nboth = \"file:both\"\nplain = \"hunter2\"\n\
                     nothing = \"${EMPTY}\"\nunset = \"${UNSET}\"\nnumber = 5\nfolder = \"file:.\"\n[plugin.limits]\nlog = \"${TOKEN}\"";
        let found = check(&folder, lines).unwrap_err();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let expected = [
            format!("6: plugin.secrets.missing: {} can't be read (No such file or directory (os error 2)): put the secret there, readable for this user", at("none")),
            format!("7: plugin.secrets.large: {} has 65537 bytes; a secret has at most 65536", at("large")),
            format!("8: plugin.secrets.binary: {} is not UTF-8 text: `configure` is given text, so encode it, as base64 say", at("binary")),
            "9: plugin.secrets.empty: is empty: a secret has at least one character".to_owned(),
            "10: plugin.secrets.both: is in `config` as well, under \"both\": leave one of them".to_owned(),
            "11: plugin.secrets.plain: must be \"file:PATH\" or hold a \"${VARIABLE}\": a secret has no place in this file".to_owned(),
            "12: plugin.secrets.nothing: is empty: a secret has at least one character".to_owned(),
            "13: plugin.secrets.unset: needs the environment variable UNSET, which is not set; or write ${UNSET:-default}".to_owned(),
            "14: plugin.secrets.number: must be a text in quotes, not integer".to_owned(),
            format!("15: plugin.secrets.folder: {} is not a file: name the file that holds the secret", at(".")),
            "17: plugin.limits.log: \"${TOKEN}\" is not a size; write for example \"64KiB\" or \"32MiB\"".to_owned(),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_for_everybody_is_warned_of() {
        let folder = Folder::new();
        let path = secret(&folder, "open", "s3cret", 0o644);
        let plugin = check(&folder, "secrets = { token = \"file:open\" }").unwrap();
        let expected = format!(
            "plugin.secrets.token: everybody on this machine may read {}: `chmod o-r` it",
            path.display()
        );
        assert_eq!(plugin.secrets.warnings, [expected]);
    }

    #[test]
    fn secrets_need_a_table_to_be_put_into() {
        let folder = Folder::new();
        let found = check(&folder, "config = 5\nsecrets = { token = \"file:none\" }").unwrap_err();
        assert_eq!(found, ["1: plugin.secrets: needs a `config` that is a table: secrets become keys of it"]);
    }
}
