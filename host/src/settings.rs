//! What the program uses: already checked, with every default filled in. `config.rs` makes these from a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::api_keys::ApiKeys;
use crate::certificates::TlsFiles;
use crate::tokens::Key;

/// Everything presence.toml says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[host]`
    pub host: HostSettings,
    /// `[presence]`
    pub presence: PresenceSettings,
    /// `[auth]`
    pub auth: AuthSettings,
    /// `[[api.key]]`: who may use the admin listener's API; none: whoever reaches it.
    pub api: ApiKeys,
    /// `[limits]`
    pub limits: ClientLimits,
    /// `[cluster]`
    pub cluster: ClusterSettings,
    /// `[telemetry]`; none: nothing is traced.
    pub telemetry: Option<TelemetrySettings>,
    /// `[[plugin]]`, in file order; names are unique.
    pub plugins: Vec<PluginSettings>,
}

/// `[host]`
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Default: the machine's host name.
    pub name: String,
    /// For clients.
    pub listen: SocketAddr,
    /// API, health, metrics.
    pub admin: SocketAddr,
    /// Absolute. Caches live below it.
    pub data_dir: PathBuf,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// How long the store may be away before `/readyz` says so.
    pub unready_after: Duration,
    /// Whether presence.toml and the plugins' files are watched.
    pub watch_files: bool,
    /// Who is believed when it names the client that it speaks for.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that these write.
    pub proxy_header: ProxyHeader,
    /// `[host.tls]`: what clients are shown; none: they speak without TLS.
    pub tls: Option<TlsFiles>,
    /// `[host.admin_tls]`: the same, of the admin listener.
    pub admin_tls: Option<TlsFiles>,
}

/// `host.proxy_header`: where trusted proxies write whom they speak for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, which most proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// `[presence]`
#[derive(Clone, Debug)]
pub struct PresenceSettings {
    /// How long `offline` is held back; zero: not at all.
    pub offline_grace: Duration,
    /// How long a drained user counts as present.
    pub drain_grace: Duration,
    /// No activity for so long makes a session idle; none: off.
    pub idle_after: Option<Duration>,
    /// A WebSocket Ping is sent after so long without a frame.
    pub heartbeat: Duration,
    /// And the connection closed after so much longer.
    pub heartbeat_timeout: Duration,
    /// How long an offline user's record is kept.
    pub offline_retention: Duration,
    /// How many records are kept.
    pub max_users: u64,
    /// How long `everything` may hold up the boot.
    pub boot_timeout: Duration,
}

/// `[auth]`
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// How users are told apart.
    pub mode: AuthMode,
    /// Whom one may watch.
    pub watch: WatchPolicy,
    /// Whether `?access_token=` is looked at.
    pub query_token: bool,
}

/// `auth.mode`
#[derive(Clone, Debug)]
pub enum AuthMode {
    /// `?user=<id>`, loopback only.
    None,
    /// Signed tokens.
    Jwt(Box<JwtSettings>),
}

/// What comes with `auth.mode = "jwt"`.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// What a token must say.
    pub rules: TokenRules,
    /// `[[auth.key]]`; none only with a key set.
    pub keys: Vec<AuthKey>,
    /// `[auth.jwks]`
    pub key_set: Option<KeySetSettings>,
    /// `auth.origins`: the web pages that may connect; none: all.
    pub origins: Option<Vec<String>>,
    /// What is unwise about where secrets come from; tells no secret.
    pub warnings: Vec<String>,
}

/// What a token must say, besides whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRules {
    /// `iss` must be this, if set.
    pub issuer: Option<String>,
    /// `aud` must be or contain this, if set; if not, there must be no `aud`.
    pub audience: Option<String>,
    /// How far the clocks of the issuer and of this host may be apart.
    pub leeway: Duration,
    /// The claim that says whom one may watch; none: no claim does.
    pub watch_claim: Option<String>,
}

/// `[[auth.key]]`
#[derive(Clone, Debug)]
pub struct AuthKey {
    /// The token's `kid`; none only with a single key and no key set.
    pub id: Option<String>,
    /// With the algorithm that it is for.
    pub key: Key,
}

/// `[auth.jwks]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetSettings {
    /// Where it is.
    pub source: KeySetSource,
    /// How often it is read again.
    pub refresh: Duration,
    /// At least so long between two readings.
    pub pause: Duration,
}

/// Where a key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySetSource {
    /// An absolute path.
    File(PathBuf),
    /// `https`, or `http` where that was allowed; without user and password.
    Url(http::Uri),
}

/// `auth.watch`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchPolicy {
    /// Only oneself.
    Own,
    /// Everybody.
    Anyone,
    /// Oneself and the users in the token's claim for that.
    Claims,
}

/// `[limits]`: how much of one host clients may take; none: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections that are opened in a second.
    pub connects_per_second: Option<u32>,
    /// Sessions of one user.
    pub sessions_per_user: Option<u32>,
    /// Sessions from one address, or one IPv6 network (64 bits).
    pub sessions_per_address: Option<u32>,
    /// Users that one session watches.
    pub watched_users: u32,
    /// Frames that one session sends in a second.
    pub messages_per_second: Option<u32>,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the head of a request.
    pub header_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// For a client to take what it is sent.
    pub read_timeout: Duration,
}

/// `[cluster]`
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Which store.
    pub store: StoreKind,
    /// Fixed when the deployment is created.
    pub partitions: u16,
    /// Fixed when the deployment is created.
    pub leaves: u16,
    /// How long an instance lives without a renewal.
    pub instance_ttl: Duration,
    /// How long a handover waits for running hooks.
    pub handover_timeout: Duration,
}

/// `cluster.store`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// In this process: one host.
    Memory,
    /// NATS JetStream: any number of hosts.
    Nats(NatsSettings),
}

/// Where NATS is and what is kept there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSettings {
    /// At least one, `nats://` or `tls://`, without user or password.
    pub urls: Vec<String>,
    /// How this host shows who it is.
    pub auth: NatsAuth,
    /// For `tls://`, or for all if anything is set.
    pub tls: NatsTls,
    /// Before all names and subjects: 1 to 32 letters, digits, `_` or `-`.
    pub prefix: String,
    /// Of each stream.
    pub replicas: u8,
    /// The same as in [`ClusterSettings`].
    pub instance_ttl: Duration,
}

/// How a host shows NATS who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum NatsAuth {
    /// Not at all.
    None,
    /// A `.creds` file.
    Credentials(PathBuf),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
    /// A token.
    Token(String),
    /// A name and a password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl std::fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NatsAuth::None => f.write_str("None"),
            NatsAuth::Credentials(path) => f.debug_tuple("Credentials").field(path).finish(),
            NatsAuth::Nkey(path) => f.debug_tuple("Nkey").field(path).finish(),
            NatsAuth::Token(_) => f.write_str("Token(..)"),
            NatsAuth::User { user, .. } => f.debug_struct("User").field("user", user).finish_non_exhaustive(),
        }
    }
}

/// Certificates for NATS; absolute paths of PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Whom to trust; none: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetrySettings {
    /// An OTLP/HTTP collector: `http` or `https`, without user, password or query.
    pub otlp: http::Uri,
    /// The share of client messages that are traced, 0 to 1; 0: none.
    pub sample: f64,
    /// What this deployment is called there.
    pub service_name: String,
}

impl TelemetrySettings {
    /// Where traces are sent.
    pub fn traces_address(&self) -> http::Uri {
        let mut parts = self.otlp.clone().into_parts();
        let path = format!("{}/v1/traces", self.otlp.path().trim_end_matches('/'));
        parts.path_and_query = path.parse().ok();
        http::Uri::from_parts(parts).unwrap_or_else(|_| self.otlp.clone())
    }
}

/// `[[plugin]]`
#[derive(Clone, PartialEq, Eq)]
pub struct PluginSettings {
    /// Unique; letters, digits, `-`, `_`, `.`; at most 64.
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
    /// For `configure`, as JSON text; `{}` when absent. May hold secrets: never logged.
    pub config: String,
    /// What is in `config` and must not be told.
    pub secrets: Secrets,
    /// The SHA-256 that the file must have, if it is pinned: 64 hexadecimal digits in small letters.
    pub sha256: Option<String>,
    /// What a new plugin is told of present users.
    pub initial: Initial,
    /// How often `tick` runs, 1 s to 1 d; none: not said.
    pub interval: Option<Duration>,
    /// `[plugin.grants]`
    pub grants: Grants,
    /// `[plugin.limits]`
    pub limits: Limits,
    /// `[plugin.delivery]`
    pub delivery: DeliverySettings,
}

impl std::fmt::Debug for PluginSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `config` may hold secrets.
        f.debug_struct("PluginSettings")
            .field("name", &self.name)
            .field("path", &self.path)
            .field("secrets", &self.secrets)
            .field("sha256", &self.sha256)
            .field("initial", &self.initial)
            .field("interval", &self.interval)
            .field("grants", &self.grants)
            .field("limits", &self.limits)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

impl PluginSettings {
    /// How often `tick` runs, if nothing is said.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// How often `tick` runs.
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(PluginSettings::INTERVAL)
    }
}

/// What a plugin is told and nobody else: `plugin.secrets`, and what variables brought into `plugin.config`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The texts.
    pub values: Vec<String>,
    /// What is unwise about where they come from; tells no text.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} hidden)", self.values.len())
    }
}

/// `plugin.initial`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// The status of every user not offline.
    Current,
    /// Nothing.
    Nothing,
}

/// `[plugin.grants]`: nothing is allowed without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Origins that may be called.
    pub http: Vec<HttpGrant>,
    /// Buckets of the plugin's own keyvalue.
    pub keyvalue: Vec<String>,
    /// Patterns of NATS subjects that may be published to, each with a first token that is no wildcard.
    pub messaging: Vec<String>,
    /// Whether statuses of users may be looked up.
    pub presence: bool,
}

/// One origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    /// `http` or `https`.
    pub scheme: String,
    /// Lower case, without a dot at the end; IPv6 without brackets.
    pub host: String,
    /// Always given.
    pub port: u16,
    /// Private address ranges that this origin may lead to; a literal address is among them by itself.
    pub addresses: Vec<ipnet::IpNet>,
}

/// `[plugin.limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes over all memories of one guest.
    pub memory: u64,
    /// For one call.
    pub deadline: Duration,
    /// Bytes of log text per call.
    pub log: u64,
}

/// `[plugin.delivery]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Guests at work at once.
    pub concurrency: u32,
    /// Events waiting, per plugin.
    pub queue: u32,
    /// Attempts of session hooks and of any hook that traps.
    pub attempts: u32,
    /// The first pause after a failure.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
}
