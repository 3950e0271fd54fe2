//! Dead letters in a stream of their own: the server keeps the newest. It knows no plugins.

use async_nats::{HeaderMap, header};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::{Duration, timeout};

use super::Shared;
use super::api::{self, Failure};
use super::link::{Lane, Outgoing};
use super::streams::Which;
use crate::store::{DeadLetter, MAX_DEAD_LETTERS, StoreError};

/// So many letters are read at once.
const PAGE: usize = 500;
/// Between two messages of one answer.
const SILENCE: Duration = Duration::from_secs(5);

impl Shared {
    /// Keeps a letter; tells whether one was dropped for it.
    pub(super) async fn push_dead_letter(&self, letter: DeadLetter) -> Result<u64, StoreError> {
        // The number is the sequence.
        let letter = DeadLetter { number: 0, ..letter };
        let payload = serde_json::to_vec(&letter).map_err(|error| StoreError::Refused(error.to_string()))?;
        let before = self.streams.info(Which::DeadLetters).await?.state.messages;
        let message = Outgoing {
            subject: self.streams.names.dead_letter().into(),
            headers: HeaderMap::new(),
            payload: payload.into(),
        };
        let answer = self.link.request(Lane::Bulk, message).await;
        self.streams.noted(api::acknowledged(answer))?;
        Ok(u64::from(before >= MAX_DEAD_LETTERS as u64))
    }

    /// All letters, oldest first.
    pub(super) async fn dead_letters(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let mut letters: Vec<DeadLetter> = Vec::new();
        // At most what there was at the start, however many come meanwhile.
        let last = self.streams.info(Which::DeadLetters).await?.state.last_seq;
        let mut next = 1;
        while next <= last {
            let page = self.page(next).await?;
            let Some((newest, _)) = page.last() else {
                break;
            };
            next = newest + 1;
            letters.extend(page.into_iter().filter_map(|(_, letter)| letter));
        }
        Ok(letters)
    }

    /// The letter of this number, as the stream's leader knows it.
    pub(super) async fn dead_letter(&self, number: u64) -> Result<Option<DeadLetter>, StoreError> {
        let stream = self.streams.names.stream(Which::DeadLetters);
        let answer = self.streams.call("STREAM.MSG.GET", stream, json!({ "seq": number }).to_string()).await;
        let stored = self.streams.noted(answer.and_then(|message| api::stored(&message)))?;
        Ok(stored.and_then(|stored| self.letter(&stored.payload, number)))
    }

    /// Removes the letter; false if it is gone already.
    pub(super) async fn remove_dead_letter(&self, number: u64) -> Result<bool, StoreError> {
        let stream = self.streams.names.stream(Which::DeadLetters);
        let body = json!({ "seq": number, "no_erase": true }).to_string();
        let answer = self.streams.call("STREAM.MSG.DELETE", stream, body).await;
        Ok(self.streams.noted(answer.and_then(|message| api::removed(&message)))?)
    }

    /// Letters from this sequence on, with their sequences; unreadable ones without.
    async fn page(&self, from: u64) -> Result<Vec<(u64, Option<DeadLetter>)>, StoreError> {
        let unavailable = |why: &str| StoreError::Unavailable(why.to_owned());
        let client = self.link.client();
        let inbox = client.new_inbox();
        let body = json!({ "seq": from, "next_by_subj": self.streams.names.dead_letter(), "batch": PAGE });
        let stream = self.streams.names.stream(Which::DeadLetters);
        let asking = async {
            let answer = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
            let subject = format!("$JS.API.DIRECT.GET.{stream}");
            let sent = client.publish_with_reply(subject, inbox, body.to_string().into()).await;
            sent.map(|()| answer).map_err(|error| error.to_string())
        };
        let answer =
            timeout(SILENCE, asking).await.map_err(|_| unavailable("the connection to NATS is congested"))?;
        let mut answer = answer.map_err(StoreError::Unavailable)?;
        let mut page = Vec::with_capacity(PAGE);
        loop {
            let message = match timeout(SILENCE, answer.next()).await {
                Ok(Some(message)) => message,
                Ok(None) | Err(_) => return Err(unavailable("no answer to a read")),
            };
            match api::status(&message) {
                None => {}
                Some(204 | 404) => return Ok(page),
                Some(503) => {
                    let gone = Failure::NoStream(format!("nobody answers for the stream {stream}"));
                    return self.streams.noted(Err(gone)).map_err(StoreError::from);
                }
                Some(code) => return Err(unavailable(&format!("a read was refused: {code}"))),
            }
            let Some(sequence) = api::number(&message, header::NATS_SEQUENCE) else {
                return Err(unavailable("part of an answer is missing"));
            };
            page.push((sequence, self.letter(&message.payload, sequence)));
        }
    }

    fn letter(&self, payload: &[u8], sequence: u64) -> Option<DeadLetter> {
        match serde_json::from_slice::<DeadLetter>(payload) {
            Ok(letter) => Some(DeadLetter { number: sequence, ..letter }),
            Err(error) => {
                self.note_corrupt(&self.streams.names.dead_letter(), &error);
                None
            }
        }
    }
}
