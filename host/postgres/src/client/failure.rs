//! What a failed attempt to connect and an error of the server mean for the person who reads them.

use super::{Login, Target};
use base::error::{Class, Error};
use base::secret::{SecretString, redact};
use base::text::printable;
use tokio_postgres::error::SqlState;

const HINT_UNREACHABLE: &str =
    "check `host` and `port`, that the server runs, and that a network policy lets this host reach it";
const HINT_TLS: &str = "check `ssl_mode`, `ssl_root_cert` and the server's certificate, which needs version 3, a validity that has not ended, \
     and for verify-full the host among its subject alternative names";
const HINT_RIGHTS: &str = "let the role read everything: `GRANT pg_read_all_data TO role` (PostgreSQL 14 or newer), and BYPASSRLS where tables \
     have row-level security";

/// No role that reads everything reads them.
const HINT_LARGE_OBJECTS: &str = "large objects have rights of their own: as a superuser run `ALTER ROLE role SET lo_compat_privileges = on`, \
     or GRANT SELECT ON LARGE OBJECT for each";

/// An attempt that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Error(tokio_postgres::Error),
    #[error("no answer within {0} s")]
    Timeout(u16),
}

pub(super) struct Failed {
    pub(super) error: Error,
    /// With or without TLS, whichever was not tried.
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

/// The sentence, class and hint for what tokio-postgres reports.
pub(crate) fn explain(error: &tokio_postgres::Error, target: &Target, password: Option<&SecretString>) -> Error {
    let (class, text, hint) = match error.as_db_error() {
        Some(answer) => {
            let (class, hint) = match judge(answer.code()) {
                (class, HINT_RIGHTS) if answer.message().contains("large object") => (class, HINT_LARGE_OBJECTS),
                judged => judged,
            };
            (class, format!("{} (SQLSTATE {})", answer.message(), answer.code().code()), hint)
        }
        None => {
            let (class, hint) = judge_local(error);
            (class, chain(error), hint)
        }
    };
    let secrets: Vec<_> = password.into_iter().collect();
    let error = Error::new(class, format!("{target}: {}", printable(&redact(&text, &secrets))));
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// What an answer of the server calls for.
fn judge(code: &SqlState) -> (Class, &'static str) {
    let state = code.code();
    match state {
        "28P01" => (Class::Config, "check the password under `credentials`; it may have been changed on the server"),
        "28000" => (
            Class::Config,
            "check the user, and that the server's pg_hba.conf lets it in from here with this `ssl_mode`",
        ),
        "3D000" => (Class::Config, "check `database`"),
        "42501" => (Class::Config, HINT_RIGHTS),
        "42P01" | "42703" | "42704" => (Class::Unavailable, "the schema changed while it was read; run again"),
        "55P03" => (Class::Unavailable, "another session holds a lock; run again when it is done"),
        _ => match state.get(..2) {
            // Connection, transaction rollback, resources, operator intervention, system: they pass.
            Some("08" | "40" | "53" | "57" | "58") => (Class::Unavailable, ""),
            _ => (Class::Unexpected, ""),
        },
    }
}

/// What a failure without an answer of the server calls for.
fn judge_local(error: &tokio_postgres::Error) -> (Class, &'static str) {
    if is_about_tls(error) {
        return (Class::Config, HINT_TLS);
    }
    let text = error.to_string();
    if text.starts_with("invalid configuration") || text.starts_with("authentication error") {
        return (Class::Config, "check that `credentials` hold the password that the server asks for");
    }
    if error.is_closed() || source_of::<std::io::Error>(error).is_some() || text.starts_with("timeout") {
        return (Class::Unavailable, HINT_UNREACHABLE);
    }
    (Class::Unexpected, "")
}

/// Whether the two sides disagree on TLS, rather than being cut off while they talk about it.
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
