//! {{name}}: remembers when it last saw a user, and tells a server who has left.
//!
//! Every event may come more than once, and several guests of this plugin run side by side: what has to last is in
//! keyvalue, and doing a step twice does no harm.

use presence_plugin::http::{self, Request};
use presence_plugin::keyvalue::Bucket;
use presence_plugin::{Context, HookResult, StatusChange, log, time};
use serde::{Deserialize, Serialize};

/// `config` in presence.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to tell of users who left. Needs a grant under `http`.
    pub url: String,
}

/// The plugin.
#[derive(Debug)]
pub struct {{type}} {
    url: String,
}

/// What the server is sent.
#[derive(Serialize)]
struct Left<'a> {
    user: &'a str,
    since: String,
    revision: u64,
}

#[presence_plugin::plugin]
impl {{type}} {
    fn configure(config: Config) -> Result<Self, String> {
        http::check_url(&config.url).map_err(|error| format!("config.url: {error}"))?;
        Ok({{type}} { url: config.url })
    }

    fn user_online(&self, _ctx: &Context, event: &StatusChange) -> HookResult {
        let seen = Bucket::new("seen");
        match seen.get(&event.user)? {
            None => log::info!(user = event.user, "is new"),
            Some(_) => log::info!(user = event.user, "is back"),
        }
        seen.set(&event.user, event.since.to_string())?;
        Ok(())
    }

    fn user_offline(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        let left =
            Left { user: &event.user, since: time::rfc3339(event.since), revision: event.revision };
        // 2xx is delivered; 408, 425, 429, 5xx and network errors are tried again; all else is given up.
        Request::post(&self.url).json(&left).idempotent(ctx).deliver()
    }
}

#[cfg(test)]
mod tests {
    //! Native tests: `cargo test`. Keyvalue and HTTP are the fakes of `presence_plugin::testing`.

    use super::*;
    use presence_plugin::http::Response;
    use presence_plugin::{Status, testing};

    fn plugin() -> {{type}} {
        testing::reset();
        {{type}}::configure(Config { url: "https://app.example/left".to_string() }).unwrap()
    }

    fn change(current: Status) -> StatusChange {
        StatusChange {
            user: "alice".to_string(),
            previous: None,
            current,
            since: 1_764_059_400_125,
            revision: 7,
            sessions: 0,
            last_seen: None,
        }
    }

    #[test]
    fn who_comes_is_remembered() {
        plugin().user_online(&Context::default(), &change(Status::Online)).unwrap();
        let entry = Bucket::new("seen").get("alice").unwrap().unwrap();
        assert_eq!(entry.value, b"1764059400125");
    }

    #[test]
    fn who_left_is_told_until_the_server_takes_it() {
        let plugin = plugin();
        testing::answer(Ok(Response::new(503)));
        let busy = plugin.user_offline(&Context::default(), &change(Status::Offline)).unwrap_err();
        assert!(busy.is_retry());
        plugin.user_offline(&Context::default(), &change(Status::Offline)).unwrap();
        let requests = testing::requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(
            requests[1].json(),
            serde_json::json!({"user": "alice", "since": "2025-11-25T08:30:00.125Z", "revision": 7})
        );
    }

    #[test]
    fn a_url_that_cannot_work_is_refused() {
        assert!({{type}}::configure(Config { url: "app".to_string() }).is_err());
    }
}
