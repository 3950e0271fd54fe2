//! `[auth]`: who users are, and whom they may watch.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::Found;
use super::reader::Table;
use crate::settings::{AuthMode, AuthSettings, HostSettings, JwtSettings, TokenRules, WatchPolicy};

mod key_set;
mod keys;
#[cfg(test)]
mod tests;

/// Keys that say something about tokens.
const OF_TOKENS: [&str; 7] = ["issuer", "audience", "leeway", "watch_claim", "origins", "key", "jwks"];

/// How far clocks may be apart, if nothing is said.
const LEEWAY: Duration = Duration::from_secs(30);

/// Clocks that are further apart are wrong.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// The claim that says whom one may watch, if nothing is said.
const WATCH_CLAIM: &str = "presence_watch";

pub(super) fn read(table: &mut Table<'_, '_>, host: &HostSettings, folder: &Path) -> AuthSettings {
    let mode = table.string("mode");
    let is_jwt = mode.as_ref().is_some_and(|mode| mode.value == "jwt");
    let watch = read_watch(table, is_jwt);
    let query_token = table.boolean("query_token", false);
    if is_jwt {
        let mode = AuthMode::Jwt(Box::new(read_jwt(table, folder, watch)));
        return AuthSettings { mode, watch, query_token };
    }
    let strange = mode.filter(|mode| mode.value != "none");
    for name in OF_TOKENS {
        if let Some(found) = table.any(name)
            && strange.is_none()
        {
            table.wrong(&found, "means something with auth.mode = \"jwt\" only, and it is \"none\"");
        }
    }
    match strange {
        Some(mode) => {
            let message = format!("must be \"none\" (loopback only) or \"jwt\", not \"{}\"", mode.value);
            table.wrong(&mode, &message);
        }
        None => refuse_public(table, host),
    }
    AuthSettings { mode: AuthMode::None, watch, query_token }
}

fn read_watch(table: &mut Table<'_, '_>, is_jwt: bool) -> WatchPolicy {
    let Some(watch) = table.string("watch") else {
        return if is_jwt { WatchPolicy::Own } else { WatchPolicy::Anyone };
    };
    match watch.value.as_str() {
        "anyone" => return WatchPolicy::Anyone,
        "self" => {}
        "claims" if is_jwt => return WatchPolicy::Claims,
        "claims" => {
            table.wrong(&watch, "can't be \"claims\" with auth.mode = \"none\": there is no token");
        }
        _ => table.wrong(&watch, "must be \"self\", \"anyone\" or \"claims\""),
    }
    WatchPolicy::Own
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

fn read_jwt(table: &mut Table<'_, '_>, folder: &Path, watch: WatchPolicy) -> JwtSettings {
    let mut warnings = Vec::new();
    let key_tables = table.tables("key");
    let has_set = table.has("jwks");
    if key_tables.is_empty() && !has_set {
        table.missing(
            "key",
            "is needed with auth.mode = \"jwt\": add at least one [[auth.key]], or a key set in [auth.jwks]",
        );
    }
    let keys = keys::read(key_tables, folder, has_set, &mut warnings);
    let key_set = if has_set { key_set::read(&mut table.table("jwks"), folder) } else { None };
    let leeway = table.duration("leeway", LEEWAY);
    if leeway.value > MAX_LEEWAY {
        table.wrong(&leeway, "can be \"5m\" at most: set the clocks instead");
    }
    let rules = TokenRules {
        issuer: table.string("issuer").map(|found| found.value),
        audience: table.string("audience").map(|found| found.value),
        leeway: leeway.value,
        watch_claim: read_watch_claim(table, watch),
    };
    JwtSettings { rules, keys, key_set, origins: read_origins(table), warnings }
}

fn read_watch_claim(table: &mut Table<'_, '_>, watch: WatchPolicy) -> Option<String> {
    let name = table.string("watch_claim");
    if let Some(name) = &name {
        if watch != WatchPolicy::Claims {
            table.wrong(name, "means something with auth.watch = \"claims\" only");
        }
        if name.value.is_empty() || ["iss", "sub", "aud", "exp", "nbf"].contains(&name.value.as_str()) {
            table.wrong(name, "is the name of a claim of its own, such as \"presence_watch\"");
        }
    }
    let name = name.map_or_else(|| WATCH_CLAIM.to_owned(), |name| name.value);
    (watch == WatchPolicy::Claims).then_some(name)
}

fn read_origins(table: &mut Table<'_, '_>) -> Option<Vec<String>> {
    if !table.has("origins") {
        return None;
    }
    let origins = table.strings("origins");
    for origin in origins.iter().filter(|origin| !is_origin(origin)) {
        table.wrong(
            origin,
            "must be an origin as browsers write it: scheme and host, and a port if it is not the usual one, such as \
             \"https://app.example\"",
        );
    }
    Some(origins.into_iter().map(|origin| origin.value).collect())
}

/// Also of the schemes that applications with a built-in browser have, such as `capacitor://localhost`.
fn is_origin(text: &Found<String>) -> bool {
    let Some((scheme, authority)) = text.value.split_once("://") else {
        return false;
    };
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "/",
    };
    let is_scheme = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    let is_authority = |byte: u8| byte.is_ascii_graphic() && !b"/@?#*\\".contains(&byte);
    !scheme.is_empty()
        && scheme.bytes().all(is_scheme)
        && !authority.is_empty()
        && authority.bytes().all(is_authority)
        && !authority.bytes().any(|byte| byte.is_ascii_uppercase())
        && !authority.ends_with(usual)
}
