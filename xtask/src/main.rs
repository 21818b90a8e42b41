//! Development tasks: build the components, run every check, and show a demonstration on real servers.
//!
//! It installs missing tools through the machine's ordinary package clients and keeps slow builds in the cache folder.
//! It never touches a database, a store or a folder that it did not create.

mod bench;
mod bill;
mod cache;
mod campaign;
mod chart;
mod demo;
mod image;
mod machine;
mod node;
mod plugins;
mod python;
mod release;
mod run;
mod sign;
mod test;
mod tree;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Demonstrate the main commands with a throwaway PostgreSQL, and a folder as the store
    Demo(demo::Arguments),
    /// Install missing tools, then run every check: format, clippy, docs, dependencies, plugins, all tests
    Test(test::Arguments),
    /// Build the plugins where the binary finds them; rebuilds only what changed
    Plugins(plugins::Arguments),
    /// Render the chart with Helm 3 and 4, and compare with the golden files
    Chart(chart::Arguments),
    /// Build an OCI image with the binary, the plugins and PostgreSQL's programs, without a daemon or a registry
    Image(image::Arguments),
    /// Build an archive of the binary and the plugins, with a bill of materials for each and optional signatures
    Release(release::Arguments),
    /// Start a one-node Kubernetes cluster that runs pods and has the image; it runs until Ctrl-C
    Node(node::Arguments),
    /// Simulate years with all faults, and check each day that everything that retention must keep can be restored
    Campaign(campaign::Arguments),
    /// Compare time, memory and size with those of other tools, and write tables and charts
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        None => Arguments::command().print_long_help().map_err(Into::into),
        Some(Task::Demo(arguments)) => demo::run(&arguments),
        Some(Task::Test(arguments)) => test::run(&arguments),
        Some(Task::Plugins(arguments)) => plugins::run(&arguments),
        Some(Task::Chart(arguments)) => chart::run(&arguments),
        Some(Task::Image(arguments)) => image::run(&arguments),
        Some(Task::Release(arguments)) => release::run(&arguments),
        Some(Task::Node(arguments)) => node::run(&arguments),
        Some(Task::Campaign(arguments)) => campaign::run(&arguments),
        Some(Task::Bench(arguments)) => bench::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::report(&error);
            ExitCode::FAILURE
        }
    }
}
