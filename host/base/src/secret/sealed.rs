//! Values of a Kubernetes Secret, held in memory for one use. This module never writes or shows them.

use super::{ExposeSecret, SecretString};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::text::printable;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::collections::BTreeMap;

/// A Secret's values in base64, as the API server sends them, for callers that pass them on without decoding them.
#[derive(Debug, Clone)]
pub struct Sealed {
    reference: Reference,
    values: BTreeMap<String, SecretString>,
}

impl Sealed {
    /// The values of the Secret `reference`, each in base64.
    pub const fn new(reference: Reference, values: BTreeMap<String, SecretString>) -> Self {
        Self { reference, values }
    }

    /// The Secret's namespace and name.
    pub const fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Keeps only `keys`, all of which must exist. An empty list keeps every key.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] if the Secret is empty or lacks a key. The hint lists the keys that exist.
    pub fn only(mut self, keys: &[String]) -> Result<Self> {
        if let Some(missing) = keys.iter().find(|key| !self.values.contains_key(*key)) {
            return Err(self.missing_key(missing));
        }
        if !keys.is_empty() {
            self.values.retain(|key, _| keys.contains(key));
        }
        if self.values.is_empty() {
            return Err(Error::config(format!("the Secret {} is empty", self.reference)));
        }
        Ok(self)
    }

    /// Its values by key, still in base64.
    pub const fn values(&self) -> &BTreeMap<String, SecretString> {
        &self.values
    }

    fn missing_key(&self, key: &str) -> Error {
        let keys: Vec<String> = self.values.keys().map(|key| format!("`{}`", printable(key))).collect();
        let hint = if keys.is_empty() { "it is empty".to_owned() } else { format!("it has {}", keys.join(", ")) };
        Error::config(format!("the Secret {} has no key `{key}`", self.reference)).hint(hint)
    }

    fn decode(&self, key: &str) -> Result<Option<SecretString>> {
        let Some(encoded) = self.values.get(key) else { return Ok(None) };
        let invalid = |problem| Error::config(format!("`{key}` of the Secret {} {problem}", self.reference));
        let bytes = BASE64_STANDARD.decode(encoded.expose_secret()).map_err(|_| invalid("is not base64"))?;
        let text = String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8 text"))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(invalid("is empty"));
        }
        Ok(Some(SecretString::from(text.to_owned())))
    }
}

/// A Secret's values, decoded on access. All of them come from one read of the Secret.
#[derive(Debug, Clone)]
pub struct Values {
    sealed: Sealed,
}

impl From<Sealed> for Values {
    fn from(sealed: Sealed) -> Self {
        Self { sealed }
    }
}

impl Values {
    /// One value.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] if it is missing, empty, or not UTF-8 text in base64.
    pub fn get(&self, key: &str) -> Result<SecretString> {
        self.sealed.decode(key)?.ok_or_else(|| self.sealed.missing_key(key))
    }

    /// One value, or `None` if the Secret does not have the key.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] if it is empty, or not UTF-8 text in base64.
    pub fn get_optional(&self, key: &str) -> Result<Option<SecretString>> {
        self.sealed.decode(key)
    }
}
