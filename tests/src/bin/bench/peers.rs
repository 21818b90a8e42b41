//! The peers, and the commands with which each does the same work.

use super::measure::shell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::garage::Garage;

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let mut which = Command::new("sh");
    which.args(["-c", "command -v \"$1\"", "which", program]).stdout(Stdio::null());
    which.status().is_ok_and(|status| status.success())
}

/// An S3 server for peers.
pub struct S3<'g>(pub &'g Garage);

impl S3<'_> {
    fn env<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("AWS_ACCESS_KEY_ID", self.0.key_id())
            .env("AWS_SECRET_ACCESS_KEY", self.0.secret())
            .env("AWS_DEFAULT_REGION", Garage::REGION)
            .env("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
            .env("ENDPOINT", self.0.endpoint())
    }

    /// `tar -czf - | aws s3 cp -`
    pub fn tar_to(&self, tree: &Path, key: &str) -> Command {
        let script = "tar -czf - -C \"$1\" . | aws --endpoint-url \"$ENDPOINT\" s3 cp --quiet - \"$KEY\"";
        let mut command = shell(script, [tree]);
        self.env(&mut command).env("KEY", format!("s3://{}/{key}", Garage::BUCKET));
        command
    }

    /// `aws s3 cp - | tar -xzf -`
    pub fn tar_from(&self, key: &str, into: &Path) -> Command {
        let script = "aws --endpoint-url \"$ENDPOINT\" s3 cp --quiet \"$KEY\" - | tar -xzf - -C \"$1\"";
        let mut command = shell(script, [into]);
        self.env(&mut command).env("KEY", format!("s3://{}/{key}", Garage::BUCKET));
        command
    }

    /// A restic repository on the server.
    pub fn restic(&self, name: &str, cache: &Path) -> Restic {
        Restic { repository: format!("s3:{}/{}/{name}", self.0.endpoint(), Garage::BUCKET), cache: cache.into() }
    }

    /// Adds the credentials to a restic command.
    pub fn with_credentials(&self, mut command: Command) -> Command {
        self.env(&mut command);
        command
    }
}

/// restic: it deduplicates and always encrypts.
pub struct Restic {
    pub repository: String,
    pub cache: PathBuf,
}

impl Restic {
    pub fn run(&self, arguments: &[&str], folder: &Path) -> Command {
        let mut command = Command::new("restic");
        command.arg("--quiet").arg("--repo").arg(&self.repository).arg("--cache-dir").arg(&self.cache).args(arguments);
        command.env("RESTIC_PASSWORD", "bench").current_dir(folder).stderr(Stdio::null());
        command
    }
}

/// rustic: restic's format, written in Rust.
pub struct Rustic {
    pub repository: PathBuf,
    pub cache: PathBuf,
}

impl Rustic {
    pub fn run(&self, arguments: &[&str], folder: &Path) -> Command {
        let mut command = Command::new("rustic");
        command.args(arguments).current_dir(folder).stderr(Stdio::null());
        command.env("RUSTIC_REPOSITORY", &self.repository).env("RUSTIC_CACHE_DIR", &self.cache);
        command.env("RUSTIC_PASSWORD", "bench").env("RUSTIC_NO_PROGRESS", "true");
        command
    }
}

/// borg: it deduplicates. Here without encryption and with its default compression.
pub struct Borg {
    pub repository: PathBuf,
    pub base: PathBuf,
}

impl Borg {
    pub fn run(&self, arguments: &[&str], folder: &Path) -> Command {
        let mut command = Command::new("borg");
        command.args(arguments).current_dir(folder).stderr(Stdio::null());
        command.env("BORG_REPO", &self.repository).env("BORG_BASE_DIR", &self.base);
        command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    }
}
