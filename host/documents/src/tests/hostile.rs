//! Malicious archives, built by hand. Each is refused in one sentence that names the entry, and nothing outside the
//! target is touched.

use super::unpacking::{names, object, restored, saved, stored};
use base::error::Class;
use std::io::Write as _;
use tar::{EntryType, Header};

/// Appends an entry without changing or checking its names.
fn entry(out: &mut Vec<u8>, name: &[u8], kind: EntryType, link: &[u8], content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn packed(plain: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

type Made<'a> = (&'a [u8], EntryType, &'a [u8]);

#[tokio::test]
async fn nothing_leaves_the_folder() {
    const FILE: EntryType = EntryType::Regular;
    let base = tempfile::tempdir().unwrap();
    let outside = base.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let absolute = outside.to_str().unwrap().as_bytes().to_vec();
    let victim = [&absolute[..], b"/victim"].concat();
    let cases: Vec<(Vec<Made<'_>>, &str)> = vec![
        (vec![(&victim, FILE, b"")], "victim`, which is an absolute path"),
        (vec![(b"../outside/victim", FILE, b"")], "`../outside/victim`, which leads out"),
        (vec![(b"a/../../outside/x", FILE, b"")], "leads out"),
        (vec![(b"a", EntryType::Symlink, &absolute), (b"a/victim", FILE, b"")], "`a/victim`, which leads through"),
        (vec![(b"a", EntryType::Symlink, b"../outside"), (b"a/b/c", FILE, b"")], "`a/b/c`, which leads through"),
        (vec![(b"a", EntryType::Symlink, &absolute), (b"a/", EntryType::Directory, b"")], ""),
        (vec![(b"a", EntryType::Symlink, &victim), (b"a", FILE, b"")], ""),
        (
            vec![
                (b"a", FILE, b""),
                (b"a", EntryType::Symlink, &victim),
                (b"b", EntryType::Link, b"a"),
                (b"b", FILE, b""),
            ],
            "",
        ),
        (vec![(b"a/b", FILE, b""), (b"a", FILE, b"")], "`a`, which occurs both as a folder and as something else"),
        (vec![(b"a", EntryType::Symlink, b"..")], ""),
        (vec![(b"a", FILE, b""), (b"a", FILE, b"")], ""),
        (vec![(b"a", FILE, b""), (b"a/b", FILE, b"")], "the archive holds `a"),
        (vec![(b"h", EntryType::Link, &victim)], "victim`, which is an absolute path"),
        (vec![(b"h", EntryType::Link, b"../outside/victim")], "leads out"),
        (
            vec![(b"a", EntryType::Symlink, &absolute), (b"h", EntryType::Link, b"a/victim")],
            "`h`, which is a hard link",
        ),
        (vec![(b"h", EntryType::Link, b"missing")], "`h`, which is a hard link to `missing`"),
        (vec![(b"h", EntryType::Link, b"h")], "`h`, which is a hard link"),
        (vec![(b"d/", EntryType::Directory, b""), (b"h", EntryType::Link, b"d")], "`h`, which is a hard link"),
        (vec![(b"./", EntryType::Symlink, b"/etc")], "has no name"),
    ];
    for (made, expected) in cases {
        let mut plain = Vec::new();
        for (name, kind, link) in &made {
            let content: &[u8] = if *kind == FILE { b"evil" } else { b"" };
            entry(&mut plain, name, *kind, link, content);
        }
        plain.extend_from_slice(&[0; 1_024]);
        for exists in [false, true] {
            let into = base.path().join("into");
            if exists {
                std::fs::create_dir(&into).unwrap();
            }
            let result = restored(&stored(packed(&plain), None), &into).await;
            match result {
                Err(error) => {
                    assert!(!expected.is_empty() && error.message().contains(expected), "{expected}: {error}");
                    assert!(error.class() == Class::Stale && error.advice().is_some());
                    assert_eq!(into.exists(), exists);
                }
                Ok(_) => assert_eq!(expected, "", "{made:?} was restored"),
            }
            let kept = if exists || expected.is_empty() { vec!["into", "outside"] } else { vec!["outside"] };
            assert_eq!(names(base.path()), kept);
            assert_eq!(names(&outside), ["victim"]);
            assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
            if into.exists() {
                assert!(expected.is_empty() || names(&into).is_empty(), "{:?}", names(&into));
                std::fs::remove_dir_all(&into).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_size_beyond_the_archive_and_an_archive_without_an_end_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let mut announced = Vec::new();
    entry(&mut announced, b"big", EntryType::Regular, b"", b"");
    let header = Header::from_byte_slice(&announced);
    let mut header = header.clone();
    header.set_size(1 << 40);
    header.set_cksum();
    let mut endless = Vec::new();
    entry(&mut endless, b"a", EntryType::Regular, b"", b"x");
    let (good, _) = saved(base.path()).await;
    for (bytes, expected) in [
        (packed(header.as_bytes()), "cut off"),
        (packed(&endless), "cut off"),
        (good[..good.len() - 1].to_vec(), "cut off"),
        ([&good[..], b"trailing"].concat(), "damaged"),
        (b"no gzip at all".to_vec(), "damaged"),
        (Vec::new(), "cut off"),
    ] {
        let error = restored(&stored(bytes, None), &base.path().join("into")).await.unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(names(base.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn devices_are_skipped_and_listed() {
    let base = tempfile::tempdir().unwrap();
    let mut plain = Vec::new();
    entry(&mut plain, b"tty", EntryType::Char, b"", b"");
    entry(&mut plain, b"disk", EntryType::Block, b"", b"");
    entry(&mut plain, b"file", EntryType::Regular, b"", b"x");
    plain.extend_from_slice(&[0; 1_024]);
    let into = base.path().join("into");
    let restored = restored(&stored(packed(&plain), None), &into).await.unwrap();
    assert_eq!(names(&into), ["file"]);
    assert_eq!((restored.files, restored.skipped_total), (1, 2));
    let skipped: Vec<_> = restored.skipped.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(skipped, ["tty", "disk"]);
}

/// The lines of an index, edited and packed again.
fn edited(index: &[u8], edit: impl Fn(&mut Vec<String>)) -> Vec<u8> {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(index), &mut text).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    edit(&mut lines);
    packed((lines.join("\n") + "\n").as_bytes())
}

#[tokio::test]
async fn a_forged_index_is_refused_with_its_line() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir_all(root.join("d")).unwrap();
    for (name, content) in [("d/a", "one"), ("d/b", "two"), ("z", "three")] {
        std::fs::write(root.join(name), content).unwrap();
    }
    let (archive, index) = saved(&root).await;
    // Lines: 0 the first line, 1 the member, then `.`, `d`, `d/a`, `d/b`, `z`, the last member and the end.
    let replace = |lines: &mut Vec<String>, at: usize, field: usize, value: &str| {
        let mut fields: Vec<&str> = lines[at].split('\t').collect();
        fields[field] = value;
        lines[at] = fields.join("\t");
    };
    type Edit<'a> = Box<dyn Fn(&mut Vec<String>) + 'a>;
    let set = |at: usize, field: usize, value: &'static str| -> Edit<'_> {
        Box::new(move |lines: &mut Vec<String>| replace(lines, at, field, value))
    };
    let lie = "f".repeat(64);
    let cases: Vec<(Edit<'_>, &str)> = vec![
        (set(4, 6, "../x"), "docs.index: line 5: invalid path"),
        (set(4, 6, "/etc/passwd"), "invalid path"),
        (set(4, 6, "d/\\x00"), "invalid path"),
        (set(4, 6, "d//a"), "invalid path"),
        (set(4, 6, "c"), "not in order"),
        (set(4, 6, "e/a"), "its folder is not in the index"),
        (set(5, 6, "d/a"), "occurs twice"),
        (set(4, 6, "d/c"), "not in order"),
        (set(4, 2, "99999999"), "the entry has an invalid position"),
        (set(4, 1, "0"), "the entry has an invalid position"),
        (set(4, 3, "18446744073709551615"), "the entry is too large"),
        (set(4, 3, "-1"), "expected a number"),
        (set(4, 3, "1048576"), ""),
        (set(4, 5, "zz"), "invalid SHA-256"),
        (set(3, 0, "f"), ""),
        (set(4, 0, "q"), "its fields do not match its kind"),
        (set(4, 4, "yesterday"), "invalid time"),
        (set(1, 1, "7"), "the member has an invalid position or size"),
        (set(1, 2, "99999999999"), "the member has an invalid position or size"),
        (set(1, 3, "0"), "the member has an invalid position or size"),
        (Box::new(|lines| replace(lines, 4, 5, &lie)), "the content of `d/a` does not match its SHA-256"),
        (set(4, 4, "1"), "contradict each other at `d/a`"),
        (set(6, 6, "y"), "contradict each other at `y`"),
        (Box::new(|lines| drop(lines.remove(4))), "the entry has an invalid position"),
        (Box::new(|lines| drop(lines.pop())), "it is cut off"),
        (Box::new(|lines| lines.push("f\t0".to_owned())), "unexpected data follows its end"),
        (Box::new(|lines| lines[0] = "dolibarr-backup index 2".to_owned()), "it has version 2"),
        (Box::new(|lines| lines[0] = "index".to_owned()), "not an index"),
        (Box::new(|lines| lines[2] = "x".repeat(9 << 20)), "it is longer than"),
        (set(8, 1, "77"), "its totals do not match"),
    ];
    let into = base.path().join("into");
    for (edit, expected) in cases {
        let bad = edited(&index, edit);
        let error = restored(&stored(archive.clone(), Some(bad)), &into).await.expect_err(expected);
        assert!(error.message().contains(expected), "`{error}` does not say `{expected}`");
        assert!(error.class() == Class::Stale && !error.message().contains('\n'), "{error:?}");
        assert_eq!(names(base.path()), ["tree"]);
    }
    let same = edited(&index, |_| ());
    let _ = restored(&stored(archive.clone(), Some(same)), &into).await.unwrap();
    assert_eq!(names(&into), ["d", "z"]);
    let (other, _) = object("docs.tar.gz", [archive, vec![0]].concat());
    let mut longer = stored(Vec::new(), Some(index));
    longer.object = other;
    let error = restored(&longer, &base.path().join("other")).await.unwrap_err();
    assert!(error.message().contains("it describes an archive of"), "{error}");
}
