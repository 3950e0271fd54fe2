//! Errors over HTTP as RFC 9457 problem documents. What kinds there are is fixed here; what went wrong this time is told by
//! whoever makes one.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

/// The media type of problem documents.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What every `type` begins with.
const PREFIX: &str = "urn:presence:problem:";

/// What kind of problem it is: programs may rely on its word, which never changes. Listed in docs/http-api.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The request can't be understood.
    BadRequest,
    /// A parameter of the path or the query is unknown, missing, repeated, not decodable or out of range.
    BadParameter,
    /// A cursor or an event id that is not of this deployment, or not for this question.
    BadCursor,
    /// The body is not JSON.
    NotJson,
    /// Who asks is not known.
    Unauthorized,
    /// Who asks may not.
    Forbidden,
    /// Nothing is there.
    NotFound,
    /// The method is not one of those that the address has.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// It contradicts what is there.
    Conflict,
    /// It was there, and is over for good.
    Gone,
    /// The body is larger than it may be.
    TooLarge,
    /// The body is of another kind than the address takes.
    UnsupportedMediaType,
    /// The body is JSON, and not what the address takes.
    BadBody,
    /// It is understood, and can't be done.
    Unprocessable,
    /// More than this host allows.
    TooManyRequests,
    /// A fault of this program.
    Internal,
    /// Not now; the same request may succeed later.
    Unavailable,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 18] = [
        Kind::BadRequest,
        Kind::BadParameter,
        Kind::BadCursor,
        Kind::NotJson,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::RequestTimeout,
        Kind::Conflict,
        Kind::Gone,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::BadBody,
        Kind::Unprocessable,
        Kind::TooManyRequests,
        Kind::Internal,
        Kind::Unavailable,
    ];

    /// The last word of `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::BadRequest => "bad-request",
            Kind::BadParameter => "bad-parameter",
            Kind::BadCursor => "bad-cursor",
            Kind::NotJson => "not-json",
            Kind::Unauthorized => "unauthorized",
            Kind::Forbidden => "forbidden",
            Kind::NotFound => "not-found",
            Kind::MethodNotAllowed => "method-not-allowed",
            Kind::RequestTimeout => "request-timeout",
            Kind::Conflict => "conflict",
            Kind::Gone => "gone",
            Kind::TooLarge => "too-large",
            Kind::UnsupportedMediaType => "unsupported-media-type",
            Kind::BadBody => "bad-body",
            Kind::Unprocessable => "unprocessable",
            Kind::TooManyRequests => "too-many-requests",
            Kind::Internal => "internal",
            Kind::Unavailable => "unavailable",
        }
    }

    /// The whole `type`.
    pub fn uri(self) -> String {
        format!("{PREFIX}{}", self.as_str())
    }

    /// The status that it comes with.
    pub fn status(self) -> StatusCode {
        match self {
            Kind::BadRequest | Kind::BadParameter | Kind::BadCursor | Kind::NotJson => {
                StatusCode::BAD_REQUEST
            }
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Gone => StatusCode::GONE,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::BadBody | Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What a status says by itself.
    fn of(status: StatusCode) -> Option<Kind> {
        // Of several with one status the widest is meant.
        let widest = |kind: &&Kind| !matches!(kind, Kind::BadBody);
        Kind::ALL.iter().filter(widest).find(|kind| kind.status() == status).copied()
    }
}

/// An answer that says what was wrong.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    kind: Option<Kind>,
    detail: String,
    errors: Vec<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    errors: &'a [String],
}

impl Problem {
    /// `detail` is for the person who reads the answer: what failed, and what to do. The kind is what the status says.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            kind: Kind::of(status),
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// A problem of this kind, with its status.
    pub fn of(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem { kind: Some(kind), ..Problem::new(kind.status(), detail) }
    }

    /// With every single thing that is wrong, as `errors`.
    pub fn with_errors(mut self, errors: Vec<String>) -> Problem {
        self.errors = errors;
        self
    }

    /// With one more header.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Problem> for Response<Body> {
    fn from(problem: Problem) -> Response<Body> {
        let kind = problem.kind.map(Kind::uri);
        let document = Document {
            r#type: kind.as_deref().unwrap_or("about:blank"),
            title: problem.status.canonical_reason().unwrap_or("Error"),
            status: problem.status.as_u16(),
            detail: &problem.detail,
            errors: &problem.errors,
        };
        let text = serde_json::to_string(&document).expect("strings and numbers always become JSON");
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = problem.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in problem.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_alone_stands_for_its_widest_kind() {
        let kind = |status| Problem::new(status, "").kind;
        assert_eq!(kind(StatusCode::BAD_REQUEST), Some(Kind::BadRequest));
        assert_eq!(kind(StatusCode::UNPROCESSABLE_ENTITY), Some(Kind::Unprocessable));
        assert_eq!(kind(StatusCode::IM_A_TEAPOT), None);
        for one in Kind::ALL {
            assert!(Kind::of(one.status()).is_some());
        }
    }
}
