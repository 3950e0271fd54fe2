//! Who on this host watches whom, and what was last heard of each watched user.
//!
//! A status is told once per revision, and never an older one after a newer. What is known of a watched user is kept as
//! long as anyone watches; the first watcher of a user causes a read. Memory: proportional to the watches and to the
//! messages that wait for a read. It must not know who may watch whom, nor how records are read. What watchers may ask
//! for besides is in `details.rs`; of users of whom nobody asks for it nothing is read or kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::documents::StatusRecord;
use crate::events::Status;
use crate::ids::UserId;
use crate::index::UserIndex;
use crate::time::Timestamp;

mod details;
pub use details::{Details, MAX_SESSIONS_SHOWN, SessionDetails, Shown, With};

/// A connection that watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watcher(pub u64);

/// What is to be done for watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEffect {
    /// Notices of this user are wanted from now on.
    Watch(UserId),
    /// Notices of this user are wanted no more.
    Unwatch(UserId),
    /// Read the user's record from whoever decides; answer with [`Watchers::handle_record`].
    Read(UserId),
    /// Notices of this user's message and metadata are wanted from now on.
    WatchDetails(UserId),
    /// Notices of this user's message and metadata are wanted no more.
    UnwatchDetails(UserId),
    /// Read the user's message and session documents; answer with [`Watchers::handle_details`].
    ReadDetails(UserId),
    /// Send `presence`.
    Tell {
        /// To whom.
        watcher: Watcher,
        /// Whose status.
        user: UserId,
        /// The status.
        status: Status,
        /// Since when; 0 for an unknown user.
        since: Timestamp,
        /// The revision; 0 for an unknown user.
        revision: u64,
        /// What the watcher has asked for besides; none: nothing.
        shown: Option<Shown>,
    },
    /// Send `ok` for a `watch`: every user of it was told.
    Done {
        /// To whom.
        watcher: Watcher,
        /// The id of the message.
        request: Option<String>,
    },
}

/// A user that is watched.
#[derive(Debug)]
struct Watched {
    user: UserId,
    /// None until the first read is answered.
    known: Option<(Status, Timestamp, u64)>,
    watchers: BTreeSet<Watcher>,
    /// Only while any of them asks for more than the status.
    asked: Option<Box<details::Asked>>,
}

/// What one connection asked for.
#[derive(Debug, Default)]
struct Requests {
    /// The slots of the users it watches.
    users: BTreeSet<u32>,
    /// `watch` messages not answered yet, in order, with how many of their users are still unknown.
    open: VecDeque<(Option<String>, BTreeSet<u32>)>,
}

impl Requests {
    /// The user in this slot is known now, or no longer asked for.
    fn forget(&mut self, slot: u32) {
        for (_, unknown) in &mut self.open {
            unknown.remove(&slot);
        }
    }
}

/// The watches of one host.
pub struct Watchers {
    index: UserIndex,
    slots: Vec<Option<Watched>>,
    free: Vec<u32>,
    watchers: BTreeMap<Watcher, Requests>,
    effects: VecDeque<WatchEffect>,
    /// When messages that somebody asks for expire.
    expiries: BTreeSet<(Timestamp, u32)>,
}

impl Watchers {
    /// Nobody watches.
    pub fn new(seed: u64) -> Watchers {
        Watchers {
            index: UserIndex::new(seed),
            slots: Vec::new(),
            free: Vec::new(),
            watchers: BTreeMap::new(),
            effects: VecDeque::new(),
            expiries: BTreeSet::new(),
        }
    }

    /// A client asks to watch, and to see this besides the status (in place of what it asked for before). Each user is
    /// told once known, then the message is answered, after those before it. A user named twice is told once; one that was watched already is told again, as the message asks for it.
    pub fn handle_watch(
        &mut self,
        watcher: Watcher,
        users: Vec<UserId>,
        with: With,
        request: Option<String>,
    ) {
        let (mut named, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for user in users {
            let slot = self.find_or_insert(user);
            let Some(watched) = self.slots[slot as usize].as_mut() else {
                continue;
            };
            watched.watchers.insert(watcher);
            if !named.insert(slot) {
                continue;
            }
            self.ask(watcher, slot, with);
            if !self.tell(watcher, slot) {
                unknown.insert(slot);
            }
        }
        let requests = self.watchers.entry(watcher).or_default();
        // An earlier message may have waited for more than is asked for now.
        for slot in named.difference(&unknown) {
            requests.forget(*slot);
        }
        requests.users.append(&mut named);
        requests.open.push_back((request, unknown));
        self.answer(watcher);
    }

    /// A client asks to watch no more. A `watch` that waits for one of these users waits for it no longer.
    pub fn handle_unwatch(&mut self, watcher: Watcher, users: &[UserId]) {
        for user in users {
            let Some(slot) = self.find(user) else {
                continue;
            };
            if let Some(requests) = self.watchers.get_mut(&watcher) {
                requests.users.remove(&slot);
                requests.forget(slot);
            }
            self.leave(watcher, slot);
        }
        self.answer(watcher);
    }

    /// A connection has ended.
    pub fn handle_closed(&mut self, watcher: Watcher) {
        let Some(requests) = self.watchers.remove(&watcher) else {
            return;
        };
        for slot in requests.users {
            self.leave(watcher, slot);
        }
    }

    /// The record of a user: read, or told by its owner. None: there is none, the user is unknown and so offline.
    pub fn handle_record(&mut self, user: &UserId, record: Option<StatusRecord>) {
        let Some(slot) = self.find(user) else { return };
        let Some(watched) = self.slots[slot as usize].as_mut() else {
            return;
        };
        let news = record.map_or((Status::Offline, Timestamp(0), 0), |record| {
            (record.status, record.since, record.revision)
        });
        let first = watched.known.is_none();
        let told = |(status, _, revision): (Status, Timestamp, u64)| {
            revision > news.2 || revision == news.2 && (revision > 0 || status == news.0)
        };
        if watched.known.is_some_and(told) {
            return;
        }
        watched.known = Some(news);
        let (status, since, revision) = news;
        self.effects.reserve(watched.watchers.len());
        for watcher in &watched.watchers {
            // Who waits for details is told with them.
            if let Some(shown) = watched.shown(*watcher) {
                let (watcher, user) = (*watcher, watched.user.clone());
                self.effects.push_back(WatchEffect::Tell { watcher, user, status, since, revision, shown });
            }
        }
        if first {
            let told = watched.watchers.iter().copied().filter(|of| watched.shown(*of).is_some());
            let told = told.collect();
            self.settle(slot, told);
        }
    }

    /// The store was recreated, or everything began afresh: a record may be gone or begin anew, so that revisions say
    /// nothing. Every watched user is read again, and told if the status is another one or has a revision.
    pub fn handle_recreated(&mut self) {
        for watched in self.slots.iter_mut().flatten() {
            if let Some((_, _, revision)) = &mut watched.known {
                *revision = 0;
            }
        }
        self.handle_missed();
    }

    /// Some news were missed: every watched user is read again.
    pub fn handle_missed(&mut self) {
        let users = self.slots.iter().flatten().map(|watched| WatchEffect::Read(watched.user.clone()));
        self.effects.extend(users);
        for slot in 0..self.slots.len() as u32 {
            self.read_details(slot);
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<WatchEffect> {
        self.effects.pop_front()
    }

    /// How many users are watched.
    pub fn watched(&self) -> usize {
        self.index.len()
    }

    /// Tells a watcher what is known of a user. False if something that it asks for is not known yet.
    fn tell(&mut self, watcher: Watcher, slot: u32) -> bool {
        let Some(watched) = self.slots[slot as usize].as_ref() else { return false };
        let (Some((status, since, revision)), Some(shown)) = (watched.known, watched.shown(watcher)) else {
            return false;
        };
        let user = watched.user.clone();
        self.effects.push_back(WatchEffect::Tell { watcher, user, status, since, revision, shown });
        true
    }

    /// These watchers have heard of the user for the first time.
    fn settle(&mut self, slot: u32, told: Vec<Watcher>) {
        for watcher in told {
            if let Some(requests) = self.watchers.get_mut(&watcher) {
                requests.forget(slot);
            }
            self.answer(watcher);
        }
    }

    /// Answers the messages at the head whose users are all known, in the order they came. Who then watches nobody
    /// and waits for nothing is forgotten.
    fn answer(&mut self, watcher: Watcher) {
        let Some(requests) = self.watchers.get_mut(&watcher) else {
            return;
        };
        while requests.open.front().is_some_and(|(_, unknown)| unknown.is_empty())
            && let Some((request, _)) = requests.open.pop_front()
        {
            self.effects.push_back(WatchEffect::Done { watcher, request });
        }
        if requests.users.is_empty() && requests.open.is_empty() {
            self.watchers.remove(&watcher);
        }
    }

    fn leave(&mut self, watcher: Watcher, slot: u32) {
        self.ask_no_more(watcher, slot);
        let Some(watched) = self.slots[slot as usize].as_mut() else {
            return;
        };
        watched.watchers.remove(&watcher);
        if !watched.watchers.is_empty() {
            return;
        }
        self.index.remove(&watched.user, slot);
        self.effects.push_back(WatchEffect::Unwatch(watched.user.clone()));
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    fn find(&self, user: &UserId) -> Option<u32> {
        let same =
            |slot| self.slots[slot as usize].as_ref().is_some_and(|watched: &Watched| watched.user == *user);
        self.index.find(user, same)
    }

    fn find_or_insert(&mut self, user: UserId) -> u32 {
        if let Some(slot) = self.find(&user) {
            return slot;
        }
        self.effects.push_back(WatchEffect::Watch(user.clone()));
        self.effects.push_back(WatchEffect::Read(user.clone()));
        let watched =
            Some(Watched { user: user.clone(), known: None, watchers: BTreeSet::new(), asked: None });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = watched;
                slot
            }
            None => {
                self.slots.push(watched);
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert(&user, slot);
        slot
    }
}

#[cfg(test)]
mod tests;
