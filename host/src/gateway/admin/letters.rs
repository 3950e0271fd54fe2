//! Dead letters: listed, shown, replayed, dropped. What is done is done by the driver, here or on another host.

use axum::body::Body;
use axum::extract::State;
use http::{Method, Response, StatusCode, Uri};
use presence_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Desk, Path, Problem, ask, bad_parameter, json, number_of, read, unavailable};
use crate::driver::{LetterOrder, LetterOutcome, LetterReport, LetterVerb, Query};
use crate::gateway::api::{Group, Operation, Param, Routes, words};
use crate::gateway::problem::Kind;
use crate::gateway::protocol::rfc3339;
use crate::gateway::query;
use crate::plugins::LetterNumber;
use crate::store::DeadLetter;

/// How many dead letters are shown when the question does not say.
const SHOWN: usize = 100;

/// The most dead letters of one answer: as many as a store keeps.
pub const MAX_DEAD_LETTERS_SHOWN: usize = 10_000;

/// The most dead letters that one request replays or drops.
pub const MAX_DEAD_LETTERS_AT_ONCE: usize = 100;

/// For the reader of a problem.
const WHAT: &str = "the dead letters";

/// A dead letter as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetter)]
pub struct DeadLetterDocument {
    /// Grows with every dead letter.
    #[schema(minimum = 1)]
    pub number: u64,
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of the plugin file, hexadecimal.
    pub digest: String,
    /// The hook's name.
    pub hook: String,
    /// The user; null for a cleanup.
    #[schema(required = true)]
    pub user: Option<String>,
    /// The event id.
    pub event_id: String,
    /// The event.
    #[schema(value_type = Object)]
    pub event: serde_json::Value,
    /// What went wrong the last time.
    pub error: String,
    /// How often it was tried.
    #[schema(minimum = 0)]
    pub attempts: u32,
    /// When it was given up.
    #[schema(format = DateTime)]
    pub at: String,
}

/// Dead letters, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetters)]
pub struct DeadLettersDocument {
    /// The newest that were asked for.
    pub dead_letters: Vec<DeadLetterDocument>,
}

/// What became of several dead letters, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetterReports)]
pub struct LetterReportsDocument {
    /// One for each that something was tried with.
    pub reports: Vec<LetterReport>,
    /// How many more were chosen: ask again, with `after` the last number.
    #[schema(minimum = 0)]
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

fn filters(operation: Operation) -> Operation {
    operation
        .takes(Param::query("plugin", "Of the plugin of this name.", words::text()))
        .takes(Param::query("hook", "Of this hook.", words::text()).example("user-online"))
        .takes(Param::query("user", "Of this user.", words::text()))
}

fn number_param() -> Param {
    Param::path("number", "The number of the dead letter.", words::number(1, words::GREATEST_NUMBER))
        .example(7)
}

fn example() -> DeadLetterDocument {
    DeadLetterDocument {
        number: 7,
        plugin: "webhook".to_owned(),
        digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
        hook: "user-online".to_owned(),
        user: Some("alice".to_owned()),
        event_id: "webhook:user-online:alice:1795622400123".to_owned(),
        event: serde_json::json!({ "type": "user-online", "user": "alice" }),
        error: "the receiver answered 410 Gone".to_owned(),
        attempts: 1,
        at: "2026-11-25T16:00:01.004Z".to_owned(),
    }
}

fn example_report(outcome: LetterOutcome) -> LetterReport {
    LetterReport {
        number: 7,
        outcome,
        host: "host-1".to_owned(),
        plugin: Some("webhook".to_owned()),
        hook: Some("user-online".to_owned()),
        user: Some("alice".to_owned()),
        detail: None,
    }
}

pub(super) fn reading() -> Routes<Desk> {
    let listed = filters(Operation::get("/v1/dead-letters", "get_dead_letters", "Events that were given up"))
        .takes(Param::query(
            "limit",
            "The most letters; 100 if it is not given.",
            words::number(1, MAX_DEAD_LETTERS_SHOWN as u64),
        ))
        .takes(Param::query(
            "before",
            "Only letters of lower numbers: for the page before.",
            words::number(1, words::GREATEST_NUMBER),
        ))
        .answers(
            StatusCode::OK,
            "The newest of those that fit, oldest first.",
            &DeadLettersDocument { dead_letters: vec![example()] },
        );
    let one = Operation::get("/v1/dead-letters/{number}", "get_dead_letter", "A dead letter")
        .takes(number_param())
        .answers(StatusCode::OK, "The letter.", &example())
        .may_fail(Kind::NotFound, "There is none of this number any more.");
    Routes::new(Group::Read).add(listed, list).add(one, show)
}

pub(super) fn changing() -> Routes<Desk> {
    let one = |method, path, id, summary| {
        Operation::new(method, path, id, summary)
            .takes(number_param())
            .may_fail(Kind::NotFound, "There is none of this number any more.")
            .may_fail(Kind::Conflict, "It is being replayed or dropped already, or no plugin wants it.")
            .may_fail(Kind::Unprocessable, "It was written by another version.")
    };
    let again = one(
        Method::POST,
        "/v1/dead-letters/{number}/replay",
        "replay_dead_letter",
        "Tell a plugin once more",
    )
    .answers(StatusCode::ACCEPTED, "It waits for the plugin.", &example_report(LetterOutcome::Queued))
    .answers(
        StatusCode::OK,
        "The user's news are newer: nobody was told, and the letter is removed.",
        &example_report(LetterOutcome::Superseded),
    );
    let dropped =
        one(Method::DELETE, "/v1/dead-letters/{number}", "drop_dead_letter", "Forget a dead letter").answers(
            StatusCode::OK,
            "It is gone.",
            &example_report(LetterOutcome::Dropped),
        );
    let many = |method, path, id, summary, outcome| {
        let operation = filters(Operation::new(method, path, id, summary))
            .about(
                "Oldest first, until one can't be done now. Name a plugin, a hook or a user, or ask for all. If some are `left`, ask again \
                 with the last number as `after`.",
            )
            .takes(Param::query("all", "Must be `true`, if nothing else chooses.", words::one_of(["true"])))
            .takes(Param::query("after", "Only letters of greater numbers.", words::number(1, words::GREATEST_NUMBER)))
            .takes(Param::query("up_to", "Only letters up to this number.", words::number(1, words::GREATEST_NUMBER)))
            .takes(Param::query(
                "limit",
                "The most letters; 100 if it is not given.",
                words::number(1, MAX_DEAD_LETTERS_AT_ONCE as u64),
            ));
        let example = LetterReportsDocument { reports: vec![example_report(outcome)], left: 0 };
        operation.answers(StatusCode::OK, "What became of each.", &example)
    };
    let all_again = many(
        Method::POST,
        "/v1/dead-letters/replay",
        "replay_dead_letters",
        "Tell plugins of several once more",
        LetterOutcome::Queued,
    );
    let all_dropped = many(
        Method::DELETE,
        "/v1/dead-letters",
        "drop_dead_letters",
        "Forget several dead letters",
        LetterOutcome::Dropped,
    );
    Routes::new(Group::Admin)
        .add(again, replay)
        .add(dropped, discard)
        .add(all_again, replay_many)
        .add(all_dropped, discard_many)
}

async fn list(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    let filter = Filter::of(&uri)?;
    let limit =
        number_of(&uri, "limit", MAX_DEAD_LETTERS_SHOWN as u64)?.map_or(SHOWN, |limit| limit as usize);
    let before = number_of(&uri, "before", words::GREATEST_NUMBER)?.unwrap_or(u64::MAX);
    let letters = read(WHAT, desk.deps.store.dead_letters()).await?;
    let chosen = letters.into_iter().rev().filter(|letter| letter.number < before && filter.chooses(letter));
    let chosen = chosen.take(limit);
    let mut dead_letters: Vec<_> = chosen.map(DeadLetterDocument::from).collect();
    dead_letters.reverse();
    Ok(json(&DeadLettersDocument { dead_letters }))
}

fn number_in(path: Path) -> Result<LetterNumber, Problem> {
    let path = path.ok();
    let text = path.as_ref().and_then(|path| path.iter().next()).map(|(_, value)| value).unwrap_or_default();
    text.parse().map_err(|_| bad_parameter("dead letters have numbers from 1 on, as in /v1/dead-letters/7"))
}

fn no_such_letter(number: u64) -> Problem {
    let detail =
        format!("there is no dead letter {number}: it was replayed or dropped, or made room for newer ones");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn show(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
    let number = number_in(path)?.get();
    match read(WHAT, desk.deps.store.dead_letter(number)).await? {
        Some(letter) => Ok(json(&DeadLetterDocument::from(letter))),
        None => Err(no_such_letter(number)),
    }
}

async fn replay(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
    one(&desk, LetterOrder { number: number_in(path)?, verb: LetterVerb::Replay }).await
}

async fn discard(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
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

async fn replay_many(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    many(&desk, &uri, LetterVerb::Replay).await
}

async fn discard_many(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    many(&desk, &uri, LetterVerb::Drop).await
}

/// One after the other, oldest first, so that each user's order is kept. Ends early when a host does not answer.
async fn many(desk: &Desk, uri: &Uri, verb: LetterVerb) -> Result<Response<Body>, Problem> {
    let filter = Filter::of(uri)?;
    let all = query::single(uri.query(), "all")?;
    if all.as_deref().is_some_and(|all| all != "true") || (filter.is_empty() && all.is_none()) {
        return Err(bad_parameter("name a `plugin`, a `hook` or a `user`, or ask for `all=true`"));
    }
    let limit = number_of(uri, "limit", MAX_DEAD_LETTERS_AT_ONCE as u64)?;
    let limit = limit.map_or(MAX_DEAD_LETTERS_AT_ONCE, |limit| limit as usize);
    let after = number_of(uri, "after", words::GREATEST_NUMBER)?.unwrap_or(0);
    let up_to = number_of(uri, "up_to", words::GREATEST_NUMBER)?.unwrap_or(u64::MAX);
    let letters = read(WHAT, desk.deps.store.dead_letters()).await?;
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
