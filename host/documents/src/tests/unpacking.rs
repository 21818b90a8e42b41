//! Restores: archives from this program or a stock tool, with and without an index, damaged archives and stopped
//! restores.

use super::restoring::awkward;
use super::*;
use crate::restore::{RestoredFolder, restore, survey};
use base::error::Class;
use base::stream;
use proptest::prelude::*;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicUsize;
use tokio_util::sync::CancellationToken;

/// An object in memory, and a counter of its reads.
pub(super) fn object(name: &str, bytes: Vec<u8>) -> (StoredObject, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let (length, sha256, counter) = (bytes.len() as u64, Some(sha256(&bytes)), Arc::clone(&reads));
    let bytes = bytes::Bytes::from(bytes);
    let fetch: Fetch = Arc::new(move |range: Option<Range<u64>>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let range = range.map_or(0..bytes.len(), |range| range.start as usize..range.end as usize);
        let part = bytes.get(range).map(|part| bytes.slice_ref(part));
        Box::pin(async move {
            let part = part.ok_or_else(|| Error::new(Class::Stale, "the range is beyond the object"))?;
            let (writer, stream) = stream::channel(None);
            tokio::spawn(async move {
                for at in (0..part.len()).step_by(100_000) {
                    if writer.send(part.slice(at..part.len().min(at + 100_000))).await.is_err() {
                        return;
                    }
                }
                writer.finish().await.ok();
            });
            Ok(stream)
        })
    });
    (StoredObject { name: name.to_owned(), bytes: length, sha256, fetch }, reads)
}

/// An archive of a tree and its index, as bytes.
pub(super) async fn saved(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let (archive, mut outcome) = finished(&tree(path), reporting(&[])).await.unwrap();
    (archive, collected(outcome.take_index().unwrap()).await.unwrap())
}

pub(super) fn stored(archive: Vec<u8>, index: Option<Vec<u8>>) -> Archive {
    let index = index.map(|index| object("docs.index", index).0);
    Archive { object: object("docs.tar.gz", archive).0, index }
}

pub(super) async fn restored(archive: &Archive, into: &Path) -> Result<RestoredFolder> {
    restore(archive, into.to_owned(), "x".to_owned(), &CancellationToken::new()).await
}

/// The names of a folder's entries, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn compare(before: &BTreeMap<Vec<u8>, Facts>, after: &BTreeMap<Vec<u8>, Facts>, how: &str) {
    for (path, expected) in before {
        assert_eq!(after.get(path), Some(expected), "{how}: {}", path::shown(path));
    }
    assert_eq!(after.len(), before.len(), "{how}");
}

#[tokio::test]
async fn an_awkward_tree_is_restored_unchanged_with_and_without_its_index() {
    let (base, root) = awkward();
    let before = facts(&root);
    let (archive, index) = saved(&root).await;
    for (name, index) in [("indexed", Some(index.clone())), ("streamed", None)] {
        let existing = base.path().join(format!("{name} existing"));
        std::fs::create_dir_all(existing.join("lost+found")).unwrap();
        let archive = stored(archive.clone(), index);
        let files = before.values().filter(|facts| facts.kind != "Directory").count() as u64;
        for into in [base.path().join(name), existing] {
            let restored = restored(&archive, &into).await.unwrap();
            assert_eq!((restored.files, restored.skipped_total), (files, 0));
            assert_eq!(restored.folders, before.len() as u64 - files);
            std::fs::remove_dir(into.join("lost+found")).ok();
            let mut after = facts(&into);
            if into.ends_with(format!("{name} existing")) {
                // This test removed lost+found, which changed the time.
                after.get_mut(&b""[..]).unwrap().modified = before[&b""[..]].modified;
            }
            compare(&before, &after, name);
            let sparse = std::fs::metadata(into.join("sparse")).unwrap();
            assert!(sparse.blocks() * 512 < 1 << 20, "{name}: the holes are filled with {} blocks", sparse.blocks());
        }
    }
    assert!(names(base.path()).iter().all(|name| !name.starts_with('.')), "{:?}", names(base.path()));
    let counted = survey(&stored(archive, Some(index)), &CancellationToken::new()).await.unwrap().unwrap();
    assert_eq!(counted.files + counted.folders, before.len() as u64);
}

#[tokio::test]
async fn archives_from_stock_tar_are_restored_in_every_dialect() {
    let (base, root) = awkward();
    // GNU's dialect has no fractions of seconds; ustar has neither long names nor times before 1970.
    for (dialect, top) in [("pax", "."), ("gnu", "."), ("gnu", "tree"), ("ustar", "facture")] {
        let file = base.path().join("stock.tar.gz");
        let folder = if top == "tree" { base.path() } else { &root };
        let format = format!("--format={dialect}");
        let with: &[&str] = if dialect == "pax" { &["--xattrs", "--acls"] } else { &[] };
        run(Command::new("tar").args(with).args([&format, "-czf"]).arg(&file).arg("-C").arg(folder).arg(top));
        let archive = stored(std::fs::read(&file).unwrap(), None);
        let into = base.path().join(format!("{dialect} {top}"));
        let _ = restored(&archive, &into).await.unwrap();
        let (before, after) = match top {
            "." => (facts(&root), facts(&into)),
            "tree" => (facts(&root), facts(&into.join("tree"))),
            _ => (facts(&root.join("facture")), facts(&into.join("facture"))),
        };
        let coarse = |mut facts: BTreeMap<Vec<u8>, Facts>| {
            for facts in facts.values_mut().filter(|_| dialect != "pax") {
                facts.modified.1 = 0;
                facts.attributes.clear();
            }
            // The first name of one of its files is outside this folder.
            for facts in facts.values_mut().filter(|_| top == "facture") {
                facts.first = None;
            }
            facts
        };
        compare(&coarse(before), &coarse(after), dialect);
    }
}

/// Waits until a folder contains exactly these names.
async fn holds(folder: &Path, expected: &[&str]) {
    eventually(|| names(folder) == expected, || format!("{:?} did not become {expected:?}", names(folder))).await;
}

#[tokio::test]
async fn a_restore_that_is_dropped_or_stopped_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    for n in 0..40 {
        std::fs::write(root.join(n.to_string()), noise(300_000, n)).unwrap();
    }
    let (archive, index) = saved(&root).await;
    let into = base.path().join("into");
    for index in [Some(index), None] {
        for drop_it in [true, false] {
            let mut slow = stored(archive.clone(), index.clone());
            let quick = Arc::clone(&slow.object.fetch);
            // Half of the archive arrives, and then nothing.
            slow.object.fetch = Arc::new(move |range| {
                let read = quick(range);
                Box::pin(async move {
                    let mut source = read.await?;
                    let (writer, stream) = stream::channel(None);
                    tokio::spawn(async move {
                        for _ in 0..10 {
                            let Ok(Some(block)) = source.next().await else { break };
                            writer.send(block).await.ok();
                        }
                        writer.closed().await;
                    });
                    Ok(stream)
                })
            });
            let stop = CancellationToken::new();
            let work = restore(&slow, into.clone(), "x".to_owned(), &stop);
            let mut work = Box::pin(work);
            let begun = holds(base.path(), &[".into.restoring-x", "tree"]);
            tokio::select! {
                ended = &mut work => panic!("the restore cannot be finished yet: {ended:?}"),
                () = begun => {}
            }
            let waited = tokio::time::timeout(std::time::Duration::from_millis(300), &mut work).await;
            assert!(waited.is_err(), "the restore cannot be finished yet");
            if drop_it {
                drop(work);
                holds(base.path(), &["tree"]).await;
            } else {
                stop.cancel();
                assert_eq!(work.await.unwrap_err().class(), Class::Interrupted);
            }
            assert_eq!(names(base.path()), ["tree"]);
        }
    }
}

#[tokio::test]
async fn a_failure_of_the_store_is_returned_and_nothing_is_left() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("large"), noise(9 << 20, 1)).unwrap();
    let (archive, index) = saved(&root).await;
    for index in [Some(index), None] {
        let mut broken = stored(archive.clone(), index);
        let good = Arc::clone(&broken.object.fetch);
        broken.object.fetch = Arc::new(move |range| {
            if range.as_ref().is_some_and(|range| range.start == 0) {
                return good(range);
            }
            Box::pin(async { Err(Error::unavailable("the store is down")) })
        });
        let error = restored(&broken, &base.path().join("into")).await.unwrap_err();
        assert_eq!(error, Error::unavailable("the store is down"));
        assert_eq!(names(base.path()), ["tree"]);
    }
}

#[tokio::test]
async fn a_restore_ends_if_every_worker_fails() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    // A hole consists of tiny members: one read has more of them than fit in the workers' queue.
    std::fs::File::create(root.join("sparse")).unwrap().set_len(400 << 20).unwrap();
    let (mut archive, index) = saved(&root).await;
    for byte in &mut archive {
        *byte ^= 0x55;
    }
    let mut stored = stored(archive, Some(index));
    stored.object.sha256 = None;
    let into = base.path().join("into");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), restored(&stored, &into)).await;
    let error = ended.expect("the restore must not wait for failed workers").unwrap_err();
    assert_eq!(error.class(), Class::Stale);
    assert_eq!(names(base.path()), ["tree"]);
}

/// An entry of a random tree.
#[derive(Debug, Clone)]
struct Planted {
    path: Vec<Vec<u8>>,
    what: u8,
    size: usize,
    byte: u8,
}

fn planted() -> impl Strategy<Value = Vec<Planted>> {
    let name = prop_oneof![
        "[a-c]",
        "[a-c][-./]?[a-z]{1,3}".prop_map(|name| name.replace('/', "_")),
        Just("x".repeat(120)),
        Just("é\\x00".to_owned())
    ]
    .prop_map(String::into_bytes);
    let raw = prop::collection::vec(1..=255_u8, 1..9).prop_map(|name| {
        let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'/' { b'|' } else { byte }).collect();
        if matches!(name.as_slice(), b"." | b"..") { b"dots".to_vec() } else { name }
    });
    let path = prop::collection::vec(prop_oneof![4 => name, 1 => raw], 1..4);
    let size = prop_oneof![6 => 0..3_000_usize, 2 => 500_000..1_100_000_usize, 1 => (2_usize << 20)..(4 << 20)];
    let one =
        (path, 0..8_u8, size, any::<u8>()).prop_map(|(path, what, size, byte)| Planted { path, what, size, byte });
    prop::collection::vec(one, 0..25)
}

/// Creates a random tree. If names collide, the first entry stays.
fn plant(root: &Path, planted: &[Planted]) {
    let mut files: Vec<std::path::PathBuf> = Vec::new();
    for (n, one) in planted.iter().enumerate() {
        let path = at(root, &one.path.join(&b'/'));
        if path.symlink_metadata().is_ok() || std::fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        match (one.what, files.last()) {
            (0, _) => std::fs::create_dir(&path).unwrap(),
            (1, _) => symlink(OsStr::from_bytes(&one.path[0]), &path).unwrap(),
            (2, Some(first)) => std::fs::hard_link(first, &path).unwrap(),
            (3, _) => std::fs::write(&path, vec![0; one.size]).unwrap(),
            (what, _) => {
                let mut content = noise(one.size, n as u64);
                if what == 4 {
                    content = vec![one.byte; one.size];
                    let middle = one.size / 3..one.size / 3 * 2;
                    content[middle].fill(0);
                }
                std::fs::write(&path, content).unwrap();
                files.push(path);
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_is_restored_unchanged(planted in planted()) {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        plant(&root, &planted);
        let before = facts(&root);
        runtime().block_on(async {
            let (archive, index) = saved(&root).await;
            for (how, index) in [("indexed", Some(index)), ("streamed", None)] {
                let into = base.path().join(how);
                let _ = restored(&stored(archive.clone(), index), &into).await.unwrap();
                compare(&before, &facts(&into), how);
            }
        });
    }
}

#[tokio::test]
async fn damage_anywhere_is_detected_and_leaves_the_target_unchanged() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("tree");
    std::fs::create_dir(&root).unwrap();
    for n in 0..30 {
        std::fs::create_dir(root.join(format!("f{n}"))).unwrap();
        std::fs::write(root.join(format!("f{n}/text")), "paid ".repeat(300)).unwrap();
        std::fs::write(root.join(format!("f{n}/noise")), noise(3_000, n)).unwrap();
    }
    std::fs::write(root.join("large"), noise(2_500_000, 99)).unwrap();
    let before = facts(&root);
    let (archive, index) = saved(&root).await;
    let into = base.path().join("into");
    let (mut detected, mut harmless) = (0, 0);
    for n in 0..240_u64 {
        let chance = noise(24, 1_000 + n);
        let place = |bytes: &[u8]| (u64::from_le_bytes(chance[..8].try_into().unwrap()) % bytes.len() as u64) as usize;
        let (mut archive, mut index) = (archive.clone(), Some(index.clone()));
        let damage_index = n % 3 == 0;
        match (damage_index, &mut index) {
            (true, Some(index)) => {
                let at = place(index);
                if n % 2 == 0 { index.truncate(at) } else { index[at] ^= chance[9] | 1 }
            }
            _ => {
                let at = place(&archive);
                archive[at] ^= chance[9] | 1;
            }
        }
        if n % 3 == 1 {
            index = None;
        }
        // Without a recorded SHA-256, only the checks inside the objects detect damage.
        let mut stored = stored(archive, index);
        stored.object.sha256 = None;
        match restored(&stored, &into).await {
            Err(error) => {
                assert!(!error.message().contains('\n') && error.class() == Class::Stale, "{error:?}");
                detected += 1;
            }
            // The time and the system in a gzip header have no effect.
            Ok(_) => {
                compare(&before, &facts(&into), "a harmless change");
                std::fs::remove_dir_all(&into).unwrap();
                harmless += 1;
            }
        }
        assert_eq!(names(base.path()), ["tree"], "{n}");
    }
    assert!(harmless < 12 && detected > 220, "{detected} detected, {harmless} harmless");
    // With a recorded SHA-256, every change is detected.
    let mut stored = stored(archive, None);
    stored.object.sha256 = Some("00".repeat(32));
    let error = restored(&stored, &into).await.unwrap_err();
    assert!(error.message().contains("SHA-256"), "{error}");
    assert_eq!(names(base.path()), ["tree"]);
}
