//! A driver that writes down what it hears and answers like a small one; a store with dead letters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presence_core::documents::{
    Document, Expect, Key, Layout, MetaRecord, Moment, Past, Reason, StatusRecord, Trail,
};
use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, SessionId, UserId};
use presence_core::message::{CustomMessage, Wanted};
use presence_core::metadata::Metadata;
use presence_core::time::{Now, Timestamp};
use presence_core::watchers::{Details, SessionDetails, Shown};
use tokio::sync::mpsc;

use super::soon;
use crate::driver::{
    Census, Connection, DeploymentCounts, Event, Health, LetterOrder, LetterOutcome, LetterReport,
    LetterVerb, Opened, Outbox, Outgoing, Query, Refused, UserView,
};
use crate::gateway::NewSession;
use crate::store::memory::MemoryStore;
use crate::store::{DeadLetter, Put, Store};

/// What was heard, shortened to text where it is compared.
#[derive(Debug)]
pub(crate) enum Heard {
    Opened(Connection, NewSession),
    Frame,
    Activity,
    SetStatus(Status, Option<String>),
    SetMetadata(Metadata),
    SetMessage(Option<Wanted>),
    Watch(Vec<String>),
    Unwatch(Vec<String>),
    /// Until when, and who is not watched any more.
    Renew(u64, Vec<String>),
    Closed(&'static str),
}

/// How the driver behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mood {
    /// Refuses sessions.
    pub(crate) refuse: Option<Refused>,
    /// Not ready, for this reason.
    pub(crate) unready: Option<String>,
    /// Can't read statuses.
    pub(crate) users_fail: bool,
}

pub(crate) struct Driver {
    heard: mpsc::UnboundedReceiver<Heard>,
    pub(crate) mood: Arc<Mutex<Mood>>,
    outboxes: Arc<Mutex<HashMap<Connection, Arc<Outbox>>>>,
}

struct Running {
    heard: mpsc::UnboundedSender<Heard>,
    mood: Arc<Mutex<Mood>>,
    outboxes: Arc<Mutex<HashMap<Connection, Arc<Outbox>>>>,
    opened: u64,
}

impl Driver {
    pub(crate) fn start(mut queue: mpsc::Receiver<Event>) -> Driver {
        let (sender, heard) = mpsc::unbounded_channel();
        let (mood, outboxes) = (Arc::new(Mutex::new(Mood::default())), Arc::new(Mutex::new(HashMap::new())));
        let mut running =
            Running { heard: sender, mood: mood.clone(), outboxes: outboxes.clone(), opened: 0 };
        tokio::spawn(async move {
            while let Some(event) = queue.recv().await {
                running.handle(event);
            }
        });
        Driver { heard, mood, outboxes }
    }

    pub(crate) async fn next(&mut self) -> Heard {
        soon(self.heard.recv()).await.expect("the driver has stopped")
    }

    /// The next session that was opened.
    pub(crate) async fn opened(&mut self) -> (Connection, NewSession) {
        loop {
            if let Heard::Opened(connection, session) = self.next().await {
                return (connection, session);
            }
        }
    }

    /// The reason with which the next session ended.
    pub(crate) async fn closed(&mut self) -> &'static str {
        loop {
            if let Heard::Closed(reason) = self.next().await {
                return reason;
            }
        }
    }

    pub(crate) fn push(&self, connection: Connection, frame: Outgoing) {
        self.outboxes.lock().unwrap()[&connection].push(frame);
    }
}

impl Running {
    fn answer(&self, connection: Connection, frame: Outgoing) {
        self.outboxes.lock().unwrap()[&connection].push(frame);
    }

    fn hear(&self, heard: Heard) {
        let _ = self.heard.send(heard);
    }

    fn handle(&mut self, event: Event) {
        let texts = |users: &[UserId]| users.iter().map(|user| user.as_str().to_owned()).collect();
        match event {
            Event::Open(session, answer) => self.open(session, answer),
            Event::Frame(_) => self.hear(Heard::Frame),
            Event::Activity(_) => self.hear(Heard::Activity),
            Event::SetStatus(connection, status, id, _) => {
                self.hear(Heard::SetStatus(status, id.clone()));
                self.answer(connection, Outgoing::Ok(id));
            }
            Event::SetMetadata(connection, attributes, id) => {
                self.hear(Heard::SetMetadata(Metadata::of(&attributes)));
                self.answer(connection, Outgoing::Ok(id));
            }
            Event::SetMessage(connection, wanted, id) => {
                self.hear(Heard::SetMessage(wanted));
                self.answer(connection, Outgoing::Unavailable("there is no store".into(), id));
            }
            Event::Watch(connection, users, with, id) if !with.is_nothing() => {
                for user in users {
                    let shown = Shown { with, details: Arc::new(details()) };
                    let news = Box::new((user, Status::Online, Timestamp(1000), 1, shown));
                    self.answer(connection, Outgoing::Detailed(news));
                }
                self.answer(connection, Outgoing::Ok(id));
            }
            Event::Watch(connection, users, _, id) => {
                self.hear(Heard::Watch(texts(&users)));
                for (at, user) in users.into_iter().enumerate() {
                    let presence = Outgoing::Presence(user, Status::Online, Timestamp(1000), at as u64);
                    self.answer(connection, presence);
                }
                self.answer(connection, Outgoing::Ok(id));
            }
            Event::Unwatch(connection, users, id) => {
                self.hear(Heard::Unwatch(texts(&users)));
                self.answer(connection, Outgoing::Ok(id));
            }
            Event::Renew { connection, expires_at, lost, request } => {
                self.hear(Heard::Renew(expires_at, texts(&lost)));
                self.answer(connection, Outgoing::Ok(request));
            }
            Event::Closed(_, reason) => self.hear(Heard::Closed(reason)),
            Event::Query(query) => self.query(query),
            // Nobody holds sessions here: whoever asks hears that this driver has stopped.
            Event::Hold(_, reply) => drop(reply),
            Event::Drain => {}
            #[allow(unreachable_patterns, reason = "the driver may hear more than the gateway says")]
            _ => {}
        }
    }

    fn open(&mut self, session: NewSession, answer: tokio::sync::oneshot::Sender<Result<Opened, Refused>>) {
        if let Some(refused) = self.mood.lock().unwrap().refuse {
            let _ = answer.send(Err(refused));
            return;
        }
        self.opened += 1;
        let connection = Connection(self.opened);
        self.outboxes.lock().unwrap().insert(connection, session.outbox.clone());
        self.hear(Heard::Opened(connection, session));
        let session = SessionId::Hosted(u128::from(self.opened));
        let _ = answer.send(Ok(Opened { connection, session, instance: InstanceId(7) }));
    }

    fn query(&self, query: Query) {
        let mood = self.mood.lock().unwrap().clone();
        match query {
            Query::Users(users, answer) => {
                let views = users.into_iter().map(|user| UserView { record: record(&user), user }).collect();
                let _ = answer.send(if mood.users_fail { Err("it is away".to_owned()) } else { Ok(views) });
            }
            Query::Message(user, answer) => {
                let found = Ok(details().message.filter(|_| user.as_str().starts_with('b')));
                let _ = answer.send(if mood.users_fail { Err("it is away".to_owned()) } else { found });
            }
            Query::SetMessage(_, wanted, answer) => {
                self.hear(Heard::SetMessage(wanted.clone()));
                let now = Now::at(1_764_000_000_123);
                let set = wanted.map(|wanted| wanted.kept(now, Duration::from_secs(60)).0);
                let _ = answer.send(if mood.users_fail { Err("it is away".to_owned()) } else { Ok(set) });
            }
            Query::Health(answer) => {
                let ready = mood.unready.is_none();
                let _ = answer.send(Health { ready, reason: mood.unready, instance: InstanceId(7) });
            }
            Query::Instances(answer) => {
                let _ = answer.send(Vec::new());
            }
            Query::Partitions(answer) => {
                let _ = answer.send(Vec::new());
            }
            Query::Counts(answer) => {
                let counts =
                    DeploymentCounts { partitions: 4, counted: 3, users: [1, 2, 3], sessions: [4, 5] };
                let _ = answer.send(counts);
            }
            Query::Letter(order, answer) => {
                let _ = answer.send(report(order));
            }
            Query::Census(answer) => {
                let _ = answer.send(Census { sessions_online: 5, ..Census::default() });
            }
        }
    }
}

/// What there is to see of everybody.
fn details() -> Details {
    let metadata = Metadata::new([("device".to_owned(), "phone".to_owned())]).unwrap();
    let attributes = Attributes::default().with_metadata(&metadata);
    let session = SessionDetails { instance: InstanceId(7), status: Status::Idle, attributes };
    let message = CustomMessage { text: "in a meeting".into(), until: Timestamp(1_764_000_000_123) };
    Details { message: Some(message), sessions: vec![session] }
}

/// Only users whose name starts with `b` were ever seen.
fn record(user: &UserId) -> Option<StatusRecord> {
    let since = Timestamp(1_764_000_000_000);
    let online = Moment { status: Status::Online, since, revision: Some(since.0), reason: Reason::Connected };
    user.as_str().starts_with('b').then_some(StatusRecord {
        status: Status::Idle,
        since: Timestamp(1_764_000_000_123),
        revision: 7,
        last_seen: None,
        sessions: 2,
        generation: 1,
        previous: None,
        trail: Trail { reason: Reason::Idle, past: Past::NONE.and(online) },
    })
}

/// Letter 1 is replayed, 2 is older than the user's news, the others are in hand already.
fn report(order: LetterOrder) -> LetterReport {
    let outcome = match (order.verb, order.number.get()) {
        (LetterVerb::Drop, 1..=3) => LetterOutcome::Dropped,
        (LetterVerb::Replay, 1) => LetterOutcome::Queued,
        (LetterVerb::Replay, 2) => LetterOutcome::Superseded,
        (LetterVerb::Replay, 3) => LetterOutcome::Busy,
        _ => LetterOutcome::Gone,
    };
    LetterReport {
        number: order.number.get(),
        outcome,
        host: "host-1".into(),
        plugin: Some("webhook".into()),
        hook: Some("user-online".into()),
        user: Some("bob".into()),
        detail: None,
    }
}

/// A store with three dead letters.
pub(crate) async fn store_with_dead_letters() -> MemoryStore {
    let store = MemoryStore::new();
    let meta = MetaRecord { format: 1, layout: Layout { partitions: 4, leaves: 2 }, epoch: 7 };
    let document = Document::Meta(meta);
    store.put(Put { key: Key::Meta, document, expect: Expect::Any, lease: None }).await.unwrap();
    let letters = [("webhook", "user-online"), ("analytics", "user-online"), ("webhook", "user-offline")];
    for (plugin, hook) in letters {
        let letter = DeadLetter {
            number: 0,
            plugin: plugin.into(),
            digest: "ab".into(),
            hook: hook.into(),
            user: Some("bob".into()),
            event_id: "e".into(),
            event: serde_json::json!({"type": hook}),
            error: "410 Gone".into(),
            attempts: 1,
            at: 1_764_000_000_123,
        };
        store.push_dead_letter(letter).await.unwrap();
    }
    store
}
