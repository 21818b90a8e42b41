//! Names of Kubernetes objects, as the configuration writes them.

use crate::text::printable;
use serde::Deserialize;

/// Longest name of an object.
const NAME_BYTES_MAX: usize = 253;

/// Longest DNS label: the limit for names of namespaces, and for anything that becomes part of a host name or a label.
pub const LABEL_BYTES_MAX: usize = 63;

/// A namespace's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, derive_more::Display)]
#[serde(try_from = "String")]
pub struct Namespace(String);

impl Namespace {
    /// A namespace whose name is a constant of the program.
    pub fn literal(name: &'static str) -> Self {
        assert!(is_label(name), "`{name}` cannot name a namespace");
        Self(name.to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Namespace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if is_label(&text) { Ok(Self(text)) } else { Err(format!("`{}` cannot name a namespace", printable(&text))) }
    }
}

/// An object in a namespace: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, derive_more::Display)]
#[display("{namespace}/{name}")]
#[serde(try_from = "String")]
pub struct Reference {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
}

impl TryFrom<String> for Reference {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let invalid = || format!("`{}` is not `namespace/name`", printable(&text));
        let (namespace, name) = text.split_once('/').ok_or_else(invalid)?;
        if !is_name(name) {
            return Err(invalid());
        }
        Ok(Self { namespace: namespace.to_owned().try_into().map_err(|_| invalid())?, name: name.to_owned() })
    }
}

/// Whether the text is a valid DNS label, as names of namespaces and volumes must be.
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && !text.contains('.') && is_name(text)
}

/// Whether the text is a valid name for an object.
pub fn is_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    text.len() <= NAME_BYTES_MAX && edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(inner)
}
