//! The WebAssembly side: the contract's bindings, their conversion to and from the plain types, and what `#[plugin]`
//! calls. Exists on wasm targets only; no other module of the SDK sees a generated type of ours but the imports.

use std::cell::RefCell;
use std::fmt::Display;
use std::sync::Once;
use std::thread::LocalKey;

use serde::de::DeserializeOwned;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes as SpanAttributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::event;

/// Generated from the contract. One world per hook, so that a plugin exports just the hooks it has: each world's
/// description is a custom section that only its export macro emits, and the linker's sections are merged.
#[allow(missing_docs, unsafe_code, clippy::all)]
pub mod bindings {
    pub mod imports {
        wit_bindgen::generate!({
            path: ["wit/0.1.0", "wit/sdk"],
            world: "presence:sdk/imports",
            generate_unused_types: true,
            generate_all,
        });
    }

    macro_rules! export {
        ($name:ident, $world:literal, $event:path) => {
            pub mod $name {
                wit_bindgen::generate!({
                    path: ["wit/0.1.0", "wit/sdk"],
                    world: $world,
                    pub_export_macro: true,
                    generate_all,
                    with: {
                        "presence:plugin/types@0.1.0": crate::guest::bindings::imports::presence::plugin::types,
                    },
                });
                pub use self::exports::presence::plugin::$name::Guest;
                pub type Event = $event;
            }
        };
    }

    export!(session_connected, "presence:sdk/session-connected", crate::guest::types::Session);
    export!(
        session_disconnected,
        "presence:sdk/session-disconnected",
        self::exports::presence::plugin::session_disconnected::Disconnect
    );
    export!(cleanup, "presence:sdk/cleanup", self::exports::presence::plugin::cleanup::Sweep);
    export!(user_online, "presence:sdk/user-online", crate::guest::types::StatusChange);
    export!(user_idle, "presence:sdk/user-idle", crate::guest::types::StatusChange);
    export!(user_offline, "presence:sdk/user-offline", crate::guest::types::StatusChange);
    export!(tick, "presence:sdk/tick", self::exports::presence::plugin::tick::Beat);

    pub mod configure {
        wit_bindgen::generate!({
            path: ["wit/0.1.0", "wit/sdk"],
            world: "presence:sdk/configure",
            pub_export_macro: true,
            generate_all,
        });
        pub use self::exports::presence::plugin::configure::Guest;
    }
}

pub use bindings::imports::presence::plugin::types::{Context, HookError};
pub(crate) use bindings::imports::presence::plugin::{keyvalue, log, messaging, presence, types};

/// The one plugin of this guest, once it is made.
pub struct State<T>(RefCell<Option<T>>);

impl<T> State<T> {
    /// Not made yet.
    #[allow(clippy::new_without_default, reason = "only ever made by generated code, in a const")]
    pub const fn new() -> State<T> {
        State(RefCell::new(None))
    }
}

/// Makes the plugin from the config of presence.toml.
pub fn configure<T, C: DeserializeOwned, E: Display>(
    state: &'static LocalKey<State<T>>,
    json: &str,
    make: impl FnOnce(C) -> Result<T, E>,
) -> Result<(), String> {
    start();
    // The file is TOML, so the place in the JSON text tells its author nothing.
    let config = serde_json::from_str(json).map_err(|error| {
        let text = error.to_string();
        let end = text.rfind(" at line ").unwrap_or(text.len());
        format!("config: {}", &text[..end])
    })?;
    let plugin = make(config).map_err(|error| error.to_string())?;
    state.with(|state| *state.0.borrow_mut() = Some(plugin));
    Ok(())
}

/// Runs one hook on the plugin, which `default` makes if there is no `configure`.
pub fn handle<T, E: Plain>(
    state: &'static LocalKey<State<T>>,
    default: Option<fn() -> T>,
    ctx: Context,
    event: E,
    hook: impl FnOnce(&mut T, &event::Context, &E::Plain) -> event::HookResult,
) -> Result<(), HookError> {
    start();
    crate::time::wasi::set_call(Some(ctx.time_left_ms));
    let answer = state.with(|state| {
        let mut state = state.0.borrow_mut();
        if let (None, Some(make)) = (&*state, default) {
            *state = Some(make());
        }
        match &mut *state {
            Some(plugin) => hook(plugin, &ctx.plain(), &event.plain()),
            None => {
                Err(event::HookError::retry("the host called a hook of a plugin that it has not configured"))
            }
        }
    });
    crate::time::wasi::set_call(None);
    answer.map_err(|error| match error {
        event::HookError::Retry { message, after_ms } => HookError::Retry(types::Later { message, after_ms }),
        event::HookError::Reject { message } => HookError::Reject(message),
    })
}

/// Once per guest: logging and panics go to the host.
fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Fails only if the plugin has installed a subscriber of its own: then it wants that.
        let _ = tracing::subscriber::set_global_default(HostLog);
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.payload_as_str().unwrap_or("the plugin panicked").to_string();
            let place = panic.location().map(|place| ("location".to_string(), place.to_string()));
            log::log(log::Level::Error, &format!("panic: {text}"), &Vec::from_iter(place));
        }));
    });
}

/// Forwards events to the import `log`. Which of them are kept is the host's decision.
struct HostLog;

impl Subscriber for HostLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &SpanAttributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => log::Level::Error,
            Level::WARN => log::Level::Warn,
            Level::INFO => log::Level::Info,
            Level::DEBUG => log::Level::Debug,
            Level::TRACE => log::Level::Trace,
        };
        let mut line = Line::default();
        event.record(&mut line);
        log::log(level, &line.message, &line.fields);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<(String, String)>,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_string(),
            name => self.fields.push((name.to_string(), value.to_string())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// What the contract's type says, as a plain type.
pub trait Plain {
    /// The plain type.
    type Plain;

    /// Moves the parts over.
    fn plain(self) -> Self::Plain;
}

impl Plain for Context {
    type Plain = event::Context;

    fn plain(self) -> event::Context {
        event::Context {
            event_id: self.event_id,
            attempt: self.attempt,
            time_left_ms: self.time_left_ms,
            attributes: self.attributes.into_iter().collect(),
        }
    }
}

impl Plain for types::Status {
    type Plain = event::Status;

    fn plain(self) -> event::Status {
        match self {
            types::Status::Online => event::Status::Online,
            types::Status::Idle => event::Status::Idle,
            types::Status::Offline => event::Status::Offline,
        }
    }
}

impl Plain for types::Session {
    type Plain = event::Session;

    fn plain(self) -> event::Session {
        event::Session {
            id: self.id,
            user: self.user,
            instance: self.instance,
            status: self.status.plain(),
            connected_at: self.connected_at,
            attributes: self.attributes.into_iter().collect(),
        }
    }
}

impl Plain for types::StatusChange {
    type Plain = event::StatusChange;

    fn plain(self) -> event::StatusChange {
        event::StatusChange {
            user: self.user,
            previous: self.previous.map(Plain::plain),
            current: self.current.plain(),
            since: self.since,
            revision: self.revision,
            sessions: self.sessions,
            last_seen: self.last_seen,
        }
    }
}

impl Plain for bindings::session_disconnected::Event {
    type Plain = event::SessionDisconnected;

    fn plain(self) -> event::SessionDisconnected {
        event::SessionDisconnected {
            session: self.session.plain(),
            reason: self.reason,
            duration_ms: self.duration_ms,
        }
    }
}

impl Plain for bindings::cleanup::Event {
    type Plain = event::Cleanup;

    fn plain(self) -> event::Cleanup {
        use bindings::cleanup::exports::presence::plugin::cleanup::Scope;
        let scope = match self.scope {
            Scope::Everything => event::Scope::Everything,
            Scope::Lost(lost) => event::Scope::Lost {
                instance: lost.instance,
                sessions: lost.sessions.into_iter().map(Plain::plain).collect(),
            },
        };
        event::Cleanup { cause: self.cause, scope, chunk: self.chunk, last: self.last }
    }
}

impl Plain for bindings::tick::Event {
    type Plain = event::Tick;

    fn plain(self) -> event::Tick {
        event::Tick { due: self.due, interval_ms: self.interval_ms }
    }
}
