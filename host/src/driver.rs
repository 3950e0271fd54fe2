//! The event loop around the core: one closed [`Event`] enum in, effects out to the store, plugins and clients.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use presence_core::documents::StatusRecord;
use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, PartitionId, SessionId, UserId};
use presence_core::membership::{InstanceView, MembershipCounters};
use presence_core::message::Wanted;
use presence_core::time::Timestamp;
use presence_core::watchers::{Shown, With};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::gateway::NewSession;
use crate::traces::Traced;

mod clients;
mod cluster;
mod counts;
mod details;
mod engine;
mod holders;
mod io;
mod letters;
mod newcomers;
mod partition;
mod partitions;
mod traces;

pub use counts::DeploymentCounts;
pub use details::MessageOutcome;
pub use engine::{Driver, DriverConfig, Ending};
pub use holders::{
    HeldChange, HolderAnswer, HolderCounts, HolderOrder, HolderRefused, HolderReply, HolderVerb, Kept,
};
pub use letters::{LetterCounts, LetterOrder, LetterOutcome, LetterReport, LetterVerb};

/// A connection within this host; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// What the gateway and the admin API tell the driver.
#[derive(Debug)]
pub enum Event {
    /// A client has been authenticated.
    Open(NewSession, oneshot::Sender<Result<Opened, Refused>>),
    /// Any frame came (also Ping and Pong): the connection lives.
    Frame(Connection),
    /// A client message other than `ping` came: somebody is there. Implies `Frame`.
    Activity(Connection),
    /// `set_status`. Implies `Activity`. The driver answers `ok` with the id.
    SetStatus(Connection, Status, Option<String>, Traced),
    /// `set_metadata`: the session's attributes with its metadata, already checked. Implies `Activity`. The driver answers
    /// `ok`.
    SetMetadata(Connection, Attributes, Option<String>),
    /// `set_message`; none clears it. Implies `Activity`. The driver answers `ok` once it is in the store, or `unavailable`.
    SetMessage(Connection, Option<Wanted>, Option<String>),
    /// `watch`, already allowed, and what is to be seen besides the status. Implies `Activity`. The driver answers a
    /// `presence` for each, then `ok`.
    Watch(Connection, Vec<UserId>, With, Option<String>),
    /// `unwatch`. Implies `Activity`. The driver answers `ok`.
    Unwatch(Connection, Vec<UserId>, Option<String>),
    /// The client has a fresh token, already checked: the session ends with that one, `expires_at` milliseconds since
    /// 1970. It does not let it watch `lost` any more. The driver answers `ok`.
    Renew {
        /// Whose.
        connection: Connection,
        /// Sooner or later than before.
        expires_at: u64,
        /// Users that it watched.
        lost: Vec<UserId>,
        /// Echoed in the answer.
        request: Option<String>,
    },
    /// The connection has ended; `reason` is a label such as `closed`, `timeout`, `abuse`.
    Closed(Connection, &'static str),
    /// A backend that holds sessions itself wants something.
    Hold(HolderOrder, HolderReply),
    /// For the admin API.
    Query(Query),
    /// Plugins were prepared to be added, changed or removed: they are from now on. Names the plugins that do not want to
    /// hear of what was before them; answered once it is done.
    SwitchPlugins(BTreeSet<Arc<str>>, oneshot::Sender<()>),
    /// Stop: say goodbye, settle, leave.
    Drain,
}

/// Questions of the admin API.
#[derive(Debug)]
pub enum Query {
    /// The recorded statuses of users, in the order asked.
    Users(Vec<UserId>, oneshot::Sender<Result<Vec<UserView>, String>>),
    /// The custom message of a user.
    Message(UserId, oneshot::Sender<MessageOutcome>),
    /// Set or (none) clear the custom message of a user.
    SetMessage(UserId, Option<Wanted>, oneshot::Sender<MessageOutcome>),
    /// How the host is.
    Health(oneshot::Sender<Health>),
    /// All known instances.
    Instances(oneshot::Sender<Vec<InstanceView>>),
    /// Every partition and its owner.
    Partitions(oneshot::Sender<Vec<PartitionView>>),
    /// How many users and sessions the owners of all partitions count.
    Counts(oneshot::Sender<DeploymentCounts>),
    /// Replay or drop a dead letter; the owner of its partition does it.
    Letter(LetterOrder, oneshot::Sender<LetterReport>),
    /// Numbers for `/metrics`.
    Census(oneshot::Sender<Census>),
}

/// What the API says of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Which.
    pub partition: PartitionId,
    /// Who owns it, as far as this host knows.
    pub owner: Option<InstanceId>,
    /// The owner's host.
    pub host: Option<String>,
    /// If it is this host's: its users by status: online, idle, offline.
    pub users: Option<[u64; 3]>,
}

/// What the API says of a user. Unknown users are offline with revision 0 and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserView {
    /// Whose status.
    pub user: UserId,
    /// The record; none for an unknown user.
    pub record: Option<StatusRecord>,
}

/// Whether clients may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// True when snapshots are complete and the store is there.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
    /// This host's instance.
    pub instance: InstanceId,
}

/// Counts for `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Sessions held by this host.
    pub sessions_online: u64,
    /// Sessions held by this host.
    pub sessions_idle: u64,
    /// Users of owned partitions, by status: online, idle, offline.
    pub users: [u64; 3],
    /// Transitions decided by this host, by new status: online, idle, offline.
    pub transitions: [u64; 3],
    /// Partitions owned.
    pub partitions: Vec<PartitionId>,
    /// Users that clients of this host watch.
    pub watched: u64,
    /// Decisions that gave way to a newer one before they were written.
    pub coalesced: u64,
    /// Dead letters replayed and dropped.
    pub letters: LetterCounts,
    /// Leases, claims, deaths.
    pub membership: MembershipCounters,
    /// Followers that had to start over.
    pub gaps: u64,
    /// Snapshots of partitions read.
    pub reads: u64,
    /// How long the cleanups after dead instances that ended here took together.
    pub cleanup_time: Duration,
    /// The store's clock minus the own one, in milliseconds, as last compared; 0 for a store in this process.
    pub clock_offset_ms: i64,
    /// The lease is not confirmed: the store is away.
    pub away: bool,
    /// What this host has done for holders.
    pub holders: HolderCounts,
    /// Held sessions of the users of owned partitions.
    pub held_sessions: u64,
}

/// A session was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// For later messages.
    pub connection: Connection,
    /// Told in `welcome`.
    pub session: SessionId,
    /// Told in `welcome`.
    pub instance: InstanceId,
}

/// Why a session was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not ready yet.
    #[error("this host is still starting")]
    Starting,
    /// Going away.
    #[error("this host is draining")]
    Draining,
}

/// What goes to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// `ok`, with the id of the message it answers.
    Ok(Option<String>),
    /// `presence`; newer ones of a user replace those not yet sent.
    Presence(UserId, Status, Timestamp, u64),
    /// The same with what the client has asked to see besides.
    Detailed(Box<(UserId, Status, Timestamp, u64, Shown)>),
    /// `error` with the code `unavailable`: why, and the id of the message it answers.
    Unavailable(String, Option<String>),
    /// `welcome`, again, after the host took a new instance id.
    Welcome(SessionId, InstanceId, Status),
    /// `goodbye`, then a close with this code.
    Goodbye {
        /// `draining`, `timeout`, `expired`, …
        reason: &'static str,
        /// For `draining`.
        retry_after_ms: Option<u64>,
        /// The WebSocket close code.
        code: u16,
    },
    /// A WebSocket Ping.
    Ping,
}

impl Outgoing {
    /// Whose status it tells.
    fn of(&self) -> Option<&UserId> {
        match self {
            Outgoing::Presence(user, ..) => Some(user),
            Outgoing::Detailed(news) => Some(&news.0),
            _ => None,
        }
    }
}

/// The frames waiting for one client. Bounded: a `presence` replaces an unsent one of the same user, so that there
/// are at most as many as watched users; answers are bounded because the gateway reads no further message while
/// more than [`Outbox::MAX_ANSWERS`] answers wait.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Positions of unsent presences; only allocated for clients that watch.
    presences: BTreeMap<UserId, u64>,
    first: u64,
    frames: VecDeque<Outgoing>,
}

impl Outbox {
    /// So many answers may wait before the gateway stops reading.
    pub const MAX_ANSWERS: usize = 64;

    /// Queues a frame.
    pub fn push(&self, frame: Outgoing) {
        let mut waiting = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let position = waiting.first + waiting.frames.len() as u64;
        if let Some(user) = frame.of() {
            if let Some(unsent) = waiting.presences.get(user) {
                let index = (unsent - waiting.first) as usize;
                waiting.frames[index] = frame;
                return;
            }
            waiting.presences.insert(user.clone(), position);
        }
        waiting.frames.push_back(frame);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Takes the next frame.
    pub fn pop(&self) -> Option<Outgoing> {
        let mut waiting = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = waiting.frames.pop_front()?;
        waiting.first += 1;
        if let Some(user) = frame.of() {
            waiting.presences.remove(user);
        }
        if waiting.frames.is_empty() {
            waiting.frames.shrink_to(4);
        }
        Some(frame)
    }

    /// How many frames wait.
    pub fn len(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).frames.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until something may have been pushed.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}

/// How the gateway talks to the driver. Sending waits while the driver's queue is full.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::Sender<Event>,
}

/// The driver has ended; the process is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver has stopped")]
pub struct Stopped;

impl Handle {
    /// A handle and the queue that the driver reads.
    pub fn channel(capacity: usize) -> (Handle, mpsc::Receiver<Event>) {
        let (events, queue) = mpsc::channel(capacity);
        (Handle { events }, queue)
    }

    /// Tells the driver something.
    pub async fn send(&self, event: Event) -> Result<(), Stopped> {
        self.events.send(event).await.map_err(|_| Stopped)
    }

    /// Opens a session.
    pub async fn open(&self, session: NewSession) -> Result<Result<Opened, Refused>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.send(Event::Open(session, answer)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Asks something on behalf of a holder.
    pub async fn hold(&self, order: HolderOrder) -> Result<Result<HolderAnswer, HolderRefused>, Stopped> {
        self.begin_hold(order).await?.await.map_err(|_| Stopped)
    }

    /// The same; the answer is waited for later. Orders are carried out in the order in which they were begun.
    pub async fn begin_hold(
        &self,
        order: HolderOrder,
    ) -> Result<oneshot::Receiver<Result<HolderAnswer, HolderRefused>>, Stopped> {
        let (reply, answered) = oneshot::channel();
        self.send(Event::Hold(order, reply)).await?;
        Ok(answered)
    }

    /// What was prepared of the plugins takes effect; `silent` want to hear of nothing that was before them.
    pub async fn switch_plugins(&self, silent: BTreeSet<Arc<str>>) -> Result<(), Stopped> {
        let (done, switched) = oneshot::channel();
        self.send(Event::SwitchPlugins(silent, done)).await?;
        switched.await.map_err(|_| Stopped)
    }
}
