//! TLS as libpq's modes define it: never weaker than the mode, and without checks that the mode does not include.

use super::{DatabaseConfig, SslMode};
use base::error::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

/// The first libpq that supports `system` for the operating system's certificates.
pub(super) const SYSTEM_ROOTS_MAJOR_MIN: u32 = 16;

/// Maximum size of a certificate file. The operating system's own bundle has a quarter of a megabyte.
const ROOTS_BYTES_MAX: u64 = 8 << 20;

pub(super) fn is_system(config: &DatabaseConfig) -> bool {
    config.ssl_root_cert.as_deref() == Some(Path::new("system"))
}

/// The TLS connector for this configuration.
///
/// # Errors
/// Class `Config` if the mode needs certificates that are missing or unreadable.
pub(super) fn connector(config: &DatabaseConfig) -> Result<MakeRustlsConnect> {
    let mode = config.ssl_mode;
    let used = !config.is_socket() && mode != SslMode::Disable;
    let roots = match &config.ssl_root_cert {
        _ if !used => None,
        Some(_) if is_system(config) && mode != SslMode::VerifyFull => {
            let found = mode.name();
            return Err(Error::config(format!("`ssl_root_cert = \"system\"` requires verify-full, not `{found}`"))
                .hint("set `ssl_mode = \"verify-full\"`: anyone can get a certificate that the system trusts"));
        }
        Some(_) if is_system(config) => Some(system_roots()?),
        Some(path) => Some(read_certificates(path, "ssl_root_cert")?),
        None if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) => {
            let found = mode.name();
            return Err(Error::config(format!("`ssl_mode = \"{found}\"` requires `ssl_root_cert`")).hint(
                "set `ssl_root_cert` to the file with the certificate that signed the server's certificate, or to \
                 \"system\" with verify-full",
            ));
        }
        None => None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(roots, mode == SslMode::VerifyFull, &provider)?;
    let own = if used { own_certificate(config)? } else { None };
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::unexpected(format!("TLS cannot be set up: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let client = match own {
        None => client.with_no_client_auth(),
        Some((chain, key)) => client.with_client_auth_cert(chain, key).map_err(|error| {
            Error::config(format!("the certificate in `ssl_cert` and the key in `ssl_key` cannot be used: {error}"))
                .hint("check that they belong together")
        })?,
    };
    Ok(MakeRustlsConnect::new(client))
}

/// The certificate to show the server, and its key.
fn own_certificate(config: &DatabaseConfig) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    let (certificate, key) = match (&config.ssl_cert, &config.ssl_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::config("only one of `ssl_cert` and `ssl_key` is set")
                .hint("set both: the client certificate and its key"));
        }
    };
    let shown = key.display();
    let unreadable = |why: &dyn std::fmt::Display| {
        Error::config(format!("the key in {shown} cannot be read: {why}"))
            .hint("`ssl_key` needs an unencrypted key in PEM format: `openssl pkey -in KEY -out PLAIN`")
    };
    // Check the file mode now, because pg_dump would refuse it only at the end of the run.
    let meta = std::fs::metadata(key).map_err(|error| unreadable(&base::error::reason(&error)))?;
    let others = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if meta.mode() & others != 0 {
        return Err(Error::config(format!(
            "the key in {shown} is readable by other users, and PostgreSQL's programs refuse such a key"
        ))
        .hint("use chmod 0600, or 0640 if root owns the file; for a Kubernetes volume, set `defaultMode: 0400`"));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(&error))?;
    Ok(Some((read_certificates(certificate, "ssl_cert")?, key)))
}

fn read_certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let unreadable = |why: &dyn std::fmt::Display| {
        Error::config(format!("the certificates in {shown} cannot be read: {why}")).hint(format!("check `{setting}`"))
    };
    let bytes = std::fs::metadata(path).map_err(|e| unreadable(&base::error::reason(&e)))?.len();
    if bytes > ROOTS_BYTES_MAX {
        return Err(unreadable(&format_args!("the file is longer than {ROOTS_BYTES_MAX} bytes")));
    }
    let roots: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))?.collect::<Result<_, _>>();
    let roots = roots.map_err(|e| unreadable(&e))?;
    if roots.is_empty() { Err(unreadable(&"the file contains none")) } else { Ok(roots) }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(Error::config("the operating system has no trusted certificates")
            .hint("install its certificate bundle (ca-certificates), or set `ssl_root_cert` to a file"));
    }
    Ok(found.certs)
}

/// Performs the mode's checks. It also always checks that the server has the certificate's key, because a login with
/// channel binding (SCRAM-SHA-256-PLUS) relies on it even if no certificate is trusted.
#[derive(Debug)]
struct Verifier {
    trusted: Option<Trusted>,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Trusted {
    store: RootCertStore,
    /// The same certificates, for a server that presents one of them as its own.
    itself: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(roots: Option<Vec<CertificateDer<'static>>>, check_name: bool, provider: &CryptoProvider) -> Result<Self> {
        let trusted = match roots {
            None => None,
            Some(itself) => {
                let mut store = RootCertStore::empty();
                let (added, _) = store.add_parsable_certificates(itself.iter().cloned());
                if added == 0 {
                    return Err(Error::config("no certificate in `ssl_root_cert` can be used")
                        .hint("use X.509 version 3 certificates in PEM format"));
                }
                Some(Trusted { store, itself })
            }
        };
        Ok(Self { trusted, check_name, algorithms: provider.signature_verification_algorithms })
    }
}

/// The public key in a certificate of any version.
fn key_of(certificate: &CertificateDer<'_>) -> Result<SubjectPublicKeyInfoDer<'static>, rustls::Error> {
    let encoded = || {
        let certificate = Certificate::from_der(certificate).ok()?;
        certificate.tbs_certificate.subject_public_key_info.to_der().ok()
    };
    let der = encoded().ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(SubjectPublicKeyInfoDer::from(der))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let signed = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &trusted.store,
            intermediates,
            now,
            self.algorithms.all,
        );
        match signed {
            // A self-signed server certificate, as `openssl req -x509` makes it. libpq accepts it too.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if trusted.itself.iter().any(|root| root == end_entity) => {}
            signed => signed?,
        }
        if self.check_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match verify_tls13_signature(message, certificate, signature, &self.algorithms) {
            // rustls parses only version 3 certificates. If no certificate is trusted, only the key matters, and libpq
            // accepts a certificate of any version. For TLS 1.2, rustls offers no way to do the same.
            Err(rustls::Error::InvalidCertificate(_)) if self.trusted.is_none() => {
                let key = key_of(certificate)?;
                verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
            }
            verified => verified,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
