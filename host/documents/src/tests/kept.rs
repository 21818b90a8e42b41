//! A restore returns what an archive holds, no matter how files change while it is created, and which tool created it.

use super::unpacking::{restored, saved, stored};
use super::*;
use base::error::Class;
use std::io::Write as _;
use tokio_util::sync::CancellationToken;

/// Enough to fill every queue, so that files later in path order are not read before the first blocks are taken.
const HELD_BACK_BYTES: usize = 48 << 20;

async fn checked(archive: &Archive) -> Result<Checked> {
    check(archive, &CancellationToken::new()).await
}

#[tokio::test]
async fn files_that_all_grow_after_planning_do_not_make_an_oversized_member() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("a"), b"0123456789abcdef".repeat(HELD_BACK_BYTES / 16)).unwrap();
    let files: Vec<_> = (0..40).map(|n| root.join(format!("b{n:02}"))).collect();
    for file in &files {
        std::fs::write(file, "small").unwrap();
    }
    let (mut stream, outcome) = tree(&root).archive(reporting(&[])).unwrap();
    let mut archive = stream.next().await.unwrap().unwrap().to_vec();
    for file in &files {
        std::fs::write(file, noise(1_000_000, 3)).unwrap();
    }
    archive.extend_from_slice(&collected(stream).await.unwrap());
    let index = collected(outcome.await.unwrap().take_index().unwrap()).await.unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&index[..]), &mut text).unwrap();
    let members = text.lines().filter_map(|line| line.strip_prefix("m\t")?.split('\t').nth(2)?.parse::<usize>().ok());
    let largest = members.max().unwrap();
    assert!(largest <= 2 * member::MEMBER_BYTES + 4_096, "a member of {largest} bytes");
    let archive = stored(archive, Some(index));
    assert_eq!(checked(&archive).await.unwrap().files, 41);
    let into = base.path().join("into");
    assert!(restored(&archive, &into).await.unwrap().is_compared);
    assert_eq!(std::fs::metadata(into.join("b39")).unwrap().len(), 1_000_000);
}

#[tokio::test]
async fn entries_too_deep_to_restore_are_reported_and_do_not_affect_others() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    let below = |depth: usize| root.join(vec!["d"; depth].join("/"));
    std::fs::create_dir_all(below(path::DEPTH_MAX + 20)).unwrap();
    std::fs::write(below(path::DEPTH_MAX - 1).join("last"), "last").unwrap();
    std::fs::write(below(path::DEPTH_MAX).join("beyond"), "lost").unwrap();
    std::fs::write(root.join("other"), "other").unwrap();
    let (archive, mut outcome) = finished(&tree(&root), reporting(&[])).await.unwrap();
    let report = &outcome.report;
    assert_eq!((report.unreadable_total, report.problems_total), (2, 2), "the folder below it and the file beside it");
    assert!(report.problems[0].reason.contains("deeper than 499 folders"), "{:?}", report.problems);
    let index = collected(outcome.take_index().unwrap()).await.unwrap();
    let archive = stored(archive, Some(index));
    assert_eq!(checked(&archive).await.unwrap().files, 2);
    let into = base.path().join("into");
    assert_eq!(restored(&archive, &into).await.unwrap().files, 2);
    assert_eq!(
        std::fs::read_to_string(into.join(vec!["d"; path::DEPTH_MAX - 1].join("/")).join("last")).unwrap(),
        "last"
    );
    assert_eq!(tree(&root).summarise(&[], Detail::Content).await.unwrap().unreadable, 2, "the summary counts them too");
}

#[tokio::test]
async fn links_out_excluded_names_and_foreign_attributes_are_counted_and_listed() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir_all(root.join("a/temp")).unwrap();
    for (name, target) in
        [("a/up", "../.."), ("a/within", "../b.log"), ("absolute", "/srv/scans"), ("dangling", "nowhere")]
    {
        symlink(target, root.join(name)).unwrap();
    }
    for name in ["b.log", "a/c.log", "a/temp/d.log"] {
        std::fs::write(root.join(name), "x").unwrap();
    }
    let (_, report) = archived(&root, &["*.log", "temp/"]).await;
    assert_eq!(
        (report.links_out_total, report.links_out.as_slice()),
        (2, &["a/up".to_owned(), "absolute".to_owned()][..])
    );
    assert_eq!((report.excluded_files, report.excluded_names_total), (3, 2));
    assert_eq!(report.excluded_names, ["a/c.log", "b.log"]);
    assert_eq!(report.excluded_folders, ["a/temp"]);
    assert!(report.problems.is_empty() && report.foreign_attributes.is_empty(), "{report:?}");
    if rustix::process::geteuid().is_root() && set_attribute(&root, "trusted.mine", b"1") {
        let (_, report) = archived(&root, &[]).await;
        assert_eq!(report.foreign_attributes.iter().collect::<Vec<_>>(), ["trusted.mine"]);
    }
}

#[tokio::test]
async fn a_restored_folder_that_differs_from_its_index_is_reported() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir_all(root.join("facture/empty")).unwrap();
    for name in ["facture/one", "facture/two", "three"] {
        std::fs::write(root.join(name), name).unwrap();
    }
    symlink("one", root.join("facture/link")).unwrap();
    std::fs::hard_link(root.join("three"), root.join("zfour")).unwrap();
    let (archive, index) = saved(&root).await;
    let archive = stored(archive, Some(index));
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("", |_| {}),
        ("`facture/one` is missing", |into| std::fs::remove_file(into.join("facture/one")).unwrap()),
        ("`facture/new` is not in the index", |into| std::fs::write(into.join("facture/new"), "").unwrap()),
        ("`zlast` is not in the index", |into| std::fs::create_dir(into.join("zlast")).unwrap()),
        ("`three` has a different size", |into| std::fs::write(into.join("three"), "another").unwrap()),
        ("`facture/empty` is of a different kind", |into| {
            std::fs::remove_dir(into.join("facture/empty")).unwrap();
            std::fs::write(into.join("facture/empty"), "").unwrap();
        }),
        ("`facture/link` has a different target", |into| {
            std::fs::remove_file(into.join("facture/link")).unwrap();
            symlink("two", into.join("facture/link")).unwrap();
        }),
    ];
    for (n, (expected, change)) in changes.into_iter().enumerate() {
        let into = base.path().join(format!("into{n}"));
        assert!(restored(&archive, &into).await.unwrap().is_compared);
        change(&into);
        let root = Arc::new(rustix::fs::open(&into, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap());
        let archive = archive.clone();
        let stop = CancellationToken::new();
        let compared = object::blocking(&stop, move |means| restore::with_index(&root, &archive, &means, |_| ()));
        match compared.await {
            Ok(compared) => assert!(compared && expected.is_empty(), "{expected}"),
            Err(error) => {
                let matches = !expected.is_empty() && error.message().contains(expected);
                assert!(matches, "{error} does not contain `{expected}`");
                assert_eq!(error.class(), Class::Unexpected);
            }
        }
    }
}

/// The output of `tar` with these arguments, one run after the other, compressed with gzip.
fn tarred(base: &Path, arguments: &[&[&str]]) -> Vec<u8> {
    let file = base.join("made.tar");
    std::fs::remove_file(&file).ok();
    for more in arguments {
        run(Command::new("tar").args(*more).arg("-f").arg(&file).arg("-C").arg(base.join("tree")).arg("."));
    }
    gzipped(&std::fs::read(file).unwrap())
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(plain).unwrap();
    packed.finish().unwrap()
}

/// A script may have made an adopted archive. Checking and restoring it must follow the same rules.
#[tokio::test]
async fn any_archive_from_tar_is_checked_and_restored_alike() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir_all(root.join("facture")).unwrap();
    std::fs::write(root.join("facture/one"), "one").unwrap();
    let sparse = std::fs::File::create(root.join("holes")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    for n in 0..30_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(5_000, n), n * 300_000).unwrap();
    }
    drop(sparse);
    std::fs::File::create(root.join("only a hole")).unwrap().set_len(1 << 20).unwrap();
    set_attribute(&root.join("facture/one"), "user.comment", b"mine");
    set_attribute(
        &root.join("facture"),
        acl::DEFAULT,
        &acl::from_text("user::rwx,user:4000000001:rwx,group::r-x,mask::rwx,other::---").unwrap().0,
    );
    let before = facts(&root);
    let made = |arguments: &[&[&str]], tail: usize| [tarred(base.path(), arguments), vec![0; tail]].concat();
    let snapshot = base.path().join("snar");
    for arguments in
        [&["-c", "-V", "erp of today", "--format=gnu"][..], &["-c", "--format=gnu", "-g", snapshot.to_str().unwrap()]]
    {
        let archive = stored(made(&[arguments], 0), None);
        assert_eq!(checked(&archive).await.unwrap().files, 3, "{arguments:?}");
        let into = base.path().join(arguments.join(" ").replace('/', "-"));
        assert_eq!(restored(&archive, &into).await.unwrap().files, 3);
        assert_eq!(std::fs::read_to_string(into.join("facture/one")).unwrap(), "one");
    }
    // `tar` silently ignores data after the end of an archive; this program does not.
    for second in [tarred(base.path(), &[&["-c"]]), b"no gzip".to_vec()] {
        let archive = stored([tarred(base.path(), &[&["-c"]]), second].concat(), None);
        for error in
            [checked(&archive).await.unwrap_err(), restored(&archive, &base.path().join("two")).await.unwrap_err()]
        {
            assert!(error.message().contains("follows its end"), "{error}");
        }
    }
    for (what, archive) in [
        ("a label", made(&[&["-c", "-V", "erp of today", "--xattrs", "--acls"]], 0)),
        ("zeros after its end", made(&[&["-c", "--xattrs", "--acls"]], 10_240)),
        ("names twice", made(&[&["-c", "--xattrs", "--acls"], &["-r", "--xattrs", "--acls"]], 0)),
        ("holes, PAX 0.0", made(&[&["-c", "-S", "--format=posix", "--sparse-version=0.0", "--xattrs", "--acls"]], 0)),
        ("holes, PAX 0.1", made(&[&["-c", "-S", "--format=posix", "--sparse-version=0.1", "--xattrs", "--acls"]], 0)),
        ("holes, PAX 1.0", made(&[&["-c", "-S", "--format=posix", "--sparse-version=1.0", "--xattrs", "--acls"]], 512)),
    ] {
        let archive = stored(archive, None);
        checked(&archive).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let into = base.path().join(what);
        let done = restored(&archive, &into).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((done.lacking_total, done.is_compared), (0, false), "{what}: {:?}", done.lacking);
        for (path, expected) in &before {
            let mut expected = Facts {
                modified: (0, 0),
                content: expected.content.clone(),
                kind: expected.kind.clone(),
                attributes: expected.attributes.clone(),
                first: None,
                ..*expected
            };
            let mut found = facts(&into).remove(path).unwrap_or_else(|| panic!("{what}: {}", path::shown(path)));
            (found.modified, found.first) = ((0, 0), None);
            expected.modified = (0, 0);
            assert_eq!(found, expected, "{what}: {}", path::shown(path));
        }
        let document = get(&archive, b"holes", None, &CancellationToken::new()).await.unwrap();
        assert_eq!(document.document.size_bytes, 9 << 20, "{what}");
    }
    // GNU's own format stores no attributes, and stores the map of the holes in headers.
    let archive = stored(made(&[&["-c", "-S", "--format=gnu"]], 0), None);
    checked(&archive).await.unwrap();
    restored(&archive, &base.path().join("gnu")).await.unwrap();
    let after = facts(&base.path().join("gnu"));
    for path in [&b"holes"[..], b"only a hole"] {
        assert_eq!(after[path].content, before[path].content);
    }
    // If a name occurs twice, the later entry counts, as in `tar`.
    let file = base.path().join("made.tar");
    run(Command::new("tar").args(["-c", "-f"]).arg(&file).arg("-C").arg(&root).args(["./facture/one"]));
    std::fs::write(root.join("facture/one"), "another").unwrap();
    run(Command::new("tar").args(["-r", "-f"]).arg(&file).arg("-C").arg(&root).args(["./facture/one"]));
    let archive = stored(gzipped(&std::fs::read(&file).unwrap()), None);
    checked(&archive).await.unwrap();
    restored(&archive, &base.path().join("later")).await.unwrap();
    assert_eq!(std::fs::read_to_string(base.path().join("later/facture/one")).unwrap(), "another");
    let mut got = get(&archive, b"facture/one", None, &CancellationToken::new()).await.unwrap();
    let mut content = String::new();
    std::io::Read::read_to_string(&mut got.content, &mut content).unwrap();
    assert_eq!(content, "another");
}

/// Holes cost nothing to store, so they must cost nothing to refuse or to restore.
#[tokio::test]
async fn a_hole_of_any_size_is_restored_or_refused_at_once() {
    let base = tempfile::tempdir().unwrap();
    for (size, fits) in [(u64::MAX >> 1, false), (1 << 42, true)] {
        let pax = |key: &str, value: u64| {
            let rest = format!(" {key}={value}\n");
            let length = (rest.len() + 2..).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
            format!("{length}{rest}")
        };
        let mut plain = tar::Builder::new(Vec::new());
        let records = pax("GNU.sparse.realsize", size) + "22 GNU.sparse.map=0,0\n";
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        plain.append(&header, records.as_bytes()).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("holes").unwrap();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_cksum();
        plain.append(&header, &[][..]).unwrap();
        let archive = stored(gzipped(&plain.into_inner().unwrap()), None);
        let start = std::time::Instant::now();
        match restored(&archive, &base.path().join(format!("{size}"))).await {
            Ok(_) => assert_eq!(std::fs::metadata(base.path().join(format!("{size}/holes"))).unwrap().len(), size),
            Err(error) => assert!(!fits || error.message().contains("larger than this file system"), "{error}"),
        }
        assert!(start.elapsed().as_secs() < 60);
    }
}

#[tokio::test]
async fn reading_a_document_gives_the_same_content_as_restoring_it() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("a"), "old").unwrap();
    std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    let file = base.path().join("made.tar");
    run(Command::new("tar").args(["-c", "--sort=name", "-f"]).arg(&file).arg("-C").arg(&root).args(["a", "b"]));
    std::fs::remove_file(root.join("a")).unwrap();
    std::fs::write(root.join("a"), "new").unwrap();
    run(Command::new("tar").args(["-r", "-f"]).arg(&file).arg("-C").arg(&root).arg("a"));
    let archive = stored(gzipped(&std::fs::read(&file).unwrap()), None);
    restored(&archive, &base.path().join("into")).await.unwrap();
    for (name, expected) in [("a", "new"), ("b", "old")] {
        let mut content = String::new();
        let mut got = get(&archive, name.as_bytes(), None, &CancellationToken::new()).await.unwrap();
        std::io::Read::read_to_string(&mut got.content, &mut content).unwrap();
        assert_eq!(
            (content.as_str(), std::fs::read_to_string(base.path().join("into").join(name)).unwrap().as_str()),
            (expected, expected)
        );
    }
}

#[tokio::test]
async fn a_changed_acl_changes_the_digest_and_a_restore_inherits_no_acl_from_its_parent() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir_all(root.join("facture")).unwrap();
    std::fs::write(root.join("facture/one"), "one").unwrap();
    let list = acl::from_text("user::rwx,user:33:rwx,group::---,mask::rwx,other::---").unwrap().0;
    let digest = async |depth| tree(&root).summarise(&[], depth).await.unwrap().digest;
    let before = (digest(Detail::Metadata).await, digest(Detail::Content).await);
    if !set_attribute(&root.join("facture"), acl::DEFAULT, &list) {
        return;
    }
    let after = (digest(Detail::Metadata).await, digest(Detail::Content).await);
    assert!(before.0 != after.0 && before.1 != after.1, "the default list of new documents has changed");
    if set_attribute(&root.join("facture/one"), "user.comment", b"x") {
        assert_ne!(digest(Detail::Content).await, after.1);
    }
    let before = facts(&root);
    let (archive, index) = saved(&root).await;
    for (name, index) in [("indexed", Some(index)), ("streamed", None)] {
        let archive = stored(archive.clone(), index);
        let place = base.path().join(format!("place of {name}"));
        std::fs::create_dir(&place).unwrap();
        set_attribute(
            &place,
            acl::DEFAULT,
            &acl::from_text("user::rwx,user:1000:rwx,group::---,mask::rwx,other::---").unwrap().0,
        );
        restored(&archive, &place.join("into")).await.unwrap();
        let after = facts(&place.join("into"));
        for (path, expected) in &before {
            assert_eq!(
                (&after[path].attributes, after[path].mode),
                (&expected.attributes, expected.mode),
                "{name}: {}",
                path::shown(path)
            );
        }
    }
}
