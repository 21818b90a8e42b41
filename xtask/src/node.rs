//! A cluster of one node on this machine, with the image in it, until Ctrl-C: to try a chart's values or a kubeconfig by hand.

use crate::run::{failure, loud, say, timed};
use crate::{image, machine, plugins};
use anyhow::Result;

/// What `cargo xtask node` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Port of this machine's loopback address that pods may reach, say that of a database; several may be given
    #[arg(long, value_name = "PORT")]
    offer: Vec<u16>,
}

/// Builds what is missing, starts the cluster, and waits.
///
/// # Errors
/// When something is missing, does not build or does not start.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !machine::is_root() {
        return Err(failure("a node runs containers, which takes root", "run it as root"));
    }
    machine::kubernetes::control_plane()?;
    machine::kubernetes::node()?;
    let target = machine::target_folder()?;
    plugins::build(&target)?;
    timed("building the binary", || {
        let mut build = machine::cargo();
        build.env("CARGO_TARGET_DIR", &target).args(["build", "--quiet", "--package", "dolibarr-backup"]);
        build.args(["--package", "tests", "--bin", "dolibarr-backup", "--bin", "node"]);
        loud(&mut build, "mend what the compiler names")
    })?;
    let image = image::of_tests(&target)?;
    say("starting a cluster, which takes half a minute");
    let mut node = std::process::Command::new(target.join("debug/node"));
    node.arg(image).args(arguments.offer.iter().map(u16::to_string));
    loud(&mut node, "the last lines above say what did not start")
}
