//! The driver's side of the gateway: connections, their sessions, what they watch.

use std::time::Duration;

use presence_core::events::{Hook, SessionChange, labels};
use presence_core::sessions::{SessionEffect, SessionKey};
use presence_core::time::{Now, Timestamp};
use presence_core::watchers::{WatchEffect, Watcher};

use super::cluster::new_session_id;
use super::details::Setter;
use super::engine::{Drain, Driver};
use super::partition::Partition;
use super::{Census, Connection, Event, Health, Opened, Outgoing, PartitionView, Query, Refused};
use crate::gateway::NewSession;
use crate::plugins;
use presence_core::ids::PartitionId;

/// Reconnects after a drain are spread over at most so long.
const LONGEST_RECONNECT: Duration = Duration::from_secs(10);

/// A watched user's record is read a second time after so long: by then a cluster of servers knows that this host
/// listens.
const SECOND_READ: Duration = Duration::from_secs(2);

/// So many wait for their second reading; the others are read with all watched users.
const MAX_SECOND_READS: usize = 65_536;

/// How long a host that has settled everything waits for the store to hear that it leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn handle_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Open(mut session, answer) => {
                let outbox = session.outbox.clone();
                let traced = session.trace.take().map(|span| (span, session.user.clone()));
                let opened = self.open(now, session);
                if let (Some((span, user)), Ok(opened)) = (traced, &opened) {
                    self.note_message(Some(span), user, opened.session.clone(), Some(Hook::SessionConnected));
                }
                let key = opened.as_ref().ok().map(|opened| SessionKey(opened.connection.0));
                if answer.send(opened).is_err() {
                    // The client went away while it waited.
                    if let Some(key) = key {
                        self.close(now, key, labels::CLOSED);
                    }
                } else if let Some(key) = key {
                    self.connections.insert(key, outbox);
                }
            }
            Event::Frame(connection) => self.sessions.handle_frame(now, SessionKey(connection.0)),
            Event::Activity(connection) => self.sessions.handle_activity(now, SessionKey(connection.0)),
            Event::SetStatus(connection, status, request, trace) => {
                let key = SessionKey(connection.0);
                let before = trace.as_ref().and_then(|_| self.sessions.session(key)).map(|view| view.status);
                self.sessions.handle_set_status(now, key, status);
                self.note_set_status(trace, key, before);
                self.answer(connection, request);
            }
            Event::SetMetadata(connection, attributes, request) => {
                self.set_metadata(now, SessionKey(connection.0), attributes);
                self.answer(connection, request);
            }
            Event::SetMessage(connection, wanted, request) => {
                self.sessions.handle_activity(now, SessionKey(connection.0));
                self.set_own_message(now, connection, wanted.as_ref(), request);
            }
            Event::Watch(connection, users, with, request) => {
                self.sessions.handle_activity(now, SessionKey(connection.0));
                if self.connections.contains_key(&SessionKey(connection.0)) {
                    self.watchers.handle_watch(Watcher(connection.0), users, with, request);
                }
            }
            Event::Unwatch(connection, users, request) => {
                self.sessions.handle_activity(now, SessionKey(connection.0));
                self.watchers.handle_unwatch(Watcher(connection.0), &users);
                self.answer(connection, request);
            }
            Event::Renew { connection, expires_at, lost, request } => {
                self.sessions.handle_renew(now, SessionKey(connection.0), Timestamp(expires_at));
                if !lost.is_empty() {
                    self.watchers.handle_unwatch(Watcher(connection.0), &lost);
                }
                self.answer(connection, request);
            }
            Event::Closed(connection, reason) => self.close(now, SessionKey(connection.0), reason),
            Event::Hold(order, reply) => self.hold(now, order, reply),
            Event::Query(query) => self.handle_query(now, query),
            Event::SwitchPlugins(silent, done) => {
                self.switch_plugins(now, silent);
                // Who asked may have gone away; the switch is made.
                let _ = done.send(());
            }
            Event::Drain => self.begin_drain(now),
        }
    }

    fn open(&mut self, now: Now, session: NewSession) -> Result<Opened, Refused> {
        if self.drain.is_some() {
            return Err(Refused::Draining);
        }
        if !self.membership.is_ready() || self.clock_off.is_some() {
            return Err(Refused::Starting);
        }
        let id = new_session_id(&mut self.random, now);
        let expires_at = session.expires_at.map(Timestamp);
        let key = self.sessions.handle_open(now, id.clone(), session.user, session.attributes, expires_at);
        Ok(Opened { connection: Connection(key.0), session: id, instance: self.sessions.instance() })
    }

    fn close(&mut self, now: Now, key: SessionKey, reason: &'static str) {
        self.begin_disconnect(key);
        self.sessions.handle_close(now, key, reason.into());
        self.forget_connection(key);
    }

    fn forget_connection(&mut self, key: SessionKey) {
        if self.connections.remove(&key).is_some() {
            self.watchers.handle_closed(Watcher(key.0));
        }
    }

    pub(super) fn answer(&self, connection: Connection, request: Option<String>) {
        if let Some(outbox) = self.connections.get(&SessionKey(connection.0)) {
            outbox.push(Outgoing::Ok(request));
        }
    }

    fn handle_query(&mut self, now: Now, query: Query) {
        // Whoever asked may have gone away: then the answer has no reader.
        match query {
            Query::Users(users, answer) => self.view_users(users, answer),
            Query::Message(user, answer) => self.view_message(now, user, answer),
            Query::SetMessage(user, wanted, answer) => {
                self.set_message(now, user, wanted.as_ref(), Setter::Api(answer));
            }
            Query::Health(answer) => {
                let reason = self.not_ready();
                let ready = reason.is_none();
                let _ = answer.send(Health { ready, reason, instance: self.sessions.instance() });
            }
            Query::Instances(answer) => {
                let now = self.clock.now();
                let _ = answer.send(self.membership.instances(now));
            }
            Query::Partitions(answer) => {
                let _ = answer.send(self.owners());
            }
            Query::Counts(answer) => self.count_all(answer),
            Query::Letter(order, answer) => self.handle_letter(order, answer),
            Query::Census(answer) => {
                let _ = answer.send(self.census());
            }
        }
    }

    /// Why clients should go elsewhere.
    fn not_ready(&self) -> Option<String> {
        let now = self.clock.now();
        if let Some(offset) = self.clock_off.filter(|_| self.drain.is_none()) {
            return Some(format!("this machine's clock is {offset} ms off the store's"));
        }
        if !self.membership.is_ready() || self.drain.is_some() {
            return Some(self.membership.phase().to_owned());
        }
        self.is_away(now).then(|| format!("{} has been away for a while", self.store.describe()))
    }

    fn census(&self) -> Census {
        let (sessions_online, sessions_idle) = self.sessions.counts();
        let mut census = Census {
            sessions_online,
            sessions_idle,
            transitions: self.transitions_before,
            partitions: self.partitions.keys().copied().collect(),
            watched: self.watchers.watched() as u64,
            letters: self.letters.counts,
            membership: self.membership.counters(),
            gaps: self.gaps,
            reads: self.loads,
            cleanup_time: self.cleanup_time,
            clock_offset_ms: self.clock_offset,
            away: self.away_since.is_some(),
            holders: self.holders.counts(),
            held_sessions: self.held_sessions(),
            ..Census::default()
        };
        for partition in self.partitions.values() {
            for at in 0..3 {
                census.users[at] += partition.tracker.counts()[at];
                census.transitions[at] += partition.tracker.decided()[at];
            }
            census.coalesced += partition.tracker.coalesced();
        }
        census
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_sessions(&mut self) -> bool {
        let mut quiet = true;
        while let Some(effect) = self.sessions.poll_effect() {
            quiet = false;
            match effect {
                SessionEffect::Hook(event) => {
                    if let SessionChange::Disconnected { reason, .. } = &event.change {
                        tracing::debug!(user = %event.session.user, session = %event.session.id, %reason, "session ended");
                    }
                    self.plugins.submit(plugins::Event::Session(event.into()));
                }
                SessionEffect::Ping(key) => {
                    if let Some(outbox) = self.connections.get(&key) {
                        outbox.push(Outgoing::Ping);
                    }
                }
                SessionEffect::End { key, reason } => {
                    let goodbye = self.goodbye(&reason);
                    if let Some(outbox) = self.connections.get(&key) {
                        outbox.push(goodbye);
                    }
                    self.forget_connection(key);
                }
            }
        }
        quiet
    }

    fn goodbye(&mut self, reason: &str) -> Outgoing {
        match reason {
            labels::DRAINING => {
                let longest = (self.config.presence.drain_grace / 2).min(LONGEST_RECONNECT);
                let retry_after_ms = self.random.u64(0..=longest.as_millis() as u64);
                Outgoing::Goodbye {
                    reason: labels::DRAINING,
                    retry_after_ms: Some(retry_after_ms),
                    code: 1001,
                }
            }
            labels::EXPIRED => {
                Outgoing::Goodbye { reason: labels::EXPIRED, retry_after_ms: None, code: 4001 }
            }
            _ => Outgoing::Goodbye { reason: labels::TIMEOUT, retry_after_ms: None, code: 4000 },
        }
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_watchers(&mut self, now: Now) -> bool {
        let mut quiet = true;
        while let Some(effect) = self.watchers.poll_effect() {
            quiet = false;
            match effect {
                WatchEffect::Watch(user) => {
                    self.store.watch(&user);
                    if self.config.shared && self.second_reads.len() < MAX_SECOND_READS {
                        self.second_reads.push_back((now.tick + SECOND_READ, user));
                    }
                }
                WatchEffect::Unwatch(user) => self.store.unwatch(&user),
                WatchEffect::Read(user) => self.reads.push_back(user),
                WatchEffect::WatchDetails(user) => {
                    self.store.watch_details(&user);
                    if self.config.shared && self.second_reads.len() < MAX_SECOND_READS {
                        self.second_reads.push_back((now.tick + SECOND_READ, user));
                    }
                }
                WatchEffect::UnwatchDetails(user) => self.store.unwatch_details(&user),
                WatchEffect::ReadDetails(user) => self.detail_reads.push_back(user),
                WatchEffect::Tell { watcher, user, status, since, revision, shown } => {
                    if let Some(outbox) = self.connections.get(&SessionKey(watcher.0)) {
                        outbox.push(match shown {
                            None => Outgoing::Presence(user, status, since, revision),
                            Some(shown) => {
                                Outgoing::Detailed(Box::new((user, status, since, revision, shown)))
                            }
                        });
                    }
                }
                WatchEffect::Done { watcher, request } => self.answer(Connection(watcher.0), request),
            }
        }
        self.read_records();
        self.read_details(now);
        quiet
    }

    fn begin_drain(&mut self, now: Now) {
        if self.drain.is_some() {
            return;
        }
        let last = self.membership.is_last();
        tracing::info!(sessions = self.connections.len(), last, "draining: clients are told to go elsewhere");
        self.drain = Some(Drain { deadline: now.tick + self.config.drain_timeout, last, leaving: false });
        self.membership.handle_drain(now);
        let until = (!last).then(|| now.wall + self.config.presence.drain_grace);
        self.sessions.handle_drain(now, until);
        if last {
            self.decide_all(now);
        }
    }

    /// Leaves once everything is settled, or the time for it is over; stops once it has left.
    pub(super) fn check_drain(&mut self, now: Now) {
        let Some(drain) = &mut self.drain else { return };
        if self.stopped.is_some() {
            return;
        }
        let over = drain.deadline <= now.tick;
        if drain.leaving {
            if self.membership.has_left() && (self.waiting.is_empty() || over) {
                self.stop(None);
            }
            return;
        }
        if !drain.last && self.membership.is_last() {
            tracing::info!("no other host is there any more: who has no session is offline");
            drain.last = true;
            self.decide_all(now);
        }
        let last = self.drain.as_ref().is_some_and(|drain| drain.last);
        let waiting: usize = self.plugins.unsettled().iter().map(|(_, count)| count).sum();
        // Others take the partitions over; the last host settles them.
        let handed_over = self.partitions.is_empty() && self.membership.owns_nothing();
        let decided = last && self.partitions.values().all(Partition::is_settled);
        // Nobody was told of the sessions of a host that has not joined: it is another life that had no time to.
        let sessions = if self.membership.takes_part() { self.sessions.unsettled() } else { 0 };
        let held = self.holders.documents.waiting();
        let settled = waiting == 0 && sessions == 0 && held == 0 && (handed_over || decided);
        if !settled && !over {
            return;
        }
        if let Some(drain) = &mut self.drain {
            drain.leaving = true;
            drain.deadline = now.tick + LEAVE_TIMEOUT;
        }
        if !settled {
            // Named now: what waits for a partition is dropped as the partition is given up.
            self.undelivered = waiting.max(1);
            self.undelivered_list = self.plugins.unsettled_list(100);
        }
        self.write_last_checkpoints();
        self.membership.handle_leave(now, settled);
    }

    /// This host is the last: nobody is held any more, and who has no session is offline.
    fn decide_all(&mut self, now: Now) {
        self.sessions.handle_drain(now, None);
        for (id, partition) in &mut self.partitions {
            partition.tracker.handle_last_leave(now);
            self.touched.insert(*id);
        }
    }

    /// Who owns what, with the host's name.
    fn owners(&self) -> Vec<PartitionView> {
        let now = self.clock.now();
        let instances = self.membership.instances(now);
        let host = |owner| instances.iter().find(|view| view.id == owner).map(|view| view.host.clone());
        let mut views: Vec<PartitionView> = (0..self.config.layout.partitions)
            .map(|id| PartitionView { partition: PartitionId(id), owner: None, host: None, users: None })
            .collect();
        for (partition, owner) in self.membership.owners() {
            if let Some(view) = views.get_mut(usize::from(partition.0)) {
                view.owner = owner;
                view.host = owner.and_then(host);
            }
        }
        for (id, partition) in &self.partitions {
            if let Some(view) = views.get_mut(usize::from(id.0)) {
                view.users = Some(partition.tracker.counts());
            }
        }
        views
    }
}
