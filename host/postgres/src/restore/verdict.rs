//! What a pg_restore that has ended means: how it ended, and what it said.

use crate::dump::gist;
use base::error::{Class, Error, Result};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The dump is what pg_dump wrote, and no pg_restore can restore it: a restore sets no search_path.
const HINT_SEARCH_PATH: &str = "a function of the database finds what it uses by the search_path alone: give it one, with \
     `ALTER FUNCTION … SET search_path = public`, and back up again";

/// Whether everything was restored.
///
/// # Errors
/// What was not, with the class that its words call for. It runs in the C locale.
pub(super) fn judge(status: ExitStatus, stderr: &str) -> Result<()> {
    const SIGNS: [(&str, Class, &str); 17] = [
        (
            "unrecognized parameter \"pg_attver\"",
            Class::Config,
            "restore to a server of the same minor version or newer: a pg_dump that is older than its server wrote this mark down",
        ),
        ("cannot be internal", Class::Config, "restore as a superuser: nobody else may make this aggregate"),
        ("only superuser", Class::Config, "restore as a superuser"),
        ("No function matches the given name", Class::Unexpected, HINT_SEARCH_PATH),
        ("not supported in this build", Class::Config, "restore to a server that is built with it"),
        ("could not load library", Class::Config, "mend that library on the server, or restore to another one"),
        (
            "in a read-only transaction",
            Class::Config,
            "restore as a role that may write, or to a server that is no standby",
        ),
        ("No space left on device", Class::Unavailable, "make room on the server's disk"),
        ("could not extend file", Class::Unavailable, "make room on the server's disk"),
        ("permission denied", Class::Config, "restore as a user who may, such as the owner of the target"),
        ("must be superuser", Class::Config, "restore as a superuser"),
        ("must be owner", Class::Config, "restore as a user who may, such as a superuser"),
        ("must be able to", Class::Config, "restore as a user who may, such as a superuser"),
        ("Could not open extension control file", Class::Config, "install the extension on the target server"),
        ("connection to server", Class::Unavailable, "look at the server, then restore again"),
        ("server closed the connection", Class::Unavailable, "look at the server, then restore again"),
        ("terminating connection", Class::Unavailable, "look at the server, then restore again"),
    ];
    if let Some(signal) = status.signal() {
        return Err(Error::unavailable(format!("pg_restore was killed by signal {signal}"))
            .hint("look for a memory limit that it ran into, then restore again"));
    }
    if status.success() && stderr.trim().is_empty() {
        return Ok(());
    }
    let in_a_function = ["CONTEXT:  SQL function", "CONTEXT:  PL/pgSQL function", "\nQUERY:  "];
    let found = SIGNS.iter().find(|(sign, ..)| stderr.contains(sign));
    let by_search_path = stderr.contains("does not exist") && in_a_function.iter().any(|sign| stderr.contains(sign));
    let found = if by_search_path { Some(&("", Class::Unexpected, HINT_SEARCH_PATH)) } else { found };
    let (class, hint) =
        found.map_or((Class::Unexpected, "look at the server's log"), |(_, class, hint)| (*class, *hint));
    let said = match gist(stderr) {
        said if said.is_empty() => format!("exit code {} and no word", status.code().unwrap_or(-1)),
        said => said,
    };
    Err(Error::new(class, format!("pg_restore failed: {said}")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_restore_says_has_a_class_and_a_hint() {
        let failed = ExitStatus::from_raw(1 << 8);
        for (stderr, class, says) in [
            ("pg_restore: error: connection to server on socket failed", Class::Unavailable, "connection to server"),
            ("ERROR:  could not extend file \"x\": No space left on device", Class::Unavailable, "No space left"),
            ("ERROR:  permission denied for schema public", Class::Config, "permission denied"),
            ("", Class::Unexpected, "exit code 1"),
        ] {
            let error = judge(failed, stderr).unwrap_err();
            assert!(error.class() == class && error.message().contains(says) && error.advice().is_some(), "{error:?}");
        }
        assert!(judge(ExitStatus::from_raw(0), "").is_ok());
        assert!(judge(ExitStatus::from_raw(0), "pg_restore: warning: errors ignored on restore: 750").is_err());
        assert!(judge(ExitStatus::from_raw(9), "").unwrap_err().message().contains("signal 9"));
    }
}
