//! Reads single documents from an archive: with one ranged read each through the index, or by a pass over the archive.
//!
//! A document is returned only as a whole, after its SHA-256 was checked. In a file, long runs of zeros become holes.

use super::entry::Kind;
use super::index::reader::{Item, Span};
use super::index::{Digest, Line};
use super::object::{Archive, Means, StoredObject, blocking};
use super::path;
use super::path::shown;
use super::restore::{
    Described, Expanded, Gunzip, Map, Names, Place, archive_unreadable, damaged, next_entry, padding, skip,
    write_content,
};
use base::error::{Class, Error, Result, reason};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// The largest document that is kept in memory instead of a temporary file, in bytes.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// One entry, as listed in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Path below the archived folder, in bytes; empty for the folder itself.
    pub path: Vec<u8>,
    /// `file`, `folder`, `link`, `fifo` or `device`.
    pub kind: &'static str,
    /// Size of the content in bytes. In a listing, 0 for a hard link to an earlier entry.
    pub size_bytes: u64,
    /// Modification time, in seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// SHA-256 of the content in lower-case hexadecimal.
    pub sha256: Option<String>,
    /// The first name of the file, if this entry is a hard link to it.
    pub first: Option<Vec<u8>>,
}

/// The content of a document that was read back. Reading starts at its beginning.
#[derive(Debug)]
pub enum Content {
    /// A small document.
    Memory(Cursor<Vec<u8>>),
    /// A large document, or one that the caller wanted in a file.
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

/// A file to write a document to. If that fails, discard the file.
#[derive(Debug)]
pub struct Target {
    /// New and empty.
    pub file: File,
    /// Its path, for messages.
    pub path: PathBuf,
}

/// A document that was read back.
#[derive(Debug)]
pub struct Got {
    /// Its metadata.
    pub document: Document,
    /// Its content.
    pub content: Content,
}

/// A path for display: on one line and without loss.
pub fn shown_path(path: &[u8]) -> String {
    shown(path)
}

/// Reads one document, into `target` if it is given. With an index this takes two reads: the index up to the document's
/// line, and the range of the archive that holds the document.
///
/// # Errors
/// [`Class::Usage`] if the document does not exist or is not a file; [`Class::Stale`] if it is damaged;
/// [`Class::Config`] if the target cannot be written.
pub async fn get(archive: &Archive, wanted: &[u8], target: Option<Target>, stop: &CancellationToken) -> Result<Got> {
    let archive = archive.clone();
    let wanted = path::below(wanted).map_err(|_| not_found(wanted))?;
    blocking(stop, move |means| {
        if archive.index.is_some() {
            by_index(&archive, &wanted, target, &means)
        } else {
            by_pass(&archive.object, wanted, target, &means)
        }
    })
    .await
}

/// Passes every entry of an index to `each` in path order, until `each` returns false. Returns whether the archive has
/// an index.
///
/// # Errors
/// [`Class::Stale`] if the index is damaged; errors of `each`.
pub async fn each(
    archive: &Archive,
    stop: &CancellationToken,
    mut each: impl FnMut(Document) -> Result<bool> + Send + 'static,
) -> Result<bool> {
    let archive = archive.clone();
    blocking(stop, move |means| {
        let (Some(object), Some(mut reader)) = (&archive.index, archive.index(&means, true)?) else { return Ok(false) };
        let in_index = |error: Error| error.context(&object.name);
        while let Some(item) = reader.next().map_err(in_index)? {
            if let Item::Entry(line) = item
                && !each(Document::from_line(&line))?
            {
                return Ok(true);
            }
        }
        object.check(reader.into_inner()).map_err(in_index)?;
        Ok(true)
    })
    .await
}

/// Counts the entries at or below some paths, without folders and each entry once. `None` if the archive has no index.
/// The empty path is the root. Memory use does not grow with the index.
///
/// # Errors
/// [`Class::Stale`] if the index is damaged.
pub async fn count_below(archive: &Archive, paths: Vec<Vec<u8>>, stop: &CancellationToken) -> Result<Option<u64>> {
    let archive = archive.clone();
    let mut below = Below::new(paths);
    blocking(stop, move |means| {
        let (Some(object), Some(mut reader)) = (&archive.index, archive.index(&means, true)?) else { return Ok(None) };
        let in_index = |error: Error| error.context(&object.name);
        let mut count = 0;
        while let Some(item) = reader.next().map_err(in_index)? {
            if let Item::Entry(line) = item
                && line.kind != Kind::Folder
            {
                count += u64::from(below.holds(&line.path));
            }
        }
        object.check(reader.into_inner()).map_err(in_index)?;
        Ok(Some(count))
    })
    .await
}

/// Paths to compare entries with. Both are in path order, so one comparison per entry is enough.
struct Below {
    paths: Vec<Vec<u8>>,
    next: usize,
}

impl Below {
    fn new(mut paths: Vec<Vec<u8>>) -> Self {
        paths.sort_by(|a, b| path::order(a, b));
        // Paths below another one come right after it.
        paths.dedup_by(|later, kept| later == kept || path::is_below(later, kept));
        Self { paths, next: 0 }
    }

    /// Whether an entry is at or below one of the paths. Call this with entries in path order.
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

/// The entry of an index at a path; `None` if the index has no such entry, or if the archive has no index.
///
/// # Errors
/// [`Class::Stale`] if the index is damaged before the entry.
pub async fn look_up(archive: &Archive, wanted: &[u8], stop: &CancellationToken) -> Result<Option<Document>> {
    let archive = archive.clone();
    let Ok(wanted) = path::below(wanted) else { return Ok(None) };
    blocking(stop, move |means| {
        let (Some(object), Some(mut reader)) = (&archive.index, archive.index(&means, false)?) else { return Ok(None) };
        while let Some(item) = reader.next().map_err(|error| error.context(&object.name))? {
            let Item::Entry(line) = item else { continue };
            match path::order(&line.path, &wanted) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(Document::from_line(&line))),
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
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Err(not_found(wanted)) };
    let range = first.offset..last.offset + last.packed_bytes as u64;
    let reader = archive.object.read(Some(range), means, false)?;
    let mut plain = MultiGzDecoder::new(reader);
    skip(&mut plain, line.content_at as u64)?;
    let content = content(&mut plain, wanted, line.size_bytes, None, line.digest, target)?;
    let document = Document { path: wanted.to_vec(), first: found.linked, ..Document::from_line(&line) };
    Ok(Got { document, content })
}

/// The line of a document and the members that hold its content.
fn find(archive: &Archive, wanted: &[u8], means: &Means) -> Result<(Line, Vec<Span>)> {
    let in_index = |error: Error| archive.index.as_ref().map_or(error.clone(), |index| error.context(&index.name));
    let Some(mut reader) = archive.index(means, false)? else { return Err(not_found(wanted)) };
    let (mut found, mut spans, mut span_bytes) = (None::<Line>, Vec::new(), 0_u64);
    while let Some(item) = reader.next().map_err(in_index)? {
        match (item, &found) {
            (Item::Member(span), None) => (spans, span_bytes) = (vec![span], span.plain_bytes as u64),
            (Item::Member(span), Some(_)) => {
                spans.push(span);
                span_bytes += span.plain_bytes as u64;
            }
            (Item::Entry(line), None) => match path::order(&line.path, wanted) {
                Ordering::Less => {}
                Ordering::Equal => found = Some(check_kind(line)?),
                Ordering::Greater => return Err(not_found(wanted)),
            },
            (Item::Entry(_), Some(_)) => {}
        }
        if let Some(line) = &found
            && span_bytes >= (line.content_at as u64).saturating_add(line.size_bytes)
        {
            break;
        }
    }
    found.map(|line| (line, spans)).ok_or_else(|| not_found(wanted))
}

fn check_kind(line: Line) -> Result<Line> {
    not_a_file(&line.path, &line.kind).map_or(Ok(line), Err)
}

/// The error for an entry that is not a file; `None` for a file.
fn not_a_file(path: &[u8], kind: &Kind) -> Option<Error> {
    let shown = shown(path);
    let (text, hint) = match kind {
        Kind::File => return None,
        Kind::Folder => {
            (format!("`{shown}` is a folder"), "`find` lists its content, `restore` restores all documents".to_owned())
        }
        Kind::Link(target) => {
            let target = super::path::shown(target);
            (format!("`{shown}` is a symbolic link to `{target}`"), "ask for the document that it points to".to_owned())
        }
        _ => (format!("`{shown}` is not a file"), "ask for a file".to_owned()),
    };
    Some(Error::new(Class::Usage, text).hint(hint))
}

/// Reads the archive twice: first to its end to find the entry, because a name may occur twice and the later entry
/// counts, then again up to that entry.
fn by_pass(object: &StoredObject, wanted: Vec<u8>, target: Option<Target>, means: &Means) -> Result<Got> {
    let open = || object.read(None, means, false).map(|reader| BufReader::new(Gunzip::new(reader)));
    let mut names = Names::default();
    each_entry(&mut open()?, |entry| names.add(entry).map(|_| true))?;
    let number = match names.place(&wanted) {
        Some(Place::Other(number)) => number,
        Some(Place::Folder) => return Err(not_a_file(&wanted, &Kind::Folder).unwrap_or_else(|| not_found(&wanted))),
        Some(Place::Nothing) | None => return Err(not_found(&wanted)),
    };
    let (mut input, mut at, mut found) = (open()?, 0, None);
    each_entry(&mut input, |entry| {
        at += 1;
        if at == number {
            found = Some(entry.clone());
        }
        Ok(at != number)
    })?;
    let entry = found.ok_or_else(|| not_found(&wanted))?;
    if let Some(error) = not_a_file(&wanted, &entry.kind) {
        return Err(error);
    }
    let content = content(&mut input, &wanted, entry.size_bytes, entry.map.as_ref(), Digest::None, target)?;
    let document = Document {
        kind: kind_name(&entry.kind),
        size_bytes: entry.size_bytes,
        modified: (entry.modified.seconds, entry.modified.nanoseconds),
        sha256: None,
        first: (entry.path != wanted).then_some(entry.path),
        path: wanted,
    };
    Ok(Got { document, content })
}

/// Reads entries until `go_on` returns false. The input is then at the content of the last entry.
fn each_entry(input: &mut impl Read, mut go_on: impl FnMut(&Described) -> Result<bool>) -> Result<()> {
    while let Some(entry) = next_entry(input)? {
        if !go_on(&entry)? {
            return Ok(());
        }
        skip(input, entry.stored_bytes.saturating_add(padding(entry.stored_bytes)))?;
    }
    Ok(())
}

/// Reads a content and compares it with its digest.
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
            let failed = |error: io::Error| {
                Error::unexpected(format!("a temporary file cannot be written: {}", reason(&error)))
                    .hint("free space in the temporary directory (TMPDIR), or name a file with --output")
            };
            let file = tempfile::tempfile().map_err(failed)?;
            Content::File(copy(input, file, size_bytes, map, &mut hasher, failed)?)
        }
        Some(Target { file, path }) => {
            let failed = |error: io::Error| {
                Error::config(format!("{} cannot be written: {}", path.display(), reason(&error)))
                    .hint("free some space there, or choose another place with --output")
            };
            Content::File(copy(input, file, size_bytes, map, &mut hasher, failed)?)
        }
    };
    if matches!(digest, Digest::Sha256(expected) if expected != <[u8; 32]>::from(hasher.finalize())) {
        return Err(damaged(&format!("the content of `{}` does not match its SHA-256 in the index", shown(path))));
    }
    Ok(content)
}

/// Reads a content into a file and rewinds the file.
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
    write_content(input, &file, size_bytes, map, hash, &failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

impl Document {
    fn from_line(line: &Line) -> Self {
        let sha256 = match line.digest {
            Digest::Sha256(digest) => Some(hex::encode(digest)),
            Digest::None | Digest::Later => None,
        };
        Self {
            path: line.path.clone(),
            kind: kind_name(&line.kind),
            size_bytes: line.size_bytes,
            modified: (line.modified.seconds, line.modified.nanoseconds),
            sha256,
            first: line.linked.clone(),
        }
    }
}

const fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Folder => "folder",
        Kind::Link(_) => "link",
        Kind::Fifo => "fifo",
        Kind::CharacterDevice | Kind::BlockDevice | Kind::Socket => "device",
    }
}

fn not_found(wanted: &[u8]) -> Error {
    Error::new(Class::Usage, format!("the snapshot has no document `{}`", shown(wanted)))
        .hint("`find` lists the documents of a snapshot; paths are relative to the documents folder")
}
