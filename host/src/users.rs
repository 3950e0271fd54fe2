//! `presence users`: asks a host for the status of users and prints it.

use std::io::Write;

use crate::admin_client::{AdminClient, encoded};
use crate::cli::AdminArgument;
use crate::gateway::admin::{MAX_USERS_PER_QUERY, UserDocument, UsersDocument};
use crate::table::{printable, table};

/// The longest query string of one question, in bytes: heads of requests are bounded.
const MAX_QUERY_BYTES: usize = 8 * 1024;

/// Prints the users in the order given, as a table or as JSON. Answers the exit code.
pub async fn run(admin: &AdminArgument, users: &[String], json: bool) -> anyhow::Result<u8> {
    let client = AdminClient::new(admin)?;
    let mut found = UsersDocument { users: Vec::with_capacity(users.len()), next: None, as_of: None };
    for query in queries(users) {
        found.users.extend(client.get::<UsersDocument>(&format!("/v1/users?{query}")).await?.users);
    }
    let text =
        if json { format!("{}\n", serde_json::to_string_pretty(&found)?) } else { as_table(&found.users) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// As few questions as the bounds allow.
fn queries(users: &[String]) -> Vec<String> {
    let mut queries: Vec<(usize, String)> = Vec::new();
    for user in users {
        let pair = format!("user={}", encoded(user));
        match queries.last_mut() {
            Some((count, query))
                if *count < MAX_USERS_PER_QUERY && query.len() + pair.len() < MAX_QUERY_BYTES =>
            {
                *count += 1;
                query.push('&');
                query.push_str(&pair);
            }
            _ => queries.push((1, pair)),
        }
    }
    queries.into_iter().map(|(_, query)| query).collect()
}

fn as_table(users: &[UserDocument]) -> String {
    let or_dash = |time: &Option<String>| time.as_deref().map_or("-".to_owned(), printable);
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|user| {
            vec![
                printable(&user.user),
                user.status.to_string(),
                or_dash(&user.since),
                or_dash(&user.last_seen),
                user.sessions.to_string(),
                user.revision.to_string(),
            ]
        })
        .collect();
    table(&["USER", "STATUS", "SINCE", "LAST SEEN", "SESSIONS", "REVISION"], &rows)
}

#[cfg(test)]
mod tests {
    use presence_core::events::Status;

    use super::*;

    #[test]
    fn many_users_are_asked_for_in_parts() {
        let users: Vec<String> = (0..2500).map(|n| n.to_string()).collect();
        let parts = queries(&users);
        assert!(parts.iter().all(|part| part.len() <= MAX_QUERY_BYTES));
        assert_eq!(parts.join("&").split('&').count(), 2500);
        assert_eq!(queries(&["a/b".into(), "c".into()]), ["user=a%2Fb&user=c"]);
        assert!(queries(&["x".repeat(100_000)]).len() == 1);
    }

    #[test]
    fn a_user_is_one_line() {
        let user = UserDocument {
            user: "bob".into(),
            status: Status::Offline,
            since: Some("2025-11-24T16:00:00.123Z".into()),
            last_seen: None,
            sessions: 0,
            revision: 7,
            message: None,
        };
        let expected = "USER  STATUS   SINCE                     LAST SEEN  SESSIONS  REVISION\n\
                        bob   offline  2025-11-24T16:00:00.123Z  -          0         7\n";
        assert_eq!(as_table(&[user]), expected);
    }
}
