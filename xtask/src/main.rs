//! What a fresh machine needs: the components, every check, and a demonstration on real servers.
//!
//! It installs what is missing through the machine's ordinary package clients and keeps what is slow to make in the
//! cache folder. It never touches a database, a store or a folder that it has not made itself.

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
#[command(name = "cargo xtask", about = "What a fresh machine needs", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Run the main job on a throwaway PostgreSQL and a folder as the store, and show what it does
    Demo(demo::Arguments),
    /// Install what is missing, then run every check: format, clippy, docs, dependencies, plugins, all tests
    Test(test::Arguments),
    /// Build the plugins to where the binary finds them; rebuilds only what changed
    Plugins(plugins::Arguments),
    /// Render the chart with Helm 3 and 4 and compare with the renderings that are kept
    Chart(chart::Arguments),
    /// Build an OCI image of the binary, the plugins and PostgreSQL's programs, without a daemon or a registry
    Image(image::Arguments),
    /// Build an archive of the binary and the plugins, a bill of materials for each, and signatures by a key that you name
    Release(release::Arguments),
    /// Start a Kubernetes cluster of one node that runs pods, with the image in it, until Ctrl-C
    Node(node::Arguments),
    /// Simulate years with every fault on, and want every owed state restorable on every day
    Campaign(campaign::Arguments),
    /// Measure time, memory and size side by side with peers in the same run, and keep tables and charts
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
