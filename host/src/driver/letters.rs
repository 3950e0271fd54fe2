//! Dead letters, replayed and dropped: each by the owner of its partition, which has at most one hand on it.
//!
//! ```text
//!  asked here ──▶ whose partition? ──own──▶ in hand ──▶ read ──▶ the plugin's queue ──▶ settled ──▶ removed
//!                        └──others'──▶ store.ask ──▶ (there the same from "in hand" on)
//! ```
//!
//! A letter stays in the store until its event is settled once more, so that a host that dies on the way loses nothing.
//! After `everything`, which makes a receiver forget what it has heard, all owners decide the present statuses anew, and
//! only then the letter goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use presence_core::delivery::Payload;
use presence_core::events::{Hook, Scope, Status, Transition};
use presence_core::ids::PartitionId;
use presence_core::time::Now;
use tokio::sync::oneshot;

use super::engine::Driver;
use super::io::{Completion, definite};
use super::newcomers::hears;
use crate::plugins::letters::{event_of, once_more, partition_of};
use crate::plugins::{LetterNumber, NotWanted, ReplayEnd, Replayed};
use crate::store::{DeadLetter, Question, SharedStore, StoreError};

mod words;
pub(super) use words::Asked;
pub(super) use words::Because;
pub use words::{LetterCounts, LetterOrder, LetterOutcome, LetterReport, LetterVerb};

/// So many partitions are asked at once to decide anew.
const ASKED_AT_ONCE: usize = 16;
/// Before one that has not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Who waits for a report.
pub(super) enum Asker {
    /// This host's admin API.
    Here(oneshot::Sender<LetterReport>),
    /// Another host.
    There(Question),
}

impl Asker {
    fn answer(self, report: LetterReport) {
        match self {
            // Whoever asked may have gone away.
            Asker::Here(answer) => _ = answer.send(report),
            Asker::There(question) => {
                question.answer(serde_json::to_vec(&report).expect("a report always becomes JSON"));
            }
        }
    }
}

/// The letters that this host has in hand.
#[derive(Default)]
pub(super) struct Letters {
    /// At most as many as a store keeps.
    in_hand: BTreeMap<LetterNumber, InHand>,
    /// Held by everything that is asked on behalf of the letters in hand.
    wanted: Arc<()>,
    pub(super) counts: LetterCounts,
}

struct InHand {
    partition: PartitionId,
    everything: bool,
    removing: bool,
}

impl Letters {
    /// Whether a letter of the partition is about to be removed: the next owner must not find it.
    pub(super) fn removes_any_of(&self, partition: PartitionId) -> bool {
        self.in_hand.values().any(|one| one.removing && one.partition == partition)
    }

    /// The store was recreated, and numbers stand for other letters.
    pub(super) fn forget(&mut self) {
        self.in_hand.clear();
        self.wanted = Arc::new(());
    }
}

/// A partition that decides anew.
pub(super) struct Anew {
    because: Because,
    /// Done when the tracker has written so far.
    target: u64,
    question: Question,
}

impl Driver {
    /// An order of this host's admin API.
    pub(super) fn handle_letter(&mut self, order: LetterOrder, answer: oneshot::Sender<LetterReport>) {
        let (store, layout, report) = (self.store.clone(), self.config.layout, self.report(order.number));
        let operation = async move {
            let (outcome, detail) = match store.dead_letter(order.number.get()).await {
                Ok(Some(letter)) => {
                    return Completion::LetterFound(order, partition_of(&letter, layout), answer);
                }
                Ok(None) => (LetterOutcome::Gone, None),
                Err(error) => (LetterOutcome::Unavailable, Some(error.to_string())),
            };
            Asker::Here(answer).answer(LetterReport { outcome, detail, ..report });
            Completion::Nothing
        };
        self.start(operation.boxed());
    }

    /// The letter's partition is known: its owner does what was ordered.
    pub(super) fn letter_found(
        &mut self,
        order: LetterOrder,
        partition: PartitionId,
        answer: oneshot::Sender<LetterReport>,
    ) {
        if self.acts_for(partition) {
            return self.take_in_hand(order, partition, Asker::Here(answer));
        }
        let (store, report) = (self.store.clone(), self.report(order.number));
        let operation = async move {
            let told = match store.ask(Asked::Letter { order, partition }.question()).await {
                Ok(told) => serde_json::from_slice(&told).map_err(|error| error.to_string()),
                Err(error) => Err(format!("the owner of partition {partition} does not answer: {error}")),
            };
            let report = told.unwrap_or_else(|detail| LetterReport {
                outcome: LetterOutcome::Unavailable,
                detail: Some(detail),
                ..report
            });
            Asker::Here(answer).answer(report);
            Completion::Nothing
        };
        self.start(operation.boxed());
    }

    /// Another host, or this one, asks all. What concerns another owner is left to that.
    pub(super) fn handle_question(&mut self, now: Now, question: Question) {
        match serde_json::from_slice::<Asked>(question.body()) {
            Ok(Asked::Letter { order, partition }) if self.acts_for(partition) => {
                self.take_in_hand(order, partition, Asker::There(question));
            }
            Ok(Asked::Anew { because, partition }) if self.acts_for(partition) => {
                self.decide_anew(now, because, partition, question);
            }
            Ok(Asked::Counts { instance }) if instance == self.membership.instance() => {
                question.answer(serde_json::to_vec(&self.own_counts()).expect("numbers always become JSON"));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a question of another version"),
        }
    }

    /// Whether this host may act for the partition now.
    fn acts_for(&self, partition: PartitionId) -> bool {
        let ready = self.partitions.get(&partition).is_some_and(|partition| {
            partition.loaded.is_some() && !partition.fenced && partition.surrender.is_none()
        });
        ready && self.membership.may_act(self.clock.now())
    }

    /// From now on nobody else does anything with the letter; only now it is read, so that what is done with it already
    /// is seen.
    fn take_in_hand(&mut self, order: LetterOrder, partition: PartitionId, asker: Asker) {
        if self.letters.in_hand.contains_key(&order.number) {
            let outcome = LetterOutcome::Busy;
            return asker.answer(LetterReport { outcome, ..self.report(order.number) });
        }
        let one = InHand { partition, everything: false, removing: false };
        self.letters.in_hand.insert(order.number, one);
        let store = self.store.clone();
        let operation = async move {
            let read = store.dead_letter(order.number.get()).await;
            Completion::LetterRead(order, asker, read)
        };
        self.start(operation.boxed());
    }

    pub(super) fn letter_read(
        &mut self,
        order: LetterOrder,
        asker: Asker,
        read: Result<Option<DeadLetter>, StoreError>,
    ) {
        let number = order.number;
        let report = self.report(number);
        let letter = match read {
            Ok(Some(letter)) => letter,
            Ok(None) => {
                return self.let_go(number, asker, LetterReport { outcome: LetterOutcome::Gone, ..report });
            }
            Err(error) => {
                let (outcome, detail) = (LetterOutcome::Unavailable, Some(error.to_string()));
                return self.let_go(number, asker, LetterReport { outcome, detail, ..report });
            }
        };
        let (plugin, hook, user) = (letter.plugin.clone(), letter.hook.clone(), letter.user.clone());
        let report = LetterReport { plugin: Some(plugin), hook: Some(hook), user, ..report };
        let owned = self.letters.in_hand.get(&number).is_some_and(|one| self.acts_for(one.partition));
        if !owned {
            let detail = Some("its partition is on its way to another host".to_owned());
            let report = LetterReport { outcome: LetterOutcome::Unavailable, detail, ..report };
            return self.let_go(number, asker, report);
        }
        match order.verb {
            LetterVerb::Drop => self.drop_letter(number, asker, report),
            LetterVerb::Replay => self.replay(number, &letter, asker, report),
        }
    }

    fn replay(&mut self, number: LetterNumber, letter: &DeadLetter, asker: Asker, report: LetterReport) {
        let mut event = match event_of(letter, self.config.layout) {
            Ok(event) => event,
            Err(error) => {
                let detail = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                let (outcome, detail) = (LetterOutcome::Unreadable, Some(detail));
                return self.let_go(number, asker, LetterReport { outcome, detail, ..report });
            }
        };
        if let Payload::Cleanup(sweep) = &event
            && sweep.scope == Scope::Everything
        {
            event = Payload::Cleanup(once_more(sweep).into());
            if let Some(one) = self.letters.in_hand.get_mut(&number) {
                one.everything = true;
            }
        }
        let newest = match &event {
            Payload::Status(transition) => self.newest_told(&letter.plugin, transition),
            Payload::Tick(beat) => {
                let wall = self.clock.now().wall.0;
                wall - wall % beat.interval_ms.max(1)
            }
            Payload::Session(_) | Payload::Cleanup(_) => 0,
        };
        let outcome = match self.plugins.replay(&letter.plugin, event, number, newest) {
            Ok(Replayed::Queued) => LetterOutcome::Queued,
            Ok(Replayed::Superseded) => LetterOutcome::Superseded,
            Ok(Replayed::Full) => LetterOutcome::Full,
            Err(NotWanted) => LetterOutcome::NotWanted,
        };
        let (plugin, hook, event_id) = (&letter.plugin, &letter.hook, &letter.event_id);
        tracing::info!(
            letter = number,
            plugin,
            hook,
            user = letter.user,
            event_id,
            ?outcome,
            "a dead letter is replayed"
        );
        let report = LetterReport { outcome, ..report };
        match outcome {
            LetterOutcome::Queued => asker.answer(report),
            LetterOutcome::Superseded => {
                self.letters.counts.superseded += 1;
                self.remove_letter(number);
                asker.answer(report);
            }
            _ => self.let_go(number, asker, report),
        }
    }

    /// The newest revision of the user that the plugin was told of, or is about to be: that of the user's record, if the
    /// plugin hears of such statuses. A user without a record is offline, and was so for long.
    fn newest_told(&self, plugin: &str, transition: &Transition) -> u64 {
        let partition = self.partitions.get(&transition.partition);
        let known = partition.and_then(|partition| partition.tracker.known(&transition.user));
        let (status, revision) = match known {
            Some(known) => (known.record.status, known.record.revision),
            None if transition.current == Status::Offline => return 0,
            None => (Status::Offline, u64::MAX),
        };
        let hook = match status {
            Status::Online => Hook::UserOnline,
            Status::Idle => Hook::UserIdle,
            Status::Offline => Hook::UserOffline,
        };
        let told = hears(&self.status_plugins, plugin, hook);
        if told { revision } else { 0 }
    }

    /// A letter's event is settled once more.
    pub(super) fn handle_replayed(&mut self, number: LetterNumber, end: ReplayEnd) {
        let Some(one) = self.letters.in_hand.get(&number) else { return };
        let counts = &mut self.letters.counts;
        match end {
            ReplayEnd::Delivered => counts.delivered += 1,
            ReplayEnd::Superseded => counts.superseded += 1,
            ReplayEnd::GivenUp => counts.given_up += 1,
            ReplayEnd::Kept => counts.kept += 1,
        }
        match end {
            ReplayEnd::Kept => _ = self.letters.in_hand.remove(&number),
            ReplayEnd::Delivered if one.everything => self.ask_all_to_decide_anew(Because::Letter(number)),
            _ => self.remove_letter(number),
        }
    }

    /// What the letter was for is done.
    pub(super) fn remove_letter(&mut self, number: LetterNumber) {
        let Some(one) = self.letters.in_hand.get_mut(&number) else { return };
        one.removing = true;
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.letters.wanted));
        let operation = async move {
            if let Some(Err(error)) = definite(&wanted, || store.remove_dead_letter(number.get())).await {
                tracing::error!(letter = number, %error, "a dead letter that was replayed could not be removed");
            }
            Completion::LetterRemoved(number)
        };
        self.start(operation.boxed());
    }

    pub(super) fn letter_removed(&mut self, number: LetterNumber) {
        if let Some(one) = self.letters.in_hand.remove(&number) {
            self.go_on_surrendering(one.partition);
        }
    }

    fn drop_letter(&mut self, number: LetterNumber, asker: Asker, report: LetterReport) {
        if let Some(one) = self.letters.in_hand.get_mut(&number) {
            one.removing = true;
        }
        let store = self.store.clone();
        let operation = async move {
            let (outcome, detail) = match store.remove_dead_letter(number.get()).await {
                Ok(true) => (LetterOutcome::Dropped, None),
                Ok(false) => (LetterOutcome::Gone, None),
                Err(error) => (LetterOutcome::Unavailable, Some(error.to_string())),
            };
            Completion::LetterDropped(number, asker, LetterReport { outcome, detail, ..report })
        };
        self.start(operation.boxed());
    }

    pub(super) fn letter_dropped(&mut self, number: LetterNumber, asker: Asker, report: LetterReport) {
        if report.outcome == LetterOutcome::Dropped {
            self.letters.counts.dropped += 1;
            tracing::info!(
                letter = number,
                plugin = report.plugin,
                hook = report.hook,
                user = report.user,
                "a dead letter was dropped"
            );
        }
        asker.answer(report);
        self.letter_removed(number);
    }

    /// Nothing is done with the letter.
    fn let_go(&mut self, number: LetterNumber, asker: Asker, report: LetterReport) {
        self.letters.in_hand.remove(&number);
        asker.answer(report);
    }

    fn report(&self, number: LetterNumber) -> LetterReport {
        LetterReport {
            number: number.get(),
            outcome: LetterOutcome::Unavailable,
            host: self.config.host.clone(),
            plugin: None,
            hook: None,
            user: None,
            detail: None,
        }
    }

    /// A receiver has forgotten everybody: every owner decides anew who is present, for as long as it takes. If this host
    /// dies meanwhile, the letter is still there, or the boot record says what is owed.
    pub(super) fn ask_all_to_decide_anew(&mut self, because: Because) {
        let wanted = match because {
            Because::Letter(_) => Arc::downgrade(&self.letters.wanted),
            Because::Run(_) => Arc::downgrade(&self.era),
        };
        let (store, partitions) = (self.store.clone(), self.config.layout.partitions);
        let operation = async move {
            let asking = (0..partitions).map(PartitionId).map(|partition| {
                let asked = Asked::Anew { because: because.clone(), partition };
                ask_until_answered(store.clone(), wanted.clone(), asked)
            });
            stream::iter(asking).buffer_unordered(ASKED_AT_ONCE).collect::<Vec<()>>().await;
            Completion::DecidedAnew(because)
        };
        self.start(operation.boxed());
    }

    /// All owners have decided anew.
    pub(super) fn decided_anew(&mut self, now: Now, because: Because) {
        match because {
            Because::Letter(number) => self.remove_letter(number),
            Because::Run(run) => self.membership.handle_decided_anew(now, &run),
        }
    }

    fn decide_anew(&mut self, now: Now, because: Because, id: PartitionId, question: Question) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        match partition.anew.iter_mut().find(|anew| anew.because == because) {
            // Asked again while it is being written: whoever asked before listens no more.
            Some(anew) => anew.question = question,
            None => {
                let target = partition.tracker.handle_anew(now);
                partition.anew.push(Anew { because, target, question });
                self.touched.insert(id);
            }
        }
        self.answer_decided(id);
    }

    /// Answers for what has been decided anew and is in the store.
    pub(super) fn answer_decided(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let written = partition.tracker.written();
        for anew in partition.anew.extract_if(.., |anew| anew.target <= written) {
            anew.question.answer(b"{}".to_vec());
        }
    }
}

async fn ask_until_answered(store: SharedStore, wanted: Weak<()>, asked: Asked) {
    while wanted.strong_count() > 0 && store.ask(asked.question()).await.is_err() {
        tokio::time::sleep(ASK_AGAIN).await;
    }
}
