//! Both listeners over real sockets, with a driver that only writes down what it hears.

mod admin;
mod api_keys;
mod attacks;
mod bad_input;
mod details;
pub(crate) mod driver;
pub(crate) mod limits;
mod sessions;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use self::driver::{Driver, store_with_dead_letters};
use super::admin::reload::{NotReloaded, Reload, ReloadDocument, ReloadFigures};
use super::bounds::Bounds;
use super::metrics::Metrics;
use super::*;
use crate::api_keys::ApiKeys;
use crate::plugins::metrics::PluginMetrics;
use crate::settings::{
    AuthKey, AuthMode, AuthSettings, ClientLimits, ClusterSettings, HostSettings, JwtSettings,
    PresenceSettings, Settings, StoreKind, TokenRules, WatchPolicy,
};
use crate::tokens::Key;

/// Longer than anything here takes, shorter than a person's patience.
const BOUND: Duration = Duration::from_secs(20);

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("nothing happened for 20 s")
}

fn settings(auth: AuthSettings) -> Settings {
    let second = Duration::from_secs(1);
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        host: HostSettings {
            name: "test".into(),
            listen: any_port,
            admin: any_port,
            data_dir: PathBuf::new(),
            drain_timeout: second,
            unready_after: second,
            watch_files: false,
            trusted_proxies: Vec::new(),
            proxy_header: Default::default(),
            tls: None,
            admin_tls: None,
        },
        presence: PresenceSettings {
            offline_grace: second,
            drain_grace: second,
            idle_after: None,
            heartbeat: 25 * second,
            heartbeat_timeout: second,
            offline_retention: second,
            max_users: 1,
            boot_timeout: second,
        },
        auth,
        api: ApiKeys::default(),
        limits: limits::NONE,
        cluster: ClusterSettings {
            store: StoreKind::Memory,
            partitions: 1,
            leaves: 1,
            instance_ttl: second,
            handover_timeout: second,
        },
        telemetry: None,
        plugins: Vec::new(),
    }
}

pub(crate) fn open_to_all() -> AuthSettings {
    AuthSettings { mode: AuthMode::None, watch: WatchPolicy::Anyone, query_token: false }
}

pub(crate) fn with_tokens() -> AuthSettings {
    with_watch(WatchPolicy::Own)
}

/// Tokens that are signed with [`SECRET`].
pub(crate) fn jwt() -> JwtSettings {
    let watch_claim = Some("presence_watch".to_owned());
    let leeway = Duration::from_secs(30);
    let rules = TokenRules { issuer: None, audience: None, leeway, watch_claim };
    let keys = vec![AuthKey { id: None, key: Key::from_secret(SECRET).unwrap() }];
    JwtSettings { rules, keys, key_set: None, origins: None, warnings: Vec::new() }
}

fn with_watch(watch: WatchPolicy) -> AuthSettings {
    AuthSettings { mode: AuthMode::Jwt(Box::new(jwt())), watch, query_token: false }
}

/// The usual ones, but for what `change` does.
fn bounds(change: impl FnOnce(&mut Bounds)) -> Bounds {
    let mut bounds = Bounds::of(&limits::NONE);
    change(&mut bounds);
    bounds
}

struct NoPlugins;

impl Metrics for NoPlugins {
    fn plugins(&self) -> Vec<PluginMetrics> {
        vec![super::metrics::tests::webhook()]
    }
}

/// Applies what changes plugin `a`; or refuses, if there are errors.
#[derive(Default)]
pub(crate) struct Reloads(pub(crate) std::sync::Mutex<Vec<String>>);

impl Reload for Reloads {
    fn reload(&self) -> BoxFuture<'_, Result<ReloadDocument, NotReloaded>> {
        let errors = self.0.lock().unwrap().clone();
        let document = ReloadDocument {
            applied: true,
            added: Vec::new(),
            removed: Vec::new(),
            changed: vec!["a".into()],
            unchanged: Vec::new(),
            needs_restart: vec!["host.listen".into()],
        };
        let answer = if errors.is_empty() { Ok(document) } else { Err(NotReloaded::Refused(errors)) };
        Box::pin(std::future::ready(answer))
    }

    fn figures(&self) -> ReloadFigures {
        ReloadFigures::default()
    }
}

/// A gateway at work.
pub(crate) struct Gateway {
    pub(crate) clients: SocketAddr,
    admin: SocketAddr,
    pub(crate) driver: Driver,
    reloads: Arc<Reloads>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Gateway {
    pub(crate) async fn start(auth: AuthSettings) -> Gateway {
        Gateway::with_limits(auth, 1000, bounds(|_| ())).await
    }

    async fn with_limits(auth: AuthSettings, max_clients: usize, bounds: Bounds) -> Gateway {
        Gateway::serve(bind(&settings(auth)).await.unwrap().limited(max_clients, bounds)).await
    }

    /// With `[limits]`.
    async fn within(auth: AuthSettings, limits: ClientLimits) -> Gateway {
        let listeners = bind(&Settings { limits, ..settings(auth) }).await.unwrap();
        Gateway::serve(listeners).await
    }

    async fn serve(listeners: Listeners) -> Gateway {
        let (handle, queue) = Handle::channel(64);
        let (clients, admin) = (listeners.client_address(), listeners.admin_address());
        let shutdown = CancellationToken::new();
        let reloads = Arc::<Reloads>::default();
        let deps = AdminDeps {
            store: Arc::new(store_with_dead_letters().await),
            metrics: Arc::new(NoPlugins),
            reload: reloads.clone(),
        };
        let serving = tokio::spawn(listeners.serve(handle, deps, shutdown.clone()));
        Gateway { clients, admin, driver: Driver::start(queue), reloads, shutdown, serving }
    }

    async fn try_connect(&self, path: &str, headers: &[(&str, &str)]) -> Result<Client, SocketError> {
        let mut request = format!("ws://{}{path}", self.clients).into_client_request().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let (socket, response) = soon(tokio_tungstenite::connect_async(request)).await?;
        let protocol = response.headers().get("sec-websocket-protocol").cloned();
        Ok(Client { socket, protocol })
    }

    /// A client whose `welcome` has come.
    async fn connect(&self, user: &str) -> Client {
        let mut client = self.try_connect(&format!("/v1/connect?user={user}"), &[]).await.unwrap();
        assert_eq!(client.next().await["type"], "welcome");
        client
    }

    /// The status and the problem document of a refused connection.
    async fn refused(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        match self.try_connect(path, headers).await {
            Err(SocketError::Http(response)) => {
                assert_eq!(response.headers()["content-type"], "application/problem+json");
                let document: Value = serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
                assert_eq!(document["status"], response.status().as_u16());
                (response.status().as_u16(), document["detail"].as_str().unwrap().to_owned())
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{path} was let in"),
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon(self.serving).await.unwrap();
    }
}

/// A connected WebSocket client.
struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    protocol: Option<HeaderValue>,
}

impl Client {
    async fn send(&mut self, text: &str) {
        soon(self.socket.send(Message::text(text))).await.unwrap();
    }

    /// The next JSON message.
    async fn next(&mut self) -> Value {
        loop {
            match soon(self.socket.next()).await.expect("the connection ended").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The reason of the goodbye and the code of the close that follows; answers of before are skipped.
    async fn goodbye(&mut self) -> (String, u16) {
        let reason = loop {
            let message = self.next().await;
            if message["type"] == "goodbye" {
                break message["reason"].as_str().unwrap().to_owned();
            }
        };
        match soon(self.socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => (reason, frame.code.into()),
            other => panic!("{other:?}"),
        }
    }
}

/// Sends bytes as they are, and reads until the end of the answer: its head and body.
async fn raw(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

/// A request to the admin listener, whatever it answers.
pub(crate) async fn ask_admin(gateway: &Gateway, method: &str, target: &str) -> (String, String) {
    let address = gateway.admin;
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    raw(address, &request).await
}

async fn get(address: SocketAddr, path: &str) -> (String, String) {
    raw(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}
