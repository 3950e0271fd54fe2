//! Asks the admin API of a host, for the verbs of the command line that print something. Knows HTTP, keys and problem
//! documents, not what the answers mean.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::AdminArgument;
use crate::requests::Requester;
use crate::table::printable;

/// How long an answer may take in all.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where the key is, if no file is named.
const KEY_VARIABLE: &str = "PRESENCE_API_KEY";

/// What RFC 3986 calls unreserved stays as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as one value of a query or one segment of a path.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// The part of a problem document that people need.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// How a request to change something was answered.
pub enum Posted<T> {
    /// With what was done.
    Done(T),
    /// The host refuses it, for the reasons in the problem document.
    Refused(Refusal),
}

/// Why a host refuses to change something.
#[derive(Deserialize)]
pub struct Refusal {
    /// The sentence for people.
    pub detail: String,
    /// Each thing that is wrong.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// The sentence for people in an answer that is not a success.
pub fn detail(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{status}: {}", printable(&problem.detail)),
        Err(_) => status.to_string(),
    }
}

/// One host, and the key for it.
pub struct AdminClient {
    base: String,
    authorization: Option<HeaderValue>,
    requester: Requester,
}

impl AdminClient {
    /// Checks the address and reads the key. Asks nothing yet.
    pub fn new(arguments: &AdminArgument) -> anyhow::Result<AdminClient> {
        let base = arguments.url.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().with_context(|| format!("--admin {base} is no URL"))?;
        let is_https = match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(_)) => false,
            _ => bail!(
                "--admin {base}: give it as http://HOST:PORT or https://HOST:PORT, the host.admin of presence.toml"
            ),
        };
        let key = match &arguments.key_file {
            Some(path) => Some(read_key(path)?),
            None => std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()),
        };
        let authorization = key.map(|key| bearer(key.trim())).transpose()?;
        let requester = match &arguments.ca_file {
            Some(path) if is_https => Requester::trusting(authorities(path)?),
            _ => Requester::new(is_https)
                .context("no root certificates to check the host with: name them with --ca-file")?,
        };
        Ok(AdminClient { base, authorization, requester })
    }

    /// `GET {path}`, read as JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(Method::GET, path, None).await
    }

    /// `GET {path}`, as text.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let body = self.succeed(Method::GET, path, None).await?;
        String::from_utf8(body.into()).with_context(|| format!("{}{path} is no text", self.base))
    }

    /// Another method, perhaps with a JSON body; any success is read as JSON.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<T> {
        self.read(&self.succeed(method, path, body).await?)
    }

    /// Another method that is answered without a body.
    pub async fn command(&self, method: Method, path: &str) -> anyhow::Result<()> {
        self.succeed(method, path, None).await.map(drop)
    }

    /// The body of an answer that is a success.
    async fn succeed(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Bytes> {
        let (status, body) = self.ask(method, path, body, PATIENCE).await?;
        if !status.is_success() {
            bail!("{} answers {}", self.base, detail(status, &body));
        }
        Ok(body)
    }

    /// `POST {path}` without a body; 422 is a refusal.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        patience: Duration,
    ) -> anyhow::Result<Posted<T>> {
        let (status, body) = self.ask(Method::POST, path, None, patience).await?;
        match status {
            StatusCode::OK => self.read(&body).map(Posted::Done),
            StatusCode::UNPROCESSABLE_ENTITY => self.read(&body).map(Posted::Refused),
            _ => bail!("{} answers {}", self.base, detail(status, &body)),
        }
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(body)
            .with_context(|| format!("{} does not answer as the admin API of a host does", self.base))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let base = &self.base;
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::new(Full::<Bytes>::from(text));
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        *request.method_mut() = method;
        *request.uri_mut() =
            format!("{base}{path}").parse().with_context(|| format!("--admin {base} is no URL"))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        tokio::time::timeout(patience, self.fetch(request))
            .await
            .map_err(|_| anyhow!("{base} does not answer within {} s", patience.as_secs()))?
    }

    async fn fetch(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let base = &self.base;
        let response = self.requester.request(request).await.map_err(|error| {
            if error.is_connect() {
                anyhow!(error).context(format!(
                    "nothing answers at {base} (is `presence serve` running, with host.admin at this address?)"
                ))
            } else {
                anyhow!(error).context(format!("{base} can't be asked"))
            }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body =
            body.map_err(|error| anyhow!(error).context(format!("the answer of {base} can't be read")))?;
        Ok((status, body.to_bytes()))
    }
}

fn read_key(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--key-file {} can't be read", path.display()))
}

/// TLS with whoever has a certificate that is signed by one of these.
pub fn authorities(path: &Path) -> anyhow::Result<ClientConfig> {
    let shown = path.display();
    let certificates =
        CertificateDer::pem_file_iter(path).with_context(|| format!("--ca-file {shown} can't be read"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("--ca-file {shown} is no good PEM"))?;
        roots
            .add(certificate)
            .with_context(|| format!("--ca-file {shown} has a certificate that can't be used"))?;
    }
    if roots.is_empty() {
        bail!("--ca-file {shown} has no certificate");
    }
    Ok(trusting(roots)?)
}

/// TLS with whoever the system trusts.
pub fn native_authorities() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!("this system has no root certificates to check the host with: name them with --ca-file");
    }
    Ok(trusting(roots)?)
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Never tells the key.
fn bearer(key: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| anyhow!("the key of --key-file or {KEY_VARIABLE} is none: it is one line, `pk_…`"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> anyhow::Result<AdminClient> {
        AdminClient::new(&AdminArgument { url: url.to_owned(), key_file: None, ca_file: None })
    }

    #[test]
    fn user_ids_survive_encoding() {
        assert_eq!(encoded("a/b c+d&e=ë~"), "a%2Fb%20c%2Bd%26e%3D%C3%AB~");
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let refused = |base: &str| format!("{:#}", client(base).map(drop).unwrap_err());
        assert!(refused("ftp://localhost").contains("give it as http://HOST:PORT"));
        assert!(refused("localhost:7071").contains("--admin localhost:7071"));
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = client(&format!("http://{free}/")).unwrap().get::<()>("/healthz").await.unwrap_err();
        assert!(format!("{nobody:#}").contains("is `presence serve` running"), "{nobody:#}");
        let secret = bearer("pk_a\nb").unwrap_err().to_string();
        assert!(!secret.contains("pk_a"), "{secret}");
    }
}
