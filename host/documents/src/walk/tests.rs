use super::*;
use rustix::fs::{Mode, OFlags};
use std::path::Path;

fn walk(path: &Path, patterns: &[&str]) -> Walk {
    let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
    Walk::new(Arc::new(root), Matcher::new(&patterns).unwrap())
}

fn paths(path: &Path) -> Vec<String> {
    walk(path, &[])
        .map(|found| match found {
            Found::Entry(entry) => String::from_utf8(entry.path).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn entries_come_in_path_order_with_a_folder_right_before_its_content() {
    let tree = tempfile::tempdir().unwrap();
    assert_eq!(paths(tree.path()), [""]);
    for folder in ["a/c", "a-b", "b"] {
        std::fs::create_dir_all(tree.path().join(folder)).unwrap();
    }
    for file in ["a/c/1", "a/z", "a.txt", "a-b/x", "c"] {
        std::fs::write(tree.path().join(file), "").unwrap();
    }
    assert_eq!(paths(tree.path()), ["", "a", "a/c", "a/c/1", "a/z", "a-b", "a-b/x", "a.txt", "b", "c"]);
}

#[test]
fn a_wide_tree_and_a_large_folder_are_listed_completely_and_sorted() {
    let tree = tempfile::tempdir().unwrap();
    let wide = AHEAD_MAX * 3;
    for n in 0..wide {
        std::fs::create_dir_all(tree.path().join(format!("wide/{n:04}/inner"))).unwrap();
        std::fs::write(tree.path().join(format!("wide/{n:04}/inner/file")), "").unwrap();
    }
    std::fs::create_dir(tree.path().join("large")).unwrap();
    let large = CHUNK_ENTRIES * 7 + 3;
    for n in 0..large {
        let name = tree.path().join(format!("large/{n:05}"));
        if n % 500 == 0 { std::fs::create_dir(name).unwrap() } else { std::fs::write(name, "").unwrap() }
    }
    let found = paths(tree.path());
    assert_eq!(found.len(), 1 + 1 + large + 1 + wide * 3);
    let names = |path: &String| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    assert!(found.is_sorted_by_key(names));
}

#[test]
fn an_excluded_folder_excludes_its_content() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(tree.path().join("f/temp/deep")).unwrap();
    std::fs::write(tree.path().join("f/temp/deep/x.pdf"), "12345").unwrap();
    std::fs::write(tree.path().join("f/a.log"), "1").unwrap();
    std::fs::write(tree.path().join("f/a.pdf"), "1").unwrap();
    let mut kept = Vec::new();
    let mut left = Vec::new();
    for found in walk(tree.path(), &["temp", "*.log"]) {
        match found {
            Found::Entry(entry) => kept.push(String::from_utf8(entry.path).unwrap()),
            Found::Excluded { entry, top } => left.push((String::from_utf8(entry.path).unwrap(), top)),
            other @ Found::Unreadable(_) => panic!("{other:?}"),
        }
    }
    assert_eq!(kept, ["", "f", "f/a.pdf"]);
    let expected = [("f/a.log", true), ("f/temp", true), ("f/temp/deep", false), ("f/temp/deep/x.pdf", false)];
    assert_eq!(left, expected.map(|(path, top)| (path.to_owned(), top)));
}

#[test]
fn replacing_the_root_with_a_link_during_the_walk_changes_nothing() {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(base.path().join("root/a")).unwrap();
    std::fs::write(base.path().join("root/a/1"), "").unwrap();
    let mut walk = walk(&base.path().join("root"), &[]);
    assert!(matches!(walk.next(), Some(Found::Entry(_))));
    std::fs::rename(base.path().join("root"), base.path().join("was")).unwrap();
    std::os::unix::fs::symlink("/etc", base.path().join("root")).unwrap();
    let rest: Vec<_> = walk.collect();
    assert_eq!(rest.len(), 2, "{rest:?}");
}

#[test]
fn a_walk_that_is_dropped_early_ends_its_threads() {
    let tree = tempfile::tempdir().unwrap();
    for n in 0..500 {
        std::fs::create_dir_all(tree.path().join(format!("{n}/{n}"))).unwrap();
    }
    let mut walk = walk(tree.path(), &[]);
    for _ in 0..10 {
        walk.next();
    }
    drop(walk);
}

/// What a lister reports for a folder that it cannot list.
fn unlisted(lister: &mut Lister, path: &[u8]) -> Unseen {
    match lister.list(What::Folder { path: path.to_vec(), excluded: false }).found.pop() {
        Some(Found::Unreadable(unseen)) => unseen,
        other => panic!("{other:?}"),
    }
}

fn lister(path: &Path) -> Lister {
    let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Lister { folders: Folders::new(Arc::new(root)), matcher: Matcher::new(&[]).unwrap() }
}

#[test]
fn a_removed_folder_has_vanished_and_a_new_one_in_its_place_is_listed() {
    let tree = tempfile::tempdir().unwrap();
    let folder = tree.path().join("a/b");
    std::fs::create_dir_all(&folder).unwrap();
    let mut lister = lister(tree.path());
    lister.folders.at(b"a/b").unwrap();
    std::fs::remove_dir(&folder).unwrap();
    let unseen = unlisted(&mut lister, b"a/b");
    assert_eq!((unseen.failure, unseen.is_folder), (Failure::Vanished, true));

    std::fs::create_dir(&folder).unwrap();
    lister.folders.at(b"a/b").unwrap();
    std::fs::remove_dir(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("1"), "").unwrap();
    let listing = lister.list(What::Folder { path: b"a/b".to_vec(), excluded: false });
    assert!(matches!(listing.found.as_slice(), [Found::Entry(entry)] if entry.path == b"a/b/1"), "{listing:?}");

    std::fs::remove_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/etc", &folder).unwrap();
    let unseen = unlisted(&mut lister, b"a/b");
    assert_eq!((unseen.failure, unseen.is_folder), (Failure::Unfit, true));
}

#[test]
fn a_folder_that_exists_has_not_vanished_no_matter_what_the_error_says() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir(tree.path().join("a")).unwrap();
    let mut folders = lister(tree.path()).folders;
    let missing = io::Error::from(rustix::io::Errno::NOENT);
    let stale = io::Error::from(rustix::io::Errno::STALE);
    for (path, error, expected) in [
        (&b"a"[..], &missing, Failure::Unreadable),
        (b"a", &stale, Failure::Unreadable),
        (b"b", &missing, Failure::Vanished),
        (b"b/c", &missing, Failure::Vanished),
        (b"", &missing, Failure::Unreadable),
    ] {
        match Unseen::folder(path.to_vec(), false, error, &mut folders) {
            Found::Unreadable(unseen) => assert_eq!(unseen.failure, expected, "{path:?} {error}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_large_folder_that_is_lost_after_its_names_were_read_is_reported_once() {
    let tree = tempfile::tempdir().unwrap();
    let folder = tree.path().join("a");
    std::fs::create_dir(&folder).unwrap();
    for n in 0..2 * CHUNK_ENTRIES {
        std::fs::write(folder.join(n.to_string()), "").unwrap();
    }
    let mut first = lister(tree.path());
    let names = Arc::new(FolderNames::read(b"a".to_vec(), false, &mut first.folders).unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    let mut other = lister(tree.path());
    assert_eq!(other.list(What::Chunk(Arc::clone(&names), 0)).found.len(), 1);
    assert_eq!(other.list(What::Chunk(names, 1)).found.len(), 0);
}
