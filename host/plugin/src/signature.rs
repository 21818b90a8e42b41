//! Signatures of components: detached, in minisign's format, and verified before any of the component is parsed.

use super::bounded_file;
use base::error::{Error, Result};
use minisign_verify::{Error as Flaw, PublicKey, Signature};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Suffix that minisign appends to the component's name for its signature.
pub const SUFFIX: &str = ".minisig";

/// Media type of a layer that holds the signature of the component in the same manifest. minisign has no registered
/// media type.
pub const MEDIA_TYPE: &str = "application/x-minisig";

/// Longest signature that is read: four lines, and minisign allows comments of up to 8 KiB.
pub const BYTES_MAX: u64 = 16 << 10;

/// A minisign public key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, derive_more::Display)]
#[display("{text}")]
#[serde(try_from = "String")]
pub struct Key {
    text: String,
    key: PublicKey,
}

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        match PublicKey::from_base64(&text) {
            Ok(key) => Ok(Self { text, key }),
            Err(_) => {
                Err("signed_by expects a minisign public key: the second line of `minisign.pub`, which begins with RW")
            }
        }
    }
}

impl std::str::FromStr for Key {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl Key {
    /// Verifies the signature of a component. `what` names the component in an error.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for a missing signature, another key, or changed bytes.
    pub fn verify(&self, bytes: &[u8], signature: Option<&[u8]>, what: &str) -> Result<()> {
        let Some(signature) = signature else {
            return Err(Error::config(format!("{what} is not signed, but signed_by names a key")).hint(format!(
                "`minisign -S -m FILE` writes FILE{SUFFIX}; put it beside the file, or push it to the registry as \
                 another layer of the type {MEDIA_TYPE}"
            )));
        };
        let verified = std::str::from_utf8(signature).map_err(|_| Flaw::InvalidEncoding).and_then(|text| {
            // minisign before 0.10 signed the file itself instead of its hash. The whole file is in memory, so both
            // forms work.
            self.key.verify(bytes, &Signature::decode(text)?, true)
        });
        verified.map_err(|flaw| {
            let (why, hint) = match flaw {
                Flaw::UnexpectedKeyId => (
                    "was signed with another key than the one that signed_by names",
                    "find out who signed it, and set signed_by to that key only if you trust it",
                ),
                Flaw::InvalidSignature => (
                    "does not match its signature",
                    "nothing was used; the file or its signature was changed, so get both again from its author",
                ),
                _ => (
                    "has a signature that cannot be read",
                    "get the file that `minisign -S` wrote; it has four lines of text",
                ),
            };
            Error::config(format!("{what} {why}")).hint(hint)
        })
    }
}

/// Path of a file's signature.
pub fn beside(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// Reads the signature beside a file, if it has one.
///
/// # Errors
/// [`base::error::Class::Config`] if it cannot be read or is too long.
pub fn read(component: &Path) -> Result<Option<Vec<u8>>> {
    let path = beside(component);
    let unreadable = |why: String| {
        Error::config(format!("the signature {} cannot be read: {why}", path.display()))
            .hint("put the file that `minisign -S` wrote there, readable by the user that runs this")
    };
    bounded_file::read(&path, BYTES_MAX).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::error::Class;

    /// Made with Debian's minisign 0.11, one of them with `-l`.
    const SIGNED: &[u8] = b"a component";
    const KEY: &str = "RWSqiFBqlycG6yVQ6RqfZBwJUGulOI7CCiRbjWnqlZ/33l8/Sm/u3k9i";
    const OTHER_KEY: &str = "RWRkq9OJzva1blsSmgBcUTHqu+KRckCPGl/+cjZadfE22EmoTUFhP3On";
    const SIGNATURES: [&str; 2] = [
        "untrusted comment: signature from minisign secret key\n\
         RUSqiFBqlycG66VKWw/fNZBxbGUVdFoUdOScS1VaOVrikds8nono6B5o6k08hRPN2pYrixjIkkGhJrYAicFn7s1+cg+FkXlb4QA=\n\
         trusted comment: release 1\n\
         M22ykGZo5HaEjygl8vXDQzjcoWGx47udVqTLYJ+WZDMqQYWTFgiLPjTTPt/sJXI5Kc3OINPiAco9lE7BCVLACw==\n",
        "untrusted comment: signature from minisign secret key\n\
         RWSqiFBqlycG610S2heezXRnlmcFWVIIEi3tOHGasdCAfgh3vj4HHmzRF0DJrtUCMShr7UA7wI7XKHL6CGBou/A0yCLuMFfHfg4=\n\
         trusted comment: release 1\n\
         thF/+wfKGfieitQhrzhaIt/YEesPuBR7VpljczKT8gi9JUqmTrBGC2CW4S9lqfCTu5mWUVPMS3F5F7XeByieCA==\n",
    ];

    fn verify(key: &str, bytes: &[u8], signature: Option<&str>) -> Result<()> {
        key.parse::<Key>().unwrap().verify(bytes, signature.map(str::as_bytes), "the component x.wasm")
    }

    #[test]
    fn a_signature_matches_only_its_own_bytes_and_key() {
        for signature in SIGNATURES {
            verify(KEY, SIGNED, Some(signature)).unwrap();
            for (key, bytes, says) in [
                (KEY, &b"a componenT"[..], "does not match its signature"),
                (KEY, b"", "does not match its signature"),
                (OTHER_KEY, SIGNED, "was signed with another key"),
            ] {
                let error = verify(key, bytes, Some(signature)).unwrap_err();
                assert!(error.class() == Class::Config && error.message().contains(says), "{error}");
                assert!(error.message().contains("x.wasm") && error.advice().is_some());
            }
        }
    }

    #[test]
    fn no_byte_of_a_signature_can_be_changed() {
        for signature in SIGNATURES {
            // The first line is the untrusted comment, which is not signed.
            let signed_from = signature.find('\n').unwrap() + 1;
            for (at, _) in signature.char_indices().filter(|(at, char)| *at >= signed_from && *char != '\n') {
                let mut changed = signature.as_bytes().to_vec();
                changed[at] ^= 1;
                let Ok(text) = std::str::from_utf8(&changed) else { continue };
                assert!(verify(KEY, SIGNED, Some(text)).is_err(), "{at} of {signature}");
            }
        }
    }

    #[test]
    fn a_missing_signature_is_distinguished_from_an_unreadable_one() {
        let error = verify(KEY, SIGNED, None).unwrap_err();
        assert!(error.message().contains("is not signed"), "{error}");
        assert!(error.advice().unwrap().contains(".minisig") && error.advice().unwrap().contains(MEDIA_TYPE));
        let short: String = SIGNATURES[0].lines().take(2).collect::<Vec<_>>().join("\n");
        for text in ["", "\n\n\n\n", "x\ny\nz\nw\n", &short, "untrusted comment: é\né\ntrusted comment:é\né"] {
            let error = verify(KEY, SIGNED, Some(text)).unwrap_err();
            assert!(error.message().contains("cannot be read"), "{text:?}: {error}");
        }
        let key: Key = KEY.parse().unwrap();
        assert!(key.verify(SIGNED, Some(&[0xff; 400]), "x").is_err());
    }

    #[test]
    fn a_key_is_the_second_line_of_its_file() {
        assert_eq!(KEY.parse::<Key>().unwrap().to_string(), KEY);
        let file = format!("untrusted comment: minisign public key EB0627976A5088AA\n{KEY}\n");
        for text in ["", "RW", &file, &KEY[1..], "../minisign.pub"] {
            assert!(text.parse::<Key>().unwrap_err().contains("minisign.pub"), "{text}");
        }
    }

    #[test]
    fn only_a_file_of_a_signatures_length_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let component = folder.path().join("x.wasm");
        assert_eq!(read(&component).unwrap(), None);
        let at = beside(&component);
        assert_eq!(at, folder.path().join("x.wasm.minisig"));
        std::fs::write(&at, SIGNATURES[0]).unwrap();
        assert_eq!(read(&component).unwrap().as_deref(), Some(SIGNATURES[0].as_bytes()));
        std::fs::write(&at, vec![b'x'; usize::try_from(BYTES_MAX).unwrap() + 1]).unwrap();
        assert!(read(&component).unwrap_err().message().contains("longer than"));
        for other in ["/dev/zero", "/"] {
            std::fs::remove_file(&at).unwrap();
            std::os::unix::fs::symlink(other, &at).unwrap();
            let error = read(&component).unwrap_err();
            assert!(error.message().contains("it is not a regular file"), "{error}");
        }
    }
}
