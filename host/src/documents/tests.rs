//! Archives of awkward trees, unpacked with the tools that people have, and compared with the trees.

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

/// What must be the same of an entry after unpacking.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    /// Of all but symbolic links, whose times not every tool restores.
    modified: (i64, u64),
    content: String,
    /// The first path of the same file.
    first: Option<Vec<u8>>,
}

/// Every entry of a tree, by a walk that shares nothing with the one under test.
fn facts(root: &Path) -> BTreeMap<Vec<u8>, Facts> {
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut all = BTreeMap::new();
    let mut names = BTreeMap::new();
    look(&root, b".", Vec::new(), &mut all, &mut names);
    for paths in names.values() {
        for path in paths {
            all.get_mut(path).unwrap().first = paths.iter().min().cloned();
        }
    }
    all
}

fn look(
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
    };
    match kind {
        FileType::Directory => {
            let inner = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            for entry in rustix::fs::Dir::read_from(&inner).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    let path = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
                    look(&inner, name, path, all, names);
                }
            }
        }
        FileType::RegularFile => {
            let mut file =
                std::fs::File::from(rustix::fs::openat(folder, name, OFlags::RDONLY, Mode::empty()).unwrap());
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

async fn collected(mut stream: ByteStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(block) = stream.next().await? {
        all.extend_from_slice(&block);
    }
    Ok(all)
}

fn tree(path: &Path) -> Arc<Tree> {
    Tree::open(&Config { path: path.to_owned() }, "prod/docs".to_owned()).unwrap()
}

fn reporting(exclude: &[&str]) -> ArchiveOptions {
    let exclude = exclude.iter().map(|p| (*p).to_owned()).collect();
    ArchiveOptions { exclude, when_unreadable: WhenUnreadable::Report }
}

async fn archived(path: &Path, exclude: &[&str]) -> (Vec<u8>, ArchiveReport) {
    let tree = tree(path);
    let bytes = collected(tree.archive(reporting(exclude)).unwrap()).await.unwrap();
    (bytes, tree.report().unwrap())
}

/// A tool that may be missing: then it is said, and nothing is tested with it.
fn installed(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}

fn ran(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}: {} {said}", output.status);
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

/// Everything that a documents folder can throw at an archive, and that every tool can unpack.
fn awkward(root: &Path) {
    std::fs::create_dir_all(root.join("facture/FA2601-0001")).unwrap();
    std::fs::write(root.join("facture/FA2601-0001/FA2601-0001.pdf"), noise(36_000, 1)).unwrap();
    std::fs::write(root.join("facture/FA2601-0001/note.txt"), "net à payer\n".repeat(500)).unwrap();
    std::fs::create_dir(root.join("empty folder")).unwrap();
    std::fs::write(root.join("empty file"), "").unwrap();
    for name in [
        "société été".as_bytes(),
        b"line\nbreak",
        b"latin-\xe9\xff",
        b"-rf",
        b"*",
        b"back\\slash",
        b" blank ",
        "日本語 العربية".as_bytes(),
        b"\x1b[31mred",
        &[b'x'; 255],
        &[0xe9; 255],
        &[b'y'; 100],
        &[b'y'; 99],
        &[b'y'; 101],
    ] {
        std::fs::write(at(root, name), name).unwrap();
    }
    let long = vec!["dossier-é".repeat(8); 5].join("/");
    assert!(long.len() > 300);
    std::fs::create_dir_all(root.join(&long)).unwrap();
    std::fs::write(root.join(&long).join("file"), "far").unwrap();
    let bad = at(root, &[b"rep-\xff\xfe/".repeat(20), vec![b'z'; 50]].concat());
    std::fs::create_dir_all(&bad).unwrap();
    std::fs::write(bad.join("file"), "farther").unwrap();
    let deep = vec!["d"; 100].join("/");
    std::fs::create_dir_all(root.join(&deep)).unwrap();
    std::fs::write(root.join(&deep).join("file"), "deep").unwrap();

    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("../../..", root.join("out of the tree")).unwrap();
    symlink("facture", root.join("to a folder")).unwrap();
    symlink(OsStr::from_bytes(&b"t/\xff".repeat(60)), root.join("long target")).unwrap();

    std::fs::write(root.join("one"), noise(3_000, 2)).unwrap();
    std::fs::hard_link(root.join("one"), root.join("facture/two")).unwrap();
    std::fs::hard_link(root.join("one"), root.join(&long).join("three")).unwrap();
    std::fs::write(root.join("large one"), noise(3 << 20, 3)).unwrap();
    std::fs::hard_link(root.join("large one"), root.join("large two")).unwrap();

    for (name, mode) in [("m0", 0o0), ("m4755", 0o4755), ("m644", 0o644), ("m2711", 0o2711)] {
        std::fs::write(root.join(name), name).unwrap();
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, mode) in [("sticky", 0o1777), ("setgid", 0o2775), ("closed", 0o500)] {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("inside"), name).unwrap();
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    ran(Command::new("mkfifo").arg(root.join("fifo")));

    // Sizes around the blocks of tar, the members and the stored blocks of deflate.
    for size in [1, 511, 512, 513, 65_535, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 7] {
        std::fs::write(root.join(format!("noise {size}")), noise(size, 4)).unwrap();
        std::fs::write(root.join(format!("text {size}")), vec![b'a'; size]).unwrap();
    }
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"an island", 17 << 20).unwrap();
}

/// Times that only some tools restore to the nanosecond, set last because writing changes them.
fn times(root: &Path) {
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for (name, seconds, nanoseconds) in [
        ("one", 1_700_000_000, 123_456_789),
        ("m644", -86_400 * 365, 0),
        ("m4755", -2, 500_000_000),
        ("empty file", 4_102_444_800, 1),
        ("empty folder", 1_600_000_000, 999_999_999),
        ("facture", 0, 0),
        ("noise 512", 8_589_934_592, 5),
        (".", 1_500_000_000, 250_000_000),
    ] {
        set_modified(&root, name.as_bytes(), seconds, nanoseconds);
    }
}

#[tokio::test]
async fn stock_tools_restore_an_awkward_tree_as_it_was() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    awkward(&root);
    times(&root);
    let before = facts(&root);
    let (bytes, report) = archived(&root, &[]).await;
    assert_eq!(report.problems, []);
    assert_eq!(report.files, before.values().filter(|f| f.kind != "Directory").count() as u64);
    assert_eq!(
        report.bytes,
        before
            .iter()
            .filter(|(p, f)| f.first.as_ref().is_none_or(|first| first == *p))
            .map(|(_, f)| f.size)
            .sum::<u64>()
    );
    assert_eq!(facts(&root), before, "reading changed the tree");

    let file = base.path().join("docs.tar.gz");
    std::fs::write(&file, &bytes).unwrap();
    ran(Command::new("gzip").arg("-t").arg(&file));
    let unpack_with = |tool: &str, arguments: &[&str], locale: &str| {
        if !installed(tool) {
            return;
        }
        let into = base.path().join(format!("{tool}-{locale}"));
        std::fs::create_dir(&into).unwrap();
        ran(Command::new(tool).args(arguments).arg(&file).current_dir(&into).env("LC_ALL", locale));
        let mut after = facts(&into);
        if tool == "python3" {
            // Its times are floating-point numbers.
            for (path, facts) in &mut after {
                let exact = before[path].modified;
                let apart = (i128::from(facts.modified.0) - i128::from(exact.0)) * 1_000_000_000
                    + i128::from(facts.modified.1)
                    - i128::from(exact.1);
                assert!(apart.abs() < 2_000, "{}: {apart} ns", entry::shown(path));
                facts.modified = exact;
            }
        }
        if tool == "bsdtar" {
            // It leaves a folder alone that was there before, and reads the fraction of a time before 1970 forwards.
            for path in [&b""[..], b"m4755"] {
                after.get_mut(path).unwrap().modified = before[path].modified;
            }
        }
        for (path, expected) in &before {
            assert_eq!(after.get(path), Some(expected), "{tool} in {locale}: {}", entry::shown(path));
        }
        assert_eq!(after.len(), before.len());
    };
    for locale in ["C", "C.UTF-8"] {
        // GNU tar finds times before 1970 and after today worth a warning.
        unpack_with("tar", &["--warning=no-timestamp", "-xpzf"], locale);
        unpack_with("bsdtar", &["-xpzf"], locale);
        unpack_with("python3", &["-c", PYTHON], locale);
    }
}

/// Owners as numbers, everything else as the archive says.
const PYTHON: &str = "
import sys, tarfile
tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)
tarfile.open(sys.argv[1]).extractall('.', numeric_owner=True)
";
