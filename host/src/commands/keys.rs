//! `presence keys new`: makes a key of the HTTP API. It is printed once; what presence.toml gets can't be turned back into it.

use std::io::Write;

use crate::api_keys::{KeyDigest, Scope, Scopes, new_key};
use crate::config::is_key_name;

use super::{EXIT_UNAVAILABLE, EXIT_USAGE};

pub(super) fn new(name: &str, scopes: Vec<Scope>, json: bool) -> u8 {
    if !is_key_name(name) {
        eprintln!("presence: --name {name:?}: take 1 to 64 letters, digits, dots, underscores and hyphens");
        return EXIT_USAGE;
    }
    let key = match new_key() {
        Ok(key) => key,
        Err(error) => {
            eprintln!("presence: {error}");
            return EXIT_UNAVAILABLE;
        }
    };
    let scopes = scopes.into_iter().collect();
    let text = if json { as_json(name, &scopes, &key) } else { as_text(name, &scopes, &key) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("presence: the key can't be printed: {error}");
            EXIT_UNAVAILABLE
        }
    }
}

fn as_text(name: &str, scopes: &Scopes, key: &str) -> String {
    format!(
        "{key}\n\nThis is the key, shown this once: give it to {name}, which sends it as `Authorization: Bearer pk_…`.\n\
         presence.toml gets its hash, and `presence reload` takes it over:\n\n{}",
        section(name, scopes, key)
    )
}

/// The lines for presence.toml.
fn section(name: &str, scopes: &Scopes, key: &str) -> String {
    let scopes = scopes.names().join("\", \"");
    format!("[[api.key]]\nname = \"{name}\"\nscopes = [\"{scopes}\"]\nhash = \"{}\"\n", KeyDigest::of(key))
}

fn as_json(name: &str, scopes: &Scopes, key: &str) -> String {
    let hash = KeyDigest::of(key).to_string();
    format!("{:#}\n", serde_json::json!({"name": name, "scopes": scopes.names(), "key": key, "hash": hash}))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_printed_lets_the_key_in() {
        let key = new_key().unwrap();
        let scopes: Scopes = [Scope::Sessions, Scope::Read].into_iter().collect();
        let text = as_text("chat-1.eu", &scopes, &key);
        assert_eq!(text.matches(&key).count(), 1, "{text}");
        let lines = &text[text.find("[[api.key]]").unwrap()..];
        let settings = crate::config::parse(lines, Path::new("presence.toml"), &|_: &str| None).unwrap();
        let found = settings.api.find(&key).unwrap();
        assert_eq!((found.name.as_str(), &found.scopes), ("chat-1.eu", &scopes));
        let json: serde_json::Value = serde_json::from_str(&as_json("a", &scopes, &key)).unwrap();
        assert_eq!(
            (&json["key"], &json["hash"]),
            (&key.clone().into(), &KeyDigest::of(&key).to_string().into())
        );
    }
}
