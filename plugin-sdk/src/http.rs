//! Requests to servers that presence.toml grants: `http = ["https://api.example.com"]`.
//!
//! The host resolves, connects and limits; redirects are answers like others. An answer's body is cut at [`MAX_BODY`].

use std::time::Duration;

use crate::{Context, HookError, HookResult};

/// So many bytes of an answer are kept.
pub const MAX_BODY: usize = 64 * 1024;

/// Of a server's wish to be left alone, at most so much is heard.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A request to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// Absolute.
    pub url: String,
    /// In order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long to wait for the answer to begin; none: as long as the call may last.
    pub timeout: Option<Duration>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, …
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// At most [`MAX_BODY`] bytes.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The host does not let the plugin go there; its log names the line to add to presence.toml.
    Denied(String),
    /// The URL or a header can't be sent.
    Invalid(String),
    /// No connection, no answer in time, a broken answer.
    Network(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Denied(message) => write!(f, "denied: {message}"),
            Error::Invalid(message) => write!(f, "invalid request: {message}"),
            Error::Network(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl Request {
    /// A request without headers and body.
    pub fn new(method: &str, url: &str) -> Request {
        Request {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a JSON body.
    pub fn json(mut self, body: &impl serde::Serialize) -> Request {
        self.body = serde_json::to_vec(body).unwrap_or_default();
        self.header("content-type", "application/json")
    }

    /// Sets the body.
    pub fn body(mut self, body: Vec<u8>) -> Request {
        self.body = body;
        self
    }

    /// Sends the event id as `Idempotency-Key`: the same on every attempt, so that the server can tell repeats.
    pub fn idempotent(self, context: &Context) -> Request {
        self.header("idempotency-key", &context.event_id)
    }

    /// Waits at most so long for the answer to begin.
    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and reads the answer.
    pub fn send(&self) -> Result<Response, Error> {
        backend::send(self)
    }

    /// Sends it and takes the answer as the shipped plugins do: 2xx is delivered; 408, 425, 429, 5xx and no answer
    /// are tried again (after `Retry-After`, if given); other answers are rejected. A missing grant is tried again as
    /// well: it is mended in presence.toml, and the event is not lost.
    pub fn deliver(&self) -> HookResult {
        let what = format!("{} {}", self.method, without_query(&self.url));
        match self.send() {
            Ok(response) => judge(&what, &response),
            Err(Error::Denied(message)) => {
                Err(HookError::retry_after(format!("{what}: denied: {message}"), Duration::from_secs(5)))
            }
            Err(error @ Error::Invalid(_)) => Err(HookError::reject(format!("{what}: {error}"))),
            Err(error) => Err(HookError::retry(format!("{what}: {error}"))),
        }
    }
}

/// Queries may hold secrets.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

fn judge(what: &str, response: &Response) -> HookResult {
    let message = || format!("{what}: answered {}", response.status);
    match response.status {
        200..=299 => Ok(()),
        408 | 425 | 429 | 500..=599 => match retry_after(response) {
            Some(after) => Err(HookError::retry_after(message(), after)),
            None => Err(HookError::retry(message())),
        },
        _ => Err(HookError::reject(message())),
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let header = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let value = header?.1.trim();
    let after = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
            Duration::from_secs(http_date(value)?.saturating_sub(now.as_secs()))
        }
    };
    Some(after.min(LONGEST_RETRY_AFTER))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = words.next()?;
    let month = months.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..10_000).contains(&year) || day == 0 || day > 31 {
        return None;
    }
    // Days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_era = shifted % 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted / 400 * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(not(target_family = "wasm"))]
use crate::testing::http as backend;

#[cfg(target_family = "wasm")]
mod backend;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn answer(status: u16, headers: &[(&str, &str)]) -> HookResult {
        testing::reset();
        testing::answer(status, headers, b"");
        Request::new("PUT", "https://a.example/x?secret=1").deliver()
    }

    #[test]
    fn answers_are_taken_by_the_rule() {
        assert_eq!(answer(204, &[]), Ok(()));
        for status in [408, 425, 429, 500, 503, 599] {
            let message = format!("PUT https://a.example/x: answered {status}");
            assert_eq!(answer(status, &[]), Err(HookError::retry(message)));
        }
        for status in [302, 400, 401, 404, 410] {
            let message = format!("PUT https://a.example/x: answered {status}");
            assert_eq!(answer(status, &[]), Err(HookError::reject(message)));
        }
        let seconds = HookError::retry_after("PUT https://a.example/x: answered 503", Duration::from_secs(7));
        assert_eq!(answer(503, &[("Retry-After", "7")]), Err(seconds));
        let past = HookError::retry_after("PUT https://a.example/x: answered 503", Duration::ZERO);
        assert_eq!(answer(503, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]), Err(past));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        let no = HookError::retry("PUT https://a.example/x: answered 503");
        assert_eq!(answer(503, &[("retry-after", "soon")]), Err(no));
    }

    #[test]
    fn without_an_answer_it_is_tried_again() {
        testing::reset();
        testing::fail(Error::Network("connection refused".into()));
        let result = Request::new("POST", "https://a.example/").deliver();
        assert_eq!(result, Err(HookError::retry("POST https://a.example/: connection refused")));
    }
}
