//! Secrets. They are parsed once, at the edge, into a type that prints as `[REDACTED]` and cannot be serialised.

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

/// Largest credential file that is read. Passwords and keys are far shorter; a larger file is the wrong one.
const CREDENTIAL_BYTES_MAX: u64 = 64 << 10;

/// Where credentials come from. They are read again at each use, because they rotate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct SecretSource {
    /// A folder with one file per value, as Kubernetes and Vault mount secrets.
    pub files: Option<PathBuf>,
    /// The standard environment variables.
    #[serde(default)]
    pub env: bool,
    /// Only a user name, for servers with trust or peer authentication.
    pub user: Option<String>,
    /// A Secret in a Kubernetes cluster, `namespace/name`, with the file names as its keys.
    pub kube_secret: Option<Box<Reference>>,
    /// Reads that Secret. Set by the configuration, which knows the cluster.
    #[serde(skip)]
    pub fetch: Option<Fetch>,
}

/// Reads a Secret of a cluster. This crate has no Kubernetes client, so the caller provides the function.
#[derive(Clone)]
pub struct Fetch(Arc<dyn Fn(Reference) -> BoxFuture<'static, Result<Sealed>> + Send + Sync>);

impl Fetch {
    /// Wraps a function that reads a Secret.
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
    /// Always: two places of credentials are equal if they name the same files, variables or Secret.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Fetch {}

/// Credentials that can be read. All values of a Kubernetes Secret come from one request.
#[derive(Debug)]
pub enum OpenCredentials<'s> {
    /// Files or variables, which are read one by one.
    Place(&'s SecretSource),
    /// The values of a Secret.
    Secret(Values),
}

impl SecretSource {
    /// Opens the credentials. A Kubernetes Secret is fetched here, once for all its values.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] if the Secret does not exist or access is denied;
    /// [`crate::error::Class::Unavailable`] if its cluster does not answer.
    pub async fn open(&self) -> Result<OpenCredentials<'_>> {
        let Some(secret) = &self.kube_secret else { return Ok(OpenCredentials::Place(self)) };
        let fetch = self.fetch.as_ref().ok_or_else(|| {
            Error::config("credentials cannot be read from a Kubernetes Secret here")
                .hint("use `files` or `env` instead")
        })?;
        let sealed = (fetch.0)(Reference::clone(secret)).await.map_err(|e| e.context("reading credentials"))?;
        Ok(OpenCredentials::Secret(sealed.into()))
    }
}

impl OpenCredentials<'_> {
    /// One value: the file `file` in the folder, the key `file` of the Secret, or the environment variable `variable`.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] if the value is missing or unreadable. The message never contains the value.
    pub fn read(&self, file: &str, variable: &str) -> Result<SecretString> {
        let source = match self {
            Self::Secret(values) => return values.get(file),
            Self::Place(source) => source,
        };
        match (&source.files, source.env) {
            (Some(folder), _) => read_file(&folder.join(file)),
            (None, true) => environment_variable(variable).map(SecretString::from).ok_or_else(|| {
                Error::config(format!("the environment variable {variable} is not set"))
                    .hint(format!("set {variable}, or use `credentials = {{ files = \"FOLDER\" }}`"))
            }),
            (None, false) => Err(Error::config(format!("`credentials` has no source for `{file}`")).hint(
                "set `credentials` to `{ files = \"FOLDER\" }`, `{ env = true }` or `{ kube_secret = \"NAMESPACE/NAME\" }`",
            )),
        }
    }

    /// Like [`OpenCredentials::read`], but `None` if the file, key or variable does not exist.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] if the value exists but cannot be read.
    pub fn read_optional(&self, file: &str, variable: &str) -> Result<Option<SecretString>> {
        let source = match self {
            Self::Secret(values) => return values.get_optional(file),
            Self::Place(source) => source,
        };
        match (&source.files, source.env) {
            // A file that may exist and cannot be looked at is not an absent one: reading it says why.
            (Some(folder), _) if folder.join(file).try_exists().is_ok_and(|exists| !exists) => Ok(None),
            (Some(_), _) => self.read(file, variable).map(Some),
            (None, true) => Ok(environment_variable(variable).map(SecretString::from)),
            (None, false) => Ok(None),
        }
    }
}

fn read_file(path: &Path) -> Result<SecretString> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| {
        Error::config(format!("the credential file {shown} cannot be read: {}", crate::error::reason(&e)))
            .hint("check the path in `credentials` and the file's permissions")
    })?;
    if meta.len() > CREDENTIAL_BYTES_MAX {
        return Err(Error::config(format!("the credential file {shown} is larger than {CREDENTIAL_BYTES_MAX} bytes"))
            .hint("check the path in `credentials`"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::config(format!("the credential file {shown} cannot be read: {}", crate::error::reason(&e)))
            .hint("check the file's permissions and that it contains UTF-8 text")
    })?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Error::config(format!("the credential file {shown} is empty")));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// Replaces every occurrence of the secrets in foreign text, such as a message from a server or a child process.
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
    fn an_optional_value_that_cannot_be_looked_at_is_not_taken_for_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file in place of the folder");
        std::fs::write(&file, "x").unwrap();
        let source = SecretSource { files: Some(file), ..SecretSource::default() };
        let error = OpenCredentials::Place(&source).read_optional("password", "X").unwrap_err();
        assert!(error.message().contains("cannot be read"), "{error}");
    }

    #[test]
    fn secrets_are_redacted_in_debug_output_and_foreign_text() {
        let secret = SecretString::from("hunter2-canary".to_owned());
        assert!(!format!("{secret:?}").contains("canary"));
        assert_eq!(redact("password=hunter2-canary;", &[&secret]), "password=[redacted];");
        assert_eq!(redact("unchanged", &[&SecretString::from(String::new())]), "unchanged");
    }

    #[test]
    fn trailing_newlines_are_stripped_and_empty_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "s3cret\n").unwrap();
        std::fs::write(folder.path().join("username"), "\n").unwrap();
        let source = SecretSource { files: Some(folder.path().into()), ..SecretSource::default() };
        let source = OpenCredentials::Place(&source);
        assert_eq!(source.read("password", "X").unwrap().expose_secret(), "s3cret");
        assert!(source.read("username", "X").unwrap_err().message().contains("is empty"));
        assert!(source.read("missing", "X").unwrap_err().message().contains("missing"));
        assert!(source.read_optional("missing", "X").unwrap().is_none());
    }
}
