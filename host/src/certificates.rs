//! The certificate and the key that a listener shows: read from PEM files, checked, and read again when the files change.
//! Knows no socket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What is spoken inside: nothing else, so that nobody talks another protocol to us.
const ALPN: &[u8] = b"http/1.1";

/// Larger files hold no certificate, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that lead to an authority.
    pub certificate: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// Which of the files is wrong, and why.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// The one with the certificate.
    #[error("{} {what}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The one with the key.
    #[error("{} {what}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; tells nothing of the key.
        what: String,
    },
}

/// Reads both files, and checks that they belong together.
pub fn read(files: &TlsFiles) -> Result<CertifiedKey, BadCertificate> {
    let bad_certificate = |what| BadCertificate::Certificate { path: files.certificate.clone(), what };
    let bad_key = |what| BadCertificate::Key { path: files.key.clone(), what };
    let pem = contents(&files.certificate).map_err(bad_certificate)?;
    let chain: Result<Vec<CertificateDer<'static>>, PemError> =
        CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| bad_certificate(format!("is no good PEM: {error}")))?;
    if chain.is_empty() {
        let what =
            "has no certificate: it is a PEM file with `-----BEGIN CERTIFICATE-----`, the host's first";
        return Err(bad_certificate(what.to_owned()));
    }
    let pem = contents(&files.key).map_err(bad_key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        PemError::NoItemsFound => bad_key(
            "has no private key: it is a PEM file with `-----BEGIN PRIVATE KEY-----`, not encrypted"
                .to_owned(),
        ),
        error => bad_key(format!("is no good PEM: {error}")),
    })?;
    let provider: CryptoProvider = default_provider();
    let signing = provider.key_provider.load_private_key(key);
    let signing = signing.map_err(|error| {
        bad_key(format!("has a key that can't be used ({error}): take ECDSA on P-256, Ed25519 or RSA"))
    })?;
    let certified = CertifiedKey::new(chain, signing);
    let belongs = certified.keys_match();
    belongs.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            bad_key(format!("has the key of another certificate than {}", files.certificate.display()))
        }
        error => bad_certificate(format!("has a certificate that can't be used: {error}")),
    })?;
    Ok(certified)
}

fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let too_large = format!("has more than {MAX_FILE_BYTES} bytes");
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() > MAX_FILE_BYTES => Err(too_large),
        Ok(found) if !found.is_file() => Err("is not a file".to_owned()),
        _ => std::fs::read(path).map_err(|error| format!("can't be read: {error}")),
    }
}

/// What is shown to whoever connects. Others can take its place; connections that are open stay as they are.
#[derive(Debug)]
pub struct Shown {
    files: TlsFiles,
    present: RwLock<Arc<CertifiedKey>>,
}

impl Shown {
    /// As the files are now.
    pub fn read(files: TlsFiles) -> Result<Arc<Shown>, BadCertificate> {
        let present = RwLock::new(Arc::new(read(&files)?));
        Ok(Arc::new(Shown { files, present }))
    }

    /// Where it comes from.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The files again; what is wrong with them leaves the present one in place.
    pub fn read_again(&self) -> Result<(), BadCertificate> {
        let fresh = Arc::new(read(&self.files)?);
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// TLS 1.2 and 1.3 with this certificate, for HTTP/1.1.
    pub fn config(self: &Arc<Shown>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plugins::testing::Folder;

    /// Writes a new certificate for `localhost` and its key under these names; the certificate in PEM.
    pub(crate) fn issue(folder: &Folder, certificate: &str, key: &str) -> (TlsFiles, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let files = TlsFiles {
            certificate: folder.write(certificate, &pem),
            key: folder.write(key, made.signing_key.serialize_pem()),
        };
        (files, pem)
    }

    fn told(certificate: &Path, key: &Path) -> String {
        let files = TlsFiles { certificate: certificate.to_owned(), key: key.to_owned() };
        read(&files).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn a_certificate_and_its_key_belong_together() {
        let folder = Folder::new();
        let (files, pem) = issue(&folder, "a.pem", "a.key");
        let (others, _) = issue(&folder, "b.pem", "b.key");
        assert_eq!(read(&files).unwrap().cert.len(), 1);
        let chain = folder.write("chain.pem", format!("# ours\n{pem}{pem}"));
        assert_eq!(read(&TlsFiles { certificate: chain, ..files.clone() }).unwrap().cert.len(), 2);

        let told_of = |path: &Path, what: &str, told: String| {
            assert!(told.starts_with(&format!("{} {what}", path.display())), "{what}: {told}");
        };
        told_of(&others.key, "has the key of another certificate", told(&files.certificate, &others.key));
        let missing = folder.path().join("missing.pem");
        told_of(&missing, "can't be read", told(&missing, &files.key));
        told_of(&missing, "can't be read", told(&files.certificate, &missing));
        told_of(&files.key, "has no certificate", told(&files.key, &files.key));
        told_of(&files.certificate, "has no private key", told(&files.certificate, &files.certificate));
        told_of(folder.path(), "is not a file", told(folder.path(), &files.key));
        let nonsense =
            folder.write("nonsense.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
        told_of(&nonsense, "is no good PEM", told(&nonsense, &files.key));
        let hollow =
            folder.write("hollow.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        told_of(&hollow, "has a certificate that can't be used", told(&hollow, &files.key));
        let hollow =
            folder.write("hollow.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        told_of(&hollow, "has a key that can't be used", told(&files.certificate, &hollow));
    }

    #[test]
    fn what_is_shown_changes_with_the_files_and_stays_when_they_are_wrong() {
        let folder = Folder::new();
        let (files, _) = issue(&folder, "a.pem", "a.key");
        let shown = Shown::read(files.clone()).unwrap();
        let present = || shown.present.read().unwrap().cert[0].clone();
        let first = present();
        issue(&folder, "a.pem", "b.key");
        assert!(shown.read_again().is_err(), "the key is that of the one before");
        assert_eq!(present(), first);
        issue(&folder, "a.pem", "a.key");
        shown.read_again().unwrap();
        assert_ne!(present(), first);
    }
}
