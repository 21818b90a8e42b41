//! Entries that exist but cannot be read, as opposed to vanished and excluded ones.

use super::changing::again_as_nobody;
use super::unpacking::{object, saved, stored};
use super::*;
use failure::Failure;
use tokio_util::sync::CancellationToken;

fn allow(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Two folders of five documents each, and a file.
fn documents() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for folder in ["facture/FA1", "propale"] {
        std::fs::create_dir_all(base.path().join(folder)).unwrap();
        for n in 0..5 {
            std::fs::write(base.path().join(format!("{folder}/{n}.pdf")), noise(1_000, n)).unwrap();
        }
    }
    std::fs::write(base.path().join("facture/note"), "a note").unwrap();
    base
}

/// Makes another archive. Returns its report, and the unreadable paths with whether each is a folder.
async fn report(tree: &Tree) -> (ArchiveReport, Vec<(String, bool)>) {
    let (_, Archived { report, .. }) = finished(tree, reporting(&["temp", "*.log"])).await.unwrap();
    let unreadable = report.unreadable.iter().map(|entry| (path::shown(&entry.path), entry.is_folder)).collect();
    (report, unreadable)
}

async fn summarised(tree: &Tree, exclude: &[&str]) -> u64 {
    let exclude: Vec<String> = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
    tree.summarise(&exclude, Detail::Metadata).await.unwrap().unreadable
}

#[tokio::test]
async fn unreadable_folders_and_files_are_counted_by_path() {
    if rustix::process::geteuid().is_root() {
        again_as_nobody("tests::unreadable::unreadable_folders_and_files_are_counted_by_path");
        return;
    }
    let base = documents();
    let (archive, index) = saved(base.path()).await;
    let before = stored(archive, Some(index));
    let (facture, closed, note) =
        (base.path().join("facture"), base.path().join("facture/FA1"), base.path().join("facture/note"));
    let tree = tree(base.path());

    // Unreadable only after the summary.
    assert_eq!(summarised(&tree, &[]).await, 0);
    allow(&closed, 0o0);
    let (found, unreadable) = report(&tree).await;
    assert_eq!(unreadable, [("facture/FA1".to_owned(), true)]);
    assert_eq!((found.unreadable_total, found.vanished_total, found.problems_total, found.files), (1, 0, 1, 6));
    assert_eq!(
        tree.difference_to_summary(&found),
        None,
        "the summary had different patterns, and the unreadable entries are reported anyway"
    );
    let paths = found.unreadable.into_iter().map(|entry| entry.path).collect();
    let stop = CancellationToken::new();
    assert_eq!(count_below(&before, paths, &stop).await.unwrap(), Some(5));

    // Unreadable during the summary too.
    allow(&note, 0o0);
    assert_eq!(summarised(&tree, &[]).await, 1, "a file's metadata can be read");
    let (found, unreadable) = report(&tree).await;
    assert_eq!(unreadable, [("facture/FA1".to_owned(), true), ("facture/note".to_owned(), false)]);
    assert_eq!((found.unreadable_total, found.problems_total, found.files), (2, 2, 5));

    // A folder without the right to enter it is as closed as one without the right to list it.
    allow(&closed, 0o700);
    allow(&facture, 0o400);
    assert_eq!(summarised(&tree, &[]).await, 1);
    let (found, unreadable) = report(&tree).await;
    assert_eq!(unreadable, [("facture".to_owned(), true)]);
    let paths = found.unreadable.into_iter().map(|entry| entry.path).collect();
    assert_eq!(count_below(&before, paths, &stop).await.unwrap(), Some(6));

    // Everything is readable again, and the run remembers its worst summary.
    allow(&facture, 0o700);
    allow(&note, 0o600);
    assert_eq!(summarised(&tree, &[]).await, 0);
    let (found, unreadable) = report(&tree).await;
    assert_eq!((unreadable, found.problems_total, found.files), (Vec::new(), 0, 11));
    assert_eq!(tree.difference_to_summary(&found).unwrap(), "the summary could not read 1 entry");
}

#[tokio::test]
async fn an_archive_with_fewer_files_than_its_summary_is_reported_as_different() {
    let base = documents();
    let whole = tree(base.path());
    assert_eq!(summarised(&whole, &["temp", "*.log"]).await, 0);
    let (found, _) = report(&whole).await;
    assert_eq!(whole.difference_to_summary(&found), None);

    // As if a disk below the folder were unmounted in between: there is no error.
    let shrunk = tree(base.path());
    assert_eq!(summarised(&shrunk, &["temp", "*.log"]).await, 0);
    std::fs::remove_file(base.path().join("facture/note")).unwrap();
    let (found, _) = report(&shrunk).await;
    let difference = shrunk.difference_to_summary(&found).unwrap();
    assert_eq!(difference, "the archive has 10 files, but the summary before it had 11");

    // Different patterns do not count as a difference.
    let other = tree(base.path());
    assert_eq!(summarised(&other, &["propale/"]).await, 0);
    let (found, _) = report(&other).await;
    assert_eq!(other.difference_to_summary(&found), None);
}

#[tokio::test]
async fn excluded_entries_that_cannot_be_read_do_not_count_as_unreadable() {
    if rustix::process::geteuid().is_root() {
        again_as_nobody("tests::unreadable::excluded_entries_that_cannot_be_read_do_not_count_as_unreadable");
        return;
    }
    let base = documents();
    let temp = base.path().join("facture/temp");
    std::fs::create_dir(&temp).unwrap();
    std::fs::write(temp.join("x"), "").unwrap();
    std::fs::write(base.path().join("propale/dolibarr.log"), "").unwrap();
    allow(&base.path().join("propale/dolibarr.log"), 0o0);
    let tree = tree(base.path());
    let exclude = ["temp".to_owned(), "*.log".to_owned()];
    let before = tree.summarise(&exclude, Detail::Content).await.unwrap().digest;
    allow(&temp, 0o0);
    let after = tree.summarise(&exclude, Detail::Content).await.unwrap();
    assert_eq!((after.digest, after.unreadable), (before, 0));
    let (found, unreadable) = report(&tree).await;
    assert_eq!((unreadable, found.unreadable_total, found.files), (Vec::new(), 0, 11));
    assert_eq!(
        (found.problems_total, found.problems[0].path.as_str()),
        (1, "facture/temp"),
        "it is still listed as a problem"
    );
    assert_eq!(summarised(&tree, &[]).await, 1, "without patterns it counts");
    allow(&temp, 0o700);
}

#[tokio::test]
async fn a_root_that_cannot_be_read_any_more_counts_as_unreadable() {
    if rustix::process::geteuid().is_root() {
        again_as_nobody("tests::unreadable::a_root_that_cannot_be_read_any_more_counts_as_unreadable");
        return;
    }
    for mode in [0o0, 0o300, 0o400] {
        let base = documents();
        let tree = tree(base.path());
        allow(base.path(), mode);
        let seen = summarised(&tree, &[]).await;
        let (found, unreadable) = report(&tree).await;
        allow(base.path(), 0o700);
        assert_eq!(seen, 1, "{mode:o}");
        assert_eq!(unreadable, [(".".to_owned(), true)], "{mode:o}");
        assert_eq!((found.unreadable_total, found.files), (1, 0), "{mode:o}");
    }
}

#[tokio::test]
async fn a_removed_root_counts_as_unreadable_and_not_as_an_empty_folder() {
    let base = documents();
    let root = base.path().join("facture");
    let tree = tree(&root);
    std::fs::remove_dir_all(&root).unwrap();
    assert_eq!(summarised(&tree, &[]).await, 1);
    let (found, unreadable) = report(&tree).await;
    assert_eq!(unreadable, [(".".to_owned(), true)]);
    assert_eq!((found.unreadable_total, found.vanished_total), (1, 0));
}

#[test]
fn a_file_whose_read_fails_is_unreadable() {
    // The first page of a process is never mapped, and reading it is an I/O error.
    let Ok(root) = rustix::fs::open("/proc/self", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else {
        ::tests::skip("there is no /proc");
        return;
    };
    let mut folders = open::Folders::new(Arc::new(root));
    let entry = entry::Entry::stat(folders.at(b"").unwrap(), b"mem", b"mem".to_vec()).unwrap();
    let mut out = Vec::new();
    let error = read::small(&entry, 1 << 20, &mut folders, &mut out).unwrap_err();
    assert_eq!((Failure::from_error(&error), out.len()), (Failure::Unreadable, 0), "{error}");
}

#[tokio::test]
async fn entries_below_paths_are_counted_once_and_by_whole_names() {
    let base = tempfile::tempdir().unwrap();
    for file in ["a/1", "a/b/2", "a/b/3", "a-b/4", "a.txt", "ab/5", "b", "c/d/6"] {
        std::fs::create_dir_all(base.path().join(file).parent().unwrap()).unwrap();
        std::fs::write(base.path().join(file), file).unwrap();
    }
    symlink("b", base.path().join("c/link")).unwrap();
    let (archive, index) = saved(base.path()).await;
    let before = stored(archive.clone(), Some(index.clone()));
    let stop = CancellationToken::new();
    for (paths, expected) in [
        (&[][..], 0),
        (&[""], 9),
        (&["", "a"], 9),
        (&["a"], 3),
        (&["a/b", "a", "a/b/2", "a"], 3),
        (&["a/b", "c"], 4),
        (&["c", "ab", "a-b", "a.txt", "b"], 6),
        (&["a/b/2", "b"], 2),
        (&["0", "a/0", "zz"], 0),
        (&["a/b/2/x"], 0),
    ] {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        let shown = format!("{paths:?}");
        assert_eq!(count_below(&before, paths, &stop).await.unwrap(), Some(expected), "{shown}");
    }
    let all = || vec![Vec::new()];
    assert_eq!(count_below(&stored(archive.clone(), None), all(), &stop).await.unwrap(), None);
    let cut = Archive { index: Some(object("docs.index", index[..index.len() / 2].to_vec()).0), ..before };
    assert_eq!(count_below(&cut, all(), &stop).await.unwrap_err().class(), base::error::Class::Stale);
}
