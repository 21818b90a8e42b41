//! Trees that change while they are archived. The stream's bounded queue holds the archive back, so changes that are
//! made after the first block happen before the changed files are read.

use super::*;
use std::time::Duration;

/// Enough to fill every queue, so that files later in path order are not read before the first blocks are taken.
const HELD_BACK_BYTES: usize = 48 << 20;

/// A tree whose first file fills the pipeline.
fn held_back() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("a"), held_back_content()).unwrap();
    base
}

fn held_back_content() -> Vec<u8> {
    b"0123456789abcdef".repeat(HELD_BACK_BYTES / 16)
}

async fn changed_meanwhile(
    base: &Path,
    when_unreadable: WhenUnreadable,
    change: impl FnOnce(),
) -> (Result<Vec<u8>>, Option<ArchiveReport>) {
    let (mut stream, outcome) = tree(base).archive(ArchiveOptions { exclude: Vec::new(), when_unreadable }).unwrap();
    let mut all = stream.next().await.unwrap().unwrap().to_vec();
    change();
    let rest = collected(stream).await;
    let bytes = rest.map(|rest| {
        all.extend_from_slice(&rest);
        all
    });
    (bytes, outcome.await.ok().map(|outcome| outcome.report))
}

fn problem(report: &ArchiveReport, path: &str) -> Option<String> {
    report.problems.iter().find(|p| p.path == path).map(|p| p.reason.clone())
}

#[tokio::test]
async fn files_that_change_during_the_archive_are_reported_and_damage_nothing_else() {
    let base = held_back();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("inside"), "secret").unwrap();
    let at = |name: &str| base.path().join(name);
    for name in ["vanishes", "linked", "piped", "rests", "becomes large", "first", "emptied"] {
        std::fs::write(at(name), noise(1_000, 2)).unwrap();
    }
    for name in ["large grows", "large shrinks", "large vanishes"] {
        std::fs::write(at(name), noise(6 << 20, 3)).unwrap();
    }
    std::fs::create_dir(at("swapped")).unwrap();
    std::fs::write(at("swapped/inside"), "public").unwrap();
    std::fs::hard_link(at("first"), at("second")).unwrap();
    std::fs::hard_link(at("first"), at("third")).unwrap();
    std::fs::write(at("zz last"), "the last").unwrap();
    let grown = noise(3 << 20, 4);

    let (bytes, report) = changed_meanwhile(base.path(), WhenUnreadable::Report, || {
        // The first large file has been read in part and is now truncated.
        std::fs::write(at("a"), "").unwrap();
        for name in ["vanishes", "large vanishes", "first", "linked", "piped"] {
            std::fs::remove_file(at(name)).unwrap();
        }
        symlink("/etc/passwd", at("linked")).unwrap();
        run(Command::new("mkfifo").arg(at("piped")));
        std::fs::rename(at("swapped"), outside.path().join("was")).unwrap();
        symlink(outside.path(), at("swapped")).unwrap();
        std::fs::write(at("becomes large"), &grown).unwrap();
        std::fs::write(at("emptied"), "").unwrap();
    })
    .await;
    let report = report.unwrap();
    for (path, reason) in [
        ("a", "became shorter while it was read; the missing part is filled with zeros"),
        ("vanishes", "vanished before it was read"),
        ("large vanishes", "vanished before it was read"),
        ("first", "vanished before it was read"),
        ("linked", "cannot be read: too many levels of symbolic links"),
        ("piped", "cannot be read: it is no longer a file"),
        ("swapped/inside", "cannot be read: not a directory"),
        ("rests", ""),
        ("becomes large", ""),
        ("emptied", ""),
        ("second", ""),
        ("third", ""),
        ("zz last", ""),
    ] {
        assert_eq!(problem(&report, path).unwrap_or_default(), reason, "{path}");
    }
    assert_eq!((report.problems_total, report.vanished_total), (7, 3));
    assert_eq!(report.unreadable, [], "vanished and changed files do not count as unreadable");
    assert_eq!(report.unreadable_total, 0);

    let after = unpacked(&bytes.unwrap());
    let content = |path: &str| after.get(path.as_bytes()).map(|f| f.content.clone());
    assert_eq!(after[&b"a"[..]].size, HELD_BACK_BYTES as u64, "the announced length is kept");
    assert_eq!(content("rests"), Some(sha256(&noise(1_000, 2))));
    assert_eq!(content("second"), Some(sha256(&noise(1_000, 2))), "a further name replaces a first one that vanished");
    assert_eq!(content("third"), Some(sha256(&noise(1_000, 2))));
    assert_eq!(content("becomes large"), Some(sha256(&grown)));
    assert_eq!(content("emptied"), Some(sha256(b"")));
    assert_eq!(content("zz last"), Some(sha256(b"the last")));
    for gone in ["vanishes", "large vanishes", "first", "linked", "piped", "swapped/inside"] {
        assert_eq!(content(gone), None, "{gone}");
    }
    assert!(after.contains_key(&b"swapped"[..]));
}

#[tokio::test]
async fn a_large_file_that_grows_keeps_its_first_length_and_is_reported() {
    let base = held_back();
    let (bytes, report) = changed_meanwhile(base.path(), WhenUnreadable::Report, || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(base.path().join("a")).unwrap();
        file.write_all(b"more").unwrap();
    })
    .await;
    let reason = problem(&report.unwrap(), "a").unwrap();
    assert!(reason.starts_with("changed while it was read"), "{reason}");
    assert_eq!(unpacked(&bytes.unwrap())[&b"a"[..]].content, sha256(&held_back_content()));
}

#[tokio::test]
async fn an_archive_that_must_be_exact_fails_and_names_the_file() {
    let base = held_back();
    std::fs::write(base.path().join("b\u{1b}"), "").unwrap();
    let (bytes, report) = changed_meanwhile(base.path(), WhenUnreadable::Fail, || {
        std::fs::remove_file(base.path().join("b\u{1b}")).unwrap();
    })
    .await;
    let error = bytes.unwrap_err();
    assert!(error.message().contains("`b\\x1b` vanished"), "{error}");
    assert!(error.advice().is_some());
    assert_eq!(report, None, "an archive that failed has no report");
}

#[tokio::test]
async fn a_file_that_is_written_to_all_the_time_is_still_archived() {
    let base = tempfile::tempdir().unwrap();
    let log = base.path().join("app.log");
    std::fs::write(&log, "").unwrap();
    std::fs::write(base.path().join("z"), "after").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, log) = (Arc::clone(&stop), log.clone());
        move || {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).open(log).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"0123456789abcdef").unwrap();
            }
        }
    });
    for _ in 0..10 {
        let (bytes, report) = archived(base.path(), &[]).await;
        assert_eq!(report.files, 2);
        assert!(report.problems.iter().all(|p| p.path == "app.log"), "{:?}", report.problems);
        let after = unpacked(&bytes);
        assert_eq!(after[&b"z"[..]].content, sha256(b"after"));
        assert_eq!(after[&b"app.log"[..]].size % 16, 0, "only complete appends are archived");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}

#[tokio::test]
async fn dropping_the_stream_ends_every_thread() {
    let base = held_back();
    for n in 0..2_000 {
        std::fs::create_dir_all(base.path().join(format!("b/{n}"))).unwrap();
        std::fs::write(base.path().join(format!("b/{n}/x")), "").unwrap();
        std::fs::hard_link(base.path().join(format!("b/{n}/x")), base.path().join(format!("b/{n}/y"))).unwrap();
    }
    for blocks in [0, 1, 20] {
        let tree = tree(base.path());
        let (mut stream, outcome) = tree.archive(reporting(&[])).unwrap();
        for _ in 0..blocks {
            stream.next().await.unwrap().unwrap();
        }
        drop(stream);
        assert_threads_end(&tree, &format!("after {blocks} blocks")).await;
        assert!(outcome.await.is_err());
    }
}

#[tokio::test]
async fn dropping_a_summary_ends_every_thread() {
    let base = held_back();
    let tree = tree(base.path());
    let summary = tokio::time::timeout(Duration::from_millis(5), tree.summarise(&[], Detail::Content)).await;
    assert!(summary.is_err(), "48 MiB were hashed within 5 ms");
    assert_threads_end(&tree, "a summary").await;
}

/// Every thread that reads a tree holds a reference to its root.
async fn assert_threads_end(tree: &Tree, what: &str) {
    let left = || Arc::strong_count(&tree.root) - 1;
    eventually(|| left() == 0, || format!("{} threads are left: {what}", left())).await;
}

#[tokio::test]
async fn entries_without_read_permission_are_reported() {
    if rustix::process::geteuid().is_root() {
        again_as_nobody("tests::changing::entries_without_read_permission_are_reported");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("closed")).unwrap();
    std::fs::write(base.path().join("closed/x"), "").unwrap();
    std::fs::write(base.path().join("file"), "").unwrap();
    std::fs::write(base.path().join("open"), "").unwrap();
    for name in ["closed", "file"] {
        std::fs::set_permissions(base.path().join(name), std::fs::Permissions::from_mode(0o0)).unwrap();
    }
    let tree = tree(base.path());
    let (bytes, Archived { report, .. }) = finished(&tree, reporting(&[])).await.unwrap();
    assert_eq!(problem(&report, "closed").as_deref(), Some("cannot be read: permission denied"));
    assert_eq!(problem(&report, "file").as_deref(), Some("cannot be read: permission denied"));
    assert_eq!(report.files, 1);
    let names: Vec<_> = unpacked_names(&bytes);
    assert_eq!(names, ["./", "closed/", "open"]);

    let metadata = tree.summarise(&[], Detail::Metadata).await.unwrap();
    assert_eq!(metadata.unreadable, 1, "the content of the folder");
    let content = tree.summarise(&[], Detail::Content).await.unwrap();
    assert_eq!(content.unreadable, 2, "and the file's bytes");

    let options = ArchiveOptions { exclude: Vec::new(), when_unreadable: WhenUnreadable::Fail };
    let error = finished(&tree, options).await.unwrap_err();
    assert!(error.message().contains("`closed` cannot be read: permission denied"), "{error}");

    let closed = Tree::open(&FolderConfig { path: base.path().join("closed") }, "prod/docs".to_owned()).unwrap_err();
    assert!(closed.message().contains("no permission to read"), "{closed}");
    std::fs::set_permissions(base.path().join("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
}

fn unpacked_names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(bytes));
    archive.entries().unwrap().map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap()).collect()
}

/// Root can read everything, so this runs the test again as the user `nobody`.
pub(super) fn again_as_nobody(test: &str) {
    let this = std::env::current_exe().unwrap();
    let run = |arguments: &[&str]| {
        Command::new("runuser").args(["-u", "nobody", "--"]).arg(&this).args(arguments).current_dir("/").output()
    };
    if !run(&["--list"]).is_ok_and(|output| output.status.success()) {
        ::tests::skip("the user `nobody` cannot run this test");
        return;
    }
    let output = run(&["--exact", test, "--nocapture"]).unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
}
