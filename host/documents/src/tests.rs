//! Archives of awkward trees, unpacked with this program and with stock tools, and compared with the originals.

mod changing;
mod getting;
mod hostile;
mod indexed;
mod kept;
mod restoring;
mod summarising;
mod unpacking;
mod unreadable;

use super::*;
use rustix::fs::{AtFlags, FileType, Timespec, Timestamps, UTIME_NOW};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Waits until a condition holds. Panics with `otherwise` if it never does.
async fn eventually(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    for _ in 0..2_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{}", otherwise());
}

/// What must be the same about an entry after unpacking.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    /// Zero for symbolic links, because not every tool restores their times.
    modified: (i64, u64),
    content: String,
    /// The first path of the same file.
    first: Option<Vec<u8>>,
    /// Extended attributes, including access control lists.
    attributes: BTreeMap<String, Vec<u8>>,
}

/// Every entry of a tree, read without using the code under test.
fn facts(root: &Path) -> BTreeMap<Vec<u8>, Facts> {
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut all = BTreeMap::new();
    let mut names = BTreeMap::new();
    visit(&root, b".", Vec::new(), &mut all, &mut names);
    for paths in names.values() {
        for path in paths {
            all.get_mut(path).unwrap().first = paths.iter().min().cloned();
        }
    }
    all
}

fn visit(
    folder: &OwnedFd,
    name: &[u8],
    path: Vec<u8>,
    all: &mut BTreeMap<Vec<u8>, Facts>,
    names: &mut BTreeMap<u64, Vec<Vec<u8>>>,
) {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut facts = Facts {
        kind: format!("{kind:?}"),
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        size: 0,
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        content: String::new(),
        first: None,
        attributes: BTreeMap::new(),
    };
    match kind {
        FileType::Directory => {
            let inner = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            facts.attributes = attributes(&inner);
            for entry in rustix::fs::Dir::read_from(&inner).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    let path = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
                    visit(&inner, name, path, all, names);
                }
            }
        }
        FileType::RegularFile => {
            let mut file =
                std::fs::File::from(rustix::fs::openat(folder, name, OFlags::RDONLY, Mode::empty()).unwrap());
            facts.attributes = attributes(&file);
            let mut content = Vec::new();
            facts.size = std::io::Read::read_to_end(&mut file, &mut content).unwrap() as u64;
            facts.content = hex::encode(Sha256::digest(&content));
            if stat.st_nlink > 1 {
                names.entry(stat.st_ino).or_default().push(path.clone());
            }
        }
        FileType::Symlink => {
            facts.content = format!("{:?}", rustix::fs::readlinkat(folder, name, Vec::new()).unwrap());
            facts.modified = (0, 0);
        }
        _ => {}
    }
    all.insert(path, facts);
}

fn attributes(file: &impl AsFd) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::flistxattr(file, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..]).unwrap();
        value.truncate(length);
        (String::from_utf8_lossy(name).into_owned(), value)
    };
    names.filter(|name| !name.starts_with(b"security.")).map(value).collect()
}

/// Sets an attribute of a file or folder. Returns whether this file system supports it.
fn set_attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    match rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()) {
        Err(Errno::NOTSUP) => {
            ::tests::skip(&format!("this file system does not support attributes such as `{name}`"));
            false
        }
        set => set.map(|()| true).unwrap(),
    }
}

async fn collected(mut stream: ByteStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(block) = stream.next().await? {
        all.extend_from_slice(&block);
    }
    Ok(all)
}

fn tree(path: &Path) -> Arc<Tree> {
    Tree::open(&FolderConfig { path: path.to_owned() }, "prod/docs".to_owned()).unwrap()
}

fn reporting(exclude: &[&str]) -> ArchiveOptions {
    let exclude = exclude.iter().map(|p| (*p).to_owned()).collect();
    ArchiveOptions { exclude, when_unreadable: WhenUnreadable::Report }
}

async fn archived(path: &Path, exclude: &[&str]) -> (Vec<u8>, ArchiveReport) {
    let (bytes, outcome) = finished(&tree(path), reporting(exclude)).await.unwrap();
    (bytes, outcome.report)
}

/// The bytes of an archive and its outcome.
async fn finished(tree: &Tree, options: ArchiveOptions) -> Result<(Vec<u8>, Archived)> {
    let (stream, outcome) = tree.archive(options)?;
    Ok((collected(stream).await?, outcome.await.unwrap()))
}

/// Whether a tool is installed. If it is not, notes that its test is skipped.
fn installed(tool: &str) -> bool {
    let is_installed = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_installed {
        ::tests::skip(&format!("{tool} is not installed"));
    }
    is_installed
}

/// Runs a command, which must succeed without printing to stderr.
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{command:?}: {} {stderr}", output.status);
}

fn set_modified(at: &impl AsFd, name: &[u8], seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn at(root: &Path, name: &[u8]) -> std::path::PathBuf {
    root.join(OsStr::from_bytes(name))
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    use rand::{RngExt, SeedableRng};
    let mut noise = vec![0; bytes];
    rand::rngs::SmallRng::seed_from_u64(seed).fill(&mut noise[..]);
    noise
}

/// Unpacks an archive with GNU tar and returns the facts about its entries.
fn unpacked(bytes: &[u8]) -> BTreeMap<Vec<u8>, Facts> {
    let base = tempfile::tempdir().unwrap();
    let into = base.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let file = base.path().join("docs.tar.gz");
    std::fs::write(&file, bytes).unwrap();
    run(Command::new("tar")
        .args(["--warning=no-timestamp", "--xattrs", "--acls", "-xpzf"])
        .arg(&file)
        .current_dir(&into));
    facts(&into)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
