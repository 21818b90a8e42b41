//! Rows of single tables for a plugin: only tables and columns that the configuration names, a bounded page at a time, in
//! the order of a key. The SQL is made here of names that the catalog has; nothing of a plugin becomes part of it but a
//! number.

use super::Session;
use super::client::Parameter;
use super::evidence::{TableName, is_name, quoted};
use base::error::{Error, Result};
use base::text::printable;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::Type;

/// Tables that a configuration may name. Each is a handle of the call; the shipped plugin needs two.
const TABLES_MAX: usize = 16;

/// Columns of one of them. A page of a thousand rows then has at most 16,000 values.
const COLUMNS_MAX: usize = 16;

/// Rows of one page, whatever is asked: half a megabyte for rows that name a document.
pub const PAGE_ROWS_MAX: u32 = 1_000;

/// Characters of one value. A path of Dolibarr has at most 511; text that is longer is content, which no plugin is to read.
const VALUE_CHARS_MAX: usize = 1_024;

/// Types that can be a key.
const KEY_TYPES: [&str; 3] = ["int2", "int4", "int8"];

/// One table of the configuration: `llx_ecm_files = ["rowid", "label"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadableTable {
    /// The key of the configuration, which is also what a plugin knows it by: `table`, or `schema.table`.
    pub label: String,
    /// Where it is.
    pub name: TableName,
    /// What may be read of it, the key first.
    pub columns: Vec<String>,
    /// Those of them that a report may show.
    pub shown: Vec<String>,
}

/// `[plugins.crosscheck.shown]`: which of the readable columns a report may show of a row that a plugin names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Shown(BTreeMap<String, Vec<String>>);

impl Shown {
    /// By the labels of tables.
    #[must_use]
    pub fn of(tables: &[(&str, &[&str])]) -> Self {
        let owned = |columns: &[&str]| columns.iter().map(|&column| column.to_owned()).collect();
        Self(tables.iter().map(|&(label, columns)| (label.to_owned(), owned(columns))).collect())
    }

    /// `table#column` each.
    pub fn columns(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(label, columns)| columns.iter().map(move |column| format!("{label}#{column}")))
    }

    /// Whether nothing is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `[plugins.crosscheck.tables]`: which columns of which tables may be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<String>>")]
pub struct Readable(Vec<ReadableTable>);

impl TryFrom<BTreeMap<String, Vec<String>>> for Readable {
    type Error = String;

    fn try_from(tables: BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        if tables.len() > TABLES_MAX {
            return Err(format!("`tables` names {} tables, and at most {TABLES_MAX} can be read", tables.len()));
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
        let name = TableName::parse(&label).ok_or_else(|| {
            format!("`{shown}` in `tables` is no name of a table, which looks like table or schema.table")
        })?;
        if columns.is_empty() || columns.len() > COLUMNS_MAX {
            let found = columns.len();
            return Err(format!("`{shown}` in `tables` names {found} columns, and it takes 1 to {COLUMNS_MAX}"));
        }
        if let Some(wrong) = columns.iter().find(|column| column.is_empty() || !is_name(column)) {
            return Err(format!("`{}` of `{shown}` in `tables` is no name of a column", printable(wrong)));
        }
        if columns.iter().collect::<BTreeSet<_>>().len() < columns.len() {
            return Err(format!("`{shown}` in `tables` names a column twice"));
        }
        Ok(Self { label, name, columns, shown: Vec::new() })
    }
}

impl Readable {
    /// Tables by label with their columns, the key first.
    ///
    /// # Errors
    /// One sentence for the person who wrote it.
    pub fn of(tables: &[(&str, &[&str])]) -> Result<Self, String> {
        let owned = |columns: &[&str]| columns.iter().map(|&column| column.to_owned()).collect();
        tables.iter().map(|&(label, columns)| (label.to_owned(), owned(columns))).collect::<BTreeMap<_, _>>().try_into()
    }

    /// The tables with what a report may show of their rows.
    ///
    /// # Errors
    /// One sentence for the person who wrote it.
    pub fn showing(&self, shown: &Shown) -> Result<Self, String> {
        let mut tables = self.clone();
        for (label, columns) in &shown.0 {
            let table = tables.0.iter_mut().find(|table| table.label == *label);
            let known = |column: &&String| !table.as_ref().is_some_and(|table| table.columns.contains(column));
            if let Some(column) = columns.iter().find(known) {
                return Err(format!(
                    "`shown` names `{}` of `{}`, which `tables` does not let be read",
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
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What can be read of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The configured columns that the table has, the key first.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: u64,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: i64,
    /// One for each column of the shape; none for null.
    pub values: Vec<Option<String>>,
}

/// Which way the key runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The smallest first.
    Ascending,
    /// The greatest first.
    Descending,
}

impl Session {
    /// What can be read of a table; none where the database has no such one.
    ///
    /// # Errors
    /// Class `Config` where its key cannot be one; see also [`Session::open`].
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
            return Err(no_key(table, "is not unique, or may be null"));
        }
        Ok(Some(Shape { columns, rows: rows.unsigned_abs() }))
    }

    /// A page of rows in the order of the key, beyond `after`; empty where the database has no such table.
    ///
    /// # Errors
    /// Class `Config` for a key that cannot be one and for a value that is content; see also [`Session::open`].
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
                let said = format!(
                    "`{column}` of the table `{}` has a value of more than {VALUE_CHARS_MAX} characters, which no plugin may read",
                    table.label
                );
                return Err(Error::config(printable(&said)).hint("leave the column out of [plugins.crosscheck.tables]"));
            }
        }
        Ok(page)
    }

    /// Columns of single rows, by key; a row that is not there is left out, and so is a column that the table does not have.
    ///
    /// # Errors
    /// As [`Session::rows`].
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

    /// How many rows have these values in these columns, as [`Session::named_rows`] gives them.
    ///
    /// # Errors
    /// As [`Session::rows`].
    pub async fn rows_like(&self, table: &ReadableTable, columns: &[String], values: &[Option<String>]) -> Result<u64> {
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

    /// The columns of a table that may be read and that it has; none where there is no such table.
    async fn readable_columns(&self, table: &ReadableTable) -> Result<Option<Vec<String>>> {
        let catalog = self.catalog().await?;
        let Some((found, bases)) = catalog.get(&table.name) else { return Ok(None) };
        let place = |column: &String| found.columns.iter().position(|own| own.name == *column);
        let key = table.columns.first().and_then(place).and_then(|at| bases.get(at));
        match key.map(String::as_str) {
            Some(base) if KEY_TYPES.contains(&base) => {}
            Some(_) => return Err(no_key(table, "is no whole number")),
            None => return Err(no_key(table, "is not there")),
        }
        Ok(Some(table.columns.iter().filter(|column| place(column).is_some()).cloned().collect()))
    }
}

fn no_key(table: &ReadableTable, why: &str) -> Error {
    let key = table.columns.first().map_or("", String::as_str);
    let said = format!("the column `{key}` cannot be the key of the table `{}`, because it {why}", table.label);
    Error::config(printable(&said)).hint(
        "in [plugins.crosscheck.tables], begin each list with a column of whole numbers that a unique index orders, as rowid",
    )
}

/// Whether an index makes a column unique now, for all rows, and it is never null.
const IS_KEY: &str = "SELECT EXISTS (SELECT FROM pg_index AS i \
     JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] \
     WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 AND a.attnotnull AND i.indisunique AND i.indisvalid \
     AND i.indimmediate AND i.indnkeyatts = 1 AND i.indpred IS NULL)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_with_or_without_its_schema_and_with_its_columns() {
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
    fn what_names_no_table_or_no_column_is_refused_in_one_sentence() {
        let many: Vec<String> = (0..=TABLES_MAX).map(|n| format!("t{n}")).collect();
        let many: Vec<(&str, &[&str])> = many.iter().map(|name| (name.as_str(), &["id"][..])).collect();
        let wide: Vec<String> = (0..=COLUMNS_MAX).map(|n| format!("c{n}")).collect();
        let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
        let table: [(Named<'_>, &str); 9] = [
            (&[("", &["id"])], "is no name of a table"),
            (&[(".t", &["id"])], "is no name of a table"),
            (&[("s.", &["id"])], "is no name of a table"),
            (&[("t\0", &["id"])], "is no name of a table"),
            (&[("t", &[])], "names 0 columns"),
            (&[("t", &[""])], "is no name of a column"),
            (&[("t", &["id", "id"])], "names a column twice"),
            (&[("t", &wide)], "names 17 columns"),
            (&many, "names 17 tables"),
        ];
        for (tables, expected) in table {
            let sentence = Readable::of(tables).unwrap_err();
            assert!(sentence.contains(expected) && !sentence.contains(['\n', '\0']), "{sentence}");
        }
    }
}
