//! The host's place in native tests: a keyvalue in memory, and answers for HTTP requests. One of each per thread.
//!
//! ```
//! # use presence_plugin::{http::Request, testing};
//! testing::reset();
//! testing::answer(204, &[], b"");
//! assert_eq!(Request::new("GET", "https://a.example/").deliver(), Ok(()));
//! assert_eq!(testing::requests()[0].url, "https://a.example/");
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use crate::http::{Error, Request, Response};
use crate::{Context, Status, StatusChange};

#[derive(Default)]
struct Host {
    buckets: BTreeMap<String, BTreeMap<String, (u64, Vec<u8>)>>,
    version: u64,
    answers: VecDeque<Result<Response, Error>>,
    requests: Vec<Request>,
    /// The write that fails: counts down.
    broken_in: Option<u32>,
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

/// Forgets everything.
pub fn reset() {
    HOST.with(|host| *host.borrow_mut() = Host::default());
}

/// The next request is answered so; requests without an answer get 200.
pub fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) {
    let pair = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let response = Response { status, headers: headers.iter().map(pair).collect(), body: body.to_vec() };
    HOST.with(|host| host.borrow_mut().answers.push_back(Ok(response)));
}

/// The next request fails so.
pub fn fail(error: Error) {
    HOST.with(|host| host.borrow_mut().answers.push_back(Err(error)));
}

/// The requests sent, in order.
pub fn requests() -> Vec<Request> {
    HOST.with(|host| host.borrow().requests.clone())
}

/// After so many more writes the keyvalue fails once: as if the guest were killed there.
pub fn break_keyvalue_after(writes: u32) {
    HOST.with(|host| host.borrow_mut().broken_in = Some(writes));
}

/// A context for a first attempt.
pub fn context(event_id: &str) -> Context {
    Context { event_id: event_id.into(), attempt: 1, time_left_ms: 2000, attributes: Vec::new() }
}

/// A change of status with one session, or none when it is offline.
pub fn status_change(user: &str, previous: Option<Status>, current: Status, revision: u64) -> StatusChange {
    let offline = current == Status::Offline;
    StatusChange {
        user: user.into(),
        previous,
        current,
        since: revision,
        revision,
        sessions: u32::from(!offline),
        last_seen: offline.then_some(revision),
    }
}

pub(crate) mod http {
    use super::{Error, HOST, Request, Response};

    pub(crate) fn send(request: &Request) -> Result<Response, Error> {
        HOST.with(|host| {
            let mut host = host.borrow_mut();
            host.requests.push(request.clone());
            let ok = Response { status: 200, headers: Vec::new(), body: Vec::new() };
            host.answers.pop_front().unwrap_or(Ok(ok))
        })
    }
}

pub(crate) mod keyvalue {
    use super::{HOST, Host};
    use crate::keyvalue::{Entry, Error};

    pub(crate) fn get(bucket: &str, key: &str) -> Result<Option<Entry>, Error> {
        HOST.with(|host| {
            let host = host.borrow();
            let entry = host.buckets.get(bucket).and_then(|bucket| bucket.get(key));
            Ok(entry.map(|(version, value)| Entry { value: value.clone(), version: *version }))
        })
    }

    fn write(host: &mut Host, bucket: &str, key: &str, value: Vec<u8>) -> Result<u64, Error> {
        if let Some(left) = host.broken_in {
            host.broken_in = left.checked_sub(1);
            if left == 0 {
                return Err(Error::Unavailable("broken by the test".into()));
            }
        }
        host.version += 1;
        let version = host.version;
        host.buckets.entry(bucket.into()).or_default().insert(key.into(), (version, value));
        Ok(version)
    }

    pub(crate) fn set(bucket: &str, key: &str, value: &[u8]) -> Result<u64, Error> {
        HOST.with(|host| write(&mut host.borrow_mut(), bucket, key, value.to_vec()))
    }

    pub(crate) fn compare_and_set(
        bucket: &str,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
    ) -> Result<Option<u64>, Error> {
        if get(bucket, key)?.map(|entry| entry.version) != expected {
            return Ok(None);
        }
        set(bucket, key, value).map(Some)
    }

    pub(crate) fn increment(bucket: &str, key: &str, delta: i64) -> Result<i64, Error> {
        let present = match get(bucket, key)? {
            None => 0,
            Some(entry) => {
                let text = String::from_utf8(entry.value).ok();
                let number = text.and_then(|text| text.parse::<i64>().ok());
                number.ok_or_else(|| Error::Denied(format!("`{key}` is not a counter")))?
            }
        };
        let sum = present.checked_add(delta).ok_or_else(|| Error::TooLarge(format!("`{key}` overflows")))?;
        set(bucket, key, sum.to_string().as_bytes())?;
        Ok(sum)
    }

    pub(crate) fn delete(bucket: &str, key: &str) -> Result<(), Error> {
        HOST.with(|host| {
            if let Some(bucket) = host.borrow_mut().buckets.get_mut(bucket) {
                bucket.remove(key);
            }
        });
        Ok(())
    }

    pub(crate) fn keys(
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        HOST.with(|host| {
            let host = host.borrow();
            let all = host.buckets.get(bucket).into_iter().flat_map(|bucket| bucket.keys());
            let keys =
                all.filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
            let page: Vec<String> = keys.take(100).cloned().collect();
            let next = (page.len() == 100).then(|| page[99].clone());
            Ok((page, next))
        })
    }
}
