//! `[limits]`: how much of a host clients may take.

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

pub(super) fn read(table: &mut Table<'_, '_>) -> ClientLimits {
    let mut limit = |key, default| {
        let most = table.integer(key, default, 0..=1_000_000);
        u32::try_from(most).ok().filter(|most| *most > 0)
    };
    ClientLimits {
        connects_per_second: limit("connects_per_second", CONNECTS_PER_SECOND),
        sessions_per_user: limit("sessions_per_user", SESSIONS_PER_USER),
        sessions_per_address: limit("sessions_per_address", SESSIONS_PER_ADDRESS),
        watched_users: u32::try_from(table.integer("watched_users", WATCHED_USERS, 1..=1_000_000))
            .unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        };
        assert_eq!(limits(""), Ok(defaults));
        let lines =
            "connects_per_second = 0\nsessions_per_user = 0\nsessions_per_address = 50\nwatched_users = 1";
        let changed = ClientLimits {
            connects_per_second: None,
            sessions_per_user: None,
            sessions_per_address: Some(50),
            watched_users: 1,
        };
        assert_eq!(limits(lines), Ok(changed));
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        let found = limits("sessions_per_user = -1\nwatched_users = 0\nsessions_per_adress = 5").unwrap_err();
        assert_eq!(
            found,
            [
                "presence.toml:2: limits.sessions_per_user: must be a whole number from 0 to 1000000, not -1",
                "presence.toml:3: limits.watched_users: must be a whole number from 1 to 1000000, not 0",
                "presence.toml:4: limits.sessions_per_adress: is not a key; did you mean `sessions_per_address`?",
            ]
        );
    }
}
