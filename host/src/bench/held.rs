//! Sessions that a backend holds: all are opened, changed and closed in bulks, as a holder of its own. If the run is cut off,
//! the holder's lease ends them.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rate;
use super::report::Latency;
use crate::admin_client::AdminClient;
use crate::cli::BenchArguments;

/// The most sessions of one run: what one host is known to hold.
pub(super) const MAX_HELD: usize = 2_000_000;

/// So many sessions go into one bulk: as many as are taken.
const BULK: usize = 1000;

/// So many bulks are on their way at once.
const AT_ONCE: usize = 8;

/// The holder's lease, in seconds, and how often it is renewed.
const LEASE_SECONDS: u64 = 300;
const RENEWAL: Duration = Duration::from_secs(60);

/// What a run with held sessions found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Held {
    pub(super) sessions: usize,
    pub(super) opens_a_second: f64,
    pub(super) changes_a_second: f64,
    pub(super) closes_a_second: f64,
    /// From a bulk of up to 1,000 sessions to its answer.
    pub(super) open: Option<Latency>,
    pub(super) change: Option<Latency>,
    pub(super) close: Option<Latency>,
    /// Resident bytes of the host for each held session.
    pub(super) bytes_a_session: Option<u64>,
    /// Operations that were not done.
    pub(super) refused: usize,
    /// The first reason of these.
    pub(super) why: Option<String>,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<ResultOfOne>,
}

#[derive(Deserialize)]
struct ResultOfOne {
    status: u16,
    #[serde(default)]
    detail: Option<String>,
}

/// One holder for one run.
struct Holder<'a> {
    client: &'a AdminClient,
    path: String,
    incarnation: String,
    prefix: &'a str,
    sessions: usize,
    renewed: Instant,
}

/// Opens, changes and closes so many sessions; `resident` tells the host's memory.
pub(super) async fn run(
    client: &AdminClient,
    arguments: &BenchArguments,
    resident: impl AsyncFn() -> anyhow::Result<Option<u64>>,
) -> anyhow::Result<Held> {
    let run = fastrand::u64(..);
    let mut holder = Holder {
        client,
        path: format!("/v1/holders/presence-bench-{run:016x}"),
        incarnation: "1".to_owned(),
        prefix: &arguments.prefix,
        sessions: arguments.held,
        renewed: Instant::now(),
    };
    let mut held = Held { sessions: arguments.held, ..Held::default() };
    holder.renew().await.context("a holder for --held can't be registered")?;
    let before = resident().await?;
    (held.opens_a_second, held.open) = holder.all(&mut held, "put", None).await?;
    if let (Some(before), Some(after)) = (before, resident().await?) {
        held.bytes_a_session = Some(after.saturating_sub(before) / arguments.held as u64);
    }
    (held.changes_a_second, held.change) = holder.all(&mut held, "patch", Some("idle")).await?;
    (held.closes_a_second, held.close) = holder.all(&mut held, "delete", None).await?;
    holder.end().await?;
    Ok(held)
}

impl Holder<'_> {
    async fn renew(&mut self) -> anyhow::Result<()> {
        let body = json!({"incarnation": self.incarnation, "lease_seconds": LEASE_SECONDS});
        let _: Value = self.client.send(Method::PUT, &self.path, Some(&body)).await?;
        self.renewed = Instant::now();
        Ok(())
    }

    async fn end(&self) -> anyhow::Result<()> {
        let path = format!("{}?incarnation={}", self.path, self.incarnation);
        self.client.command(Method::DELETE, &path).await
    }

    /// The same for all sessions: how many a second, and how long the bulks took.
    async fn all(
        &mut self,
        held: &mut Held,
        verb: &str,
        status: Option<&str>,
    ) -> anyhow::Result<(f64, Option<Latency>)> {
        let began = Instant::now();
        let mut latencies = Vec::with_capacity(self.sessions / BULK + 1);
        let mut first = 0;
        while first < self.sessions {
            if self.renewed.elapsed() > RENEWAL {
                self.renew().await?;
            }
            // In rounds, so that the lease is seen to in between.
            let starts = (first..self.sessions).step_by(BULK).take(AT_ONCE * 8);
            let holder = &*self;
            let mut bulks = stream::iter(starts)
                .map(|start| async move {
                    let began = Instant::now();
                    let results = holder.bulk(start, verb, status).await?;
                    anyhow::Ok((began.elapsed(), results))
                })
                .buffer_unordered(AT_ONCE);
            while let Some(answered) = bulks.next().await {
                let (took, results) = answered?;
                latencies.push(took);
                for bad in results.results.into_iter().filter(|one| one.status >= 300) {
                    held.refused += 1;
                    held.why.get_or_insert_with(|| bad.detail.unwrap_or_else(|| bad.status.to_string()));
                }
            }
            first += AT_ONCE * 8 * BULK;
        }
        Ok((rate(self.sessions, began.elapsed()), Latency::of(latencies)))
    }

    async fn bulk(&self, start: usize, verb: &str, status: Option<&str>) -> anyhow::Result<Results> {
        let operations = (start..self.sessions.min(start + BULK)).map(|number| {
            let user = format!("{}held-{number}", self.prefix);
            let mut operation = json!({"do": verb, "session": number.to_string(), "user": user});
            if let Some(status) = status {
                operation["status"] = status.into();
            }
            operation
        });
        let body = json!({"operations": operations.collect::<Vec<_>>()});
        let path = format!("{}/sessions?incarnation={}", self.path, self.incarnation);
        self.client.send(Method::POST, &path, Some(&body)).await
    }
}
