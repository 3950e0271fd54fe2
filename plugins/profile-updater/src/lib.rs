//! Keeps user profiles in step with statuses: tells a profile service of every change.
//!
//! - a user's status changes: `PUT {url}/{user}`, the user percent-encoded, with
//!   `{"user": "alice", "status": "online", "since": "2026-11-25T08:30:00.125Z", "revision": 7}`. `since` is RFC 3339
//!   with milliseconds. `revision` grows per user: a service drops what is not newer than what it has.
//! - the deployment starts afresh: `POST {url}/reset` with `{"cause": "fresh-start"}`: nobody is online any more.
//! - an instance is lost: nothing. Its users' statuses are decided anew, and told as any other.
//!
//! Every request carries `Idempotency-Key`, the event's id. 2xx is delivered; 408, 425, 429, 5xx and network errors are
//! tried again until delivered (`Retry-After` is honoured); every other answer makes the event a dead letter.

use presence_plugin::http::{self, Request};
use presence_plugin::{Cleanup, Context, HookResult, Scope, Status, StatusChange, time};
use serde::{Deserialize, Serialize};

/// `config` in presence.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the profiles are, such as `http://127.0.0.1:8090/profiles`. Needs a grant under `http`.
    pub url: String,
}

/// The plugin.
#[derive(Debug)]
pub struct ProfileUpdater {
    /// Without a slash at the end.
    url: String,
}

#[derive(Serialize)]
struct Profile<'a> {
    user: &'a str,
    status: Status,
    since: String,
    revision: u64,
}

#[derive(Serialize)]
struct Reset<'a> {
    cause: &'a str,
}

#[presence_plugin::plugin]
impl ProfileUpdater {
    fn configure(config: Config) -> Result<Self, String> {
        http::check_url(&config.url).map_err(|error| format!("config.url: {error}"))?;
        if config.url.contains('?') {
            return Err("config.url: a path is appended to it, so it cannot have a query (`?…`)".to_string());
        }
        Ok(ProfileUpdater { url: config.url.trim_end_matches('/').to_string() })
    }

    fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.put(ctx, event)
    }

    fn user_idle(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.put(ctx, event)
    }

    fn user_offline(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.put(ctx, event)
    }

    fn cleanup(&self, ctx: &Context, event: &Cleanup) -> HookResult {
        match event.scope {
            Scope::Everything => {
                let reset = Reset { cause: &event.cause };
                Request::post(format!("{}/reset", self.url)).json(&reset).idempotent(ctx).deliver()
            }
            Scope::Lost { .. } => Ok(()),
        }
    }
}

impl ProfileUpdater {
    fn put(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        let url = format!("{}/{}", self.url, http::encode_segment(&event.user));
        let profile = Profile {
            user: &event.user,
            status: event.current,
            since: time::rfc3339(event.since),
            revision: event.revision,
        };
        Request::put(url).json(&profile).idempotent(ctx).deliver()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presence_plugin::http::Response;
    use presence_plugin::{HookError, testing};
    use serde_json::json;

    fn plugin(url: &str) -> Result<ProfileUpdater, String> {
        testing::reset();
        ProfileUpdater::configure(Config { url: url.to_string() })
    }

    fn context() -> Context {
        Context { event_id: "e-1".to_string(), attempt: 1, time_left_ms: 2000, ..Context::default() }
    }

    fn change(user: &str, current: Status) -> StatusChange {
        let since = 1_764_059_400_125;
        StatusChange {
            user: user.to_string(),
            previous: None,
            current,
            since,
            revision: 7,
            sessions: 1,
            last_seen: None,
        }
    }

    fn sweep(scope: Scope) -> Cleanup {
        Cleanup { cause: "fresh-start".to_string(), scope, chunk: 0, last: true }
    }

    #[test]
    fn puts_the_status_under_the_encoded_user() {
        let plugin = plugin("http://profiles:8090/profiles/").unwrap();
        plugin.user_idle(&context(), &change("a/b c", Status::Idle)).unwrap();
        let requests = testing::requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(
            (requests[0].method.as_str(), requests[0].header("Idempotency-Key")),
            ("PUT", Some("e-1"))
        );
        assert_eq!(requests[0].url, "http://profiles:8090/profiles/a%2Fb%20c");
        assert_eq!(
            requests[0].json(),
            json!({"user": "a/b c", "status": "idle", "since": "2025-11-25T08:30:00.125Z", "revision": 7})
        );
    }

    #[test]
    fn resets_on_a_fresh_start_alone() {
        let plugin = plugin("http://profiles/p").unwrap();
        let lost = Scope::Lost { instance: "i".to_string(), sessions: Vec::new() };
        for (chunk, last) in [(0, false), (1, true)] {
            plugin.cleanup(&context(), &Cleanup { chunk, last, ..sweep(lost.clone()) }).unwrap();
        }
        assert_eq!(testing::requests(), []);
        plugin.cleanup(&context(), &sweep(Scope::Everything)).unwrap();
        let requests = testing::requests();
        assert_eq!(
            (requests[0].method.as_str(), requests[0].url.as_str()),
            ("POST", "http://profiles/p/reset")
        );
        assert_eq!(requests[0].json(), json!({"cause": "fresh-start"}));
    }

    #[test]
    fn answers_decide_about_another_attempt() {
        let plugin = plugin("http://profiles").unwrap();
        let answer = |response| {
            testing::answer(response);
            plugin.user_online(&context(), &change("bob", Status::Online))
        };
        assert_eq!(answer(Ok(Response::new(204))), Ok(()));
        let busy = answer(Ok(Response::new(503).with_header("retry-after", "3"))).unwrap_err();
        assert!(matches!(busy, HookError::Retry { after_ms: Some(3000), .. }));
        assert!(answer(Err(http::Error::Network("refused".to_string()))).unwrap_err().is_retry());
        assert!(!answer(Ok(Response::new(422))).unwrap_err().is_retry());
    }

    #[test]
    fn refuses_urls_that_cannot_work() {
        for url in ["profiles", "ftp://x", "http://u:p@x/", "http://x/?a=b", "http://x/#y"] {
            assert!(plugin(url).unwrap_err().starts_with("config.url: "), "{url}");
        }
    }
}
