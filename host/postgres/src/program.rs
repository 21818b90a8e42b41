//! The installed pg_dump: which there are, which fits the server, and how it is started.
//!
//! A child sees a cleaned environment: what it needs to run and to connect, and nothing of this process.

use base::error::{Error, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Folders that packages install one version each in: Debian, Red Hat, Alpine. `*` stands for a version.
const PACKAGE_FOLDERS: [(&str, &str, &str); 3] =
    [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin"), ("/usr/libexec", "postgresql", "")];

/// Time for `--version`. It reads nothing and takes milliseconds.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Used where this process has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// A pg_dump with the pg_restore beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub pg_dump: PathBuf,
    pub version: Version,
}

/// What `pg_dump --version` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub text: String,
    pub major: u32,
}

impl Version {
    /// Reads `pg_dump (PostgreSQL) 15.18 (Debian …)`, `17beta1` and `18.1` alike.
    fn parse(line: &str) -> Option<Self> {
        let text = line.trim().strip_prefix("pg_dump (PostgreSQL) ")?;
        Some(Self { text: base::text::printable(text), major: major(text)? })
    }
}

impl Program {
    /// The pg_restore of the same version.
    pub(super) fn pg_restore(&self) -> PathBuf {
        self.pg_dump.with_file_name("pg_restore")
    }

    /// The command with a clean environment, which is killed when its handle is dropped.
    pub(super) fn command(path: &Path) -> Command {
        let mut command = Command::new(path);
        let search = base::variables::environment_variable("PATH");
        command
            .env_clear()
            .env("PATH", search.as_deref().unwrap_or(PATH_DEFAULT))
            .env("LC_ALL", "C")
            // libpq would find a password file, certificates and settings of its own accord in these places.
            .env("HOME", NOWHERE)
            .env("PGPASSFILE", NOWHERE)
            .env("PGSERVICEFILE", NOWHERE)
            .env("PGSYSCONFDIR", NOWHERE)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn inspect(pg_dump: &Path) -> Result<Self> {
        let shown = pg_dump.display();
        let hint = "check `pg_dump`, or leave it out to use the installed one";
        let output = Self::command(pg_dump).arg("--version").output();
        let output = match tokio::time::timeout(VERSION_TIMEOUT, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(e)) => return Err(Error::config(format!("{shown} cannot be run: {}", e.kind())).hint(hint)),
            Err(_) => return Err(Error::config(format!("{shown} --version does not end")).hint(hint)),
        };
        let version = Version::parse(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| Error::config(format!("{shown} --version does not say which pg_dump it is")).hint(hint))?;
        let program = Self { pg_dump: pg_dump.to_owned(), version };
        if !program.pg_restore().is_file() {
            return Err(Error::config(format!("there is no pg_restore beside {shown}"))
                .hint("install both from one package; the dump is checked with pg_restore"));
        }
        Ok(program)
    }
}

/// A path that cannot exist, so that nothing is ever found there: what lies below a device.
pub(super) const NOWHERE: &str = "/dev/null/nowhere";

/// What to choose from.
#[derive(Debug)]
pub(super) enum Installed {
    /// The configuration names it.
    Configured(Program),
    /// In the folders of packages.
    Packaged(Vec<Program>),
}

/// Looks before anything connects.
///
/// # Errors
/// Class `Config` when the configured one cannot be used.
pub(super) async fn installed(configured: Option<&Path>) -> Result<Installed> {
    if let Some(path) = configured {
        return Program::inspect(path).await.map(Installed::Configured);
    }
    let mut programs = Vec::new();
    for path in packaged() {
        match Program::inspect(&path).await {
            Ok(program) => programs.push(program),
            Err(error) => tracing::debug!(%error, "passed over"),
        }
    }
    Ok(Installed::Packaged(programs))
}

fn packaged() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (root, prefix, below) in PACKAGE_FOLDERS {
        let Ok(entries) = std::fs::read_dir(root) else { continue };
        let versions = entries.flatten().map(|entry| entry.file_name()).filter(|name| is_version(name, prefix));
        found.extend(versions.map(|name| Path::new(root).join(name).join(below).join("pg_dump")));
    }
    found.retain(|path| path.is_file());
    found.sort();
    found
}

fn is_version(name: &OsStr, prefix: &str) -> bool {
    let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
    version.is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// The one to use: the configured one, else the oldest packaged one that is not older than the server, else the one
/// in `PATH`.
///
/// # Errors
/// Class `Config` when the server is newer than all of them, or there is none.
pub(super) async fn choose(installed: Installed, server_major: u32, server_version: &str) -> Result<Program> {
    let candidates = match installed {
        Installed::Configured(program) => vec![program],
        Installed::Packaged(programs) if best(&programs, server_major).is_some() => programs,
        Installed::Packaged(mut programs) => {
            if let Some(path) = in_search_path() {
                programs.push(Program::inspect(&path).await?);
            }
            programs
        }
    };
    if let Some(program) = best(&candidates, server_major) {
        return Ok(program.clone());
    }
    let hint = format!(
        "install postgresql-client-{server_major}, or set `pg_dump` to one of PostgreSQL {server_major} or newer"
    );
    let newest = candidates.iter().max_by_key(|program| program.version.major);
    Err(match newest {
        None => Error::config("no pg_dump is installed"),
        Some(newest) => Error::config(format!(
            "the server is PostgreSQL {server_version} and {} is of {}, which cannot dump it",
            newest.pg_dump.display(),
            newest.version.text
        )),
    }
    .hint(hint))
}

/// The pg_restore for a dump: the oldest packaged one that is not older than the pg_dump that made it, because a newer one
/// says things that an older server does not know; else the one in `PATH`.
///
/// # Errors
/// Class `Config` when there is none.
pub(super) async fn for_dump(dump_major: u32, dump_version: &str) -> Result<Program> {
    let Installed::Packaged(mut programs) = installed(None).await? else {
        return Err(Error::unexpected("no pg_restore was looked for"));
    };
    if best(&programs, dump_major).is_none()
        && let Some(path) = in_search_path()
    {
        programs.push(Program::inspect(&path).await?);
    }
    best(&programs, dump_major).cloned().ok_or_else(|| {
        let newest = programs.iter().map(|program| program.version.major).max();
        let there =
            newest.map_or_else(|| "none is installed".to_owned(), |major| format!("the newest here is {major}"));
        Error::config(format!(
            "the dump was made by pg_dump {dump_version}, which needs pg_restore {dump_major} or newer, and {there}"
        ))
        .hint(format!("install postgresql-client-{dump_major}"))
    })
}

/// Folders with a whole server in them, by major version.
pub(super) async fn servers() -> Vec<(u32, PathBuf)> {
    let Ok(Installed::Packaged(programs)) = installed(None).await else { return Vec::new() };
    let folders = programs.iter().filter_map(|p| Some((p.version.major, p.pg_dump.parent()?.to_owned())));
    folders.filter(|(_, bin)| ["initdb", "postgres"].iter().all(|name| bin.join(name).is_file())).collect()
}

/// The major version at the beginning of what a server or a program calls its version.
#[must_use]
pub fn major(version: &str) -> Option<u32> {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

fn best(programs: &[Program], server_major: u32) -> Option<&Program> {
    let fit = programs.iter().filter(|program| program.version.major >= server_major);
    fit.min_by_key(|program| program.version.major)
}

fn in_search_path() -> Option<PathBuf> {
    let path = base::variables::environment_variable("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("pg_dump")).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(major: u32) -> Program {
        let version = Version { text: major.to_string(), major };
        Program { pg_dump: format!("/usr/lib/postgresql/{major}/bin/pg_dump").into(), version }
    }

    #[test]
    fn a_version_is_read_however_a_distribution_decorates_it() {
        let cases = [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("pg_dump (PostgreSQL) 17beta1", Some(17)),
            ("pg_dump (PostgreSQL) 18", Some(18)),
            ("pg_dump (PostgreSQL) ", None),
            ("pg_dump (PostgreSQL) devel", None),
            ("", None),
            ("Error: no cluster", None),
        ];
        for (line, major) in cases {
            assert_eq!(Version::parse(line).map(|v| v.major), major, "{line:?}");
        }
    }

    #[test]
    fn nowhere_is_a_place_that_nobody_can_make() {
        assert!(std::fs::create_dir_all(NOWHERE).is_err() && std::fs::write(NOWHERE, "").is_err());
    }

    #[tokio::test]
    async fn the_oldest_pg_dump_that_can_read_the_server_is_taken() {
        let installed = || Installed::Packaged(vec![program(17), program(13), program(15), program(16)]);
        for (server, chosen) in [(12, 13), (13, 13), (14, 15), (16, 16), (17, 17)] {
            assert_eq!(choose(installed(), server, "").await.unwrap().version.major, chosen, "server {server}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_newer_than_the_configured_pg_dump_is_refused_by_name_and_remedy() {
        let error = choose(Installed::Configured(program(15)), 18, "18.1").await.unwrap_err();
        assert_eq!(error.class(), base::error::Class::Config);
        assert!(error.message().contains("18.1") && error.message().contains("/15/bin/pg_dump"), "{error}");
        assert!(error.advice().unwrap().contains("postgresql-client-18"));
    }
}
