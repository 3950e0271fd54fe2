//! A fresh token for a session that is open: it lasts as long as that does, and may watch whom that lets it.

use presence_core::ids::UserId;

use super::super::auth::{NotRenewed, NotVerified};
use super::super::http::now_in_seconds;
use super::{Connection, Ending, ErrorCode, Event};

impl Connection {
    /// What is wrong with the token leaves the session as it was.
    pub(super) async fn renew(&mut self, token: &str, id: Option<String>) -> Result<(), Ending> {
        // First: while a key is looked for, nothing else is read from the client.
        self.handle.send(Event::Frame(self.id)).await?;
        let renewed = self.gate.authenticator.renew(&self.user, token, now_in_seconds()).await;
        match renewed {
            Ok(identity) => {
                self.watching = identity.watching;
                let expires_at = identity.expires_at.unwrap_or(u64::MAX);
                let lost = self.watched_no_longer();
                self.gate.traffic.count_token_renewed();
                let renew = Event::Renew { connection: self.id, expires_at, lost, request: id };
                Ok(self.handle.send(renew).await?)
            }
            Err(refused) => {
                let code = match refused {
                    NotRenewed::Token(NotVerified::KeysAway) => ErrorCode::Unavailable,
                    _ => ErrorCode::InvalidToken,
                };
                self.complain(code, refused.to_string(), id).await
            }
        }
    }

    /// Forgets whom the session may not watch any more, and says who that is.
    fn watched_no_longer(&mut self) -> Vec<UserId> {
        let (watching, user) = (&self.watching, &self.user);
        let lost: Vec<UserId> =
            self.watched.iter().filter(|watched| !watching.allows(user, watched)).cloned().collect();
        for user in &lost {
            self.watched.remove(user);
        }
        if self.watched.is_empty() {
            self.watched = Default::default();
        }
        lost
    }
}
