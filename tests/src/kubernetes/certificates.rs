//! The certificates of a control plane (authority, server and users), and the key of the service accounts.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// The API server's service address.
pub(super) const FIRST_SERVICE: [u8; 4] = [10, 97, 0, 1];

/// The authority that signs every certificate of a control plane.
fn authority() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    Ok(params)
}

/// Writes the authority, the server's certificate, those of three users, and the key of the service accounts.
pub(super) fn write(folder: &Path) -> Result<()> {
    let params = authority()?;
    let key = KeyPair::generate()?;
    fs::write(folder.join("authority.crt"), params.self_signed(&key)?.pem())?;
    fs::write(folder.join("authority.key"), key.serialize_pem())?;
    let issuer = Issuer::new(params, key);

    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "kubernetes.default.svc".to_owned()])?;
    for address in [[127, 0, 0, 1], FIRST_SERVICE] {
        server.subject_alt_names.push(SanType::IpAddress(IpAddr::from(address)));
    }
    server.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    write_signed(folder, &issuer, "server", &server)?;

    sign(folder, &issuer, "admin", "admin", Some("system:masters"))?;
    sign(folder, &issuer, "manager", "system:kube-controller-manager", None)?;
    sign(folder, &issuer, "scheduler", "system:kube-scheduler", None)?;
    let accounts = KeyPair::generate()?;
    fs::write(folder.join("accounts.key"), accounts.serialize_pem())?;
    fs::write(folder.join("accounts.pub"), accounts.public_key_pem())?;
    Ok(())
}

/// Writes `user.crt` and `user.key` of a user without groups.
pub(super) fn write_user(folder: &Path, user: &str) -> Result<()> {
    let key = KeyPair::from_pem(&fs::read_to_string(folder.join("authority.key"))?)?;
    sign(folder, &Issuer::new(authority()?, key), user, user, None)
}

/// Writes `node.crt` and `node.key` of a node's kubelet.
pub(super) fn write_node(folder: &Path, node: &str) -> Result<()> {
    let key = KeyPair::from_pem(&fs::read_to_string(folder.join("authority.key"))?)?;
    let issuer = Issuer::new(authority()?, key);
    sign(folder, &issuer, "node", &format!("system:node:{node}"), Some("system:nodes"))
}

/// Writes `file.crt` and `file.key` of a user.
fn sign(folder: &Path, issuer: &Issuer<'_, KeyPair>, file: &str, user: &str, group: Option<&str>) -> Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    write_signed(folder, issuer, file, &params)
}

fn write_signed(folder: &Path, issuer: &Issuer<'_, KeyPair>, file: &str, params: &CertificateParams) -> Result<()> {
    let key = KeyPair::generate()?;
    fs::write(folder.join(format!("{file}.crt")), params.signed_by(&key, issuer)?.pem())?;
    fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}
