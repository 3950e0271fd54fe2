//! The driver's side of custom messages and metadata: setting a message, reading what watchers ask for, and telling
//! other hosts that there is something to read.
//!
//! A message is one document of its own, under a lease, written by whichever host was asked; the newest write wins. What
//! a watcher sees is read from that and from the user's session documents: nothing of it goes through the owner.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use presence_core::documents::{Document, Expect, Key, SessionDocument};
use presence_core::events::Attributes;
use presence_core::ids::{InstanceId, UserId};
use presence_core::message::{CustomMessage, Wanted};
use presence_core::sessions::SessionKey;
use presence_core::time::Now;
use presence_core::watchers::Details;
use tokio::sync::oneshot;

use super::engine::Driver;
use super::io::{Completion, read};
use super::{Connection, Outgoing};
use crate::store::{Put, StoreError};

/// So many users' details are read at once.
const MAX_READS: usize = 64;

/// So many messages are on their way to the store at once; who sets one more is told to come again.
const MAX_SETTING: usize = 256;

/// Who set a message and waits for the answer.
#[derive(Debug)]
pub(super) enum Setter {
    /// A session: its connection and the id of its message.
    Session(Connection, Option<String>),
    /// The admin API.
    Api(oneshot::Sender<MessageOutcome>),
}

/// What a user's custom message is now, or why that is not known.
pub type MessageOutcome = Result<Option<CustomMessage>, String>;

/// What was read of a user.
pub(super) struct DetailsRead {
    pub(super) user: UserId,
    message: Option<CustomMessage>,
    documents: Vec<(InstanceId, Arc<SessionDocument>)>,
}

impl Driver {
    /// A session says other things of itself.
    pub(super) fn set_metadata(&mut self, now: Now, key: SessionKey, attributes: Attributes) {
        self.sessions.handle_activity(now, key);
        if !attributes.has_metadata()
            && let Some(view) = self.sessions.session(key)
        {
            self.metadata_dropped.insert(view.user);
        }
        self.sessions.handle_attributes(key, attributes);
    }

    /// Sets the custom message of a session's user, or clears it.
    pub(super) fn set_own_message(
        &mut self,
        now: Now,
        connection: Connection,
        wanted: Option<&Wanted>,
        request: Option<String>,
    ) {
        let Some(view) = self.sessions.session(SessionKey(connection.0)) else { return };
        self.set_message(now, view.user, wanted, Setter::Session(connection, request));
    }

    /// Sets the custom message of a user, or clears it.
    pub(super) fn set_message(&mut self, now: Now, user: UserId, wanted: Option<&Wanted>, setter: Setter) {
        if self.messages_in_flight >= MAX_SETTING {
            return self.answer_setter(setter, Err("too many messages are being set right now".to_owned()));
        }
        self.messages_in_flight += 1;
        let (partition, leaf) = self.config.layout.place(&user);
        let key = Key::Message(partition, leaf, user.clone());
        let kept = wanted.map(|wanted| wanted.kept(now, self.config.presence.offline_retention));
        let store = self.store.clone();
        // Once: whoever set it is told if it is not certain, and may set it again.
        let operation = async move {
            let written = match &kept {
                Some((message, lasts)) => {
                    let document = Document::Message(message.clone());
                    let put = Put { key, document, expect: Expect::Any, lease: Some(*lasts) };
                    store.put(put).await.map(|_| ())
                }
                None => store.delete(key, Expect::Any).await,
            };
            Completion::MessageSet(user, setter, written.map(|()| kept.map(|(message, _)| message)))
        };
        self.start(operation.boxed());
    }

    pub(super) fn message_set(
        &mut self,
        user: &UserId,
        setter: Setter,
        written: Result<Option<CustomMessage>, StoreError>,
    ) {
        self.messages_in_flight -= 1;
        if !matches!(written, Err(StoreError::Unavailable(_) | StoreError::Refused(_))) {
            self.store.notify_details(user);
        }
        self.answer_setter(setter, written.map_err(|error| error.to_string()));
    }

    fn answer_setter(&self, setter: Setter, outcome: MessageOutcome) {
        match (setter, outcome) {
            // Whoever asked may have gone away.
            (Setter::Api(answer), outcome) => drop(answer.send(outcome)),
            (Setter::Session(connection, request), Ok(_)) => self.answer(connection, request),
            (Setter::Session(connection, request), Err(why)) => {
                let why = format!("whether the message is set is not certain: {why}; set it again");
                if let Some(outbox) = self.connections.get(&SessionKey(connection.0)) {
                    outbox.push(Outgoing::Unavailable(why, request));
                }
            }
        }
    }

    /// Answers the admin API: the custom message of a user.
    pub(super) fn view_message(&mut self, now: Now, user: UserId, answer: oneshot::Sender<MessageOutcome>) {
        let (partition, leaf) = self.config.layout.place(&user);
        let store = self.store.clone();
        let operation = async move {
            let found = store.get(Key::Message(partition, leaf, user)).await;
            // Whoever asked may have gone away.
            let _ = answer.send(found.map_err(|error| error.to_string()).map(|found| match found {
                Some((_, Document::Message(message))) => Some(message).filter(|found| found.holds(now.wall)),
                _ => None,
            }));
            Completion::Nothing
        };
        self.start(operation.boxed());
    }

    /// Reads what is asked for, so many users at once.
    pub(super) fn read_details(&mut self, now: Now) {
        while self.detail_reads_in_flight < MAX_READS
            && let Some(user) = self.detail_reads.pop_front()
        {
            self.detail_reads_in_flight += 1;
            self.read_details_of(now, user);
        }
    }

    fn read_details_of(&mut self, now: Now, user: UserId) {
        let (partition, leaf) = self.config.layout.place(&user);
        let instances = self.membership.instances(now).into_iter().map(|view| view.id);
        let instances: Vec<InstanceId> = instances.filter(|id| self.membership.counts(*id)).collect();
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.life));
        let operation = async move {
            let message_key = Key::Message(partition, leaf, user.clone());
            let message = read(&life, || store.get(message_key.clone()));
            let documents = join_all(instances.into_iter().map(|instance| {
                let key = Key::Sessions(partition, leaf, user.clone(), instance);
                let (store, life) = (&store, &life);
                async move { (instance, read(life, || store.get(key.clone())).await) }
            }));
            let (message, documents) = futures_util::join!(message, documents);
            let Some(message) = message else { return Completion::DetailsUnread(user) };
            let mut found = Vec::new();
            for (instance, document) in documents {
                match document {
                    None => return Completion::DetailsUnread(user),
                    Some(Some((_, Document::Sessions(document)))) => found.push((instance, document)),
                    Some(_) => {}
                }
            }
            let message = match message {
                Some((_, Document::Message(message))) => Some(message),
                _ => None,
            };
            Completion::Details(DetailsRead { user, message, documents: found })
        };
        self.start(operation.boxed());
    }

    pub(super) fn details_read(&mut self, now: Now, found: DetailsRead) {
        self.detail_reads_in_flight -= 1;
        let DetailsRead { user, message, mut documents } = found;
        // It may have been declared dead meanwhile.
        documents.retain(|(instance, _)| self.membership.counts(*instance));
        let documents = documents.iter().map(|(instance, document)| (*instance, &**document));
        self.watchers.handle_details(&user, Details::of(now, message, documents));
        self.read_details(now);
    }

    pub(super) fn details_unread(&mut self, now: Now, user: UserId) {
        self.detail_reads_in_flight -= 1;
        self.detail_reads.push_back(user);
        self.read_details(now);
    }

    /// True if watchers that ask are to be told once this document of a user is written: it has metadata, or what it had is
    /// gone.
    pub(super) fn shows_details(&mut self, user: &UserId, document: Option<&SessionDocument>) -> bool {
        let dropped = !self.metadata_dropped.is_empty() && self.metadata_dropped.remove(user);
        let holds = |document: &SessionDocument| {
            document.sessions.iter().any(|entry| entry.attributes.has_metadata())
        };
        dropped || document.is_some_and(holds)
    }
}
