//! HTTP requests that the host makes by itself: spans to a collector, keys from an issuer. Few and small; whoever makes
//! one bounds its time and its answer. What plugins ask for goes through `plugins/http.rs`, which has grants.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Asks one server, and keeps one connection to it. Redirects are answers like any other.
pub(crate) enum Requester {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Requester {
    /// With `https` it checks the server with the system's certificates, and fails if there are none.
    pub(crate) fn new(https: bool) -> std::io::Result<Requester> {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_max_idle_per_host(1);
        if !https {
            return Ok(Requester::Plain(builder.build(HttpConnector::new())));
        }
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_only()
            .enable_http1()
            .build();
        Ok(Requester::Tls(builder.build(connector)))
    }

    /// With `https`, and a server that this trusts.
    pub(crate) fn trusting(config: rustls::ClientConfig) -> Requester {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_max_idle_per_host(1);
        Requester::Tls(builder.build(connector))
    }

    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        match self {
            Requester::Plain(client) => client.request(request).await,
            Requester::Tls(client) => client.request(request).await,
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(part) = cause {
        text.push_str(": ");
        text.push_str(&part.to_string());
        cause = part.source();
    }
    text
}
