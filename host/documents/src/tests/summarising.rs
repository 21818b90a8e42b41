//! Which changes a summary detects, and which it does not.

use super::*;

async fn digests(path: &Path, exclude: &[&str]) -> (String, String) {
    let exclude: Vec<String> = exclude.iter().map(|p| (*p).to_owned()).collect();
    let tree = tree(path);
    let metadata = tree.summarise(&exclude, Detail::Metadata).await.unwrap();
    let content = tree.summarise(&exclude, Detail::Content).await.unwrap();
    assert_eq!(metadata.digest.len(), 64);
    assert_eq!(Summary { digest: content.digest.clone(), ..metadata.clone() }, content, "the counts are the same");
    (metadata.digest, content.digest)
}

fn small_tree() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(base.path().join("facture/FA1")).unwrap();
    std::fs::create_dir_all(base.path().join("facture/temp")).unwrap();
    std::fs::write(base.path().join("facture/FA1/FA1.pdf"), "0123456789").unwrap();
    std::fs::write(at(base.path(), b"facture/\xe9"), "x").unwrap();
    symlink("facture", base.path().join("link")).unwrap();
    base
}

#[tokio::test]
async fn a_change_is_detected_at_the_right_depth() {
    type Change = fn(&Path);
    let changes: [(&str, bool, bool, Change); 10] = [
        ("nothing", false, false, |_| {}),
        ("a new file", true, true, |root| std::fs::write(root.join("new"), "").unwrap()),
        ("a new folder", true, true, |root| std::fs::create_dir(root.join("new")).unwrap()),
        ("a file that is gone", true, true, |root| std::fs::remove_file(root.join("facture/FA1/FA1.pdf")).unwrap()),
        ("another name", true, true, |root| {
            std::fs::rename(root.join("facture/FA1"), root.join("facture/FA2")).unwrap();
        }),
        ("other bytes of the same number and time", true, true, |root| {
            let file = root.join("facture/FA1/FA1.pdf");
            let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
            std::fs::write(&file, "9876543210").unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        }),
        ("a mode", true, true, |root| {
            std::fs::set_permissions(root.join("facture"), std::fs::Permissions::from_mode(0o2770)).unwrap();
        }),
        ("a link's target", true, true, |root| {
            std::fs::remove_file(root.join("link")).unwrap();
            symlink("facture/FA1", root.join("link")).unwrap();
        }),
        ("a touched file", true, false, |root| {
            let file = rustix::fs::open(root, OFlags::RDONLY, Mode::empty()).unwrap();
            set_modified(&file, b"facture/FA1/FA1.pdf", 1_600_000_000, 0);
        }),
        ("a touched folder", false, false, |root| {
            let file = rustix::fs::open(root, OFlags::RDONLY, Mode::empty()).unwrap();
            set_modified(&file, b"facture", 1_600_000_000, 0);
        }),
    ];
    for (what, metadata_differs, content_differs, change) in changes {
        let base = small_tree();
        let before = digests(base.path(), &[]).await;
        change(base.path());
        let after = digests(base.path(), &[]).await;
        assert_eq!(before.0 != after.0, metadata_differs, "metadata of {what}");
        assert_eq!(before.1 != after.1, content_differs, "content of {what}");
    }
}

#[tokio::test]
async fn excluded_entries_do_not_change_the_digest_but_are_counted() {
    let base = small_tree();
    let exclude = ["temp/", "*.log"];
    let before = digests(base.path(), &exclude).await;
    std::fs::write(base.path().join("facture/temp/x"), "12345").unwrap();
    std::fs::write(base.path().join("dolibarr.log"), "123").unwrap();
    assert_eq!(digests(base.path(), &exclude).await, before);
    assert_ne!(digests(base.path(), &[]).await, before);
    let summary = tree(base.path()).summarise(&exclude.map(str::to_owned), Detail::Metadata).await.unwrap();
    assert_eq!((summary.excluded_files, summary.excluded_bytes), (2, 8));
    assert_eq!((summary.files, summary.bytes, summary.unreadable), (3, 11, 0));
}

#[tokio::test]
async fn trees_whose_names_and_contents_concatenate_to_the_same_bytes_differ() {
    let trees: Vec<tempfile::TempDir> = [["ab", "c"], ["a", "bc"], ["abc", ""]]
        .into_iter()
        .map(|[name, content]| {
            let base = tempfile::tempdir().unwrap();
            std::fs::write(base.path().join(name), content).unwrap();
            base
        })
        .collect();
    let mut seen = BTreeSet::new();
    for tree in &trees {
        seen.insert(digests(tree.path(), &[]).await.1);
    }
    assert_eq!(seen.len(), trees.len());
}

#[tokio::test]
async fn large_and_many_files_hash_to_the_same_digest_every_time() {
    let base = tempfile::tempdir().unwrap();
    for n in 0..1_500_u64 {
        std::fs::write(base.path().join(format!("{n}")), noise(100, n)).unwrap();
    }
    std::fs::write(base.path().join("large"), noise(9 << 20, 1)).unwrap();
    let first = digests(base.path(), &[]).await;
    assert_eq!(digests(base.path(), &[]).await, first);
    let summary = tree(base.path()).summarise(&[], Detail::Content).await.unwrap();
    assert_eq!((summary.files, summary.bytes), (1_501, 150_000 + (9 << 20)));
}

#[tokio::test]
async fn a_run_remembers_its_patterns_and_finds_those_that_only_a_summary_excluded() {
    let base = small_tree();
    let tree = tree(base.path());
    assert_eq!(tree.excludes().blind(), Vec::<&str>::new());
    tree.summarise(&["temp".to_owned(), "*.log".to_owned()], Detail::Metadata).await.unwrap();
    assert_eq!(tree.excludes().blind(), Vec::<&str>::new(), "there is no archive yet");
    let (stream, _) = tree.archive(reporting(&["*.log", "*.tmp", "temp"])).unwrap();
    assert!(stream.expected_bytes().unwrap() > 11);
    assert_eq!(tree.excludes().blind(), Vec::<&str>::new(), "an archive may exclude more");
    drop(tree.archive(reporting(&["*.log"])).unwrap());
    assert_eq!(tree.excludes().blind(), ["temp"]);
    assert_eq!(tree.excludes().archived.len(), 2);
}

#[tokio::test]
async fn an_invalid_pattern_is_refused_by_name() {
    let base = tempfile::tempdir().unwrap();
    let tree = tree(base.path());
    let error = tree.summarise(&["a[".to_owned()], Detail::Metadata).await.unwrap_err();
    assert!(error.message().contains("`a[`"), "{error}");
    let error = tree.archive(reporting(&["ok", "!no"])).unwrap_err();
    assert!(error.message().contains("`!no`"), "{error}");
}

#[test]
fn a_missing_folder_or_a_file_in_its_place_is_refused_with_advice() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("file"), "").unwrap();
    symlink("nowhere", base.path().join("dangling")).unwrap();
    symlink(".", base.path().join("link")).unwrap();
    for (name, expected) in [("missing", "does not exist"), ("file", "is not a folder"), ("dangling", "does not exist")]
    {
        let error = Tree::open(&FolderConfig { path: base.path().join(name) }, "prod/docs".to_owned()).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(error.class(), base::error::Class::Config);
        assert!(error.advice().unwrap().contains("prod/docs"));
    }
    let tree = Tree::open(&FolderConfig { path: base.path().join("link") }, "prod/docs".to_owned()).unwrap();
    assert_eq!(tree.scope(), "prod/docs");
    assert!(toml::from_str::<FolderConfig>("path = \"/x\"\nfollow = true").is_err());
}
