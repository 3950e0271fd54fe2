//! Simulated people: they connect, set their status, watch others, vanish, come back. What they know of their own
//! connections is the truth that the product is measured by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, SessionId, UserId};
use presence_core::message::Wanted;
use presence_core::metadata::Metadata;
use presence_core::watchers::{Shown, With};
use presence_host::driver::{Connection, Event, Outbox, Outgoing};
use presence_host::gateway::NewSession;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::journal::{lock, millis};
use super::plan::rng;
use super::truth::{session, short};
use super::world::{Up, World};

/// What the simulation knows of connections.
#[derive(Default)]
pub(super) struct People {
    /// By number of the client: the connections that live.
    pub(super) live: BTreeMap<u32, Live>,
    /// Every session that a client was told of: of which instance, and whether it has ended by now. A
    /// session ends for the simulation when the host has to know it.
    pub(super) sessions: BTreeMap<SessionId, Known>,
}

/// A connection that lives.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) user: UserId,
    pub(super) status: Status,
    pub(super) session: SessionId,
    /// What was last heard of each watched user; none: nothing yet.
    pub(super) watched: BTreeMap<UserId, Option<(Status, u64)>>,
    /// What was asked for besides of each of them, and what was shown last.
    pub(super) asked: BTreeMap<UserId, (With, Option<Shown>)>,
    /// What the session says of itself.
    pub(super) attributes: Attributes,
}

/// A session that a client was told of.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) instance: InstanceId,
    pub(super) live: bool,
}

pub(super) fn user(number: u32) -> UserId {
    UserId::new(&format!("u{number}")).expect("a user id")
}

/// One person with one device.
pub(super) struct Client {
    world: Arc<World>,
    number: u32,
    user: UserId,
    random: fastrand::Rng,
    /// Of what it says of itself and asks of others besides statuses.
    details: fastrand::Rng,
    /// Whether it is connected when all is at rest.
    stays: bool,
}

struct Connected {
    up: Up,
    connection: Connection,
    outbox: Arc<Outbox>,
    session: SessionId,
    /// It answers no Ping any more.
    mute: bool,
}

impl Client {
    pub(super) fn new(world: Arc<World>, number: u32) -> Client {
        let mut random = rng(world.seed, &format!("client {number}"));
        let users = world.plan.users;
        let user = user(if number < users { number } else { random.u32(0..users) });
        let stays = random.u8(..) < 150;
        let details = rng(world.seed, &format!("details {number}"));
        Client { world, number, user, random, details, stays }
    }

    /// Lives until the run ends.
    pub(super) async fn run(mut self) {
        sleep(millis(&mut self.random, 0..=5_000)).await;
        loop {
            let quiet = self.is_quiet();
            if quiet && !self.stays {
                return;
            }
            if let Some(connected) = self.connect().await {
                self.stay(connected).await;
                if lock(&self.world.people).live.remove(&self.number).is_some() {
                    self.world.journal.note(format_args!("{}'s connection is gone", self.name()));
                }
            }
            let pause = if self.random.u8(..) < 64 { 0..=6_000 } else { 20..=800 };
            sleep(millis(&mut self.random, pause)).await;
        }
    }

    fn is_quiet(&self) -> bool {
        self.world.quiet.is()
    }

    fn name(&self) -> String {
        format!("{} (client {})", self.user, self.number)
    }

    async fn connect(&mut self) -> Option<Connected> {
        let running = self.world.running();
        let (origin, up) = running.get(self.random.usize(..running.len().max(1)))?.clone();
        let outbox = Arc::new(Outbox::default());
        let attributes = self.says();
        let new = NewSession {
            user: self.user.clone(),
            attributes: attributes.clone(),
            outbox: outbox.clone(),
            expires_at: None,
            trace: None,
        };
        let opening = timeout(Duration::from_secs(4), up.handle.open(new));
        let opened = tokio::select! {
            biased;
            () = up.gone.wait() => return None,
            opened = opening => opened.ok()?.ok()?.ok()?,
        };
        self.world.journal.note(format_args!(
            "{} is connected to {origin} as {} of {}",
            self.name(),
            session(&opened.session),
            short(opened.instance)
        ));
        let live = Live {
            user: self.user.clone(),
            status: Status::Online,

            session: opened.session.clone(),
            watched: BTreeMap::new(),
            asked: BTreeMap::new(),
            attributes,
        };
        let mut people = lock(&self.world.people);
        people.live.insert(self.number, live);
        people.sessions.insert(opened.session.clone(), Known { instance: opened.instance, live: true });
        drop(people);
        Some(Connected { up, connection: opened.connection, outbox, session: opened.session, mute: false })
    }

    /// Until the connection ends.
    async fn stay(&mut self, mut connected: Connected) {
        if self.random.u8(..) < 80 {
            self.watch(&connected).await;
        }
        let mut next = Instant::now() + millis(&mut self.random, 50..=6_000);
        loop {
            let quiet = self.is_quiet();
            if quiet && !self.stays {
                return self.close(connected).await;
            }
            let (gone, world) = (connected.up.gone.clone(), self.world.clone());
            let ended = tokio::select! {
                biased;
                () = gone.wait() => true,
                () = connected.outbox.filled() => self.read(&mut connected).await,
                () = world.quiet.wait(), if !quiet => false,
                () = sleep_until(next), if !quiet => {
                    next = Instant::now() + millis(&mut self.random, 50..=8_000);
                    self.act(&mut connected).await
                }
            };
            if ended {
                return;
            }
        }
    }

    /// Takes the frames that wait. True: the connection has ended.
    async fn read(&mut self, connected: &mut Connected) -> bool {
        while let Some(frame) = connected.outbox.pop() {
            match frame {
                Outgoing::Ping if !connected.mute => {
                    self.send(connected, Event::Frame(connected.connection)).await;
                }
                Outgoing::Presence(user, status, _, revision) => {
                    if let Some(live) = lock(&self.world.people).live.get_mut(&self.number)
                        && let Some(heard) = live.watched.get_mut(&user)
                    {
                        *heard = Some((status, revision));
                    }
                }
                Outgoing::Detailed(news) => {
                    let (user, status, _, revision, shown) = *news;
                    if let Some(live) = lock(&self.world.people).live.get_mut(&self.number)
                        && let Some(heard) = live.watched.get_mut(&user)
                    {
                        *heard = Some((status, revision));
                        // What was asked for before may still be on its way.
                        if let Some(asked) = live.asked.get_mut(&user).filter(|asked| asked.0 == shown.with) {
                            asked.1 = Some(shown);
                        }
                    }
                }
                Outgoing::Welcome(id, instance, status) => self.welcome(connected, id, instance, status),
                Outgoing::Goodbye { reason, retry_after_ms, .. } => {
                    self.world.journal.note(format_args!("{} hears goodbye: {reason}", self.name()));
                    self.forget(connected);
                    sleep(Duration::from_millis(retry_after_ms.unwrap_or(0))).await;
                    return true;
                }
                Outgoing::Ping | Outgoing::Ok(_) | Outgoing::Unavailable(..) => {}
            }
        }
        false
    }

    /// The host took another instance id; the connection goes on.
    fn welcome(&mut self, connected: &mut Connected, id: SessionId, instance: InstanceId, status: Status) {
        self.world.journal.count("session announced again");
        self.world.journal.note(format_args!(
            "{} is welcomed again as {} of {}, {status}",
            self.name(),
            session(&id),
            short(instance)
        ));
        let mut people = lock(&self.world.people);
        people.sessions.remove(&connected.session);
        connected.session = id.clone();
        let Some(live) = people.live.get_mut(&self.number) else { return };
        live.session = id.clone();
        people.sessions.insert(id, Known { instance, live: true });
    }

    /// One thing that people do. True: the connection has ended.
    async fn act(&mut self, connected: &mut Connected) -> bool {
        if connected.mute {
            return false;
        }
        match self.random.u8(..) {
            0..90 => {
                let status = if self.random.bool() { Status::Idle } else { Status::Online };
                self.world.journal.note(format_args!("{} sets {status}", self.name()));
                let sent = Event::SetStatus(connected.connection, status, None, None);
                if self.send(connected, sent).await
                    && let Some(live) = lock(&self.world.people).live.get_mut(&self.number)
                {
                    live.status = status;
                }
                false
            }
            90..120 => {
                self.send(connected, Event::Activity(connected.connection)).await;
                false
            }
            120..140 => {
                self.watch(connected).await;
                false
            }
            140..150 => {
                self.world.journal.note(format_args!("{} falls silent", self.name()));
                connected.mute = true;
                self.forget(connected);
                false
            }
            150..205 => {
                self.send_close(connected).await;
                true
            }
            // A suspended host: the client gives up and goes elsewhere.
            205..225 if connected.up.switch.is_paused() => {
                self.send_close(connected).await;
                true
            }
            _ => {
                if self.world.plan.details {
                    self.say(connected).await;
                }
                false
            }
        }
    }

    /// What a session says of itself: often nothing.
    fn says(&mut self) -> Attributes {
        if !self.world.plan.details || self.details.bool() {
            return Attributes::default();
        }
        let pair = ("device".to_owned(), self.details.u8(..).to_string());
        Attributes::default().with_metadata(&Metadata::new([pair]).expect("a short pair"))
    }

    /// Says something else of the session, or sets the user's message.
    async fn say(&mut self, connected: &Connected) {
        if self.details.bool() {
            let attributes = self.says();
            let sent = Event::SetMetadata(connected.connection, attributes.clone(), None);
            if self.send(connected, sent).await
                && let Some(live) = lock(&self.world.people).live.get_mut(&self.number)
            {
                live.attributes = attributes;
            }
            return;
        }
        let lasts = [None, Some(2_000), Some(20_000)][self.details.usize(..3)];
        let text = self.details.bool().then(|| format!("message {}", self.details.u16(..)));
        let lasts = lasts.filter(|_| text.is_some());
        let wanted = Wanted::new(text.as_deref(), lasts).expect("a short message");
        self.world.journal.count("message set");
        self.send(connected, Event::SetMessage(connected.connection, wanted, None)).await;
    }

    async fn close(&mut self, connected: Connected) {
        self.send_close(&connected).await;
    }

    async fn send_close(&mut self, connected: &Connected) {
        self.world.journal.note(format_args!("{} closes", self.name()));
        self.forget(connected);
        self.send(connected, Event::Closed(connected.connection, "closed")).await;
    }

    /// The session does not count any more.
    fn forget(&self, connected: &Connected) {
        let mut people = lock(&self.world.people);
        people.live.remove(&self.number);
        if let Some(known) = people.sessions.get_mut(&connected.session) {
            known.live = false;
        }
    }

    async fn watch(&mut self, connected: &Connected) {
        let users: Vec<UserId> =
            (0..self.random.u32(1..=3)).map(|_| user(self.random.u32(0..self.world.plan.users))).collect();
        let mut with = With::default();
        if self.world.plan.details {
            with = With { message: self.details.bool(), metadata: self.details.bool() };
        }
        if let Some(live) = lock(&self.world.people).live.get_mut(&self.number) {
            for user in &users {
                live.watched.entry(user.clone()).or_insert(None);
                live.asked.insert(user.clone(), (with, None));
            }
        }
        self.send(connected, Event::Watch(connected.connection, users, with, None)).await;
    }

    /// False: the host is gone, or its queue is full for too long.
    async fn send(&self, connected: &Connected, event: Event) -> bool {
        let gone = connected.up.gone.clone();
        tokio::select! {
            biased;
            () = gone.wait() => false,
            sent = connected.up.handle.send(event) => sent.is_ok(),
        }
    }
}
