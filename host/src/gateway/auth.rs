//! Who is it, and whom may they watch: decided from the head of a request, before the upgrade. Knows no socket and
//! no driver.

mod jwt;

use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use presence_core::ids::{InvalidUserId, UserId};

use super::handshake::offered_protocols;
use super::origin::{self, Foreign};
use super::problem::Problem;
use super::query::{self, QueryError};
use crate::settings::{AuthMode, AuthSettings, WatchPolicy};

pub use jwt::KeyError;
#[cfg(test)]
use jwt::LEEWAY;

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

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
    /// Its own user and these, sorted.
    Listed(Box<[UserId]>),
}

impl Watching {
    /// Whether a session of `own` may watch `user`.
    pub fn allows(&self, own: &UserId, user: &UserId) -> bool {
        match self {
            Watching::Anyone => true,
            Watching::Own => own == user,
            Watching::Listed(users) => own == user || users.binary_search(user).is_ok(),
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
    /// 401
    #[error(transparent)]
    Token(#[from] jwt::TokenError),
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
            Denied::Authorization | Denied::SeveralTokens | Denied::Token(_) => {
                unauthorized(detail, "Bearer error=\"invalid_token\"")
            }
        }
    }
}

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
    Jwt(jwt::Verifier),
}

impl Authenticator {
    /// Reads the keys.
    pub fn new(settings: &AuthSettings) -> Result<Authenticator, KeyError> {
        let mode = match &settings.mode {
            AuthMode::None => Mode::None,
            AuthMode::Jwt { issuer, audience, keys } => {
                Mode::Jwt(jwt::Verifier::new(issuer.as_deref(), audience.as_deref(), keys)?)
            }
        };
        Ok(Authenticator { mode, watch: settings.watch, query_token: settings.query_token })
    }

    /// Who sends this request. `now` is in seconds since 1970.
    pub fn identify(&self, request: &Parts, now: u64) -> Result<Identity, Denied> {
        match &self.mode {
            Mode::None => {
                origin::loopback_only(request)?;
                let text = query::single(request.uri.query(), "user")?.ok_or(Denied::NoUser)?;
                let user = UserId::new(&text).map_err(Denied::User)?;
                Ok(Identity { user, expires_at: None, watching: self.watching(Vec::new()) })
            }
            Mode::Jwt(verifier) => {
                let token = self.token(request)?.ok_or(Denied::NoToken)?;
                let bearer = verifier.verify(&token, now)?;
                let watching = self.watching(bearer.watch);
                Ok(Identity { user: bearer.user, expires_at: Some(bearer.expires_at), watching })
            }
        }
    }

    fn watching(&self, mut listed: Vec<UserId>) -> Watching {
        match self.watch {
            WatchPolicy::Own => Watching::Own,
            WatchPolicy::Anyone => Watching::Anyone,
            WatchPolicy::Claims => {
                listed.sort_unstable();
                listed.dedup();
                Watching::Listed(listed.into())
            }
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
