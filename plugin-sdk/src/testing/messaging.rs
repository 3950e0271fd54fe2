//! Keeps the messages that a plugin publishes in a native test. Grants are the host's: not known here.

use std::cell::RefCell;

use crate::messaging::{Error, MAX_PAYLOAD};

#[derive(Default)]
struct Fake {
    messages: Vec<Message>,
    refusal: Option<Error>,
}

std::thread_local! {
    static FAKE: RefCell<Fake> = RefCell::default();
}

/// A message that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As given.
    pub subject: String,
    /// As given.
    pub payload: Vec<u8>,
    /// In the order given; those that the host adds are not there.
    pub headers: Vec<(String, String)>,
}

impl Message {
    /// The payload as JSON. Panics if it is none: the test has failed.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).expect("the payload of the message is JSON")
    }
}

/// Takes the messages published so far on this thread.
pub fn messages() -> Vec<Message> {
    FAKE.with_borrow_mut(|fake| std::mem::take(&mut fake.messages))
}

/// Refuses every message from now on; none: takes them again.
pub fn refuse_messages(error: Option<Error>) {
    FAKE.with_borrow_mut(|fake| fake.refusal = error);
}

pub(crate) fn reset() {
    FAKE.take();
}

pub(crate) fn publish(subject: &str, payload: &[u8], headers: &[(String, String)]) -> Result<(), Error> {
    if payload.len() > MAX_PAYLOAD {
        return Err(Error::TooLarge(format!("{} bytes, more than {MAX_PAYLOAD}", payload.len())));
    }
    FAKE.with_borrow_mut(|fake| match &fake.refusal {
        Some(error) => Err(error.clone()),
        None => {
            let (subject, payload, headers) = (subject.to_string(), payload.to_vec(), headers.to_vec());
            fake.messages.push(Message { subject, payload, headers });
            Ok(())
        }
    })
}
