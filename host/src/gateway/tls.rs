//! TLS on one listener: the handshake, and certificates that are shown anew when their files change. What the files must be
//! is known to `certificates.rs`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use super::traffic::Traffic;
use crate::certificates::{BadCertificate, Shown, TlsFiles};
use crate::reload::Watch;

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The files are wrong.
    #[error(transparent)]
    Certificate(#[from] BadCertificate),
    /// The library can't serve with them.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// One listener's TLS.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
}

impl Tls {
    /// With the certificate as it is now.
    pub(super) fn new(files: &TlsFiles) -> Result<Tls, TlsError> {
        let shown = Shown::read(files.clone())?;
        Ok(Tls { acceptor: TlsAcceptor::from(shown.config()?), shown })
    }

    /// The handshake; none: it failed, or took too long.
    pub(super) async fn accept(&self, stream: TcpStream, patience: Duration) -> Option<Stream> {
        match timeout(patience, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Some(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
        None
    }

    /// Reads the files whenever they have changed. What is wrong with them is told, and the certificate stays.
    pub(super) async fn keep(self, is_for: &str, traffic: &Traffic, closing: &CancellationToken) {
        let files: BTreeSet<PathBuf> =
            [self.shown.files().certificate.clone(), self.shown.files().key.clone()].into();
        let mut watch = Watch::new(files.clone());
        loop {
            tokio::select! {
                () = watch.changed() => {}
                () = closing.cancelled() => return,
            }
            watch.taken(files.clone()).await;
            let shown = self.shown.clone();
            let read = tokio::task::spawn_blocking(move || shown.read_again()).await;
            let succeeded = matches!(read, Ok(Ok(())));
            traffic.count_certificate_reading(succeeded);
            match read {
                Ok(Ok(())) => tracing::info!("the certificate for {is_for} was read again"),
                Ok(Err(error)) => {
                    tracing::error!(%error, "the certificate for {is_for} is wrong: the one before stays in use")
                }
                Err(error) => tracing::error!(%error, "the certificate for {is_for} could not be read"),
            }
        }
    }
}
