//! presence.toml: what the file says → checked [`Settings`]. Every error at once, each with its line and a remedy.
//!
//! Two layers: `reader.rs` walks the parsed document and collects what is wrong with single values, this file and its
//! parts fill in defaults and look for contradictions. What the settings are for is not known here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::api_keys::ApiKeys;
use crate::certificates::{self, BadCertificate, TlsFiles};
use crate::settings::{
    AuthMode, ClusterSettings, HostSettings, PresenceSettings, ProxyHeader, Settings, StoreKind,
};

mod api;
mod auth;
mod cluster;
mod differences;
mod limits;
mod local;
mod messaging;
mod plugin;
mod reader;
mod scenario;
mod secrets;
mod telemetry;
mod values;

pub use api::is_key_name;
pub use differences::differences;
pub use local::{plain_plugin, plugin_config, plugin_name};
pub use scenario::read as scenario;

use reader::{Document, Found, Table};

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// From 1; 0: the file as a whole.
    pub line: usize,
    /// For example `presence.offline_grace`; empty: the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything wrong with a file, by line.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub errors: Vec<ConfigError>,
}

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.path.display())?;
            if error.line > 0 {
                write!(f, ":{}", error.line)?;
            }
            if !error.key.is_empty() {
                write!(f, ": {}", error.key)?;
            }
            write!(f, ": {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// One text for each.
    pub fn lines(&self) -> Vec<String> {
        self.to_string().lines().map(str::to_owned).collect()
    }
}

/// Reads and checks a file. `env` gives the values of `${VARIABLES}`.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, ConfigErrors> {
    parse(&read_text(path)?, path, env)
}

/// The text of a file, for [`parse`].
pub fn read_text(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| ConfigErrors {
        path: path.to_owned(),
        errors: vec![ConfigError {
            line: 0,
            key: String::new(),
            message: format!("can't be read ({error}): give the path of the configuration with --config"),
        }],
    })
}

/// Checks the text of a file; relative paths in it are relative to the file's folder.
pub fn parse(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigErrors> {
    parse_beside(text, path, env, None)
}

/// The same, with plugins that are to fit a host that runs with these settings already, whatever the file's `[cluster]`
/// says.
pub fn parse_beside(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    running: Option<&ClusterSettings>,
) -> Result<Settings, ConfigErrors> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    let document = Document::new(text, env);
    let settings = read(&document, text, &folder, running);
    let errors = document.into_errors();
    if errors.is_empty()
        && let Some(settings) = settings
    {
        return Ok(settings);
    }
    Err(ConfigErrors { path: path.to_owned(), errors })
}

fn read(
    document: &Document<'_>,
    text: &str,
    folder: &Path,
    running: Option<&ClusterSettings>,
) -> Option<Settings> {
    let parsed = reader::parse(document, text)?;
    let mut root = document.root(&parsed);
    let mut host_table = root.table("host");
    let host = read_host(&mut host_table, folder);
    let presence = read_presence(&mut root.table("presence"));
    let cluster = cluster::read(&mut root.table("cluster"), folder);
    let auth = auth::read(&mut root.table("auth"), &host, folder);
    let api = api::read(&mut root.table("api"));
    if matches!(auth.mode, AuthMode::Jwt(_)) {
        refuse_open_admin(&mut host_table, &host, &api);
    }
    let limits = limits::read(&mut root.table("limits"));
    let telemetry = telemetry::read(&mut root.table("telemetry"));
    let plugins = plugin::read(root.tables("plugin"), folder, running.unwrap_or(&cluster));
    drop(host_table);
    Some(Settings { host, presence, auth, api, limits, cluster, telemetry, plugins })
}

fn read_host(table: &mut Table<'_, '_>, folder: &Path) -> HostSettings {
    let name = match table.string("name") {
        Some(name) if name.value.is_empty() || name.value.len() > 64 => {
            table.wrong(&name, "is a name of 1 to 64 bytes, such as \"host-1\"");
            name.value
        }
        Some(name) => name.value,
        None => machine_name(),
    };
    let listen = table.address("listen", "127.0.0.1:7070");
    let admin = table.address("admin", "127.0.0.1:7071");
    if listen.value == admin.value && listen.value.port() != 0 {
        let message =
            format!("host.listen is {} as well: give each listener a port of its own", listen.value);
        table.wrong(&admin, &message);
    }
    HostSettings {
        name,
        listen: listen.value,
        admin: admin.value,
        data_dir: folder.join(table.string("data_dir").map_or(".presence".into(), |found| found.value)),
        drain_timeout: table.duration("drain_timeout", Duration::from_secs(30)).value,
        unready_after: table.duration("unready_after", Duration::from_secs(30)).value,
        watch_files: table.boolean("watch_files", true),
        trusted_proxies: read_proxies(table),
        proxy_header: read_proxy_header(table),
        tls: read_tls(table, "tls", folder),
        admin_tls: read_tls(table, "admin_tls", folder),
    }
}

/// Addresses, and networks such as `10.0.0.0/8`.
fn read_proxies(table: &mut Table<'_, '_>) -> Vec<IpNet> {
    let texts = table.strings("trusted_proxies");
    let network = |text: &Found<String>| {
        let one = text.value.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        let network = one.or_else(|_| text.value.parse::<IpNet>()).ok();
        if network.is_none_or(|network| network.prefix_len() == 0) {
            table.wrong(
                text,
                "must be an address or a network of your own, such as \"10.0.0.7\" or \"10.0.0.0/8\"",
            );
        }
        network
    };
    texts.iter().filter_map(network).collect()
}

fn read_proxy_header(table: &mut Table<'_, '_>) -> ProxyHeader {
    let Some(header) = table.string("proxy_header") else { return ProxyHeader::default() };
    match header.value.to_ascii_lowercase().as_str() {
        "x-forwarded-for" => return ProxyHeader::XForwardedFor,
        "forwarded" => return ProxyHeader::Forwarded,
        _ => table
            .wrong(&header, "must be \"X-Forwarded-For\" or \"Forwarded\": the one that your proxies write"),
    }
    ProxyHeader::default()
}

/// Files are read here too, so that what is wrong with them is told with the line.
fn read_tls(table: &mut Table<'_, '_>, name: &str, folder: &Path) -> Option<TlsFiles> {
    if !table.has(name) {
        return None;
    }
    let mut inside = table.table(name);
    let mut file = |key: &str, what: &str| {
        let found = inside.string(key);
        if found.is_none() && !inside.has(key) {
            inside.missing(key, &format!("is needed: {what}"));
        }
        found
    };
    let certificate =
        file("cert_file", "the certificate in PEM, followed by those that lead to an authority")?;
    let key = file("key_file", "the private key in PEM")?;
    let files = TlsFiles { certificate: path_of(folder, &certificate), key: path_of(folder, &key) };
    match certificates::read(&files) {
        Ok(_) => {}
        Err(bad @ BadCertificate::Certificate { .. }) => inside.wrong(&certificate, &bad.to_string()),
        Err(bad @ BadCertificate::Key { .. }) => inside.wrong(&key, &bad.to_string()),
    }
    Some(files)
}

/// Whoever reaches the API may read and change everything, unless they need a key. (`auth.mode = "none"` has its own rule.)
fn refuse_open_admin(table: &mut Table<'_, '_>, host: &HostSettings, keys: &ApiKeys) {
    let is_open = !host.admin.ip().to_canonical().is_loopback() && keys.is_empty();
    if let Some(admin) = table.any("admin").filter(|_| is_open) {
        let message = format!(
            "is {}, and there is no [[api.key]]: whoever reaches it could read and change everything; add a key \
             (`presence keys new` makes one), or use a loopback address, such as \"127.0.0.1:{}\"",
            host.admin,
            host.admin.port()
        );
        table.wrong(&admin, &message);
    }
}

/// The machine's host name, or `presence` where it has none.
fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "presence".into() } else { name }
}

fn read_presence(table: &mut Table<'_, '_>) -> PresenceSettings {
    let seconds = Duration::from_secs;
    let idle_after = table.duration("idle_after", Duration::ZERO).value;
    let positive = |table: &mut Table<'_, '_>, key, default| {
        let found = table.duration(key, default);
        if found.value.is_zero() {
            table.wrong(&found, "can't be 0: it would end every connection at once");
        }
        found.value
    };
    let heartbeat = positive(table, "heartbeat", seconds(25));
    let heartbeat_timeout = positive(table, "heartbeat_timeout", seconds(10));
    let max_users = table.integer("max_users", 1_000_000, 1..=i64::from(u32::MAX));
    PresenceSettings {
        offline_grace: table.duration("offline_grace", seconds(5)).value,
        drain_grace: table.duration("drain_grace", seconds(30)).value,
        idle_after: (!idle_after.is_zero()).then_some(idle_after),
        heartbeat,
        heartbeat_timeout,
        offline_retention: table.duration("offline_retention", seconds(90 * 86_400)).value,
        max_users: max_users.unsigned_abs(),
        boot_timeout: table.duration("boot_timeout", seconds(30)).value,
    }
}

/// With hosts that take over from each other, no hook may outlive the lease of its host: what is left of it when a
/// renewal is given up.
fn longest_deadline(cluster: &ClusterSettings) -> Option<Duration> {
    matches!(cluster.store, StoreKind::Nats(_))
        .then(|| cluster.instance_ttl - cluster.instance_ttl / 3 * 3 / 2)
}

/// A path of the file, made absolute.
fn path_of(folder: &Path, found: &Found<String>) -> PathBuf {
    folder.join(&found.value)
}

#[cfg(test)]
mod tests;
