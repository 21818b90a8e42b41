//! Values of a Kubernetes Secret, in memory for one use. They are not written anywhere, and nothing here shows one.

use super::{ExposeSecret, SecretString};
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::text::printable;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::collections::BTreeMap;

/// A Secret's values as the API server has them, in base64, for whoever carries them on without looking inside.
#[derive(Debug, Clone)]
pub struct Sealed {
    of: Reference,
    values: BTreeMap<String, SecretString>,
}

impl Sealed {
    /// The values of `of`, each in base64.
    #[must_use]
    pub const fn new(of: Reference, values: BTreeMap<String, SecretString>) -> Self {
        Self { of, values }
    }

    /// Which Secret it is.
    #[must_use]
    pub const fn reference(&self) -> &Reference {
        &self.of
    }

    /// Only these keys, all of which must be there; all keys where none is named.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] naming the first that is missing, and those that are there.
    pub fn only(mut self, keys: &[String]) -> Result<Self> {
        if let Some(missing) = keys.iter().find(|key| !self.values.contains_key(*key)) {
            return Err(self.without(missing));
        }
        if !keys.is_empty() {
            self.values.retain(|key, _| keys.contains(key));
        }
        if self.values.is_empty() {
            return Err(Error::config(format!("the Secret {} is empty", self.of)));
        }
        Ok(self)
    }

    /// Its values by key, still in base64.
    pub const fn values(&self) -> &BTreeMap<String, SecretString> {
        &self.values
    }

    fn without(&self, key: &str) -> Error {
        let keys: Vec<String> = self.values.keys().map(|key| format!("`{}`", printable(key))).collect();
        let hint = if keys.is_empty() { "it is empty".to_owned() } else { format!("it has {}", keys.join(", ")) };
        Error::config(format!("the Secret {} has no key `{key}`", self.of)).hint(hint)
    }

    fn open(&self, key: &str) -> Result<Option<SecretString>> {
        let Some(sealed) = self.values.get(key) else { return Ok(None) };
        let wrong = |what| Error::config(format!("`{key}` of the Secret {} {what}", self.of));
        let bytes = BASE64_STANDARD.decode(sealed.expose_secret()).map_err(|_| wrong("is not base64"))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8 text"))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        Ok(Some(SecretString::from(text.to_owned())))
    }
}

/// A Secret's values, opened: all of one moment.
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
    /// [`base::error::Class::Config`] when it is missing, empty, or no text.
    pub fn get(&self, key: &str) -> Result<SecretString> {
        self.sealed.open(key)?.ok_or_else(|| self.sealed.without(key))
    }

    /// One value, where there is one.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] when it is empty, or no text.
    pub fn get_optional(&self, key: &str) -> Result<Option<SecretString>> {
        self.sealed.open(key)
    }
}
