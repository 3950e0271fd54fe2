//! Dead letters: listed, shown, replayed, dropped. What is done is done by the driver, here or on another host.

use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use http::{Response, StatusCode, Uri};
use presence_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Desk, PATIENCE, Problem, ask, bad_request, json, known_parameters, unavailable};
use crate::driver::{LetterOrder, LetterOutcome, LetterReport, LetterVerb, Query};
use crate::gateway::protocol::rfc3339;
use crate::gateway::query;
use crate::plugins::LetterNumber;
use crate::store::{DeadLetter, StoreError};

/// How many dead letters are shown when the question does not say.
const SHOWN: usize = 100;

/// The most dead letters of one answer: as many as a store keeps.
pub const MAX_DEAD_LETTERS_SHOWN: usize = 10_000;

/// The most dead letters that one request replays or drops.
pub const MAX_DEAD_LETTERS_AT_ONCE: usize = 100;

/// A dead letter as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterDocument {
    /// Grows with every dead letter.
    pub number: u64,
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of the plugin file, hexadecimal.
    pub digest: String,
    /// The hook's name.
    pub hook: String,
    /// The user; null for a cleanup.
    pub user: Option<String>,
    /// The event id.
    pub event_id: String,
    /// The event.
    pub event: serde_json::Value,
    /// What went wrong the last time.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up, RFC 3339.
    pub at: String,
}

/// Dead letters, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLettersDocument {
    /// The newest that were asked for.
    pub dead_letters: Vec<DeadLetterDocument>,
}

/// What became of several dead letters, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterReportsDocument {
    /// One for each that something was tried with.
    pub reports: Vec<LetterReport>,
    /// How many more were chosen: ask again, with `after` the last number.
    pub left: usize,
}

impl From<DeadLetter> for DeadLetterDocument {
    fn from(letter: DeadLetter) -> DeadLetterDocument {
        DeadLetterDocument {
            number: letter.number,
            plugin: letter.plugin,
            digest: letter.digest,
            hook: letter.hook,
            user: letter.user,
            event_id: letter.event_id,
            event: letter.event,
            error: letter.error,
            attempts: letter.attempts,
            at: rfc3339(Timestamp(letter.at)),
        }
    }
}

/// Which letters are meant.
struct Filter {
    plugin: Option<String>,
    hook: Option<String>,
    user: Option<String>,
}

impl Filter {
    fn of(uri: &Uri) -> Result<Filter, Problem> {
        let value = |name| query::single(uri.query(), name);
        Ok(Filter { plugin: value("plugin")?, hook: value("hook")?, user: value("user")? })
    }

    fn chooses(&self, letter: &DeadLetter) -> bool {
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        fits(&self.plugin, Some(&letter.plugin))
            && fits(&self.hook, Some(&letter.hook))
            && fits(&self.user, letter.user.as_deref())
    }

    fn is_empty(&self) -> bool {
        self.plugin.is_none() && self.hook.is_none() && self.user.is_none()
    }
}

/// The value of a parameter that is a number from 1 to `most`.
fn number_of(uri: &Uri, name: &'static str, most: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = query::single(uri.query(), name)? else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ if most == u64::MAX => Err(bad_request(format!("`{name}` must be a number from 1 on"))),
        _ => Err(bad_request(format!("`{name}` must be a number from 1 to {most}"))),
    }
}

/// What the store answers, in time.
async fn read<T>(reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    match timeout(PATIENCE, reading).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(unavailable(format!("the dead letters can't be read now: {error}"), 1)),
        Err(_) => Err(unavailable("the store does not answer".to_owned(), 5)),
    }
}

pub(super) async fn list(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["plugin", "hook", "user", "limit"])?;
    let filter = Filter::of(&uri)?;
    let limit =
        number_of(&uri, "limit", MAX_DEAD_LETTERS_SHOWN as u64)?.map_or(SHOWN, |limit| limit as usize);
    let letters = read(desk.deps.store.dead_letters()).await?;
    let chosen = letters.into_iter().rev().filter(|letter| filter.chooses(letter)).take(limit);
    let mut dead_letters: Vec<_> = chosen.map(DeadLetterDocument::from).collect();
    dead_letters.reverse();
    Ok(json(&DeadLettersDocument { dead_letters }))
}

type Path = Result<RawPathParams, RawPathParamsRejection>;

fn number_in(path: Path) -> Result<LetterNumber, Problem> {
    let path = path.ok();
    let text = path.as_ref().and_then(|path| path.iter().next()).map(|(_, value)| value).unwrap_or_default();
    text.parse().map_err(|_| bad_request("dead letters have numbers from 1 on, as in /v1/dead-letters/7"))
}

fn no_such_letter(number: u64) -> Problem {
    let detail =
        format!("there is no dead letter {number}: it was replayed or dropped, or made room for newer ones");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

pub(super) async fn show(State(desk): State<Desk>, path: Path, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    let number = number_in(path)?.get();
    match read(desk.deps.store.dead_letter(number)).await? {
        Some(letter) => Ok(json(&DeadLetterDocument::from(letter))),
        None => Err(no_such_letter(number)),
    }
}

pub(super) async fn replay(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    one(&desk, LetterOrder { number: number_in(path)?, verb: LetterVerb::Replay }).await
}

pub(super) async fn discard(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    one(&desk, LetterOrder { number: number_in(path)?, verb: LetterVerb::Drop }).await
}

async fn one(desk: &Desk, order: LetterOrder) -> Result<Response<Body>, Problem> {
    let report = ask(&desk.handle, |answer| Query::Letter(order, answer)).await?;
    let problem = |status, detail| Err(Problem::new(status, detail));
    let (number, host, detail) = (report.number, &report.host, report.detail.as_deref().unwrap_or_default());
    match report.outcome {
        LetterOutcome::Superseded | LetterOutcome::Dropped => Ok(json(&report)),
        LetterOutcome::Queued => {
            let mut response = json(&report);
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        }
        LetterOutcome::Gone => Err(no_such_letter(number)),
        LetterOutcome::Busy => {
            let detail =
                format!("dead letter {number} is being replayed or dropped already, on the host {host}");
            problem(StatusCode::CONFLICT, detail)
        }
        LetterOutcome::NotWanted => {
            let plugin = report.plugin.as_deref().unwrap_or_default();
            let hook = report.hook.as_deref().unwrap_or_default();
            problem(
                StatusCode::CONFLICT,
                format!("no plugin `{plugin}` with the hook {hook} runs on the host {host}"),
            )
        }
        LetterOutcome::Unreadable => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("dead letter {number} can't be replayed: {detail}"),
        ),
        LetterOutcome::Full => {
            Err(unavailable(format!("the plugin's queue is full on the host {host}: try again later"), 5))
        }
        LetterOutcome::Unavailable => Err(unavailable(
            format!("nothing was done with dead letter {number}, as far as is known: {detail}"),
            1,
        )),
    }
}

pub(super) async fn replay_many(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    many(&desk, &uri, LetterVerb::Replay).await
}

pub(super) async fn discard_many(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    many(&desk, &uri, LetterVerb::Drop).await
}

/// One after the other, oldest first, so that each user's order is kept. Ends early when a host does not answer.
async fn many(desk: &Desk, uri: &Uri, verb: LetterVerb) -> Result<Response<Body>, Problem> {
    known_parameters(uri, &["plugin", "hook", "user", "all", "after", "up_to", "limit"])?;
    let filter = Filter::of(uri)?;
    let all = query::single(uri.query(), "all")?;
    if all.as_deref().is_some_and(|all| all != "true") || (filter.is_empty() && all.is_none()) {
        return Err(bad_request("name a `plugin`, a `hook` or a `user`, or ask for `all=true`"));
    }
    let limit = number_of(uri, "limit", MAX_DEAD_LETTERS_AT_ONCE as u64)?;
    let limit = limit.map_or(MAX_DEAD_LETTERS_AT_ONCE, |limit| limit as usize);
    let after = number_of(uri, "after", u64::MAX)?.unwrap_or(0);
    let up_to = number_of(uri, "up_to", u64::MAX)?.unwrap_or(u64::MAX);
    let letters = read(desk.deps.store.dead_letters()).await?;
    let chosen = letters.iter().filter(|letter| filter.chooses(letter)).map(|letter| letter.number);
    let chosen: Vec<u64> = chosen.filter(|number| *number > after && *number <= up_to).collect();
    let mut reports = Vec::new();
    for number in chosen.iter().take(limit).filter_map(|number| LetterNumber::new(*number)) {
        let report = ask(&desk.handle, |answer| Query::Letter(LetterOrder { number, verb }, answer)).await?;
        let goes_on = report.outcome != LetterOutcome::Unavailable;
        reports.push(report);
        if !goes_on {
            break;
        }
    }
    let left = chosen.len() - reports.len();
    Ok(json(&LetterReportsDocument { reports, left }))
}
