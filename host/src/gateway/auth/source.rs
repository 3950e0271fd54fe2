//! Where a key set is read from: a file, or an address. Every reading has a bound on its time and its size.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::requests::{Requester, with_causes};
use crate::settings::KeySetSource;
use crate::tokens::{BadSet, KeySet, MAX_SET_BYTES};

/// How long a reading may take: less than a client waits for a Pong.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a set could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRead {
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("it can't be read: {0}")]
    File(io::Error),
    #[error("{0}")]
    Request(String),
    #[error("it answers {status}{hint}")]
    Status { status: StatusCode, hint: &'static str },
    #[error(transparent)]
    Set(#[from] BadSet),
}

/// One place.
pub(super) enum Source {
    File(PathBuf),
    Url(Uri, Box<Requester>),
}

impl fmt::Display for Source {
    /// Without a query, which may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Url(address, _) => {
                let authority = address.authority().map_or("", |authority| authority.as_str());
                write!(f, "{}://{authority}{}", address.scheme_str().unwrap_or("http"), address.path())
            }
        }
    }
}

impl Source {
    /// Fails where servers can't be checked because there are no root certificates.
    pub(super) fn new(settings: &KeySetSource) -> io::Result<Source> {
        Ok(match settings {
            KeySetSource::File(path) => Source::File(path.clone()),
            KeySetSource::Url(address) => {
                let requester = Requester::new(address.scheme_str() == Some("https"))?;
                Source::Url(address.clone(), Box::new(requester))
            }
        })
    }

    /// Reads it now. Whoever can ask an address can have its answer: secrets are taken from files only.
    pub(super) async fn read(&self) -> Result<KeySet, NotRead> {
        let (document, with_secrets) = match self {
            Source::File(path) => (timeout(TIMEOUT, read_file(path)).await, true),
            Source::Url(address, requester) => (timeout(TIMEOUT, fetch(address, requester)).await, false),
        };
        Ok(KeySet::parse(&document.map_err(|_| NotRead::Late)??, with_secrets)?)
    }
}

async fn read_file(path: &PathBuf) -> Result<Vec<u8>, NotRead> {
    let file = tokio::fs::File::open(path).await.map_err(NotRead::File)?;
    let mut document = Vec::new();
    // One more than is allowed, so that too much is noticed.
    file.take(MAX_SET_BYTES as u64 + 1).read_to_end(&mut document).await.map_err(NotRead::File)?;
    Ok(document)
}

async fn fetch(address: &Uri, requester: &Requester) -> Result<Vec<u8>, NotRead> {
    let request = Request::builder()
        .uri(address.clone())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("presence/", env!("CARGO_PKG_VERSION")))
        .body(Full::default())
        .map_err(|error| NotRead::Request(error.to_string()))?;
    let answer = requester.request(request).await.map_err(|error| NotRead::Request(with_causes(&error)))?;
    let status = answer.status();
    if status != StatusCode::OK {
        let hint = if status.is_redirection() { ": give the address that it leads to" } else { "" };
        return Err(NotRead::Status { status, hint });
    }
    match Limited::new(answer.into_body(), MAX_SET_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(BadSet::TooLarge.into()),
        Err(error) => Err(NotRead::Request(with_causes(&*error))),
    }
}
