//! Notices of changed statuses over core NATS: `<prefix>.events.user.<token>`. It knows who is watched, not by whom.
//!
//! Each watched user has a subscription of its own; past [`MAX_SUBSCRIPTIONS`] one subscription to all users takes
//! their place, since each costs some kilobytes. What this host tells itself goes to its readers directly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    watched: Mutex<Watched>,
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
        Hub { readers: broadcast::Sender::new(Notices::MAX_WAITING), watched: Mutex::default() }
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
        match serde_json::to_vec(&Event::of(&notice)) {
            Ok(payload) => {
                let subject = self.event_subject(&token::encode_user(&notice.user));
                let message = Outgoing { subject, headers: HeaderMap::new(), payload: payload.into() };
                self.link.publish(Lane::Bulk, message);
            }
            Err(error) => tracing::error!(%error, "a notice can't be written"),
        }
        // An error only says that nobody reads.
        let _ = self.hub.readers.send(Noticed::Notice(notice));
    }

    fn event_subject(&self, token: &str) -> Subject {
        format!("{}.events.user.{token}", self.streams.names.prefix).into()
    }

    pub(super) fn watch(self: &Arc<Shared>, user: &UserId) {
        let mut watched = self.hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let few = watched.users.len() < MAX_SUBSCRIPTIONS;
        let all = watched.everybody.is_some();
        let watch = watched.users.entry(user.clone()).or_insert(Watch { count: 0, subscription: None });
        watch.count += 1;
        if watch.count > 1 || all {
            return;
        }
        if few {
            watch.subscription = Some(self.subscribe_to(&token::encode_user(user)));
            return;
        }
        // First the new one, then the old ones: nothing is missed.
        watched.everybody = Some(self.subscribe_to("*"));
        for watch in watched.users.values_mut() {
            if let Some(subscription) = watch.subscription.take() {
                subscription.abort();
            }
        }
    }

    pub(super) fn unwatch(self: &Arc<Shared>, user: &UserId) {
        let mut watched = self.hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
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
                watch.subscription = Some(self.subscribe_to(&token::encode_user(user)));
            }
            everybody.abort();
        }
    }

    /// Subscribes before anything that is asked for later.
    fn subscribe_to(self: &Arc<Shared>, token: &str) -> JoinHandle<()> {
        let subscribed = self.link.subscribe(self.event_subject(token));
        tokio::spawn(listen(Arc::downgrade(self), subscribed))
    }

    fn handle_event(&self, message: &Message) {
        let event = serde_json::from_slice::<Event>(&message.payload).ok().and_then(Event::notice);
        let Some(notice) = event else {
            return self.note_corrupt(&message.subject, &"no notice of this version");
        };
        let watched = self.hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.users.contains_key(&notice.user) {
            // An error only says that nobody reads.
            let _ = self.hub.readers.send(Noticed::Notice(notice));
        }
    }
}

async fn listen(shared: Weak<Shared>, subscribed: oneshot::Receiver<Subscriber>) {
    let Ok(mut subscriber) = subscribed.await else {
        return;
    };
    while let Some(message) = subscriber.next().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.handle_event(&message);
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
    fn the_example_of_the_documentation_is_one() {
        let document = include_str!("../../../../docs/protocol.md");
        let line = document.lines().find(|line| line.contains("\"generation\":")).expect("an example");
        let event: Event = serde_json::from_str(line).expect("an event");
        let notice = event.notice().expect("times in RFC 3339");
        assert_eq!(serde_json::to_string(&Event::of(&notice)).unwrap(), line);
        assert_eq!(token::encode_user(&UserId::new("zoë 7").unwrap()), "zo=C3=AB=207");
    }
}
