//! The one way to the server: requests with their answers, messages without one, subscriptions, in the order in which
//! they were asked for. It knows subjects and bytes, not what they mean.
//!
//! A task of its own keeps the order, bounds how many requests are unanswered, and tells apart what was certainly not
//! sent ([`LinkError::NotSent`]) from what may have arrived ([`LinkError::NoAnswer`]). One inbox serves all requests:
//! their answers carry a running number. There is no timer and no task per request.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::{Client, Event, HeaderMap, Message, ServerError, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::store::StoreError;

/// An answer that does not come within this time doesn't come.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that can't be sent within this time is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// So many requests may be unanswered at once; the others wait. Urgent ones don't count.
const WINDOW: usize = 1_024;

/// Commands taken at once.
const CHUNK: usize = 64;

/// How often is looked for requests that are too old.
const SWEEP: Duration = Duration::from_millis(250);

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// Certainly not sent.
    #[error("{0}")]
    NotSent(String),
    /// Sent, perhaps received.
    #[error("{0}")]
    NoAnswer(String),
    /// Nobody is there who could receive it.
    #[error("nobody answers on {0}")]
    NoResponders(String),
    /// Certainly not accepted, and never will be.
    #[error("{0}")]
    Refused(String),
}

impl From<LinkError> for StoreError {
    fn from(error: LinkError) -> StoreError {
        match error {
            LinkError::NotSent(_) | LinkError::NoResponders(_) => StoreError::Unavailable(error.to_string()),
            LinkError::NoAnswer(why) => StoreError::Unknown(why),
            LinkError::Refused(why) => StoreError::Refused(why),
        }
    }
}

/// One message to be sent.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) subject: Subject,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

/// Which queue a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// In order, while few enough are unanswered.
    Bulk,
    /// Before all that; leases must not wait for a flood of sessions.
    Urgent,
}

enum Command {
    Request(Outgoing, Answering, Instant),
    /// A request whose answer nobody waits for.
    Tell(Outgoing),
    Publish(Outgoing),
    /// A message, and the request behind it whose answer says that the server has taken it.
    Deliver(Outgoing, Outgoing, Answering, Instant),
    Subscribe(Subject, oneshot::Sender<Subscriber>),
}

type Answering = oneshot::Sender<Result<Message, LinkError>>;

/// The future answer to a request.
pub(super) struct Answer(oneshot::Receiver<Result<Message, LinkError>>);

impl Future for Answer {
    type Output = Result<Message, LinkError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context).map(|answer| {
            answer.unwrap_or_else(|_| Err(LinkError::NoAnswer("the connection has been given up".into())))
        })
    }
}

/// A handle on the task; it ends with the last one.
#[derive(Clone)]
pub(super) struct Link {
    bulk: mpsc::UnboundedSender<Command>,
    urgent: mpsc::UnboundedSender<Command>,
    /// Counts connections.
    connections: watch::Receiver<u64>,
    /// What the server has last complained of.
    complaint: watch::Receiver<Option<String>>,
    client: Client,
}

impl Link {
    /// Starts the task. `events` are the client's.
    pub(super) async fn start(
        client: Client,
        events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<Link, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.*")).await?;
        let (bulk, bulk_commands) = mpsc::unbounded_channel();
        let (urgent, urgent_commands) = mpsc::unbounded_channel();
        let (connected, connections) = watch::channel(0);
        let (complaints, complaint) = watch::channel(None);
        let task = Task {
            client: client.clone(),
            inbox: format!("{inbox}."),
            bulk: bulk_commands,
            urgent: urgent_commands,
            replies,
            events,
            connected,
            complaints,
            lost: false,
            unanswered: VecDeque::new(),
            first: 0,
            count: 0,
        };
        tokio::spawn(task.run());
        Ok(Link { bulk, urgent, connections, complaint, client })
    }

    /// Sends and waits for the answer. The order of calls in one lane is the order of messages.
    pub(super) fn request(&self, lane: Lane, message: Outgoing) -> Answer {
        let (answer, receiver) = oneshot::channel();
        // If the task is gone, so is the sender of the answer, which says it.
        let _ = self.queue(lane).send(Command::Request(message, answer, Instant::now()));
        Answer(receiver)
    }

    /// Sends a message without an answer and right behind it a request, whose answer says that the server has read
    /// both. A refusal of the message's subject is the answer as well.
    pub(super) fn deliver(&self, message: Outgoing, proof: Outgoing) -> Answer {
        let (answer, receiver) = oneshot::channel();
        // If the task is gone, so is the sender of the answer, which says it.
        let _ = self.bulk.send(Command::Deliver(message, proof, answer, Instant::now()));
        Answer(receiver)
    }

    /// Sends, if that is possible right now.
    pub(super) fn publish(&self, lane: Lane, message: Outgoing) {
        // Best effort.
        let _ = self.queue(lane).send(Command::Publish(message));
    }

    /// Asks for something, if that is possible right now, and does not wait for the answer.
    pub(super) fn tell(&self, lane: Lane, message: Outgoing) {
        // Best effort.
        let _ = self.queue(lane).send(Command::Tell(message));
    }

    fn queue(&self, lane: Lane) -> &mpsc::UnboundedSender<Command> {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Urgent => &self.urgent,
        }
    }

    /// Subscribes before anything is sent that is asked for later in the bulk lane.
    pub(super) fn subscribe(&self, subject: Subject) -> oneshot::Receiver<Subscriber> {
        let (sender, receiver) = oneshot::channel();
        // If the task is gone, so is the sender.
        let _ = self.bulk.send(Command::Subscribe(subject, sender));
        receiver
    }

    /// Counts connections: changes when a lost one was replaced.
    pub(super) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// What the server has last complained of, such as a forbidden subject.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.borrow().clone()
    }

    /// The client, for subscriptions whose order against other things doesn't matter.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

struct Unanswered {
    answer: Answering,
    subject: Subject,
    sent: Instant,
    lane: Lane,
}

struct Task {
    client: Client,
    inbox: String,
    bulk: mpsc::UnboundedReceiver<Command>,
    urgent: mpsc::UnboundedReceiver<Command>,
    replies: Subscriber,
    events: mpsc::UnboundedReceiver<Event>,
    connected: watch::Sender<u64>,
    complaints: watch::Sender<Option<String>>,
    /// The connection was lost and not yet replaced.
    lost: bool,
    /// By running number, the oldest first; answered ones are empty.
    unanswered: VecDeque<Option<Unanswered>>,
    /// The number of the oldest.
    first: u64,
    /// So many of the bulk lane are unanswered.
    count: usize,
}

impl Task {
    async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut commands, mut urgent) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        loop {
            let free = WINDOW.saturating_sub(self.count).min(CHUNK);
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.handle_event(event),
                _ = sweep.tick() => self.sweep(),
                taken = self.urgent.recv_many(&mut urgent, CHUNK) => {
                    if taken == 0 {
                        return;
                    }
                    self.execute(&mut urgent, Lane::Urgent);
                }
                reply = self.replies.next() => {
                    let Some(reply) = reply else {
                        return;
                    };
                    self.handle_reply(reply);
                    // Those that have come already, without going to sleep in between.
                    for _ in 0..WINDOW {
                        let Some(Some(reply)) = self.replies.next().now_or_never() else {
                            break;
                        };
                        self.handle_reply(reply);
                    }
                }
                taken = self.bulk.recv_many(&mut commands, free), if free > 0 => {
                    if taken == 0 {
                        return;
                    }
                    self.execute(&mut commands, Lane::Bulk);
                }
            }
        }
    }

    fn execute(&mut self, commands: &mut Vec<Command>, lane: Lane) {
        let connected = self.client.connection_state() == State::Connected;
        for command in commands.drain(..) {
            match command {
                Command::Request(message, answer, asked) => {
                    self.request(message, (answer, asked), lane, connected);
                }
                Command::Deliver(message, proof, answer, asked) => {
                    let subject = message.subject.clone();
                    let Some(answer) = sendable(answer, asked, connected) else { continue };
                    match self.send(message, None) {
                        Ok(()) => self.ask(proof, subject, answer, lane),
                        // Whoever doesn't wait for it any more needs no answer.
                        Err(error) => drop(answer.send(Err(error))),
                    }
                }
                Command::Publish(_) | Command::Tell(_) if !connected => {}
                Command::Publish(message) => note_dropped(self.send(message, None)),
                Command::Tell(message) => {
                    // No number: the answer is not understood, and dropped.
                    let reply = Subject::from(format!("{}told", self.inbox));
                    note_dropped(self.send(message, Some(reply)));
                }
                Command::Subscribe(subject, subscriber) => {
                    // Kept by the client while there is no connection.
                    match tokio::task::unconstrained(self.client.subscribe(subject)).now_or_never() {
                        // Whoever gave up waiting drops it, which ends it.
                        Some(Ok(subscribed)) => drop(subscriber.send(subscribed)),
                        Some(Err(error)) => tracing::error!(%error, "a subscription failed"),
                        None => tracing::error!("a subscription failed: too much waits for the server"),
                    }
                }
            }
        }
    }

    fn request(
        &mut self,
        message: Outgoing,
        (answer, asked): (Answering, Instant),
        lane: Lane,
        connected: bool,
    ) {
        let subject = message.subject.clone();
        if let Some(answer) = sendable(answer, asked, connected) {
            self.ask(message, subject, answer, lane);
        }
    }

    /// Sends a request; `subject` is what a refusal would name.
    fn ask(&mut self, message: Outgoing, subject: Subject, answer: Answering, lane: Lane) {
        let number = self.first + self.unanswered.len() as u64;
        let reply = Subject::from(format!("{}{number}", self.inbox));
        match self.send(message, Some(reply)) {
            Ok(()) => {
                self.count += usize::from(lane == Lane::Bulk);
                self.unanswered.push_back(Some(Unanswered { answer, subject, sent: Instant::now(), lane }));
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn send(&self, message: Outgoing, reply: Option<Subject>) -> Result<(), LinkError> {
        let Outgoing { subject, headers, payload } = message;
        let client = &self.client;
        let sent = match (reply, headers.is_empty()) {
            (Some(reply), true) => {
                tokio::task::unconstrained(client.publish_with_reply(subject, reply, payload)).now_or_never()
            }
            (Some(reply), false) => tokio::task::unconstrained(
                client.publish_with_reply_and_headers(subject, reply, headers, payload),
            )
            .now_or_never(),
            (None, _) => tokio::task::unconstrained(client.publish_with_headers(subject, headers, payload))
                .now_or_never(),
        };
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => match error.kind() {
                PublishErrorKind::Send => Err(LinkError::NotSent("the connection has ended".into())),
                PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    Err(LinkError::Refused(why.unwrap_or_else(|| error.to_string())))
                }
            },
            None => Err(LinkError::NotSent("the connection to NATS is congested".into())),
        }
    }

    fn handle_reply(&mut self, message: Message) {
        let number =
            message.subject.strip_prefix(self.inbox.as_str()).and_then(|text| text.parse::<u64>().ok());
        let Some(unanswered) = number.and_then(|number| self.take(number)) else {
            return;
        };
        let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
            Err(LinkError::NoResponders(unanswered.subject.to_string()))
        } else {
            Ok(message)
        };
        // Whoever doesn't wait for it any more needs no answer.
        let _ = unanswered.answer.send(answer);
    }

    fn take(&mut self, number: u64) -> Option<Unanswered> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let unanswered = self.unanswered.get_mut(place)?.take()?;
        self.count -= usize::from(unanswered.lane == Lane::Bulk);
        while let Some(None) = self.unanswered.front() {
            self.unanswered.pop_front();
            self.first += 1;
        }
        Some(unanswered)
    }

    fn sweep(&mut self) {
        let silent = |unanswered: &Unanswered| {
            let late = unanswered.sent.elapsed() > ANSWER_TIMEOUT;
            late.then(|| {
                LinkError::NoAnswer(format!("no answer to {} within {ANSWER_TIMEOUT:?}", unanswered.subject))
            })
        };
        // The oldest come first.
        let late =
            |waiting: &Option<Unanswered>| waiting.as_ref().is_none_or(|waiting| silent(waiting).is_some());
        let until =
            self.unanswered.iter().position(|waiting| !late(waiting)).unwrap_or(self.unanswered.len());
        self.fail(until, silent);
    }

    /// Ends those of the oldest for which there is a reason.
    fn fail(&mut self, oldest: usize, reason: impl Fn(&Unanswered) -> Option<LinkError>) {
        for number in self.first..self.first + oldest as u64 {
            // Answering one may have moved the first.
            let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
            let waiting = place.and_then(|place| self.unanswered.get(place)?.as_ref());
            if let Some(error) = waiting.and_then(&reason)
                && let Some(unanswered) = self.take(number)
            {
                let _ = unanswered.answer.send(Err(error));
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        let all = self.unanswered.len();
        match event {
            // The first one is not news.
            Event::Connected if !std::mem::take(&mut self.lost) => {}
            Event::Connected => {
                tracing::info!(server = self.client.server_info().server_name, "connected to NATS again");
                self.connected.send_modify(|connections| *connections += 1);
            }
            Event::Disconnected => {
                self.lost = true;
                tracing::warn!(unanswered = self.count, "the connection to NATS is lost; connecting again");
                self.fail(all, |_| Some(LinkError::NoAnswer("the connection to NATS broke".into())));
            }
            Event::ServerError(ServerError::Other(text)) => {
                tracing::error!(error = text, "NATS");
                self.complaints.send_replace(Some(text.clone()));
                if let Some(subject) = forbidden_publish(&text) {
                    self.fail(all, |waiting| {
                        (waiting.subject.as_str() == subject).then(|| LinkError::Refused(text.clone()))
                    });
                }
            }
            Event::ServerError(error) => tracing::error!(%error, "NATS"),
            Event::SlowConsumer(_) => tracing::warn!("messages of NATS were dropped: this host is too slow"),
            Event::LameDuckMode => tracing::info!("the NATS server is about to stop"),
            Event::ClientError(error) => tracing::debug!(%error, "NATS"),
            Event::Draining | Event::Closed => {}
        }
    }
}

/// The answer, if the request is to be sent; else it is told why not.
fn sendable(answer: Answering, asked: Instant, connected: bool) -> Option<Answering> {
    let why = if answer.is_closed() {
        return None;
    } else if !connected {
        "there is no connection to NATS"
    } else if asked.elapsed() > SEND_TIMEOUT {
        "too many requests wait for NATS"
    } else {
        return Some(answer);
    };
    // Whoever doesn't wait for it any more needs no answer.
    let _ = answer.send(Err(LinkError::NotSent(why.into())));
    None
}

fn note_dropped(sent: Result<(), LinkError>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "a message without an answer was dropped");
    }
}

/// The subject of `Permissions Violation for Publish to "…"`.
fn forbidden_publish(text: &str) -> Option<&str> {
    let (before, subject) = text.split_once("Publish to \"")?;
    before.to_ascii_lowercase().contains("permissions violation").then(|| subject.split('"').next())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_subject_is_found() {
        let text = "Permissions Violation for Publish to \"presence.s.1.2.alice.x\"";
        assert_eq!(forbidden_publish(text), Some("presence.s.1.2.alice.x"));
        let quoted = "'Permissions Violation for Publish to \"$JS.API.INFO\"'";
        assert_eq!(forbidden_publish(quoted), Some("$JS.API.INFO"));
        assert_eq!(forbidden_publish("Permissions Violation for Subscription to \"_INBOX.x.*\""), None);
        assert_eq!(forbidden_publish("Maximum Connections Exceeded"), None);
    }
}
