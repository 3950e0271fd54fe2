//! The WebSocket opening handshake (RFC 6455, section 4.2) as far as HTTP headers go: what the client asks for, and
//! the answer that grants it.

use axum::body::Body;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::auth::BEARER_PROTOCOL;
use super::problem::Problem;
use super::protocol::SUBPROTOCOL;

/// A correct request for a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake {
    accept: String,
    speaks_presence: bool,
}

/// What is wrong with a request for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHandshake {
    /// 426
    #[error("this address speaks WebSocket: ask for an upgrade")]
    NoUpgrade,
    /// 426
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
    /// 400
    #[error("a request for a WebSocket has no body")]
    Body,
    /// 400
    #[error("the header Sec-WebSocket-Key is missing or not the base64 of 16 bytes")]
    Key,
    /// 400
    #[error("of the offered subprotocols none is known here: offer `presence.v1`, or none")]
    Protocol,
}

impl From<BadHandshake> for Problem {
    fn from(bad: BadHandshake) -> Problem {
        match bad {
            BadHandshake::NoUpgrade | BadHandshake::Version => {
                Problem::new(StatusCode::UPGRADE_REQUIRED, bad.to_string())
                    .with(UPGRADE, HeaderValue::from_static("websocket"))
                    .with(CONNECTION, HeaderValue::from_static("upgrade"))
                    .with(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            }
            BadHandshake::Body => Problem::new(StatusCode::BAD_REQUEST, bad.to_string())
                .with(CONNECTION, HeaderValue::from_static("close")),
            BadHandshake::Key | BadHandshake::Protocol => {
                Problem::new(StatusCode::BAD_REQUEST, bad.to_string())
            }
        }
    }
}

impl Handshake {
    /// Checks a request that has already been found to be a GET.
    pub fn read(request: &Parts) -> Result<Handshake, BadHandshake> {
        // HTTP/1.0 knows no upgrades (RFC 9110, 7.8).
        if request.version < http::Version::HTTP_11 {
            return Err(BadHandshake::NoUpgrade);
        }
        // What follows the head would be taken for frames.
        let is_empty = request.headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
        if !is_empty || request.headers.contains_key(TRANSFER_ENCODING) {
            return Err(BadHandshake::Body);
        }
        if !lists(request, CONNECTION, "upgrade") || !lists(request, UPGRADE, "websocket") {
            return Err(BadHandshake::NoUpgrade);
        }
        if request.headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(BadHandshake::Version);
        }
        let key = request.headers.get(SEC_WEBSOCKET_KEY).ok_or(BadHandshake::Key)?.as_bytes();
        if key.len() != 24 || !key.ends_with(b"==") {
            return Err(BadHandshake::Key);
        }
        let speaks_presence = offered_protocols(request).any(|protocol| protocol == SUBPROTOCOL);
        let offers_known = speaks_presence
            || offered_protocols(request).any(|protocol| protocol.starts_with(BEARER_PROTOCOL))
            || offered_protocols(request).next().is_none();
        if !offers_known {
            return Err(BadHandshake::Protocol);
        }
        Ok(Handshake { accept: derive_accept_key(key), speaks_presence })
    }

    /// The answer that switches protocols. Never repeats an offered token.
    pub fn answer(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::from_str(&self.accept).expect("base64 is a header value");
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if self.speaks_presence {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        response
    }
}

/// The offered subprotocols in their order.
pub fn offered_protocols(request: &Parts) -> impl Iterator<Item = &str> {
    let values = request.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

fn lists(request: &Parts, name: HeaderName, wanted: &str) -> bool {
    let values = request.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: &[(HeaderName, Option<&str>)]) -> Parts {
        let mut headers = vec![
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.retain(|(name, _)| change.iter().all(|(changed, _)| changed != name));
        let mut request = http::Request::builder();
        let changed = change.iter().filter_map(|(name, value)| Some((name.clone(), (*value)?)));
        for (name, value) in headers.into_iter().chain(changed) {
            request = request.header(name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_example_of_rfc_6455_is_answered_as_it_says() {
        let answer = Handshake::read(&request(&[])).unwrap().answer();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!answer.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn presence_v1_is_chosen_if_offered_and_tokens_are_not_repeated() {
        let chosen = |offered| {
            let handshake = Handshake::read(&request(&[(SEC_WEBSOCKET_PROTOCOL, Some(offered))]))?;
            Ok(handshake.answer().headers().get(SEC_WEBSOCKET_PROTOCOL).cloned())
        };
        let ours = Ok(Some(HeaderValue::from_static("presence.v1")));
        assert_eq!(chosen("presence.v1"), ours);
        assert_eq!(chosen("bearer.abc, chat ,presence.v1"), ours);
        assert_eq!(chosen("bearer.abc"), Ok(None));
        assert_eq!(chosen("chat, presence.v2"), Err(BadHandshake::Protocol));
    }

    #[test]
    fn other_requests_are_told_what_is_missing() {
        let refused = |name, value| Handshake::read(&request(&[(name, value)])).unwrap_err();
        assert_eq!(refused(CONNECTION, None), BadHandshake::NoUpgrade);
        assert_eq!(refused(UPGRADE, Some("h2c")), BadHandshake::NoUpgrade);
        assert_eq!(refused(SEC_WEBSOCKET_VERSION, Some("8")), BadHandshake::Version);
        assert_eq!(refused(CONTENT_LENGTH, Some("1")), BadHandshake::Body);
        assert_eq!(refused(TRANSFER_ENCODING, Some("chunked")), BadHandshake::Body);
        assert_eq!(refused(SEC_WEBSOCKET_KEY, None), BadHandshake::Key);
        assert_eq!(refused(SEC_WEBSOCKET_KEY, Some("short")), BadHandshake::Key);
    }
}
