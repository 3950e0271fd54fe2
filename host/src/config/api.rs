//! `[[api.key]]`: who may use the HTTP API of the admin listener, and what for.

use std::collections::BTreeSet;

use super::reader::{Found, Table};
use crate::api_keys::{ApiKey, ApiKeys, KeyDigest, Scope, Scopes};

/// The longest `name`, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// More keys than this are a list of users, which they are not for.
const MAX_KEYS: usize = 1000;

pub(super) fn read(table: &mut Table<'_, '_>) -> ApiKeys {
    let tables = table.tables("key");
    if tables.len() > MAX_KEYS {
        table.missing("key", &format!("there are {} of them; there may be {MAX_KEYS}", tables.len()));
    }
    let mut names = BTreeSet::new();
    let mut keys: Vec<ApiKey> = Vec::new();
    for mut table in tables {
        let name = read_name(&mut table, &mut names);
        let scopes = read_scopes(&mut table);
        let digest = read_digest(&mut table, &keys);
        if let (Some(name), Some(digest)) = (name, digest) {
            keys.push(ApiKey { name, scopes, digest });
        }
    }
    ApiKeys(keys)
}

fn read_name(table: &mut Table<'_, '_>, names: &mut BTreeSet<String>) -> Option<String> {
    let Some(name) = table.string("name") else {
        if !table.has("name") {
            table.missing("name", "is needed: say whose key it is, such as \"backend\"");
        }
        return None;
    };
    if !is_key_name(&name.value) {
        let message = format!(
            "must be 1 to {MAX_NAME_BYTES} letters, digits, dots, underscores and hyphens, such as \"backend\""
        );
        table.wrong(&name, &message);
    } else if !names.insert(name.value.clone()) {
        table.wrong(&name, "names another key as well");
    }
    Some(name.value)
}

/// Whether a key may be called so.
pub fn is_key_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

fn read_scopes(table: &mut Table<'_, '_>) -> Scopes {
    let is_there = table.has("scopes");
    let texts = table.strings("scopes");
    if texts.is_empty() {
        // What is there and no list of texts was told of already.
        if !is_there || table.items("scopes").is_empty() {
            table.missing(
                "scopes",
                "is needed: what the key may do, some of \"read\", \"sessions\" and \"admin\"",
            );
        }
        return Scopes::default();
    }
    let scope = |text: &Found<String>| {
        text.value
            .parse::<Scope>()
            .map_err(|bad| table.wrong(text, &format!("{bad}, not \"{}\"", text.value)))
    };
    texts.iter().filter_map(|text| scope(text).ok()).collect()
}

fn read_digest(table: &mut Table<'_, '_>, others: &[ApiKey]) -> Option<KeyDigest> {
    let Some(hash) = table.string("hash") else {
        if !table.has("hash") {
            table.missing("hash", "is needed: the line that `presence keys new` prints with the key");
        }
        return None;
    };
    match hash.value.parse::<KeyDigest>() {
        Ok(digest) => {
            if let Some(other) = others.iter().find(|other| other.digest == digest) {
                table.wrong(
                    &hash,
                    &format!("is that of the key `{}` as well: each has a key of its own", other.name),
                );
            }
            Some(digest)
        }
        Err(bad) => {
            table.wrong(&hash, &bad.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::api_keys::{ApiKeys, KeyDigest, Scope, new_key};
    use crate::config::parse;
    use crate::settings::Settings;

    fn settings(text: &str) -> Result<Settings, Vec<String>> {
        let env = |name: &str| (name == "HASH").then(|| KeyDigest::of("pk_x").to_string());
        parse(text, Path::new("presence.toml"), &env).map_err(|errors| errors.lines())
    }

    fn keys(text: &str) -> Result<ApiKeys, Vec<String>> {
        settings(text).map(|settings| settings.api)
    }

    #[test]
    fn a_key_has_a_name_scopes_and_a_hash() {
        assert!(keys("").unwrap().is_empty());
        let read =
            keys("[[api.key]]\nname = \"backend\"\nscopes = [\"sessions\", \"read\"]\nhash = \"${HASH}\"")
                .unwrap();
        let key = read.find("pk_x").unwrap();
        assert_eq!((key.name.as_str(), key.scopes.names()), ("backend", vec!["read", "sessions"]));
        assert!(key.scopes.allow(Scope::Read) && !key.scopes.allow(Scope::Admin));
    }

    #[test]
    fn mistakes_are_told_and_no_key_is_repeated() {
        let (key, digest) = (new_key().unwrap(), KeyDigest::of("pk_x"));
        let text = format!(
            "[[api.key]]\nname = \"a b\"\nscopes = [\"write\", \"read\"]\nhash = \"{digest}\"\n\
             [[api.key]]\nname = \"c\"\nscopes = []\nhash = \"{key}\"\n\
             [[api.key]]\nname = \"c\"\nscopes = [\"admin\"]\nhash = \"{digest}\"\n[[api.key]]\nscopes = \"read\"\n"
        );
        let told = keys(&text).unwrap_err();
        let expected = [
            "presence.toml:2: api.key.name: must be 1 to 64 letters, digits, dots, underscores and hyphens, such as \"backend\"",
            "presence.toml:3: api.key.scopes[0]: must be \"read\", \"sessions\" or \"admin\", not \"write\"",
            "presence.toml:5: api.key.scopes: is needed: what the key may do, some of \"read\", \"sessions\" and \"admin\"",
            "presence.toml:8: api.key.hash: is a key, and only its hash belongs here: take the line that `presence keys new` \
             prints, and make a new key, since this one has been seen",
            "presence.toml:10: api.key.name: names another key as well",
            "presence.toml:12: api.key.hash: is that of the key `a b` as well: each has a key of its own",
            "presence.toml:13: api.key.hash: is needed: the line that `presence keys new` prints with the key",
            "presence.toml:13: api.key.name: is needed: say whose key it is, such as \"backend\"",
            "presence.toml:14: api.key.scopes: must be a list in [ ], not string",
        ];
        for line in expected {
            assert!(told.iter().any(|found| found == line), "{line}\nin {told:#?}");
        }
        assert!(!told.join("\n").contains(&key), "{told:?}");
    }

    #[test]
    fn without_keys_the_admin_listener_is_for_this_machine() {
        let text = |lines: &str| {
            format!(
                "[host]\nadmin = \"0.0.0.0:7071\"\n[auth]\nmode = \"jwt\"\n[[auth.key]]\nalgorithm = \"HS256\"\n\
                 secret = \"0123456789abcdef0123456789abcdef\"\n{lines}"
            )
        };
        let told = settings(&text("")).unwrap_err();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("presence.toml:2: host.admin: is 0.0.0.0:7071, and there is no [[api.key]]"),
            "{told:?}"
        );
        assert!(told[0].contains("presence keys new") && told[0].contains("127.0.0.1:7071"), "{told:?}");
        let key = "[[api.key]]\nname = \"a\"\nscopes = [\"admin\"]\nhash = \"${HASH}\"";
        assert!(settings(&text(key)).is_ok());
    }
}
