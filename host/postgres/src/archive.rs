//! The structure of pg_dump's custom format, followed while the bytes go by.
//!
//! It tells a whole archive from one that stops early: every entry of the table of contents that announces data
//! must have its data, and the last byte must end a block. It never looks at what the data says and never
//! changes a byte. A format that it does not know is left to pg_restore alone.

use std::collections::BTreeSet;

/// How every archive begins.
const MAGIC: &[u8] = b"PGDMP";

/// Format versions 1.14 (pg_dump 12 to 15), 1.15 (16) and 1.16 (17 and 18).
const MINOR_KNOWN: std::ops::RangeInclusive<u8> = 14..=16;

/// The magic, the version in three bytes, two sizes and the format.
const BEGINNING_BYTES: usize = MAGIC.len() + 6;

/// The minor version that made the compression one byte.
const MINOR_WITH_COMPRESSION_BYTE: u8 = 15;

/// The minor version that added the kind of relation to an entry.
const MINOR_WITH_RELATION_KIND: u8 = 16;

/// The custom format's own number among pg_dump's formats.
const FORMAT_CUSTOM: u8 = 1;

/// Longest table of contents that is kept until it is whole. Four hundred tables take half a megabyte.
const CONTENTS_BYTES_MAX: usize = 256 << 20;

/// Kinds of entry that [`Contents::special`] has, with the comments, labels and rights on them.
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

/// Kinds that stand for something said of another entry, whose kind their name begins with.
const SAID_OF_ANOTHER: [&str; 2] = ["COMMENT", "ACL"];

/// Kinds of block.
const BLOCK_DATA: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;

/// Why a stream is not a whole archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Something else, or nothing.
    #[error("it does not begin as an archive of pg_dump")]
    NotAnArchive,
    /// Packed as a whole.
    #[error("it is packed with gzip: unpack it, and put what pg_dump wrote in its place")]
    Packed,
    /// What pg_dump writes without a format.
    #[error("it is plain SQL, which `psql -f` restores and nothing here reads")]
    PlainSql,
    /// What pg_dump writes with `--format=tar`.
    #[error("it is in pg_dump's tar form, which `pg_restore` restores and nothing here reads")]
    TarForm,
    /// Cut off early.
    #[error("it ends inside its table of contents")]
    ContentsCut,
    /// Cut off late.
    #[error("it ends inside the data of an entry")]
    DataCut,
    /// Cut off between two blocks, so many before its end.
    #[error("{0} entries of its table of contents have no data")]
    DataMissing(usize),
    /// Made by `pg_dump --data-only`: nothing that an empty database can take.
    #[error("it has rows and not the tables that they belong into, as pg_dump --data-only makes it")]
    RowsAlone,
    /// A number that cannot be there.
    #[error("its structure is damaged")]
    Damaged,
}

/// What an archive says of itself before its table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// The server that was dumped, as it names its version: `15.18 (Debian 15.18-0+deb12u1)`.
    pub server_version: String,
    /// The pg_dump that made it.
    pub pg_dump_version: String,
}

/// What a whole archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Tables whose rows are in it, empty ones included.
    pub tables: usize,
    /// Tables that it makes.
    pub definitions: usize,
    /// Where it comes from.
    pub origin: Origin,
    /// Objects that only some servers or users can make, and what the database itself was set to, in the archive's order.
    pub special: Vec<Entry>,
    /// Entries that give rights.
    pub rights: usize,
    /// Tablespaces that something lies in, but for the default one.
    pub tablespaces: BTreeSet<String>,
}

/// An entry of the table of contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Its number in the archive.
    pub id: i64,
    /// What it is, in pg_dump's words.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The statements that make it.
    pub definition: String,
}

impl Contents {
    /// The entries of one kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Entry> {
        self.special.iter().filter(move |entry| entry.kind == kind)
    }

    /// The statement that made the database, with its encoding and locale.
    #[must_use]
    pub fn creation(&self) -> Option<&str> {
        self.of_kind("DATABASE").next().map(|entry| entry.definition.as_str())
    }
}

/// How numbers are written, by the first bytes; none for a format that is not known, or while they are not all there.
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
    /// Header and table of contents until they are whole, and then the bytes of a number that a block's end cut.
    pending: Vec<u8>,
    layout: Layout,
    contents: Contents,
    /// Entries whose data has not come yet.
    awaited: BTreeSet<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Contents,
    /// Before a block, where the archive may end.
    Block,
    Entry(u8),
    /// Before the number of a large object, zero after the last.
    LargeObject,
    /// Before the length of a chunk, zero after the last.
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
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Contents,
            pending: Vec::new(),
            layout: Layout::default(),
            contents: Contents::default(),
            awaited: BTreeSet::new(),
        }
    }

    /// The next bytes of the stream.
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

    /// What the stream says of itself so far: none while its table of contents is not whole, and an empty one for a format that is
    /// not known here.
    ///
    /// # Errors
    /// What it is instead.
    pub fn contents(&self) -> Result<Option<Option<&Contents>>, Flaw> {
        match self.state {
            State::Contents => Ok(None),
            State::Flawed(flaw) => Err(flaw),
            State::Unknown => Ok(Some(None)),
            _ => Ok(Some(Some(&self.contents))),
        }
    }

    /// What the stream held. None for a format that is not known here.
    ///
    /// # Errors
    /// Why it is not whole.
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

    /// Takes one element of a data block off `rest`, or keeps what there is of it.
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

    /// Reads header and table of contents. Where they end, or none while they are not whole or cannot be read.
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
        // An extension has tables whose rows alone are dumped.
        if contents.definitions == 0 && contents.tables > 0 && contents.of_kind("EXTENSION").next().is_none() {
            self.state = State::Flawed(Flaw::RowsAlone);
            return None;
        }
        (self.contents, self.awaited, self.state) = (contents, awaited, State::Block);
        Some(reader.at)
    }
}

/// Whether [`Contents::special`] has an entry.
fn is_special(kind: &[u8], name: &[u8]) -> bool {
    let is = |special: &str| special.as_bytes() == kind;
    let is_of = |special: &str| name.strip_prefix(special.as_bytes()).is_some_and(|rest| rest.starts_with(b" "));
    SPECIAL.into_iter().any(is) || (SAID_OF_ANOTHER.into_iter().any(is) && SPECIAL.into_iter().any(is_of))
}

/// Reads numbers and strings as pg_dump writes them; none where the bytes end.
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

    /// A sign and the magnitude, least significant byte first.
    fn int(&mut self) -> Option<i64> {
        let taken = self.take(usize::from(self.layout.int_bytes) + 1)?;
        let (sign, magnitude) = taken.split_first()?;
        let magnitude = magnitude.iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        let value = i64::try_from(magnitude).ok()?;
        Some(if *sign == 0 { value } else { -value })
    }

    /// A length and as many bytes; a negative length stands for no string.
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
        // The time in seven numbers, and the name of the database.
        (0..7).try_for_each(|_| self.int().map(drop))?;
        self.strings(1)?;
        Some(Origin { server_version: self.text()?, pg_dump_version: self.text()? })
    }

    /// The table of contents, and the entries that have data.
    fn contents(&mut self) -> Option<(Contents, BTreeSet<i64>)> {
        let mut contents = Contents { origin: self.origin()?, ..Contents::default() };
        let mut awaited = BTreeSet::new();
        for _ in 0..self.int()? {
            let (id, has_data) = (self.int()?, self.int()? != 0);
            // Two object identifiers, then a name and what it is.
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
                contents.special.push(Entry { id, kind, name, definition });
            }
            if has_data {
                awaited.insert(id);
            }
        }
        Some((contents, awaited))
    }
}
