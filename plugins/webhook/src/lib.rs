//! Every event as `POST {url}`, signed as the Standard Webhooks specification says: for whoever wants to hear of
//! presence without writing a plugin.
//!
//! The body is one JSON document:
//! `{"type": "user-online", "id": "<event id>", "timestamp": "<RFC 3339>", "data": {…}}`.
//! - `type` is the hook: `session-connected`, `session-disconnected`, `cleanup`, `user-online`, `user-idle`,
//!   `user-offline`. `id` is the same on every attempt: drop repeats by it.
//! - `timestamp` is when it happened: `connected_at`, the end of the session, `since`; for a cleanup, when it is sent.
//! - `data` is the event in the contract's words, times in milliseconds since 1970, attributes as an object:
//!   a session (`id`, `user`, `instance`, `status`, `connected_at`, `attributes`); `session`, `reason`, `duration_ms`;
//!   `user`, `previous`, `current`, `since`, `revision`, `sessions`, `last_seen`; or `cause`, `scope`, `chunk`, `last`,
//!   where `scope` is `"everything"` or `{"lost": {"instance": …, "sessions": [a session, …]}}`.
//!
//! Headers: `webhook-id` (the event's id), `webhook-timestamp` (seconds since 1970, of this attempt) and, with a secret,
//! `webhook-signature: v1,<base64 of HMAC-SHA256 over id.timestamp.body>`.
//!
//! 2xx is delivered; 408, 425, 429, 5xx and network errors are tried again (`Retry-After` is honoured); every other
//! answer makes the event a dead letter.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use presence_plugin::http::{self, Request};
use presence_plugin::{
    Cleanup, Context, HookError, HookResult, Session, SessionDisconnected, StatusChange, time,
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// `config` in presence.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to POST. Its origin needs a grant under `http`.
    pub url: String,
    /// `whsec_<base64>`, or any other text, which is used as it is. Without it nothing is signed.
    pub secret: Option<String>,
    /// More headers for every request, such as `authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// The plugin.
pub struct Webhook {
    url: String,
    /// What signatures are made with.
    key: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
}

/// Headers that the plugin or the protocol sets.
const RESERVED: [&str; 5] = ["content-length", "content-type", "host", "transfer-encoding", "connection"];

#[derive(Serialize)]
struct Document<'a, T> {
    r#type: &'static str,
    id: &'a str,
    timestamp: String,
    data: &'a T,
}

#[presence_plugin::plugin]
impl Webhook {
    fn configure(config: Config) -> Result<Self, String> {
        http::check_url(&config.url).map_err(|error| format!("config.url: {error}"))?;
        for (name, value) in &config.headers {
            http::check_header(name, value).map_err(|error| format!("config.headers: {error}"))?;
            let lower = name.to_ascii_lowercase();
            if lower.starts_with("webhook-") || RESERVED.contains(&lower.as_str()) {
                return Err(format!("config.headers: `{name}` is set by the plugin itself"));
            }
        }
        let key = config.secret.map(|secret| key(&secret)).transpose()?;
        Ok(Webhook { url: config.url, key, headers: config.headers })
    }

    fn session_connected(&self, ctx: &Context, event: &Session) -> HookResult {
        self.post("session-connected", event.connected_at, ctx, event)
    }

    fn session_disconnected(&self, ctx: &Context, event: &SessionDisconnected) -> HookResult {
        let end = event.session.connected_at.saturating_add(event.duration_ms);
        self.post("session-disconnected", end, ctx, event)
    }

    fn cleanup(&self, ctx: &Context, event: &Cleanup) -> HookResult {
        self.post("cleanup", time::now_ms(), ctx, event)
    }

    fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.post("user-online", event.since, ctx, event)
    }

    fn user_idle(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.post("user-idle", event.since, ctx, event)
    }

    fn user_offline(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.post("user-offline", event.since, ctx, event)
    }
}

impl Webhook {
    fn post<T: Serialize>(
        &self,
        hook: &'static str,
        happened_ms: u64,
        ctx: &Context,
        data: &T,
    ) -> HookResult {
        let id = ctx.event_id.as_str();
        let document = Document { r#type: hook, id, timestamp: time::rfc3339(happened_ms), data };
        let body = serde_json::to_vec(&document)
            .map_err(|error| HookError::reject(format!("the event can't be written as JSON: {error}")))?;
        let seconds = (time::now_ms() / 1000).to_string();
        let mut request = Request::post(&self.url)
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", &seconds);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, id, &seconds, &body));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(body).deliver()
    }
}

/// The bytes of a secret as it stands in presence.toml.
fn key(secret: &str) -> Result<Vec<u8>, String> {
    let key = match secret.strip_prefix("whsec_") {
        Some(text) => STANDARD
            .decode(text)
            .map_err(|_| "config.secret: what follows `whsec_` is not base64".to_string())?,
        None => secret.as_bytes().to_vec(),
    };
    if key.is_empty() {
        return Err("config.secret: it is empty; leave it out to send without signatures".to_string());
    }
    Ok(key)
}

fn signature(key: &[u8], id: &str, seconds: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests;
