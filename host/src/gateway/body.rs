//! JSON bodies of requests: bounded in size and time, of the right content type, and without a field that nobody knows. It
//! knows nothing of what they ask for.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::time::timeout;

use super::problem::{Kind, Problem};

/// How long a body may take to arrive, where `limits.body_timeout` allows as much.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body of at most `MAX_BYTES`, taken by handlers as their last argument: `JsonBody(wish): JsonBody<Wish>`. Types have
/// `#[serde(deny_unknown_fields)]`; whatever is wrong is answered by a problem document before the handler runs.
#[derive(Clone, Debug)]
pub struct JsonBody<T, const MAX_BYTES: usize = { 64 * 1024 }>(pub T);

impl<T, S, const MAX_BYTES: usize> FromRequest<S> for JsonBody<T, MAX_BYTES>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, MAX_BYTES).await?;
        parse(&bytes).map(JsonBody)
    }
}

/// The bytes of a body that says of itself that it is JSON.
pub async fn read(headers: &HeaderMap, body: Body, max_bytes: usize) -> Result<Bytes, Problem> {
    check_kind(headers)?;
    let too_large =
        || Problem::of(Kind::TooLarge, format!("the body is larger than the {max_bytes} bytes it may have"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max_bytes as u64) {
        return Err(too_large());
    }
    match timeout(PATIENCE, Limited::new(body, max_bytes).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::of(Kind::BadRequest, format!("the body did not arrive: {error}"))),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", PATIENCE.as_secs());
            Err(Problem::of(Kind::RequestTimeout, detail))
        }
    }
}

/// What the bytes say.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Else a list would pass for an object, its items for the fields in their order.
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        return Err(Problem::of(Kind::BadBody, "the body must be a JSON object, not a list"));
    }
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => Problem::of(Kind::BadBody, format!("the body does not fit: {error}")),
        _ if bytes.is_empty() => Problem::of(Kind::NotJson, "a JSON body is needed, and there is none"),
        _ => Problem::of(Kind::NotJson, format!("the body is not JSON: {error}")),
    })
}

/// `application/json`, also with `charset=utf-8`, or `application/…+json`; as it is, not compressed.
fn check_kind(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail: &str| Err(Problem::of(Kind::UnsupportedMediaType, detail));
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return unsupported("the body must not be compressed");
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (value, more) = (values.next().and_then(|value| value.to_str().ok()), values.next());
    let Some(value) = value.filter(|_| more.is_none()) else {
        return unsupported("the header Content-Type must be `application/json`");
    };
    let mut parts = value.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media_type = parts.next().unwrap_or_default();
    let suffixed = media_type.strip_prefix("application/").and_then(|rest| rest.strip_suffix("+json"));
    if media_type != "application/json" && suffixed.is_none_or(str::is_empty) {
        return unsupported("the header Content-Type must be `application/json`");
    }
    let of_charset = |part: &str| part.strip_prefix("charset=").map(|name| name.trim_matches('"').to_owned());
    match parts.find_map(|part| of_charset(&part)) {
        Some(charset) if charset != "utf-8" && charset != "utf8" => unsupported("the body must be UTF-8"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::HeaderName;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wish {
        user: String,
        #[serde(default)]
        count: u8,
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    async fn taken(pairs: &[(HeaderName, &'static str)], body: &'static str) -> Result<Wish, Kind> {
        let bytes = read(&headers(pairs), Body::from(body), 32).await.map_err(kind)?;
        parse(&bytes).map_err(kind)
    }

    fn kind(problem: Problem) -> Kind {
        let text = format!("{problem:?}");
        *Kind::ALL.iter().find(|kind| text.contains(&format!("kind: Some({kind:?})"))).unwrap()
    }

    #[tokio::test]
    async fn a_body_is_json_of_the_right_shape_or_a_problem() {
        const JSON: (HeaderName, &str) = (CONTENT_TYPE, "application/json");
        assert_eq!(taken(&[JSON], r#"{"user":"a"}"#).await, Ok(Wish { user: "a".into(), count: 0 }));
        for (body, kind) in [
            ("", Kind::NotJson),
            ("{", Kind::NotJson),
            ("user=a", Kind::NotJson),
            ("{\"user\":\"a\"} {}", Kind::NotJson),
            ("[]", Kind::BadBody),
            (r#"["a", 1]"#, Kind::BadBody),
            ("[", Kind::NotJson),
            ("{}", Kind::BadBody),
            (r#"{"user":"a","more":1}"#, Kind::BadBody),
            (r#"{"user":"a","user":"b"}"#, Kind::BadBody),
            (r#"{"user":"a","count":256}"#, Kind::BadBody),
            (r#"{"user":"aaaaaaaaaaaaaaaaaaaaaaa"}"#, Kind::TooLarge),
        ] {
            assert_eq!(taken(&[JSON], body).await, Err(kind), "{body}");
        }
    }

    #[tokio::test]
    async fn only_plain_json_in_utf_8_is_taken() {
        const BODY: &str = r#"{"user":"a"}"#;
        for fine in [
            "application/json; charset=utf-8",
            "Application/JSON;charset=\"UTF-8\"",
            "application/merge-patch+json",
        ] {
            assert!(taken(&[(CONTENT_TYPE, fine)], BODY).await.is_ok(), "{fine}");
        }
        for other in
            ["text/plain", "application/+json", "application/jsonp", "application/json; charset=latin1", ""]
        {
            assert_eq!(
                taken(&[(CONTENT_TYPE, other)], BODY).await,
                Err(Kind::UnsupportedMediaType),
                "{other}"
            );
        }
        assert_eq!(taken(&[], BODY).await, Err(Kind::UnsupportedMediaType));
        let packed = [(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")];
        assert_eq!(taken(&packed, BODY).await, Err(Kind::UnsupportedMediaType));
    }

    #[tokio::test]
    async fn what_announces_too_much_is_not_read_i8() {
        let announced = headers(&[(CONTENT_TYPE, "application/json"), (CONTENT_LENGTH, "33")]);
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(kind(read(&announced, body, 32).await.unwrap_err()), Kind::TooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_i8() {
        let headers = headers(&[(CONTENT_TYPE, "application/json")]);
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(kind(read(&headers, body, 32).await.unwrap_err()), Kind::RequestTimeout);
    }
}
