//! Follows the structure of pg_dump's custom format while the archive streams by.
//!
//! The scanner tells a complete archive from a truncated one: every entry of the table of contents that announces data
//! must have its data, and the last byte must end a block. It never interprets the data and never changes a byte.
//! Archives in an unknown format are checked only by pg_restore.

use std::collections::BTreeSet;

/// The first bytes of every archive.
const MAGIC: &[u8] = b"PGDMP";

/// Format versions 1.14 (pg_dump 12 to 15), 1.15 (16) and 1.16 (17 and 18).
const MINOR_KNOWN: std::ops::RangeInclusive<u8> = 14..=16;

/// The magic, the version in three bytes, two sizes and the format.
const BEGINNING_BYTES: usize = MAGIC.len() + 6;

/// The first minor version that stores the compression in one byte.
const MINOR_WITH_COMPRESSION_BYTE: u8 = 15;

/// The first minor version that stores the kind of relation in an entry.
const MINOR_WITH_RELATION_KIND: u8 = 16;

/// The number of the custom format among pg_dump's formats.
const FORMAT_CUSTOM: u8 = 1;

/// Maximum size of a table of contents that is buffered until it is complete. Four hundred tables take half a megabyte.
const CONTENTS_BYTES_MAX: usize = 256 << 20;

/// Kinds of entry that [`Contents::special`] collects, together with the comments, labels and rights on them.
const SPECIAL: [&str; 14] = [
    "DATABASE",
    "DATABASE PROPERTIES",
    "SCHEMA",
    "EXTENSION",
    "POLICY",
    "USER MAPPING",
    "EVENT TRIGGER",
    "PUBLICATION",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "SUBSCRIPTION",
    "FOREIGN DATA WRAPPER",
    "PROCEDURAL LANGUAGE",
    "SECURITY LABEL",
];

/// Kinds that belong to another entry. Their name begins with the kind of that entry.
const ATTACHED_KINDS: [&str; 2] = ["COMMENT", "ACL"];

/// Kinds of block.
const BLOCK_DATA: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;

/// Why a stream is not a complete archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The stream is empty or something else.
    #[error("it does not begin like a pg_dump archive")]
    NotAnArchive,
    /// The archive is compressed with gzip as a whole.
    #[error("it is compressed with gzip: decompress it and use the file that pg_dump wrote")]
    Packed,
    /// The output of pg_dump without `--format`.
    #[error("it is plain SQL, which this program does not support; `psql -f` can restore it")]
    PlainSql,
    /// The output of `pg_dump --format=tar`.
    #[error("it is in pg_dump's tar format, which this program does not support; `pg_restore` can restore it")]
    TarForm,
    /// Cut off in the table of contents.
    #[error("it ends inside its table of contents")]
    ContentsCut,
    /// Cut off in the data of an entry.
    #[error("it ends inside the data of an entry")]
    DataCut,
    /// Cut off between two blocks. The number counts the entries whose data is missing.
    #[error("{0} entries of its table of contents have no data")]
    DataMissing(usize),
    /// The output of `pg_dump --data-only`, which an empty database cannot take.
    #[error("it contains rows but not their tables; it was probably made with pg_dump --data-only")]
    DataOnly,
    /// A number is out of range.
    #[error("its structure is damaged")]
    Damaged,
}

/// Where an archive comes from, according to its header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Version of the dumped server, as it reports it, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// Version of the pg_dump that made the archive.
    pub pg_dump_version: String,
}

/// The content of an archive, according to its table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Number of tables whose rows are in the archive, including empty ones.
    pub tables: usize,
    /// Number of tables that the archive creates.
    pub definitions: usize,
    /// Where the archive comes from.
    pub origin: Origin,
    /// Objects that only some servers or users can create, and the settings of the database itself, in the archive's
    /// order.
    pub special: Vec<DumpEntry>,
    /// Number of entries that grant rights.
    pub rights: usize,
    /// Tablespaces in use, except the default one.
    pub tablespaces: BTreeSet<String>,
}

/// An entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DumpEntry {
    /// The number of the entry in the archive.
    pub id: i64,
    /// The kind of object, in pg_dump's words.
    pub kind: String,
    /// The name of the object.
    pub name: String,
    /// The statements that create the object.
    pub definition: String,
}

impl Contents {
    /// The entries of one kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &DumpEntry> {
        self.special.iter().filter(move |entry| entry.kind == kind)
    }

    /// The statement that creates the database, with its encoding and locale.
    pub fn creation(&self) -> Option<&str> {
        self.of_kind("DATABASE").next().map(|entry| entry.definition.as_str())
    }
}

/// How numbers are encoded, according to the first bytes. `None` if the format is unknown or some of these bytes are
/// still missing.
fn layout(bytes: &[u8]) -> Result<Option<Layout>, Flaw> {
    let begun = bytes.len().min(MAGIC.len());
    if bytes.get(..begun) != MAGIC.get(..begun) {
        return Err(match bytes {
            [0x1f, 0x8b, ..] => Flaw::Packed,
            [b'-', b'-', ..] => Flaw::PlainSql,
            _ if bytes.starts_with(b"toc.dat") => Flaw::TarForm,
            _ => Flaw::NotAnArchive,
        });
    }
    let Some([major, minor, _, int_bytes, offset_bytes, format]) = bytes.get(MAGIC.len()..BEGINNING_BYTES) else {
        return Ok(None);
    };
    let known = *major == 1 && MINOR_KNOWN.contains(minor) && *format == FORMAT_CUSTOM && (1..=8).contains(int_bytes);
    Ok(known.then_some(Layout { minor: *minor, int_bytes: *int_bytes, offset_bytes: *offset_bytes }))
}

/// Follows one stream.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// The header and table of contents until they are complete; after that, the first bytes of a number that continues
    /// in the next block.
    pending: Vec<u8>,
    layout: Layout,
    contents: Contents,
    /// Entries whose data has not arrived yet.
    awaited: BTreeSet<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Contents,
    /// Before a block. The archive may end here.
    Block,
    Entry(u8),
    /// Before the number of a large object. Zero follows the last one.
    LargeObject,
    /// Before the length of a chunk. Zero follows the last one.
    Chunk(u8),
    Bytes(u8, u64),
    Unknown,
    Flawed(Flaw),
}

#[derive(Debug, Clone, Copy, Default)]
struct Layout {
    minor: u8,
    int_bytes: u8,
    offset_bytes: u8,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner at the beginning of a stream.
    pub fn new() -> Self {
        Self {
            state: State::Contents,
            pending: Vec::new(),
            layout: Layout::default(),
            contents: Contents::default(),
            awaited: BTreeSet::new(),
        }
    }

    /// Scans the next bytes of the stream.
    pub fn feed(&mut self, block: &[u8]) {
        let mut rest = block;
        if self.state == State::Contents {
            self.pending.extend_from_slice(block);
            let whole = std::mem::take(&mut self.pending);
            let Some(begin) = self.read_contents(&whole) else {
                if self.state == State::Contents {
                    self.pending = whole;
                }
                return;
            };
            self.follow(whole.get(begin..).unwrap_or_default());
            return;
        }
        while !rest.is_empty() && !matches!(self.state, State::Unknown | State::Flawed(_)) {
            rest = self.step(rest);
        }
    }

    /// The table of contents: `None` until it is complete, `Some(None)` if the format is unknown.
    ///
    /// # Errors
    /// The stream is not a valid archive.
    pub fn contents(&self) -> Result<Option<Option<&Contents>>, Flaw> {
        match self.state {
            State::Contents => Ok(None),
            State::Flawed(flaw) => Err(flaw),
            State::Unknown => Ok(Some(None)),
            _ => Ok(Some(Some(&self.contents))),
        }
    }

    /// The table of contents of the finished stream. `None` if the format is unknown.
    ///
    /// # Errors
    /// The archive is incomplete or damaged.
    pub fn finish(self) -> Result<Option<Contents>, Flaw> {
        match self.state {
            State::Unknown => Ok(None),
            State::Flawed(flaw) => Err(flaw),
            State::Contents if self.pending.get(..MAGIC.len()) != Some(MAGIC) => Err(Flaw::NotAnArchive),
            State::Contents => Err(Flaw::ContentsCut),
            State::Block if self.awaited.is_empty() => Ok(Some(self.contents)),
            State::Block => Err(Flaw::DataMissing(self.awaited.len())),
            State::Entry(_) | State::LargeObject | State::Chunk(_) | State::Bytes(..) => Err(Flaw::DataCut),
        }
    }

    fn follow(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() && !matches!(self.state, State::Unknown | State::Flawed(_)) {
            rest = self.step(rest);
        }
    }

    /// Consumes one element of a data block from `rest`, or buffers its beginning.
    fn step<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        match self.state {
            State::Block => {
                let Some((kind, rest)) = rest.split_first() else { return rest };
                self.state = match *kind {
                    BLOCK_DATA | BLOCK_LARGE_OBJECTS => State::Entry(*kind),
                    _ => State::Flawed(Flaw::Damaged),
                };
                rest
            }
            State::Bytes(kind, left) => {
                let now = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - now as u64;
                self.state = if left == 0 { State::Chunk(kind) } else { State::Bytes(kind, left) };
                rest.get(now..).unwrap_or_default()
            }
            State::Entry(_) | State::LargeObject | State::Chunk(_) => self.step_number(rest),
            State::Contents | State::Unknown | State::Flawed(_) => &[],
        }
    }

    fn step_number<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        let missing = usize::from(self.layout.int_bytes) + 1 - self.pending.len();
        let (now, after) = rest.split_at(missing.min(rest.len()));
        self.pending.extend_from_slice(now);
        if now.len() < missing {
            return after;
        }
        let number = Reader { bytes: &self.pending, at: 0, layout: self.layout }.int();
        self.pending.clear();
        self.state = match (self.state, number.unwrap_or(-1)) {
            (State::Entry(kind), id) if self.awaited.remove(&id) => {
                if kind == BLOCK_DATA {
                    State::Chunk(kind)
                } else {
                    State::LargeObject
                }
            }
            (State::LargeObject, 0) => State::Block,
            (State::LargeObject, _) => State::Chunk(BLOCK_LARGE_OBJECTS),
            (State::Chunk(BLOCK_DATA), 0) => State::Block,
            (State::Chunk(_), 0) => State::LargeObject,
            (State::Chunk(kind), length @ 1..) => State::Bytes(kind, length.unsigned_abs()),
            _ => State::Flawed(Flaw::Damaged),
        };
        after
    }

    /// Parses the header and table of contents and returns where they end. `None` if they are incomplete or unreadable.
    fn read_contents(&mut self, bytes: &[u8]) -> Option<usize> {
        self.layout = match layout(bytes) {
            Err(flaw) => {
                self.state = State::Flawed(flaw);
                return None;
            }
            Ok(Some(layout)) if bytes.len() <= CONTENTS_BYTES_MAX => layout,
            Ok(_) => {
                if bytes.len() >= BEGINNING_BYTES {
                    self.state = State::Unknown;
                }
                return None;
            }
        };
        let mut reader = Reader { bytes, at: BEGINNING_BYTES, layout: self.layout };
        let (contents, awaited) = reader.contents()?;
        // pg_dump dumps only the rows of an extension's tables.
        if contents.definitions == 0 && contents.tables > 0 && contents.of_kind("EXTENSION").next().is_none() {
            self.state = State::Flawed(Flaw::DataOnly);
            return None;
        }
        (self.contents, self.awaited, self.state) = (contents, awaited, State::Block);
        Some(reader.at)
    }
}

/// Whether [`Contents::special`] collects entries of this kind and name.
fn is_special(kind: &[u8], name: &[u8]) -> bool {
    let is_kind = |special: &str| special.as_bytes() == kind;
    let is_on = |special: &str| name.strip_prefix(special.as_bytes()).is_some_and(|rest| rest.starts_with(b" "));
    SPECIAL.into_iter().any(is_kind) || (ATTACHED_KINDS.into_iter().any(is_kind) && SPECIAL.into_iter().any(is_on))
}

/// Parses numbers and strings as pg_dump writes them. Returns `None` if the bytes end too early.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    layout: Layout,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// A number: the sign, then the magnitude, least significant byte first.
    fn int(&mut self) -> Option<i64> {
        let taken = self.take(usize::from(self.layout.int_bytes) + 1)?;
        let (sign, magnitude) = taken.split_first()?;
        let magnitude = magnitude.iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        let value = i64::try_from(magnitude).ok()?;
        Some(if *sign == 0 { value } else { -value })
    }

    /// A string: its length, then its bytes. A negative length means that there is no string.
    fn string(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.int()?;
        match usize::try_from(length) {
            Err(_) => Some(None),
            Ok(length) => self.take(length).map(Some),
        }
    }

    fn strings(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.string().map(drop))
    }

    fn text(&mut self) -> Option<String> {
        Some(base::text::printable(&String::from_utf8_lossy(self.string()?.unwrap_or_default())))
    }

    fn origin(&mut self) -> Option<Origin> {
        if self.layout.minor >= MINOR_WITH_COMPRESSION_BYTE {
            self.take(1)?;
        } else {
            self.int()?;
        }
        // Seven numbers for the time, then the name of the database.
        (0..7).try_for_each(|_| self.int().map(drop))?;
        self.strings(1)?;
        Some(Origin { server_version: self.text()?, pg_dump_version: self.text()? })
    }

    /// The table of contents, and the numbers of the entries that have data.
    fn contents(&mut self) -> Option<(Contents, BTreeSet<i64>)> {
        let mut contents = Contents { origin: self.origin()?, ..Contents::default() };
        let mut awaited = BTreeSet::new();
        for _ in 0..self.int()? {
            let (id, has_data) = (self.int()?, self.int()? != 0);
            // Two object identifiers, then the name and the kind.
            self.strings(2)?;
            let (name, kind) = (self.string()?.unwrap_or_default(), self.string()?.unwrap_or_default());
            self.int()?;
            let definition = self.string()?.unwrap_or_default();
            // Drop statement, copy statement, schema.
            self.strings(3)?;
            let tablespace = self.string()?.unwrap_or_default();
            // Access method.
            self.strings(1)?;
            if self.layout.minor >= MINOR_WITH_RELATION_KIND {
                self.int()?;
            }
            // Owner, and a flag that is always "false".
            self.strings(2)?;
            while self.string()?.is_some() {}
            self.take(usize::from(self.layout.offset_bytes) + 1)?;
            contents.tables += usize::from(kind == b"TABLE DATA");
            contents.definitions += usize::from(kind == b"TABLE");
            contents.rights += usize::from(matches!(kind, b"ACL" | b"DEFAULT ACL"));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if !tablespace.is_empty() && tablespace != b"pg_default" {
                contents.tablespaces.insert(text(tablespace));
            }
            if is_special(kind, name) {
                let (kind, name, definition) = (text(kind), text(name), text(definition));
                contents.special.push(DumpEntry { id, kind, name, definition });
            }
            if has_data {
                awaited.insert(id);
            }
        }
        Some((contents, awaited))
    }
}
