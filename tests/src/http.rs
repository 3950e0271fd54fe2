//! Asking a daemon's HTTP listeners.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::waiting::within;

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Its `content-type`, or nothing.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON. Panics if it is something else.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Sends one request without a body; `Err` if nobody listens.
pub async fn ask(method: &str, address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    send(method, address, path, &[], String::new()).await
}

/// The same, with these headers.
pub async fn ask_with(
    method: &str,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<Answer> {
    send(method, address, path, headers, String::new()).await
}

/// The same, with these headers and this body.
pub async fn send(
    method: &str,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> std::io::Result<Answer> {
    let exchange = exchange(method, address, path, headers, body.into());
    within(format!("the answer to {method} {path}"), exchange).await
}

async fn exchange(
    method: &str,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> std::io::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let driving = tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).expect("tests ask for valid paths");
    let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let status = response.status().as_u16();
    let header = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    let content_type = header.unwrap_or_default().to_owned();
    let body = response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    driving.abort();
    Ok(Answer { status, content_type, body: String::from_utf8_lossy(&body).into_owned() })
}
