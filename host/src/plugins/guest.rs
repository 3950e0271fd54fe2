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
use super::limits::{GuestLimits, MAX_TABLE_ELEMENTS, Refused};
use super::loading::Loaded;
use super::local::StoppedClock;
use super::log::{CallLog, Caller, Printable, Stream};
use super::messaging::host::Publishing;
use super::metrics::Alive;
use super::presence::host::GrantedStatuses;
use super::problem::Problem;
use super::redact::Redactor;
use super::stdio::Output;
use super::turns::Turns;
use super::watch::{Expired, Watch, Yielded};
use crate::traces::HookTrace;

mod exports;

pub(super) use exports::{Exports, HookIndices};

/// Resources (streams, requests, pollables) that a guest may hold at once. Some of them hold texts of the guest's.
pub(super) const MAX_RESOURCES: usize = 256;
/// Bytes that one host call may carry out of the guest: more than any import takes.
pub(super) const HOSTCALL_FUEL: usize = 256 << 10;
/// Bytes of randomness in one host call.
pub(super) const MAX_RANDOM_BYTES: u64 = 64 << 10;
/// A guest starts afresh after so many calls: whatever it leaks is bounded, and nobody relies on its memory.
pub(super) const MAX_CALLS: u32 = 10_000;
/// Error texts longer than this, in bytes, are cut.
pub(super) const MAX_ERROR_BYTES: usize = 1000;

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
    pub(super) caller: Caller,
    limits: GuestLimits,
    deadline: Instant,
    yielded: Yielded,
    turns: Turns,
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
    _alive: Option<Alive>,
}

impl Guest {
    /// Instantiates and configures a guest, both within one deadline.
    pub(super) async fn start(loaded: &Loaded, watch: &mut Watch) -> Result<Guest, NoGuest> {
        let store = new_store(loaded, watch.yielded.clone());
        let log = store.data().log.clone();
        log.begin();
        let started = Guest::configured(store, loaded, watch).await;
        let cut = log.end(&Caller::default());
        if cut > 0 {
            let (plugin, hook) = (&*loaded.name, "configure");
            tracing::warn!(
                plugin,
                hook,
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
                .map_err(|reason| NoGuest::Refused(shorten(loaded.redactor(), &reason)))?;
        }
        Ok(Guest { store, exports, deadline, memory_limit, calls: 0, _alive: None })
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
        state.caller.set(payload, occasion.event_id);
        state.log.begin();
        self.store.set_epoch_deadline(1);
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
        let state = self.store.data();
        state.log.end(&state.caller)
    }

    /// Counts it for as long as it lives.
    pub(super) fn counted(mut self, alive: Alive) -> Guest {
        self._alive = Some(alive);
        self
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
    let mut log = CallLog::new(loaded.name.clone(), loaded.redactor().clone(), settings.limits.log);
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
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM_BYTES);
    if let Some(now) = loaded.stand_ins().and_then(|stand_ins| stand_ins.now) {
        wasi.wall_clock(StoppedClock(now));
    }
    let state = GuestState {
        wasi: wasi.build(),
        table,
        http_context: WasiHttpCtx::new(),
        outbound: Requests::new(loaded.capabilities().outbound.of_guest()),
        buckets: loaded.capabilities().buckets.clone(),
        publishing: Publishing::new(loaded.capabilities().subjects.clone()),
        statuses: loaded.capabilities().statuses.clone(),
        log,
        caller: Caller::default(),
        limits: GuestLimits::new(settings.limits.memory),
        deadline: Instant::now(),
        yielded,
        turns: loaded.turns().clone(),
    };
    let mut store = Store::new(loaded.instance_pre().engine(), state);
    store.limiter(|state| &mut state.limits);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.epoch_deadline_callback(|context| {
        let state = context.data();
        Ok(state.yielded.at_epoch(state.deadline, &state.turns))
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
            let (plugin, redactor) = (&store.data().buckets.plugin, store.data().log.redactor());
            tracing::debug!(%plugin, "a guest failed: {}", redactor.text(&format!("{error:?}")));
            let mut reason = explain(&error, deadline, redactor);
            _ = match store.data().limits.refused {
                None => Ok(()),
                Some(Refused::Memory) => write!(
                    reason,
                    " (after it was refused memory beyond limits.memory, {memory_limit} bytes)"
                ),
                Some(Refused::Elements) => {
                    write!(
                        reason,
                        " (after it was refused more than {MAX_TABLE_ELEMENTS} elements of tables)"
                    )
                }
            };
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
fn explain(error: &wasmtime::Error, deadline: Duration, redactor: &Redactor) -> String {
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
        Some(place) => shorten(redactor, &format!("{reason}, in {place}")),
        None => shorten(redactor, &reason),
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
    let names = || backtrace.frames().iter().filter_map(|frame| frame.func_name()).map(readable);
    let plain = |name: &String| !MACHINERY.iter().any(|part| name.contains(part));
    names().find(plain).or_else(|| names().next())
}

/// A function's name as its author wrote it. Not as the backtrace prints it: guests choose these names, and of one
/// of C++ a few hundred bytes can stand for gigabytes.
fn readable(name: &str) -> String {
    match name.len() {
        0..=MAX_ERROR_BYTES => format!("{:#}", rustc_demangle::demangle(name)),
        _ => shorten(&Redactor::default(), name),
    }
}

/// Texts of guests hold no secrets, are bounded, and stay one line.
pub(super) fn shorten(redactor: &Redactor, text: &str) -> String {
    // First of all: what is cut is not recognised.
    let text = redactor.text(text);
    let mut end = text.len().min(MAX_ERROR_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", Printable(&text[..end]))
}
