//! The two listeners: bound first, so that a port in use is known before anything starts, then served. Accepts,
//! bounds and ends connections; what is asked on them is for `http.rs` and `admin.rs`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::Handle;
use super::admin::{self, AdminDeps, Guard};
use super::auth::Authenticator;
use super::bounds::Bounds;
use super::callers::Callers;
use super::http::{self as client_side, Door};
use super::limits::Limits;
use super::proxies::Proxies;
use super::stream::Stream;
use super::timed_body::timed;
use super::tls::{Tls, TlsError};
use super::traffic::{Cut, Refusal, Traffic};
use crate::certificates::TlsFiles;
use crate::settings::{AuthMode, ClientLimits, Settings};
use crate::traces::Tracer;

/// The longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// Connections that the operating system holds for us until they are accepted.
const BACKLOG: u32 = 4096;

/// Connections to the admin listener at once; they are kept out of the clients' share.
const ADMIN_CONNECTIONS: usize = 64;

/// Clients that are told "too many connections" at once; more are dropped without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// How long [`Listeners::serve`] waits for connections to end once it has been told to stop.
const STOP_WAIT: Duration = Duration::from_secs(3);

const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n\
connection: close\r\ncontent-length: 137\r\n\r\n{\"type\":\"urn:presence:problem:unavailable\",\
\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"this host has as many clients as it may\"}";

/// Why a listener could not be set up. Nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// In use, no permission, not an address of this machine.
    #[error("host.{key}: can't listen on {address}")]
    Address {
        /// `listen` or `admin`.
        key: &'static str,
        /// As configured.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The server of a key set could not be checked.
    #[error("auth.jwks.url: no root certificates to check the server with")]
    Roots(#[source] io::Error),
    /// `auth.mode = "none"` is for programs on this machine.
    #[error(
        "auth.mode is \"none\", but host.{key} is {address}: use a loopback address, or auth.mode \"jwt\""
    )]
    OpenToOthers {
        /// `listen` or `admin`.
        key: &'static str,
        /// As configured.
        address: SocketAddr,
    },
    /// A certificate that can't be shown.
    #[error("host.{key}")]
    Tls {
        /// `tls` or `admin_tls`.
        key: &'static str,
        /// What is wrong with it.
        source: TlsError,
    },
    /// Whoever reaches the API could change everything.
    #[error(
        "host.admin is {0}, and there is no [[api.key]]: add a key (`presence keys new`), or use a loopback address"
    )]
    OpenAdmin(SocketAddr),
}

/// What all connections of clients share.
pub(super) struct Gate {
    pub(super) authenticator: Authenticator,
    pub(super) heartbeat_ms: u64,
    pub(super) limits: Arc<Limits>,
    pub(super) proxies: Proxies,
    pub(super) traffic: Arc<Traffic>,
    pub(super) bounds: Bounds,
    pub(super) tracer: Tracer,
}

/// A place among the connections, held as long as the connection lives.
#[derive(Debug)]
pub(super) struct Slot {
    /// The other end of the socket, which may be a proxy.
    pub(super) peer: IpAddr,
    /// Ends the connection at once: it takes nothing.
    pub(super) cut: CancellationToken,
    /// Whether any request came over it.
    asked: AtomicBool,
    _permit: OwnedSemaphorePermit,
}

/// Both listeners, bound; connections wait in the backlog until [`Listeners::serve`].
pub struct Listeners {
    clients: TcpListener,
    admin: TcpListener,
    client_address: SocketAddr,
    admin_address: SocketAddr,
    authenticator: Authenticator,
    callers: Arc<Callers>,
    heartbeat_ms: u64,
    limits: ClientLimits,
    proxies: Proxies,
    tls: Option<Tls>,
    admin_tls: Option<Tls>,
    max_clients: usize,
    bounds: Bounds,
    tracer: Tracer,
}

/// Takes the keys and binds both listeners. Port 0 takes any free port. Raises the process's limit of open files as
/// far as it may, and takes the number of client connections from it.
pub async fn bind(settings: &Settings) -> Result<Listeners, BindError> {
    let host = &settings.host;
    if matches!(settings.auth.mode, AuthMode::None) {
        for (key, address) in [("listen", host.listen), ("admin", host.admin)] {
            if !address.ip().to_canonical().is_loopback() {
                return Err(BindError::OpenToOthers { key, address });
            }
        }
    }
    if settings.api.is_empty() && !host.admin.ip().to_canonical().is_loopback() {
        return Err(BindError::OpenAdmin(host.admin));
    }
    if let AuthMode::Jwt(jwt) = &settings.auth.mode {
        jwt.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    let authenticator = Authenticator::new(&settings.auth).map_err(BindError::Roots)?;
    let tls = read_tls("tls", host.tls.as_ref())?;
    let admin_tls = read_tls("admin_tls", host.admin_tls.as_ref())?;
    let (clients, client_address) = listen("listen", host.listen)?;
    let (admin, admin_address) = listen("admin", host.admin)?;
    Ok(Listeners {
        clients,
        admin,
        client_address,
        admin_address,
        authenticator,
        callers: Callers::new(settings.api.clone()),
        heartbeat_ms: u64::try_from(settings.presence.heartbeat.as_millis()).unwrap_or(u64::MAX),
        limits: settings.limits,
        proxies: Proxies { networks: host.trusted_proxies.clone(), header: host.proxy_header },
        tls,
        admin_tls,
        max_clients: client_share(raise_open_files()),
        bounds: Bounds::of(&settings.limits),
        tracer: Tracer::off(),
    })
}

fn read_tls(key: &'static str, files: Option<&TlsFiles>) -> Result<Option<Tls>, BindError> {
    files.map(Tls::new).transpose().map_err(|source| BindError::Tls { key, source })
}

fn listen(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let bound = || -> io::Result<(TcpListener, SocketAddr)> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted host must not wait for the connections of the previous one to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|source| BindError::Address { key, address, source })
}

/// Raises the soft limit of open files to the hard one; the limit then in force.
fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        tracing::debug!(?current, ?maximum, "the limit of open files could not be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What is left for clients when files, stores, plugins and the admin listener have theirs.
fn client_share(open_files: u64) -> usize {
    let reserved = (open_files / 4).min(512);
    usize::try_from(open_files - reserved).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
}

impl Listeners {
    /// Where clients connect; the real port.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where the admin API is; the real port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Who may ask the admin listener; other keys can take the place of these.
    pub fn callers(&self) -> Arc<Callers> {
        self.callers.clone()
    }

    /// At most so many clients are connected at once.
    pub fn max_clients(&self) -> usize {
        self.max_clients
    }

    /// Messages of clients begin traces.
    pub fn traced(self, tracer: Tracer) -> Listeners {
        Listeners { tracer, ..self }
    }

    #[cfg(test)]
    pub(super) fn limited(self, max_clients: usize, bounds: Bounds) -> Listeners {
        Listeners { max_clients, bounds, ..self }
    }

    /// Serves both listeners until `shutdown`, then waits a few seconds for connections to end. Whoever stops the
    /// host lets the driver say goodbye to the sessions first: this ends what is left.
    pub async fn serve(self, handle: Handle, deps: AdminDeps, shutdown: CancellationToken) {
        let traffic = Arc::new(Traffic::default());
        let tasks = TaskTracker::new();
        let gate = Arc::new(Gate {
            authenticator: self.authenticator,
            heartbeat_ms: self.heartbeat_ms,
            limits: Limits::new(self.limits),
            proxies: self.proxies,
            traffic: traffic.clone(),
            bounds: self.bounds,
            tracer: self.tracer,
        });
        let (keeping, closing) = (gate.clone(), shutdown.clone());
        tasks.spawn(async move { keeping.authenticator.keep_keys(&keeping.traffic, &closing).await });
        let door = Door { gate, handle: handle.clone(), sessions: tasks.clone() };
        let guard = Guard {
            is_loopback: self.admin_address.ip().to_canonical().is_loopback(),
            callers: self.callers,
            traffic: traffic.clone(),
        };
        let closing = shutdown.clone();
        let shared = Shared { tasks: tasks.clone(), shutdown, traffic: traffic.clone(), bounds: self.bounds };
        let clients = Counter {
            shared: shared.clone(),
            router: client_side::router(door),
            guard: None,
            tls: self.tls,
            is_for: "clients",
        };
        let admin = Counter {
            shared,
            router: admin::router(handle, deps, traffic, closing),
            guard: Some(guard),
            tls: self.admin_tls,
            is_for: "the admin API",
        };
        clients.keep_certificate();
        admin.keep_certificate();
        tokio::join!(
            clients.accept(self.clients, self.max_clients),
            admin.accept(self.admin, ADMIN_CONNECTIONS)
        );
        tasks.close();
        if timeout(STOP_WAIT, tasks.wait()).await.is_err() {
            tracing::warn!(connections = tasks.len(), "some connections did not end in time and are dropped");
        }
    }
}

#[derive(Clone)]
struct Shared {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    traffic: Arc<Traffic>,
    bounds: Bounds,
}

/// One listener at work.
#[derive(Clone)]
struct Counter {
    shared: Shared,
    router: Router,
    guard: Option<Guard>,
    tls: Option<Tls>,
    is_for: &'static str,
}

impl Counter {
    fn keep_certificate(&self) {
        if let Some(tls) = self.tls.clone() {
            let (is_for, traffic, closing) =
                (self.is_for, self.shared.traffic.clone(), self.shared.shutdown.clone());
            self.shared.tasks.spawn(async move { tls.keep(is_for, &traffic, &closing).await });
        }
    }

    async fn accept(self, listener: TcpListener, max_connections: usize) {
        let places = Arc::new(Semaphore::new(max_connections));
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
        let mut warned = None::<Instant>;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.shutdown.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.pause_after(&error).await;
                    continue;
                }
            };
            if let Ok(permit) = places.clone().try_acquire_owned() {
                let (cut, asked) = (CancellationToken::new(), AtomicBool::new(false));
                let slot = Arc::new(Slot { peer: peer.ip(), cut, asked, _permit: permit });
                self.shared.tasks.spawn(self.clone().converse(stream, slot));
                continue;
            }
            self.shared.traffic.count_refused(Refusal::Full);
            if warned.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                warned = Some(Instant::now());
                tracing::warn!(
                    limit = max_connections,
                    "no more connections for {}: new ones get 503. The limit follows the open files allowed \
                     (ulimit -n); raise it or add hosts",
                    self.is_for
                );
            }
            // With TLS an answer would take a handshake first, which costs most.
            if self.tls.is_none()
                && let Ok(permit) = turned_away.clone().try_acquire_owned()
            {
                self.shared.tasks.spawn(turn_away(stream, permit, self.shared.bounds.close));
            }
        }
    }

    /// Broken connections are nobody's fault; without file descriptors a pause lets others end.
    async fn pause_after(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            tracing::warn!(%error, "a connection for {} could not be accepted; trying again", self.is_for);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn converse(self, stream: TcpStream, slot: Arc<Slot>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let cut = slot.cut.clone();
        let Shared { shutdown, bounds, traffic, .. } = self.shared.clone();
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let accepted = tokio::select! {
                    accepted = Box::pin(tls.accept(stream, bounds.handshake)) => accepted,
                    () = shutdown.cancelled() => return,
                };
                let Some(stream) = accepted else {
                    traffic.count_cut(Cut::Handshake);
                    return;
                };
                stream
            }
        };
        let asked = slot.clone();
        let service = hyper::service::service_fn(move |request| self.clone().answer(request, slot.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = cut.cancelled() => Ok(()),
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                timeout(bounds.close, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            // One that was kept after an answer, and is not needed any more, is nobody's fault.
            if error.is_timeout() && !asked.asked.load(Ordering::Relaxed) {
                traffic.count_cut(Cut::Head);
            }
            tracing::debug!(%error, "an HTTP connection ended badly");
        }
    }

    async fn answer(
        mut self,
        mut request: Request<Incoming>,
        slot: Arc<Slot>,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        slot.asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(slot);
        let (mut parts, body) = request.into_parts();
        if let Some(Err(foreign)) = self.guard.as_ref().map(|guard| guard.check(&mut parts)) {
            return Ok(foreign.into());
        }
        // A router is always ready.
        let body = timed(body, self.shared.bounds.body);
        self.router.call(Request::from_parts(parts, body)).await
    }
}

/// Answers a client for whom there is no place, without waiting for what it asks.
async fn turn_away(mut stream: TcpStream, permit: OwnedSemaphorePermit, patience: Duration) {
    let told = async {
        stream.write_all(FULL.as_bytes()).await?;
        stream.shutdown().await?;
        // An unread request would reset the connection before the answer is read.
        let mut thrown_away = [0; 512];
        let mut bytes = 0;
        while bytes < MAX_HEAD_BYTES {
            match stream.read(&mut thrown_away).await? {
                0 => break,
                read => bytes += read,
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(patience, told).await;
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_answer_has_the_length_that_it_says() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }

    #[test]
    fn clients_get_what_the_open_files_leave_i8() {
        assert_eq!(client_share(1024), 768);
        assert_eq!(client_share(20_000), 19_488);
        assert_eq!(client_share(u64::MAX), Semaphore::MAX_PERMITS);
        assert_eq!(client_share(0), 1);
    }
}
