//! Notices over core NATS: of changed statuses, `<prefix>.events.user.<token>`; that a user's message or metadata may
//! have changed, `<prefix>.events.details.<token>`. It knows who is watched, not by whom.
//!
//! Each watched user has a subscription of its own for each of the two; past [`MAX_SUBSCRIPTIONS`] one subscription to
//! all users takes their place, since each costs some kilobytes. What this host tells itself goes to its readers directly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_nats::{HeaderMap, Message, Subject, Subscriber};
use futures_util::StreamExt;
use presence_core::documents::{StatusRecord, Trail};
use presence_core::events::Status;
use presence_core::ids::UserId;
use presence_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use super::Shared;
use super::link::{Lane, Link, Outgoing};
use crate::store::{Notice, Noticed, Notices, token};

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Status,
    Details,
}

/// So many users have a subscription of their own.
const MAX_SUBSCRIPTIONS: usize = 1_024;

/// What is published: docs/protocol.md describes it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Kind,
    user: UserId,
    status: Status,
    since: String,
    revision: u64,
    last_seen: Option<String>,
    sessions: u32,
    previous: Option<Status>,
    generation: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Presence,
}

/// The other one that is published. It says that there is something to read, not what: whoever may subscribe need not
/// be somebody who may see it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DetailsEvent {
    #[serde(rename = "type")]
    kind: DetailsKind,
    user: UserId,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DetailsKind {
    Details,
}

impl Event {
    fn of(notice: &Notice) -> Event {
        let record = &notice.record;
        Event {
            kind: Kind::Presence,
            user: notice.user.clone(),
            status: record.status,
            since: rfc3339(record.since),
            revision: record.revision,
            last_seen: record.last_seen.map(rfc3339),
            sessions: record.sessions,
            previous: record.previous,
            generation: record.generation,
        }
    }

    fn notice(self) -> Option<Notice> {
        let last_seen = match &self.last_seen {
            Some(text) => Some(timestamp(text)?),
            None => None,
        };
        let record = StatusRecord {
            status: self.status,
            since: timestamp(&self.since)?,
            revision: self.revision,
            last_seen,
            sessions: self.sessions,
            generation: self.generation,
            previous: self.previous,
            trail: Trail::default(),
        };
        Some(Notice { user: self.user, record })
    }
}

/// RFC 3339 with milliseconds; what lies after the year 9999 is told as its end.
fn rfc3339(at: Timestamp) -> String {
    const LAST: u64 = 253_402_300_799_999;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at.0.min(LAST));
    humantime::format_rfc3339_millis(time).to_string()
}

/// The time that a text in RFC 3339 tells.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok().map(Timestamp)
}

/// The readers in this process, and the subscriptions for them.
pub(super) struct Hub {
    readers: broadcast::Sender<Noticed>,
    statuses: Mutex<Watched>,
    details: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    users: HashMap<UserId, Watch, foldhash::fast::RandomState>,
    /// While there are too many for subscriptions of their own.
    everybody: Option<JoinHandle<()>>,
}

struct Watch {
    count: u32,
    subscription: Option<JoinHandle<()>>,
}

impl Hub {
    pub(super) fn new() -> Hub {
        Hub {
            readers: broadcast::Sender::new(Notices::MAX_WAITING),
            statuses: Mutex::default(),
            details: Mutex::default(),
        }
    }

    fn watched(&self, topic: Topic) -> MutexGuard<'_, Watched> {
        let watched = match topic {
            Topic::Status => &self.statuses,
            Topic::Details => &self.details,
        };
        watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notices(&self) -> Notices {
        Notices::new(&self.readers)
    }

    /// Tells all readers of this process that they may have missed some.
    fn tell_missed(&self) {
        // An error only says that nobody reads.
        let _ = self.readers.send(Noticed::Missed);
    }
}

impl Shared {
    /// Tells readers here, and everybody who has subscribed.
    pub(super) fn notify(&self, notice: Notice) {
        self.publish(Topic::Status, &notice.user, serde_json::to_vec(&Event::of(&notice)));
        // An error only says that nobody reads.
        let _ = self.hub.readers.send(Noticed::Notice(notice));
    }

    /// The same of a user's message and metadata.
    pub(super) fn notify_details(&self, user: &UserId) {
        let event = DetailsEvent { kind: DetailsKind::Details, user: user.clone() };
        self.publish(Topic::Details, user, serde_json::to_vec(&event));
        if self.hub.watched(Topic::Details).users.contains_key(user) {
            // An error only says that nobody reads.
            let _ = self.hub.readers.send(Noticed::Details(user.clone()));
        }
    }

    fn publish(&self, topic: Topic, user: &UserId, payload: Result<Vec<u8>, serde_json::Error>) {
        match payload {
            Ok(payload) => {
                let subject = self.event_subject(topic, &token::encode_user(user));
                let message = Outgoing { subject, headers: HeaderMap::new(), payload: payload.into() };
                self.link.publish(Lane::Bulk, message);
            }
            Err(error) => tracing::error!(%error, "a notice can't be written"),
        }
    }

    fn event_subject(&self, topic: Topic, token: &str) -> Subject {
        let word = match topic {
            Topic::Status => "user",
            Topic::Details => "details",
        };
        format!("{}.events.{word}.{token}", self.streams.names.prefix).into()
    }

    pub(super) fn watch(self: &Arc<Shared>, topic: Topic, user: &UserId) {
        let mut watched = self.hub.watched(topic);
        let few = watched.users.len() < MAX_SUBSCRIPTIONS;
        let all = watched.everybody.is_some();
        let watch = watched.users.entry(user.clone()).or_insert(Watch { count: 0, subscription: None });
        watch.count += 1;
        if watch.count > 1 || all {
            return;
        }
        if few {
            watch.subscription = Some(self.subscribe_to(topic, &token::encode_user(user)));
            return;
        }
        // First the new one, then the old ones: nothing is missed.
        watched.everybody = Some(self.subscribe_to(topic, "*"));
        for watch in watched.users.values_mut() {
            if let Some(subscription) = watch.subscription.take() {
                subscription.abort();
            }
        }
    }

    pub(super) fn unwatch(self: &Arc<Shared>, topic: Topic, user: &UserId) {
        let mut watched = self.hub.watched(topic);
        let Some(watch) = watched.users.get_mut(user) else {
            return;
        };
        watch.count -= 1;
        if watch.count > 0 {
            return;
        }
        if let Some(watch) = watched.users.remove(user)
            && let Some(subscription) = watch.subscription
        {
            subscription.abort();
        }
        // Only when there are far fewer, so that nothing flutters.
        if watched.users.len() <= MAX_SUBSCRIPTIONS / 2
            && let Some(everybody) = watched.everybody.take()
        {
            for (user, watch) in &mut watched.users {
                watch.subscription = Some(self.subscribe_to(topic, &token::encode_user(user)));
            }
            everybody.abort();
        }
    }

    /// Subscribes before anything that is asked for later.
    fn subscribe_to(self: &Arc<Shared>, topic: Topic, token: &str) -> JoinHandle<()> {
        let subscribed = self.link.subscribe(self.event_subject(topic, token));
        tokio::spawn(listen(Arc::downgrade(self), topic, subscribed))
    }

    fn handle_event(&self, topic: Topic, message: &Message) {
        let noticed = match topic {
            Topic::Status => {
                let event = serde_json::from_slice::<Event>(&message.payload).ok();
                event.and_then(Event::notice).map(|notice| (notice.user.clone(), Noticed::Notice(notice)))
            }
            Topic::Details => {
                let event = serde_json::from_slice::<DetailsEvent>(&message.payload).ok();
                event.map(|event| (event.user.clone(), Noticed::Details(event.user)))
            }
        };
        let Some((user, noticed)) = noticed else {
            return self.note_corrupt(&message.subject, &"no notice of this version");
        };
        if self.hub.watched(topic).users.contains_key(&user) {
            // An error only says that nobody reads.
            let _ = self.hub.readers.send(noticed);
        }
    }
}

async fn listen(shared: Weak<Shared>, topic: Topic, subscribed: oneshot::Receiver<Subscriber>) {
    let Ok(mut subscriber) = subscribed.await else {
        return;
    };
    while let Some(message) = subscriber.next().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.handle_event(topic, &message);
    }
}

/// Tells readers after every new connection that they may have missed some.
pub(super) async fn tell_of_connections(shared: Weak<Shared>, link: Link) {
    let mut connections = link.connections();
    drop(link);
    while connections.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.hub.tell_missed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_everything_in_words() {
        let record = StatusRecord {
            status: Status::Offline,
            since: Timestamp(1_764_000_000_123),
            revision: 7,
            last_seen: Some(Timestamp(1_764_000_000_000)),
            sessions: 0,
            generation: 3,
            previous: Some(Status::Idle),
            trail: Trail::default(),
        };
        let notice = Notice { user: UserId::new("al.ice").unwrap(), record };
        let text = serde_json::to_string(&Event::of(&notice)).unwrap();
        assert_eq!(
            text,
            r#"{"type":"presence","user":"al.ice","status":"offline","since":"2025-11-24T16:00:00.123Z","revision":7,"last_seen":"2025-11-24T16:00:00.000Z","sessions":0,"previous":"idle","generation":3}"#
        );
        let event: Event = serde_json::from_str(&text).unwrap();
        assert_eq!(event.notice(), Some(notice));
    }

    #[test]
    fn the_examples_of_the_documentation_are_such() {
        let document = include_str!("../../../../docs/protocol.md");
        let line = document.lines().find(|line| line.contains("\"type\":\"details\"")).expect("an example");
        let event: DetailsEvent = serde_json::from_str(line).expect("an event");
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
        let line = document.lines().find(|line| line.contains("\"generation\":")).expect("an example");
        let event: Event = serde_json::from_str(line).expect("an event");
        let notice = event.notice().expect("times in RFC 3339");
        assert_eq!(serde_json::to_string(&Event::of(&notice)).unwrap(), line);
        assert_eq!(token::encode_user(&UserId::new("zoë 7").unwrap()), "zo=C3=AB=207");
    }
}
