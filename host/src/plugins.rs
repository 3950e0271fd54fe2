//! The plugins of this host: loaded, fed with events, heard out.
//!
//! Nothing here blocks the caller: events go into bounded queues, guests run on a runtime of their own, and what
//! became of each event comes back as an [`Outcome`].

use std::collections::BTreeSet;
use std::sync::Arc;

use presence_core::events::{Hook, SessionEvent, Sweep, Transition};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};

/// What the driver tells all plugins.
#[derive(Clone, Debug)]
pub enum Event {
    /// Hooks `session-connected`, `session-disconnected`.
    Session(Arc<SessionEvent>),
    /// Hooks `user-online`, `user-idle`, `user-offline`.
    Status(Arc<Transition>),
    /// Hook `cleanup`.
    Cleanup(Arc<Sweep>),
}

/// What became of an event, once for each event given to `submit`, whatever the number of plugins: it comes when
/// every plugin that exports the hook has taken it, rejected it or given it up (at once when there is none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A session hook is settled everywhere.
    Session {
        /// Which session.
        session: SessionId,
        /// Which of the two hooks.
        hook: Hook,
    },
    /// A status hook is settled for one plugin (delivered, dead letter, or overtaken by a newer transition of the
    /// same user that is settled or still waiting).
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
    /// A cleanup is settled everywhere.
    Cleanup {
        /// None: everything.
        instance: Option<InstanceId>,
        /// Which part.
        chunk: u32,
    },
}

/// What the driver needs of the plugins; `PluginSet` implements it, simulations have their own.
pub trait Plugins: Send + Sync + 'static {
    /// Names of the plugins and the hooks each exports.
    fn hooks(&self) -> Vec<(Arc<str>, BTreeSet<Hook>)>;

    /// Queues an event for every plugin that exports its hook. Never blocks.
    fn submit(&self, event: Event);

    /// What became of events. Waits until there is something; takes everything there is.
    fn outcomes(&self) -> futures_util::future::BoxFuture<'_, Vec<Outcome>>;

    /// How many events are not settled yet, by plugin: for draining and for the last log line.
    fn unsettled(&self) -> Vec<(Arc<str>, usize)>;

    /// Descriptions of what is not settled, at most `limit`: `plugin hook user event-id (why)`.
    fn unsettled_list(&self, limit: usize) -> Vec<String>;
}
