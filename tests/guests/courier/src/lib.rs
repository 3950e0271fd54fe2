//! Uses what `recorder` does not: ticks, messages over NATS and look-ups of statuses. What it finds it publishes to
//! `subject`, or POSTs to `url`, or both, as `{"hook", "event_id", "event", "found"}`.

use presence_plugin::http::Request;
use presence_plugin::messaging::Message;
use presence_plugin::presence::{self, UserStatus};
use presence_plugin::{Context, HookResult, StatusChange, Tick};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// `config` in presence.toml.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to publish.
    pub subject: Option<String>,
    /// Where to POST.
    pub url: Option<String>,
    /// Whose statuses are looked up in each hook.
    pub users: Vec<String>,
}

/// The courier.
pub struct Courier {
    config: Config,
}

#[presence_plugin::plugin]
impl Courier {
    fn configure(config: Config) -> Result<Self, String> {
        Ok(Courier { config })
    }

    fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.carry("user-online", ctx, event)
    }

    fn tick(&self, ctx: &Context, event: &Tick) -> HookResult {
        self.carry("tick", ctx, event)
    }
}

impl Courier {
    fn carry(&self, hook: &str, ctx: &Context, event: &impl Serialize) -> HookResult {
        let found: Vec<UserStatus> = match self.config.users.as_slice() {
            [] => Vec::new(),
            users => presence::lookup(users)?,
        };
        let document = json!({ "hook": hook, "event_id": ctx.event_id, "event": event, "found": found });
        if let Some(subject) = &self.config.subject {
            Message::to(subject).header("Hook", hook).json(&document).publish()?;
        }
        match &self.config.url {
            Some(url) => Request::post(url).json(&document).idempotent(ctx).deliver(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presence_plugin::{Status, testing};

    #[test]
    fn carries_what_it_finds() {
        testing::reset();
        testing::set_status("bob", Status::Idle);
        let config = Config {
            subject: Some("app.x".to_string()),
            users: vec!["bob".to_string()],
            ..Config::default()
        };
        let courier = Courier::configure(config).unwrap();
        courier.tick(&Context::default(), &Tick { due: 60_000, interval_ms: 60_000 }).unwrap();
        let sent = testing::messages();
        assert_eq!((sent.len(), &*sent[0].subject), (1, "app.x"));
        assert_eq!(sent[0].json()["found"][0]["status"], "idle");
        assert_eq!(sent[0].json()["event"]["due"], 60_000);
    }
}
