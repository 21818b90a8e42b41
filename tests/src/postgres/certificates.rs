//! The certificates of a server that serves TLS.

use super::{Options, give};
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// An X.509 version 1 certificate and its key, because no Rust library creates one. They protect nothing.
const VERSION_1: (&str, &str) = (
    include_str!("../../fixtures/x509-version-1/server.crt"),
    include_str!("../../fixtures/x509-version-1/server.key"),
);

/// Writes `root.crt`, `server.crt` with `server.key`, and `stranger.crt`.
pub fn write(folder: &Path, owner: Option<(u32, u32)>, options: &Options) -> Result<()> {
    let authority = |name: &str| -> Result<_> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), Issuer::new(params, key)))
    };
    let ((root, issuer), (stranger, _)) = (authority("root")?, authority("stranger")?);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    let server = if options.self_signed {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&key)?
    } else {
        params.signed_by(&key, &issuer)?
    };
    let client_key = KeyPair::generate()?;
    let mut client = CertificateParams::new(Vec::<String>::new())?;
    client.distinguished_name = rcgen::DistinguishedName::new();
    client.distinguished_name.push(rcgen::DnType::CommonName, "reader");
    let client = client.signed_by(&client_key, &issuer)?;
    let files = [
        ("client.crt", client.pem()),
        ("client.key", client_key.serialize_pem()),
        ("root.crt", root),
        ("stranger.crt", stranger),
        ("server.crt", if options.version_1 { VERSION_1.0.to_owned() } else { server.pem() }),
        ("server.key", if options.version_1 { VERSION_1.1.to_owned() } else { key.serialize_pem() }),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(if name.ends_with(".key") { 0o600 } else { 0o644 }))?;
        give(&path, owner)?;
    }
    Ok(())
}
