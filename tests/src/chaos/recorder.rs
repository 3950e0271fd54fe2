//! The receiver: every delivery is on disk before it is answered with 200, so that what was answered was heard.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{self, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::ledger::{Heard, Ledger};

/// So many deliveries may wait for the disk.
const WAITING: usize = 1024;

/// The server; ends with this value.
#[derive(Debug)]
pub struct ChaosRecorder {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    away: AtomicBool,
    heard: Mutex<Vec<Heard>>,
    disk: mpsc::Sender<Delivery>,
    ledger: Arc<Ledger>,
}

#[derive(Debug)]
struct Delivery {
    host: usize,
    event: Value,
    done: oneshot::Sender<bool>,
}

impl ChaosRecorder {
    /// Listens on a free port and appends to `file`.
    pub async fn start(file: &Path, ledger: Arc<Ledger>) -> anyhow::Result<ChaosRecorder> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the recorder's port")?;
        let address = listener.local_addr()?;
        let (disk, deliveries) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared { away: AtomicBool::new(false), heard: Mutex::default(), disk, ledger });
        let writer = Arc::downgrade(&shared);
        // The disk blocks: a thread of its own, which ends when nobody can send to it any more.
        std::thread::spawn(move || write_all(file, deliveries, &writer));
        let app = Router::new().route("/hosts/{host}", post(receive)).with_state(shared.clone());
        let server = tokio::spawn(async move {
            // It runs until it is aborted.
            let _ = axum::serve(listener, app).await;
        });
        Ok(ChaosRecorder { address, shared, server })
    }

    /// `http://127.0.0.1:40123`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the host of this number is to send to.
    pub fn url(&self, host: usize) -> String {
        format!("{}/hosts/{host}", self.origin())
    }

    /// Answers 503 from now on, or no longer.
    pub fn be_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
    }

    /// What was heard so far, in the order of the file.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard().clone()
    }

    /// How much was heard so far.
    pub fn count(&self) -> usize {
        self.shared.heard().len()
    }
}

impl Drop for ChaosRecorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    extract::Path(host): extract::Path<usize>,
    body: String,
) -> StatusCode {
    if shared.away.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let event = match serde_json::from_str(&body) {
        Ok(event) => event,
        Err(error) => {
            shared.ledger.problem(format!("host-{host} sent the receiver no JSON ({error}): {body}"));
            return StatusCode::BAD_REQUEST;
        }
    };
    // On its own: whoever hangs up must not keep the delivery from its place in the file.
    let written = tokio::spawn(async move {
        let (done, written) = oneshot::channel();
        let sent = shared.disk.send(Delivery { host, event, done }).await;
        sent.is_ok() && written.await.unwrap_or(false)
    });
    if written.await.unwrap_or(false) { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}

/// Takes what waits, writes it, waits for the disk once, answers.
fn write_all(
    mut file: std::fs::File,
    mut deliveries: mpsc::Receiver<Delivery>,
    shared: &std::sync::Weak<Shared>,
) {
    while let Some(first) = deliveries.blocking_recv() {
        let mut batch = vec![first];
        while let Ok(next) = deliveries.try_recv() {
            batch.push(next);
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let at = shared.ledger.now();
        let mut text = Vec::new();
        for delivery in &batch {
            let line = json!({"ms": at.as_millis() as u64, "host": delivery.host, "event": delivery.event});
            text.extend_from_slice(line.to_string().as_bytes());
            text.push(b'\n');
        }
        let kept = file.write_all(&text).and_then(|()| file.sync_data());
        if let Err(error) = &kept {
            shared.ledger.problem(format!("the recorder's disk: {error}"));
        }
        for Delivery { host, event, done } in batch {
            if kept.is_ok() {
                shared.heard().push(Heard { at, host, event });
            }
            // The host may have given up on it; it counts as heard all the same.
            let _ = done.send(kept.is_ok());
        }
    }
}
