//! The capabilities `database-evidence`, `database-dump` and `table-rows`: handles on one session, and what a plugin may ask
//! of them.
//!
//! What a plugin sends is measured here before it is looked at.

use super::evidence::{RowFilter, Selection, TableName};
use super::{Compression, DumpOptions, Order, ReadableTable, Row, Session};
use crate::capability::{Context, types};
use crate::error::{Class, Error, Result};
use crate::stream::ByteStream;
use std::sync::Arc;
use wasmtime::component::{HasSelf, Linker, Resource};

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package host:postgres;
            world postgres {
                import backup:host/database-evidence@0.1.0;
                import backup:host/database-dump@0.1.0;
                import backup:host/table-rows@0.1.0;
            }",
        path: "../wit",
        imports: { default: async | trappable },
        with: {
            "backup:host/types": crate::capability::types,
            "backup:host/bytes": crate::capability::bytes,
            "backup:host/database-evidence.database": super::EvidenceDatabase,
            "backup:host/database-dump.database": super::DumpDatabase,
            "backup:host/table-rows.table": super::RowsTable,
        },
    });
}
use bindings::backup::host::{database_dump, database_evidence as wit, table_rows};

/// Tables in one call. Dolibarr with every module has 385.
const TABLES_MAX: usize = 10_000;

/// A name in PostgreSQL has at most 63 bytes in the server's encoding; in UTF-8 a character takes up to four times as many.
const NAME_BYTES_MAX: usize = 63 * 4;

/// Columns to leave out of one table. A table has at most 1,600.
const SKIPPED_COLUMNS_MAX: usize = 1_600;

/// Values of one row filter.
const FILTER_VALUES_MAX: usize = 1_000;

/// One value of a row filter.
const FILTER_VALUE_BYTES_MAX: usize = 1_000;

/// The handle behind `database-evidence.database`.
#[derive(Debug, Clone)]
pub struct EvidenceDatabase(pub Arc<Session>);

/// The handle behind `database-dump.database`.
#[derive(Debug, Clone)]
pub struct DumpDatabase(pub Arc<Session>);

/// The handle behind `table-rows.table`: one table, and the columns of it that the configuration names.
#[derive(Debug, Clone)]
pub struct RowsTable {
    /// Where it is read.
    pub session: Arc<Session>,
    /// What is read.
    pub table: Arc<ReadableTable>,
}

/// Links `database-evidence`.
///
/// # Errors
/// When the interface is linked twice.
pub fn link_evidence(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
}

/// Links `database-dump`.
///
/// # Errors
/// When the interface is linked twice.
pub fn link_dump(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    database_dump::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
}

/// Links `table-rows`.
///
/// # Errors
/// When the interface is linked twice.
pub fn link_rows(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    table_rows::add_to_linker::<_, HasSelf<_>>(linker, |context| context)
}

/// What a plugin is answered: the value, or what it may know of the failure.
type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

impl wit::Host for Context {
    async fn tables(&mut self, database: Resource<EvidenceDatabase>) -> Answer<Vec<wit::Table>> {
        let EvidenceDatabase(session) = self.table.get(&database)?.clone();
        let tables = session.tables().await;
        self.count("database-evidence.tables", session.scope(), 0);
        let table = |table: super::Table| wit::Table {
            schema: table.name.schema,
            name: table.name.name,
            columns: table.columns.into_iter().map(|c| wit::Column { name: c.name, type_: c.type_name }).collect(),
            bytes: table.bytes,
        };
        Ok(self.answer(tables.map(|tables| tables.into_iter().map(table).collect())))
    }

    async fn definitions(&mut self, database: Resource<EvidenceDatabase>) -> Answer<String> {
        let EvidenceDatabase(session) = self.table.get(&database)?.clone();
        let definitions = session.definitions().await;
        self.count("database-evidence.definitions", session.scope(), 0);
        Ok(self.answer(definitions))
    }

    async fn latest(
        &mut self,
        database: Resource<EvidenceDatabase>,
        tables: Vec<wit::TableName>,
        column: String,
    ) -> Answer<Vec<wit::TableLatest>> {
        let EvidenceDatabase(session) = self.table.get(&database)?.clone();
        let asked = measured(tables, "tables", TABLES_MAX)
            .and_then(|tables| tables.into_iter().map(table_name).collect::<Result<Vec<_>>>())
            .and_then(|tables| Ok((tables, name(column)?)));
        let (bytes, latest) = match asked {
            Ok((tables, column)) => (session.bytes_of(tables.iter()).await, session.latest(&tables, &column).await),
            Err(error) => (0, Err(error)),
        };
        self.count("database-evidence.latest", session.scope(), bytes);
        let answer =
            |l: super::Latest| wit::TableLatest { table: wit::TableName::from(l.table), rows: l.rows, max: l.max };
        Ok(self.answer(latest.map(|latest| latest.into_iter().map(answer).collect())))
    }

    async fn digest(
        &mut self,
        database: Resource<EvidenceDatabase>,
        selections: Vec<wit::Selection>,
    ) -> Answer<Vec<wit::TableDigest>> {
        let EvidenceDatabase(session) = self.table.get(&database)?.clone();
        let asked = measured(selections, "selections", TABLES_MAX)
            .and_then(|selections| selections.into_iter().map(selection).collect::<Result<Vec<_>>>());
        let (bytes, digests) = match asked {
            Ok(selections) => {
                let bytes = session.bytes_of(selections.iter().map(|s| &s.table)).await;
                (bytes, session.digest(&selections).await)
            }
            Err(error) => (0, Err(error)),
        };
        self.count("database-evidence.digest", session.scope(), bytes);
        let answer = |d: super::Digest| wit::TableDigest {
            table: wit::TableName::from(d.table),
            rows: d.rows,
            content: d.content,
        };
        Ok(self.answer(digests.map(|digests| digests.into_iter().map(answer).collect())))
    }
}

impl wit::HostDatabase for Context {
    async fn drop(&mut self, database: Resource<EvidenceDatabase>) -> wasmtime::Result<()> {
        self.table.delete(database)?;
        Ok(())
    }
}

impl database_dump::Host for Context {
    async fn open(
        &mut self,
        database: Resource<DumpDatabase>,
        options: database_dump::Options,
    ) -> Answer<Resource<ByteStream>> {
        let DumpDatabase(session) = self.table.get(&database)?.clone();
        self.count("database-dump.open", session.scope(), 0);
        self.open_stream(|| session.dump(DumpOptions { compression: options.compression.into() }))
    }
}

impl database_dump::HostDatabase for Context {
    async fn drop(&mut self, database: Resource<DumpDatabase>) -> wasmtime::Result<()> {
        self.table.delete(database)?;
        Ok(())
    }
}

impl table_rows::Host for Context {
    async fn describe(&mut self, table: Resource<RowsTable>) -> Answer<Option<table_rows::Shape>> {
        let RowsTable { session, table } = self.table.get(&table)?.clone();
        let shape = session.shape(&table).await;
        self.count("table-rows.describe", session.scope(), 0);
        let answer = |shape: super::Shape| table_rows::Shape { columns: shape.columns, rows: shape.rows };
        Ok(self.answer(shape.map(|shape| shape.map(answer))))
    }

    async fn page(
        &mut self,
        table: Resource<RowsTable>,
        after: Option<i64>,
        order: table_rows::Order,
        count: u32,
    ) -> Answer<Vec<table_rows::Row>> {
        let RowsTable { session, table } = self.table.get(&table)?.clone();
        let order = match order {
            table_rows::Order::Ascending => Order::Ascending,
            table_rows::Order::Descending => Order::Descending,
        };
        let rows = session.rows(&table, after, order, count).await;
        let bytes =
            rows.iter().flatten().flat_map(|row| row.values.iter().flatten()).map(|value| value.len() as u64).sum();
        self.count("table-rows.page", session.scope(), bytes);
        let answer = |Row { key, values }: Row| table_rows::Row { key, values };
        Ok(self.answer(rows.map(|rows| rows.into_iter().map(answer).collect())))
    }
}

impl table_rows::HostTable for Context {
    async fn drop(&mut self, table: Resource<RowsTable>) -> wasmtime::Result<()> {
        self.table.delete(table)?;
        Ok(())
    }
}

impl From<database_dump::Compression> for Compression {
    fn from(compression: database_dump::Compression) -> Self {
        match compression {
            database_dump::Compression::Automatic => Self::Automatic,
            database_dump::Compression::None => Self::None,
            database_dump::Compression::Gzip(level) => Self::Gzip(level),
            database_dump::Compression::Zstd(level) => Self::Zstd(level),
            database_dump::Compression::Lz4(level) => Self::Lz4(level),
        }
    }
}

impl From<TableName> for wit::TableName {
    fn from(TableName { schema, name }: TableName) -> Self {
        Self { schema, name }
    }
}

fn measured<T>(list: Vec<T>, what: &str, max: usize) -> Result<Vec<T>> {
    if list.len() <= max {
        return Ok(list);
    }
    let found = list.len();
    Err(Error::new(Class::PluginRefused, format!("the plugin sent {found} {what}, and at most {max} are taken")))
}

fn name(text: String) -> Result<String> {
    if text.len() <= NAME_BYTES_MAX && !text.contains('\0') {
        return Ok(text);
    }
    let shown = crate::capability::printable(text.get(..text.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default());
    Err(Error::new(Class::PluginRefused, format!("the plugin sent `{shown}`, which cannot be a name in PostgreSQL")))
}

fn table_name(table: wit::TableName) -> Result<TableName> {
    Ok(TableName { schema: name(table.schema)?, name: name(table.name)? })
}

fn selection(selection: wit::Selection) -> Result<Selection> {
    let skip_columns = measured(selection.skip_columns, "columns to leave out", SKIPPED_COLUMNS_MAX)?;
    Ok(Selection {
        table: table_name(selection.table)?,
        skip_columns: skip_columns.into_iter().map(name).collect::<Result<_>>()?,
        skip_rows: selection.skip_rows.map(row_filter).transpose()?,
    })
}

fn row_filter(filter: wit::RowFilter) -> Result<RowFilter> {
    let values = measured(filter.values, "values of a row filter", FILTER_VALUES_MAX)?;
    if values.iter().any(|value| value.len() > FILTER_VALUE_BYTES_MAX || value.contains('\0')) {
        return Err(Error::new(
            Class::PluginRefused,
            format!(
                "the plugin sent a value of a row filter that is longer than {FILTER_VALUE_BYTES_MAX} bytes or holds a zero byte"
            ),
        ));
    }
    Ok(RowFilter { column: name(filter.column)?, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_length(length: usize) -> wit::Selection {
        wit::Selection {
            table: wit::TableName { schema: "public".into(), name: "t".repeat(length) },
            skip_columns: Vec::new(),
            skip_rows: None,
        }
    }

    #[test]
    fn a_name_that_no_database_can_have_is_refused_and_the_longest_possible_one_is_not() {
        assert!(selection(of_length(NAME_BYTES_MAX)).is_ok());
        assert!(selection(of_length(0)).is_ok(), "the catalog says that there is none");
        let error = selection(of_length(NAME_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(error.class(), Class::PluginRefused);
        assert!(name("a\0b".into()).is_err());
        assert!(name("é".repeat(NAME_BYTES_MAX)).is_err(), "cut inside a character");
    }

    #[test]
    fn lists_are_taken_up_to_their_limit_and_refused_beyond() {
        assert_eq!(measured(vec![(); TABLES_MAX], "x", TABLES_MAX).unwrap().len(), TABLES_MAX);
        assert!(measured(vec![(); TABLES_MAX + 1], "x", TABLES_MAX).is_err());
        let filter = |value: String| wit::RowFilter { column: "name".into(), values: vec![value] };
        assert!(row_filter(filter("x".repeat(FILTER_VALUE_BYTES_MAX))).is_ok());
        assert!(row_filter(filter("x".repeat(FILTER_VALUE_BYTES_MAX + 1))).is_err());
        assert!(row_filter(filter("\0".into())).is_err());
    }
}
