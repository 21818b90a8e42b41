//! Values of a Secret, read into memory for one use. They are not written anywhere, and nothing here shows one.

use super::client::SECRETS;
use super::{Cluster, Config, Reference};
use crate::error::{Error, Result};
use crate::secret::SecretString;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::collections::BTreeMap;

/// A Secret's values as the API server has them, in base64, for whoever carries them on without looking inside.
#[derive(Debug, Clone)]
pub struct Sealed {
    of: Reference,
    values: BTreeMap<String, SecretString>,
}

impl Sealed {
    /// Reads one Secret.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when there is none or it may not be read; [`crate::error::Class::Unavailable`].
    pub async fn read(cluster: &Cluster, of: &Reference) -> Result<Self> {
        let found = cluster.get(SECRETS, of.namespace.as_str(), &of.name).await?;
        let Some(Value::Object(mut object)) = found else {
            return Err(Error::config(format!("{} has no Secret {of}", cluster.shown()))
                .hint("check `namespace/name`, and that whoever makes it has done so"));
        };
        let data = match object.remove("data") {
            Some(Value::Object(data)) => data,
            Some(_) | None => serde_json::Map::new(),
        };
        let values = data.into_iter().filter_map(|(key, value)| match value {
            Value::String(text) => Some((key, SecretString::from(text))),
            _ => None,
        });
        Ok(Self { of: of.clone(), values: values.collect() })
    }

    /// Which Secret it is.
    #[must_use]
    pub const fn reference(&self) -> &Reference {
        &self.of
    }

    /// Only these keys, all of which must be there; all keys where none is named.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] naming the first that is missing, and those that are there.
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
    pub(super) const fn values(&self) -> &BTreeMap<String, SecretString> {
        &self.values
    }

    fn without(&self, key: &str) -> Error {
        let keys: Vec<String> =
            self.values.keys().map(|key| format!("`{}`", crate::capability::printable(key))).collect();
        let hint = if keys.is_empty() { "it is empty".to_owned() } else { format!("it has {}", keys.join(", ")) };
        Error::config(format!("the Secret {} has no key `{key}`", self.of)).hint(hint)
    }

    fn open(&self, key: &str) -> Result<Option<SecretString>> {
        use crate::secret::ExposeSecret;
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

impl Values {
    /// Reads one Secret of the configured cluster.
    ///
    /// # Errors
    /// As [`Cluster::connect`] and [`Sealed::read`].
    pub async fn read(config: &Config, of: &Reference) -> Result<Self> {
        let cluster = Cluster::connect(config).await?;
        Ok(Self { sealed: Sealed::read(&cluster, of).await? })
    }

    /// One value.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when it is missing, empty, or no text.
    pub fn get(&self, key: &str) -> Result<SecretString> {
        self.sealed.open(key)?.ok_or_else(|| self.sealed.without(key))
    }

    /// One value, where there is one.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when it is empty, or no text.
    pub fn get_optional(&self, key: &str) -> Result<Option<SecretString>> {
        self.sealed.open(key)
    }
}
