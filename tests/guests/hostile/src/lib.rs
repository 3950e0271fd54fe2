//! Misbehaves on order: each rule of its configuration says on which hook, for which user and for how many attempts to
//! do what. What a host has to survive.
//!
//! ```toml
//! config = { rules = [{ hook = "user-online", user = "mallory", attempts = 2, act = "trap" }, { act = { sleep = 50 } }] }
//! ```
//! The first rule that fits is followed; without one the hook returns at once. `config = { configure = "panic" }` is
//! for `configure` itself, `later = "panic"` for `configure` of every guest but the first, which it knows by the bucket
//! `starts`.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use presence_plugin::keyvalue::Bucket;
use presence_plugin::messaging::Message;
use presence_plugin::{
    Cleanup, Context, HookError, HookResult, Scope, Session, SessionDisconnected, StatusChange, log,
};
use serde::Deserialize;

mod wasi;

/// `config` in presence.toml.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The first one that fits is followed.
    pub rules: Vec<Rule>,
    /// What `configure` does.
    pub configure: Option<Act>,
    /// What it does in later guests. Needs the bucket `starts`.
    pub later: Option<Act>,
}

/// When to do what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only in this hook, such as `user-online`.
    pub hook: Option<String>,
    /// Only for this user, or with `*` at the end for those whose names begin so. A cleanup is nobody's.
    pub user: Option<String>,
    /// Only up to this attempt.
    pub attempts: Option<u32>,
    /// What to do.
    pub act: Act,
}

/// What to do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Return at once.
    Nothing,
    /// Execute `unreachable`.
    Trap,
    /// Panic, with a message.
    Panic,
    /// Compute for ever.
    Loop,
    /// Recurse for ever.
    Recurse,
    /// Allocate and touch memory for ever.
    Allocate,
    /// Note down in memory that this guest is spoilt, and trap.
    Poison,
    /// Call the host for ever, without a pause.
    FloodCalls,
    /// Ask the host for so many random bytes at once, for ever.
    Random(u64),
    /// Wait for so many timers at once, again and again.
    Poll(usize),
    /// Make requests that are never sent, until the host refuses; then ask for another attempt with what it said.
    Hoard,
    /// Keep so many bytes, as long as the guest lives; then return.
    Keep(usize),
    /// Leave the program, with success.
    Exit,
    /// Ask for another attempt.
    Retry,
    /// Ask for another attempt after so many milliseconds.
    RetryAfter(u64),
    /// Refuse the event (or, in `configure`, the configuration).
    Reject,
    /// Ask for another attempt, with an error message of so many bytes.
    HugeError(usize),
    /// Write so many lines through the import `log`.
    FloodLog(usize),
    /// Write one message of so many bytes through the import `log`.
    HugeLog(usize),
    /// Write so many lines to standard output and as many to standard error.
    FloodOutput(usize),
    /// Write so many bytes to standard output, without an end of line.
    HugeLine(usize),
    /// Sleep so many milliseconds in a host call, then return.
    Sleep(u64),
    /// Ask this URL and wait for its answer for ever, then return.
    Ask(String),
    /// Ask these URLs one after the other; refuse the event with the first one that answers.
    AskAll(Vec<String>),
    /// Ask this URL and read all of its answer, then return.
    Read(String),
    /// Ask this URL and then wherever it sends, then return.
    Follow(String),
    /// Ask this URL until the host refuses, and neither read nor drop an answer; then ask for another attempt with what
    /// the host said.
    KeepAnswers(String),
    /// Send a message to this subject, or ask for another attempt with what the host said.
    Publish(String),
    /// Write keys to this bucket until that fails, then ask for another attempt with that error.
    Fill(String),
}

/// Set by [`Act::Poison`]: whoever sees it has a guest that trapped.
static SPOILT: AtomicBool = AtomicBool::new(false);

/// The plugin.
#[derive(Default)]
pub struct Hostile {
    rules: Vec<Rule>,
    kept: Vec<Vec<u8>>,
}

#[presence_plugin::plugin]
impl Hostile {
    fn configure(config: Config) -> Result<Self, HookError> {
        let mut hostile = Hostile { rules: config.rules, kept: Vec::new() };
        if let Some(act) = &config.configure {
            act.run(&mut hostile.kept)?;
        }
        if let Some(act) = &config.later
            && Bucket::new("starts").increment("guests", 1)? > 1
        {
            act.run(&mut hostile.kept)?;
        }
        Ok(hostile)
    }

    fn session_connected(&mut self, ctx: &Context, event: &Session) -> HookResult {
        self.follow("session-connected", &event.user, ctx)
    }

    fn session_disconnected(&mut self, ctx: &Context, event: &SessionDisconnected) -> HookResult {
        self.follow("session-disconnected", &event.session.user, ctx)
    }

    fn cleanup(&mut self, ctx: &Context, event: &Cleanup) -> HookResult {
        let scope = match event.scope {
            Scope::Everything => "everything",
            Scope::Lost { .. } => "lost",
        };
        log::debug!(scope, chunk = event.chunk, "cleanup");
        self.follow("cleanup", "", ctx)
    }

    fn user_online(&mut self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.follow("user-online", &event.user, ctx)
    }

    fn user_idle(&mut self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.follow("user-idle", &event.user, ctx)
    }

    fn user_offline(&mut self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.follow("user-offline", &event.user, ctx)
    }
}

impl Hostile {
    fn follow(&mut self, hook: &str, user: &str, ctx: &Context) -> HookResult {
        if SPOILT.load(Relaxed) {
            return Err(HookError::reject("this guest has trapped before"));
        }
        let named = |only: &str| match only.strip_suffix('*') {
            Some(beginning) => user.starts_with(beginning),
            None => only == user,
        };
        let rule = self.rules.iter().find(|rule| {
            rule.hook.as_deref().is_none_or(|only| only == hook)
                && rule.user.as_deref().is_none_or(named)
                && rule.attempts.is_none_or(|last| ctx.attempt <= last)
        });
        rule.map_or(Ok(()), |rule| rule.act.run(&mut self.kept))
    }
}

impl Act {
    fn run(&self, kept: &mut Vec<Vec<u8>>) -> HookResult {
        match self {
            Act::Nothing => {}
            Act::Trap => std::process::abort(),
            Act::Panic => panic!("as ordered"),
            Act::Loop => compute(),
            Act::Recurse => {
                black_box(recurse(1));
            }
            Act::Allocate => loop {
                kept.push(vec![1; 1 << 20]);
            },
            Act::Poison => {
                SPOILT.store(true, Relaxed);
                std::process::abort();
            }
            Act::FloodCalls => loop {
                black_box(wasi::now());
            },
            Act::Random(bytes) => loop {
                black_box(wasi::random(*bytes));
            },
            Act::Poll(count) => wasi::poll_timers(*count),
            Act::Hoard => return Err(HookError::retry(wasi::hoard())),
            Act::Keep(bytes) => kept.push(vec![1; *bytes]),
            Act::Exit => wasi::exit(),
            Act::Retry => return Err(HookError::retry("as ordered")),
            Act::RetryAfter(ms) => {
                return Err(HookError::retry_after("as ordered", Duration::from_millis(*ms)));
            }
            Act::Reject => return Err(HookError::reject("as ordered")),
            Act::HugeError(bytes) => return Err(HookError::retry("x".repeat(*bytes))),
            Act::FloodLog(lines) => (0..*lines).for_each(|line| log::info!(line, "a line among many")),
            Act::HugeLog(bytes) => log::info!("{}", "x".repeat(*bytes)),
            Act::FloodOutput(lines) => {
                for line in 0..*lines {
                    println!("line {line} of many");
                    eprintln!("line {line} of many");
                }
            }
            Act::HugeLine(bytes) => print("x".repeat(*bytes).as_bytes())?,
            Act::Sleep(ms) => wasi::sleep(*ms),
            Act::Ask(url) => wasi::wait_for_answer(url).map_err(HookError::retry)?,
            Act::AskAll(urls) => {
                if let Some(url) = urls.iter().find(|url| wasi::wait_for_answer(url).is_ok()) {
                    return Err(HookError::reject(format!("{url} answers")));
                }
            }
            Act::Read(url) => {
                wasi::read_all(url).map_err(HookError::retry)?;
            }
            Act::Follow(url) => wasi::follow(url).map_err(HookError::retry)?,
            Act::KeepAnswers(url) => return Err(HookError::retry(wasi::keep_answers(url))),
            Act::Publish(subject) => Message::to(subject).payload(b"boo").publish()?,
            Act::Fill(bucket) => fill(&Bucket::new(bucket))?,
        }
        Ok(())
    }
}

fn compute() {
    let mut count = 0_u64;
    loop {
        count = black_box(count.wrapping_add(1));
    }
}

fn recurse(depth: u64) -> u64 {
    let page = black_box([depth; 64]);
    if page[0] == 0 {
        return 0;
    }
    recurse(black_box(depth + 1)) + page[63]
}

fn print(bytes: &[u8]) -> HookResult {
    let mut output = std::io::stdout();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| HookError::retry(error.to_string()))
}

fn fill(bucket: &Bucket) -> HookResult {
    loop {
        let reserved = bucket.increment("reserved", 1000)?;
        for number in reserved - 1000..reserved {
            bucket.set(&number.to_string(), [1; 64])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostile(config: &str) -> Hostile {
        Hostile::configure(serde_json::from_str(config).unwrap()).unwrap()
    }

    fn context(attempt: u32) -> Context {
        Context { attempt, ..Context::default() }
    }

    #[test]
    fn follows_the_first_rule_that_fits() {
        let mut hostile = hostile(
            r#"{"rules": [
                {"hook": "user-idle", "act": "reject"},
                {"user": "mal*", "attempts": 2, "act": {"huge_error": 3}},
                {"user": "mallory", "act": "nothing"}
            ]}"#,
        );
        assert_eq!(hostile.follow("user-idle", "mallory", &context(1)), Err(HookError::reject("as ordered")));
        assert_eq!(hostile.follow("user-online", "mallory", &context(2)), Err(HookError::retry("xxx")));
        assert_eq!(hostile.follow("user-online", "mallory", &context(3)), Ok(()));
        assert_eq!(hostile.follow("user-online", "alice", &context(1)), Ok(()));
    }

    #[test]
    fn refuses_its_configuration_on_order() {
        let config = serde_json::from_str(r#"{"configure": "reject"}"#).unwrap();
        assert!(Hostile::configure(config).is_err());
    }
}
