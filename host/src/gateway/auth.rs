//! Who is it, and whom may they watch: decided from the head of a request, before the upgrade, and from the fresh
//! tokens of a session. Knows no socket and no driver.

use std::io;

use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use presence_core::ids::{InvalidUserId, UserId};
use tokio_util::sync::CancellationToken;

use super::handshake::offered_protocols;
use super::origin::{self, Foreign};
use super::problem::Problem;
use super::query::{self, QueryError};
use super::traffic::Traffic;
use crate::settings::{AuthMode, AuthSettings, JwtSettings, TokenRules, WatchPolicy};
use crate::tokens::{self, Bearer, Circle, TokenError};

mod keys;
mod rotation;
mod source;

use keys::{Found, Keys};

/// The start of an offered subprotocol that carries a token: the only header that a web page can choose.
pub const BEARER_PROTOCOL: &str = "bearer.";

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who.
    pub user: UserId,
    /// When the session ends at the latest, milliseconds since 1970.
    pub expires_at: Option<u64>,
    /// Whom they may watch.
    pub watching: Watching,
}

/// Whom a session may watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watching {
    /// Only its own user.
    Own,
    /// Everybody.
    Anyone,
    /// Its own user and these.
    Listed(Box<Circle>),
}

impl Watching {
    /// Whether a session of `own` may watch `user`.
    pub fn allows(&self, own: &UserId, user: &UserId) -> bool {
        match self {
            Watching::Anyone => true,
            Watching::Own => own == user,
            Watching::Listed(circle) => own == user || circle.holds(user),
        }
    }
}

/// Why a request is not let in. Names what is wrong with it, never what would be right for somebody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// 403
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// 400
    #[error(transparent)]
    Query(#[from] QueryError),
    /// 400
    #[error("no user is named: add ?user=<id>, percent-encoded")]
    NoUser,
    /// 400
    #[error("the query parameter `user` is no user id: {0}")]
    User(InvalidUserId),
    /// 401
    #[error(
        "no token: send `Authorization: Bearer <token>`, or offer the subprotocols `presence.v1` and `bearer.<token>`"
    )]
    NoToken,
    /// 401
    #[error("the Authorization header must be given once, as `Bearer <token>`")]
    Authorization,
    /// 401
    #[error("more than one token is given")]
    SeveralTokens,
    /// 401, or 503 where nobody can tell.
    #[error(transparent)]
    Token(#[from] NotVerified),
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// By what it is.
    #[error(transparent)]
    Bad(#[from] TokenError),
    /// Its key is not known, and the set in which it may be can't be read.
    #[error("the token can't be checked right now, because the keys for it can't be read: try again")]
    KeysAway,
}

/// Why a session does not go on with a fresh token. It goes on with the old one, as long as that lasts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// `auth.mode = "none"`
    #[error("this host takes no tokens: sessions do not expire here")]
    NoTokens,
    /// Nobody becomes somebody else.
    #[error("the token is that of another user: open another session with it")]
    OtherUser,
    /// As at the opening.
    #[error(transparent)]
    Token(#[from] NotVerified),
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let detail = denied.to_string();
        match denied {
            Denied::Foreign(_) => Problem::new(StatusCode::FORBIDDEN, detail),
            Denied::Query(_) | Denied::NoUser | Denied::User(_) => {
                Problem::new(StatusCode::BAD_REQUEST, detail)
            }
            Denied::NoToken => unauthorized(detail, "Bearer"),
            Denied::Token(NotVerified::KeysAway) => unavailable(detail, KEYS_AWAY_SECONDS),
            Denied::Authorization | Denied::SeveralTokens | Denied::Token(NotVerified::Bad(_)) => {
                unauthorized(detail, "Bearer error=\"invalid_token\"")
            }
        }
    }
}

/// When to come back with a token whose key can't be looked for.
const KEYS_AWAY_SECONDS: u32 = 5;

fn unauthorized(detail: String, challenge: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail).with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// 503: the client may come back after so many seconds.
pub fn unavailable(detail: String, after_seconds: u32) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(RETRY_AFTER, HeaderValue::from(after_seconds))
}

/// Tells who is asking.
#[derive(Debug)]
pub struct Authenticator {
    mode: Mode,
    watch: WatchPolicy,
    query_token: bool,
}

#[derive(Debug)]
enum Mode {
    None,
    Jwt(Box<Issuer>),
}

/// Whose tokens are taken.
#[derive(Debug)]
struct Issuer {
    rules: TokenRules,
    keys: Keys,
    origins: Option<Vec<String>>,
}

impl Issuer {
    fn new(settings: &JwtSettings) -> io::Result<Issuer> {
        let keys = Keys::new(settings)?;
        Ok(Issuer { rules: settings.rules.clone(), keys, origins: settings.origins.clone() })
    }

    /// Only where the key is not known, this waits: for the key set, a few seconds at most.
    async fn verify(&self, token: &str, now: u64) -> Result<Bearer, NotVerified> {
        let ring = self.keys.ring();
        match tokens::verify(token, &ring, &self.rules, now) {
            Err(TokenError::UnknownKey) => match self.keys.look_again(&ring).await {
                Found::Keys(ring) => Ok(tokens::verify(token, &ring, &self.rules, now)?),
                Found::Nothing => Err(TokenError::UnknownKey.into()),
                Found::Unclear => Err(NotVerified::KeysAway),
            },
            judged => Ok(judged?),
        }
    }
}

impl Authenticator {
    /// Fails where a key set is to be fetched and servers can't be checked, for want of root certificates.
    pub fn new(settings: &AuthSettings) -> io::Result<Authenticator> {
        let mode = match &settings.mode {
            AuthMode::None => Mode::None,
            AuthMode::Jwt(jwt) => Mode::Jwt(Box::new(Issuer::new(jwt)?)),
        };
        Ok(Authenticator { mode, watch: settings.watch, query_token: settings.query_token })
    }

    /// Keeps the keys of tokens fresh until `shutdown`.
    pub async fn keep_keys(&self, traffic: &Traffic, shutdown: &CancellationToken) {
        if let Mode::Jwt(issuer) = &self.mode {
            issuer.keys.keep(traffic, shutdown).await;
        }
    }

    /// Who sends this request. `now` is in seconds since 1970.
    pub async fn identify(&self, request: &Parts, now: u64) -> Result<Identity, Denied> {
        match &self.mode {
            Mode::None => {
                origin::loopback_only(request)?;
                let text = query::single(request.uri.query(), "user")?.ok_or(Denied::NoUser)?;
                let user = UserId::new(&text).map_err(Denied::User)?;
                Ok(Identity { user, expires_at: None, watching: self.watching(Circle::default()) })
            }
            Mode::Jwt(issuer) => {
                if let Some(origins) = &issuer.origins {
                    origin::listed(request, origins)?;
                }
                let token = self.token(request)?.ok_or(Denied::NoToken)?;
                Ok(self.identity(issuer.verify(&token, now).await?))
            }
        }
    }

    /// What a fresh token says of a session of `user`.
    pub async fn renew(&self, user: &UserId, token: &str, now: u64) -> Result<Identity, NotRenewed> {
        let Mode::Jwt(issuer) = &self.mode else {
            return Err(NotRenewed::NoTokens);
        };
        let bearer = issuer.verify(token, now).await?;
        if bearer.user == *user { Ok(self.identity(bearer)) } else { Err(NotRenewed::OtherUser) }
    }

    fn identity(&self, bearer: Bearer) -> Identity {
        let watching = self.watching(bearer.circle);
        Identity { user: bearer.user, expires_at: Some(bearer.expires_at), watching }
    }

    fn watching(&self, circle: Circle) -> Watching {
        match self.watch {
            WatchPolicy::Own => Watching::Own,
            WatchPolicy::Anyone => Watching::Anyone,
            WatchPolicy::Claims => Watching::Listed(Box::new(circle)),
        }
    }

    /// The token, from the header, else from the subprotocols, else from the query.
    fn token(&self, request: &Parts) -> Result<Option<String>, Denied> {
        let mut headers = request.headers.get_all(AUTHORIZATION).iter();
        if let Some(header) = headers.next() {
            let text = header.to_str().map_err(|_| Denied::Authorization)?;
            let (scheme, token) = text.split_once(' ').ok_or(Denied::Authorization)?;
            if headers.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
                return Err(Denied::Authorization);
            }
            return Ok(Some(token.trim().to_owned()));
        }
        let mut offered =
            offered_protocols(request).filter_map(|protocol| protocol.strip_prefix(BEARER_PROTOCOL));
        if let Some(token) = offered.next() {
            let token = token.to_owned();
            return if offered.next().is_some() { Err(Denied::SeveralTokens) } else { Ok(Some(token)) };
        }
        if self.query_token {
            return Ok(query::single(request.uri.query(), "access_token")?);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
