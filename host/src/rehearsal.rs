//! Restores a snapshot to a temporary location to check it: a temporary or named server, and a scratch folder. Both are
//! removed when the value is dropped. It never changes a database or folder that is in use.

use crate::archive;
use crate::choice;
use crate::compare::{self, Comparison};
use crate::fetch;
use crate::saved::SavedSource;
use crate::session::Session;
use base::clock::Clock;
use base::error::{Class, Error, Result};
use base::scratch::Scratch;
use base::text::counted;
use catalogue::configured::{Environment, SourceKind};
use catalogue::proof::{Phase, SourceProof};
use documents::restore as folder;
use indicatif::{HumanBytes, HumanCount};
use postgres::restore::{Filling, JOBS_DEFAULT_MAX, Server, check_program};
use postgres::{self, Origin, Throwaway};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;
use tokio_util::sync::CancellationToken;

/// Bytes on disk per byte of the dump, if no record has the size of the database. Dolibarr databases compress to a
/// fifth.
const BYTES_A_DUMPED_BYTE: u64 = 6;

/// Entries without their attributes that a proof lists. On a file system without attributes, every entry is one.
const LACKING_NAMED_MAX: usize = 10;

/// Where to restore for a test, as given on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Stage {
    /// Server for a scratch database: NAME from [servers.NAME], or postgres://USER@HOST:5432/postgres [default: start a
    /// temporary server]
    #[arg(long, value_name = "NAME|URL")]
    server: Option<String>,
    /// Folder for temporary files [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// A temporary location with restored sources.
#[derive(Debug)]
pub struct Rehearsal {
    store: Arc<Store>,
    environment: Environment,
    folder: Scratch,
    scratch: PathBuf,
    /// The server named by the user.
    other: Option<postgres::DatabaseConfig>,
    /// A temporary server, started when needed.
    own: Option<Throwaway>,
    /// Scratch databases on the other server, which must be dropped explicitly.
    made: Vec<String>,
    /// The steps done so far.
    pub phases: Vec<Phase>,
    clock: Clock,
}

/// A source that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The findings.
    pub proof: SourceProof,
    /// Where it is; `None` if it could not be restored here.
    pub place: Option<Place>,
}

impl Restored {
    /// A restore that is not possible here says nothing about the backup.
    fn untried(proof: SourceProof, why: &Error) -> Self {
        let hint = why.advice().map(|hint| format!("; {hint}")).unwrap_or_default();
        Self { proof: SourceProof { untried: Some(format!("{why}{hint}")), ..proof }, place: None }
    }
}

/// Where a restored source is.
#[derive(Debug, Clone)]
pub enum Place {
    /// A database.
    Database(Box<postgres::DatabaseConfig>),
    /// A folder.
    Folder(PathBuf),
}

impl Rehearsal {
    /// Makes a scratch folder.
    ///
    /// # Errors
    /// [`Class::Config`] for an unusable folder, [`Class::Usage`] for an unknown server.
    pub fn begin(session: &Session, stage: &Stage) -> Result<Self> {
        let scratch = stage.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let folder = Scratch::make(&scratch).map_err(|error| {
            Error::config(format!("{} cannot be used: {}", scratch.display(), error.kind()))
                .hint("name a folder that this user may write to with --scratch")
        })?;
        let other =
            stage.server.as_deref().map(|server| choice::server(&session.config().servers, server)).transpose()?;
        Ok(Self {
            store: Arc::clone(&session.store),
            environment: session.environment.clone(),
            folder,
            scratch,
            other,
            own: None,
            made: Vec::new(),
            phases: Vec::new(),
            clock: session.clock,
        })
    }

    /// Describes the server; `None` before one is in use.
    pub fn describe_server(&self) -> Option<String> {
        match (&self.other, &self.own) {
            (Some(config), _) => Some(format!("{}:{}", config.host, config.port)),
            (None, Some(own)) => Some(format!("a temporary PostgreSQL {}", own.major())),
            (None, None) => None,
        }
    }

    /// Restores an object of a source, configured or not, and compares it. An object that cannot be restored is a
    /// finding. `None` for a source of an unknown kind.
    ///
    /// # Errors
    /// If the test is not possible: the store or the server fails, the disk is full, or the run is interrupted.
    pub async fn restore(&mut self, saved: SavedSource<'_>, stop: &CancellationToken) -> Result<Option<Restored>> {
        Ok(match saved.history.sources.get(saved.name).and_then(|kind| SourceKind::parse(kind)) {
            Some(SourceKind::Postgres) => Some(self.database(saved, stop).await?),
            Some(SourceKind::Directory) => Some(self.documents(saved, stop).await?),
            None => None,
        })
    }

    async fn database(&mut self, saved: SavedSource<'_>, stop: &CancellationToken) -> Result<Restored> {
        let object = saved.object;
        let on_disk = saved.database().and_then(|record| record.database_bytes);
        let on_disk = on_disk.unwrap_or_else(|| object.bytes.saturating_mul(BYTES_A_DUMPED_BYTE));
        let contents = fetch::contents(&self.store, object).await?;
        let origin = &contents.origin;
        check_program(origin).await?;
        let server = self.server(origin, object.bytes.saturating_add(on_disk)).await?;
        let mut proof = SourceProof { object: Some(object.key.clone()), bytes: object.bytes, ..SourceProof::default() };
        let planned = match &self.own {
            Some(own) if self.other.is_none() => own.plan(&server, &contents).await,
            _ => server.plan(&contents).await,
        };
        let plan = match planned {
            Err(error) if error.class() == Class::Config => return Ok(Restored::untried(proof, &error)),
            planned => planned?,
        };
        let name = format!("dolibarr_backup_scratch_{:08x}", rand::random::<u32>());
        let fetched = {
            let (store, scratch) = (Arc::clone(&self.store), self.folder.path().to_owned());
            self.time("fetch the dump", Some(object.bytes), fetch::dump(&store, object, &scratch, stop)).await?
        };
        self.made.push(name.clone());
        let config = server.config(&name);
        let own = self.own.take();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let filling = Filling {
            name: &name,
            owner: None,
            dump: fetched.file.path(),
            origin,
            jobs: cores.min(JOBS_DEFAULT_MAX),
            plan: &plan,
        };
        let filled = async {
            let prepare = async || match &own {
                Some(own) => own.before_filling(&name, &contents).await.map_err(as_untried),
                None => Ok(()),
            };
            let note = server.make(filling, prepare).await?;
            if let Some(own) = &own {
                own.after_filling(&name, &contents).await.map_err(as_untried)?;
            }
            Ok((note, server.check_tables(&name, fetched.contents.as_ref()).await?))
        };
        let filled = self.time("restore the database", Some(on_disk), filled).await;
        self.own = own;
        match filled {
            Ok((note, tables)) => {
                proof.holds = Some(format!("{} in PostgreSQL {}", counted(tables, "table"), server.version()));
                proof.notes.extend(note);
            }
            Err(error) if error.class() == Class::Config => {
                // The proof has the reason; the step itself found nothing.
                if let Some(phase) = self.phases.last_mut() {
                    phase.failure = None;
                }
                return Ok(Restored::untried(proof, &error));
            }
            Err(error) => {
                proof.problems.push(format!("{} cannot be restored: {}", object.key, finding(error)?));
                return Ok(Restored { proof, place: Some(Place::Database(Box::new(config))) });
            }
        }
        let environment = self.environment.clone();
        let comparing = compare::database(&environment, &config, saved);
        let compared = self.time("compare the database", None, comparing).await;
        let comparison = compared.unwrap_or_else(|error| Comparison::Unknown(error.to_string()));
        if let Comparison::Equal { is_reworded: true, .. } = comparison {
            proof.notes.push(server.reworded(filling).await);
        }
        note(&mut proof, comparison);
        Ok(Restored { proof, place: Some(Place::Database(Box::new(config))) })
    }

    async fn documents(&mut self, saved: SavedSource<'_>, stop: &CancellationToken) -> Result<Restored> {
        let SavedSource { history, name, object, .. } = saved;
        let into = self.folder.path().join(format!("{name}-{:08x}", rand::random::<u32>()));
        let mut proof = SourceProof { object: Some(object.key.clone()), bytes: object.bytes, ..SourceProof::default() };
        let store = Arc::clone(&self.store);
        let restore = async {
            let archive = archive::open(&store, history, object, false).await?;
            let survey = folder::survey(&archive, stop).await?.unwrap_or_default();
            let needed = survey.dense_bytes.max(object.bytes);
            folder::check_target(&into, needed, survey.files + survey.folders)
                .map_err(|error| error.hint("free some space, or name another folder with --scratch"))?;
            folder::restore(&archive, into.clone(), "rehearsal".to_owned(), stop).await
        };
        let restored = match self.time("restore the documents", Some(object.bytes), restore).await {
            Ok(restored) => restored,
            Err(error) => {
                let why = error.into_finding()?;
                proof.problems.push(format!("{} cannot be restored: {why}", object.key));
                return Ok(Restored { proof, place: Some(Place::Folder(into)) });
            }
        };
        let (files, bytes) = (counted(restored.files, "file"), HumanBytes(restored.bytes));
        proof.holds = Some(format!("{files}, {bytes}"));
        if let Some(record) = archive::recorded(history, &object.key)
            && (record.files, record.bytes) != (restored.files + restored.skipped_total, restored.bytes)
        {
            let (expected, of) = (HumanCount(record.files), HumanBytes(record.bytes));
            proof
                .problems
                .push(format!("{} holds {files} of {bytes}, and its record says {expected} of {of}", object.key));
        }
        let lacking = restored.lacking.iter().map(|problem| format!("{}: {}", problem.path, problem.reason));
        proof.notes.extend(lacking.take(LACKING_NAMED_MAX));
        let environment = self.environment.clone();
        let comparing = compare::documents(&environment, &into, &restored, saved);
        let compared = self.time("compare the documents", None, comparing).await;
        note(&mut proof, compared.unwrap_or_else(|error| Comparison::Unknown(error.to_string())));
        Ok(Restored { proof, place: Some(Place::Folder(into)) })
    }

    /// Removes a restored source, so that many snapshots need the space of only one.
    ///
    /// # Errors
    /// The server's; [`Class::Unexpected`] for a folder that cannot be removed.
    pub async fn discard(&mut self, place: Option<&Place>) -> Result<()> {
        match place {
            None => Ok(()),
            Some(Place::Database(config)) => {
                let own = || self.own.as_ref().map(|own| own.config("postgres"));
                let Some(at) = self.other.clone().or_else(own) else { return Ok(()) };
                Server::connect(&at).await?.drop_database(&config.database).await?;
                self.made.retain(|name| *name != config.database);
                Ok(())
            }
            Some(Place::Folder(path)) => {
                let folder = path.clone();
                let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
                match removed.map_err(|error| Error::unexpected(error.to_string()))? {
                    // A failed restore leaves nothing behind.
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(not_removed(path, &error.kind().to_string()))
                    }
                    Ok(()) | Err(_) => Ok(()),
                }
            }
        }
    }

    /// Runs and times a step, and records its result.
    pub async fn time<T>(
        &mut self,
        name: &str,
        bytes: Option<u64>,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let began = self.clock.now();
        tracing::info!("{name}");
        let done = step.await;
        let failure = done.as_ref().err().map(ToString::to_string);
        self.phases.push(Phase { name: name.to_owned(), millis: self.clock.millis_since(began), bytes, failure });
        done
    }

    /// The server to restore to; starts a temporary one if none was named.
    async fn server(&mut self, origin: &Origin, needed_bytes: u64) -> Result<Server> {
        if let Some(other) = self.other.clone() {
            let server = Server::connect(&other).await?;
            server.check(origin)?;
            return Ok(server);
        }
        fetch::check_room(&self.scratch, needed_bytes)?;
        // A server of a newer version could restore older dumps, but describes their structure differently.
        let (major, scratch) = (postgres::major(&origin.server_version), self.scratch.clone());
        if self.own.as_ref().map(Throwaway::major) != major {
            let own = self.time("start a server", None, Throwaway::start(&origin.server_version, &scratch)).await?;
            self.own = Some(own);
        }
        let own = self.own.as_ref().ok_or_else(|| Error::unexpected("there is no server to restore to"))?;
        Server::connect(&own.config("postgres")).await
    }

    /// Removes everything.
    ///
    /// # Errors
    /// [`Class::Unexpected`], naming what could not be removed.
    pub async fn end(mut self) -> Result<Vec<Phase>> {
        let began = self.clock.now();
        let cleaned = self.clean().await;
        let failure = cleaned.as_ref().err().map(ToString::to_string);
        self.phases.push(Phase {
            name: "clean up".to_owned(),
            millis: self.clock.millis_since(began),
            bytes: None,
            failure,
        });
        let phases = std::mem::take(&mut self.phases);
        let place = self.folder.path().to_owned();
        drop(self.own.take());
        let removed = tokio::task::spawn_blocking(move || self.folder.close()).await;
        cleaned?;
        match removed {
            Ok(Ok(())) => Ok(phases),
            Ok(Err(error)) => Err(not_removed(&place, &error.kind().to_string())),
            Err(error) => Err(not_removed(&place, &error.to_string())),
        }
    }

    /// Drops the scratch databases on a server that the user named.
    async fn clean(&mut self) -> Result<()> {
        let Some(other) = &self.other else { return Ok(()) };
        if self.made.is_empty() {
            return Ok(());
        }
        let not_removed = |name: &str, error: &Error| {
            Error::new(error.class(), format!("the scratch database `{name}` could not be dropped: {error}"))
                .hint(format!("drop `{name}` on {}:{} by hand", other.host, other.port))
        };
        let names = std::mem::take(&mut self.made);
        let server = Server::connect(other).await.map_err(|error| not_removed(&names.join("`, `"), &error))?;
        for name in names {
            server.drop_database(&name).await.map_err(|error| not_removed(&name, &error))?;
        }
        Ok(())
    }
}

/// An object that the superuser of a temporary server cannot create, such as an extension that must be preloaded, says
/// nothing about the dump.
fn as_untried(error: Error) -> Error {
    match error.class() {
        Class::Unexpected => {
            Error::config(error.message()).hint("name a server with --server, with a superuser's credentials")
        }
        _ => error,
    }
}

/// Turns a restore failure that is caused by the dump into a finding.
fn finding(error: Error) -> Result<String> {
    match error.class() {
        Class::Unexpected => Ok(match error.advice() {
            Some(advice) => format!("{error}; {advice}"),
            None => error.to_string(),
        }),
        _ => error.into_finding(),
    }
}

fn note(proof: &mut SourceProof, comparison: Comparison) {
    proof.compared = Some(comparison.outcome());
    proof.comparison = Some(comparison.describe());
    proof.notes.extend(comparison.notes().iter().cloned());
    if let Comparison::Different(why) = comparison {
        proof.problems.push(why);
    }
}

fn not_removed(place: &Path, why: &str) -> Error {
    Error::unexpected(format!("{} cannot be removed: {why}", place.display())).hint("remove it by hand")
}
