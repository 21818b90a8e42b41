//! Signs with the builder's key, in minisign's format.

use crate::run::failure;
use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minisign::{PublicKey, SecretKey, SecretKeyBox};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The extension that minisign appends to the full name of the signed file.
pub const EXTENSION: &str = "minisig";

/// Limit on a key file. A real one has two lines and less than 300 bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// A secret key that can sign.
pub struct Key {
    secret: SecretKey,
    public: PublicKey,
}

impl Key {
    /// Reads a key file, and asks on the terminal for its password if it has one.
    pub fn read(path: &Path) -> Result<Self> {
        let mut text = String::new();
        // With a limit, because the path may be a pipe or a device that never ends.
        let read = File::open(path).and_then(|file| file.take(KEY_BYTES_MAX).read_to_string(&mut text));
        read.with_context(|| format!("cannot read {}", path.display()))?;
        let secret = match without_password(&text) {
            Some(secret) => Ok(secret),
            None => SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(None)),
        };
        let key = secret.and_then(|secret| Ok(Self { public: PublicKey::from_secret_key(&secret)?, secret }));
        key.map_err(|error| {
            let message = format!("{} is not a usable secret key: {error}", path.display());
            let hint =
                "make one with `minisign -G -s FILE`, or without a password, for use without a terminal, with `-G -W`";
            failure(message, hint)
        })
    }

    /// The public key in the form of `signed_by`.
    pub fn public(&self) -> String {
        self.public.to_base64()
    }

    /// The text of a signature file. The trusted comment contains the file's name, the version and the digest.
    ///
    /// # Errors
    /// If the key is corrupted.
    pub fn signature(&self, name: &str, version: &str, content: &[u8]) -> Result<String> {
        let sha256 = hex::encode(Sha256::digest(content));
        let trusted = format!("dolibarr-backup {version}, file:{name}, sha256:{sha256}");
        let signature = minisign::sign(Some(&self.public), &self.secret, content, Some(&trusted), None);
        Ok(signature.with_context(|| format!("cannot sign {name}"))?.into_string())
    }
}

/// Reads a key without a password. Minisign 0.11 leaves its checksum empty, and the library would take it for a
/// corrupted key. A key that is really corrupted cannot sign: each new signature is verified with the public half.
fn without_password(text: &str) -> Option<SecretKey> {
    let bytes = BASE64_STANDARD.decode(text.lines().nth(1)?).ok()?;
    SecretKey::from_bytes(&bytes).ok().filter(|key| !key.is_encrypted())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use minisign::{KeyPair, SignatureBox};
    use std::fs;
    use std::io::Cursor;

    /// A new key and its public key.
    pub fn key(folder: &Path) -> (Key, PublicKey) {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().expect("a key");
        let file = folder.join("builder.key");
        fs::write(&file, sk.to_box(None).expect("text").into_string()).expect("written");
        (Key::read(&file).expect("the key"), pk)
    }

    /// Whether a signature matches this content and key.
    pub fn is_signed(public: &PublicKey, signature: &str, content: &[u8]) -> bool {
        let signature = SignatureBox::from_string(signature).expect("a signature");
        minisign::verify(public, &signature, Cursor::new(content), true, false, false).is_ok()
    }

    #[test]
    fn a_signature_verifies_only_with_its_content_and_its_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let (key, public) = key(folder.path());
        let signature = key.signature("a.wasm", "0.1.0", b"a component").expect("signed");
        assert!(is_signed(&public, &signature, b"a component"));
        assert!(!is_signed(&public, &signature, b"a componens"));
        assert!(signature.contains("trusted comment: dolibarr-backup 0.1.0, file:a.wasm, sha256:"));
        let (_, another) = super::tests::key(folder.path());
        assert!(!is_signed(&another, &signature, b"a component"));
    }

    /// A key that Debian's minisign 0.11 made with `-G -W`. It is used only in this test.
    const MINISIGN_KEY: &str = "untrusted comment: minisign encrypted secret key\n\
        RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAfbBEjQnsux/7qpEec4i5iIPd5YP8x5lwiNXgLlOhImc7Ti1FRF8rLKHr9mA/vVKFjN7w6x8ueXZvWhJtSRmvp7MFFZgdIsd4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn a_key_that_minisign_made_without_a_password_signs_unless_it_is_corrupted() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        fs::write(&file, MINISIGN_KEY).expect("written");
        let key = Key::read(&file).expect("the key");
        let signature = key.signature("a.wasm", "0.1.0", b"a component").expect("signed");
        assert!(is_signed(&key.public, &signature, b"a component"));
        let lines: Vec<&str> = MINISIGN_KEY.lines().collect();
        let mut bytes = BASE64_STANDARD.decode(lines[1]).expect("base64");
        // This byte is in the secret half, after the algorithms, salt, limits and the key's number.
        bytes[70] ^= 1;
        fs::write(&file, format!("{}\n{}\n", lines[0], BASE64_STANDARD.encode(bytes))).expect("written");
        let corrupted = Key::read(&file).expect("a key that can be read");
        assert!(corrupted.signature("a.wasm", "0.1.0", b"a component").is_err());
    }

    #[test]
    fn a_file_that_is_not_a_key_is_named_in_the_error() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "untrusted comment: x\n", "untrusted comment: x\nRWQ\n"] {
            let file = folder.path().join("key");
            fs::write(&file, text).expect("written");
            let error = Key::read(&file).err().expect("refused");
            assert!(error.to_string().contains("is not a usable secret key"), "{text:?}: {error}");
        }
        assert!(Key::read(&folder.path().join("none")).is_err());
        assert!(Key::read(Path::new("/dev/zero")).is_err(), "a device that never ends");
    }
}
