//! Requests of guests to the world outside: granted origins only, pooled connections, a limit on everything.
//!
//! Each granted origin has a client of its own, so that a connection opened under one grant never serves another.
//! Redirects are handed to the guest as they are: following one is a request like any other.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::denials::Denials;
use super::grants::{self, Denied};
use super::local::web::LocalHttp;
use crate::settings::HttpGrant;
use crate::traces::{HookTrace, Running};

mod body;
mod resolver;

use body::ResponseBody;
use resolver::{GrantedResolver, ResolveError};

/// The header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";
/// Opening a TCP connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the start of a request to the head of its answer, unless the guest asks for less.
pub(super) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two pieces of an answer, unless the guest asks for less.
pub(super) const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest request body, in bytes.
pub(super) const MAX_REQUEST_BYTES: usize = 1 << 20;
/// The largest response body, in bytes.
pub(super) const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Requests of one guest at once, until their answers are read or dropped: each takes a socket, and memory of the host.
pub(super) const MAX_AT_ONCE: usize = 16;
/// What is read ahead of a connection, in bytes; also the longest head of an answer.
pub(super) const READ_AHEAD_BYTES: usize = 64 << 10;
/// What a guest may write at once of a request's body, in bytes.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Names of one plugin that are looked up at once: a lookup that takes its time occupies a thread.
pub(super) const MAX_LOOKUPS: usize = 4;
/// Idle connections that are kept open for each origin, and for how long.
const MAX_IDLE_CONNECTIONS: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

type RequestBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Plain = HttpConnector<GrantedResolver>;

enum OriginClient {
    Plain(Client<Plain, RequestBody>),
    Tls(Client<HttpsConnector<Plain>, RequestBody>),
}

impl OriginClient {
    fn new(grant: &HttpGrant, lookups: &Arc<Semaphore>) -> std::io::Result<OriginClient> {
        let resolver = GrantedResolver::new(grant.clone(), lookups.clone());
        let mut connector = HttpConnector::new_with_resolver(resolver);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .http1_max_buf_size(READ_AHEAD_BYTES);
        if grant.scheme == "https" {
            let connector = HttpsConnectorBuilder::new()
                // Named, not guessed from what other libraries bring along.
                .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
                .https_only()
                .enable_http1()
                .wrap_connector(connector);
            Ok(OriginClient::Tls(builder.build(connector)))
        } else {
            Ok(OriginClient::Plain(builder.build(connector)))
        }
    }

    async fn request(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, legacy::Error> {
        match self {
            OriginClient::Plain(client) => client.request(request).await,
            OriginClient::Tls(client) => client.request(request).await,
        }
    }
}

/// What one plugin may call, and the connections it has. Shared by its guests.
pub struct HttpAccess {
    plugin: Arc<str>,
    grants: Vec<HttpGrant>,
    /// One for each grant.
    clients: Vec<OriginClient>,
    denials: Arc<Denials>,
}

impl HttpAccess {
    /// Fails when there is a grant for https and no root certificate to check servers with.
    pub fn new(
        plugin: Arc<str>,
        grants: Vec<HttpGrant>,
        denials: Arc<Denials>,
    ) -> std::io::Result<HttpAccess> {
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
        let clients =
            grants.iter().map(|grant| OriginClient::new(grant, &lookups)).collect::<Result<_, _>>()?;
        Ok(HttpAccess { plugin, grants, clients, denials })
    }

    /// The client for a request, or why there is none; tells the operator what is missing.
    pub(super) fn admit(&self, request: &Request<WasiBody>) -> Result<usize, Error> {
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let origin = grants::allow(&self.grants, request.uri()).map_err(|denied| match denied {
            Denied::Malformed => Error::HttpRequestUriInvalid,
            Denied::Origin(origin) => {
                let line = grants::line_with_origin(&self.grants, &origin);
                self.denials.tell(&format!("a request to {origin}"), &line);
                Error::HttpRequestDenied
            }
        })?;
        // Literal addresses are never resolved, so they are checked here.
        match self.grants[origin].host.parse::<IpAddr>() {
            Ok(address) if !grants::allow_address(&self.grants[origin], address) => {
                Err(self.prohibited(origin, &[address]))
            }
            _ => Ok(origin),
        }
    }

    fn prohibited(&self, origin: usize, addresses: &[IpAddr]) -> Error {
        let line = grants::line_with_addresses(&self.grants, origin, addresses);
        let host = &self.grants[origin].host;
        let what = format!("the private address of {host} ({})", grants::list(addresses));
        self.denials.tell(&what, &line);
        Error::DestinationIpProhibited
    }

    pub(super) async fn send(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Response<WasiBody>, Error> {
        let origin = self.admit(&request)?;
        let mut request = request;
        let uri = std::mem::take(request.uri_mut());
        *request.uri_mut() =
            grants::normalise(&self.grants[origin], uri).map_err(|_| Error::HttpRequestUriInvalid)?;
        let limited = |body: WasiBody| Limited::new(body, MAX_REQUEST_BYTES).boxed_unsync();
        let answer = self.clients[origin].request(request.map(limited));
        let patience = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT).min(FIRST_BYTE_TIMEOUT);
        let response = tokio::time::timeout(patience, answer)
            .await
            .map_err(|_| Error::HttpResponseTimeout)?
            .map_err(|error| self.classify(origin, &error))?;
        let pause = options.between_bytes_timeout.unwrap_or(BETWEEN_BYTES_TIMEOUT).min(BETWEEN_BYTES_TIMEOUT);
        Ok(response.map(|body| ResponseBody::new(body, MAX_RESPONSE_BYTES, pause, place).boxed_unsync()))
    }

    /// In the words that a guest understands.
    fn classify(&self, origin: usize, error: &legacy::Error) -> Error {
        tracing::debug!(plugin = %self.plugin, host = self.grants[origin].host, ?error, "a request failed");
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(part) = cause {
            match part.downcast_ref::<ResolveError>() {
                Some(ResolveError::Prohibited(addresses)) => {
                    return self.prohibited(origin, addresses);
                }
                Some(ResolveError::Lookup(reason)) => {
                    return Error::DnsError { rcode: Some(reason.to_string()), info_code: None };
                }
                None => {}
            }
            if part.is::<LengthLimitError>() {
                return Error::HttpRequestBodySize(Some(MAX_REQUEST_BYTES as u64));
            }
            if let Some(io) = part.downcast_ref::<std::io::Error>() {
                return classify_io(io, error.is_connect());
            }
            cause = part.source();
        }
        if error.is_connect() { Error::DestinationUnavailable } else { Error::ConnectionTerminated }
    }
}

fn classify_io(error: &std::io::Error, connecting: bool) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        ErrorKind::TimedOut if connecting => Error::ConnectionTimeout,
        // What rustls reports: a certificate that is not trusted, or no TLS at all.
        ErrorKind::InvalidData if connecting && error.to_string().contains("certificate") => {
            Error::TlsCertificateError
        }
        ErrorKind::InvalidData if connecting => Error::TlsProtocolError,
        _ if connecting => Error::DestinationUnavailable,
        _ => Error::ConnectionTerminated,
    }
}

/// Where the requests of a guest go; one for each guest.
#[derive(Clone)]
pub(super) enum Outbound {
    /// The daemon's way, and the guest's places for requests.
    Network(Arc<HttpAccess>, Arc<Semaphore>),
    /// Of a local run.
    Local(Arc<LocalHttp>),
}

impl Outbound {
    /// The daemon's way.
    pub(super) fn network(access: Arc<HttpAccess>) -> Outbound {
        Outbound::Network(access, Arc::new(Semaphore::new(MAX_AT_ONCE)))
    }

    /// The same for one more guest.
    pub(super) fn of_guest(&self) -> Outbound {
        match self {
            Outbound::Network(access, _) => Outbound::network(access.clone()),
            Outbound::Local(local) => Outbound::Local(local.clone()),
        }
    }

    async fn send(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        match self {
            Outbound::Network(access, places) => {
                let place = places.clone().try_acquire_owned();
                access.send(request, options, Some(place.map_err(|_| Error::ConnectionLimitReached)?)).await
            }
            Outbound::Local(local) => local.send(request, options).await,
        }
    }
}

/// The view that wasmtime-wasi-http has of an [`Outbound`].
pub(super) struct Requests {
    way: Outbound,
    /// Of the hook that runs, if it is traced.
    pub(super) trace: Option<HookTrace>,
}

impl Requests {
    pub(super) fn new(way: Outbound) -> Requests {
        Requests { way, trace: None }
    }
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(Response<WasiBody>, Done), Error>> + Send>;

impl WasiHttpHooks for Requests {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Done,
    ) -> Sent {
        let way = self.way.clone();
        let traced = self.trace.as_ref().map(|hook| traced(hook, &mut request));
        Box::new(async move {
            let ended = way.send(request, options.unwrap_or_default()).await;
            match (traced, &ended) {
                (Some(traced), Ok(response)) => {
                    let status = response.status().as_u16();
                    traced.end(status.to_string(), status >= 400);
                }
                // Not why: an error may name what the guest asked for.
                (Some(traced), Err(_)) => traced.end("failed", true),
                (None, _) => {}
            }
            let response = ended?;
            // The client drives its connections itself: there is nothing left to wait for.
            Ok((response, Box::new(std::future::ready(Ok(()))) as Done))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

/// The span of a request. Its receiver is told, unless the guest has told him something else.
fn traced(hook: &HookTrace, request: &mut Request<WasiBody>) -> Running {
    let span = hook.request();
    let headers = request.headers_mut();
    if let Ok(traceparent) = HeaderValue::from_str(&span.context.to_string())
        && !headers.contains_key(TRACEPARENT)
    {
        // A guest may have used up the room for headers.
        let _ = headers.try_insert(TRACEPARENT, traceparent);
    }
    span
}

/// A boxed future of the resolver.
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[cfg(test)]
mod tests;
