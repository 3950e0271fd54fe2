//! `presence check`: loads the plugins without running anything and prints what they are.

use super::{EXIT_CONFIGURATION, block_on, compile_mode};
use crate::plugins::{self, PluginDescription};
use crate::settings::{AuthMode, Grants, Limits, Settings, StoreKind};

pub(super) fn run(settings: Settings) -> u8 {
    let checked = block_on(plugins::check(&settings.plugins, &settings.host.data_dir, compile_mode()));
    for plugin in &settings.plugins {
        plugin
            .secrets
            .warnings
            .iter()
            .for_each(|warning| eprintln!("warning: plugin `{}`: {warning}", plugin.name));
    }
    if let AuthMode::Jwt(jwt) = &settings.auth.mode {
        jwt.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    let mut descriptions = Vec::new();
    let mut wrong = false;
    for plugin in checked {
        match plugin {
            Ok(description) => descriptions.push(description),
            Err(error) => {
                wrong = true;
                eprintln!("{error}");
            }
        }
    }
    if wrong {
        return EXIT_CONFIGURATION;
    }
    // Not connected to: a check is for machines that can't reach it, too.
    let store = match &settings.cluster.store {
        StoreKind::Memory => "memory".to_owned(),
        StoreKind::Nats(nats) => format!("nats at {} (not asked)", nats.urls.join(", ")),
    };
    println!("clients {}, admin {}, store {store}", settings.host.listen, settings.host.admin);
    if descriptions.is_empty() {
        println!("no plugins");
    } else {
        print!("{}", table(&descriptions));
    }
    0
}

fn table(descriptions: &[PluginDescription]) -> String {
    let mut rows =
        vec![["plugin", "digest", "hooks", "imports", "grants", "limits"].map(str::to_owned).to_vec()];
    for plugin in descriptions {
        let hooks: Vec<&str> = plugin.hooks.iter().map(|hook| hook.as_str()).collect();
        rows.push(vec![
            plugin.name.to_string(),
            plugin.digest.chars().take(12).collect(),
            hooks.join(" "),
            short_imports(&plugin.imports),
            grants(&plugin.grants),
            limits(&plugin.limits),
        ]);
    }
    // One block a plugin: a table of six columns is wider than a terminal.
    let names = rows.remove(0);
    let mut text = String::new();
    for row in rows {
        text.push('\n');
        for (name, value) in names.iter().zip(row) {
            text.push_str(&format!("{name:<8} {value}\n"));
        }
    }
    text
}

/// The interfaces that mean something to whoever grants: `wasi:http/types@0.2.6` and its like come with any language.
fn short_imports(imports: &[String]) -> String {
    let mut short: Vec<&str> = imports
        .iter()
        .filter_map(|import| {
            let name = import.split('@').next().unwrap_or(import);
            name.strip_prefix("presence:plugin/").or(match name {
                "wasi:http/outgoing-handler" => Some("http"),
                _ => None,
            })
        })
        .filter(|name| *name != "types")
        .collect();
    short.sort_unstable();
    if short.is_empty() { "none beyond WASI".into() } else { short.join(" ") }
}

fn grants(grants: &Grants) -> String {
    let http = grants.http.iter().map(|grant| {
        let host = if grant.host.contains(':') { format!("[{}]", grant.host) } else { grant.host.clone() };
        format!("http {}://{host}:{}", grant.scheme, grant.port)
    });
    let keyvalue = grants.keyvalue.iter().map(|bucket| format!("keyvalue {bucket}"));
    let messaging = grants.messaging.iter().map(|subject| format!("messaging {subject}"));
    let presence = grants.presence.then(|| "presence".to_owned());
    let all: Vec<String> = http.chain(keyvalue).chain(messaging).chain(presence).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

fn limits(limits: &Limits) -> String {
    format!(
        "memory {} MiB, deadline {}, log {} KiB",
        limits.memory >> 20,
        humantime::format_duration(limits.deadline),
        limits.log >> 10
    )
}
