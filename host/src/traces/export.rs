//! Sends spans to a collector in batches. A collector that is away costs the batches that come meanwhile, which are
//! counted; nothing waits for it and nothing grows.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{EndedSpan, otlp};
use crate::requests::{Requester, with_causes};
use crate::settings::TelemetrySettings;

/// So many spans are sent together.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a collector may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer longer than this, in bytes, is not read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How often it is told that nothing arrives.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The way to the collector.
pub(super) struct Exporter {
    collector: Requester,
    address: Uri,
    service: String,
    host: String,
    dropped: Arc<AtomicU64>,
    complained: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(
        settings: &TelemetrySettings,
        host: &str,
        dropped: Arc<AtomicU64>,
    ) -> std::io::Result<Exporter> {
        let address = settings.traces_address();
        let collector = Requester::new(address.scheme_str() == Some("https"))?;
        let (service, host) = (settings.service_name.clone(), host.to_owned());
        Ok(Exporter { collector, address, service, host, dropped, complained: None })
    }

    /// Until it is closed; then what is left is sent.
    pub(super) async fn run(mut self, mut spans: mpsc::Receiver<EndedSpan>, closing: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while gather(&mut spans, &mut batch, &closing).await {
            let sent = self.send(&batch).await;
            if sent.is_err() && closing.is_cancelled() {
                return;
            }
            batch.clear();
        }
    }

    async fn send(&mut self, batch: &[EndedSpan]) -> Result<(), ()> {
        let ended = match timeout(ANSWER_TIMEOUT, self.post(batch)).await {
            Ok(ended) => ended,
            Err(_) => Err(format!("no answer within {ANSWER_TIMEOUT:?}")),
        };
        let (rejected, reason) = match ended {
            Ok(0) => return Ok(()),
            Ok(rejected) => (rejected, "it rejects some of them".to_owned()),
            Err(reason) => (batch.len() as u64, reason),
        };
        let dropped = self.dropped.fetch_add(rejected, Relaxed) + rejected;
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            let (collector, dropped_in_all) = (&self.address, dropped);
            tracing::warn!(%collector, reason, dropped_in_all, "traces do not arrive at the collector");
        }
        Err(())
    }

    /// How many spans the collector rejects.
    async fn post(&self, batch: &[EndedSpan]) -> Result<u64, String> {
        let body = otlp::encode(&self.service, &self.host, batch).map_err(|error| error.to_string())?;
        let request = Request::builder().method(Method::POST).uri(self.address.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(body.into()));
        let answer = self.collector.request(request.map_err(|error| error.to_string())?).await;
        let answer = answer.map_err(|error| with_causes(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        // What can't be read says nothing: the spans were taken.
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(rejected_spans(&body))
    }
}

/// Waits for spans, and a little longer for more of them. False when there will be none.
async fn gather(
    spans: &mut mpsc::Receiver<EndedSpan>,
    batch: &mut Vec<EndedSpan>,
    closing: &CancellationToken,
) -> bool {
    tokio::select! {
        biased;
        () = closing.cancelled() => spans.close(),
        first = spans.recv() => batch.extend(first),
    }
    let until = Instant::now() + PATIENCE;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        let more = tokio::select! {
            biased;
            more = timeout_at(until, spans.recv_many(batch, room)) => more,
            () = closing.cancelled(), if !spans.is_closed() => {
                spans.close();
                continue;
            }
        };
        if !more.is_ok_and(|count| count > 0) {
            break;
        }
    }
    !batch.is_empty()
}

/// `partialSuccess.rejectedSpans` of an answer: a number, written as a text.
fn rejected_spans(body: &[u8]) -> u64 {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let rejected = &answer["partialSuccess"]["rejectedSpans"];
    rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_rejects_is_counted() {
        assert_eq!(rejected_spans(br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"full"}}"#), 3);
        assert_eq!(rejected_spans(br#"{"partialSuccess":{"rejectedSpans":2}}"#), 2);
        for taken in ["", "{}", "{\"partialSuccess\":{}}", "\u{0}"] {
            assert_eq!(rejected_spans(taken.as_bytes()), 0);
        }
    }
}
