//! Settings of a plugin that runs outside of a daemon: what a plugin has for whom presence.toml says nothing.

use std::path::Path;
use std::time::Duration;

use super::plugin::{is_plugin_name, read_delivery, read_grants, read_limits};
use super::reader::{self, Document, Table};
use super::{ConfigError, ConfigErrors};
use crate::settings::{
    ClusterSettings, Grants, Initial, Limits, NatsAuth, NatsSettings, NatsTls, PluginSettings, Secrets,
    StoreKind,
};

/// The name that a file's plugin goes by: the file's own, or `plugin` where that can't be one.
pub fn plugin_name(component: &Path) -> String {
    let stem = component.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = stem.replace('_', "-");
    if is_plugin_name(&name) { name } else { "plugin".to_owned() }
}

/// No grants, every default.
pub fn plain_plugin(component: &Path, config: String) -> PluginSettings {
    let document = Document::new("", &|_| None);
    let mut empty = Table::empty(&document);
    let (grants, limits) = (read_grants(&mut empty, &any_host()), read_limits(&mut empty, &any_host()));
    plugin_of(component, config, grants, limits)
}

pub(super) fn plugin_of(component: &Path, config: String, grants: Grants, limits: Limits) -> PluginSettings {
    let document = Document::new("", &|_| None);
    PluginSettings {
        name: plugin_name(component),
        path: std::path::absolute(component).unwrap_or_else(|_| component.to_owned()),
        config,
        secrets: Secrets::default(),
        sha256: None,
        initial: Initial::Current,
        interval: None,
        grants,
        limits,
        delivery: read_delivery(&mut Table::empty(&document)),
    }
}

/// A deployment that restricts nothing: there is somebody to send messages to, and nobody waits for a lease.
pub(super) fn any_host() -> ClusterSettings {
    let instance_ttl = Duration::from_secs(86_400);
    ClusterSettings {
        store: StoreKind::Nats(NatsSettings {
            urls: Vec::new(),
            auth: NatsAuth::None,
            tls: NatsTls::default(),
            prefix: "presence".to_owned(),
            replicas: 1,
            instance_ttl,
        }),
        partitions: 1,
        leaves: 1,
        instance_ttl,
        handover_timeout: Duration::from_secs(10),
    }
}

/// The text of a TOML file that holds nothing but a plugin's `config`, as JSON text.
pub fn plugin_config(
    text: &str,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, ConfigErrors> {
    let document = Document::new(text, env);
    let config = reader::parse(&document, text).map(|parsed| document.root(&parsed).all_json().to_string());
    let errors: Vec<ConfigError> = document.into_errors();
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(ConfigErrors { path: path.to_owned(), errors }),
    }
}
