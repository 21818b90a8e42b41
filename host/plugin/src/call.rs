//! One call of a plugin: its limits, its handles, and the meaning of its answer or its trap.
//!
//! Every call has its own store, so no state remains for the next call. Dropping the store drops every handle that the
//! guest held, however the call ended.

use super::compile::Failure;
use super::{Engine, Plugin, PluginConfig, Role, cache, component};
use crate::capabilities;
use crate::context::{self, Context, LimitReached, Tally, types};
use crate::grant::Grant;
use base::error::{Class, Error, Result};
use base::evidence::Measured;
use base::text::printable;
use kubernetes::job::{Lent, OneShot};
use kubernetes::volumes::Volumes;
use postgres::OpenDatabase;
use std::sync::Arc;
use wasmtime::component::{InstancePre, Linker, Resource};
use wasmtime::{Store, Trap, UpdateDeadline};

#[expect(missing_docs, reason = "generated from the WIT files, which hold the documentation")]
mod worlds;
mod zone;

pub use worlds::coverage::exports::backup::host::covering;
pub use worlds::crosscheck::exports::backup::host::crosschecking;
pub use worlds::dump::exports::backup::host::dumping;
pub use worlds::job::exports::backup::host::launching;
pub use worlds::retention::exports::backup::host::retaining;
use worlds::{coverage, crosscheck, dump, fingerprint, job, retention};

/// Bytes that the host copies out of a guest at a time: the arguments of one of its calls, or its answer. A plan for
/// 10,000 snapshots has about 2 MB.
const COPIED_BYTES_MAX: usize = 64 << 20;

/// Handles in a guest's own tables. The context limits the host's handles.
const GUEST_HANDLES_MAX: usize = 256;

/// The function that every role exports.
const SETTINGS_SCHEMA: &str = "settings-schema";

/// The only function that receives rows.
const CHECK: &str = "check";

/// Reasons that are kept for one decision; the number of further ones is reported. A snapshot that no other follows for
/// a year stands for about fifty periods.
const REASONS_MAX: usize = 100;

/// Lines for the operator in one answer. Further ones are dropped.
const NOTES_MAX: usize = 100;

/// Remarks on jobs, and on groups of volumes, in one judgement: more than a cluster has.
const REMARKS_MAX: usize = 10_000;

/// The result of a call, and what the plugin did in it.
#[derive(Debug)]
pub struct Called<T> {
    /// The answer.
    pub result: Result<T>,
    /// The capabilities that it used.
    pub tally: Tally,
}

/// Links the granted interfaces and those that need no grant, and no others.
pub(super) fn link(
    engine: &Engine,
    role: Role,
    component: &crate::Component,
    config: &PluginConfig,
) -> Result<InstancePre<Context>> {
    let not_loaded = |why: &str| {
        let why = printable(&why.replace('\n', " "));
        Error::config(format!("the plugin `{}` ({}) cannot be loaded: {why}", role.name(), component.path.display()))
    };
    let damaged = "the file is damaged or was made for another version; build it again";
    let load_error = |e: wasmtime::Error| not_loaded(&format!("{e:#}")).hint(damaged);
    let compiled = cache::compiled::compile(engine, component, config.limits, config.places.cache.as_ref());
    let compiled = compiled.map_err(|failure| {
        let limit = match &failure {
            Failure::Memory(_) => "compile_mib",
            Failure::Time(_) | Failure::Wall(_) => "compile_seconds",
            Failure::Refused(_) => return not_loaded(&failure.to_string()).hint(damaged),
            Failure::Died(_) => return not_loaded(&failure.to_string()),
        };
        not_loaded(&failure.to_string()).hint(format!(
            "no shipped plugin comes near this limit; if this one needs more, set limits = {{ {limit} = … }} in [plugins.{}]",
            role.name()
        ))
    })?;
    let mut linker = Linker::new(&engine.wasm);
    context::add_to_linker(&mut linker, role).map_err(load_error)?;
    for grant in config.grants.iter() {
        grant.link(&mut linker).map_err(load_error)?;
    }
    linker.instantiate_pre(&compiled).map_err(load_error)
}

impl Plugin {
    /// Asks a fingerprint plugin what counts in a database, and measures it.
    pub async fn measure_database(&self, database: Arc<OpenDatabase>) -> Called<Vec<Measured>> {
        let database = capabilities::postgres::EvidenceDatabase { database, filters: self.filters.clone() };
        let called = self
            .call("of-database", async |store, linked| {
                let plugin = fingerprint::FingerprintPre::new(linked)?.instantiate_async(&mut *store).await?;
                let handle = store.data_mut().table.push(database)?;
                let borrowed = Resource::new_borrow(handle.rep());
                let exports = plugin.backup_host_fingerprinting();
                let answer = exports.call_of_database(&mut *store, &self.settings, borrowed).await?;
                take_measures(store, answer, |capabilities::postgres::DatabaseMeasure(measured)| measured)
            })
            .await;
        self.require_measures(called)
    }

    /// Asks a fingerprint plugin what counts in a folder, and measures it.
    pub async fn measure_tree(&self, tree: capabilities::documents::EvidenceTree) -> Called<Vec<Measured>> {
        let called = self
            .call("of-tree", async |store, linked| {
                let plugin = fingerprint::FingerprintPre::new(linked)?.instantiate_async(&mut *store).await?;
                let handle = store.data_mut().table.push(tree)?;
                let borrowed = Resource::new_borrow(handle.rep());
                let exports = plugin.backup_host_fingerprinting();
                let answer = exports.call_of_tree(&mut *store, &self.settings, borrowed).await?;
                take_measures(store, answer, |capabilities::documents::TreeMeasure(measured)| measured)
            })
            .await;
        self.require_measures(called)
    }

    /// Asks any plugin for the schema of its settings.
    pub(super) async fn settings_schema(&self) -> Called<String> {
        self.call(SETTINGS_SCHEMA, async |store, linked| {
            // A function with another type is found before any of them is called.
            match self.role {
                Role::Fingerprint => drop(fingerprint::FingerprintPre::new(linked.clone())?),
                Role::Dump => drop(dump::DumpPre::new(linked.clone())?),
                Role::Retention => drop(retention::RetentionPre::new(linked.clone())?),
                Role::Job => drop(job::JobPre::new(linked.clone())?),
                Role::Coverage => drop(coverage::CoveragePre::new(linked.clone())?),
                Role::Crosscheck => drop(crosscheck::CrosscheckPre::new(linked.clone())?),
            }
            let instance = linked.instantiate_async(&mut *store).await?;
            let missing = || wasmtime::format_err!("it exports no function `{SETTINGS_SCHEMA}`");
            let interface = component::full_name(self.role.export());
            let interface = instance.get_export_index(&mut *store, None, &interface).ok_or_else(missing)?;
            let function = instance.get_export_index(&mut *store, Some(&interface), SETTINGS_SCHEMA);
            let function = function.ok_or_else(missing)?;
            let function = instance.get_typed_func::<(), (String,)>(&mut *store, function)?;
            let (schema,) = function.call_async(&mut *store, ()).await?;
            Ok(Ok(schema))
        })
        .await
    }

    /// Asks a dump plugin which sources to dump, and in which order.
    pub async fn plan_dumps(
        &self,
        now: jiff::Timestamp,
        force: bool,
        sources: &[dumping::Source],
    ) -> Called<Vec<dumping::Decision>> {
        self.call("plan", async |store, linked| {
            let plugin = dump::DumpPre::new(linked)?.instantiate_async(&mut *store).await?;
            plugin.backup_host_dumping().call_plan(store, now.as_second(), force, &self.settings, sources).await
        })
        .await
    }

    /// Lets a dump plugin dump a database.
    pub async fn dump_database(
        &self,
        stamp: &str,
        database: capabilities::postgres::DumpDatabase,
        into: capabilities::store::Prefix,
    ) -> Called<dumping::Receipt> {
        self.call("dump-database", async |store, linked| {
            let plugin = dump::DumpPre::new(linked)?.instantiate_async(&mut *store).await?;
            let (from, to) = (store.data_mut().table.push(database)?, store.data_mut().table.push(into)?);
            let (from, to) = (Resource::new_borrow(from.rep()), Resource::new_borrow(to.rep()));
            plugin.backup_host_dumping().call_dump_database(store, &self.settings, stamp, from, to).await
        })
        .await
    }

    /// Lets a dump plugin archive a folder.
    pub async fn dump_tree(
        &self,
        stamp: &str,
        tree: capabilities::documents::ArchiveTree,
        into: capabilities::store::Prefix,
    ) -> Called<dumping::Receipt> {
        self.call("dump-tree", async |store, linked| {
            let plugin = dump::DumpPre::new(linked)?.instantiate_async(&mut *store).await?;
            let (from, to) = (store.data_mut().table.push(tree)?, store.data_mut().table.push(into)?);
            let (from, to) = (Resource::new_borrow(from.rep()), Resource::new_borrow(to.rep()));
            plugin.backup_host_dumping().call_dump_tree(store, &self.settings, stamp, from, to).await
        })
        .await
    }

    /// Asks a retention plugin which snapshots to keep. It receives the host's own offsets of the time zone.
    pub async fn plan_retention(
        &self,
        now: jiff::Timestamp,
        time_zone: &str,
        snapshots: &[retaining::Snapshot],
    ) -> Called<retaining::RetentionPlan> {
        let mut called = self
            .call("plan", async |store, linked| {
                store.data_mut().zone = zone::tzif(time_zone);
                let plugin = retention::RetentionPre::new(linked)?.instantiate_async(&mut *store).await?;
                let exports = plugin.backup_host_retaining();
                exports.call_plan(store, now.as_second(), time_zone, &self.settings, snapshots).await
            })
            .await;
        if let Ok(plan) = &mut called.result {
            plan.notes.truncate(NOTES_MAX);
        }
        for decision in called.result.iter_mut().flat_map(|plan| &mut plan.decisions) {
            let more = decision.reasons.len().saturating_sub(REASONS_MAX);
            if more > 0 {
                decision.reasons.truncate(REASONS_MAX);
                decision.reasons.push(format!("and {more} more"));
            }
        }
        called
    }

    /// Lets a job plugin run one backup as a Job.
    pub async fn run_job(
        &self,
        request: &launching::Request,
        template: OneShot,
        secrets: Vec<Lent>,
    ) -> Called<launching::Ended> {
        self.call("backup", async |store, linked| {
            let plugin = job::JobPre::new(linked)?.instantiate_async(&mut *store).await?;
            let from = store.data_mut().table.push(template)?;
            let mut lent = Vec::new();
            for secret in secrets {
                lent.push((secret.place().to_owned(), store.data_mut().table.push(secret)?));
            }
            let from = Resource::new_borrow(from.rep());
            plugin.backup_host_launching().call_backup(store, &self.settings, request, from, &lent).await
        })
        .await
    }

    /// Asks a coverage plugin which volumes are covered.
    pub async fn judge_coverage(&self, now: jiff::Timestamp, of: Volumes) -> Called<covering::Judgement> {
        let mut called = self
            .call("judge", async |store, linked| {
                let plugin = coverage::CoveragePre::new(linked)?.instantiate_async(&mut *store).await?;
                let of = store.data_mut().table.push(of)?;
                let of = Resource::new_borrow(of.rep());
                plugin.backup_host_covering().call_judge(store, now.as_second(), &self.settings, of).await
            })
            .await;
        if let Ok(judgement) = &mut called.result {
            judgement.notes.truncate(NOTES_MAX);
            judgement.jobs.truncate(REMARKS_MAX);
            judgement.groups.truncate(REMARKS_MAX);
        }
        called
    }

    /// Asks a crosscheck plugin for its list of checks. It receives only its configuration.
    pub async fn checks(&self) -> Called<Vec<crosschecking::ToCheck>> {
        let readable = |table: &postgres::ReadableTable| crosschecking::Readable {
            table: table.label.clone(),
            columns: table.columns.clone(),
            shown: table.shown.clone(),
        };
        let tables: Vec<_> = self.tables.iter().map(readable).collect();
        self.call("checks", async |store, linked| {
            let plugin = crosscheck::CrosscheckPre::new(linked)?.instantiate_async(&mut *store).await?;
            plugin.backup_host_crosschecking().call_checks(store, &self.settings, &tables).await
        })
        .await
    }

    /// Lets a crosscheck plugin compare tables with documents. The plugin owns the tables from here on, by name.
    pub async fn crosscheck(
        &self,
        tables: Vec<(String, capabilities::postgres::RowsTable)>,
        documents: capabilities::documents::DigestTree,
    ) -> Called<crosschecking::Report> {
        self.call(CHECK, async |store, linked| {
            let plugin = crosscheck::CrosscheckPre::new(linked)?.instantiate_async(&mut *store).await?;
            let handles = &mut store.data_mut().table;
            let tables = tables
                .into_iter()
                .map(|(name, table)| Ok((name, handles.push(table)?)))
                .collect::<wasmtime::Result<Vec<_>>>()?;
            let documents = handles.push(documents)?;
            let borrowed = Resource::new_borrow(documents.rep());
            plugin.backup_host_crosschecking().call_check(store, &self.settings, &tables, borrowed).await
        })
        .await
    }

    /// Runs one call within all limits. `function` is its name in messages.
    async fn call<T>(
        &self,
        function: &str,
        run: impl AsyncFnOnce(&mut Store<Context>, InstancePre<Context>) -> wasmtime::Result<Result<T, types::Error>>,
    ) -> Called<T> {
        let wasi = self.grants.has(Grant::Wasi).then(super::wasi::context);
        let mut store = Store::new(&self.engine.wasm, Context::new(self.name.clone(), self.memory, wasi));
        store.limiter(|context| context.limiter());
        store.set_hostcall_fuel(COPIED_BYTES_MAX);
        store.set_max_component_handles(GUEST_HANDLES_MAX);
        store.set_epoch_deadline(1);
        let ticks_max = self.compute.as_millis() / super::EPOCH_TICK.as_millis();
        let mut ticks = 0_u128;
        store.epoch_deadline_callback(move |_| {
            ticks += 1;
            if ticks > ticks_max { Ok(UpdateDeadline::Interrupt) } else { Ok(UpdateDeadline::Yield(1)) }
        });
        let answer = tokio::time::timeout(self.wall, run(&mut store, self.linked.clone())).await;
        let failure = store.data_mut().take_failure();
        let last_error = store.data_mut().take_last_error();
        let result = match answer {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(self.guest_error(function, error, failure)),
            Ok(Err(trap)) => Err(self.trap(function, &trap, last_error)),
            Err(_) => Err(Error::new(
                Class::PluginTrapped,
                format!("{} did not finish `{function}` within {} s", self.identity(), self.wall.as_secs()),
            )
            .hint(format!(
                "find out what stalls; if it needs more time, set limits = {{ call_seconds = … }} in [plugins.{}]",
                self.name
            ))),
        };
        Called { result, tally: store.data_mut().take_tally() }
    }

    fn identity(&self) -> String {
        format!("the plugin `{}` ({}, sha256 {})", self.name, self.file.display(), crate::short_digest(&self.digest))
    }

    /// Translates a guest's error. A plugin that passes on a capability's failure is not at fault; one that fails by
    /// itself is.
    fn guest_error(&self, function: &str, error: types::Error, failure: Option<(types::Error, Error)>) -> Error {
        let (types::Error::Denied(text)
        | types::Error::NotFound(text)
        | types::Error::Transient(text)
        | types::Error::Permanent(text)) = &error;
        // A guest has no services of its own, so `transient` is credible only if a capability was unavailable in this
        // call.
        let unavailable = failure.as_ref().is_some_and(|(_, failure)| failure.class() == Class::Unavailable);
        if let Some((_, failure)) = failure.filter(|(answer, _)| *answer == error) {
            return match failure.class() {
                Class::PluginRefused => failure.context(format!("{} was refused in `{function}`", self.identity())),
                _ => failure,
            };
        }
        let message = if self.hides_text(function) {
            format!("{} failed in `{function}`; its message is not shown because it saw rows", self.identity())
        } else {
            format!("{} failed in `{function}`: {}", self.identity(), printable(text))
        };
        match error {
            types::Error::Denied(_) => {
                Error::config(message).hint(format!("check settings in [plugins.{}] of the configuration", self.name))
            }
            types::Error::Transient(_) if unavailable => Error::unavailable(message),
            types::Error::Transient(_) | types::Error::NotFound(_) | types::Error::Permanent(_) => {
                Error::new(Class::PluginRefused, message)
            }
        }
    }

    /// Whether a call sees rows, so that none of the guest's text may be shown.
    fn hides_text(&self, function: &str) -> bool {
        self.role.sees_rows() && function == CHECK
    }

    fn trap(&self, function: &str, error: &wasmtime::Error, last_error: Option<String>) -> Error {
        let what = match error.downcast_ref::<Trap>() {
            Some(Trap::UnreachableCodeReached) => "panicked or reached unreachable code".to_owned(),
            Some(Trap::StackOverflow) => format!("used more than {} KiB of stack", super::STACK_BYTES_MAX >> 10),
            Some(Trap::Interrupt) => format!("computed for more than {} s", self.compute.as_secs()),
            Some(other) => format!("ran into a {other}"),
            None => match error.downcast_ref::<LimitReached>() {
                Some(limit) => limit.to_string(),
                None if self.hides_text(function) => "was stopped".to_owned(),
                None => format!("was stopped: {}", printable(&error.root_cause().to_string())),
            },
        };
        let limit = match (error.downcast_ref::<Trap>(), error.downcast_ref::<LimitReached>()) {
            (Some(Trap::Interrupt), _) => "; if it needs more time, set limits = { compute_seconds = … }",
            (_, Some(LimitReached::Memory { .. })) => "; if it needs more memory, set limits = { memory_mib = … }",
            _ => "",
        };
        let logged = last_error.map(|line| format!("; the last error that it logged: {line}")).unwrap_or_default();
        Error::new(Class::PluginTrapped, format!("{} {what} in `{function}`{logged}", self.identity())).hint(format!(
            "the plugin is at fault, not the data: use another version, or report this to its author{limit}"
        ))
    }

    /// Refuses an empty answer, because a fingerprint of nothing would be equal every day.
    fn require_measures(&self, called: Called<Vec<Measured>>) -> Called<Vec<Measured>> {
        let check = |measured: Vec<Measured>| {
            if measured.is_empty() {
                return Err(self.refused("it measured nothing, so every day would look unchanged"));
            }
            Ok(measured)
        };
        Called { result: called.result.and_then(check), tally: called.tally }
    }

    /// An error for an answer of this plugin that the host refuses. The plugin is at fault.
    pub fn refused(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Class::PluginRefused, format!("{}: {why}", self.identity()))
            .hint("the plugin is at fault; its answer was discarded and nothing was forgotten")
    }

    /// The tables that the configuration lets the plugin read.
    pub const fn readable(&self) -> &postgres::Readable {
        &self.tables
    }

    /// The role that it plays.
    pub const fn role(&self) -> Role {
        self.role
    }
}

/// The measurements behind the handles that a guest returns.
fn take_measures<M: 'static>(
    store: &mut Store<Context>,
    answer: Result<Vec<Resource<M>>, types::Error>,
    measured: fn(M) -> Measured,
) -> wasmtime::Result<Result<Vec<Measured>, types::Error>> {
    let handles = match answer {
        Ok(handles) => handles,
        Err(error) => return Ok(Err(error)),
    };
    let table = &mut store.data_mut().table;
    handles.into_iter().map(|handle| Ok(measured(table.delete(handle)?))).collect::<wasmtime::Result<_>>().map(Ok)
}
