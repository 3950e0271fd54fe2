//! What is asked of held sessions and what comes of it. It decides nothing but what a single operation does to a list.

use std::sync::Arc;
use std::time::Duration;

use crate::documents::{Ended, SessionDocument, SessionEntry};
use crate::events::{Attributes, Label, Status};
use crate::ids::{InstanceId, Sequence, SessionId, UserId};
use crate::metadata::Metadata;
use crate::time::Timestamp;

/// The most sessions of one user that one holder may have.
pub const MAX_SESSIONS_PER_DOCUMENT: usize = 256;

/// A document without sessions is kept for so long: no copy of an earlier write comes so late.
pub const EMPTY_KEPT: Duration = Duration::from_secs(120);

/// The document of one user's sessions on one holder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentId {
    /// The holder's incarnation.
    pub instance: InstanceId,
    /// Whose sessions.
    pub user: UserId,
}

/// Facts about a session; what is none stays as it was, or is absent in a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `remote-address`.
    pub remote_address: Option<String>,
    /// `user-agent`.
    pub user_agent: Option<String>,
    /// All of `meta.<key>`.
    pub metadata: Option<Metadata>,
}

impl Facts {
    /// These over the earlier ones.
    pub(super) fn over(&self, before: &Attributes) -> Attributes {
        let old =
            |name: &str| before.pairs().iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let mut pairs = Vec::new();
        for (name, new) in [("remote-address", &self.remote_address), ("user-agent", &self.user_agent)] {
            pairs.extend(new.clone().or_else(|| old(name)).map(|value| (name.to_owned(), value)));
        }
        let metadata = self.metadata.clone().unwrap_or_else(|| Metadata::of(before));
        Attributes::new(pairs).with_metadata(&metadata)
    }
}

/// What shall be with a session. To ask for it twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is there, like this.
    Put(Status, Facts),
    /// It is there, and this is different.
    Change(Option<Status>, Facts),
    /// It has ended.
    End(Label),
    /// Its end is settled by every plugin: it is no longer listed.
    Forget,
}

/// For the answers to what was asked together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One operation, to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// With what it is answered.
    pub ticket: Ticket,
    /// Its place among those of its ticket.
    pub item: u32,
    /// Which session.
    pub session: SessionId,
    /// What shall be.
    pub operation: Operation,
    /// When it was asked.
    pub at: Timestamp,
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The session was not there.
    Created,
    /// It is different now.
    Changed,
    /// It was like that already.
    Unchanged,
}

/// Why an operation did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// There is no such session.
    #[error("this holder has no such session of this user")]
    Unknown,
    /// Its end was reported.
    #[error("this session has ended; a new one needs another id")]
    Ended,
    /// One user has so many.
    #[error("one user has at most {MAX_SESSIONS_PER_DOCUMENT} sessions on one holder")]
    TooMany,
    /// The holder was declared dead.
    #[error(
        "the holder's lease has run out: register with another incarnation and report the sessions again"
    )]
    Gone,
    /// The holder's lease is over, and nobody has declared it dead yet; a fresh start may have removed its sessions.
    #[error("the holder's lease has run out: renew it at once, or register with another incarnation")]
    Lapsed,
    /// There is no such session, and this host can't tell whether that is news of the holder.
    #[error("whether the session is there is not certain: try again")]
    Unsure,
    /// There is no room for more that waits.
    #[error("too many changes wait for the store: try again later")]
    Busy,
    /// Whoever asked has given up before it was done.
    #[error("nobody waits for the answer any more")]
    Withdrawn,
    /// The store does not take the document.
    #[error("the store refuses the change: {0}")]
    Refused(String),
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which it was.
    pub ticket: Ticket,
    /// Its place among those of its ticket.
    pub item: u32,
    /// What it did; once it is in the store.
    pub result: Result<Done, Rejected>,
}

/// What the documents want of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentEffect {
    /// Read it from whoever decides; answer with [`handle_read`](super::HeldDocuments::handle_read).
    Read(DocumentId),
    /// Write it if its last sequence is still this; answer with [`handle_written`](super::HeldDocuments::handle_written).
    /// One without sessions is not deleted but left to a lease, [`EMPTY_KEPT`]: a copy of the write that made the
    /// document, if it comes late, must not find that there is none.
    Write {
        /// Which.
        id: DocumentId,
        /// What it says now.
        document: Arc<SessionDocument>,
        /// 0: there is none.
        expect: Sequence,
    },
}

/// A write that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// Somebody else was first, or there is no answer: what is there must be read.
    LookAgain,
    /// It won't be done.
    Refused(String),
}

impl Held {
    /// Does it to a list that is sorted by id.
    pub(super) fn apply(&self, sessions: &mut Vec<SessionEntry>) -> Result<Done, Rejected> {
        let found = sessions.binary_search_by(|entry| entry.id.cmp(&self.session));
        let (at, entry) = match (found, &self.operation) {
            (Err(at), Operation::Put(status, facts)) => {
                if sessions.len() >= MAX_SESSIONS_PER_DOCUMENT {
                    return Err(Rejected::TooMany);
                }
                sessions.insert(at, self.opened(*status, facts));
                return Ok(Done::Created);
            }
            (Err(_), Operation::Forget) => return Ok(Done::Unchanged),
            (Err(_), _) => return Err(Rejected::Unknown),
            (Ok(at), _) => (at, &mut sessions[at]),
        };
        let before = (entry.status, entry.attributes.clone());
        match &self.operation {
            Operation::Forget if entry.ended.is_some() => {
                sessions.remove(at);
                return Ok(Done::Changed);
            }
            Operation::End(reason) if entry.ended.is_none() => {
                entry.ended = Some(Ended { at: self.at, reason: reason.clone() });
                return Ok(Done::Changed);
            }
            Operation::Forget | Operation::End(_) => return Ok(Done::Unchanged),
            Operation::Put(..) | Operation::Change(..) if entry.ended.is_some() => {
                return Err(Rejected::Ended);
            }
            Operation::Put(status, facts) => {
                entry.status = *status;
                entry.attributes = facts.over(&Attributes::default());
            }
            Operation::Change(status, facts) => {
                entry.status = status.unwrap_or(entry.status);
                entry.attributes = facts.over(&entry.attributes);
            }
        }
        let same = before == (entry.status, entry.attributes.clone());
        Ok(if same { Done::Unchanged } else { Done::Changed })
    }

    fn opened(&self, status: Status, facts: &Facts) -> SessionEntry {
        SessionEntry {
            id: self.session.clone(),
            status,
            connected_at: self.at,
            attributes: facts.over(&Attributes::default()),
            ended: None,
            listed: Sequence(0),
        }
    }
}
