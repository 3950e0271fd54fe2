//! Where to connect and as whom, and why that does not work.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode, Uri};
use presence_core::ids::UserId;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

use super::Socket;
use crate::admin_client::{authorities, detail, encoded, native_authorities};
use crate::gateway::protocol::SUBPROTOCOL;

/// How long connecting and the handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A checked address and who comes.
pub(crate) struct Target {
    /// Without the query: what people see.
    shown: String,
    uri: Uri,
    authorization: Option<HeaderValue>,
    tls: Option<Connector>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error(
        "nothing answers at {at} (is `presence serve` running, with host.listen at this address?): {why}"
    )]
    Nobody { at: String, why: String },
    #[error("{at} refuses this client with {detail}")]
    Refused { at: String, status: StatusCode, detail: String },
}

impl Unreachable {
    /// Whether it is worth trying again.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Unreachable::Nobody { .. } => true,
            Unreachable::Refused { status, .. } => status.is_server_error(),
        }
    }
}

/// How to check the server of a `wss` address: by the authorities in this file, or by the system's. None for others.
pub(crate) fn connector(url: &str, ca_file: Option<&Path>) -> anyhow::Result<Option<Connector>> {
    if !url.starts_with("wss:") {
        return Ok(None);
    }
    let config = ca_file.map_or_else(native_authorities, authorities)?;
    Ok(Some(Connector::Rustls(Arc::new(config))))
}

impl Target {
    /// `url` is a host's listener for clients, with or without `/v1/connect`.
    pub(crate) fn new(url: &str, user: Option<&str>, token: Option<&str>) -> anyhow::Result<Target> {
        let uri: Uri = url.parse().with_context(|| format!("--url {url} is no URL"))?;
        let (Some(scheme @ ("ws" | "wss")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("--url {url}: give it as ws://HOST:PORT or wss://HOST:PORT");
        };
        let path = if uri.path() == "/" { "/v1/connect" } else { uri.path() };
        let shown = format!("{scheme}://{authority}{path}");
        let uri = match user {
            Some(user) => {
                let user = UserId::new(user).with_context(|| format!("--user {user:?}"))?;
                format!("{shown}?user={}", encoded(user.as_str())).parse()?
            }
            None => shown.parse()?,
        };
        let authorization = token.map(|token| {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).context("--token is no token")?;
            value.set_sensitive(true);
            anyhow::Ok(value)
        });
        Ok(Target { shown, uri, authorization: authorization.transpose()?, tls: None })
    }

    /// With what [`connector`] says of the address.
    pub(crate) fn over(self, tls: Option<Connector>) -> Target {
        Target { tls, ..self }
    }

    /// One attempt.
    pub(crate) async fn connect(&self) -> Result<Socket, Unreachable> {
        let nobody = |why: String| Unreachable::Nobody { at: self.shown.clone(), why };
        let mut request =
            self.uri.clone().into_client_request().map_err(|error| nobody(error.to_string()))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let connecting = connect_async_tls_with_config(request, None, false, self.tls.clone());
        match timeout(PATIENCE, connecting).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(SocketError::Http(response))) => {
                let (status, body) = (response.status(), response.body().as_deref().unwrap_or_default());
                Err(Unreachable::Refused { at: self.shown.clone(), status, detail: detail(status, body) })
            }
            Ok(Err(error)) => Err(nobody(error.to_string())),
            Err(_) => Err(nobody(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_checked() {
        let uri = |url, user| Target::new(url, user, None).map(|target| target.uri.to_string());
        assert_eq!(
            uri("ws://127.0.0.1:7070", Some("a/b 🦀")).unwrap(),
            "ws://127.0.0.1:7070/v1/connect?user=a%2Fb%20%F0%9F%A6%80"
        );
        assert_eq!(uri("ws://h:1/behind/proxy", None).unwrap(), "ws://h:1/behind/proxy");
        assert_eq!(uri("wss://h", None).unwrap(), "wss://h/v1/connect");
        for (url, user, part) in [
            ("http://h", None, "ws://HOST:PORT"),
            ("127.0.0.1:7070", None, "--url 127.0.0.1:7070"),
            ("ws://h", Some(".."), "--user \"..\""),
        ] {
            let error = uri(url, user).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
        assert!(Target::new("ws://h", None, Some("a\nb")).is_err());
    }
}
