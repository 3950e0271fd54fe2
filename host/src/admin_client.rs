//! Asks the admin API of a host, for the verbs of the command line that print something. Knows HTTP and problem
//! documents, not what the answers mean.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::table::printable;

/// How long an answer may take in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// What RFC 3986 calls unreserved stays as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as one value of a query or one segment of a path.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The part of a problem document that people need.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// How a request to change something was answered.
pub enum Posted<T> {
    /// With what was done.
    Done(T),
    /// The host refuses it, for the reasons in the problem document.
    Refused(Refusal),
}

/// Why a host refuses to change something.
#[derive(Deserialize)]
pub struct Refusal {
    /// The sentence for people.
    pub detail: String,
    /// Each thing that is wrong.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// The sentence for people in an answer that is not a success.
pub fn detail(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{status}: {}", printable(&problem.detail)),
        Err(_) => status.to_string(),
    }
}

/// `GET {base}{path}`, read as JSON.
pub async fn get<T: DeserializeOwned>(base: &str, path: &str) -> anyhow::Result<T> {
    send(Method::GET, base, path).await
}

/// `GET {base}{path}`, as text.
pub async fn text(base: &str, path: &str) -> anyhow::Result<String> {
    let (base, status, body) = ask(Method::GET, base, path, PATIENCE).await?;
    if !status.is_success() {
        bail!("{base} answers {}", detail(status, &body));
    }
    String::from_utf8(body.into()).with_context(|| format!("{base}{path} is no text"))
}

/// Another method, without a body; any success is read as JSON.
pub async fn send<T: DeserializeOwned>(method: Method, base: &str, path: &str) -> anyhow::Result<T> {
    let (base, status, body) = ask(method, base, path, PATIENCE).await?;
    if !status.is_success() {
        bail!("{base} answers {}", detail(status, &body));
    }
    read(base, &body)
}

/// `POST {base}{path}` without a body; 422 is a refusal.
pub async fn post<T: DeserializeOwned>(
    base: &str,
    path: &str,
    patience: Duration,
) -> anyhow::Result<Posted<T>> {
    let (base, status, body) = ask(Method::POST, base, path, patience).await?;
    match status {
        StatusCode::OK => read(base, &body).map(Posted::Done),
        StatusCode::UNPROCESSABLE_ENTITY => read(base, &body).map(Posted::Refused),
        _ => bail!("{base} answers {}", detail(status, &body)),
    }
}

fn read<T: DeserializeOwned>(base: &str, body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body)
        .with_context(|| format!("{base} does not answer as the admin API of a host does"))
}

async fn ask<'b>(
    method: Method,
    base: &'b str,
    path: &str,
    patience: Duration,
) -> anyhow::Result<(&'b str, StatusCode, Bytes)> {
    let base = base.trim_end_matches('/');
    let uri: Uri = format!("{base}{path}").parse().with_context(|| format!("--admin {base} is no URL"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        bail!("--admin {base}: give it as http://HOST:PORT, the host.admin of presence.toml");
    }
    let (status, body) = tokio::time::timeout(patience, fetch(method, base, uri))
        .await
        .map_err(|_| anyhow!("{base} does not answer within {} s", patience.as_secs()))??;
    Ok((base, status, body))
}

async fn fetch(method: Method, base: &str, uri: Uri) -> anyhow::Result<(StatusCode, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let response = client.request(request).await.map_err(|error| {
        if error.is_connect() {
            anyhow!(error).context(format!(
                "nothing answers at {base} (is `presence serve` running, with host.admin at this address?)"
            ))
        } else {
            anyhow!(error).context(format!("{base} can't be asked"))
        }
    })?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| anyhow!(error).context(format!("the answer of {base} can't be read")))?;
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_survive_encoding() {
        assert_eq!(encoded("a/b c+d&e=ë~"), "a%2Fb%20c%2Bd%26e%3D%C3%AB~");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let said = async |base: &str| format!("{:#}", get::<()>(base, "/healthz").await.unwrap_err());
        assert!(said("https://localhost").await.contains("give it as http://HOST:PORT"));
        assert!(said("localhost:7071").await.contains("--admin localhost:7071"));
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(said(&format!("http://{free}")).await.contains("is `presence serve` running"));
    }
}
