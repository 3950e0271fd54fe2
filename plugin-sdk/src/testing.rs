//! Fakes of what the host offers, so that a plugin's logic is tested natively with `cargo test`.
//!
//! Natively [`crate::keyvalue`], [`crate::http`], [`crate::messaging`] and [`crate::presence`] work on these. All are local to the thread, so tests do not see
//! each other; [`reset`] empties them. Not there on wasm targets.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use crate::http::{self, Response};

pub use messaging::{Message, messages, refuse_messages};
pub use presence::{refuse_lookups, set_status, set_user};

pub(crate) mod messaging;
pub(crate) mod presence;

/// Empties the fakes of this thread: no keys, no requests, no answers, no messages, no statuses, the real clock.
pub fn reset() {
    keyvalue::FAKE.take();
    HTTP.take();
    messaging::reset();
    presence::reset();
    NOW_MS.set(None);
}

std::thread_local! {
    static NOW_MS: Cell<Option<u64>> = const { Cell::new(None) };
    static HTTP: RefCell<HttpFake> = RefCell::default();
}

/// Stops the clock of [`crate::time::now_ms`] on this thread, in milliseconds since 1970.
pub fn set_now_ms(ms: u64) {
    NOW_MS.set(Some(ms));
}

pub(crate) fn fixed_now_ms() -> Option<u64> {
    NOW_MS.get()
}

#[derive(Default)]
struct HttpFake {
    requests: Vec<Request>,
    answers: VecDeque<Result<Response, http::Error>>,
}

/// A request that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// In capitals.
    pub method: String,
    /// As given.
    pub url: String,
    /// In the order given.
    pub headers: Vec<(String, String)>,
    /// Empty if there is none.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON. Panics if it is none: the test has failed.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body of the request is JSON")
    }
}

/// Answers the next request so (in the order of the calls). A request without an answer waiting gets 200, empty.
pub fn answer(answer: Result<Response, http::Error>) {
    HTTP.with_borrow_mut(|http| http.answers.push_back(answer));
}

/// Takes the requests sent so far on this thread.
pub fn requests() -> Vec<Request> {
    HTTP.with_borrow_mut(|http| std::mem::take(&mut http.requests))
}

pub(crate) fn send(request: Request) -> Result<Response, http::Error> {
    HTTP.with_borrow_mut(|http| {
        http.requests.push(request);
        http.answers.pop_front().unwrap_or_else(|| Ok(Response::new(200)))
    })
}

/// The buckets of this thread, and ways to disturb whoever uses them.
pub mod keyvalue {
    use super::{BTreeMap, RefCell};
    use crate::keyvalue::{Entry, Error, MAX_VALUE};

    /// Keys in one page of the listing: few, so that tests meet the second page.
    const PAGE: usize = 3;

    #[derive(Default)]
    pub(super) struct Fake {
        entries: BTreeMap<(String, String), Entry>,
        version: u64,
        steps: usize,
        fault: Option<Fault>,
        between: Option<Box<dyn FnMut(usize)>>,
    }

    std::thread_local! {
        pub(super) static FAKE: RefCell<Fake> = RefCell::default();
    }

    /// Where a guest is thrown away, seen from its keyvalue.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// The step with this number, counted from 0 since the last [`disturb`], and all later ones are not done.
        Before(usize),
        /// The step with this number is done, but nobody hears of it; later ones are not done.
        After(usize),
    }

    /// Counts steps (calls of the keyvalue functions) anew and lets them fail from a place on, as if the guest were
    /// thrown away there; none: no faults.
    pub fn disturb(fault: Option<Fault>) {
        FAKE.with_borrow_mut(|fake| {
            fake.steps = 0;
            fake.fault = fault;
        });
    }

    /// How many steps there were since the last [`disturb`].
    pub fn steps() -> usize {
        FAKE.with_borrow(|fake| fake.steps)
    }

    /// Calls this before every step with the step's number: the place to play another guest. It is not called for
    /// the steps that it takes itself.
    pub fn between(act: Option<Box<dyn FnMut(usize)>>) {
        FAKE.with_borrow_mut(|fake| fake.between = act);
    }

    fn step<T>(act: impl FnOnce(&mut Fake) -> Result<T, Error>) -> Result<T, Error> {
        let (number, between) = FAKE.with_borrow_mut(|fake| {
            let number = fake.steps;
            fake.steps += 1;
            (number, fake.between.take())
        });
        if let Some(mut other_guest) = between {
            other_guest(number);
            FAKE.with_borrow_mut(|fake| fake.between = Some(other_guest));
        }
        FAKE.with_borrow_mut(|fake| {
            let gone = || Error::Unavailable("the test cut the guest off here".to_string());
            match fake.fault {
                Some(Fault::Before(from)) if number >= from => Err(gone()),
                Some(Fault::After(last)) if number > last => Err(gone()),
                Some(Fault::After(last)) if number == last => act(fake).and_then(|_| Err(gone())),
                _ => act(fake),
            }
        })
    }

    impl Fake {
        fn write(&mut self, at: (String, String), value: &[u8]) -> Result<u64, Error> {
            if value.len() > MAX_VALUE {
                return Err(Error::TooLarge(format!("{}: {} bytes", at.1, value.len())));
            }
            self.version += 1;
            self.entries.insert(at, Entry { value: value.to_vec(), version: self.version });
            Ok(self.version)
        }
    }

    fn at(bucket: &str, key: &str) -> (String, String) {
        (bucket.to_string(), key.to_string())
    }

    pub(crate) fn get(bucket: &str, key: &str) -> Result<Option<Entry>, Error> {
        step(|fake| Ok(fake.entries.get(&at(bucket, key)).cloned()))
    }

    pub(crate) fn set(bucket: &str, key: &str, value: &[u8]) -> Result<u64, Error> {
        step(|fake| fake.write(at(bucket, key), value))
    }

    pub(crate) fn compare_and_set(
        bucket: &str,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
    ) -> Result<Option<u64>, Error> {
        step(|fake| {
            let at = at(bucket, key);
            if fake.entries.get(&at).map(|entry| entry.version) != expected {
                return Ok(None);
            }
            fake.write(at, value).map(Some)
        })
    }

    pub(crate) fn increment(bucket: &str, key: &str, delta: i64) -> Result<i64, Error> {
        step(|fake| {
            let at = at(bucket, key);
            let text =
                fake.entries.get(&at).map_or("0".into(), |entry| String::from_utf8_lossy(&entry.value));
            let count: i64 = text.parse().map_err(|_| Error::Unavailable(format!("{key}: not a counter")))?;
            let sum = count.saturating_add(delta);
            fake.write(at, sum.to_string().as_bytes()).map(|_| sum)
        })
    }

    pub(crate) fn delete(bucket: &str, key: &str) -> Result<(), Error> {
        step(|fake| {
            fake.entries.remove(&at(bucket, key));
            Ok(())
        })
    }

    pub(crate) fn keys(
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        step(|fake| {
            let mut found = fake.entries.keys().filter(|(in_bucket, key)| {
                in_bucket == bucket
                    && key.starts_with(prefix)
                    && after.is_none_or(|after| key.as_str() > after)
            });
            let page: Vec<String> = found.by_ref().take(PAGE).map(|(_, key)| key.clone()).collect();
            let next = found.next().and(page.last().cloned());
            Ok((page, next))
        })
    }
}
