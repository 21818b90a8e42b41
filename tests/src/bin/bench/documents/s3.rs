//! The same work with an S3 server as the store.

use super::super::board::{Board, OURS};
use super::super::measure::measured;
use super::super::peers::{S3, is_installed};
use super::super::trees;
use super::{Ours, created, restore_target};
use anyhow::Result;
use std::path::Path;
use tests::binary::Config;
use tests::garage::Garage;

const FIRST: &str = "First backup to an S3 server (Garage, http)";
const RESTORE: &str = "Restore from an S3 server";
const ONE: &str = "One document from an S3 server";

/// Prefixes in the bucket: this program's objects, those of the warm-up, the peer's archive and restic's repository.
const OURS_BELOW: &str = "ours";
const WARM_UP_BELOW: &str = "warm-up";
const ARCHIVE: &str = "peer.tar.gz";
const RESTIC_BELOW: &str = "restic";

/// Measures one round on a new server. `folder` is empty.
pub fn measure(board: &mut Board, folder: &Path, binary: &Path, tree: &Path) -> Result<()> {
    let garage = Garage::start()?;
    let ours_below = |prefix: &str| {
        let url = format!("s3://{}/{prefix}", Garage::BUCKET);
        let config = Config::s3_store(&url, &garage.endpoint(), Garage::REGION, "garage", &garage.credentials());
        Ours::new(binary, config, tree, &folder.join(prefix))
    };
    let ours = ours_below(OURS_BELOW)?;
    let server = S3(&garage);
    let has_aws = is_installed("aws");
    let restic = is_installed("restic").then(|| server.restic(RESTIC_BELOW, &folder.join("restic-cache")));

    // A new server creates its folders and tables and allocates memory during the first requests, which are slower.
    measured(&mut ours_below(WARM_UP_BELOW)?.run(&["backup"]))?;
    board.add(FIRST, OURS, measured(&mut ours.run(&["backup"]))?);
    if has_aws {
        board.add(FIRST, "`tar -czf - \\| aws s3 cp -`", measured(&mut server.tar_to(tree, ARCHIVE))?);
    }
    if let Some(restic) = &restic {
        measured(&mut server.with_credentials(restic.run(&["init"], tree)))?;
        board.add(FIRST, "restic", measured(&mut server.with_credentials(restic.run(&["backup", "."], tree)))?);
    }

    let target = restore_target(folder, "ours")?.display().to_string();
    board.add(RESTORE, OURS, measured(&mut ours.run(&["restore", "--source", "docs", "--into", &target]))?);
    if has_aws {
        let target = created(restore_target(folder, "aws")?)?;
        board.add(RESTORE, "`aws s3 cp - \\| tar -xzf -`", measured(&mut server.tar_from(ARCHIVE, &target))?);
    }
    if let Some(restic) = &restic {
        let target = restore_target(folder, "restic")?.display().to_string();
        let restore = restic.run(&["restore", "latest", "--target", &target], tree);
        board.add(RESTORE, "restic", measured(&mut server.with_credentials(restore))?);
    }

    let path = trees::one(tree)?;
    let target = folder.join("one").display().to_string();
    board.add(ONE, OURS, measured(&mut ours.run(&["get", &path, "--output", &target]))?);
    if let Some(restic) = &restic {
        let dump = restic.run(&["dump", "latest", &format!("/{path}")], tree);
        board.add(ONE, "restic", measured(&mut server.with_credentials(dump))?);
    }
    Ok(())
}
