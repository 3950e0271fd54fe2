//! One instantiated plugin: its memory, what it may use, and how it is called. Knows events and limits, not queues.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use presence_core::delivery::Payload;
use presence_core::events::{Scope, SessionChange, Status};
use wasmtime::component::ResourceTable;
use wasmtime::{Store, WasmBacktrace};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::bindings::hooks::{cleanup, tick};
use super::bindings::types;
use super::convert::{SessionTexts, status_change, sweep};
use super::http::Requests;
use super::keyvalue::host::GrantedBuckets;
use super::limits::GuestLimits;
use super::loading::Loaded;
use super::local::StoppedClock;
use super::log::{CallLog, Printable, Stream};
use super::messaging::host::Publishing;
use super::presence::host::GrantedStatuses;
use super::problem::Problem;
use super::stdio::Output;
use super::watch::{Expired, Watch, Yielded};
use crate::traces::HookTrace;

mod exports;

pub(super) use exports::{Exports, HookIndices};

/// Resources (streams, requests, pollables) that a guest may hold at once.
const MAX_RESOURCES: usize = 1000;
/// Bytes that one host call may carry out of the guest.
const HOSTCALL_FUEL: usize = 2 << 20;
/// A guest starts afresh after so many calls: whatever it leaks is bounded, and nobody relies on its memory.
pub(super) const MAX_CALLS: u32 = 10_000;
/// Error texts longer than this, in bytes, are cut.
const MAX_ERROR_BYTES: usize = 1000;

/// What host functions see of the guest that calls them.
pub struct GuestState {
    wasi: WasiCtx,
    table: ResourceTable,
    http_context: WasiHttpCtx,
    outbound: Requests,
    pub(super) buckets: GrantedBuckets,
    pub(super) publishing: Publishing,
    pub(super) statuses: GrantedStatuses,
    pub(super) log: Arc<CallLog>,
    limits: GuestLimits,
    deadline: Instant,
    yielded: Yielded,
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http_context }
    }
}

/// Why a call gave no answer. The guest must be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The guest's own doing: a trap, an exit, a deadline passed while it computed.
    Trapped(String),
    /// The deadline passed while it waited for the host.
    Stalled(String),
    /// The host ended the call for reasons of its own.
    Cut,
}

/// What is said of a call that the host ended.
pub(super) const CUT: &str = "the host ended the call";

/// Why there is no guest.
#[derive(Debug)]
pub(super) enum NoGuest {
    /// It could not be instantiated.
    Start(Failure),
    /// Exports have other types than the contract says.
    Types(Vec<Problem>),
    /// `configure` did not answer.
    Configure(Failure),
    /// `configure` said no.
    Refused(String),
}

/// How a call that ended by itself went.
pub(super) type Answer = Result<(), types::HookError>;

/// What goes with an event.
pub(super) struct Occasion<'a> {
    pub(super) event_id: &'a str,
    pub(super) attempt: u32,
}

/// A guest that is configured and ready for calls.
pub(super) struct Guest {
    store: Store<GuestState>,
    exports: Exports,
    deadline: Duration,
    memory_limit: u64,
    calls: u32,
}

impl Guest {
    /// Instantiates and configures a guest, both within one deadline.
    pub(super) async fn start(loaded: &Loaded, watch: &mut Watch) -> Result<Guest, NoGuest> {
        let store = new_store(loaded, watch.yielded.clone());
        let log = store.data().log.clone();
        log.begin(None);
        let started = Guest::configured(store, loaded, watch).await;
        let cut = log.end();
        if cut > 0 {
            let plugin = &*loaded.name;
            tracing::warn!(
                plugin,
                cut,
                "a plugin logged more than limits.log while it started: bytes were cut"
            );
        }
        started
    }

    async fn configured(
        mut store: Store<GuestState>,
        loaded: &Loaded,
        watch: &mut Watch,
    ) -> Result<Guest, NoGuest> {
        let (deadline, memory_limit) = (loaded.settings.limits.deadline, loaded.settings.limits.memory);
        let until = begin(&mut store, deadline);
        let instantiate = loaded.instance_pre().instantiate_async(&mut store);
        let ended = watch.run(until, instantiate, || ()).await;
        let instance = outcome(ended, &store, memory_limit, deadline).map_err(NoGuest::Start)?;
        let exports = loaded.indices().load(&mut store, &instance).map_err(NoGuest::Types)?;
        if let Some(configure) = &exports.configure {
            let call = configure.call_configure(&mut store, &loaded.settings.config);
            let ended = watch.run(until, call, || ()).await;
            outcome(ended, &store, memory_limit, deadline)
                .map_err(NoGuest::Configure)?
                .map_err(|reason| NoGuest::Refused(shorten(&reason)))?;
        }
        Ok(Guest { store, exports, deadline, memory_limit, calls: 0 })
    }

    /// What the next call asks of others is part of this trace, or of none.
    pub(super) fn trace(&mut self, trace: Option<HookTrace>) {
        self.store.data_mut().outbound.trace = trace;
    }

    /// Calls the hook of an event. `now` is when the call begins; `paused` is called once if it does not end at once.
    pub(super) async fn call(
        &mut self,
        now: Instant,
        payload: &Payload,
        occasion: Occasion<'_>,
        watch: &mut Watch,
        paused: impl FnMut(),
    ) -> Result<Answer, Failure> {
        self.calls += 1;
        let deadline = now + self.deadline;
        let time_left = watch.bounds.left().map_or(self.deadline, |left| left.min(self.deadline));
        let state = self.store.data_mut();
        state.deadline = deadline;
        state.publishing.begin(occasion.event_id);
        self.store.set_epoch_deadline(1);
        self.store.data().log.begin(Some(payload.hook()));
        let context = types::Context {
            event_id: occasion.event_id,
            attempt: occasion.attempt,
            time_left_ms: u32::try_from(time_left.as_millis()).unwrap_or(u32::MAX),
            attributes: &[],
        };
        let call = dispatch(&mut self.store, &self.exports, context, payload);
        let ended = watch.run(deadline, call, paused).await;
        match ended {
            Ok(Ok(answer)) => Ok(answer),
            ended => outcome(ended, &self.store, self.memory_limit, self.deadline),
        }
    }

    /// The call and nothing around it, for measuring.
    pub(super) async fn call_bare(&mut self, payload: &Payload, attempt: u32) -> wasmtime::Result<Answer> {
        let context = types::Context { event_id: "bare", attempt, time_left_ms: 1000, attributes: &[] };
        // Far away: what is measured is not interrupted.
        self.store.set_epoch_deadline(1 << 40);
        dispatch(&mut self.store, &self.exports, context, payload).await
    }

    /// The last call has ended: its output is complete. Returns how many bytes of it were cut.
    pub(super) fn end_log(&self) -> u64 {
        self.store.data().log.end()
    }

    /// Bytes over all its memories: the most it ever held, since nothing is given back.
    pub(super) fn memory(&self) -> u64 {
        self.store.data().limits.memory() as u64
    }

    /// True when it has served long enough.
    pub(super) fn is_spent(&self) -> bool {
        self.calls >= MAX_CALLS
    }
}

fn new_store(loaded: &Loaded, yielded: Yielded) -> Store<GuestState> {
    let settings = &loaded.settings;
    let mut log = CallLog::new(loaded.name.clone(), settings.limits.log);
    if let Some(stand_ins) = loaded.stand_ins() {
        log.tape = Some(stand_ins.tape.clone());
    }
    let log = Arc::new(log);
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_RESOURCES);
    // Nothing of the host's environment, arguments, files or network.
    let mut wasi = WasiCtx::builder();
    wasi.stdout(Output::new(log.clone(), Stream::Out))
        .stderr(Output::new(log.clone(), Stream::Err))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    if let Some(now) = loaded.stand_ins().and_then(|stand_ins| stand_ins.now) {
        wasi.wall_clock(StoppedClock(now));
    }
    let state = GuestState {
        wasi: wasi.build(),
        table,
        http_context: WasiHttpCtx::new(),
        outbound: Requests::new(loaded.capabilities().outbound.clone()),
        buckets: loaded.capabilities().buckets.clone(),
        publishing: Publishing::new(loaded.capabilities().subjects.clone()),
        statuses: loaded.capabilities().statuses.clone(),
        log,
        limits: GuestLimits::new(settings.limits.memory),
        deadline: Instant::now(),
        yielded,
    };
    let mut store = Store::new(loaded.instance_pre().engine(), state);
    store.limiter(|state| &mut state.limits);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.epoch_deadline_callback(|context| {
        let state = context.data();
        Ok(state.yielded.at_epoch(state.deadline))
    });
    store
}

/// Sets the deadline of what follows.
fn begin(store: &mut Store<GuestState>, limit: Duration) -> Instant {
    let deadline = Instant::now() + limit;
    store.data_mut().deadline = deadline;
    store.set_epoch_deadline(1);
    deadline
}

async fn dispatch(
    store: &mut Store<GuestState>,
    exports: &Exports,
    context: types::Context<'_>,
    payload: &Payload,
) -> wasmtime::Result<Answer> {
    // A hook that is not exported is nothing to be told: the event was queued for another generation of the plugin.
    macro_rules! call {
        ($hook:ident, $event:expr) => {
            match &exports.$hook {
                Some(hook) => hook.call_handle(store, context, $event).await,
                None => Ok(Ok(())),
            }
        };
    }
    match payload {
        Payload::Status(transition) => {
            let event = status_change(transition);
            match transition.current {
                Status::Online => call!(user_online, event),
                Status::Idle => call!(user_idle, event),
                Status::Offline => call!(user_offline, event),
            }
        }
        Payload::Session(event) => {
            let texts = SessionTexts::new(&event.session);
            match &event.change {
                SessionChange::Connected => call!(session_connected, texts.record()),
                SessionChange::Disconnected { reason, duration_ms } => {
                    call!(session_disconnected, texts.disconnect(reason, *duration_ms))
                }
            }
        }
        Payload::Tick(beat) => {
            call!(tick, tick::Beat { due: beat.due.0, interval_ms: beat.interval_ms })
        }
        Payload::Cleanup(event) => match &event.scope {
            Scope::Everything => call!(cleanup, sweep(event, cleanup::Scope::Everything)),
            Scope::Lost { instance, sessions } => {
                let instance = instance.to_string();
                let texts: Vec<SessionTexts> = sessions.iter().map(SessionTexts::new).collect();
                let sessions: Vec<types::Session> = texts.iter().map(SessionTexts::record).collect();
                let lost = cleanup::Lost { instance: &instance, sessions: &sessions };
                call!(cleanup, sweep(event, cleanup::Scope::Lost(lost)))
            }
        },
    }
}

fn outcome<T>(
    ended: Result<wasmtime::Result<T>, Expired>,
    store: &Store<GuestState>,
    memory_limit: u64,
    deadline: Duration,
) -> Result<T, Failure> {
    match ended {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::debug!(plugin = %store.data().buckets.plugin, "a guest failed: {error:?}");
            let mut reason = explain(&error, deadline);
            if store.data().limits.refused {
                _ = write!(
                    reason,
                    " (after it was refused memory beyond limits.memory, {memory_limit} bytes)"
                );
            }
            Err(Failure::Trapped(reason))
        }
        Err(Expired::Cut) => Err(Failure::Cut),
        Err(Expired::Computing) => Err(Failure::Trapped(out_of_time(deadline))),
        Err(Expired::Waiting) => Err(Failure::Stalled(format!(
            "it still waited for an answer from outside when limits.deadline ({}) had passed",
            humantime::format_duration(deadline)
        ))),
    }
}

fn out_of_time(deadline: Duration) -> String {
    format!("it still computed when limits.deadline ({}) had passed", humantime::format_duration(deadline))
}

/// The reason and the place, in one line.
fn explain(error: &wasmtime::Error, deadline: Duration) -> String {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return format!("it ended itself with exit({})", exit.0);
    }
    let reason = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => out_of_time(deadline),
        Some(trap) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
        None => match error.root_cause().to_string() {
            reason if reason.contains("fuel allocated for hostcalls") => {
                format!("it gave the host more than {HOSTCALL_FUEL} bytes at once")
            }
            reason => reason,
        },
    };
    match error.downcast_ref::<WasmBacktrace>().and_then(top_frame) {
        Some(place) => shorten(&format!("{reason}, in {place}")),
        None => shorten(&reason),
    }
}

/// The innermost function that is the author's: what only reports a panic says nothing about its place.
fn top_frame(backtrace: &WasmBacktrace) -> Option<String> {
    const MACHINERY: [&str; 9] = [
        "panic",
        "abort",
        "__rust",
        "rust_begin_unwind",
        "std::",
        "core::",
        "alloc::",
        "dlmalloc",
        "unwrap_failed",
    ];
    let text = backtrace.to_string();
    // Lines look like `0: 0x1f2 - module!function`.
    let function = |name| str::rsplit_once(name, '!').map_or(name, |(_, function)| function);
    let places = || text.lines().filter_map(|line| line.trim().split_once(" - "));
    let names = || places().map(|(_, name)| function(name.trim()));
    let plain = |name: &&str| !MACHINERY.iter().any(|part| name.contains(part));
    names().find(plain).or_else(|| names().next()).map(str::to_owned)
}

/// Texts of guests are bounded and stay one line.
pub(super) fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_ERROR_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", Printable(&text[..end]))
}
