//! `[auth]`: who users are, and whom they may watch.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use super::path_of;
use super::reader::Table;
use crate::settings::{AuthKey, AuthMode, AuthSettings, HostSettings, KeyAlgorithm, WatchPolicy};

/// HMAC with SHA-256 wants a secret at least as long as its output (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

pub(super) fn read(table: &mut Table<'_, '_>, host: &HostSettings, folder: &Path) -> AuthSettings {
    let mode = table.string("mode");
    let watch = table.string("watch");
    let issuer = table.string("issuer");
    let audience = table.string("audience");
    let query_token = table.boolean("query_token", false);
    let key_tables = table.tables("key");
    let has_keys = !key_tables.is_empty();
    let keys = read_keys(key_tables, folder);
    let is_jwt = mode.as_ref().is_some_and(|mode| mode.value == "jwt");
    if let Some(mode) = mode.filter(|mode| mode.value != "none" && mode.value != "jwt") {
        table.wrong(&mode, &format!("must be \"none\" (loopback only) or \"jwt\", not \"{}\"", mode.value));
    } else if is_jwt {
        if !has_keys {
            table.missing("key", "is needed with auth.mode = \"jwt\": add at least one [[auth.key]]");
        }
    } else {
        for found in [&issuer, &audience].into_iter().flatten() {
            table.wrong(found, "means something with auth.mode = \"jwt\" only, and it is \"none\"");
        }
        if has_keys {
            table.missing("key", "means something with auth.mode = \"jwt\" only, and it is \"none\"");
        }
        refuse_public(table, host);
    }
    let policy = match watch.as_ref().map(|watch| watch.value.as_str()) {
        None if is_jwt => WatchPolicy::Own,
        None | Some("anyone") => WatchPolicy::Anyone,
        Some("self") => WatchPolicy::Own,
        Some("claims") if is_jwt => WatchPolicy::Claims,
        Some("claims") => {
            wrong_watch(
                table,
                watch.as_ref(),
                "can't be \"claims\" with auth.mode = \"none\": there is no token",
            );
            WatchPolicy::Own
        }
        Some(_) => {
            wrong_watch(table, watch.as_ref(), "must be \"self\", \"anyone\" or \"claims\"");
            WatchPolicy::Own
        }
    };
    let mode = match is_jwt {
        true => AuthMode::Jwt {
            issuer: issuer.map(|found| found.value),
            audience: audience.map(|found| found.value),
            keys,
        },
        false => AuthMode::None,
    };
    AuthSettings { mode, watch: policy, query_token }
}

fn wrong_watch(table: &Table<'_, '_>, watch: Option<&super::Found<String>>, message: &str) {
    if let Some(watch) = watch {
        table.wrong(watch, message);
    }
}

/// Without authentication anyone who reaches a listener is anybody.
fn refuse_public(table: &Table<'_, '_>, host: &HostSettings) {
    let listeners: [(&str, SocketAddr); 2] = [("host.listen", host.listen), ("host.admin", host.admin)];
    for (name, address) in listeners {
        if !address.ip().is_loopback() {
            let message = format!(
                "is \"none\" and {name} is {address}: without authentication both listeners must be loopback, such as \
                 127.0.0.1; or set auth.mode = \"jwt\""
            );
            table.missing("mode", &message);
        }
    }
}

fn read_keys(tables: Vec<Table<'_, '_>>, folder: &Path) -> Vec<AuthKey> {
    let count = tables.len();
    let mut keys = Vec::new();
    let mut ids = BTreeSet::new();
    for mut table in tables {
        let id = table.string("id");
        match &id {
            None if count > 1 => {
                table.missing("id", "is needed with more than one key: the token's `kid` names it")
            }
            Some(id) if !ids.insert(id.value.clone()) => table.wrong(id, "names another key as well"),
            _ => {}
        }
        let secret = table.string("secret");
        let file = table.string("public_key_file");
        let Some(algorithm) = table.string("algorithm") else {
            table.missing("algorithm", "is needed: \"HS256\" or \"EdDSA\"");
            continue;
        };
        let material = match algorithm.value.as_str() {
            "HS256" => {
                if let Some(file) = &file {
                    table.wrong(file, "is for \"EdDSA\"; \"HS256\" has a `secret`");
                }
                match secret {
                    None => {
                        // One that is there and wrong was told of already.
                        if table.any("secret").is_none() {
                            table.missing("secret", "is needed with \"HS256\"");
                        }
                        None
                    }
                    Some(secret) if secret.value.len() < MIN_SECRET_BYTES => {
                        let message = format!(
                            "has {} bytes; \"HS256\" needs at least {MIN_SECRET_BYTES} that nobody can guess",
                            secret.value.len()
                        );
                        table.wrong(&secret, &message);
                        None
                    }
                    Some(secret) => Some((KeyAlgorithm::Hs256, secret.value.into_bytes())),
                }
            }
            "EdDSA" => {
                if let Some(secret) = &secret {
                    table.wrong(secret, "is for \"HS256\"; \"EdDSA\" has a `public_key_file`");
                }
                read_public_key(&table, file, folder).map(|bytes| (KeyAlgorithm::EdDsa, bytes))
            }
            _ => {
                table.wrong(&algorithm, "must be \"HS256\" or \"EdDSA\"");
                None
            }
        };
        if let Some((algorithm, material)) = material {
            keys.push(AuthKey { id: id.map(|id| id.value), algorithm, material: material.into() });
        }
    }
    keys
}

fn read_public_key(
    table: &Table<'_, '_>,
    file: Option<super::Found<String>>,
    folder: &Path,
) -> Option<Vec<u8>> {
    let Some(file) = file else {
        table.missing("public_key_file", "is needed with \"EdDSA\": a PEM file");
        return None;
    };
    let path = path_of(folder, &file);
    match std::fs::read(&path) {
        Err(error) => table.wrong(&file, &format!("{} can't be read: {error}", path.display())),
        Ok(bytes) if jsonwebtoken::DecodingKey::from_ed_pem(&bytes).is_err() => {
            let message = format!(
                "{} holds no Ed25519 public key in PEM form (`-----BEGIN PUBLIC KEY-----`)",
                path.display()
            );
            table.wrong(&file, &message);
        }
        Ok(bytes) => return Some(bytes),
    }
    None
}
