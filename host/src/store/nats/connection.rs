//! Connecting: credentials, TLS, the version, JetStream, the streams. It knows nothing of documents.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::api::{self, Failure};
use super::link::{Link, Outgoing};
use super::streams::{ALL, Mismatch, Names, Streams, Unusable};
use crate::settings::{NatsAuth, NatsSettings};
use crate::store::StoreError;

/// How long a start waits for the server.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause of reconnecting.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The oldest server that knows atomic batches and markers.
const OLDEST: (u32, u32) = (2, 12);
/// So many messages may wait for the socket: more than may be unanswered.
const CLIENT_CAPACITY: usize = 16_384;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// Nobody answered in time.
    #[error("NATS is not reachable at {urls} (tried for {}s): {why}", START_TIMEOUT.as_secs())]
    Unreachable {
        /// All of them.
        urls: String,
        /// The last thing that went wrong.
        why: String,
    },
    /// The server knows us not.
    #[error("NATS at {urls} refuses the credentials of [cluster]: {why}")]
    Credentials {
        /// All of them.
        urls: String,
        /// In the server's words.
        why: String,
    },
    /// The server does not prove who it is, or the own certificate does not.
    #[error(
        "NATS at {urls} and this host do not trust each other ([cluster] tls_ca_file, tls_cert_file): {why}"
    )]
    Certificate {
        /// All of them.
        urls: String,
        /// What TLS says.
        why: String,
    },
    /// A file of `[cluster]` can't be used.
    #[error("`{path}` can't be used to connect to NATS: {why}")]
    File {
        /// Absolute.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Too old.
    #[error("the NATS server at {urls} is version {found}: {}.{} or newer is needed", OLDEST.0, OLDEST.1)]
    Version {
        /// All of them.
        urls: String,
        /// What it says.
        found: String,
    },
    /// No JetStream.
    #[error(
        "JetStream is not enabled on NATS at {urls}: start the server with -js, or enable it for the account"
    )]
    NoJetStream {
        /// All of them.
        urls: String,
    },
    /// A stream that is there was made otherwise. Nothing was changed.
    #[error(
        "the stream `{stream}` is not as [cluster] wants it, and was left as it is: {}",
        mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Stream {
        /// Its name.
        stream: String,
        /// Every difference.
        mismatches: Vec<Mismatch>,
    },
    /// A stream can't be made or read.
    #[error("the stream `{stream}` can't be used: {why}")]
    Refused {
        /// Its name.
        stream: String,
        /// What the server says.
        why: String,
    },
}

impl NatsError {
    /// True when presence.toml contradicts what is there; false when something isn't available.
    pub fn is_configuration(&self) -> bool {
        matches!(self, NatsError::Stream { .. } | NatsError::File { .. })
    }
}

/// A connection, and streams that are as they should be.
pub(super) async fn connect(settings: &NatsSettings) -> Result<(Link, Arc<Streams>), NatsError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let urls = settings.urls.join(", ");
    let (events, received) = mpsc::unbounded_channel();
    let client = reach(settings, &urls, &events, deadline).await?;
    check_version(&client, &urls)?;
    let unreachable = |why: String| NatsError::Unreachable { urls: urls.clone(), why };
    let link = Link::start(client, received).await.map_err(|error| unreachable(error.to_string()))?;
    check_jetstream(&link, &urls, deadline).await?;
    let names = Names::new(&settings.prefix);
    let streams = Arc::new(Streams::new(names, settings.replicas, link.clone(), settings.instance_ttl));
    for which in ALL {
        let stream = streams.names.stream(which).to_owned();
        loop {
            match streams.ensure(which).await {
                Ok(_) => break,
                Err(Unusable::Mismatch(mismatches)) => return Err(NatsError::Stream { stream, mismatches }),
                Err(Unusable::Failed(Failure::Other(StoreError::Refused(why)))) => {
                    return Err(NatsError::Refused { stream, why });
                }
                Err(Unusable::Failed(failure)) if Instant::now() > deadline => {
                    return Err(NatsError::Refused { stream, why: StoreError::from(failure).to_string() });
                }
                Err(Unusable::Failed(_)) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
    Ok((link, streams))
}

/// Tries until the deadline. What can't change by waiting is told at once.
async fn reach(
    settings: &NatsSettings,
    urls: &str,
    events: &mpsc::UnboundedSender<Event>,
    deadline: Instant,
) -> Result<Client, NatsError> {
    let parsed = settings.urls.iter().map(|url| url.parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
    let addresses =
        parsed.map_err(|error| NatsError::Unreachable { urls: urls.to_owned(), why: error.to_string() })?;
    loop {
        let attempt = options(settings, events).await?.connect(addresses.clone());
        let why = match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) if is_about_credentials(&error) => {
                return Err(NatsError::Credentials { urls: urls.to_owned(), why: with_sources(&error) });
            }
            Ok(Err(error)) if is_about_certificates(&error) => {
                return Err(NatsError::Certificate { urls: urls.to_owned(), why: with_sources(&error) });
            }
            Ok(Err(error)) => format!("{}{}", with_sources(&error), hint(settings, &error)),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + PAUSE > deadline {
            return Err(NatsError::Unreachable { urls: urls.to_owned(), why });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_about_credentials(error: &ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
}

/// A server that is not content with the own certificate ends the connection, and its reason is often lost with it.
fn hint(settings: &NatsSettings, error: &ConnectError) -> &'static str {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let tls = &settings.tls;
    let over_tls = tls.ca_file.is_some()
        || tls.client.is_some()
        || settings.urls.iter().any(|url| url.starts_with("tls://"));
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let ended = cause.is_none_or(|cause| {
        matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
    });
    if over_tls && ended && error.kind() == ConnectErrorKind::Io {
        "; perhaps the server wants another certificate than that of cluster.tls_cert_file, or misses one"
    } else {
        ""
    }
}

/// True if TLS itself failed, not the connection below it.
fn is_about_certificates(error: &ConnectError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        // What an `io::Error` wraps is not its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.map(|inner| inner as &dyn std::error::Error).unwrap_or(error);
        if inner.is::<async_nats::rustls::Error>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

async fn options(
    settings: &NatsSettings,
    events: &mpsc::UnboundedSender<Event>,
) -> Result<ConnectOptions, NatsError> {
    let file = |path: &Path, error: &dyn std::fmt::Display| NatsError::File {
        path: path.display().to_string(),
        why: error.to_string(),
    };
    let events = events.clone();
    // Three pings without an answer end a connection; a lease must outlive that.
    let ping = (settings.instance_ttl / 6).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let mut options = ConnectOptions::new()
        .name("presence")
        // Own notices are told without the server.
        .no_echo()
        .client_capacity(CLIENT_CAPACITY)
        .ping_interval(ping)
        .connection_timeout((settings.instance_ttl / 3).clamp(Duration::from_secs(1), Duration::from_secs(5)))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            // The receiver goes with the store.
            let _ = events.send(event);
            std::future::ready(())
        });
    options = match &settings.auth {
        NatsAuth::None => options,
        NatsAuth::Credentials(path) => {
            options.credentials_file(path).await.map_err(|error| file(path, &error))?
        }
        NatsAuth::Nkey(path) => {
            let seed = tokio::fs::read_to_string(path).await.map_err(|error| file(path, &error))?;
            options.nkey(seed.trim().to_owned())
        }
        NatsAuth::Token(token) => options.token(token.clone()),
        NatsAuth::User { user, password } => options.user_and_password(user.clone(), password.clone()),
    };
    let tls = &settings.tls;
    // A file without what it should hold would be taken for an empty one, which trusts nobody.
    if let Some(authority) = &tls.ca_file {
        holds_certificates(authority).map_err(|why| file(authority, &why))?;
        options = options.add_root_certificates(authority.clone());
    }
    if let Some((certificate, key)) = &tls.client {
        holds_certificates(certificate).map_err(|why| file(certificate, &why))?;
        PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, &error))?;
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options.require_tls(tls.ca_file.is_some() || tls.client.is_some()))
}

/// Says what is wrong with a PEM file of certificates.
fn holds_certificates(path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err("it holds no certificate in PEM format".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The pause before the attempt of this number: doubling, and never in step with others.
fn reconnect_delay(attempt: usize) -> Duration {
    let doubled = 1_u64.checked_shl(u32::try_from(attempt).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
    let pause = Duration::from_millis(doubled.saturating_mul(4)).min(LONGEST_PAUSE);
    if attempt <= 1 { Duration::ZERO } else { pause.mul_f64(0.5 + fastrand::f64() / 2.0) }
}

fn check_version(client: &Client, urls: &str) -> Result<(), NatsError> {
    let found = client.server_info().version;
    let mut numbers =
        found.trim_start_matches('v').split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST {
        return Ok(());
    }
    Err(NatsError::Version { urls: urls.to_owned(), found })
}

async fn check_jetstream(link: &Link, urls: &str, deadline: Instant) -> Result<(), NatsError> {
    /// `JetStream not enabled for account`, `JetStream not enabled`.
    const OFF: [&str; 2] = ["10039", "10076"];
    loop {
        let message = Outgoing {
            subject: "$JS.API.INFO".into(),
            headers: async_nats::HeaderMap::new(),
            payload: bytes::Bytes::new(),
        };
        let answer = link.request(super::link::Lane::Urgent, message).await;
        let answer =
            answer.map_err(Failure::from).and_then(|message| api::body::<serde_json::Value>(&message));
        let why = match answer {
            Ok(_) => return Ok(()),
            Err(failure) => StoreError::from(failure).to_string(),
        };
        if Instant::now() > deadline {
            let off = why.contains("nobody answers") || OFF.iter().any(|code| why.contains(code));
            return Err(if off {
                NatsError::NoJetStream { urls: urls.to_owned() }
            } else {
                let complaint = link.complaint().map(|complaint| format!(" ({complaint})"));
                let why = format!("{why}{}", complaint.unwrap_or_default());
                NatsError::Unreachable { urls: urls.to_owned(), why }
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnecting_is_quick_at_first_and_never_slow() {
        assert_eq!(reconnect_delay(0), Duration::ZERO);
        assert_eq!(reconnect_delay(1), Duration::ZERO);
        for attempt in 2..200 {
            let pause = reconnect_delay(attempt);
            assert!(pause >= Duration::from_millis(8) && pause <= LONGEST_PAUSE, "{attempt}: {pause:?}");
        }
    }
}
