//! Secrets, parsed once at the edge into a type that prints as `[REDACTED]` and that no persisted format accepts.

mod sealed;

pub use sealed::{Sealed, Values};

pub use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::variables::environment_variable;
use futures::future::BoxFuture;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest credential file that is read. Passwords and keys are far shorter; anything longer is the wrong file.
const CREDENTIAL_BYTES_MAX: u64 = 64 << 10;

/// Where credentials come from. Read again whenever they are needed, because they rotate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct Source {
    /// A folder with one file a value, as Kubernetes and Vault mount a secret.
    pub files: Option<PathBuf>,
    /// The standard environment variables.
    #[serde(default)]
    pub env: bool,
    /// A user name alone, for servers that trust or use peer authentication.
    pub user: Option<String>,
    /// A Secret in a Kubernetes cluster, `namespace/name`, whose keys are named as the files are.
    pub kube_secret: Option<Box<Reference>>,
    /// Reads that Secret. The configuration knows the cluster and sets it.
    #[serde(skip)]
    pub fetch: Option<Fetch>,
}

/// Reads a Secret of a cluster. This crate knows no cluster, so whoever does hands the reading in.
#[derive(Clone)]
pub struct Fetch(Arc<dyn Fn(Reference) -> BoxFuture<'static, Result<Sealed>> + Send + Sync>);

impl Fetch {
    /// Reads by `fetch`.
    pub fn new(fetch: impl Fn(Reference) -> BoxFuture<'static, Result<Sealed>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fetch))
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetch")
    }
}

impl PartialEq for Fetch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Fetch {}

/// One look at the credentials. What comes out of a Kubernetes Secret is all of one moment.
#[derive(Debug)]
pub enum Look<'s> {
    /// Files or variables, which are read one by one.
    Place(&'s Source),
    /// The values of a Secret.
    Secret(Values),
}

impl Source {
    /// Begins to read. A Kubernetes Secret is fetched here, once for all its values.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when there is no such Secret or it may not be read;
    /// [`crate::error::Class::Unavailable`] when its cluster does not answer.
    pub async fn look(&self) -> Result<Look<'_>> {
        let Some(secret) = &self.kube_secret else { return Ok(Look::Place(self)) };
        let fetch = self.fetch.as_ref().ok_or_else(|| {
            Error::config("credentials of a Kubernetes Secret cannot be read here")
                .hint("give them as `files` or `env`")
        })?;
        let sealed = (fetch.0)(Reference::clone(secret)).await.map_err(|e| e.context("reading credentials"))?;
        Ok(Look::Secret(sealed.into()))
    }
}

impl Look<'_> {
    /// One value: the file `file` of the folder, that key of the Secret, or the environment variable `variable`.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when the value is missing or unreadable. The message names the place, never the value.
    pub fn read(&self, file: &str, variable: &str) -> Result<SecretString> {
        let source = match self {
            Self::Secret(values) => return values.get(file),
            Self::Place(source) => source,
        };
        match (&source.files, source.env) {
            (Some(folder), _) => read_file(&folder.join(file)),
            (None, true) => environment_variable(variable).map(SecretString::from).ok_or_else(|| {
                Error::config(format!("the environment variable {variable} is not set"))
                    .hint(format!("set {variable}, or give credentials as `files = \"FOLDER\"`"))
            }),
            (None, false) => Err(Error::config(format!("no credentials hold `{file}`")).hint(
                "give credentials as `{ files = \"FOLDER\" }`, `{ env = true }` or `{ kube_secret = \"NAMESPACE/NAME\" }`",
            )),
        }
    }

    /// Like [`Look::read`], but `None` where the file, key or variable does not exist.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when the value exists and cannot be read.
    pub fn read_optional(&self, file: &str, variable: &str) -> Result<Option<SecretString>> {
        let source = match self {
            Self::Secret(values) => return values.get_optional(file),
            Self::Place(source) => source,
        };
        match (&source.files, source.env) {
            (Some(folder), _) if !folder.join(file).exists() => Ok(None),
            (Some(_), _) => self.read(file, variable).map(Some),
            (None, true) => Ok(environment_variable(variable).map(SecretString::from)),
            (None, false) => Ok(None),
        }
    }
}

fn read_file(path: &Path) -> Result<SecretString> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| {
        Error::config(format!("the credential file {shown} cannot be read: {}", e.kind()))
            .hint("check the path under `credentials` and the file's mode")
    })?;
    if meta.len() > CREDENTIAL_BYTES_MAX {
        return Err(Error::config(format!("the credential file {shown} is longer than {CREDENTIAL_BYTES_MAX} bytes"))
            .hint("check the path under `credentials`"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::config(format!("the credential file {shown} cannot be read: {}", e.kind()))
            .hint("check the file's mode and that it is UTF-8 text")
    })?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Error::config(format!("the credential file {shown} is empty")));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// Replaces every occurrence of the secrets in a text that came from elsewhere, such as a server's or a child's message.
#[must_use]
pub fn redact(text: &str, secrets: &[&SecretString]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        let secret = secret.expose_secret();
        if !secret.is_empty() {
            text = text.replace(secret, "[redacted]");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_redacted_and_is_cut_out_of_foreign_text() {
        let secret = SecretString::from("hunter2-canary".to_owned());
        assert!(!format!("{secret:?}").contains("canary"));
        assert_eq!(redact("password=hunter2-canary;", &[&secret]), "password=[redacted];");
        assert_eq!(redact("unchanged", &[&SecretString::from(String::new())]), "unchanged");
    }

    #[test]
    fn a_mounted_secret_loses_its_newline_and_an_empty_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "s3cret\n").unwrap();
        std::fs::write(folder.path().join("username"), "\n").unwrap();
        let source = Source { files: Some(folder.path().into()), ..Source::default() };
        let source = Look::Place(&source);
        assert_eq!(source.read("password", "X").unwrap().expose_secret(), "s3cret");
        assert!(source.read("username", "X").unwrap_err().message().contains("is empty"));
        assert!(source.read("missing", "X").unwrap_err().message().contains("missing"));
        assert!(source.read_optional("missing", "X").unwrap().is_none());
    }
}
