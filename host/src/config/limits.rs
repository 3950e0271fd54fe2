//! `[limits]`: how much of a host clients may take.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Table;
use crate::settings::ClientLimits;

/// What is taken a second, if nothing is said: more than a host of two processors can.
const CONNECTS_PER_SECOND: i64 = 10_000;

/// Sessions of one user, if nothing is said: more devices and pages than a person has.
const SESSIONS_PER_USER: i64 = 100;

/// Sessions from one address, if nothing is said: behind a proxy all come from the same.
const SESSIONS_PER_ADDRESS: i64 = 0;

/// Users that one session watches, if nothing is said.
const WATCHED_USERS: i64 = 10_000;

/// Frames of one session in a second, if nothing is said: more than a person causes, less than a loop does.
const MESSAGES_PER_SECOND: i64 = 100;

/// How long the parts of a request may take, if nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long what a client is sent may wait for it, if nothing is said.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Shorter ones cut off clients far away, longer ones nobody.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

pub(super) fn read(table: &mut Table<'_, '_>) -> ClientLimits {
    ClientLimits {
        connects_per_second: limit(table, "connects_per_second", CONNECTS_PER_SECOND),
        sessions_per_user: limit(table, "sessions_per_user", SESSIONS_PER_USER),
        sessions_per_address: limit(table, "sessions_per_address", SESSIONS_PER_ADDRESS),
        watched_users: u32::try_from(table.integer("watched_users", WATCHED_USERS, 1..=1_000_000))
            .unwrap_or(u32::MAX),
        messages_per_second: limit(table, "messages_per_second", MESSAGES_PER_SECOND),
        handshake_timeout: timeout(table, "handshake_timeout", TIMEOUT),
        header_timeout: timeout(table, "header_timeout", TIMEOUT),
        body_timeout: timeout(table, "body_timeout", TIMEOUT),
        read_timeout: timeout(table, "read_timeout", READ_TIMEOUT),
    }
}

/// 0: no limit.
fn limit(table: &mut Table<'_, '_>, key: &str, default: i64) -> Option<u32> {
    let most = table.integer(key, default, 0..=1_000_000);
    u32::try_from(most).ok().filter(|most| *most > 0)
}

fn timeout(table: &mut Table<'_, '_>, key: &str, default: Duration) -> Duration {
    let found = table.duration(key, default);
    if !TIMEOUTS.contains(&found.value) {
        table.wrong(&found, "must be from \"1s\" to \"5m\"");
    }
    found.value
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::parse;
    use crate::settings::ClientLimits;

    fn limits(lines: &str) -> Result<ClientLimits, Vec<String>> {
        let text = format!("[limits]\n{lines}\n");
        let parsed = parse(&text, Path::new("presence.toml"), &|_: &str| None);
        parsed.map(|settings| settings.limits).map_err(|errors| errors.lines())
    }

    #[test]
    fn limits_have_defaults_and_zero_is_none() {
        let defaults = ClientLimits {
            connects_per_second: Some(10_000),
            sessions_per_user: Some(100),
            sessions_per_address: None,
            watched_users: 10_000,
            messages_per_second: Some(100),
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
        };
        assert_eq!(limits(""), Ok(defaults));
        let lines = "connects_per_second = 0\nsessions_per_user = 0\nsessions_per_address = 50\nwatched_users = 1\n\
             messages_per_second = 0\nhandshake_timeout = \"1s\"\nheader_timeout = \"2s\"\nbody_timeout = \"3s\"\n\
             read_timeout = \"5m\"";
        let changed = ClientLimits {
            connects_per_second: None,
            sessions_per_user: None,
            sessions_per_address: Some(50),
            watched_users: 1,
            messages_per_second: None,
            handshake_timeout: Duration::from_secs(1),
            header_timeout: Duration::from_secs(2),
            body_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(300),
        };
        assert_eq!(limits(lines), Ok(changed));
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        let found = limits(
            "sessions_per_user = -1\nwatched_users = 0\nsessions_per_adress = 5\nread_timeout = \"0s\"",
        )
        .unwrap_err();
        assert_eq!(
            found,
            [
                "presence.toml:2: limits.sessions_per_user: must be a whole number from 0 to 1000000, not -1",
                "presence.toml:3: limits.watched_users: must be a whole number from 1 to 1000000, not 0",
                "presence.toml:4: limits.sessions_per_adress: is not a key; did you mean `sessions_per_address`?",
                "presence.toml:5: limits.read_timeout: must be from \"1s\" to \"5m\"",
            ]
        );
    }
}
