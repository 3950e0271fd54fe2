//! A host is killed with ten thousand sessions: how soon that is noticed, and all its users and sessions told of. Before
//! that, what a session weighs on the host with the connection and on the owner of its user.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use futures_util::StreamExt as _;
use presence_tests::{Plugin, shipped_plugin, until};
use serde_json::Value;
use tokio::net::TcpListener;

use super::{Servers, figure, host};
use crate::lean::Lean;
use crate::memory::resident_bytes_of;
use crate::report::{count, line, time};

const SESSIONS: usize = 10_000;
const TTL: Duration = Duration::from_secs(6);
/// As in the configuration of every host here.
const GRACE: Duration = Duration::from_secs(5);

/// What the receiver was told.
#[derive(Default)]
struct Told {
    online: BTreeSet<String>,
    offline: BTreeSet<String>,
    first_offline: Option<Instant>,
    last_offline: Option<Instant>,
    cleaned: BTreeSet<String>,
    first_chunk: Option<Instant>,
    last_chunk: Option<Instant>,
}

/// Two hosts, one server, the shipped webhook plugin.
pub(super) async fn run() -> anyhow::Result<()> {
    let nats = Servers::start(1).await;
    let told = Arc::new(Mutex::new(Told::default()));
    let (origin, receiver) = serve(told.clone()).await?;
    let webhook = Plugin::at("webhook", shipped_plugin("webhook"))
        .config(&format!("{{ url = \"{origin}/\" }}"))
        .may_reach(&origin)
        .delivery("queue = 65536");
    let survivor = host("survivor", &nats.urls(), TTL, webhook.clone()).start().await;
    let victim = host("victim", &nats.urls(), TTL, webhook).start().await;
    // Both own their share before anything is weighed.
    until("a share of the victim", async || {
        (figure(&victim, "presence_partitions_owned", "").await > 10.0).then_some(())
    })
    .await;
    let share = figure(&victim, "presence_partitions_owned", "").await / 64.0;
    let before = [resident_bytes_of(victim.pid()), resident_bytes_of(survivor.pid())];
    let sessions: Vec<Lean> = futures_util::stream::iter(0..SESSIONS)
        .map(|at| {
            let address = victim.clients();
            async move { Lean::open(address, &format!("user-{at:015}"), |_| {}).await }
        })
        .buffered(64)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    until("everybody is told to be online", async || (lock(&told).online.len() == SESSIONS).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown =
        |pid: u32, before: u64| resident_bytes_of(pid).saturating_sub(before) as f64 / SESSIONS as f64;
    // The victim holds every connection and owns a share of the users; the survivor only owns the others.
    let owner = grown(survivor.pid(), before[1]) / (1.0 - share);
    let gateway = grown(victim.pid(), before[0]) - owner * share;
    line("cluster: resident bytes a session, its gateway", count(gateway), "10,000 sessions");
    line("cluster: resident bytes a session, its user's owner", count(owner), "");

    let killed = Instant::now();
    victim.kill().await;
    survivor.until_logged(&["an instance was declared dead"]).await;
    let detected = Instant::now();
    drop(sessions);
    until("the cleanup", async || lock(&told).last_chunk.map(drop)).await;
    until("everybody is told to be offline", async || (lock(&told).offline.len() == SESSIONS).then_some(()))
        .await;
    let told = lock(&told);
    let since = |moment: Option<Instant>, from: Instant| {
        time(moment.map_or(Duration::ZERO, |moment| moment.saturating_duration_since(from)))
    };
    line("cluster: kill to detection", time(detected - killed), "at most 6.5 s: instance_ttl is 6 s");
    line(
        "cluster: detection to the first chunk of the cleanup",
        since(told.first_chunk, detected),
        "at most 2 s",
    );
    line("cluster: detection to its last chunk", since(told.last_chunk, detected), "at most 2 s");
    line(
        "cluster: detection to the first user-offline",
        since(told.first_offline, detected),
        "its owner lived",
    );
    // A new owner gives the users that it took over from the dead one a full grace.
    let grace_over = detected + GRACE;
    let what = "cluster: end of the grace to the last of 10,000 hooks";
    line(what, since(told.last_offline, grace_over), "receiver on the same cores");
    let lost = SESSIONS * 2 - told.offline.len() - told.cleaned.len();
    line("cluster: sessions and users that were not told of", count(lost as f64), "0");
    receiver.abort();
    Ok(())
}

async fn serve(told: Arc<Mutex<Told>>) -> anyhow::Result<(String, tokio::task::JoinHandle<()>)> {
    let receive = post(move |body: String| {
        note(&mut lock(&told), &serde_json::from_str(&body).unwrap_or_default());
        std::future::ready(())
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    // Chunks of a cleanup are larger than a framework allows by itself.
    let app = Router::new().route("/", receive).layer(axum::extract::DefaultBodyLimit::disable());
    let server = tokio::spawn(async move {
        // It runs until it is aborted.
        let _ = axum::serve(listener, app).await;
    });
    Ok((origin, server))
}

fn note(told: &mut Told, event: &Value) {
    let now = Instant::now();
    let user = event["data"]["user"].as_str().unwrap_or_default().to_owned();
    match event["type"].as_str() {
        Some("user-online") => {
            told.online.insert(user);
        }
        Some("user-offline") => {
            told.offline.insert(user);
            told.first_offline.get_or_insert(now);
            told.last_offline = Some(now);
        }
        Some("cleanup") if event["data"]["scope"] != "everything" => {
            let sessions = event["data"]["scope"]["lost"]["sessions"].as_array();
            let ids = sessions.into_iter().flatten().filter_map(|session| session["id"].as_str());
            told.cleaned.extend(ids.map(str::to_owned));
            told.first_chunk.get_or_insert(now);
            if event["data"]["last"] == true {
                told.last_chunk = Some(now);
            }
        }
        _ => {}
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
