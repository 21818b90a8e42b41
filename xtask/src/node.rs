//! Starts a one-node cluster on this machine that has the image, to try chart values or a kubeconfig by hand. The
//! cluster runs until Ctrl-C.

use crate::run::{failure, loud, say, timed};
use crate::{image, machine, plugins};
use anyhow::Result;

/// Arguments of `cargo xtask node`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Port of this machine's loopback address that pods may reach, such as a database's port; repeatable
    #[arg(long, value_name = "PORT")]
    offer: Vec<u16>,
}

/// Builds what is missing, starts the cluster, and waits.
pub fn run(arguments: &Arguments) -> Result<()> {
    if !machine::is_root() {
        return Err(failure("a node runs containers, which needs root", "run it as root"));
    }
    machine::kubernetes::control_plane()?;
    machine::kubernetes::node()?;
    let target = machine::target_folder()?;
    plugins::build(&target)?;
    timed("building the binary", || {
        let mut build = machine::cargo();
        build.env("CARGO_TARGET_DIR", &target).args(["build", "--quiet", "--package", "dolibarr-backup"]);
        build.args(["--package", "tests", "--bin", "dolibarr-backup", "--bin", "node"]);
        loud(&mut build, "fix the errors that the compiler reports")
    })?;
    let image = image::build_for_tests(&target)?;
    say("starting a cluster; this takes half a minute");
    let mut node = std::process::Command::new(target.join("debug/node"));
    node.arg(image).args(arguments.offer.iter().map(u16::to_string));
    loud(&mut node, "the last lines above show what did not start")
}
