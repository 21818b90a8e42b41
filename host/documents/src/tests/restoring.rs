//! Archives that stock tools unpack.

use super::*;

/// A folder with everything that a documents folder may contain and that every tool can unpack, with unusual times.
pub(super) fn awkward() -> (tempfile::TempDir, std::path::PathBuf) {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    fill(&root);
    times(&root);
    (base, root)
}

fn fill(root: &Path) {
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
    run(Command::new("mkfifo").arg(root.join("fifo")));

    let list = |text: &str| acl::from_text(text).unwrap().0;
    for (name, attribute, value) in [
        ("one", "user.comment", b"line\nbreak = \0 \xff".to_vec()),
        ("one", "user.odd=name%3D", b"x".to_vec()),
        ("empty file", "user.empty", Vec::new()),
        ("large one", "user.large", noise(1_000, 9)),
        ("facture", "user.of.a.folder", b"1".to_vec()),
        ("m644", acl::ACCESS, list("user::rw-,user:1000:r--,user:2000000000:---,group::r--,mask::r--,other::r--")),
        ("facture", acl::ACCESS, list("user::rwx,user:33:rwx,group::r-x,group:1000:--x,mask::rwx,other::---")),
        ("facture", acl::DEFAULT, list("user::rwx,user:33:rwx,group::r-x,mask::rwx,other::---")),
        ("m2711", acl::ACCESS, list("user::rwx,user:33:rwx,group::--x,mask::rwx,other::--x")),
    ] {
        set_attribute(&root.join(name), attribute, &value);
    }

    // Sizes around the blocks of tar, the members and the stored blocks of deflate.
    for size in [1, 511, 512, 513, 65_535, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (5 << 20) + 7] {
        std::fs::write(root.join(format!("noise {size}")), noise(size, 4)).unwrap();
        std::fs::write(root.join(format!("text {size}")), vec![b'a'; size]).unwrap();
    }
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"an island", 17 << 20).unwrap();
}

/// Sets unusual times. Call this last, because writing changes them.
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
    let (base, root) = awkward();
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
    run(Command::new("gzip").arg("-t").arg(&file));
    let unpack_with = |tool: &str, arguments: &[&str], locale: &str| {
        if !installed(tool) {
            return;
        }
        let into = base.path().join(format!("{tool}-{locale}"));
        std::fs::create_dir(&into).unwrap();
        run(Command::new(tool).args(arguments).arg(&file).current_dir(&into).env("LC_ALL", locale));
        let mut after = facts(&into);
        if tool == "python3" {
            // Its times are floating-point numbers.
            for (path, facts) in &mut after {
                let exact = before[path].modified;
                let apart = (i128::from(facts.modified.0) - i128::from(exact.0)) * 1_000_000_000
                    + i128::from(facts.modified.1)
                    - i128::from(exact.1);
                assert!(apart.abs() < 2_000, "{}: {apart} ns", path::shown(path));
                facts.modified = exact;
                // It does not support attributes and restores only the mode, whose group bits are the list's mask.
                facts.attributes = before[path].attributes.clone();
            }
        }
        if tool == "bsdtar" {
            // It does not change existing folders, and reads the fraction of a time before 1970 with the wrong sign.
            for path in [&b""[..], b"m4755"] {
                after.get_mut(path).unwrap().modified = before[path].modified;
            }
            // It does not unescape names.
            for facts in after.values_mut() {
                if let Some(value) = facts.attributes.remove("user.odd%3Dname%253D") {
                    facts.attributes.insert("user.odd=name%3D".to_owned(), value);
                }
            }
        }
        for (path, expected) in &before {
            assert_eq!(after.get(path), Some(expected), "{tool} in {locale}: {}", path::shown(path));
        }
        assert_eq!(after.len(), before.len());
    };
    for locale in ["C", "C.UTF-8"] {
        // GNU tar warns about times before 1970 and in the future.
        unpack_with("tar", &["--warning=no-timestamp", "--xattrs", "--acls", "-xpzf"], locale);
        unpack_with("bsdtar", &["-xpzf"], locale);
        unpack_with("python3", &["-c", PYTHON], locale);
    }
}

/// Restores owners by number and everything else as it is in the archive.
const PYTHON: &str = "
import sys, tarfile
tarfile.TarFile.extraction_filter = staticmethod(lambda member, path: member)
tarfile.open(sys.argv[1]).extractall('.', numeric_owner=True)
";

#[tokio::test]
async fn the_same_tree_gives_the_same_bytes() {
    let base = tempfile::tempdir().unwrap();
    for n in 0..300_u64 {
        let folder = base.path().join(format!("facture/FA{n:04}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("a.pdf"), noise(9_000, n)).unwrap();
        std::fs::write(folder.join("b.txt"), format!("{n} ").repeat(900)).unwrap();
    }
    std::fs::write(base.path().join("large"), noise(4 << 20, 9)).unwrap();
    let (first, report) = archived(base.path(), &[]).await;
    let (second, again) = archived(base.path(), &[]).await;
    assert!(first == second, "{} and {} bytes differ", first.len(), second.len());
    assert_eq!(report, again);
    assert_eq!(report.files, 601);
    let members = first.windows(4).filter(|w| *w == [0x1f, 0x8b, 8, 0]).count();
    assert!(members >= 7, "{members} members");
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&first[..]), &mut plain).unwrap();
    assert_eq!(plain.len() % header::TAR_BLOCK_BYTES, 0);
    assert!(plain.ends_with(&header::END));
}

#[tokio::test]
async fn the_archive_of_an_empty_folder_contains_only_its_root() {
    let base = tempfile::tempdir().unwrap();
    let (bytes, report) = archived(base.path(), &[]).await;
    assert_eq!(report, ArchiveReport::default());
    let after = unpacked(&bytes);
    assert_eq!(after, facts(base.path()));
}

#[tokio::test]
async fn excluded_files_are_counted_and_excluded_folders_are_listed() {
    let base = tempfile::tempdir().unwrap();
    for folder in ["facture/temp/deep", "admin/documents/admin/documents", "admin/backup", "users/temp"] {
        std::fs::create_dir_all(base.path().join(folder)).unwrap();
        std::fs::write(base.path().join(folder).join("x"), "12345").unwrap();
    }
    std::fs::write(base.path().join("dolibarr.log"), "123").unwrap();
    std::fs::write(base.path().join("facture/FA.pdf"), "kept").unwrap();
    std::fs::write(base.path().join("facture/FA.pdf_preview-0.png"), "1").unwrap();
    std::fs::write(at(base.path(), b"caf\xe9.log"), "12").unwrap();
    let exclude = ["temp/", "*.log", "*.pdf_preview-*.png", "/admin/documents"];
    let (bytes, report) = archived(base.path(), &exclude).await;
    assert_eq!(report.exclude, exclude);
    assert_eq!((report.excluded_files, report.excluded_bytes), (6, 5 * 3 + 3 + 1 + 2));
    assert_eq!(report.excluded_folders, ["admin/documents", "facture/temp", "users/temp"]);
    assert_eq!(report.excluded_folders_total, 3);
    let after: Vec<_> = unpacked(&bytes).into_keys().map(|path| path::shown(&path)).collect();
    assert_eq!(after, [".", "admin", "admin/backup", "admin/backup/x", "facture", "facture/FA.pdf", "users"]);
}

#[tokio::test]
async fn a_path_longer_than_the_kernel_accepts_is_archived() {
    let base = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    let mut folder = rustix::fs::open(base.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..30 {
        rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o755)).unwrap();
        folder = rustix::fs::openat(&folder, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&folder, "far", flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"content").unwrap();
    let (bytes, report) = archived(base.path(), &[]).await;
    assert_eq!(report.problems, []);
    let mut plain = tar::Archive::new(flate2::read::MultiGzDecoder::new(&bytes[..]));
    let mut paths = Vec::new();
    for entry in plain.entries().unwrap() {
        let mut entry = entry.unwrap();
        paths.push((entry.path_bytes().into_owned(), std::io::read_to_string(&mut entry).unwrap()));
    }
    assert_eq!(paths.len(), 1 + 30 + 1);
    let (path, content) = paths.last().unwrap();
    assert_eq!(path.len(), 30 * 201 + 3);
    assert!(path.ends_with(b"d/far"));
    assert_eq!(content, "content");
}

#[tokio::test]
async fn a_socket_is_reported_as_a_problem() {
    let base = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(base.path().join("a\nb.sock")).unwrap();
    std::fs::write(base.path().join("z"), "").unwrap();
    let options = ArchiveOptions { exclude: Vec::new(), when_unreadable: WhenUnreadable::Fail };
    let (bytes, Archived { report, .. }) = finished(&tree(base.path()), options).await.unwrap();
    assert_eq!(report.files, 1);
    assert_eq!(report.problems_total, 1);
    assert_eq!(report.problems[0].path, "a\\x0ab.sock");
    assert!(report.problems[0].reason.contains("socket"));
    assert_eq!(unpacked(&bytes).len(), 2);
}

#[tokio::test]
async fn devices_are_archived_without_reading_them() {
    let base = tempfile::tempdir().unwrap();
    let made = Command::new("mknod").arg(base.path().join("zero")).args(["c", "1", "5"]).output().unwrap();
    if !made.status.success() {
        ::tests::skip("this user cannot create devices");
        return;
    }
    let (bytes, report) = archived(base.path(), &[]).await;
    assert_eq!((report.files, report.bytes, report.problems_total), (1, 0, 0));
    let device = |path: &Path| rustix::fs::stat(path).unwrap().st_rdev;
    let into = tempfile::tempdir().unwrap();
    std::fs::write(into.path().join("a.tar.gz"), bytes).unwrap();
    run(Command::new("tar").args(["-xzf", "a.tar.gz"]).current_dir(into.path()));
    assert_eq!(device(&into.path().join("zero")), device(&base.path().join("zero")));
}

/// Test data that may exist beside the checkout.
fn real_documents() -> Option<std::path::PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let above = workspace.ancestors().skip(1).take(2);
    above.map(|folder| folder.join("shared/dolibarr/documents.tar.gz")).find(|file| file.exists())
}

#[tokio::test]
async fn a_real_documents_folder_survives_a_round_trip_and_is_not_larger_than_with_gzip() {
    let Some(real) = real_documents() else {
        ::tests::skip("there are no real documents beside this checkout");
        return;
    };
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("root");
    std::fs::create_dir(&root).unwrap();
    run(Command::new("tar").arg("-xpzf").arg(&real).current_dir(&root));
    let (bytes, report) = archived(&root, &[]).await;
    assert_eq!(report.problems, []);
    assert!(unpacked(&bytes) == facts(&root));
    let stock = base.path().join("stock.tar.gz");
    run(Command::new("tar").arg("-czf").arg(&stock).arg(".").current_dir(&root));
    let stock_bytes = std::fs::metadata(stock).unwrap().len();
    println!("{} bytes, tar -czf makes {stock_bytes}", bytes.len());
    assert!(bytes.len() as u64 <= stock_bytes + stock_bytes / 100);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    /// A tree as (folder index, name, content). A name that exists already is skipped.
    fn trees() -> impl Strategy<Value = Vec<(usize, Vec<u8>, Option<Vec<u8>>)>> {
        let byte = any::<u8>().prop_map(|b| if matches!(b, 0 | b'/') { b'_' } else { b });
        let name = proptest::collection::vec(byte, 1..120);
        let name = name.prop_filter("not a file name", |name| name != b"." && name != b"..");
        let content = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3_000));
        proptest::collection::vec((any::<usize>(), name, content), 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_random_tree_survives_a_round_trip(plan in trees()) {
            let base = tempfile::tempdir().unwrap();
            let mut folders = vec![base.path().to_owned()];
            for (under, name, content) in plan {
                let path = at(&folders[under % folders.len()], &name);
                match content {
                    Some(content) if !path.exists() => std::fs::write(&path, content).unwrap(),
                    None if std::fs::create_dir(&path).is_ok() => folders.push(path),
                    _ => {}
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (bytes, report) = runtime.block_on(archived(base.path(), &[]));
            prop_assert_eq!(report.problems_total, 0);
            prop_assert_eq!(unpacked(&bytes), facts(base.path()));
        }
    }
}
