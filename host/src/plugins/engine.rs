//! The engine that runs guests and the threads it runs them on. Knows no plugin.
//!
//! Guests have a tokio runtime of their own: a guest that loops holds up other guests at most, never a client's
//! connection or a timer of the host.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime::{Config, Engine};

use super::turns::Turns;

/// How often a computing guest lets others run, and how late its deadline is noticed at most.
pub const EPOCH: Duration = Duration::from_millis(10);

/// More guests than this gain nothing by computing at once: guests mostly wait.
const MAX_COMPUTING: usize = 4;

/// Threads for calls that block, such as looking up names. A plugin takes a few of them at most.
const MAX_BLOCKING_THREADS: usize = 64;

/// Why guests can't be run at all.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refuses its configuration on this machine.
    #[error("the WebAssembly engine can't be started on this machine: {0}")]
    Engine(String),
    /// No threads.
    #[error("the threads for plugins can't be started: {0}")]
    Threads(#[from] std::io::Error),
}

/// The engine, its ticker, and the threads for guests. Dropping it ends them in the background.
pub struct GuestRuntime {
    engine: Engine,
    turns: Turns,
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
}

impl GuestRuntime {
    /// Starts the engine, the epoch ticker and the threads.
    pub fn start() -> Result<GuestRuntime, EngineError> {
        let engine = new_engine()?;
        start_ticker(&engine)?;
        let computing = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_COMPUTING);
        let runtime = Builder::new_multi_thread()
            .worker_threads(computing + 1)
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .thread_name("guest")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok(GuestRuntime { engine, turns: Turns::new(computing), handle, runtime: Mutex::new(Some(runtime)) })
    }

    /// The one engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Of guests that compute.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Where guests run.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends all tasks at their next pause, without waiting for it.
    pub fn stop(&self) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl Drop for GuestRuntime {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An engine without a ticker: enough to compile. The configuration is the same everywhere, or compiled code of one
/// process could not be loaded by another.
pub(super) fn new_engine() -> Result<Engine, EngineError> {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .wasm_component_model(true)
        .cranelift_opt_level(wasmtime::OptLevel::Speed);
    Engine::new(&config).map_err(|error| EngineError::Engine(format!("{error:#}")))
}

/// Counts epochs until the engine is gone.
fn start_ticker(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let tick = move || {
        loop {
            std::thread::sleep(EPOCH);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    std::thread::Builder::new().name("guest-epochs".to_owned()).spawn(tick).map(drop)
}
