//! Turns a failed connection attempt or a server error into a message, a class and a hint.

use super::{Login, Target};
use base::error::{Class, Error};
use base::secret::{SecretString, redact};
use base::text::printable;
use tokio_postgres::error::SqlState;

const HINT_UNREACHABLE: &str =
    "check `host` and `port`, that the server is running, and that network policies allow this host to reach it";
const HINT_TLS: &str = "check `ssl_mode`, `ssl_root_cert` and the server's certificate: it must be X.509 version 3 and \
     not expired, and verify-full also needs the host in its subject alternative names";
const HINT_RIGHTS: &str = "allow the role to read everything: `GRANT pg_read_all_data TO role` (PostgreSQL 14 or \
     later), and BYPASSRLS if tables have row-level security";

/// `pg_read_all_data` does not include large objects.
const HINT_LARGE_OBJECTS: &str = "large objects have their own rights: as a superuser run \
     `ALTER ROLE role SET lo_compat_privileges = on`, or GRANT SELECT ON LARGE OBJECT for each of them";

/// A failed attempt to connect.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Error(tokio_postgres::Error),
    #[error("no answer within {0} s")]
    Timeout(u16),
}

pub(super) struct Failed {
    pub(super) error: Error,
    /// Whether an attempt with the other TLS mode (with or without TLS) may succeed.
    pub(super) other_mode_may_help: bool,
}

impl Refusal {
    pub(super) fn is_refused_option(&self) -> bool {
        let Self::Error(error) = self else { return false };
        error.code() == Some(&SqlState::PROTOCOL_VIOLATION)
            && error.as_db_error().is_some_and(|e| e.message().contains("startup parameter"))
    }

    pub(super) fn explain(self, target: &Target, login: &Login) -> Failed {
        match self {
            Self::Timeout(_) => Failed {
                error: Error::unavailable(format!("{target}: {self}")).hint(HINT_UNREACHABLE),
                other_mode_may_help: false,
            },
            Self::Error(error) => Failed {
                other_mode_may_help: is_about_tls(&error)
                    || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
                error: explain(&error, target, login.password.as_ref()),
            },
        }
    }
}

/// The message, class and hint for an error of tokio-postgres.
pub(crate) fn explain(error: &tokio_postgres::Error, target: &Target, password: Option<&SecretString>) -> Error {
    let (class, text, hint) = match error.as_db_error() {
        Some(answer) => {
            let (class, hint) = match classify(answer.code()) {
                (class, HINT_RIGHTS) if answer.message().contains("large object") => (class, HINT_LARGE_OBJECTS),
                classified => classified,
            };
            (class, format!("{} (SQLSTATE {})", answer.message(), answer.code().code()), hint)
        }
        None => {
            let (class, hint) = classify_local(error);
            (class, chain(error), hint)
        }
    };
    let secrets: Vec<_> = password.into_iter().collect();
    let error = Error::new(class, format!("{target}: {}", printable(&redact(&text, &secrets))));
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// The class and hint for an error that the server reported.
fn classify(code: &SqlState) -> (Class, &'static str) {
    let state = code.code();
    match state {
        "28P01" => (Class::Config, "check the password under `credentials`; it may have been changed on the server"),
        "28000" => (
            Class::Config,
            "check the user, and that the server's pg_hba.conf allows it to connect from here with this `ssl_mode`",
        ),
        "3D000" => (Class::Config, "check `database`"),
        "42501" => (Class::Config, HINT_RIGHTS),
        "42P01" | "42703" | "42704" => (Class::Unavailable, "the schema changed while it was read; run again"),
        "55P03" => (Class::Unavailable, "another session holds a lock; run again when it has ended"),
        _ => match state.get(..2) {
            // Connection, transaction rollback, resources, operator intervention, system: these are temporary.
            Some("08" | "40" | "53" | "57" | "58") => (Class::Unavailable, ""),
            _ => (Class::Unexpected, ""),
        },
    }
}

/// The class and hint for an error that the server did not report.
fn classify_local(error: &tokio_postgres::Error) -> (Class, &'static str) {
    if is_about_tls(error) {
        return (Class::Config, HINT_TLS);
    }
    let text = error.to_string();
    if text.starts_with("invalid configuration") || text.starts_with("authentication error") {
        return (Class::Config, "check the password: `credentials` name it, or PGPASSWORD for a server given as a URL");
    }
    if error.is_closed() || source_of::<std::io::Error>(error).is_some() || text.starts_with("timeout") {
        return (Class::Unavailable, HINT_UNREACHABLE);
    }
    (Class::Unexpected, "")
}

/// Whether the TLS handshake failed, as opposed to a connection that broke during the handshake.
fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    if !error.to_string().contains("TLS") {
        return false;
    }
    match source_of::<std::io::Error>(error) {
        None => true,
        Some(io) => io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
    }
}

fn source_of<T: std::error::Error + 'static>(error: &dyn std::error::Error) -> Option<&T> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(found) = source.downcast_ref() {
            return Some(found);
        }
        next = source.source();
    }
    None
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = source.source();
    }
    text
}
