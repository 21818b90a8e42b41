//! Fills a database with pg_restore: with several parallel jobs, and if that fails, with one.

use super::verdict::judge;
use super::{Filling, IDLE_TIMEOUT_MAJOR_MIN, Server, WITHOUT_LIMITS, conninfo, program_for};
use crate::client::Dialer;
use crate::dump::collect;
use crate::program::Program;
use base::error::{Class, Error, Result};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use tempfile::NamedTempFile;

impl Server {
    /// Creates an empty database, calls `prepare`, and fills the database from a dump file with pg_restore. Dropping
    /// the future kills pg_restore. Parallel jobs follow only the dependencies that pg_dump knows, so they may block
    /// each other or check rows against a table that is still empty. If they fail, the database is created again and
    /// filled by one job in the order of the dump. Returns the note of [`Self::create`].
    ///
    /// # Errors
    /// The first object of the dump that cannot be restored.
    pub async fn make(&self, filling: Filling<'_>, prepare: impl AsyncFn() -> Result<()>) -> Result<Option<String>> {
        let make_empty = async || {
            let note = self.create(filling).await?;
            prepare().await.map(|()| note)
        };
        let note = make_empty().await?;
        match self.fill(filling).await {
            Err(error) if filling.jobs > 1 && error.class() == Class::Unexpected => {
                let jobs = filling.jobs;
                tracing::warn!("the restore with {jobs} parallel jobs failed: {error}; trying once more with one job");
                if self.drop_database(filling.name).await.is_err() {
                    return Err(error);
                }
                make_empty().await?;
                self.fill(Filling { jobs: 1, ..filling }).await
            }
            filled => filled,
        }?;
        Ok(note)
    }

    async fn fill(&self, filling: Filling<'_>) -> Result<()> {
        let Filling { name, owner, dump, origin, jobs, plan } = filling;
        let program = program_for(origin).await?;
        let listed = match plan.left_out.is_empty() {
            true => None,
            false => Some(self.list_without(&program, dump, &plan.left_out).await?),
        };
        let login = self.dialer.login().await?;
        let mut command = Program::command(&program.pg_restore());
        self.dialer.set_environment(&mut command, &login);
        command
            .args(["--no-owner", "--no-acl", "--no-subscriptions", "--exit-on-error", "--no-password"])
            .args(plan.without_tablespaces.then_some("--no-tablespaces"))
            .args(plan.without_labels.then_some("--no-security-labels"))
            .args(listed.iter().map(|list| format!("--use-list={}", list.path().display())))
            .arg(format!("--jobs={}", jobs.max(1)))
            .arg(format!("--dbname={}", conninfo(name)))
            .args(owner.map(|owner| format!("--role={owner}")))
            .arg(dump)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // A role or a database may have these settings by default, and pg_restore does not disable them.
        let idle = if self.major >= IDLE_TIMEOUT_MAJOR_MIN { " -c idle_session_timeout=0" } else { "" };
        command.env("PGOPTIONS", format!("-c default_transaction_read_only=off{idle}"));
        let path = program.pg_restore();
        let mut child = command.spawn().map_err(|e| {
            Error::config(format!("{} cannot be run: {}", path.display(), base::error::reason(&e)))
                .hint("reinstall the PostgreSQL client programs")
        })?;
        let Some(stderr) = child.stderr.take() else {
            return Err(Error::unexpected("pg_restore was started without output pipes"));
        };
        let broken = |e: std::io::Error| {
            Error::unexpected(format!("the output of pg_restore cannot be read: {}", base::error::reason(&e)))
        };
        let stderr = collect(stderr).await.map_err(broken)?;
        let status = child.wait().await.map_err(broken)?;
        let secrets: Vec<_> = login.password.iter().collect();
        judge(status, &stderr, &secrets)?;
        if plan.afterwards.is_empty() {
            return Ok(());
        }
        let connection = Dialer::for_restore(&self.config(name))?.connect().await?;
        connection.execute(WITHOUT_LIMITS).await.map_err(|refused| refused.error)?;
        for statement in &plan.afterwards {
            connection.execute_one(statement).await.map_err(|refused| match refused.error.class() {
                Class::Config => Error::config(refused.error.message()).hint("restore as a superuser"),
                _ => refused.error,
            })?;
        }
        Ok(())
    }

    /// Writes the archive's table of contents, without some entries, to a file for `--use-list`.
    async fn list_without(&self, program: &Program, dump: &Path, left_out: &BTreeSet<i64>) -> Result<NamedTempFile> {
        let output = Program::command(&program.pg_restore()).arg("--list").arg(dump).output().await;
        let output =
            output.map_err(|e| Error::config(format!("pg_restore cannot be run: {}", base::error::reason(&e))))?;
        if !output.status.success() {
            return judge(output.status, &String::from_utf8_lossy(&output.stderr), &[]).and(Err(Error::unexpected("")));
        }
        let text = output.stdout.split_inclusive(|byte| *byte == b'\n');
        let number = |line: &[u8]| {
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i64>().ok())
        };
        let kept = text.filter(|line| number(line).is_none_or(|id| !left_out.contains(&id)));
        let failed =
            |error: std::io::Error| Error::unexpected(format!("the list of dump entries cannot be written: {error}"));
        let mut file = tempfile::Builder::new()
            .suffix(".list")
            .tempfile_in(dump.parent().unwrap_or(Path::new("/tmp")))
            .map_err(failed)?;
        for line in kept {
            file.write_all(line).map_err(failed)?;
        }
        file.flush().map_err(failed)?;
        Ok(file)
    }
}
