//! `[auth.jwks]`: where a set of keys is that changes while the host runs.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use http::Uri;

use super::super::reader::Table;
use super::super::{Found, path_of};
use super::keys::read_bounded;
use crate::settings::{KeySetSettings, KeySetSource};
use crate::tokens::{KeySet, MAX_SET_BYTES};

/// How often a set is read, if nothing is said.
const REFRESH: Duration = Duration::from_secs(600);

/// How long nobody causes another reading, if nothing is said.
const PAUSE: Duration = Duration::from_secs(30);

/// Whoever holds any token may cause a reading that often.
const MIN_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn read(table: &mut Table<'_, '_>, folder: &Path) -> Option<KeySetSettings> {
    let (url, file) = (table.string("url"), table.string("file"));
    let plain_http = table.boolean("plain_http", false);
    let refresh = table.duration("refresh", REFRESH);
    let pause = table.duration("pause", PAUSE);
    if pause.value < MIN_PAUSE {
        table
            .wrong(&pause, "must be at least \"100ms\": any token with an unknown `kid` may cause a reading");
    }
    if refresh.value < pause.value {
        let pause = humantime::format_duration(pause.value);
        table.wrong(&refresh, &format!("can't be shorter than auth.jwks.pause, which is {pause}"));
    }
    let source = match (url, file) {
        (Some(url), None) => KeySetSource::Url(read_url(table, &url, plain_http)?),
        (None, Some(file)) => read_file(table, &file, folder)?,
        (Some(_), Some(file)) => {
            table.wrong(&file, "is given beside auth.jwks.url: a key set is in one place");
            return None;
        }
        (None, None) => {
            if !table.has("url") && !table.has("file") {
                table.missing("url", "is needed, or `file`: where the key set is");
            }
            return None;
        }
    };
    Some(KeySetSettings { source, refresh: refresh.value, pause: pause.value })
}

/// A wrong address is not repeated: it may hold a password.
fn read_url(table: &Table<'_, '_>, found: &Found<String>, plain_http: bool) -> Option<Uri> {
    const WANTED: &str = "must be the https address of a key set, without user or password, such as \
                          \"https://app.example/.well-known/jwks.json\"";
    let address: Option<Uri> = found.value.parse().ok();
    let Some(address) = address.filter(is_plain) else {
        table.wrong(found, WANTED);
        return None;
    };
    if address.scheme_str() == Some("http") && !plain_http && !is_loopback(&address) {
        table.wrong(
            found,
            "is http: whoever is on the way could put keys of their own there. Use https; or, in a network that you \
             trust, set plain_http = true",
        );
        return None;
    }
    Some(address)
}

fn is_plain(address: &Uri) -> bool {
    matches!(address.scheme_str(), Some("http" | "https"))
        && address.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && address.host().is_some_and(|host| !host.is_empty())
}

fn is_loopback(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Read once here, so that a mistake is known at once.
fn read_file(table: &Table<'_, '_>, found: &Found<String>, folder: &Path) -> Option<KeySetSource> {
    let path = path_of(folder, found);
    let problem = match read_bounded(&path, MAX_SET_BYTES as u64) {
        Ok(document) => KeySet::parse(&document, true).err().map(|bad| format!("can't be used: {bad}")),
        Err(error) => Some(format!("can't be read: {error}")),
    };
    match problem {
        Some(problem) => {
            table.wrong(found, &format!("{} {problem}", path.display()));
            None
        }
        None => Some(KeySetSource::File(path)),
    }
}
