//! Why a user's status is what it is, and what it was before: a reason and the last few transitions, of a fixed size, so
//! that they cost a record no allocation and the store no further write. It decides nothing.

use serde::{Deserialize, Serialize};

use crate::events::{Status, labels};
use crate::time::Timestamp;

/// Why a status was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A session was opened.
    Connected,
    /// An idle session became online.
    Active,
    /// The last session that was online became idle.
    Idle,
    /// A session ended, and what is left decides; how it ended was not told.
    Ended,
    /// The same: the client closed its connection, or it broke.
    Closed,
    /// The same: the connection was silent.
    Timeout,
    /// The same: the token expired.
    Expired,
    /// The same: the host stopped, and the user did not come back in time.
    Draining,
    /// The same: the client broke the protocol.
    Abuse,
    /// The instance that held the session was declared dead.
    InstanceLost,
    /// Decided by a version that kept no reasons, or has others.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 11] = [
        Reason::Connected,
        Reason::Active,
        Reason::Idle,
        Reason::Ended,
        Reason::Closed,
        Reason::Timeout,
        Reason::Expired,
        Reason::Draining,
        Reason::Abuse,
        Reason::InstanceLost,
        Reason::Unknown,
    ];

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Connected => "connected",
            Reason::Active => "active",
            Reason::Idle => "idle",
            Reason::Ended => "ended",
            Reason::Closed => labels::CLOSED,
            Reason::Timeout => labels::TIMEOUT,
            Reason::Expired => labels::EXPIRED,
            Reason::Draining => labels::DRAINING,
            Reason::Abuse => labels::ABUSE,
            Reason::InstanceLost => labels::INSTANCE_LOST,
            Reason::Unknown => "unknown",
        }
    }

    /// Why a session's end was the end of a status.
    pub fn of_end(label: &str) -> Reason {
        let ends = [Reason::Closed, Reason::Timeout, Reason::Expired, Reason::Draining, Reason::Abuse];
        ends.into_iter().find(|reason| reason.as_str() == label).unwrap_or(Reason::Ended)
    }
}

/// A past transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the status became.
    pub status: Status,
    /// When.
    pub since: Timestamp,
    /// The revision that it had; none: far from `since`, as after weeks with a wrong clock.
    pub revision: Option<u64>,
    /// Why.
    pub reason: Reason,
}

/// A moment in few bytes: a revision is a time, and mostly this very one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slim {
    since: Timestamp,
    /// The revision minus `since`; the greatest number: not known.
    ahead: u32,
    status: Status,
    reason: Reason,
}

/// The transitions before the present one, the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Entry>", from = "Vec<Entry>")]
pub struct Past {
    moments: [Slim; Past::MOST],
    length: u8,
}

/// A moment as the store holds it.
type Entry = (Status, Timestamp, Option<u64>, Reason);

impl Past {
    /// So many are kept.
    pub const MOST: usize = 4;

    /// None are known.
    pub const NONE: Past = {
        let none = Slim { since: Timestamp(0), ahead: 0, status: Status::Offline, reason: Reason::Unknown };
        Past { moments: [none; Past::MOST], length: 0 }
    };

    /// True when none are known.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The newest first.
    pub fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.moments[..usize::from(self.length)].iter().map(|slim| Moment {
            status: slim.status,
            since: slim.since,
            revision: (slim.ahead < u32::MAX).then(|| slim.since.0 + u64::from(slim.ahead)),
            reason: slim.reason,
        })
    }

    /// The same with one more, which is the newest; the oldest makes room.
    pub fn and(mut self, moment: Moment) -> Past {
        self.moments.copy_within(..Past::MOST - 1, 1);
        let ahead = moment.revision.and_then(|revision| revision.checked_sub(moment.since.0));
        let ahead = ahead.and_then(|ahead| u32::try_from(ahead).ok()).unwrap_or(u32::MAX);
        let Moment { status, since, reason, .. } = moment;
        self.moments[0] = Slim { since, ahead, status, reason };
        self.length = (self.length + 1).min(Past::MOST as u8);
        self
    }
}

impl Default for Past {
    fn default() -> Past {
        Past::NONE
    }
}

impl From<Past> for Vec<Entry> {
    fn from(past: Past) -> Vec<Entry> {
        past.moments().map(|moment| (moment.status, moment.since, moment.revision, moment.reason)).collect()
    }
}

impl From<Vec<Entry>> for Past {
    fn from(entries: Vec<Entry>) -> Past {
        let newest = entries.into_iter().take(Past::MOST).rev();
        newest.fold(Past::NONE, |past, (status, since, revision, reason)| {
            past.and(Moment { status, since, revision, reason })
        })
    }
}

/// What a status record says besides the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// Why the present status was decided.
    #[serde(default)]
    pub reason: Reason,
    /// What was before it.
    #[serde(default, skip_serializing_if = "Past::is_empty")]
    pub past: Past,
}

impl Trail {
    /// True when there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Trail::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: u64, status: Status) -> Moment {
        Moment { status, since: Timestamp(at), revision: Some(at), reason: Reason::Connected }
    }

    #[test]
    fn the_newest_few_are_kept_i8() {
        let all: Vec<Moment> = (1..=9).map(|at| moment(at, Status::Online)).collect();
        let past = all.iter().fold(Past::NONE, |past, moment| past.and(*moment));
        let kept: Vec<Moment> = past.moments().collect();
        assert_eq!(kept, all.iter().rev().take(Past::MOST).copied().collect::<Vec<_>>());
        assert!(size_of::<Past>() <= 72, "it is in every user's record");
    }

    #[test]
    fn a_revision_far_from_its_time_is_not_made_up() {
        let far = Moment { revision: Some(1 << 40), ..moment(7, Status::Idle) };
        let near = Moment { revision: Some(1000), ..moment(7, Status::Idle) };
        let revisions: Vec<_> = Past::NONE.and(far).and(near).moments().map(|one| one.revision).collect();
        assert_eq!(revisions, [Some(1000), None]);
    }

    #[test]
    fn a_word_for_an_end_is_the_end_s_own() {
        assert_eq!(Reason::of_end("timeout"), Reason::Timeout);
        assert_eq!(Reason::of_end("teleported"), Reason::Ended);
        assert_eq!(Reason::of_end("connected"), Reason::Ended, "no end");
    }
}
