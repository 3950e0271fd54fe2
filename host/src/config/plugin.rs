//! `[[plugin]]`: files, grants, limits, delivery.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::reader::Table;
use super::{longest_deadline, path_of, secrets};
use crate::settings::{
    ClusterSettings, DeliverySettings, Grants, HttpGrant, Initial, Limits, PluginSettings,
};

pub(super) fn read(
    tables: Vec<Table<'_, '_>>,
    folder: &Path,
    cluster: &ClusterSettings,
) -> Vec<PluginSettings> {
    let mut names = BTreeSet::new();
    tables.into_iter().filter_map(|mut table| read_plugin(&mut table, &mut names, folder, cluster)).collect()
}

pub(super) fn is_plugin_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|byte| word(byte) || b"-_.".contains(&byte))
}

fn read_plugin(
    table: &mut Table<'_, '_>,
    names: &mut BTreeSet<String>,
    folder: &Path,
    cluster: &ClusterSettings,
) -> Option<PluginSettings> {
    let name = table.string("name");
    match &name {
        None => table.missing("name", "is needed: it names the plugin in logs, metrics and checkpoints"),
        Some(name) if !is_plugin_name(&name.value) => {
            table.wrong(name, "must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`, and begin with a letter or digit");
        }
        Some(name) if !names.insert(name.value.clone()) => {
            table.wrong(name, &format!("\"{}\" is another plugin's name as well", name.value));
        }
        Some(_) => {}
    }
    let path = table.string("path");
    if path.is_none() {
        table.missing("path", "is needed: the plugin's .wasm file");
    }
    let (mut config, variables) =
        table.json_and_variables("config").unwrap_or_else(|| (serde_json::json!({}), Vec::new()));
    let secrets = secrets::merge(table, folder, &mut config, variables);
    let sha256 = read_digest(table);
    let initial = match table.string("initial") {
        Some(found) if found.value == "none" => Initial::Nothing,
        Some(found) if found.value != "current" => {
            table.wrong(&found, "must be \"current\" or \"none\"");
            Initial::Current
        }
        _ => Initial::Current,
    };
    let interval = read_interval(table);
    let grants = read_grants(&mut table.table("grants"), cluster);
    let limits = read_limits(&mut table.table("limits"), cluster);
    let delivery = read_delivery(&mut table.table("delivery"));
    Some(PluginSettings {
        name: name?.value,
        path: path_of(folder, &path?),
        config: config.to_string(),
        secrets,
        sha256,
        initial,
        interval,
        grants,
        limits,
        delivery,
    })
}

/// None: the file does not say.
fn read_interval(table: &mut Table<'_, '_>) -> Option<Duration> {
    table.any("interval")?;
    let interval = table.duration("interval", PluginSettings::INTERVAL);
    if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&interval.value) {
        table.wrong(&interval, "must be from \"1s\" to \"1d\"");
    }
    Some(interval.value)
}

/// The SHA-256 that the file must have, in small letters.
fn read_digest(table: &mut Table<'_, '_>) -> Option<String> {
    let found = table.string("sha256")?;
    if found.value.len() != 64 || !found.value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        table.wrong(
            &found,
            "must be a SHA-256, 64 hexadecimal digits: `sha256sum` of the plugin's file prints it",
        );
        return None;
    }
    Some(found.value.to_ascii_lowercase())
}

pub(super) fn read_grants(table: &mut Table<'_, '_>, cluster: &ClusterSettings) -> Grants {
    let mut http: Vec<HttpGrant> = Vec::new();
    for item in table.items("http") {
        if let Some(mut inner) = table.item_table(&item) {
            http.extend(read_origin_table(&mut inner));
        } else if let Some(found) = table.item_text(&item) {
            match parse_origin(&found.value) {
                Ok(grant) => http.push(grant),
                Err(message) => table.wrong(&found, &message),
            }
        }
    }
    let mut seen = BTreeSet::new();
    for grant in &http {
        if !seen.insert((grant.scheme.clone(), grant.host.clone(), grant.port)) {
            let message = format!("grants {}://{}:{} twice", grant.scheme, grant.host, grant.port);
            table.missing("http", &message);
        }
    }
    let mut keyvalue = Vec::new();
    for bucket in table.strings("keyvalue") {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if bucket.value.is_empty() || bucket.value.len() > 64 || !bucket.value.bytes().all(valid) {
            table.wrong(&bucket, "must be 1 to 64 letters, digits, `-` or `_`");
        } else if keyvalue.contains(&bucket.value) {
            table.wrong(&bucket, &format!("grants \"{}\" twice", bucket.value));
        } else {
            keyvalue.push(bucket.value);
        }
    }
    let messaging = super::messaging::read(table, cluster);
    let presence = table.boolean("presence", false);
    Grants { http, keyvalue, messaging, presence }
}

fn read_origin_table(table: &mut Table<'_, '_>) -> Option<HttpGrant> {
    let origin = table.string("origin");
    let addresses = table.strings("addresses");
    let mut nets = Vec::new();
    for address in addresses {
        let net = address.value.parse().or_else(|_| address.value.parse::<IpAddr>().map(ipnet::IpNet::from));
        match net {
            Ok(net) => nets.push(net),
            Err(_) => table.wrong(&address, "must be an address or a range such as \"10.0.0.0/8\""),
        }
    }
    let Some(origin) = origin else {
        table.missing("origin", "is needed, such as \"https://api.example.com\"");
        return None;
    };
    match parse_origin(&origin.value) {
        Ok(mut grant) => {
            grant.addresses.extend(nets);
            Some(grant)
        }
        Err(message) => {
            table.wrong(&origin, &message);
            None
        }
    }
}

/// `scheme://host[:port]`; a literal address is granted by itself.
pub(super) fn parse_origin(text: &str) -> Result<HttpGrant, String> {
    let wrong =
        |what: &str| format!("\"{text}\" {what}; write an origin such as \"https://api.example.com\"");
    let uri: http::Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
    let scheme = scheme.ok_or_else(|| wrong("must begin with http:// or https://"))?;
    let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("must not hold a user or password"));
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return Err(wrong("is more than an origin: a grant has no path"));
    }
    let host = authority.host().trim_end_matches('.').trim_matches(['[', ']']).to_ascii_lowercase();
    if host.is_empty() || host.contains('*') {
        return Err(wrong("must name one host"));
    }
    let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let addresses = host.parse::<IpAddr>().map(ipnet::IpNet::from).into_iter().collect();
    Ok(HttpGrant { scheme: scheme.to_owned(), host, port, addresses })
}

pub(super) fn read_limits(table: &mut Table<'_, '_>, cluster: &ClusterSettings) -> Limits {
    let memory = table.size("memory", 32 << 20);
    if !(1 << 20..=4 << 30).contains(&memory.value) {
        table.wrong(&memory, "must be from \"1MiB\" to \"4GiB\"");
    }
    let deadline = table.duration("deadline", Duration::from_secs(2));
    if deadline.value < Duration::from_millis(10) || deadline.value > Duration::from_secs(300) {
        table.wrong(&deadline, "must be from \"10ms\" to \"5m\"");
    }
    if let Some(longest) = longest_deadline(cluster).filter(|longest| deadline.value > *longest) {
        let message = format!(
            "is {} and cluster.instance_ttl is {}: no hook may outlive its host's lease, so with store = \"nats\" at \
             most {} are left for it",
            humantime::format_duration(deadline.value),
            humantime::format_duration(cluster.instance_ttl),
            humantime::format_duration(longest)
        );
        table.wrong(&deadline, &message);
    }
    let log = table.size("log", 64 << 10);
    if log.value > 16 << 20 {
        table.wrong(&log, "must be at most \"16MiB\"");
    }
    Limits { memory: memory.value, deadline: deadline.value, log: log.value }
}

pub(super) fn read_delivery(table: &mut Table<'_, '_>) -> DeliverySettings {
    let backoff = table.duration("backoff", Duration::from_millis(100));
    let max_backoff = table.duration("max_backoff", Duration::from_secs(30));
    if backoff.value.is_zero() {
        table.wrong(&backoff, "can't be 0: a failing receiver would be called without a pause");
    } else if max_backoff.value < backoff.value {
        let message = format!(
            "is {} and backoff is {}: the longest pause can't be shorter than the first",
            humantime::format_duration(max_backoff.value),
            humantime::format_duration(backoff.value)
        );
        table.wrong(&max_backoff, &message);
    }
    DeliverySettings {
        concurrency: table.integer("concurrency", 8, 1..=1024) as u32,
        queue: table.integer("queue", 4096, 1..=10_000_000) as u32,
        attempts: table.integer("attempts", 5, 1..=1000) as u32,
        backoff: backoff.value,
        max_backoff: max_backoff.value,
    }
}
