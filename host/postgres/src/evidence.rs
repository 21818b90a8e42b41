//! Evidence of a database's content: tables, row counts, greatest values and exact digests. The server reads and hashes
//! the rows; no row leaves it.
//!
//! A digest is a SHA-256 hash over the names and types of the columns, the number of rows, and the sums of two quarters
//! of the rows' SHA-256 hashes. The sums do not depend on the order of the rows, so nothing has to be sorted. A digest
//! detects changes on any server, including one in FIPS mode without MD5. It does not protect against someone who
//! crafts rows to collide. Text is hashed in the database's own encoding, so bytes that are invalid in every encoding
//! do not cause an error.

use super::OpenDatabase;
use super::client::{Connection, Parameter};
use base::error::{Class, Error, Result};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_postgres::types::Type;

/// Below this size, reading takes less time than opening more connections.
const PARALLEL_BYTES_MIN: u64 = 16 << 20;

/// Names the hashing method in the digest, so that a different method never produces the same digest.
const DIGEST_METHOD: &[u8] = b"rows-sha256-sum-1";

/// Maximum number of sequences that one statement reads. Dolibarr with all modules has 385.
const SEQUENCES_AT_ONCE: usize = 500;

/// Types whose greatest value is only a time or a number. The greatest value of a text would reveal the content of a
/// row.
const MEASURABLE_TYPES: [&str; 13] = [
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
];

/// A table's column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name of the column.
    pub name: String,
    /// Type, as `format_type` prints it.
    pub type_name: String,
}

/// The name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// Schema of the table.
    pub schema: String,
    /// Name without the schema.
    pub name: String,
}

/// Maximum length of a name. PostgreSQL allows 63 bytes in the server's encoding; in UTF-8, each of them can become
/// four.
pub const NAME_BYTES_MAX: usize = 63 * 4;

/// Whether a database can contain such a name.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.contains('\0')
}

impl TableName {
    /// Parses `table`, which is in the schema `public`, or `schema.table`.
    pub(super) fn parse(label: &str) -> Option<Self> {
        let (schema, name) = label.split_once('.').unwrap_or(("public", label));
        let is_valid = [schema, name].into_iter().all(|name| !name.is_empty() && is_name(name));
        is_valid.then(|| Self { schema: schema.to_owned(), name: name.to_owned() })
    }
}

/// An ordinary table, which contains rows itself. A leaf of a partitioned table is one too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Schema and name.
    pub name: TableName,
    /// Columns, in the order of the table.
    pub columns: Vec<Column>,
    /// Size on disk, including indexes and TOAST.
    pub bytes: u64,
}

/// Row count and greatest value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The table.
    pub table: TableName,
    /// Number of rows.
    pub rows: u64,
    /// The greatest value of the column, as text.
    pub max: Option<String>,
}

/// Leaves out the rows whose text in `column` equals one of `values`. A value that ends in `*` matches all texts that
/// begin with the part before the `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter {
    /// The column. If the table does not have it, no row is left out.
    pub column: String,
    /// Texts, or beginnings of texts followed by `*`.
    pub values: Vec<String>,
}

/// The part of a table that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The table.
    pub table: TableName,
    /// Columns to leave out. Columns that the table does not have are ignored.
    pub skip_columns: Vec<String>,
    /// Rows to leave out.
    pub skip_rows: Option<RowFilter>,
}

/// Digest of the selected part of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The table.
    pub table: TableName,
    /// Number of selected rows.
    pub rows: u64,
    /// Hash of the selected rows as a multiset, in lowercase hexadecimal.
    pub content: String,
}

/// The tables of the snapshot.
#[derive(Debug)]
pub(super) struct Catalog {
    tables: Vec<Table>,
    /// For each table name, the index in `tables`, and the base types of the columns (with domains resolved).
    index: BTreeMap<TableName, (usize, Vec<String>)>,
}

impl Catalog {
    /// A table and the base types of its columns. `None` if there is no such table.
    pub(super) fn get(&self, name: &TableName) -> Option<(&Table, &[String])> {
        self.index.get(name).and_then(|(at, bases)| Some((self.tables.get(*at)?, bases.as_slice())))
    }

    fn find(&self, name: &TableName) -> Result<(&Table, &[String])> {
        self.get(name).ok_or_else(|| {
            let TableName { schema, name } = name;
            refuse(format!("the plugin asked for the table `{schema}.{name}`, which the database does not have"))
        })
    }
}

fn refuse(text: String) -> Error {
    Error::new(Class::PluginRefused, base::text::printable(&text))
}

/// A query that returns one row with a count and up to two texts.
struct Question {
    sql: String,
    equal: Vec<String>,
    begins: Vec<String>,
    /// Number of bytes that the query has to read.
    bytes: u64,
}

impl Question {
    /// Whether the query counts every row of its table.
    const fn is_unfiltered(&self) -> bool {
        self.equal.is_empty() && self.begins.is_empty()
    }
}

type Answer = (i64, Option<String>, Option<String>);

impl OpenDatabase {
    /// All ordinary tables outside PostgreSQL's own schemas, sorted by schema and name. Tables of extensions are
    /// included if a dump contains their rows.
    pub async fn tables(&self) -> Result<Vec<Table>> {
        Ok(self.catalog().await?.tables.clone())
    }

    /// Hash, number and total size of the large objects.
    ///
    /// # Errors
    /// Class `Config` if this user may not read one of them; see also [`OpenDatabase::open`].
    pub async fn large_objects(&self) -> Result<(String, u64, u64)> {
        let reader = self.reader().await?;
        let row = reader.query_one(LARGE_OBJECTS, &[]).await?;
        let (count, bytes): (i64, i64) = (reader.read(&row, 0)?, reader.read(&row, 1)?);
        let mut hash = Sealed::new(b"large-objects-sha256-sum-1");
        for part in [count.to_string(), bytes.to_string(), reader.read(&row, 2)?, reader.read(&row, 3)?] {
            hash.add(part.as_bytes());
        }
        self.release(reader);
        Ok((hash.finish(), count.unsigned_abs(), bytes.unsigned_abs()))
    }

    /// Hash of the sequences' values and number of sequences, without those that are owned by a column of a skipped
    /// table. Sequences are not part of a snapshot: the values are the current ones.
    pub async fn sequences(&self, skip: impl Fn(&TableName) -> bool) -> Result<(String, u64)> {
        let reader = self.reader().await?;
        let mut names = Vec::new();
        for row in reader.query(SEQUENCES, &[]).await? {
            let name = TableName { schema: reader.read(&row, 0)?, name: reader.read(&row, 1)? };
            let (schema, table): (Option<String>, Option<String>) = (reader.read(&row, 2)?, reader.read(&row, 3)?);
            let owner = schema.zip(table).map(|(schema, name)| TableName { schema, name });
            if !owner.is_some_and(|owner| skip(&owner)) {
                names.push(name);
            }
        }
        let mut hash = Sealed::new(b"sequences-1");
        for chunk in names.chunks(SEQUENCES_AT_ONCE) {
            let value = |(place, TableName { schema, name }): (usize, &TableName)| {
                format!("SELECT {place}, last_value::text, is_called FROM {}.{}", quoted(schema), quoted(name))
            };
            let sql = chunk.iter().enumerate().map(value).collect::<Vec<_>>().join(" UNION ALL ");
            for (row, TableName { schema, name }) in
                reader.query(&format!("{sql} ORDER BY 1"), &[]).await?.iter().zip(chunk)
            {
                let (value, is_called): (String, bool) = (reader.read(row, 1)?, reader.read(row, 2)?);
                for part in [schema, name, &value, &is_called.to_string()] {
                    hash.add(part.as_bytes());
                }
            }
        }
        self.release(reader);
        Ok((hash.finish(), names.len() as u64))
    }

    /// For each table, in the given order, the row count and the greatest value of a column of numbers or times.
    ///
    /// # Errors
    /// Class `PluginRefused` for a table or column that does not exist, or a column of another type; see also
    /// [`OpenDatabase::open`].
    pub async fn latest(&self, tables: &[TableName], column: &str) -> Result<Vec<Latest>> {
        let catalog = self.catalog().await?;
        let questions = tables.iter().map(|name| latest_question(&catalog, name, column)).collect::<Result<_>>()?;
        let answers = self.ask(questions).await?;
        let latest = |(table, (rows, max, _)): (&TableName, Answer)| Latest {
            table: table.clone(),
            rows: rows.unsigned_abs(),
            max,
        };
        Ok(tables.iter().zip(answers).map(latest).collect())
    }

    /// For each table, in the given order, the exact content hash. It is the same on every server for the same content
    /// in the same encoding.
    ///
    /// # Errors
    /// Class `PluginRefused` for a table that does not exist; see also [`OpenDatabase::open`].
    pub async fn digest(&self, selections: &[Selection]) -> Result<Vec<Digest>> {
        let catalog = self.catalog().await?;
        let (mut questions, mut seals) = (Vec::new(), Vec::new());
        for selection in selections {
            let (question, seal) = digest_question(&catalog, selection)?;
            questions.push(question);
            seals.push(seal);
        }
        let unfiltered: Vec<bool> = questions.iter().map(Question::is_unfiltered).collect();
        let answers = self.ask(questions).await?;
        let digest = |((selection, mut seal), (rows, high, low)): ((&Selection, Sealed), Answer)| {
            for part in [rows.to_string(), high.unwrap_or_default(), low.unwrap_or_default()] {
                seal.add(part.as_bytes());
            }
            Digest { table: selection.table.clone(), rows: rows.unsigned_abs(), content: seal.finish() }
        };
        let digests: Vec<Digest> = selections.iter().zip(seals).zip(answers).map(digest).collect();
        let counted = digests.iter().zip(unfiltered).filter(|(_, unfiltered)| *unfiltered);
        let rows = counted.map(|(digest, _)| (digest.table.clone(), digest.rows));
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
        Ok(digests)
    }

    pub(super) async fn catalog(&self) -> Result<Arc<Catalog>> {
        self.catalog.get_or_try_init(|| self.read_catalog()).await.cloned()
    }

    async fn read_catalog(&self) -> Result<Arc<Catalog>> {
        let reader = self.reader().await?;
        let (mut tables, mut index) = (Vec::new(), BTreeMap::new());
        for row in reader.query(TABLES, &[]).await? {
            let name = TableName { schema: reader.read(&row, 0)?, name: reader.read(&row, 1)? };
            let (names, types): (Vec<String>, Vec<String>) = (reader.read(&row, 3)?, reader.read(&row, 4)?);
            let column = |(name, type_name)| Column { name, type_name };
            let bytes = u64::try_from(reader.read::<i64>(&row, 2)?).unwrap_or(0);
            index.insert(name.clone(), (tables.len(), reader.read(&row, 5)?));
            tables.push(Table { name, columns: names.into_iter().zip(types).map(column).collect(), bytes });
        }
        self.release(reader);
        Ok(Arc::new(Catalog { tables, index }))
    }

    /// Runs all queries, the largest first, over as many connections as are worthwhile. The answers are in the order of
    /// the questions.
    async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Answer>> {
        let bytes = questions.iter().fold(0_u64, |sum, question| sum.saturating_add(question.bytes));
        let readers = if bytes < PARALLEL_BYTES_MIN { 1 } else { self.readers_max.min(questions.len()) };
        let mut order: Vec<_> = questions.iter().enumerate().collect();
        order.sort_by_key(|(_, question)| std::cmp::Reverse(question.bytes));
        let work = Work { left: Mutex::new(order.into()), answers: Mutex::new(vec![(0, None, None); questions.len()]) };
        let helpers = (1..readers).map(|_| self.help(&work));
        tokio::try_join!(self.read_all(&work), futures::future::try_join_all(helpers))?;
        Ok(work.answers.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn read_all(&self, work: &Work<'_>) -> Result<()> {
        if work.is_done() {
            return Ok(());
        }
        let _reading = self.reading.acquire().await;
        let reader = self.reader().await?;
        work.answer_all(&reader).await?;
        self.release(reader);
        Ok(())
    }

    /// Helps over one more connection. If the server does not accept it, the other connections do the work.
    async fn help(&self, work: &Work<'_>) -> Result<()> {
        // A listing that was started ahead may hold this permit for now.
        let _reading = self.reading.acquire().await;
        if work.is_done() {
            return Ok(());
        }
        let reader = match self.reader().await {
            Ok(reader) => reader,
            Err(error) => {
                tracing::debug!(scope = self.scope(), %error, "reading with fewer connections");
                return Ok(());
            }
        };
        work.answer_all(&reader).await?;
        self.release(reader);
        Ok(())
    }
}

/// Questions that several connections work on.
struct Work<'a> {
    left: Mutex<VecDeque<(usize, &'a Question)>>,
    answers: Mutex<Vec<Answer>>,
}

impl<'a> Work<'a> {
    fn is_done(&self) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn next(&self) -> Option<(usize, &'a Question)> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    async fn answer_all(&self, reader: &Connection) -> Result<()> {
        while let Some((at, question)) = self.next() {
            let both: [Parameter<'_>; 2] = [(&question.equal, Type::TEXT_ARRAY), (&question.begins, Type::TEXT_ARRAY)];
            let parameters: &[Parameter<'_>] = if question.is_unfiltered() { &[] } else { &both };
            let row = reader.query_one(&question.sql, parameters).await?;
            let answer = (reader.read(&row, 0)?, reader.read(&row, 1)?, reader.read(&row, 2)?);
            if let Some(slot) = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
                *slot = answer;
            }
        }
        Ok(())
    }
}

fn latest_question(catalog: &Catalog, name: &TableName, column: &str) -> Result<Question> {
    let (table, bases) = catalog.find(name)?;
    let TableName { schema, name } = name;
    let at = table.columns.iter().position(|c| c.name == column).ok_or_else(|| {
        refuse(format!("the plugin asked for the column `{column}`, which the table `{schema}.{name}` does not have"))
    })?;
    let base = bases.get(at).map_or("", String::as_str);
    if !MEASURABLE_TYPES.contains(&base) {
        return Err(refuse(format!(
            "the plugin asked for the greatest value of `{schema}.{name}.{column}`, which has the type {base} and is \
             neither a number nor a time"
        )));
    }
    let sql = format!(
        "SELECT count(*), max(t.{})::text, NULL::text FROM ONLY {}.{} AS t",
        quoted(column),
        quoted(schema),
        quoted(name)
    );
    Ok(Question { sql, equal: Vec::new(), begins: Vec::new(), bytes: table.bytes })
}

fn digest_question(catalog: &Catalog, selection: &Selection) -> Result<(Question, Sealed)> {
    let (table, _) = catalog.find(&selection.table)?;
    let mut columns: Vec<_> = table.columns.iter().filter(|c| !selection.skip_columns.contains(&c.name)).collect();
    // A restored child table may have its columns in another order.
    columns.sort_by(|a, b| a.name.cmp(&b.name));
    let mut seal = Sealed::new(DIGEST_METHOD);
    for column in &columns {
        seal.add(column.name.as_bytes());
        seal.add(column.type_name.as_bytes());
    }
    let list = columns.iter().map(|c| format!("t.{}", quoted(&c.name))).collect::<Vec<_>>().join(", ");
    let filter = selection.skip_rows.as_ref().filter(|f| table.columns.iter().any(|c| c.name == f.column));
    let (mut equal, mut begins) = (Vec::new(), Vec::new());
    for value in filter.iter().flat_map(|f| &f.values) {
        match value.strip_suffix('*') {
            Some(beginning) => begins.push(beginning.to_owned()),
            None => equal.push(value.clone()),
        }
    }
    let condition = match filter {
        Some(f) if !f.values.is_empty() => {
            let text = format!("t.{}::text COLLATE \"C\"", quoted(&f.column));
            format!(
                " WHERE NOT coalesce({text} = ANY ($1) OR EXISTS (SELECT FROM unnest($2) AS b WHERE starts_with({text}, b)), false)"
            )
        }
        _ => String::new(),
    };
    // OFFSET 0 prevents the server from hashing each row twice. Shifting bits takes half the time of cutting texts.
    let sql = format!(
        "SELECT count(*), sum(h::bit(64)::int8)::text, sum((h << 64)::bit(64)::int8)::text \
         FROM (SELECT ('x' || encode(sha256(convert_to(ROW({list})::text, getdatabaseencoding())), 'hex'))::bit(128) AS h \
         FROM ONLY {}.{} AS t{condition} OFFSET 0) AS hashed",
        quoted(&selection.table.schema),
        quoted(&selection.table.name)
    );
    Ok((Question { sql, equal, begins, bytes: table.bytes }, seal))
}

/// A quoted SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// SHA-256 over several parts. The length of each part is hashed too, so moving a boundary changes the hash.
pub(super) struct Sealed(Sha256);

impl Sealed {
    pub(super) fn new(method: &[u8]) -> Self {
        let mut sealed = Self(Sha256::new());
        sealed.add(method);
        sealed
    }

    pub(super) fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    pub(super) fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

const TABLES: &str = include_str!("sql/tables.sql");
const LARGE_OBJECTS: &str = include_str!("sql/large_objects.sql");
const SEQUENCES: &str = include_str!("sql/sequences.sql");
