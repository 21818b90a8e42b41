//! Judges a finished pg_restore by its exit status and its error output.

use crate::dump::summarize;
use base::error::{Class, Error, Result};
use base::secret::{SecretString, redact};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The dump is intact, but pg_restore cannot restore it, because a restore runs with an empty search_path.
const HINT_SEARCH_PATH: &str = "a function in the database uses objects without naming their schema: run \
     `ALTER FUNCTION … SET search_path = public`, and back up again";

/// Checks that everything was restored.
///
/// # Errors
/// The failure, with a class and a hint that depend on pg_restore's messages. pg_restore runs in the C locale. Secrets
/// are redacted afterwards, because a short one may be a part of any message.
pub(super) fn judge(status: ExitStatus, stderr: &str, secrets: &[&SecretString]) -> Result<()> {
    const SIGNS: [(&str, Class, &str); 17] = [
        (
            "unrecognized parameter \"pg_attver\"",
            Class::Config,
            "restore to a server of the same or a later minor version: this internal parameter is in the dump because \
             pg_dump was older than its server",
        ),
        ("cannot be internal", Class::Config, "restore as a superuser: only a superuser may create this aggregate"),
        ("only superuser", Class::Config, "restore as a superuser"),
        ("No function matches the given name", Class::Unexpected, HINT_SEARCH_PATH),
        ("not supported in this build", Class::Config, "restore to a server that was built with support for it"),
        ("could not load library", Class::Config, "repair that library on the server, or restore to another server"),
        (
            "in a read-only transaction",
            Class::Config,
            "restore as a role that may write, or to a server that is not a standby",
        ),
        ("No space left on device", Class::Unavailable, "free some space on the server's disk"),
        ("could not extend file", Class::Unavailable, "free some space on the server's disk"),
        ("permission denied", Class::Config, "restore as a user with this right, such as the owner of the target"),
        ("must be superuser", Class::Config, "restore as a superuser"),
        ("must be owner", Class::Config, "restore as a user with this right, such as a superuser"),
        ("must be able to", Class::Config, "restore as a user with this right, such as a superuser"),
        ("Could not open extension control file", Class::Config, "install the extension on the target server"),
        ("connection to server", Class::Unavailable, "check the server, then restore again"),
        ("server closed the connection", Class::Unavailable, "check the server, then restore again"),
        ("terminating connection", Class::Unavailable, "check the server, then restore again"),
    ];
    if let Some(signal) = status.signal() {
        return Err(Error::unavailable(format!("pg_restore was killed by signal {signal}"))
            .hint("check whether it exceeded a memory limit, then restore again"));
    }
    if status.success() && stderr.trim().is_empty() {
        return Ok(());
    }
    let in_a_function = ["CONTEXT:  SQL function", "CONTEXT:  PL/pgSQL function", "\nQUERY:  "];
    let found = SIGNS.iter().find(|(sign, ..)| stderr.contains(sign));
    let by_search_path = stderr.contains("does not exist") && in_a_function.iter().any(|sign| stderr.contains(sign));
    let found = if by_search_path { Some(&("", Class::Unexpected, HINT_SEARCH_PATH)) } else { found };
    let (class, hint) = found.map_or((Class::Unexpected, "check the server's log"), |(_, class, hint)| (*class, *hint));
    let text = match summarize(stderr) {
        text if text.is_empty() => format!("exit code {} and no error message", status.code().unwrap_or(-1)),
        text => redact(&text, secrets),
    };
    Err(Error::new(class, format!("pg_restore failed: {text}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_a_part_of_a_message_changes_neither_class_nor_hint() {
        let (failed, password) = (ExitStatus::from_raw(1 << 8), SecretString::from("super"));
        let error = judge(failed, "pg_restore: error: ERROR:  must be superuser to do this", &[&password]).unwrap_err();
        assert_eq!((error.class(), error.advice()), (Class::Config, Some("restore as a superuser")));
        assert!(error.message().contains("must be [redacted]user"), "{error}");
    }

    #[test]
    fn each_failure_of_pg_restore_has_a_class_and_a_hint() {
        let failed = ExitStatus::from_raw(1 << 8);
        for (stderr, class, says) in [
            ("pg_restore: error: connection to server on socket failed", Class::Unavailable, "connection to server"),
            ("ERROR:  could not extend file \"x\": No space left on device", Class::Unavailable, "No space left"),
            ("ERROR:  permission denied for schema public", Class::Config, "permission denied"),
            ("", Class::Unexpected, "exit code 1"),
        ] {
            let error = judge(failed, stderr, &[]).unwrap_err();
            assert!(error.class() == class && error.message().contains(says) && error.advice().is_some(), "{error:?}");
        }
        assert!(judge(ExitStatus::from_raw(0), "", &[]).is_ok());
        assert!(judge(ExitStatus::from_raw(0), "pg_restore: warning: errors ignored on restore: 750", &[]).is_err());
        assert!(judge(ExitStatus::from_raw(9), "", &[]).unwrap_err().message().contains("signal 9"));
    }
}
