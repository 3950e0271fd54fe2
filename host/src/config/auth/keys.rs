//! `[[auth.key]]`: a secret or a public key, in the file itself or beside it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::super::reader::Table;
use super::super::{Found, path_of, secrets};
use crate::settings::AuthKey;
use crate::tokens::{Algorithm, BadKey, Key};

/// The longest `id`, in bytes.
const MAX_ID_BYTES: usize = 256;

/// The largest PEM file, in bytes.
const MAX_PEM_BYTES: u64 = 64 << 10;

const ALGORITHMS: &str = "\"HS256\", \"RS256\", \"ES256\" or \"EdDSA\"";

pub(super) fn read(
    tables: Vec<Table<'_, '_>>,
    folder: &Path,
    has_set: bool,
    warnings: &mut Vec<String>,
) -> Vec<AuthKey> {
    let count = tables.len();
    let mut keys = Vec::new();
    let mut ids = BTreeSet::new();
    for mut table in tables {
        let id = table.string("id");
        match &id {
            None if count > 1 => {
                table.missing("id", "is needed with more than one key: the token's `kid` names it")
            }
            None if has_set => {
                table.missing("id", "is needed beside [auth.jwks]: the token's `kid` names the key")
            }
            Some(id) if id.value.is_empty() || id.value.len() > MAX_ID_BYTES => {
                table.wrong(id, &format!("is a text of 1 to {MAX_ID_BYTES} bytes"));
            }
            Some(id) if !ids.insert(id.value.clone()) => table.wrong(id, "names another key as well"),
            _ => {}
        }
        if let Some(key) = read_key(&mut table, folder, warnings) {
            keys.push(AuthKey { id: id.map(|id| id.value), key });
        }
    }
    keys
}

fn read_key(table: &mut Table<'_, '_>, folder: &Path, warnings: &mut Vec<String>) -> Option<Key> {
    let material = Material {
        secret: table.string("secret"),
        secret_file: table.string("secret_file"),
        public_key: table.string("public_key"),
        public_key_file: table.string("public_key_file"),
    };
    let Some(algorithm) = table.string("algorithm") else {
        table.missing("algorithm", &format!("is needed: {ALGORITHMS}"));
        return None;
    };
    match Algorithm::ALL.into_iter().find(|known| known.as_str() == algorithm.value) {
        None => {
            table.wrong(&algorithm, &format!("must be {ALGORITHMS}"));
            None
        }
        Some(Algorithm::Hs256) => material.secret(table, folder, warnings),
        Some(algorithm) => material.public(table, algorithm, folder),
    }
}

/// What a key is made of: one of these.
struct Material {
    secret: Option<Found<String>>,
    secret_file: Option<Found<String>>,
    public_key: Option<Found<String>>,
    public_key_file: Option<Found<String>>,
}

impl Material {
    fn secret(self, table: &mut Table<'_, '_>, folder: &Path, warnings: &mut Vec<String>) -> Option<Key> {
        for found in [&self.public_key, &self.public_key_file].into_iter().flatten() {
            table.wrong(found, "is for the other algorithms; \"HS256\" has a `secret` or a `secret_file`");
        }
        match (self.secret, self.secret_file) {
            (Some(secret), None) => told(table, &secret, "", Key::from_secret(secret.value.as_bytes())),
            (None, Some(file)) => {
                let path = path_of(folder, &file);
                let secret = secrets::read_bytes(table, &file, &path, warnings)?;
                told(table, &file, &format!("{} ", path.display()), Key::from_secret(&secret))
            }
            (Some(_), Some(file)) => {
                table.wrong(&file, "is given beside `secret`: leave one of them");
                None
            }
            (None, None) => {
                // One that is there and wrong was told of already.
                if !table.has("secret") && !table.has("secret_file") {
                    table.missing("secret", "is needed with \"HS256\", or `secret_file`");
                }
                None
            }
        }
    }

    fn public(self, table: &mut Table<'_, '_>, algorithm: Algorithm, folder: &Path) -> Option<Key> {
        let name = algorithm.as_str();
        for found in [&self.secret, &self.secret_file].into_iter().flatten() {
            let message = format!("is for \"HS256\"; \"{name}\" has a `public_key_file` or a `public_key`");
            table.wrong(found, &message);
        }
        match (self.public_key, self.public_key_file) {
            (Some(pem), None) => told(table, &pem, "", Key::from_pem(algorithm, pem.value.as_bytes())),
            (None, Some(file)) => {
                let path = path_of(folder, &file);
                match read_bounded(&path, MAX_PEM_BYTES) {
                    Ok(pem) => {
                        told(table, &file, &format!("{} ", path.display()), Key::from_pem(algorithm, &pem))
                    }
                    Err(error) => {
                        table.wrong(&file, &format!("{} can't be read: {error}", path.display()));
                        None
                    }
                }
            }
            (Some(_), Some(file)) => {
                table.wrong(&file, "is given beside `public_key`: leave one of them");
                None
            }
            (None, None) => {
                if !table.has("public_key") && !table.has("public_key_file") {
                    let message = format!("is needed with \"{name}\": a PEM file; or `public_key`, its text");
                    table.missing("public_key_file", &message);
                }
                None
            }
        }
    }
}

fn told(table: &Table<'_, '_>, found: &Found<String>, what: &str, key: Result<Key, BadKey>) -> Option<Key> {
    key.map_err(|bad| table.wrong(found, &format!("{what}{bad}"))).ok()
}

/// A file that is not larger than it may be.
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}
