//! The database side of `restore`: the plan, the fresh database, the comparison with the record, and the rename that
//! puts it in place. Until that rename nothing that was there before is touched.

use super::{Arguments, own_target};
use crate::choice;
use crate::compare::{self, Comparison};
use crate::config::Source;
use crate::fetch::{self, Fetched};
use crate::report::Report;
use crate::saved::SavedSource;
use crate::session::Session;
use base::error::{Class, Error, Result};
use base::stream::interrupted_error;
use base::text::{counted, printable};
use base::{scratch, telemetry};
use indicatif::HumanBytes;
use jiff::{SignedDuration, Timestamp};
use postgres::restore::{
    Existing, Filling, HINT_IN_USE, JOBS_DEFAULT_MAX, NAME_BYTES_MAX, RestorePlan, Server, check_program,
};
use postgres::{self, Origin};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::pin::pin;
use tokio_util::sync::CancellationToken;

/// Databases of the server itself.
const RESERVED: [&str; 3] = ["postgres", "template0", "template1"];

/// Behind the name of a database that is being filled, before its random number.
const RESTORING: &str = "_restoring_";

/// The plan of a restore.
struct DatabasePlan {
    origin: Origin,
    /// Its size on the disk of the server that was dumped; `None` if no record has it.
    on_disk_bytes: Option<u64>,
    server: Server,
    /// The name given with --into.
    into: String,
    /// The name while it is being filled.
    temporary: String,
    /// The name after the restore: that of --swap or --into.
    final_name: String,
    /// Whether the final name is that of the database that the environment backs up.
    is_own: bool,
    /// The database that has the final name now.
    replaced: Option<Existing>,
    /// The name that the replaced database gets.
    old_name: String,
    /// Whether the replaced database is dropped at the end.
    drop_old: bool,
    owner: Option<String>,
    jobs: usize,
    scratch: PathBuf,
    /// What this server needs to restore the dump, and what it cannot restore.
    requirements: RestorePlan,
    accept_different: bool,
    notes: Vec<String>,
}

/// The result.
struct RestoredDatabase {
    tables: u64,
    comparison: Comparison,
    notes: Vec<String>,
    millis: u64,
}

pub(super) async fn run(
    session: &Session,
    chosen: SavedSource<'_>,
    source: &postgres::DatabaseConfig,
    arguments: &Arguments,
    interrupted: impl Future<Output = ()>,
) -> Result<Report> {
    let plan = plan(session, chosen, source, arguments).await?;
    let mut text = chosen.text(session);
    text.push_str(&plan.text());
    let mut value = chosen.value();
    plan.add_to(&mut value);
    if arguments.dry_run {
        return Ok(super::report(session, text, &value, None));
    }
    plan.check_free()?;
    for line in text.lines() {
        tracing::info!("{}", line.trim_start());
    }
    let began = session.clock.now();
    let mut interrupted = pin!(interrupted);
    let stop = CancellationToken::new();
    let fetched = tokio::select! {
        fetched = fetch::dump(&session.store, chosen.object, &plan.scratch, &stop) => fetched,
        () = &mut interrupted => Err(interrupted_error()),
    }
    .map_err(|error| error.context("nothing was restored"))?;
    let made = tokio::select! {
        made = make(session, chosen, &plan, &fetched) => made,
        () = &mut interrupted => Err(interrupted_error()),
    };
    let (tables, comparison, notes) = match made {
        Ok(made) => made,
        Err(error) => return Err(abandon(&plan, error).await),
    };
    put_in_place(&plan).await?;
    if plan.is_own {
        super::note_replaced(session, chosen.name).await;
    }
    let made = RestoredDatabase { tables, comparison, notes, millis: session.clock.millis_since(began) };
    Ok(report(session, &plan, text, &value, &made))
}

async fn plan(
    session: &Session,
    chosen: SavedSource<'_>,
    source: &postgres::DatabaseConfig,
    arguments: &Arguments,
) -> Result<DatabasePlan> {
    let to = &arguments.to;
    let into = name(&arguments.into.to_string_lossy(), "--into")?;
    let final_name = to.swap.as_deref().map_or(Ok(into.clone()), |swap| name(swap, "--swap"))?;
    let target = target(session, chosen.name, source, arguments)?;
    check_own_databases(session, &target, [&into, &final_name], arguments).await?;
    let is_own = source.may_be(&target, &final_name).await;
    let contents = fetch::contents(&session.store, chosen.object).await?;
    let origin = contents.origin.clone();
    let server = Server::connect(&target).await?;
    server.check(&origin)?;
    check_program(&origin).await?;
    let requirements = server.plan(&contents).await?;
    let replaced = server.find_database(&final_name).await?;
    let asked_for = if final_name == into { None } else { server.find_database(&into).await? };
    if let Some(there) = asked_for.or_else(|| replaced.clone().filter(|_| to.swap.is_none() && !to.overwrite)) {
        let described = describe(&there);
        return Err(Error::new(Class::Usage, format!("the database {described} already exists"))
            .hint("name a new one with --into; --overwrite replaces it, --swap keeps it under another name"));
    }
    if let Some(there) = replaced.as_ref().filter(|there| !there.may_replace) {
        return Err(Error::config(format!("this user may not rename the database {}", describe(there)))
            .hint("restore as its owner with CREATEDB, or as a superuser"));
    }
    let owner = to.owner.clone().or_else(|| replaced.as_ref().map(|there| there.owner.clone()));
    if let Some(owner) = &owner {
        server.check_owner(owner).await?;
    }
    let old_name = unused_name(&server, &final_name, session.clock.now()).await?;
    let stem = format!("{}{RESTORING}", cut(&into, NAME_BYTES_MAX - RESTORING.len() - 8));
    let left = server.beginning(&stem).await?;
    let notes = left.iter().map(|left| format!("an interrupted restore left `{}`; drop it", printable(&left.name)));
    let record = chosen.database();
    let left_out = record.into_iter().flat_map(|record| &record.left_out);
    let of_the_dump = chosen.history.notes(&chosen.object.key).iter().chain(left_out);
    let of_the_dump = of_the_dump.map(|note| format!("of the dump: {}", printable(note)));
    let notes = notes.chain(of_the_dump).chain(requirements.notes.iter().cloned());
    let scratch = to.scratch();
    if !arguments.dry_run {
        // What a killed run left may be the room that is missing.
        scratch::sweep(&scratch);
    }
    fetch::check_room(&scratch, chosen.object.bytes)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(JOBS_DEFAULT_MAX);
    Ok(DatabasePlan {
        notes: notes.collect(),
        on_disk_bytes: record.and_then(|record| record.database_bytes),
        temporary: format!("{stem}{:08x}", rand::random::<u32>()),
        drop_old: to.swap.is_none(),
        accept_different: to.accept_different,
        requirements,
        jobs: to.jobs.map_or(cores, usize::from),
        origin,
        server,
        into,
        final_name,
        is_own,
        replaced,
        old_name,
        owner,
        scratch,
    })
}

/// The name that what is replaced gets: of the first second from now on that has none yet.
async fn unused_name(server: &Server, final_name: &str, mut at: Timestamp) -> Result<String> {
    let stem = cut(final_name, NAME_BYTES_MAX - "_before_".len() - "20260630T010000Z".len());
    loop {
        let old_name = format!("{stem}_before_{}", at.strftime("%Y%m%dT%H%M%SZ"));
        if server.find_database(&old_name).await?.is_none() {
            return Ok(old_name);
        }
        at += SignedDuration::from_secs(1);
    }
}

/// The server that is restored to.
fn target(
    session: &Session,
    name: &str,
    source: &postgres::DatabaseConfig,
    arguments: &Arguments,
) -> Result<postgres::DatabaseConfig> {
    if let Some(server) = &arguments.to.server {
        return choice::server(&session.config().servers, server);
    }
    let Some(environment) = &arguments.to.target_env else { return Ok(source.maintenance()) };
    let (environment, sources) = session.config().environment(environment)?;
    let databases = || {
        sources.sources.iter().filter_map(|(name, source)| match source {
            Source::Postgres(config) => Some((name, config)),
            Source::Directory(_) => None,
        })
    };
    let same = databases().find(|(own, _)| *own == name);
    let only = databases().next().filter(|_| databases().count() == 1);
    same.or(only).map(|(_, config)| config.maintenance()).ok_or_else(|| {
        Error::new(Class::Usage, format!("{environment} has no database `{name}`, so its server is unknown"))
            .hint("name the server with --server")
    })
}

/// Refuses a database that is one of the environment itself, unless the user confirmed it.
async fn check_own_databases(
    session: &Session,
    target: &postgres::DatabaseConfig,
    names: [&String; 2],
    arguments: &Arguments,
) -> Result<()> {
    for source in session.sources.sources.values() {
        let Source::Postgres(config) = source else { continue };
        for name in names {
            if !arguments.same_environment && config.may_be(target, name).await {
                return Err(own_target(&format!("the database `{name}` on {}", target.place()), &session.environment));
            }
        }
    }
    Ok(())
}

/// Checks a database name given by the user.
fn name(text: &str, option: &str) -> Result<String> {
    let shown = printable(text);
    let invalid = |why: String| Error::new(Class::Usage, why).hint(format!("name a new database with {option}"));
    if RESERVED.contains(&text) {
        return Err(invalid(format!("`{shown}` belongs to the server and is never overwritten")));
    }
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains(['\0', '\u{fffd}', '/']) {
        return Err(invalid(format!(
            "`{shown}` is not a valid database name; expected 1 to {NAME_BYTES_MAX} bytes and no slash"
        )));
    }
    Ok(text.to_owned())
}

fn cut(name: &str, bytes: usize) -> &str {
    name.get(..name.floor_char_boundary(bytes)).unwrap_or(name)
}

fn describe(there: &Existing) -> String {
    let size = there.bytes.map(|bytes| format!("{}, ", HumanBytes(bytes))).unwrap_or_default();
    format!("`{}` ({size}owner `{}`)", printable(&there.name), printable(&there.owner))
}

/// Fills a fresh database and looks at what is in it: how many tables, how it compares, and what is to be known.
async fn make(
    session: &Session,
    chosen: SavedSource<'_>,
    plan: &DatabasePlan,
    fetched: &Fetched,
) -> Result<(u64, Comparison, Vec<String>)> {
    let filling = Filling {
        name: &plan.temporary,
        owner: plan.owner.as_deref(),
        dump: fetched.file.path(),
        origin: &plan.origin,
        jobs: plan.jobs,
        plan: &plan.requirements,
    };
    let spinner = telemetry::spinner("restoring");
    let made = plan.server.make(filling, async || Ok(())).await;
    spinner.finish_and_clear();
    let mut notes: Vec<String> = made?.into_iter().collect();
    let tables = plan.server.check_tables(filling.name, fetched.contents.as_ref()).await?;
    let config = plan.server.config(filling.name);
    // Both read every table, so one finds in memory what the other has read.
    let (compared, analyzed) =
        tokio::join!(compare::database(&session.environment, &config, chosen), plan.server.analyze(filling.name));
    if let Err(error) = analyzed {
        notes.push(format!("run ANALYZE by hand: {error}"));
    }
    // A pg_dump that is missing here says nothing against the database.
    let comparison = compared.unwrap_or_else(|error| Comparison::Unknown(error.to_string()));
    if let (Comparison::Different(why), false) = (&comparison, plan.accept_different) {
        let named = plan.server.reworded(filling).await;
        return Err(Error::new(
            Class::Stale,
            format!("the restored database does not match the record: {why}; {named}"),
        )
        .hint("take another snapshot (see `list`), or use --accept-different to keep this one"));
    }
    notes.extend(comparison.notes().iter().cloned());
    if let Comparison::Equal { is_reworded: true, .. } = comparison {
        notes.push(plan.server.reworded(filling).await);
    }
    notes.extend(plan.server.finish(filling.name, filling.plan).await);
    Ok((tables, comparison, notes))
}

/// Drops the incomplete database, and adds to the error what is left where.
async fn abandon(plan: &DatabasePlan, error: Error) -> Error {
    let (server, temporary) = (plan.server.describe(), &plan.temporary);
    match plan.server.drop_database(temporary).await {
        Ok(()) => error.and("the incomplete database was dropped, and nothing else was changed"),
        Err(left) => error
            .and(format!("the incomplete database `{temporary}` could not be dropped: {left}"))
            .hint(format!("drop `{temporary}` on {server} when it is reachable again; nothing else was changed")),
    }
}

/// Renames the databases. This is the only step that changes an existing database.
async fn put_in_place(plan: &DatabasePlan) -> Result<()> {
    let (final_name, temporary, old_name) = (plan.final_name.as_str(), plan.temporary.as_str(), plan.old_name.as_str());
    let renamed = match &plan.replaced {
        Some(_) => plan.server.rename(&[(final_name, old_name), (temporary, final_name)]).await,
        None => plan.server.rename(&[(temporary, final_name)]).await,
    };
    if let Err(error) = renamed {
        let moved = plan.into != plan.final_name && plan.server.rename(&[(temporary, &plan.into)]).await.is_ok();
        let name = if moved { &plan.into } else { &plan.temporary };
        return Err(error
            .and(format!("the restored database is whole and is kept as `{name}`; `{final_name}` is unchanged"))
            .or_hint("check the server, then rename the database by hand"));
    }
    if plan.replaced.is_none() || !plan.drop_old {
        return Ok(());
    }
    plan.server.drop_database(old_name).await.map_err(|error| {
        error
            .context(format!("`{final_name}` is restored, but the database that it replaced could not be dropped"))
            .hint(format!("drop `{old_name}` by hand"))
    })
}

impl DatabasePlan {
    /// Checks that nobody is connected to the database that will be renamed.
    fn check_free(&self) -> Result<()> {
        match &self.replaced {
            Some(there) if there.sessions > 0 => {
                let (name, sessions) = (printable(&there.name), counted(there.sessions, "connection"));
                Err(Error::config(format!("`{name}` is in use by {sessions} and cannot be replaced")).hint(HINT_IN_USE))
            }
            _ => Ok(()),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let Origin { server_version, pg_dump_version } = &self.origin;
        let _ = writeln!(text, "  {:<10} PostgreSQL {server_version}, by pg_dump {pg_dump_version}", "of");
        if let Some(bytes) = self.on_disk_bytes {
            let _ = writeln!(
                text,
                "  {:<10} about {} on the target's disk, whose free space is not checked",
                "needs",
                HumanBytes(bytes)
            );
        }
        let (server, version) = (self.server.describe(), self.server.version());
        let _ = writeln!(text, "  {:<10} `{}` on {server}, PostgreSQL {version}", "into", printable(&self.final_name));
        if let Some(there) = &self.replaced {
            let fate = if self.drop_old {
                "which is dropped at the end".to_owned()
            } else {
                format!("kept as `{}`", printable(&self.old_name))
            };
            let _ = writeln!(text, "  {:<10} {}, {fate}", "replaces", describe(there));
            if there.sessions > 0 {
                let _ = writeln!(
                    text,
                    "  {:<10} it is in use by {}, which prevents the restore: {HINT_IN_USE}",
                    "warning",
                    counted(there.sessions, "connection")
                );
            }
        }
        if let Some(owner) = &self.owner {
            let _ = writeln!(text, "  {:<10} `{}`", "owner", printable(owner));
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {:<10} {note}", "note");
        }
        text
    }

    fn add_to(&self, value: &mut Value) {
        value["server_version"] = json!(self.origin.server_version);
        value["pg_dump_version"] = json!(self.origin.pg_dump_version);
        value["database_bytes"] = json!(self.on_disk_bytes);
        value["notes"] = json!(self.notes);
        value["target"] = json!({
            "server": self.server.describe(),
            "version": self.server.version(),
            "database": self.final_name,
            "owner": self.owner,
            "jobs": self.jobs,
        });
        value["replaces"] = self.replaced.as_ref().map_or(Value::Null, |there| {
            json!({
                "database": there.name,
                "owner": there.owner,
                "bytes": there.bytes,
                "sessions": there.sessions,
                "kept_as": (!self.drop_old).then_some(&self.old_name),
            })
        });
    }
}

fn report(session: &Session, plan: &DatabasePlan, mut text: String, value: &Value, made: &RestoredDatabase) -> Report {
    let seconds = made.millis.div_ceil(1_000);
    let _ = writeln!(
        text,
        "restored {} to `{}` in {seconds} s",
        counted(made.tables, "table"),
        printable(&plan.final_name)
    );
    let _ = writeln!(text, "compared: {}", made.comparison.describe());
    for note in &made.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if plan.replaced.is_some() {
        text.push_str("note: privileges that were granted in the old database are not in the new one\n");
    }
    let restored = json!({
        "database": plan.final_name,
        "tables": made.tables,
        "millis": made.millis,
        "compared": made.comparison.outcome(),
        "comparison": made.comparison.describe(),
        "notes": made.notes,
        "kept_as": plan.replaced.as_ref().filter(|_| !plan.drop_old).map(|_| &plan.old_name),
    });
    super::report(session, text, value, Some(restored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_server_would_cut_off_or_that_is_its_own_is_refused() {
        for good in ["erp", "é", "a b", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(name(good, "--into").unwrap(), good);
        }
        for bad in ["", "postgres", "template1", "a/b", &"x".repeat(NAME_BYTES_MAX + 1), &"é".repeat(32)] {
            let error = name(bad, "--into").unwrap_err();
            assert!(error.class() == Class::Usage && error.advice().is_some(), "{bad}: {error:?}");
        }
        assert_eq!(cut("éé", 3), "é");
        assert_eq!(cut("abc", 9), "abc");
    }
}
