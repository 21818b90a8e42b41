//! The command line: what can be asked for, and the way from an answer to stdout, stderr and the exit code.

use crate::config::{self, Config, DEFAULT_FILE};
use crate::job;
use crate::report::Report;
use crate::session::Host;
use crate::verbs::accept;
use crate::verbs::backup;
use crate::verbs::coverage;
use crate::verbs::drill;
use crate::verbs::find;
use crate::verbs::get;
use crate::verbs::list::{self, PruneOptions};
use crate::verbs::plugins;
use crate::verbs::restore;
use crate::verbs::status;
use crate::verbs::verify;
use base::error::{Class, Error, Result};
use base::text::printable;
use base::text::printable_lines;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};
use std::io::Write;
use std::path::PathBuf;

/// Keeps a Dolibarr ERP restorable for ten years: its database and its documents, in an object store.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print the result as one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// `prune --now` deletes what lies in the bin already, without waiting for its time. With a time, as 2026-06-30T01:00:00Z, take that for the present; for tests and simulations only
    #[arg(long, global = true, value_name = "TIME", num_args = 0..=1, default_missing_value = WITHOUT_TIME)]
    now: Option<Now>,
    #[command(subcommand)]
    verb: Verb,
}

/// What `--now` stands for without a time.
const WITHOUT_TIME: &str = "at once";

/// `--now` with or without a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    At(Timestamp),
    AtOnce,
}

impl std::str::FromStr for Now {
    type Err = jiff::Error;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        if text == WITHOUT_TIME { Ok(Self::AtOnce) } else { text.parse().map(Self::At) }
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 unexpected, such as a source that failed; 2 usage; 3 committed, but a source is partial or suspect, or the retention is not done; \
4 something is stale, missing, damaged, not covered or not what was recorded; 11 another run holds the lease; 64 configuration or grant; 70 a plugin trapped; 71 a plugin was refused; \
75 a service was unavailable, worth a retry; 130 interrupted";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Save what has changed, record the run, and apply the retention
    Backup {
        #[command(flatten)]
        of: Of,
        /// Dump every source, whatever its fingerprint says
        #[arg(long)]
        force: bool,
        /// Show what would be dumped and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Run in this process, also where the environment has run = "job"
        #[arg(long)]
        here: bool,
        /// Let the Job in the cluster go on when this process is interrupted, and do not ask in a terminal
        #[arg(long, conflicts_with = "here")]
        leave_on_interrupt: bool,
    },
    /// Answer what waits for a person, as `status` shows it: another database, a folder that collapsed, a source that is new or gone
    Accept(accept::Arguments),
    /// Find volumes of the Kubernetes cluster that no backup covers
    Coverage,
    /// Found an environment in a store, once, before its first backup
    Init {
        #[command(flatten)]
        of: Of,
    },
    /// Show the snapshots, what each source was, and why each is kept
    List {
        #[command(flatten)]
        of: Of,
    },
    /// See what the plugins may do
    Plugins {
        #[command(subcommand)]
        verb: plugins::Verb,
    },
    /// Apply the retention without a backup
    Prune {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        options: PruneOptions,
    },
    /// Show whether everything configured is backed up, proven and pruned; from the store alone
    Status(status::Arguments),
    /// Restore one source of a snapshot to a new place
    Restore(restore::Arguments),
    /// Read single documents of a snapshot back
    Get(get::Arguments),
    /// List the documents of a snapshot that match a pattern
    Find(find::FindArguments),
    /// Show the versions of one document across the snapshots
    History(find::VersionsArguments),
    /// Take a snapshot out of the bin and keep it
    Unforget {
        #[command(flatten)]
        of: Of,
        /// The snapshot, as `list` names it
        #[arg(value_name = "ID")]
        id: String,
        /// Let a snapshot that was kept so be forgotten again
        #[arg(long)]
        release: bool,
    },
    /// Read snapshots back and check them against their records
    Verify(verify::Arguments),
    /// Restore a snapshot to a scratch place, look at it, time it, and leave a dated report
    Drill(drill::Arguments),
}

#[derive(Debug, clap::Args)]
struct Of {
    /// Environment, as the configuration names it
    #[arg(long = "env", value_name = "NAME")]
    environment: String,
}

impl Cli {
    /// Runs the command and prints its result. Returns the exit code.
    pub fn run(self, clock: fn() -> Timestamp) -> u8 {
        let json = self.json;
        let result = self.execute(clock);
        let failure = match result {
            Ok(report) => {
                let printed = print(json, &report);
                report.failure.or(printed.err())
            }
            Err(error) => Some(error),
        };
        let Some(error) = failure else { return 0 };
        let error = error.or_default_hint();
        complain(json, &error);
        error.class().exit_code()
    }

    fn execute(self, clock: fn() -> Timestamp) -> Result<Report> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::unexpected(format!("starting the runtime: {e}")))?;
        let result = runtime.block_on(self.dispatch(clock));
        // A blocking read of a stuck file system must not keep an interrupted run from ending.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        result
    }

    async fn dispatch(self, clock: fn() -> Timestamp) -> Result<Report> {
        let given = match self.now {
            Some(Now::At(moment)) => Some(moment),
            Some(Now::AtOnce) if !matches!(self.verb, Verb::Prune { .. }) => {
                return Err(Error::new(Class::Usage, "--now without a time goes with `prune` alone")
                    .hint("leave it out, or give a time such as 2026-06-30T01:00:00Z"));
            }
            Some(Now::AtOnce) | None => None,
        };
        let at_once = self.now == Some(Now::AtOnce);
        let now = given.unwrap_or_else(clock);
        if let Verb::Plugins { verb } = &self.verb {
            return plugins::run(verb, &self.config, plugins_folder().as_deref(), now).await;
        }
        if let Verb::Status(arguments) = &self.verb
            && arguments.of_a_fleet()
        {
            let fleet = config::Fleet::read(&self.config)?;
            return status::run_fleet(&fleet, arguments, self.json, plugins_folder().as_deref(), now).await;
        }
        let config = Config::read(&self.config)?;
        let shift = given.map_or(SignedDuration::ZERO, |now| now.duration_since(clock()));
        let host = async |of: Of| {
            let mut host = Host::open(config.clone(), &of.environment, plugins_folder(), now).await?;
            host.clock = host.clock.moved_by(shift);
            Ok::<_, Error>(host)
        };
        match self.verb {
            Verb::Backup { of, force, dry_run, here, leave_on_interrupt } => {
                let (_, own) = config.environment(&of.environment)?;
                if own.run == config::Run::Job && !here {
                    let options = job::Options { force, dry_run, json: self.json, leave: leave_on_interrupt };
                    let folder = plugins_folder();
                    return job::run(&config, &of.environment, folder.as_deref(), options, now).await;
                }
                backup::run(&host(of).await?, backup::Options { force, dry_run }, now, interrupted()).await
            }
            Verb::Coverage => coverage::run(&config, plugins_folder().as_deref(), now).await,
            Verb::Plugins { verb } => plugins::run(&verb, &self.config, plugins_folder().as_deref(), now).await,
            Verb::Status(arguments) => {
                status::run(&config, &arguments, self.json, plugins_folder().as_deref(), now).await
            }
            Verb::List { of } => list::list(&host(of).await?).await,
            Verb::Prune { of, options } => {
                let options = PruneOptions { now: at_once, ..options };
                list::prune(&host(of).await?, options, interrupted()).await
            }
            Verb::Unforget { of, id, release } => list::unforget(&host(of).await?, &id, release).await,
            Verb::Init { of } => accept::init(&host(of).await?).await,
            Verb::Accept(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                accept::accept(&host(of).await?, &arguments).await
            }
            Verb::Restore(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                restore::run(&host(of).await?, &arguments, interrupted()).await
            }
            Verb::Get(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                get::run(&host(of).await?, &arguments, self.json, interrupted()).await
            }
            Verb::Find(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                find::find(&host(of).await?, &arguments, self.json).await
            }
            Verb::History(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                find::versions(&host(of).await?, &arguments).await
            }
            Verb::Verify(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                verify::run(&host(of).await?, &arguments, interrupted()).await
            }
            Verb::Drill(arguments) => {
                let of = Of { environment: arguments.environment.clone() };
                drill::run(&host(of).await?, &arguments, interrupted()).await
            }
        }
    }
}

/// Parses the command line.
///
/// # Errors
/// The exit code, after help was printed or what is wrong was said.
pub fn parse() -> std::result::Result<Cli, u8> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            // Nobody is left to tell when the stream is closed.
            drop(error.print());
            return if error.use_stderr() { Class::Usage.exit_code() } else { 0 };
        }
        let json = std::env::args_os().any(|argument| argument == "--json");
        complain(json, &usage(&error));
        Class::Usage.exit_code()
    })
}

/// What clap says in paragraphs: what is wrong, a similar word where there is one, how the verb is used.
fn usage(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|of| of.split_whitespace().collect::<Vec<_>>().join(" "));
    let wrong = paragraphs.next().unwrap_or_default();
    let wrong = wrong.strip_prefix("error: ").unwrap_or(&wrong);
    let rest: Vec<_> = paragraphs.collect();
    let hint = ["tip: ", "Usage: "].into_iter().find_map(|mark| rest.iter().find_map(|of| of.strip_prefix(mark)));
    Error::new(Class::Usage, printable(wrong))
        .hint(printable(hint.unwrap_or("`--help` after the verb says what it takes")))
}

fn print(json: bool, report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = if json {
        writeln!(out, "{}", report.document)
    } else {
        out.write_all(printable_lines(&report.text).as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        // A reader such as `head` that has enough is no failure of ours.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::unexpected(format!("writing the result: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn complain(json: bool, error: &Error) {
    let mut err = std::io::stderr().lock();
    let advice = error.advice();
    let written = if json {
        let object = serde_json::json!({
            "format_version": crate::report::FORMAT_VERSION,
            "error": error.message(),
            "hint": advice,
            "exit_code": error.class().exit_code(),
        });
        writeln!(err, "{object}")
    } else {
        let hint = advice.map_or_else(String::new, |hint| format!("hint: {hint}\n"));
        err.write_all(printable_lines(&format!("error: {error}\n{hint}")).as_bytes())
    };
    // Nobody is left to tell when stderr is closed.
    drop(written);
}

/// The folder `plugins` beside the binary, through a link to it.
fn plugins_folder() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    Some(binary.parent()?.join("plugins"))
}

/// Resolves on Ctrl-C and on SIGTERM, which Kubernetes sends before it kills. From the call on neither ends the process.
fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        match signals {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            }
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_makes_no_sense_gets_a_sentence_and_a_hint() {
        for (line, says, hint) in [
            ("lst", "'lst'", "'list'"),
            ("list", "--env <NAME>", "dolibarr-backup list --env <NAME>"),
            ("list --env", "--env <NAME>", "--help"),
            ("list --env p more", "'more'", "list [OPTIONS] --env <NAME>"),
            ("plugins log --env p --since soon", "`soon` is not a valid age; expected a number with a unit", "--help"),
            ("plugins new other x-y", "[possible values: retention, fingerprint, dump]", "--help"),
            ("list --env p \u{1b}[31m", "", "list"),
        ] {
            let error = Cli::try_parse_from(["dolibarr-backup"].into_iter().chain(line.split(' '))).unwrap_err();
            let error = usage(&error);
            assert!(error.message().contains(says) && !error.message().contains('\n'), "{line}: {error}");
            assert!(!error.message().contains('\u{1b}'), "{line}: {error}");
            assert!(error.advice().is_some_and(|advice| advice.contains(hint)), "{line}: {:?}", error.advice());
            assert_eq!(error.class(), Class::Usage);
        }
    }
}
