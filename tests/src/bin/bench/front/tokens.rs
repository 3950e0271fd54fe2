//! Connects with tokens beside the bare cost of checking one, and the weight of the sessions.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use presence_host::config;
use presence_host::settings::{AuthMode, JwtSettings};
use presence_host::tokens::{KeyRing, verify};
use presence_tests::{Daemon, Issuer};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::memory::resident_bytes_of;
use crate::report::{count, line, time};

const SESSIONS: usize = 15_000;
const CONNECTING_AT_ONCE: usize = 64;
const CHECKS: usize = 20_000;

/// Sessions of whoever asks, from one address: the limits of a browser's host are in the way.
pub const NO_LIMITS: &str =
    "[limits]\nconnects_per_second = 0\nsessions_per_user = 0\nwatched_users = 100000";

const SECRET: &str = "a secret of at least thirty-two bytes";

pub type Socket = WebSocketStream<TcpStream>;

/// One way of signing.
struct Way {
    algorithm: Algorithm,
    key: EncodingKey,
    /// The `[[auth.key]]` for it.
    section: String,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys").join(name)
}

fn ways() -> anyhow::Result<[Way; 2]> {
    let shared = Way {
        algorithm: Algorithm::HS256,
        key: EncodingKey::from_secret(SECRET.as_bytes()),
        section: format!("[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\""),
    };
    let public = Way {
        algorithm: Algorithm::EdDSA,
        key: EncodingKey::from_ed_pem(&std::fs::read(fixture("ed25519-private.pem"))?)?,
        section: format!(
            "[[auth.key]]\nalgorithm = \"EdDSA\"\npublic_key_file = {:?}",
            fixture("ed25519-public.pem")
        ),
    };
    Ok([shared, public])
}

pub async fn run() -> anyhow::Result<()> {
    for way in ways()? {
        one_way(&way).await?;
    }
    Ok(())
}

async fn one_way(way: &Way) -> anyhow::Result<()> {
    let name = format!("{:?}", way.algorithm);
    let auth = format!("[auth]\nmode = \"jwt\"\naudience = \"presence\"\n{}", way.section);
    let tokens = (0..SESSIONS).map(|at| {
        let claims = json!({
            "sub": format!("user-{at:019}"), "aud": "presence", "exp": Issuer::now() + 3600,
            "iss": "https://app.example", "iat": Issuer::now(),
        });
        encode(&Header::new(way.algorithm), &claims, &way.key)
    });
    let tokens: Vec<String> = tokens.collect::<Result<_, _>>()?;
    let check = bare_check(&auth, &tokens)?;
    line(&format!("front: check of one {name} token, bare"), time(check), "the yardstick");

    let daemon = Daemon::with(auth).section(NO_LIMITS).presence("heartbeat = \"10m\"").start().await;
    for token in &tokens[..200] {
        connect(&daemon, token).await?.close(None).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident_bytes_of(daemon.pid());
    let began = Instant::now();
    let mut sockets = Vec::with_capacity(SESSIONS);
    let mut connecting = FuturesUnordered::new();
    for token in &tokens {
        if connecting.len() >= CONNECTING_AT_ONCE {
            sockets.push(connecting.next().await.context("a connection")??);
        }
        connecting.push(connect(&daemon, token));
    }
    while let Some(socket) = connecting.next().await {
        sockets.push(socket?);
    }
    drop(connecting);
    let each = began.elapsed() / SESSIONS as u32;
    line(
        &format!("front: connects a second with {name} (client on the same cores)"),
        count(1.0 / each.as_secs_f64()),
        &format!("{:.1}% of each is the check", check.as_secs_f64() / each.as_secs_f64() * 100.0),
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = resident_bytes_of(daemon.pid()).saturating_sub(before);
    let bytes = count(held as f64 / SESSIONS as f64);
    line(&format!("front: resident bytes a session, 15,000 with {name}"), bytes, "at most 6,144");
    daemon.stop().await.with_code(0);
    Ok(())
}

/// What the host does with a token, without the host: the mean over many different ones.
fn bare_check(auth: &str, tokens: &[String]) -> anyhow::Result<Duration> {
    let settings = config::parse(auth, Path::new("presence.toml"), &|_: &str| None)
        .map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let AuthMode::Jwt(jwt) = settings.auth.mode else { anyhow::bail!("the configuration takes no tokens") };
    let JwtSettings { keys, rules, .. } = *jwt;
    let ring = KeyRing::new(&keys, None);
    let now = Issuer::now();
    let began = Instant::now();
    for token in tokens.iter().cycle().take(CHECKS) {
        std::hint::black_box(verify(token, &ring, &rules, now)?);
    }
    Ok(began.elapsed() / CHECKS as u32)
}

/// A session of a token's subject, welcomed.
async fn connect(daemon: &Daemon, token: &str) -> anyhow::Result<Socket> {
    let url = format!("ws://{}/v1/connect", daemon.clients());
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let stream = TcpStream::connect(daemon.clients()).await?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    let welcome = socket.next().await.context("no welcome")??;
    anyhow::ensure!(welcome.to_text()?.contains("\"welcome\""), "{welcome}");
    Ok(socket)
}
