//! The requests of a local run: written down, and answered by whoever stands in for the network. Grants are checked as in
//! the daemon, before anybody answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::tape::{Tape, text_of, words};
use crate::plugins::http::{HttpAccess, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES};

/// A request that a guest has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// In capitals.
    pub method: String,
    /// Absolute.
    pub url: String,
    /// In their order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Empty if there is none.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Such as 204.
    pub status: u16,
    /// In their order.
    pub headers: Vec<(String, String)>,
    /// Perhaps empty.
    pub body: Vec<u8>,
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The real network is asked.
    Network,
    /// This answer, after this time.
    Answer(Answered, Duration),
    /// No answer but this failure, after this time.
    Failure(Fault, Duration),
}

/// How a request can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens.
    ConnectionRefused,
    /// The connection took too long to open.
    ConnectionTimeout,
    /// It broke.
    ConnectionTerminated,
    /// The name leads nowhere.
    DnsError,
    /// The answer did not begin in time.
    ResponseTimeout,
    /// The certificate is not to be trusted.
    TlsCertificate,
    /// There is nobody who could answer.
    Unreachable,
}

impl Fault {
    /// All, with the names that scenarios use.
    pub const ALL: [(&'static str, Fault); 7] = [
        ("connection-refused", Fault::ConnectionRefused),
        ("connection-timeout", Fault::ConnectionTimeout),
        ("connection-terminated", Fault::ConnectionTerminated),
        ("dns-error", Fault::DnsError),
        ("response-timeout", Fault::ResponseTimeout),
        ("tls-certificate-error", Fault::TlsCertificate),
        ("destination-unavailable", Fault::Unreachable),
    ];

    fn error(self) -> Error {
        match self {
            Fault::ConnectionRefused => Error::ConnectionRefused,
            Fault::ConnectionTimeout => Error::ConnectionTimeout,
            Fault::ConnectionTerminated => Error::ConnectionTerminated,
            Fault::DnsError => Error::DnsError { rcode: None, info_code: None },
            Fault::ResponseTimeout => Error::HttpResponseTimeout,
            Fault::TlsCertificate => Error::TlsCertificateError,
            Fault::Unreachable => Error::DestinationUnavailable,
        }
    }
}

/// Who answers requests in a local run.
pub trait Web: Send + Sync {
    /// What comes of a request whose origin is granted.
    fn reply(&self, asked: &Asked) -> Reply;
}

/// The real network.
pub struct Network;

impl Web for Network {
    fn reply(&self, _: &Asked) -> Reply {
        Reply::Network
    }
}

/// The way out of one guest in a local run.
pub(in crate::plugins) struct LocalHttp {
    pub(super) access: Arc<HttpAccess>,
    pub(super) web: Arc<dyn Web>,
    pub(super) tape: Arc<Tape>,
}

impl LocalHttp {
    pub(in crate::plugins) async fn send(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let admitted = self.access.admit(&request).map(drop);
        let (head, body) = request.into_parts();
        let body = collected(body, MAX_REQUEST_BYTES).await;
        let asked = Asked {
            method: head.method.to_string(),
            url: head.uri.to_string(),
            headers: pairs(&head.headers),
            body: body.as_ref().map_or_else(|_| Vec::new(), |body| body.to_vec()),
        };
        let ended = match (admitted, body) {
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(()), Ok(body)) => self.ask(&asked, Request::from_parts(head, body), options).await,
        };
        self.write_down(&asked, &ended);
        let answered = ended?;
        let mut response = Response::builder().status(answered.status);
        for (name, value) in &answered.headers {
            response = response.header(name, value);
        }
        let body = Full::new(Bytes::from(answered.body)).map_err(|never| match never {}).boxed_unsync();
        response.body(body).map_err(|_| Error::HttpProtocolError)
    }

    async fn ask(
        &self,
        asked: &Asked,
        request: Request<Bytes>,
        options: RequestOptions,
    ) -> Result<Answered, Error> {
        let (ended, delay) = match self.web.reply(asked) {
            Reply::Network => return self.over_the_network(request, options).await,
            Reply::Answer(answered, delay) => (Ok(answered), delay),
            Reply::Failure(fault, delay) => (Err(fault.error()), delay),
        };
        match options.first_byte_timeout {
            Some(patience) if patience < delay => {
                tokio::time::sleep(patience).await;
                Err(Error::HttpResponseTimeout)
            }
            _ => {
                tokio::time::sleep(delay).await;
                ended
            }
        }
    }

    async fn over_the_network(
        &self,
        request: Request<Bytes>,
        options: RequestOptions,
    ) -> Result<Answered, Error> {
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        let (head, body) = self.access.send(request, options, None).await?.into_parts();
        let body = collected(body, MAX_RESPONSE_BYTES).await?;
        Ok(Answered { status: head.status.as_u16(), headers: pairs(&head.headers), body: body.to_vec() })
    }

    fn write_down(&self, asked: &Asked, ended: &Result<Answered, Error>) {
        let answer = match ended {
            Ok(answered) => answered.status.to_string(),
            Err(error) => told(error),
        };
        let details = json!({
            "request": { "method": asked.method, "url": asked.url, "headers": asked.headers,
                         "body": text_of(&asked.body) },
            "answer": match ended {
                Ok(answered) => json!({ "status": answered.status, "headers": answered.headers,
                                        "body": text_of(&answered.body) }),
                Err(_) => Value::from(answer.clone()),
            },
        });
        self.tape.call("http", words([asked.method.as_str(), &asked.url]), answer, details);
    }
}

/// In the words of scenarios, where they have some.
fn told(error: &Error) -> String {
    let known = Fault::ALL
        .into_iter()
        .find(|(_, fault)| std::mem::discriminant(&fault.error()) == std::mem::discriminant(error));
    match (known, error) {
        (Some((name, _)), _) => name.to_owned(),
        (None, Error::HttpRequestDenied | Error::DestinationIpProhibited) => "denied".to_owned(),
        (None, other) => format!("{other:?}"),
    }
}

async fn collected(body: WasiBody, limit: usize) -> Result<Bytes, Error> {
    let ended = Limited::new(body, limit).collect().await;
    ended.map(|collected| collected.to_bytes()).map_err(|error| match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(_) => Error::HttpRequestBodySize(Some(limit as u64)),
    })
}

fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), text_of(value.as_bytes()))).collect()
}
