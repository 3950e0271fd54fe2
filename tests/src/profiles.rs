//! A profile service: what the shipped profile-updater talks to.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::receiver::{Mood, Receiver, Request};

/// Keeps profiles as a careful application would: repeats of a revision are dropped.
#[derive(Debug)]
pub struct ProfileService(Receiver);

impl ProfileService {
    /// Listens on a free port.
    pub async fn start() -> ProfileService {
        ProfileService(Receiver::start().await)
    }

    /// What the plugin's `url` must be.
    pub fn url(&self) -> String {
        format!("{}/profiles", self.0.origin())
    }

    /// What the plugin's grant must be.
    pub fn origin(&self) -> String {
        self.0.origin()
    }

    /// Closes every connection and refuses new ones.
    pub async fn take_down(&self) {
        self.0.take_down().await;
    }

    /// Listens again, on the same port.
    pub async fn bring_back(&self) {
        self.0.bring_back().await;
    }

    /// Answers like this from now on.
    pub fn answer(&self, mood: Mood) {
        self.0.answer(mood);
    }

    /// Waits until so many requests came, answered well or not.
    pub async fn until_attempts(&self, count: u64) {
        self.0.until_attempts(count).await;
    }

    /// How many requests came, answered well or not.
    pub fn attempts(&self) -> u64 {
        self.0.attempts()
    }

    /// Every request in order.
    pub fn requests(&self) -> Vec<Request> {
        self.0.requests()
    }

    /// How often everything was reset.
    pub fn resets(&self) -> usize {
        self.requests().iter().filter(|request| is_reset(request)).count()
    }

    /// The user's statuses in order, repeats dropped. Panics if a revision went back (I2).
    pub fn heard(&self, user: &str) -> Vec<String> {
        heard(&self.requests(), user)
    }

    /// Waits until exactly these statuses of the user were heard, in this order.
    pub async fn until_heard(&self, user: &str, statuses: &[&str]) {
        let what = format!("{user} heard as {}", statuses.join(", "));
        let shown = |requests: &[Request]| heard(requests, user).join(", ");
        self.0.until(what, shown, |requests| heard(requests, user) == statuses).await;
    }

    /// Waits until each user's last status is the one given.
    pub async fn until_latest(&self, expected: &BTreeMap<String, String>) {
        let differing = |requests: &[Request]| {
            let latest = latest(requests);
            let differs = |(user, status): (&String, &String)| {
                let present = latest.get(user);
                (present != Some(status)).then(|| format!("{user} is {present:?} and should be {status}"))
            };
            expected.iter().filter_map(differs).collect::<Vec<_>>()
        };
        let shown = |requests: &[Request]| differing(requests).join("; ");
        let what = format!("the right last status of {} users", expected.len());
        self.0.until(what, shown, |requests| differing(requests).is_empty()).await;
    }
}

fn is_reset(request: &Request) -> bool {
    request.method == "POST" && request.path == "/profiles/reset"
}

/// Users with their status and revision, in the order of the requests.
fn profiles(requests: &[Request]) -> impl Iterator<Item = (String, String, u64)> {
    requests.iter().filter(|request| request.method == "PUT").map(|request| {
        let body = request.json();
        let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
        let revision = body.get("revision").and_then(Value::as_u64);
        match (text("user"), text("status"), revision) {
            (Some(user), Some(status), Some(revision)) => (user, status, revision),
            _ => panic!("a profile without user, status or revision: {request:?}"),
        }
    })
}

fn heard(requests: &[Request], user: &str) -> Vec<String> {
    let mut statuses = Vec::new();
    let mut last = 0;
    for (_, status, revision) in profiles(requests).filter(|(name, ..)| name == user) {
        assert!(revision >= last, "I2: {user} went back from revision {last} to {revision}");
        if revision > last {
            statuses.push(status);
        }
        last = revision;
    }
    statuses
}

fn latest(requests: &[Request]) -> BTreeMap<String, String> {
    let mut latest: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (user, status, revision) in profiles(requests) {
        let entry = latest.entry(user).or_default();
        if revision > entry.0 {
            *entry = (revision, status);
        }
    }
    latest.into_iter().map(|(user, (_, status))| (user, status)).collect()
}
