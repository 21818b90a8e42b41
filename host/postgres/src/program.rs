//! Finds the installed pg_dump programs, chooses the one that fits the server, and starts it.
//!
//! A child process gets a clean environment: only what it needs to run and to connect, and nothing from this process.

use base::error::{Error, Result};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Directories of packages, one per version: Debian, Red Hat, Alpine. Each entry has the parent directory, the prefix
/// of the version, and the path below it.
const PACKAGE_FOLDERS: [(&str, &str, &str); 3] =
    [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin"), ("/usr/libexec", "postgresql", "")];

/// Timeout for `--version`, which reads nothing and takes milliseconds.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Used if this process has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// A pg_dump with the pg_restore in the same directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub pg_dump: PathBuf,
    pub version: Version,
}

/// The version that `pg_dump --version` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub text: String,
    pub major: u32,
}

impl Version {
    /// Parses lines such as `pg_dump (PostgreSQL) 15.18 (Debian …)`, also with `17beta1` or `18.1`.
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

    /// A command with a clean environment. The child is killed when its handle is dropped.
    pub(super) fn command(path: &Path) -> Command {
        let mut command = Command::new(path);
        let search = base::variables::environment_variable("PATH");
        command
            .env_clear()
            .env("PATH", search.as_deref().unwrap_or(PATH_DEFAULT))
            .env("LC_ALL", "C")
            // libpq would otherwise read a password file, certificates and settings from these places.
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
            Ok(Err(e)) => {
                return Err(Error::config(format!("{shown} cannot be run: {}", base::error::reason(&e))).hint(hint));
            }
            Err(_) => return Err(Error::config(format!("{shown} --version does not exit")).hint(hint)),
        };
        let version = Version::parse(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| Error::config(format!("{shown} --version does not print a pg_dump version")).hint(hint))?;
        let program = Self { pg_dump: pg_dump.to_owned(), version };
        if !program.pg_restore().is_file() {
            return Err(Error::config(format!("there is no pg_restore in the directory of {shown}"))
                .hint("install both from the same package; pg_restore is needed to check the dump"));
        }
        Ok(program)
    }
}

/// A path that cannot exist, because it is below a device.
pub(super) const NOWHERE: &str = "/dev/null/nowhere";

/// The candidates to choose from.
#[derive(Debug)]
pub(super) enum Installed {
    /// The program that the configuration sets.
    Configured(Program),
    /// Programs in the directories of packages.
    Packaged(Vec<Program>),
}

/// Finds the candidates, before anything connects to the server.
///
/// # Errors
/// Class `Config` if the configured program cannot be used.
pub(super) async fn installed(configured: Option<&Path>) -> Result<Installed> {
    if let Some(path) = configured {
        return Program::inspect(path).await.map(Installed::Configured);
    }
    let mut programs = Vec::new();
    for path in packaged() {
        match Program::inspect(&path).await {
            Ok(program) => programs.push(program),
            Err(error) => tracing::debug!(%error, "skipped a pg_dump"),
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

/// Chooses the configured program, otherwise the oldest packaged one that is not older than the server, otherwise the
/// one in `PATH`.
///
/// # Errors
/// Class `Config` if the server is newer than all of them, or if none is installed.
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
        "install postgresql-client-{server_major}, or set `pg_dump` to one from PostgreSQL {server_major} or later"
    );
    let newest = candidates.iter().max_by_key(|program| program.version.major);
    Err(match newest {
        None => Error::config("no pg_dump is installed"),
        Some(newest) => Error::config(format!(
            "the server runs PostgreSQL {server_version}, but {} has version {}, which cannot dump it",
            newest.pg_dump.display(),
            newest.version.text
        )),
    }
    .hint(hint))
}

/// Chooses the pg_restore for a dump: the oldest packaged one that is not older than the pg_dump that made it, because
/// a newer one uses settings that an older server does not know; otherwise the one in `PATH`.
///
/// # Errors
/// Class `Config` if none is installed.
pub(super) async fn for_dump(dump_major: u32, dump_version: &str) -> Result<Program> {
    let Installed::Packaged(mut programs) = installed(None).await? else {
        return Err(Error::unexpected("the installed pg_restore programs were not listed"));
    };
    if best(&programs, dump_major).is_none()
        && let Some(path) = in_search_path()
    {
        programs.push(Program::inspect(&path).await?);
    }
    best(&programs, dump_major).cloned().ok_or_else(|| {
        let newest = programs.iter().map(|program| program.version.major).max();
        let installed =
            newest.map_or_else(|| "none is installed".to_owned(), |major| format!("the newest one here is {major}"));
        Error::config(format!(
            "the dump was made by pg_dump {dump_version} and needs pg_restore {dump_major} or later, but {installed}"
        ))
        .hint(format!("install postgresql-client-{dump_major}"))
    })
}

/// Directories with a complete server, by major version.
pub(super) async fn servers() -> Vec<(u32, PathBuf)> {
    let Ok(Installed::Packaged(programs)) = installed(None).await else { return Vec::new() };
    let folders = programs.iter().filter_map(|p| Some((p.version.major, p.pg_dump.parent()?.to_owned())));
    folders.filter(|(_, bin)| ["initdb", "postgres"].iter().all(|name| bin.join(name).is_file())).collect()
}

/// The major version at the beginning of a server's or program's version.
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
    fn a_version_is_parsed_whatever_a_distribution_adds_to_it() {
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
    fn nowhere_cannot_be_created() {
        assert!(std::fs::create_dir_all(NOWHERE).is_err() && std::fs::write(NOWHERE, "").is_err());
    }

    #[tokio::test]
    async fn the_oldest_pg_dump_that_can_read_the_server_is_chosen() {
        let installed = || Installed::Packaged(vec![program(17), program(13), program(15), program(16)]);
        for (server, chosen) in [(12, 13), (13, 13), (14, 15), (16, 16), (17, 17)] {
            assert_eq!(choose(installed(), server, "").await.unwrap().version.major, chosen, "server {server}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_newer_than_the_configured_pg_dump_is_refused() {
        let error = choose(Installed::Configured(program(15)), 18, "18.1").await.unwrap_err();
        assert_eq!(error.class(), base::error::Class::Config);
        assert!(error.message().contains("18.1") && error.message().contains("/15/bin/pg_dump"), "{error}");
        assert!(error.advice().unwrap().contains("postgresql-client-18"));
    }
}
