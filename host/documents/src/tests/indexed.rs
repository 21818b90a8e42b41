//! Reads the index with nothing but the description of its format.

use super::*;
use std::io::Read;

/// The archive and the lines of its index.
async fn indexed(path: &Path) -> (Vec<u8>, Vec<Vec<String>>) {
    let (archive, mut outcome) = finished(&tree(path), reporting(&[])).await.unwrap();
    let index = collected(outcome.take_index().unwrap()).await.unwrap();
    assert!(outcome.take_index().is_none(), "the index can be taken only once");
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&index[..]).read_to_string(&mut text).unwrap();
    let lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    (archive, lines)
}

/// One member, unpacked on its own.
fn member(archive: &[u8], line: &[String]) -> Vec<u8> {
    let (offset, length): (usize, usize) = (line[1].parse().unwrap(), line[2].parse().unwrap());
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&archive[offset..offset + length]).read_to_end(&mut plain).unwrap();
    assert_eq!(plain.len().to_string(), line[3]);
    plain
}

#[tokio::test]
async fn every_file_is_found_through_the_index_alone() {
    let base = tempfile::tempdir().unwrap();
    for n in 0..200_u64 {
        std::fs::create_dir_all(base.path().join(format!("facture/{n}"))).unwrap();
        std::fs::write(base.path().join(format!("facture/{n}/{n}.pdf")), noise(20_000, n)).unwrap();
    }
    std::fs::write(base.path().join("large"), noise((3 << 20) + 5, 7)).unwrap();
    std::fs::write(base.path().join("large and last in its member"), noise((1 << 20) + 1, 8)).unwrap();
    std::fs::write(base.path().join("empty"), "").unwrap();
    std::fs::write(at(base.path(), b"na\tme\n\xff\\x"), "odd").unwrap();
    std::fs::hard_link(base.path().join("empty"), base.path().join("zz further")).unwrap();
    symlink("a\tb", base.path().join("link")).unwrap();
    let root = rustix::fs::open(base.path(), OFlags::RDONLY, Mode::empty()).unwrap();
    set_modified(&root, b"empty", -2, 500_000_000);

    let (archive, lines) = indexed(base.path()).await;
    assert_eq!(lines[0], ["dolibarr-backup index 1"]);
    let members: Vec<&Vec<String>> = lines.iter().filter(|line| line[0] == "m").collect();
    let mut at = 0;
    for line in &members {
        assert_eq!(line[1], at.to_string(), "members follow each other");
        at += line[2].parse::<usize>().unwrap();
    }
    assert_eq!(at, archive.len());
    let entries: Vec<&Vec<String>> =
        lines.iter().skip(1).filter(|line| !matches!(line[0].as_str(), "m" | "end")).collect();
    let tree = facts(base.path());
    assert_eq!(entries.len(), tree.len());
    let end = ["end".to_owned(), entries.len().to_string(), members.len().to_string(), archive.len().to_string()];
    assert_eq!(lines.last().unwrap(), &end);

    let mut files = 0;
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| line[0] == "f") {
        let first = lines[..n].iter().rposition(|line| line[0] == "m").unwrap();
        let mut plain = Vec::new();
        let (from, size): (usize, usize) = (line[2].parse().unwrap(), line[3].parse().unwrap());
        for line in lines[first..].iter().filter(|line| line[0] == "m") {
            plain.extend_from_slice(&member(&archive, line));
            if plain.len() >= from + size {
                break;
            }
        }
        assert_eq!(sha256(&plain[from..from + size]), line[5], "{}", line[6]);
        let begin: usize = line[1].parse().unwrap();
        let mut entry = tar::Archive::new(&plain[begin..]);
        let mut entry = entry.entries().unwrap().next().unwrap().unwrap();
        let path = entry.path_bytes().into_owned();
        assert_eq!(path::shown(&path), line[6]);
        assert_eq!(tree[&path].content, line[5]);
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(content, plain[from..from + size]);
        files += 1;
    }
    assert_eq!(files, 204);
    let line = |path: &str| entries.iter().find(|line| line[6] == path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(line("empty")[3..6], ["0", "-1.5", &sha256(b"")]);
    assert_eq!(line("na\\x09me\\x0a\\xff\\\\x")[0], "f");
    assert_eq!(line("link")[7], "a\\x09b");
    assert_eq!((line("zz further")[0].as_str(), line("zz further")[7].as_str()), ("h", "empty"));
    assert_eq!(line(".")[0], "d");
}

#[tokio::test]
async fn the_index_of_an_empty_folder_contains_its_root() {
    let base = tempfile::tempdir().unwrap();
    let (archive, lines) = indexed(base.path()).await;
    let kinds: Vec<&str> = lines.iter().map(|line| line[0].as_str()).collect();
    assert_eq!(kinds, ["dolibarr-backup index 1", "m", "d", "m", "end"]);
    assert_eq!(lines[4][1..], ["1", "2", &archive.len().to_string()]);
}

/// The number of write calls that this thread has made.
fn write_calls() -> Option<u64> {
    let counted = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    counted.lines().find_map(|line| line.strip_prefix("syscw: "))?.parse().ok()
}

#[tokio::test]
async fn an_index_larger_than_its_memory_is_read_back_whole() {
    let mut index = index::Index::new().unwrap();
    let line = index::Line {
        kind: entry::Kind::File,
        path: Vec::new(),
        linked: None,
        at: 0,
        content_at: 512,
        size_bytes: 1,
        modified: entry::Time::default(),
        digest: index::Digest::None,
    };
    let entries = 120_000_u64;
    let before = write_calls();
    for n in 0..entries {
        let mut digest = [0; 32];
        digest.copy_from_slice(&Sha256::digest(n.to_le_bytes()));
        let path = hex::encode(noise(40, n)).into_bytes();
        let lines = vec![index::Line { path, digest: index::Digest::Sha256(digest), ..line.clone() }];
        index.add(&index::Member { packed: vec![0; 10], plain_bytes: 1_024, lines, ended: None }).unwrap();
    }
    let index = index.finish().unwrap().0;
    if let (Some(before), Some(after)) = (before, write_calls()) {
        assert!(after - before < 1_000, "{} system calls to write an index", after - before);
    } else {
        ::tests::skip("this kernel does not count write calls");
    }
    let bytes = collected(index::stream(index)).await.unwrap();
    assert!(bytes.len() > index::MEMORY_BYTES_MAX, "{} bytes stay in memory", bytes.len());
    // 72 of these are the random bytes of a path and a digest, which are written in hexadecimal.
    let each = bytes.len() as u64 / entries;
    assert!(each < 100, "an entry takes {each} bytes");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count() as u64, 1 + 2 * entries + 1);
    assert!(text.ends_with(&format!("end\t{entries}\t{entries}\t{}\n", entries * 10)));
}

#[tokio::test]
async fn the_commands_in_the_description_restore_a_document() {
    let description = include_str!("../../../../docs/format.md");
    let (_, script) = description.split_once("```sh\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(base.path().join("tree/facture/FA2601-0001")).unwrap();
    let document = base.path().join("tree/facture/FA2601-0001.pdf");
    for size in [36_211, 0, 1 << 20, (3 << 20) + 1] {
        std::fs::write(&document, noise(size, 5)).unwrap();
        std::fs::write(base.path().join("tree/later"), noise(700_000, 6)).unwrap();
        let (archive, index) = super::unpacking::saved(&base.path().join("tree")).await;
        std::fs::write(base.path().join("20260630T010000Z.tar.gz"), archive).unwrap();
        std::fs::write(base.path().join("20260630T010000Z.index"), index).unwrap();
        run(Command::new("sh").args(["-euc", script]).current_dir(base.path()));
        assert!(std::fs::read(base.path().join("document")).unwrap() == noise(size, 5), "{size} bytes");
    }
}
