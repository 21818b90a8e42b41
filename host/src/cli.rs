//! The command line: the commands, and how their results become stdout, stderr and the exit code.

use crate::config::{self, Config, DEFAULT_FILE};
use crate::report::Report;
use crate::session::Session;
use crate::verbs::{
    accept, backup, coverage, drill, example, find, get, history, init, list, plugins, prune, restore, status,
    unforget, verify,
};
use base::error::{Class, Error, Result};
use base::text::{printable, printable_lines};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use jiff::{SignedDuration, Timestamp};
use std::io::Write;
use std::path::PathBuf;

/// Keeps a Dolibarr ERP restorable for ten years: its database and its documents, in an object store.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = exit_codes())]
pub struct Cli {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Print the result as one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// With `prune` and no time: delete what is in the bin now, without waiting. With a time, such as
    /// 2026-06-30T01:00:00Z: use it as the current time (for tests and simulations only)
    #[arg(long, global = true, value_name = "TIME", num_args = 0..=1, default_missing_value = WITHOUT_TIME)]
    now: Option<Now>,
    #[command(subcommand)]
    verb: Verb,
}

/// The value of `--now` without a time.
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

/// The end of the help text: every exit code and its meaning.
fn exit_codes() -> String {
    let mut text = "Exit codes:\n  0    done".to_owned();
    for class in Class::ALL {
        text.push_str(&format!("\n  {:<4} {}", class.exit_code(), class.meaning()));
    }
    text
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Back up the sources that have changed, record the run and apply the retention
    Backup(backup::Arguments),
    /// Answer the questions that `status` shows: a different database, a folder that is almost empty, a new or missing
    /// source
    Accept(accept::Arguments),
    /// Find volumes of the Kubernetes cluster that no backup covers
    Coverage,
    /// Print a complete configuration with comments
    Example,
    /// Create an environment in a store, once, before its first backup
    Init(init::Arguments),
    /// Show the snapshots, the state of each source, and why each is kept
    List(list::Arguments),
    /// Show what the plugins are allowed to do and what they did
    Plugins {
        #[command(subcommand)]
        verb: plugins::Verb,
    },
    /// Apply the retention without making a backup
    Prune(prune::Arguments),
    /// Show whether every configured source is backed up, verified and pruned; reads only the store
    Status(status::Arguments),
    /// Restore one source of a snapshot to a new place
    Restore(restore::Arguments),
    /// Extract single documents from a snapshot
    Get(get::Arguments),
    /// List the documents of a snapshot that match a pattern
    Find(find::Arguments),
    /// Show the versions of one document across the snapshots
    History(history::Arguments),
    /// Take a snapshot out of the bin and keep it
    Unforget(unforget::Arguments),
    /// Read snapshots back and check them against their records
    Verify(verify::Arguments),
    /// Restore a snapshot to a temporary location, check it, time each step and store a dated report
    Drill(drill::Arguments),
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
        print_error(json, &error);
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
                return Err(Error::new(Class::Usage, "--now without a time can only be used with `prune`")
                    .hint("remove it, or give a time such as 2026-06-30T01:00:00Z"));
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
        if let Verb::Example = self.verb {
            return Ok(example::run());
        }
        let config = Config::read(&self.config)?;
        let shift = given.map_or(SignedDuration::ZERO, |now| now.duration_since(clock()));
        let open = async |environment: &str| {
            let mut session = Session::open(config.clone(), environment, plugins_folder(), now).await?;
            session.clock = session.clock.moved_by(shift);
            Ok::<_, Error>(session)
        };
        let folder = plugins_folder();
        match self.verb {
            Verb::Backup(args) if config.environment(&args.environment)?.1.run == config::Run::Job && !args.here => {
                backup::job::run(&config, folder.as_deref(), &args, self.json, now).await
            }
            Verb::Backup(args) => backup::run(&open(&args.environment).await?, &args, now, interrupted()).await,
            Verb::Coverage => coverage::run(&config, folder.as_deref(), now).await,
            Verb::Example => Ok(example::run()),
            Verb::Plugins { verb } => plugins::run(&verb, &self.config, folder.as_deref(), now).await,
            Verb::Status(args) => status::run(&config, &args, self.json, folder.as_deref(), now).await,
            Verb::List(args) => list::run(&open(&args.environment).await?).await,
            Verb::Prune(mut args) => {
                args.at_once = at_once;
                prune::run(&open(&args.environment).await?, &args, interrupted()).await
            }
            Verb::Unforget(args) => unforget::run(&open(&args.environment).await?, &args).await,
            Verb::Init(args) => init::run(&open(&args.environment).await?).await,
            Verb::Accept(args) => accept::run(&open(&args.environment).await?, &args).await,
            Verb::Restore(args) => restore::run(&open(&args.environment).await?, &args, interrupted()).await,
            Verb::Get(args) => get::run(&open(&args.environment).await?, &args, self.json, interrupted()).await,
            Verb::Find(args) => find::run(&open(&args.environment).await?, &args, self.json).await,
            Verb::History(args) => history::run(&open(&args.environment).await?, &args).await,
            Verb::Verify(args) => verify::run(&open(&args.environment).await?, &args, interrupted()).await,
            Verb::Drill(args) => drill::run(&open(&args.environment).await?, &args, interrupted()).await,
        }
    }
}

/// Parses the command line.
///
/// # Errors
/// The exit code, after printing the help or the usage error.
pub fn parse() -> std::result::Result<Cli, u8> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            // A closed stream leaves nobody to report to.
            drop(error.print());
            return if error.use_stderr() { Class::Usage.exit_code() } else { 0 };
        }
        let json = std::env::args_os().any(|argument| argument == "--json");
        print_error(json, &usage(&error));
        Class::Usage.exit_code()
    })
}

/// Converts a clap error, whose paragraphs are the problem, an optional tip, and the usage.
fn usage(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let problem = paragraphs.next().unwrap_or_default();
    let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
    let rest: Vec<_> = paragraphs.collect();
    let hint = ["tip: ", "Usage: "]
        .into_iter()
        .find_map(|mark| rest.iter().find_map(|paragraph| paragraph.strip_prefix(mark)));
    Error::new(Class::Usage, printable(problem))
        .hint(printable(hint.unwrap_or("add --help to the command to see its options")))
}

fn print(json: bool, report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = if json {
        writeln!(out, "{}", report.document)
    } else {
        out.write_all(printable_lines(&report.text).as_bytes())
    };
    match written.and_then(|()| out.flush()) {
        // A reader such as `head` may close the pipe early; that is not an error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::unexpected(format!("writing the result: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn print_error(json: bool, error: &Error) {
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
    // A closed stderr leaves nobody to report to.
    drop(written);
}

/// The folder `plugins` next to the binary; a symbolic link to the binary is resolved.
fn plugins_folder() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    Some(binary.parent()?.join("plugins"))
}

/// Resolves on Ctrl-C and on SIGTERM, which Kubernetes sends before it kills. From this call on, neither ends the
/// process.
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
