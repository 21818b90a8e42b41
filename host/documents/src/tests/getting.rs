//! Reads single documents from an archive.

use super::unpacking::{object, saved, stored};
use super::*;
use base::error::Class;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use tokio_util::sync::CancellationToken;

async fn got(archive: &Archive, path: &[u8]) -> Result<(Document, Vec<u8>)> {
    let mut got = get(archive, path, None, &CancellationToken::new()).await?;
    let mut content = Vec::new();
    got.content.read_to_end(&mut content).unwrap();
    Ok((got.document, content))
}

#[tokio::test]
async fn a_document_takes_one_read_of_the_index_and_one_of_the_archive() {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(base.path().join("facture")).unwrap();
    for n in 0..60 {
        std::fs::write(base.path().join(format!("facture/{n}.pdf")), noise(90_000, n)).unwrap();
    }
    std::fs::write(base.path().join("large"), noise((7 << 20) + 3, 70)).unwrap();
    std::fs::write(base.path().join("empty"), "").unwrap();
    std::fs::hard_link(base.path().join("large"), base.path().join("zz")).unwrap();
    std::fs::write(at(base.path(), b"caf\xe9"), "odd").unwrap();
    symlink("large", base.path().join("link")).unwrap();
    let (bytes, index) = saved(base.path()).await;
    let last = noise(90_000, 59);
    let large = noise((7 << 20) + 3, 70);
    for (path, expected, reads_of_index) in [
        (&b"facture/0.pdf"[..], &noise(90_000, 0)[..], 1),
        (b"./facture//59.pdf", &last, 1),
        (b"large", &large, 1),
        (b"empty", b"", 1),
        (b"caf\xe9", b"odd", 1),
        (b"zz", &large, 2),
    ] {
        let (archive_object, archive_reads) = object("docs.tar.gz", bytes.clone());
        let (index_object, index_reads) = object("docs.index", index.clone());
        let archive = Archive { object: archive_object, index: Some(index_object) };
        let (document, content) = got(&archive, path).await.unwrap();
        assert!(content == expected, "{}: {} bytes", path::shown(path), content.len());
        assert_eq!((document.size_bytes, document.sha256), (expected.len() as u64, Some(sha256(expected))));
        assert_eq!(index_reads.load(Ordering::Relaxed), reads_of_index, "{}", path::shown(path));
        assert_eq!(archive_reads.load(Ordering::Relaxed), 1);
        let (_, streamed) = got(&stored(bytes.clone(), None), path).await.unwrap();
        assert!(streamed == expected, "{} without an index", path::shown(path));
    }
    for index in [Some(index.clone()), None] {
        let archive = stored(bytes.clone(), index);
        for (path, expected) in [
            (&b"facture"[..], "`facture` is a folder"),
            (b"", "`.` is a folder"),
            (b"link", "`link` is a symbolic link to `large`"),
            (b"facture/60.pdf", "no document `facture/60.pdf`"),
            (b"zzz", "no document `zzz`"),
            (b"../etc/passwd", "no document `../etc/passwd`"),
        ] {
            let error = got(&archive, path).await.unwrap_err();
            assert!(error.class() == Class::Usage && error.message().contains(expected), "{error:?}");
        }
    }
    let mut broken = bytes.clone();
    let middle = broken.len() / 2;
    for byte in &mut broken[middle..middle + 3_000] {
        *byte ^= 0x55;
    }
    let error = got(&stored(broken, Some(index)), b"large").await.unwrap_err();
    assert_eq!(error.class(), Class::Stale, "{error:?}");
}

#[tokio::test]
async fn a_document_goes_to_a_file_with_its_holes_and_a_full_disk_is_reported() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", (10 << 20) + 7).unwrap();
    sparse.set_len(20 << 20).unwrap();
    let expected = std::fs::read(root.join("sparse")).unwrap();
    std::fs::write(root.join("small"), "a few bytes").unwrap();
    let (bytes, index) = saved(&root).await;
    for index in [Some(index), None] {
        let archive = stored(bytes.clone(), index);
        let stop = CancellationToken::new();
        for (path, expected) in [(&b"sparse"[..], &expected[..]), (b"small", b"a few bytes")] {
            let named = base.path().join("named");
            let file =
                std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&named).unwrap();
            let target = Target { file, path: named.clone() };
            let to_file = get(&archive, path, Some(target), &stop).await.unwrap();
            assert_eq!(to_file.document.size_bytes, expected.len() as u64);
            assert!(matches!(to_file.content, Content::File(_)));
            assert!(std::fs::read(&named).unwrap() == expected, "{}", path::shown(path));
            let kept = std::fs::metadata(&named).unwrap().blocks() * 512;
            assert!(kept <= 1 << 20, "{kept} bytes are allocated on disk");
            let (_, streamed) = got(&archive, path).await.unwrap();
            assert!(streamed == expected, "{}", path::shown(path));
        }
        let file = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let target = Target { file, path: "/mnt/stick/small".into() };
        let error = get(&archive, b"small", Some(target), &stop).await.unwrap_err();
        assert_eq!(error.message(), "/mnt/stick/small cannot be written: no space left on device");
        assert_eq!(error.class(), Class::Config);
    }
}

#[tokio::test]
async fn the_entries_of_a_large_index_are_passed_on_one_by_one() {
    let entries = 200_000_u32;
    let mut index = index::Index::new().unwrap();
    let line = |n: u32| index::Line {
        kind: if n == 0 { entry::Kind::Folder } else { entry::Kind::File },
        path: if n == 0 { Vec::new() } else { format!("FA{n:07}.pdf").into_bytes() },
        linked: None,
        at: 0,
        content_at: 512,
        size_bytes: 0,
        modified: entry::Time::default(),
        digest: index::Digest::None,
    };
    for n in 0..entries {
        let member = index::Member { packed: vec![0; 10], plain_bytes: 512, lines: vec![line(n)], ended: None };
        index.add(&member).unwrap();
    }
    index.add(&index::Member { packed: vec![0; 10], plain_bytes: 1_024, lines: Vec::new(), ended: None }).unwrap();
    let bytes = collected(index::stream(index.finish().unwrap().0)).await.unwrap();
    let (mut archive, _) = object("docs.tar.gz", Vec::new());
    archive.bytes = 10 * u64::from(entries + 1);
    let archive = Archive { object: archive, index: Some(object("docs.index", bytes).0) };
    let seen = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&seen);
    let stop = CancellationToken::new();
    let has_index = each(&archive, &stop, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    });
    assert!(has_index.await.unwrap());
    assert_eq!(seen.load(Ordering::Relaxed), entries);
}
