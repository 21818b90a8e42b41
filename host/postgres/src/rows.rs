//! Reads rows of single tables for a plugin: only tables and columns that the configuration lists, in pages of limited
//! size, in the order of a key. The SQL is built from names in the catalog; the only input from a plugin in it is a
//! number.

use super::OpenDatabase;
use super::client::Parameter;
use super::evidence::{TableName, is_name, quoted};
use base::error::{Error, Result};
use base::text::printable;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::Type;

/// Maximum number of tables in the configuration. Each becomes a handle of the plugin call; the shipped plugin needs
/// two.
const TABLES_MAX: usize = 16;

/// Maximum number of columns of one table, so that a page of a thousand rows has at most 16,000 values.
const COLUMNS_MAX: usize = 16;

/// Maximum number of rows in a page, even if more are requested. For rows that name a document, this is half a
/// megabyte.
pub const PAGE_ROWS_MAX: u32 = 1_000;

/// Maximum length of a value in characters. A path in Dolibarr has at most 511. Longer text is content, which a plugin
/// must not read.
const VALUE_CHARS_MAX: usize = 1_024;

/// Types that can be a key.
const KEY_TYPES: [&str; 3] = ["int2", "int4", "int8"];

/// One table of the configuration: `llx_ecm_files = ["rowid", "label"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadableTable {
    /// The key in the configuration, `table` or `schema.table`. Plugins use it too.
    pub label: String,
    /// Schema and name.
    pub name: TableName,
    /// The columns that may be read, the key first.
    pub columns: Vec<String>,
    /// The columns among them that a report may show.
    pub shown: Vec<String>,
}

/// `[plugins.crosscheck.shown]`: the readable columns that a report may show for a row that a plugin names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ShownColumns(BTreeMap<String, Vec<String>>);

impl ShownColumns {
    /// The columns for each table label.
    pub fn of(tables: &[(&str, &[&str])]) -> Self {
        let owned = |columns: &[&str]| columns.iter().map(|&column| column.to_owned()).collect();
        Self(tables.iter().map(|&(label, columns)| (label.to_owned(), owned(columns))).collect())
    }

    /// Each column, as `table#column`.
    pub fn columns(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(label, columns)| columns.iter().map(move |column| format!("{label}#{column}")))
    }

    /// Whether no column is shown.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `[plugins.crosscheck.tables]`: the tables and columns that may be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<String>>")]
pub struct Readable(Vec<ReadableTable>);

impl TryFrom<BTreeMap<String, Vec<String>>> for Readable {
    type Error = String;

    fn try_from(tables: BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        if tables.len() > TABLES_MAX {
            return Err(format!("`tables` lists {} tables, but at most {TABLES_MAX} are allowed", tables.len()));
        }
        tables
            .into_iter()
            .map(|(label, columns)| ReadableTable::new(label, columns))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl ReadableTable {
    fn new(label: String, columns: Vec<String>) -> Result<Self, String> {
        let shown = printable(&label);
        let name = TableName::parse(&label)
            .ok_or_else(|| format!("`{shown}` in `tables` is not a valid table name: write table or schema.table"))?;
        if columns.is_empty() || columns.len() > COLUMNS_MAX {
            let found = columns.len();
            return Err(format!("`{shown}` in `tables` lists {found} columns, but must list 1 to {COLUMNS_MAX}"));
        }
        if let Some(invalid) = columns.iter().find(|column| column.is_empty() || !is_name(column)) {
            return Err(format!("`{}` of `{shown}` in `tables` is not a valid column name", printable(invalid)));
        }
        if columns.iter().collect::<BTreeSet<_>>().len() < columns.len() {
            return Err(format!("`{shown}` in `tables` lists a column twice"));
        }
        Ok(Self { label, name, columns, shown: Vec::new() })
    }
}

impl Readable {
    /// Tables by label with their columns, the key first.
    ///
    /// # Errors
    /// One sentence for the author of the configuration.
    pub fn of(tables: &[(&str, &[&str])]) -> Result<Self, String> {
        let owned = |columns: &[&str]| columns.iter().map(|&column| column.to_owned()).collect();
        tables.iter().map(|&(label, columns)| (label.to_owned(), owned(columns))).collect::<BTreeMap<_, _>>().try_into()
    }

    /// The tables, with the columns that a report may show.
    ///
    /// # Errors
    /// One sentence for the author of the configuration.
    pub fn showing(&self, shown: &ShownColumns) -> Result<Self, String> {
        let mut tables = self.clone();
        for (label, columns) in &shown.0 {
            let table = tables.0.iter_mut().find(|table| table.label == *label);
            let is_unreadable = |column: &&String| !table.as_ref().is_some_and(|table| table.columns.contains(column));
            if let Some(column) = columns.iter().find(is_unreadable) {
                return Err(format!(
                    "`shown` lists `{}` of `{}`, which is not readable according to `tables`",
                    printable(column),
                    printable(label)
                ));
            }
            if let Some(table) = table {
                table.shown.clone_from(columns);
            }
        }
        Ok(tables)
    }

    /// The tables, by label.
    pub fn iter(&self) -> impl Iterator<Item = &ReadableTable> {
        self.0.iter()
    }

    /// Whether no table may be read.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The readable part of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The configured columns that the table has, the key first.
    pub columns: Vec<String>,
    /// Number of rows.
    pub rows: u64,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The value of the key.
    pub key: i64,
    /// One value for each column of the shape. `None` stands for NULL.
    pub values: Vec<Option<String>>,
}

/// The order of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest first.
    Ascending,
    /// Greatest first.
    Descending,
}

impl OpenDatabase {
    /// The readable part of a table. `None` if the database does not have the table.
    ///
    /// # Errors
    /// Class `Config` if the first column is not a suitable key; see also [`OpenDatabase::open`].
    pub async fn shape(&self, table: &ReadableTable) -> Result<Option<Shape>> {
        let Some(columns) = self.readable_columns(table).await? else { return Ok(None) };
        let TableName { schema, name } = &table.name;
        let key = table.columns.first().map_or("", String::as_str);
        let reader = self.reader().await?;
        let named: [Parameter<'_>; 3] = [(schema, Type::TEXT), (name, Type::TEXT), (&key, Type::TEXT)];
        let row = reader.query_one(IS_KEY, &named).await?;
        let is_key: bool = reader.read(&row, 0)?;
        let counted = format!("SELECT count(*) FROM ONLY {}.{}", quoted(schema), quoted(name));
        let row = reader.query_one(&counted, &[]).await?;
        let rows: i64 = reader.read(&row, 0)?;
        self.release(reader);
        if !is_key {
            return Err(unsuitable_key(table, "is not unique or can be null"));
        }
        Ok(Some(Shape { columns, rows: rows.unsigned_abs() }))
    }

    /// A page of rows in the order of the key, beginning after the key `after`. Empty if the database does not have the
    /// table.
    ///
    /// # Errors
    /// Class `Config` for an unsuitable key or for a value that is too long; see also [`OpenDatabase::open`].
    pub async fn rows(&self, table: &ReadableTable, after: Option<i64>, order: Order, count: u32) -> Result<Vec<Row>> {
        let Some(columns) = self.readable_columns(table).await? else { return Ok(Vec::new()) };
        let TableName { schema, name } = &table.name;
        let key = quoted(columns.first().map_or("", String::as_str));
        let list: String = columns
            .iter()
            .map(|column| format!(", left(t.{}::text, {})", quoted(column), VALUE_CHARS_MAX + 1))
            .collect();
        let (beyond, direction) = match order {
            Order::Ascending => (">", "ASC"),
            Order::Descending => ("<", "DESC"),
        };
        let condition = after.map_or_else(String::new, |_| format!(" WHERE t.{key} {beyond} $1"));
        let sql = format!(
            "SELECT t.{key}::int8{list} FROM ONLY {}.{} AS t{condition} ORDER BY t.{key} {direction} LIMIT {}",
            quoted(schema),
            quoted(name),
            count.min(PAGE_ROWS_MAX)
        );
        let after = after.unwrap_or_default();
        let beyond: [Parameter<'_>; 1] = [(&after, Type::INT8)];
        let reader = self.reader().await?;
        let mut page = Vec::new();
        for row in reader.query(&sql, if condition.is_empty() { &[] } else { &beyond }).await? {
            let values: Vec<Option<String>> =
                (1..=columns.len()).map(|column| reader.read(&row, column)).collect::<Result<_>>()?;
            page.push(Row { key: reader.read(&row, 0)?, values });
        }
        self.release(reader);
        for (column, value) in page.iter().flat_map(|row| columns.iter().zip(&row.values)) {
            if value.as_ref().is_some_and(|value| value.chars().count() > VALUE_CHARS_MAX) {
                let text = format!(
                    "`{column}` of the table `{}` has a value of more than {VALUE_CHARS_MAX} characters, which plugins \
                     may not read",
                    table.label
                );
                return Err(Error::config(printable(&text)).hint("remove the column from [plugins.crosscheck.tables]"));
            }
        }
        Ok(page)
    }

    /// Columns of single rows, by key. Rows that do not exist are left out; columns that cannot be read are `None`.
    ///
    /// # Errors
    /// As [`OpenDatabase::rows`].
    pub async fn named_rows(
        &self,
        table: &ReadableTable,
        keys: &[i64],
        columns: &[String],
    ) -> Result<BTreeMap<i64, Vec<Option<String>>>> {
        let Some(readable) = self.readable_columns(table).await? else { return Ok(BTreeMap::new()) };
        let TableName { schema, name } = &table.name;
        let key = quoted(readable.first().map_or("", String::as_str));
        let value = |column: &String| {
            if readable.contains(column) {
                format!(", left(t.{}::text, {VALUE_CHARS_MAX})", quoted(column))
            } else {
                ", NULL::text".to_owned()
            }
        };
        let list: String = columns.iter().map(value).collect();
        let sql = format!(
            "SELECT t.{key}::int8{list} FROM ONLY {}.{} AS t WHERE t.{key} = ANY ($1)",
            quoted(schema),
            quoted(name)
        );
        let reader = self.reader().await?;
        let mut found = BTreeMap::new();
        for row in reader.query(&sql, &[(&keys, Type::INT8_ARRAY)]).await? {
            let values = (1..=columns.len()).map(|column| reader.read(&row, column)).collect::<Result<_>>()?;
            found.insert(reader.read(&row, 0)?, values);
        }
        self.release(reader);
        Ok(found)
    }

    /// Counts the rows that have these values in these columns, as [`OpenDatabase::named_rows`] returns them.
    ///
    /// # Errors
    /// As [`OpenDatabase::rows`].
    pub async fn count_matching_rows(
        &self,
        table: &ReadableTable,
        columns: &[String],
        values: &[Option<String>],
    ) -> Result<u64> {
        let Some(readable) = self.readable_columns(table).await? else { return Ok(0) };
        let TableName { schema, name } = &table.name;
        let given: Vec<(&String, &Option<String>)> =
            columns.iter().zip(values).filter(|(column, _)| readable.contains(column)).collect();
        let is_like = given.iter().enumerate().map(|(place, (column, _))| {
            format!("left(t.{}::text, {VALUE_CHARS_MAX}) IS NOT DISTINCT FROM ${}", quoted(column), place + 1)
        });
        let condition: Vec<String> = is_like.chain(["true".to_owned()]).collect();
        let sql = format!(
            "SELECT count(*) FROM ONLY {}.{} AS t WHERE {}",
            quoted(schema),
            quoted(name),
            condition.join(" AND ")
        );
        let values: Vec<Parameter<'_>> =
            given.iter().map(|(_, value)| -> Parameter<'_> { (*value, Type::TEXT) }).collect();
        let reader = self.reader().await?;
        let mut count: i64 = 0;
        for row in reader.query(&sql, &values).await? {
            count = reader.read(&row, 0)?;
        }
        self.release(reader);
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// The configured columns that the table has. `None` if the table does not exist.
    async fn readable_columns(&self, table: &ReadableTable) -> Result<Option<Vec<String>>> {
        let catalog = self.catalog().await?;
        let Some((found, bases)) = catalog.get(&table.name) else { return Ok(None) };
        let place = |column: &String| found.columns.iter().position(|own| own.name == *column);
        let key = table.columns.first().and_then(place).and_then(|at| bases.get(at));
        match key.map(String::as_str) {
            Some(base) if KEY_TYPES.contains(&base) => {}
            Some(_) => return Err(unsuitable_key(table, "is not an integer")),
            None => return Err(unsuitable_key(table, "does not exist")),
        }
        Ok(Some(table.columns.iter().filter(|column| place(column).is_some()).cloned().collect()))
    }
}

fn unsuitable_key(table: &ReadableTable, why: &str) -> Error {
    let key = table.columns.first().map_or("", String::as_str);
    let text = format!("the column `{key}` cannot be the key of the table `{}`, because it {why}", table.label);
    Error::config(printable(&text)).hint(
        "in [plugins.crosscheck.tables], begin each list with an integer column that has a unique index, such as rowid",
    )
}

/// Whether a column is NOT NULL and has a unique index that is valid, not deferrable and not partial.
const IS_KEY: &str = "SELECT EXISTS (SELECT FROM pg_index AS i \
     JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] \
     WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 AND a.attnotnull AND i.indisunique AND i.indisvalid \
     AND i.indimmediate AND i.indnkeyatts = 1 AND i.indpred IS NULL)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_listed_with_or_without_its_schema() {
        let readable = Readable::of(&[("llx_ecm_files", &["rowid", "label"]), ("audit.log", &["id"])]).unwrap();
        let shown: Vec<_> =
            readable.iter().map(|t| (t.name.schema.as_str(), t.name.name.as_str(), &t.columns)).collect();
        assert_eq!(
            shown,
            [
                ("audit", "log", &vec!["id".to_owned()]),
                ("public", "llx_ecm_files", &vec!["rowid".to_owned(), "label".to_owned()])
            ]
        );
        assert!(Readable::default().is_empty() && Readable::of(&[]).unwrap().is_empty());
    }

    type Named<'a> = &'a [(&'a str, &'a [&'a str])];

    #[test]
    fn invalid_tables_and_columns_are_refused_in_one_sentence() {
        let many: Vec<String> = (0..=TABLES_MAX).map(|n| format!("t{n}")).collect();
        let many: Vec<(&str, &[&str])> = many.iter().map(|name| (name.as_str(), &["id"][..])).collect();
        let wide: Vec<String> = (0..=COLUMNS_MAX).map(|n| format!("c{n}")).collect();
        let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
        let table: [(Named<'_>, &str); 9] = [
            (&[("", &["id"])], "is not a valid table name"),
            (&[(".t", &["id"])], "is not a valid table name"),
            (&[("s.", &["id"])], "is not a valid table name"),
            (&[("t\0", &["id"])], "is not a valid table name"),
            (&[("t", &[])], "lists 0 columns"),
            (&[("t", &[""])], "is not a valid column name"),
            (&[("t", &["id", "id"])], "lists a column twice"),
            (&[("t", &wide)], "lists 17 columns"),
            (&many, "lists 17 tables"),
        ];
        for (tables, expected) in table {
            let sentence = Readable::of(tables).unwrap_err();
            assert!(sentence.contains(expected) && !sentence.contains(['\n', '\0']), "{sentence}");
        }
    }
}
