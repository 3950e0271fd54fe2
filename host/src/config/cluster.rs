//! `[cluster]`: the store, and how to reach it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::path_of;
use super::reader::{Found, Table};
use crate::settings::{ClusterSettings, NatsAuth, NatsSettings, NatsTls, StoreKind};

/// Keys that only mean something with a store that hosts share.
const NATS_KEYS: &[&str] = &[
    "urls",
    "credentials_file",
    "nkey_file",
    "token",
    "user",
    "password",
    "tls_ca_file",
    "tls_cert_file",
    "tls_key_file",
    "prefix",
    "replicas",
];

pub(super) fn read(table: &mut Table<'_, '_>, folder: &Path) -> ClusterSettings {
    let instance_ttl = table.duration("instance_ttl", Duration::from_secs(6));
    if instance_ttl.value < Duration::from_secs(3) {
        table.wrong(&instance_ttl, "must be at least \"3s\": a third of it is the time for a renewal");
    }
    let store = match table.string("store") {
        Some(store) if store.value == "nats" => read_nats(table, folder, instance_ttl.value),
        Some(store) if store.value != "memory" => {
            let message = format!("must be \"memory\" (one host) or \"nats\", not \"{}\"", store.value);
            table.wrong(&store, &message);
            refuse_nats_keys(table);
            StoreKind::Memory
        }
        _ => {
            refuse_nats_keys(table);
            StoreKind::Memory
        }
    };
    ClusterSettings {
        store,
        partitions: table.integer("partitions", 64, 1..=1024) as u16,
        leaves: table.integer("leaves", 16, 1..=256) as u16,
        instance_ttl: instance_ttl.value,
        handover_timeout: table.duration("handover_timeout", Duration::from_secs(10)).value,
    }
}

fn refuse_nats_keys(table: &mut Table<'_, '_>) {
    for key in NATS_KEYS {
        if let Some(found) = table.any(key) {
            table.wrong(&found, "means something with store = \"nats\" only");
        }
    }
}

fn read_nats(table: &mut Table<'_, '_>, folder: &Path, instance_ttl: Duration) -> StoreKind {
    let urls = read_urls(table);
    let auth = read_auth(table, folder);
    let tls = read_tls(table, folder);
    let prefix = match table.string("prefix") {
        Some(prefix) => {
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if !(1..=32).contains(&prefix.value.len()) || !prefix.value.bytes().all(valid) {
                table.wrong(&prefix, "must be 1 to 32 letters, digits, `-` or `_`, such as \"presence\"");
            }
            prefix.value
        }
        None => "presence".to_owned(),
    };
    let replicas = table.integer("replicas", 1, 1..=5) as u8;
    StoreKind::Nats(NatsSettings { urls, auth, tls, prefix, replicas, instance_ttl })
}

fn read_urls(table: &mut Table<'_, '_>) -> Vec<String> {
    const WANTED: &str = "write for example urls = [\"nats://127.0.0.1:4222\"]";
    match table.any("urls") {
        None => table.missing("urls", &format!("is needed with store = \"nats\"; {WANTED}")),
        Some(found) if found.value.as_array().is_some_and(|urls| urls.is_empty()) => {
            table.wrong(&found, &format!("must name at least one server; {WANTED}"));
        }
        Some(_) => {}
    }
    let mut urls = Vec::new();
    for url in table.strings("urls") {
        match check_url(&url.value) {
            Ok(()) => urls.push(url.value),
            Err(why) => table.wrong(&url, why),
        }
    }
    urls
}

/// The error must not show the URL: somebody may have written a password into it.
fn check_url(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
    let rest = rest.ok_or("must begin with nats:// or tls://, such as \"nats://127.0.0.1:4222\"")?;
    if rest.contains('@') {
        return Err("must not hold a user or password: there are the keys `user` and `password`, or `token`");
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let parsed = authority.parse::<http::uri::Authority>().ok();
    if parsed.is_none_or(|parsed| parsed.host().is_empty()) {
        return Err("must name a host and perhaps a port, such as \"nats://127.0.0.1:4222\"");
    }
    Ok(())
}

fn read_auth(table: &mut Table<'_, '_>, folder: &Path) -> NatsAuth {
    let credentials = readable(table, "credentials_file", folder);
    let nkey = readable(table, "nkey_file", folder);
    let token = table.string("token");
    let user = table.string("user");
    let password = table.string("password");
    match (&user, &password) {
        (Some(user), None) if table.any("password").is_none() => {
            table.wrong(user, "needs a `password` beside it");
        }
        (None, Some(password)) if table.any("user").is_none() => {
            table.wrong(password, "needs a `user` beside it");
        }
        _ => {}
    }
    let ways = ["credentials_file", "nkey_file", "token", "user"];
    let given: Vec<&str> = ways.into_iter().filter(|key| table.any(key).is_some()).collect();
    if let [first, others @ ..] = &given[..] {
        for other in others {
            if let Some(found) = table.any(other) {
                table
                    .wrong(&found, &format!("is a second way to log in beside `{first}`: leave one of them"));
            }
        }
    }
    match (credentials, nkey, token, user.zip(password)) {
        (Some(path), ..) => NatsAuth::Credentials(path),
        (_, Some(path), ..) => NatsAuth::Nkey(path),
        (_, _, Some(token), _) => NatsAuth::Token(token.value),
        (_, _, _, Some((user, password))) => NatsAuth::User { user: user.value, password: password.value },
        _ => NatsAuth::None,
    }
}

fn read_tls(table: &mut Table<'_, '_>, folder: &Path) -> NatsTls {
    let ca_file = readable(table, "tls_ca_file", folder);
    let certificate = readable(table, "tls_cert_file", folder);
    let key = readable(table, "tls_key_file", folder);
    for (one, other) in [("tls_cert_file", "tls_key_file"), ("tls_key_file", "tls_cert_file")] {
        if let (Some(found), None) = (table.any(one), table.any(other)) {
            table.wrong(&found, &format!("needs `{other}` beside it"));
        }
    }
    NatsTls { ca_file, client: certificate.zip(key) }
}

/// The absolute path of a file that can be read.
fn readable(table: &mut Table<'_, '_>, key: &str, folder: &Path) -> Option<PathBuf> {
    let found: Found<String> = table.string(key)?;
    let path = path_of(folder, &found);
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => table.wrong(&found, &format!("{} is not a file", path.display())),
        Err(error) => table.wrong(&found, &format!("{} can't be read: {error}", path.display())),
    }
    Some(path)
}
