//! Certificates made for one test: an authority, a server's certificate, a client's. Knows nothing of whom they are for.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::programs::Folder;

/// An authority that nobody knows, and the files of what it signs; gone with the value.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
    folder: Folder,
}

impl Authority {
    /// A new one, with a key of its own.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "An authority of tests");
        let key = KeyPair::generate().expect("a key");
        let signed = params.self_signed(&key).expect("a certificate");
        let folder = Folder::new();
        let certificate = folder.file("ca.pem", signed.pem());
        Authority { issuer: Issuer::new(params, key), certificate, folder }
    }

    /// For `tls_ca_file`.
    pub fn file(&self) -> PathBuf {
        self.certificate.clone()
    }

    /// A certificate and its key, signed by this authority: `name` is a host name or an address. For `tls_cert_file` and
    /// `tls_key_file`.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("tests use valid names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("a certificate");
        let certificate = self.folder.file(&format!("{name}.pem"), signed.pem());
        (certificate, self.folder.file(&format!("{name}.key"), key.serialize_pem()))
    }

    /// Lines of a nats-server's configuration: it has a certificate of `name`, and with `verify` wants one of everybody.
    pub fn nats_lines(&self, name: &str, verify: bool) -> String {
        let (certificate, key) = self.issue(name);
        let [certificate, key, ca] = [&certificate, &key, &self.certificate].map(|path| path.display());
        format!(
            "tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{ca}\", verify: {verify}, timeout: 10 }}"
        )
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}
