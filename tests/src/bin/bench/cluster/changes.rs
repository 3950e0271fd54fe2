//! Changes of sessions, each a transition, through gateway, NATS and owner to the finished hook.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use presence_tests::Daemon;

use super::{Servers, figure, host, noop, raw};
use crate::lean::Lean;
use crate::report::{count, line};

/// Each changes again only when all others have: no two changes of a user come together.
const SESSIONS: usize = 8_000;
/// So many changes may be on their way to their hooks.
const UNDER_WAY: u64 = 6_000;
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);

const STATUSES: [&str; 2] =
    [r#"{"type":"set_status","status":"idle"}"#, r#"{"type":"set_status","status":"online"}"#];

/// With this many servers.
pub(super) async fn run(servers: usize) -> anyhow::Result<()> {
    let nats = Servers::start(servers).await;
    let client = nats.client().await?;
    let daemon = host("a", &nats.urls(), Duration::from_secs(6), noop()).start().await;
    let mut sessions: Vec<Lean> = futures_util::stream::iter(0..SESSIONS)
        .map(|at| {
            let address = daemon.clients();
            async move { Lean::open(address, &format!("user-{at:015}"), |_| {}).await }
        })
        .buffered(64)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    let finished = Arc::new(AtomicU64::new(0));
    until_finished(&daemon, SESSIONS as u64).await;
    let before = hooks(&daemon).await;
    let mut sent = 0_u64;
    change(&daemon, &mut sessions, &finished, before, &mut sent, WARM_UP).await?;
    let ((first, bytes), began) = (raw::sessions_stream(&client).await?, Instant::now());
    let at_first = hooks(&daemon).await;
    change(&daemon, &mut sessions, &finished, before, &mut sent, MEASURED).await?;
    let at_last = hooks(&daemon).await;
    let ((last, _), took) = (raw::sessions_stream(&client).await?, began.elapsed().as_secs_f64());
    until_finished(&daemon, before + sent).await;
    let coalesced = figure(&daemon, "presence_transitions_coalesced_total", "").await
        + figure(&daemon, "presence_hook_coalesced_total", "").await;
    drop(sessions);
    daemon.kill().await;
    let raw = raw::puts(&client, servers, bytes, SESSIONS * 2).await?;

    let (puts, changes) = ((last - first) as f64 / took, (at_last - at_first) as f64 / took);
    let name = format!("cluster, {servers} server{}", if servers == 1 { "" } else { "s" });
    line(&format!("{name}: raw pipelined puts a second"), count(raw), "the yardstick");
    line(&format!("{name}: changes a second to finished hooks"), count(changes), "each a transition");
    line(&format!("{name}: puts a second meanwhile"), count(puts), "");
    line(&format!("{name}: puts a change"), format!("{:.2}", puts / changes), "");
    let yardstick = if servers == 1 { "at least 60 %" } else { "" };
    line(&format!("{name}: puts / raw puts"), format!("{:.0} %", puts / raw * 100.0), yardstick);
    line(&format!("{name}: changes that gave way to newer ones"), count(coalesced), "");
    Ok(())
}

/// Status hooks that were delivered.
async fn hooks(daemon: &Daemon) -> u64 {
    figure(daemon, "presence_hook_delivered_total", "hook=\"user-").await as u64
}

async fn until_finished(daemon: &Daemon, wanted: u64) {
    presence_tests::until(format!("{wanted} hooks"), async || (hooks(daemon).await >= wanted).then_some(()))
        .await;
}

/// Changes one session after the other as fast as hooks come back.
async fn change(
    daemon: &Daemon,
    sessions: &mut [Lean],
    finished: &Arc<AtomicU64>,
    before: u64,
    sent: &mut u64,
    time: Duration,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let looking = async {
        loop {
            finished.store(hooks(daemon).await - before, Relaxed);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    let changing = async {
        while began.elapsed() < time {
            if *sent >= finished.load(Relaxed) + UNDER_WAY {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let at = *sent as usize;
            let round = at / sessions.len();
            sessions[at % SESSIONS].send(STATUSES[round % 2]).await?;
            *sent += 1;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = looking => Ok(()),
        outcome = changing => outcome,
    }
}
