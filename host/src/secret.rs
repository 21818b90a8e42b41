//! Secrets, parsed once at the edge into a type that prints as `[REDACTED]` and that no persisted format accepts.

pub use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Longest credential file that is read. Passwords and keys are far shorter; anything longer is the wrong file.
const CREDENTIAL_BYTES_MAX: u64 = 64 << 10;

/// Where credentials come from. Read again whenever they are needed, because they rotate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct Source {
    /// A folder with one file a value, as Kubernetes and Vault mount a secret.
    pub files: Option<PathBuf>,
    /// The standard environment variables.
    #[serde(default)]
    pub env: bool,
    /// A user name alone, for servers that trust or use peer authentication.
    pub user: Option<String>,
}

impl Source {
    /// Reads one value: the file `file` of the folder, or the environment variable `variable`.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when the value is missing or unreadable. The message names the place, never the value.
    pub fn read(&self, file: &str, variable: &str) -> Result<SecretString> {
        match (&self.files, self.env) {
            (Some(folder), _) => read_file(&folder.join(file)),
            (None, true) => crate::config::environment_variable(variable).map(SecretString::from).ok_or_else(|| {
                Error::config(format!("the environment variable {variable} is not set"))
                    .hint(format!("set {variable}, or give credentials as `files = \"FOLDER\"`"))
            }),
            (None, false) => Err(Error::config(format!("no credentials hold `{file}`"))
                .hint("give credentials as `{ files = \"FOLDER\" }` or `{ env = true }`")),
        }
    }

    /// Like [`Source::read`], but none where the file or variable does not exist.
    ///
    /// # Errors
    /// [`crate::error::Class::Config`] when the value exists and cannot be read.
    pub fn read_optional(&self, file: &str, variable: &str) -> Result<Option<SecretString>> {
        match (&self.files, self.env) {
            (Some(folder), _) if !folder.join(file).exists() => Ok(None),
            (Some(_), _) => self.read(file, variable).map(Some),
            (None, true) => Ok(crate::config::environment_variable(variable).map(SecretString::from)),
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
        let source = Source { files: Some(folder.path().into()), env: false, user: None };
        assert_eq!(source.read("password", "X").unwrap().expose_secret(), "s3cret");
        assert!(source.read("username", "X").unwrap_err().message().contains("is empty"));
        assert!(source.read("missing", "X").unwrap_err().message().contains("missing"));
        assert!(source.read_optional("missing", "X").unwrap().is_none());
    }
}
