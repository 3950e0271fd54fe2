//! Requests to the outside, and what their answers mean for a hook.
//!
//! The host lets a request through only to origins named in presence.toml (`[plugin.grants] http = ["https://…"]`)
//! and follows no redirects. This module is the same on every target; what differs is behind `backend`.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Context, HookError, HookResult};

mod url;

#[cfg(not(target_family = "wasm"))]
mod fake;
#[cfg(target_family = "wasm")]
mod wasi;

#[cfg(not(target_family = "wasm"))]
use fake as backend;
#[cfg(target_family = "wasm")]
use wasi as backend;

pub use url::{check_url, encode_segment};

/// How much of an answer's body is kept unless [`Request::body_limit`] says otherwise, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How long a request may take outside a hook call, where no deadline is known.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is kept of a call's time for the plugin to answer after its request timed out.
const MARGIN: Duration = Duration::from_millis(50);

/// How much of a refusal's body goes into the error message, in characters.
const EXCERPT: usize = 200;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host has no grant for this origin: presence.toml has to change.
    #[error("denied by the host: {0} (its log names the line to add to presence.toml)")]
    Denied(String),
    /// The request cannot be sent as it is.
    #[error("not a request: {0}")]
    Invalid(String),
    /// The answer did not begin in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection, or it broke.
    #[error("network: {0}")]
    Network(String),
}

/// As an answer of a hook. Denied is `retry`, not `reject`: a missing grant is a fault of the configuration, and the
/// events that come until it is mended must not be lost. What can't be sent as it is never will be: `reject`.
impl From<Error> for HookError {
    fn from(error: Error) -> HookError {
        match error {
            Error::Invalid(_) => HookError::reject(error.to_string()),
            Error::Denied(_) | Error::Timeout(_) | Error::Network(_) => HookError::retry(error.to_string()),
        }
    }
}

/// A request to be sent.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until `send` or `deliver`"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    body_limit: usize,
    fault: Option<String>,
}

impl Request {
    /// Any method, in capitals. The URL is absolute, `http` or `https`, without user info.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Request {
        Request {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            body_limit: BODY_LIMIT,
            fault: None,
        }
    }

    /// `GET`
    pub fn get(url: impl Into<String>) -> Request {
        Request::new("GET", url)
    }

    /// `POST`
    pub fn post(url: impl Into<String>) -> Request {
        Request::new("POST", url)
    }

    /// `PUT`
    pub fn put(url: impl Into<String>) -> Request {
        Request::new("PUT", url)
    }

    /// `DELETE`
    pub fn delete(url: impl Into<String>) -> Request {
        Request::new("DELETE", url)
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Sets the body to this as JSON, and the content type. If it can't be JSON, sending fails with
    /// [`Error::Invalid`].
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Request {
        match serde_json::to_vec(body) {
            Ok(json) => self.body = json,
            Err(error) => self.fault = Some(format!("its body can't be JSON: {error}")),
        }
        self.header("content-type", "application/json")
    }

    /// At most so long for the whole exchange. Never longer than what is left of the hook call, which is also what
    /// goes without this.
    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }

    /// Keeps at most so many bytes of the answer's body and reads no further; 0: reads none.
    pub fn body_limit(mut self, bytes: usize) -> Request {
        self.body_limit = bytes;
        self
    }

    /// Adds `Idempotency-Key: <event id>`: the same on every attempt, so that the receiver can drop repeats. One
    /// request per event; for more, make headers of your own out of the event id.
    pub fn idempotent(self, ctx: &Context) -> Request {
        self.header("idempotency-key", ctx.event_id.clone())
    }

    /// Sends it and waits for the answer, whatever its status.
    pub fn send(self) -> Result<Response, Error> {
        if let Some(fault) = self.fault {
            return Err(Error::Invalid(fault));
        }
        let target = url::Target::parse(&self.url)?;
        for (name, value) in &self.headers {
            check_header(name, value)?;
        }
        let wanted = self.timeout.unwrap_or(TIMEOUT);
        let timeout = match crate::time::remaining() {
            Some(left) if self.timeout.is_none() => left.saturating_sub(MARGIN),
            Some(left) => wanted.min(left.saturating_sub(MARGIN)),
            None => wanted,
        };
        backend::send(&self, &target, timeout)
    }

    /// Sends it and makes the answer that of the hook: 2xx is delivered; 408, 425, 429, 5xx, a broken network and a
    /// missing grant are `retry` (after what `Retry-After` says); everything else is `reject`.
    pub fn deliver(self) -> HookResult {
        let (method, url) = (self.method.clone(), self.url.clone());
        // What is behind the path may be secret.
        let what = format!("{method} {}", url.split(['?', '#']).next().unwrap_or_default());
        match self.send() {
            Ok(response) => response.delivered(&what),
            Err(error) => Err(match HookError::from(error) {
                HookError::Retry { message, after_ms } => {
                    HookError::Retry { message: format!("{what}: {message}"), after_ms }
                }
                HookError::Reject { message } => HookError::Reject { message: format!("{what}: {message}") },
            }),
        }
    }
}

/// Whether a header can be sent: a name of letters, digits and ``!#$%&'*+-.^_`|~``, a value of visible ASCII, spaces
/// and tabs.
pub fn check_header(name: &str, value: &str) -> Result<(), Error> {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(named) {
        return Err(Error::Invalid(format!("`{}` is not a header name", name.escape_debug())));
    }
    if !value.bytes().all(|byte| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic()) {
        return Err(Error::Invalid(format!(
            "the value of the header `{name}` holds more than visible ASCII"
        )));
    }
    Ok(())
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 100 to 599 by the book.
    pub status: u16,
    /// In the order received; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// At most the limit of the request.
    pub body: Vec<u8>,
    /// False if the body was longer than the limit, broke off, or did not end in time.
    pub complete: bool,
}

impl Response {
    /// An empty answer, for tests.
    pub fn new(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new(), complete: true }
    }

    /// With one more header, for tests.
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body, for tests.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self
    }

    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body read as JSON. Fails with [`Error::Network`] if it is incomplete or of another shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if !self.complete {
            return Err(Error::Network("the answer's body is incomplete".to_string()));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Network(format!("the answer's body: {error}")))
    }

    /// What this answer means for the event that `what` (such as `POST https://…`) delivered; see
    /// [`Request::deliver`].
    pub fn delivered(&self, what: &str) -> HookResult {
        let message = || {
            let body = String::from_utf8_lossy(&self.body);
            let excerpt: String = body.trim().chars().take(EXCERPT).collect();
            let colon = if excerpt.is_empty() { "" } else { ": " };
            format!("{what} answered {}{colon}{}", self.status, excerpt.escape_debug())
        };
        match self.status {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(match self.retry_after() {
                Some(wait) => HookError::retry_after(message(), wait),
                None => HookError::retry(message()),
            }),
            _ => Err(HookError::reject(message())),
        }
    }

    /// What `Retry-After` says, in seconds or as a date; none if it isn't there or makes no sense.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.saturating_sub(Duration::from_millis(crate::time::now_ms())))
    }
}

#[cfg(test)]
mod tests;
