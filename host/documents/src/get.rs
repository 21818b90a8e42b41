//! Reading single documents back: through the index with one ranged read each, or by a pass over the archive.
//!
//! A document is handed out whole and compared with its SHA-256, or not at all. Where it is kept in a file, zeros become holes.

use super::entry::Kind;
use super::index::reader::{Item, Span};
use super::index::{Digest, Line};
use super::object::{Archive, Means, Object, blocking};
use super::path;
use super::path::shown;
use super::restore::{
    Described, Expanded, Gunzip, Map, Names, Place, archive_unreadable, damaged, next_entry, padding, pour, skip,
};
use base::error::{Class, Error, Result, reason};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// The largest document that is kept in memory and not in a temporary file, in bytes.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// What an index says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Below the archived folder, in bytes; empty for the folder itself.
    pub path: Vec<u8>,
    /// `file`, `folder`, `link`, `fifo` or `device`.
    pub kind: &'static str,
    /// Size of its content in bytes. A further name of a file has the size of none.
    pub size_bytes: u64,
    /// Modification time, in seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// SHA-256 of its content in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// The first name of the same file, where this is a further one.
    pub first: Option<Vec<u8>>,
}

/// The content of a document that was read back, at its beginning.
#[derive(Debug)]
pub enum Content {
    /// A small one.
    Memory(Cursor<Vec<u8>>),
    /// A large one, or one that was to go to a file.
    File(File),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(content) => content.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

/// A file that a document goes to. When that fails, what it holds is worth nothing.
#[derive(Debug)]
pub struct Target {
    /// New and empty.
    pub file: File,
    /// What people know it by.
    pub path: PathBuf,
}

/// A document that was read back.
#[derive(Debug)]
pub struct Got {
    /// What is known of it.
    pub document: Document,
    /// What is in it.
    pub content: Content,
}

/// A path for people: on one line and without loss.
#[must_use]
pub fn shown_path(path: &[u8]) -> String {
    shown(path)
}

/// Reads one document back: to a file, or to where the caller reads it from. With an index that is two reads: the index up to its
/// line, and the range that holds it.
///
/// # Errors
/// Of class [`Class::Usage`] when there is no such document, or it is no file; [`Class::Stale`] when it is damaged;
/// [`Class::Config`] when the file cannot be written.
pub async fn get(archive: &Archive, wanted: &[u8], target: Option<Target>, stop: &CancellationToken) -> Result<Got> {
    let archive = archive.clone();
    let wanted = path::below(wanted).map_err(|_| nobody(wanted))?;
    blocking(stop, move |means| {
        if archive.index.is_some() {
            by_index(&archive, &wanted, target, &means)
        } else {
            by_pass(&archive.object, wanted, target, &means)
        }
    })
    .await
}

/// Passes every entry of an index to `each` in path order, until it says that it has enough; whether there is an index.
///
/// # Errors
/// When the index is damaged; those of `each`.
pub async fn each(
    archive: &Archive,
    stop: &CancellationToken,
    mut each: impl FnMut(Document) -> Result<bool> + Send + 'static,
) -> Result<bool> {
    let archive = archive.clone();
    blocking(stop, move |means| {
        let (Some(object), Some(mut reader)) = (&archive.index, archive.index(&means, true)?) else { return Ok(false) };
        let named = |error: Error| error.context(&object.name);
        while let Some(item) = reader.next().map_err(named)? {
            if let Item::Entry(line) = item
                && !each(Document::of(&line))?
            {
                return Ok(true);
            }
        }
        object.check(reader.into_inner()).map_err(named)?;
        Ok(true)
    })
    .await
}

/// How many entries other than folders an index has at or below some paths, each entry once; none where the archive has
/// no index. The empty path is the root. Memory stays flat, however large the index is.
///
/// # Errors
/// When the index is damaged.
pub async fn count_below(archive: &Archive, paths: Vec<Vec<u8>>, stop: &CancellationToken) -> Result<Option<u64>> {
    let archive = archive.clone();
    let mut below = Below::new(paths);
    blocking(stop, move |means| {
        let (Some(object), Some(mut reader)) = (&archive.index, archive.index(&means, true)?) else { return Ok(None) };
        let named = |error: Error| error.context(&object.name);
        let mut count = 0;
        while let Some(item) = reader.next().map_err(named)? {
            if let Item::Entry(line) = item
                && line.kind != Kind::Folder
            {
                count += u64::from(below.holds(&line.path));
            }
        }
        object.check(reader.into_inner()).map_err(named)?;
        Ok(Some(count))
    })
    .await
}

/// Paths that entries are compared with, both in path order, so that one comparison an entry is enough.
struct Below {
    paths: Vec<Vec<u8>>,
    next: usize,
}

impl Below {
    fn new(mut paths: Vec<Vec<u8>>) -> Self {
        paths.sort_by(|a, b| path::order(a, b));
        // What lies below another one of them comes right after it.
        paths.dedup_by(|later, kept| later == kept || path::is_below(later, kept));
        Self { paths, next: 0 }
    }

    /// Whether an entry is one of the paths or below one. Entries must come in path order.
    fn holds(&mut self, entry: &[u8]) -> bool {
        while let Some(path) = self.paths.get(self.next) {
            if path == entry || path::is_below(entry, path) {
                return true;
            }
            if path::order(path, entry) == Ordering::Greater {
                return false;
            }
            self.next += 1;
        }
        false
    }
}

/// What an index says of one path; none where it has no such entry, or the archive no index.
///
/// # Errors
/// When the index is damaged before it says so.
pub async fn look_up(archive: &Archive, wanted: &[u8], stop: &CancellationToken) -> Result<Option<Document>> {
    let archive = archive.clone();
    let Ok(wanted) = path::below(wanted) else { return Ok(None) };
    blocking(stop, move |means| {
        let (Some(object), Some(mut reader)) = (&archive.index, archive.index(&means, false)?) else { return Ok(None) };
        while let Some(item) = reader.next().map_err(|error| error.context(&object.name))? {
            let Item::Entry(line) = item else { continue };
            match path::order(&line.path, &wanted) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(Document::of(&line))),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    })
    .await
}

fn by_index(archive: &Archive, wanted: &[u8], target: Option<Target>, means: &Means) -> Result<Got> {
    let (found, spans) = find(archive, wanted, means)?;
    let (line, spans) = match &found.linked {
        Some(first) => find(archive, first, means)?,
        None => (found.clone(), spans),
    };
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Err(nobody(wanted)) };
    let range = first.offset..last.offset + last.packed_bytes as u64;
    let reader = archive.object.read(Some(range), means, false)?;
    let mut plain = MultiGzDecoder::new(reader);
    skip(&mut plain, line.content_at as u64)?;
    let content = content(&mut plain, wanted, line.size_bytes, None, line.digest, target)?;
    let document = Document { path: wanted.to_vec(), first: found.linked, ..Document::of(&line) };
    Ok(Got { document, content })
}

/// The line of a document and the members that its content is in.
fn find(archive: &Archive, wanted: &[u8], means: &Means) -> Result<(Line, Vec<Span>)> {
    let named = |error: Error| archive.index.as_ref().map_or(error.clone(), |index| error.context(&index.name));
    let Some(mut reader) = archive.index(means, false)? else { return Err(nobody(wanted)) };
    let (mut found, mut spans, mut have) = (None::<Line>, Vec::new(), 0_u64);
    while let Some(item) = reader.next().map_err(named)? {
        match (item, &found) {
            (Item::Member(span), None) => (spans, have) = (vec![span], span.plain_bytes as u64),
            (Item::Member(span), Some(_)) => {
                spans.push(span);
                have += span.plain_bytes as u64;
            }
            (Item::Entry(line), None) => match path::order(&line.path, wanted) {
                Ordering::Less => {}
                Ordering::Equal => found = Some(check_kind(line)?),
                Ordering::Greater => return Err(nobody(wanted)),
            },
            (Item::Entry(_), Some(_)) => {}
        }
        if let Some(line) = &found
            && have >= (line.content_at as u64).saturating_add(line.size_bytes)
        {
            break;
        }
    }
    found.map(|line| (line, spans)).ok_or_else(|| nobody(wanted))
}

fn check_kind(line: Line) -> Result<Line> {
    no_file(&line.path, &line.kind).map_or(Ok(line), Err)
}

/// Why an entry cannot be read as a document, if it cannot.
fn no_file(path: &[u8], kind: &Kind) -> Option<Error> {
    let shown = shown(path);
    let (text, hint) = match kind {
        Kind::File => return None,
        Kind::Folder => {
            (format!("`{shown}` is a folder"), "`find` lists what is in it, `restore` restores all".to_owned())
        }
        Kind::Link(target) => {
            let target = super::path::shown(target);
            (format!("`{shown}` is a symbolic link to `{target}`"), "ask for the document that it points to".to_owned())
        }
        _ => (format!("`{shown}` is no document"), "ask for a file".to_owned()),
    };
    Some(Error::new(Class::Usage, text).hint(hint))
}

/// Reads the archive to its end to know where the content is, because a name may come twice and the later one counts, and then again until
/// it is there.
fn by_pass(object: &Object, wanted: Vec<u8>, target: Option<Target>, means: &Means) -> Result<Got> {
    let opened = || object.read(None, means, false).map(|reader| BufReader::new(Gunzip::new(reader)));
    let mut names = Names::default();
    each_entry(&mut opened()?, |entry| names.take(entry).map(|_| true))?;
    let number = match names.place(&wanted) {
        Some(Place::Other(number)) => number,
        Some(Place::Folder) => return Err(no_file(&wanted, &Kind::Folder).unwrap_or_else(|| nobody(&wanted))),
        Some(Place::Nothing) | None => return Err(nobody(&wanted)),
    };
    let (mut input, mut at, mut found) = (opened()?, 0, None);
    each_entry(&mut input, |entry| {
        at += 1;
        if at == number {
            found = Some(entry.clone());
        }
        Ok(at != number)
    })?;
    let entry = found.ok_or_else(|| nobody(&wanted))?;
    if let Some(error) = no_file(&wanted, &entry.kind) {
        return Err(error);
    }
    let content = content(&mut input, &wanted, entry.size_bytes, entry.map.as_ref(), Digest::None, target)?;
    let document = Document {
        kind: name_of(&entry.kind),
        size_bytes: entry.size_bytes,
        modified: (entry.modified.seconds, entry.modified.nanoseconds),
        sha256: None,
        first: (entry.path != wanted).then_some(entry.path),
        path: wanted,
    };
    Ok(Got { document, content })
}

/// Reads entries for as long as `go_on` says so. Then the content of the last one comes next.
fn each_entry(input: &mut impl Read, mut go_on: impl FnMut(&Described) -> Result<bool>) -> Result<()> {
    while let Some(entry) = next_entry(input)? {
        if !go_on(&entry)? {
            return Ok(());
        }
        skip(input, entry.stored_bytes.saturating_add(padding(entry.stored_bytes)))?;
    }
    Ok(())
}

/// Reads a content, and compares it.
fn content(
    input: &mut impl Read,
    path: &[u8],
    size_bytes: u64,
    map: Option<&Map>,
    digest: Digest,
    target: Option<Target>,
) -> Result<Content> {
    let mut hasher = Sha256::new();
    let content = match target {
        None if size_bytes <= MEMORY_BYTES_MAX => {
            let mut content = vec![0; usize::try_from(size_bytes).unwrap_or_default()];
            Expanded::new(input, map, size_bytes).read_exact(&mut content).map_err(archive_unreadable)?;
            hasher.update(&content);
            Content::Memory(Cursor::new(content))
        }
        None => {
            let lost = |error: io::Error| {
                Error::unexpected(format!("a temporary file cannot be written: {}", reason(&error)))
                    .hint("make room where temporary files go (TMPDIR), or name a file with --output")
            };
            let file = tempfile::tempfile().map_err(lost)?;
            Content::File(copy(input, file, size_bytes, map, &mut hasher, lost)?)
        }
        Some(Target { file, path }) => {
            let lost = |error: io::Error| {
                Error::config(format!("{} cannot be written: {}", path.display(), reason(&error)))
                    .hint("make room there, or name another place with --output")
            };
            Content::File(copy(input, file, size_bytes, map, &mut hasher, lost)?)
        }
    };
    if matches!(digest, Digest::Sha256(expected) if expected != <[u8; 32]>::from(hasher.finalize())) {
        return Err(damaged(&format!("the content of `{}` is not the one that was archived", shown(path))));
    }
    Ok(content)
}

/// Reads a content to a file, which it rewinds.
fn copy(
    input: &mut impl Read,
    mut file: File,
    size_bytes: u64,
    map: Option<&Map>,
    hasher: &mut Sha256,
    failed: impl Fn(io::Error) -> Error,
) -> Result<File> {
    let hash = |piece: &[u8]| {
        hasher.update(piece);
        Ok(())
    };
    pour(input, &file, size_bytes, map, hash, &failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

impl Document {
    fn of(line: &Line) -> Self {
        let sha256 = match line.digest {
            Digest::Sha256(digest) => Some(hex::encode(digest)),
            Digest::None | Digest::Later => None,
        };
        Self {
            path: line.path.clone(),
            kind: name_of(&line.kind),
            size_bytes: line.size_bytes,
            modified: (line.modified.seconds, line.modified.nanoseconds),
            sha256,
            first: line.linked.clone(),
        }
    }
}

const fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Folder => "folder",
        Kind::Link(_) => "link",
        Kind::Fifo => "fifo",
        Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket => "device",
    }
}

fn nobody(wanted: &[u8]) -> Error {
    Error::new(Class::Usage, format!("the snapshot has no document `{}`", shown(wanted)))
        .hint("`find` lists what a snapshot has; a path is relative to the documents folder")
}
