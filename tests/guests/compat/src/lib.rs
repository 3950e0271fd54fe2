//! Uses the whole contract: every hook, every function of every import, every answer. POSTs what it was told and what it
//! was answered to `url`, as `{"hook", "event_id", "attempt", "event", "config", "keyvalue", "messaging", "presence"}`.
//! Binaries of it are kept in plugin-sdk/compat, one for each published version of the contract.
//!
//! The user `again` is told of at the second attempt, the user `never` not at all: the first answer is a retry, the
//! other one a rejection.

use std::time::Duration;

use presence_plugin::http::Request;
use presence_plugin::keyvalue::{Bucket, MAX_VALUE};
use presence_plugin::messaging::Message;
use presence_plugin::{
    Cleanup, Context, HookError, HookResult, Session, SessionDisconnected, StatusChange, Tick, log, presence,
    time,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `config` in presence.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to POST.
    pub url: String,
    /// A bucket that is granted.
    pub bucket: String,
    /// Where to publish.
    pub subject: String,
    /// Whose statuses are looked up.
    pub users: Vec<String>,
    /// Comes back in every document.
    pub word: String,
}

/// The plugin.
pub struct Compat {
    config: Config,
}

#[presence_plugin::plugin]
impl Compat {
    fn configure(config: Config) -> Result<Self, String> {
        if config.word.is_empty() {
            return Err("config.word: is empty".to_string());
        }
        Ok(Compat { config })
    }

    fn session_connected(&self, ctx: &Context, event: &Session) -> HookResult {
        self.tell("session-connected", &event.user, ctx, event)
    }

    fn session_disconnected(&self, ctx: &Context, event: &SessionDisconnected) -> HookResult {
        self.tell("session-disconnected", &event.session.user, ctx, event)
    }

    fn cleanup(&self, ctx: &Context, event: &Cleanup) -> HookResult {
        self.tell("cleanup", "", ctx, event)
    }

    fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.tell("user-online", &event.user, ctx, event)
    }

    fn user_idle(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.tell("user-idle", &event.user, ctx, event)
    }

    fn user_offline(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.tell("user-offline", &event.user, ctx, event)
    }

    fn tick(&self, ctx: &Context, event: &Tick) -> HookResult {
        self.tell("tick", "", ctx, event)
    }
}

impl Compat {
    fn tell(&self, hook: &str, user: &str, ctx: &Context, event: &impl Serialize) -> HookResult {
        log::info!(hook, user, "is told");
        println!("told at {}", time::rfc3339(time::now_ms()));
        match user {
            "again" if ctx.attempt == 1 => {
                return Err(HookError::retry_after("not yet", Duration::from_millis(10)));
            }
            "never" => return Err(HookError::reject("not this one")),
            _ => {}
        }
        let document = json!({
            "hook": hook,
            "event_id": ctx.event_id,
            "attempt": ctx.attempt,
            "event": event,
            "config": self.config.word,
            "keyvalue": self.keep(ctx)?,
            "messaging": self.publish(hook, event),
            "presence": presence::lookup(&self.config.users)?,
        });
        Request::post(&self.config.url).json(&document).idempotent(ctx).deliver()
    }

    /// Every function of keyvalue, on keys of this event's own.
    fn keep(&self, ctx: &Context) -> Result<Value, HookError> {
        let bucket = Bucket::new(&self.config.bucket);
        let (count, note) = (format!("count {}", ctx.event_id), format!("note {}", ctx.event_id));
        bucket.delete(&count)?;
        bucket.increment(&count, 5)?;
        let sum = bucket.increment(&count, -2)?;
        bucket.delete(&note)?;
        let first = bucket.compare_and_set(&note, None, "first")?;
        let lost = bucket.compare_and_set(&note, None, "second")?;
        let version = bucket.set(&note, "third")?;
        let won = bucket.compare_and_set(&note, Some(version), "fourth")?;
        let read = bucket.get(&note)?.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        let keys = bucket.keys(&note).collect::<Result<Vec<String>, _>>()?;
        let after = bucket.keys_after(&note, &note).count();
        let long = bucket.set(&note, vec![b'x'; MAX_VALUE + 1]).err();
        bucket.delete(&note)?;
        let gone = bucket.get(&note)?.is_none();
        let elsewhere = Bucket::new("elsewhere").get(&note).err();
        Ok(json!({
            "sum": sum, "first": first.is_some(), "lost": lost.is_none(), "won": won.is_some(), "read": read,
            "found": keys == [note], "after": after, "gone": gone,
            "long": long.map(|error| error.to_string()), "elsewhere": elsewhere.map(|error| error.to_string()),
        }))
    }

    /// `sent`, or why not: a host without NATS has no grant for it.
    fn publish(&self, hook: &str, event: &impl Serialize) -> String {
        let message = Message::to(&self.config.subject).header("Hook", hook).json(event);
        message.publish().map_or_else(|error| error.to_string(), |()| "sent".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presence_plugin::{Status, testing};

    fn compat() -> Compat {
        testing::reset();
        let text = |text: &str| text.to_string();
        let users = vec![text("bob")];
        let (url, bucket, subject) = (text("http://x/"), text("kept"), text("app.told"));
        Compat::configure(Config { url, bucket, subject, users, word: text("word") }).unwrap()
    }

    fn online(user: &str) -> StatusChange {
        StatusChange {
            user: user.to_string(),
            previous: None,
            current: Status::Online,
            since: 1,
            revision: 1,
            sessions: 1,
            last_seen: None,
        }
    }

    #[test]
    fn tells_what_it_was_told_and_answered() {
        let compat = compat();
        testing::set_status("bob", Status::Idle);
        let ctx = Context { event_id: "id".to_string(), attempt: 1, ..Context::default() };
        compat.user_online(&ctx, &online("alice")).unwrap();
        let told = testing::requests()[0].json();
        assert_eq!((&told["hook"], &told["config"]), (&json!("user-online"), &json!("word")));
        assert_eq!(told["event"]["current"], "online");
        let kept = &told["keyvalue"];
        assert_eq!((&kept["sum"], &kept["read"], &kept["gone"]), (&json!(3), &json!("fourth"), &json!(true)));
        assert_eq!((&kept["first"], &kept["lost"], &kept["won"]), (&json!(true), &json!(true), &json!(true)));
        assert_eq!((&kept["found"], &kept["after"]), (&json!(true), &json!(0)));
        assert_eq!((&told["messaging"], testing::messages().len()), (&json!("sent"), 1));
        assert_eq!(told["presence"][0]["status"], "idle");
    }

    #[test]
    fn answers_in_every_way() {
        let compat = compat();
        let ctx = |attempt| Context { attempt, ..Context::default() };
        let again = compat.user_online(&ctx(1), &online("again")).unwrap_err();
        assert_eq!(again, HookError::retry_after("not yet", Duration::from_millis(10)));
        compat.user_online(&ctx(2), &online("again")).unwrap();
        assert_eq!(compat.user_online(&ctx(1), &online("never")), Err(HookError::reject("not this one")));
        let empty = Config { word: String::new(), ..compat.config };
        assert!(Compat::configure(empty).is_err());
    }
}
