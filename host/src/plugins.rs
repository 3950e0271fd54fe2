//! The plugins of this host: loaded, fed with events, heard out.
//!
//! Nothing here blocks the caller: events go into bounded queues, guests run on a runtime of their own, and what
//! became of each event comes back as an [`Outcome`].
//!
//! ```text
//!  file ──▶ admission ──▶ compile (child process), cache ──▶ loading ──▶ a trial guest
//!                                                              │
//!  submit ──▶ registry ──▶ plugin (queue) ──▶ worker ──▶ guest ──▶ log, keyvalue, http ──▶ grants
//!                              ▲                 │
//!                              └─── verdict ─────┴──▶ outcomes, dead_letters
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use presence_core::events::Hook;
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Tick;

mod admission;
mod anatomy;
mod backends;
mod bindings;
mod cache;
mod compile;
mod convert;
mod dead_letters;
mod denials;
mod engine;
mod events;
mod failures;
mod grants;
mod guest;
mod http;
mod inspect;
pub mod keyvalue;
pub mod letters;
mod limits;
mod linker;
mod loading;
pub mod local;
mod log;
pub mod messaging;
pub mod metrics;
mod outcomes;
mod permit;
mod plugin;
pub mod presence;
mod problem;
mod redact;
mod registry;
mod reload;
mod stdio;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod turns;
mod watch;
mod worker;
mod yardstick;

pub use admission::CONTRACT;
pub use backends::Backends;
pub use compile::{COMPILE_VERB, CompileError, CompileMode, compile_in_this_process};
pub use events::reading::{Draft, event_from};
pub use inspect::{Inspection, inspect};
pub use loading::PluginDescription;
pub use problem::{PluginError, Problem};
pub use registry::{Deps, PluginSet, check};
pub use reload::Changes;
pub use yardstick::time_bare_calls;

/// What the driver tells all plugins.
pub use presence_core::delivery::Payload as Event;
pub use presence_core::delivery::{LetterNumber, Replayed};

/// What became of an event, once for each event given to `submit`, whatever the number of plugins: it comes when
/// every plugin that exports the hook has taken it, rejected it or given it up (at once when there is none). A tick has
/// none: nobody waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A session hook is settled everywhere.
    Session {
        /// Which session.
        session: SessionId,
        /// Which of the two hooks.
        hook: Hook,
    },
    /// A hook of a session that a holder holds is settled everywhere.
    Held {
        /// The user's partition.
        partition: PartitionId,
        /// The holder's instance.
        instance: InstanceId,
        /// Whose session.
        user: UserId,
        /// Which session.
        session: SessionId,
        /// Which of the two hooks.
        hook: Hook,
    },
    /// A status hook is settled for one plugin (delivered, dead letter, overtaken by a newer transition of the same
    /// user that is settled or still waiting, or the plugin has no such hook any more).
    Status {
        /// The plugin's name.
        plugin: Arc<str>,
        /// Whose status.
        user: UserId,
        /// Its partition.
        partition: PartitionId,
        /// The record's place in the store.
        sequence: Sequence,
    },
    /// The cleanup of everything is settled everywhere, in this run.
    Everything(Arc<str>),
    /// One plugin has settled a part of the cleanup of a dead instance.
    Lost {
        /// The plugin's name.
        plugin: Arc<str>,
        /// The dead instance.
        instance: InstanceId,
        /// As in its [`Sweep`](presence_core::events::Sweep).
        run: Arc<str>,
        /// Which part.
        chunk: u32,
    },
    /// No status hook of this partition waits or runs any more (see [`Plugins::withdraw`]).
    Withdrawn(PartitionId),
    /// A dead letter's event is settled once more (see [`Plugins::replay`]), which no other outcome tells of.
    Replayed(LetterNumber, ReplayEnd),
}

/// What became of a dead letter's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The plugin took it.
    Delivered,
    /// It gave way to newer news of the user.
    Superseded,
    /// It was given up again: there is a new letter.
    GivenUp,
    /// It was dropped, or a new letter could not be kept: the old one is still the one.
    Kept,
}

/// There is no such plugin, or it does not export the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWanted;

/// What the driver needs of the plugins; `PluginSet` implements it, simulations have their own.
pub trait Plugins: Send + Sync + 'static {
    /// Names of the plugins and the hooks each exports.
    fn hooks(&self) -> Vec<(Arc<str>, BTreeSet<Hook>)>;

    /// Names of the plugins that export `tick`, and the interval of each.
    fn intervals(&self) -> Vec<(Arc<str>, Duration)>;

    /// Queues an event for every plugin that exports its hook. Never blocks.
    fn submit(&self, event: Event);

    /// Queues an event for one plugin, if it exports the hook; else it is settled at once. Never blocks.
    fn submit_to(&self, plugin: &str, event: Event);

    /// Queues the event of a dead letter for one plugin, behind what waits of the same user or session. `newest` is the
    /// newest revision of the user that the plugin has heard of, or is about to. [`Outcome::Replayed`] follows for what
    /// is [`Replayed::Queued`]. Never blocks.
    fn replay(
        &self,
        plugin: &str,
        event: Event,
        letter: LetterNumber,
        newest: u64,
    ) -> Result<Replayed, NotWanted>;

    /// Status hooks and cleanups may run until then: none starts whose deadline lies later, and those that still run
    /// then are cut off, which uses no attempt. Before the first call nothing holds them back.
    fn permit(&self, until: Tick);

    /// Whether `session-connected` of this host's sessions may be told. Before the first call it may.
    fn announce(&self, allowed: bool);

    /// The partition goes to another instance: its waiting status hooks, hooks of held sessions and ticks are dropped without an outcome (the
    /// next owner repeats them), running ones end by themselves or, with `cut`, at once.
    /// [`Outcome::Withdrawn`] follows when none is left.
    fn withdraw(&self, partition: PartitionId, cut: bool);

    /// The instance was declared dead: its waiting session hooks are dropped and counted, without an outcome.
    fn drop_sessions(&self, instance: InstanceId);

    /// The fresh start is no longer this host's: cleanups of everything that wait are dropped, without an outcome; one that
    /// runs is cut.
    fn abandon_everything(&self);

    /// Plugins that were prepared to be added, changed or removed are so from now on: [`Plugins::hooks`] tells who there
    /// is. What waits for a plugin or a hook that is gone is settled; what runs ends by itself, and is settled too.
    /// Without anything prepared nothing happens.
    fn switch(&self) {}

    /// What became of events. Waits until there is something; takes everything there is.
    fn outcomes(&self) -> futures_util::future::BoxFuture<'_, Vec<Outcome>>;

    /// How many events are not settled yet, by plugin: for draining and for the last log line.
    fn unsettled(&self) -> Vec<(Arc<str>, usize)>;

    /// Descriptions of what is not settled, at most `limit`: `plugin hook user event-id (why)`.
    fn unsettled_list(&self, limit: usize) -> Vec<String>;
}
