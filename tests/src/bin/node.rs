//! Starts a one-node cluster with an image, prints how to connect to it, and stops it on Ctrl-C or SIGTERM.
//!
//! This is not a test: `cargo xtask node` builds what it needs and starts it.

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;
use tests::kubernetes::Node;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
struct Arguments {
    /// The archive with the image
    image: PathBuf,
    /// Ports of the loopback address that pods can reach
    offered: Vec<u16>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut node = Node::start().context("this machine cannot run a node")?;
    node.import(&arguments.image)?;
    for port in &arguments.offered {
        node.offer(*port);
    }
    let (kubeconfig, programs) = node.administrator();
    println!("export KUBECONFIG={} PATH={}:$PATH", kubeconfig.display(), programs.display());
    println!("images: {}", node.images()?.join(", "));
    println!("pods reach the offered ports at {}; Ctrl-C stops the cluster", Node::ADDRESS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        anyhow::Ok(())
    })
}
