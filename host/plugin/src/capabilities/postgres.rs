//! The capabilities `database-evidence`, `database-dump` and `table-rows`: handles to one database, and the calls that a
//! plugin may make on them.
//!
//! The size of everything that a plugin sends is checked here before it is processed.

use crate::context::{Content, Context, GuestResult};
use base::error::{Class, Error, Result};
use base::evidence::{Measured, RowFilter, Selected, SelectedTables};
use postgres::evidence::{TableName, is_name};
use postgres::{Compression, DumpOptions, Filters, OpenDatabase, Order, ReadableTable, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wasmtime::component::Resource;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package host:postgres;
            world postgres {
                import backup:host/database-evidence@0.2.0;
                import backup:host/database-dump@0.2.0;
                import backup:host/table-rows@0.2.0;
            }",
        path: "../../wit",
        imports: { default: async | trappable },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/bytes": crate::context::bytes,
            "backup:host/database-evidence.database": super::EvidenceDatabase,
            "backup:host/database-evidence.measure": super::DatabaseMeasure,
            "backup:host/database-dump.database": super::DumpDatabase,
            "backup:host/table-rows.table": super::RowsTable,
        },
    });
}
use bindings::backup::host::{database_dump, database_evidence as wit, table_rows};

/// Tables in one call. Dolibarr with every module has 385.
const TABLES_MAX: usize = 10_000;

/// Columns to leave out of one table. A table has at most 1,600.
const SKIPPED_COLUMNS_MAX: usize = 1_600;

/// Values of one row filter. The shipped plugin has five.
const FILTER_VALUES_MAX: usize = 100;

/// Longest value of a row filter: a name or a code, not a text.
const FILTER_VALUE_BYTES_MAX: usize = 256;

/// Longest selection as it is recorded. A Dolibarr with every module takes 15 KiB.
const SELECTED_BYTES_MAX: usize = 256 << 10;

/// Smallest table size that is reported to a guest. Below it, a few more rows would show, and such a table is read at
/// once anyway.
const SHOWN_BYTES_MIN: u64 = 1 << 20;

/// The handle behind `database-evidence.database`.
#[derive(Debug, Clone)]
pub struct EvidenceDatabase {
    /// The database that measures it.
    pub database: Arc<OpenDatabase>,
    /// The columns by which rows may be left out.
    pub filters: Arc<Filters>,
}

/// The handle behind `database-evidence.measure`.
#[derive(Debug)]
pub struct DatabaseMeasure(pub Measured);

/// The handle behind `database-dump.database`.
#[derive(Debug, Clone)]
pub struct DumpDatabase(pub Arc<OpenDatabase>);

/// The handle behind `table-rows.table`: one table with the columns that the configuration names.
#[derive(Debug, Clone)]
pub struct RowsTable {
    /// The database that reads it.
    pub database: Arc<OpenDatabase>,
    /// The table and its columns.
    pub table: Arc<ReadableTable>,
}

interfaces! {
    /// Links `database-evidence`.
    link_evidence: wit { HostMeasure => DatabaseMeasure, HostDatabase => EvidenceDatabase }
    /// Links `database-dump`.
    link_dump: database_dump { HostDatabase => DumpDatabase }
    /// Links `table-rows`.
    link_rows: table_rows { HostTable => RowsTable }
}

impl wit::Host for Context {
    async fn tables(&mut self, database: Resource<EvidenceDatabase>) -> GuestResult<Vec<wit::Table>> {
        let EvidenceDatabase { database, .. } = self.table.get(&database)?.clone();
        let tables = database.tables().await;
        self.count("database-evidence.tables", database.scope(), tables.iter().flatten().count() as u64, 0);
        let table = |table: postgres::Table| wit::Table {
            schema: table.name.schema,
            name: table.name.name,
            columns: table.columns.into_iter().map(|c| wit::Column { name: c.name, type_: c.type_name }).collect(),
            bytes: coarse(table.bytes),
        };
        Ok(self.answer(tables.map(|tables| tables.into_iter().map(table).collect())))
    }

    async fn structure(&mut self, database: Resource<EvidenceDatabase>) -> GuestResult<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.structure", &database, Selected::Structure).await
    }

    async fn definitions(&mut self, database: Resource<EvidenceDatabase>) -> GuestResult<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.definitions", &database, Selected::Definitions).await
    }

    async fn comments(&mut self, database: Resource<EvidenceDatabase>) -> GuestResult<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.comments", &database, Selected::Comments).await
    }

    async fn rights(&mut self, database: Resource<EvidenceDatabase>) -> GuestResult<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.rights", &database, Selected::Rights).await
    }

    async fn large_objects(&mut self, database: Resource<EvidenceDatabase>) -> GuestResult<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.large-objects", &database, Selected::LargeObjects).await
    }

    async fn sequences(
        &mut self,
        database: Resource<EvidenceDatabase>,
        skip: Vec<wit::TableName>,
    ) -> GuestResult<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { database, .. } = self.table.get(&database)?.clone();
        let selected = by_schema(skip).map(|skip| Selected::Sequences { skip });
        self.measured("database-evidence.sequences", &database, selected).await
    }

    async fn latest(
        &mut self,
        database: Resource<EvidenceDatabase>,
        tables: Vec<wit::TableName>,
        column: String,
    ) -> GuestResult<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { database, .. } = self.table.get(&database)?.clone();
        self.measured("database-evidence.latest", &database, latest(tables, column)).await
    }

    async fn content(
        &mut self,
        database: Resource<EvidenceDatabase>,
        selections: Vec<wit::Selection>,
    ) -> GuestResult<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { database, filters } = self.table.get(&database)?.clone();
        self.measured("database-evidence.content", &database, content(selections, &filters)).await
    }
}

impl Context {
    /// Measures something that has no options.
    async fn measured_whole(
        &mut self,
        function: &'static str,
        database: &Resource<EvidenceDatabase>,
        selected: Selected,
    ) -> GuestResult<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { database, .. } = self.table.get(database)?.clone();
        self.measured(function, &database, Ok(selected)).await
    }

    /// Measures the selection, counts the call, and returns a handle to the result, which the plugin cannot read.
    async fn measured(
        &mut self,
        function: &'static str,
        database: &OpenDatabase,
        selected: Result<Selected>,
    ) -> GuestResult<Resource<DatabaseMeasure>> {
        let selected = self.begin_measure().and(selected).and_then(recordable);
        let tables = selected.as_ref().map_or(0, Selected::tables);
        let (bytes, measured) = match selected {
            Ok(selected) => (database.selected_bytes(&selected).await, database.measure(selected).await),
            Err(error) => (0, Err(error)),
        };
        self.count(function, database.scope(), tables, bytes);
        self.hand_out(measured.map(DatabaseMeasure))
    }
}

impl database_dump::Host for Context {
    async fn open(
        &mut self,
        database: Resource<DumpDatabase>,
        options: database_dump::Options,
    ) -> GuestResult<Resource<Content>> {
        let DumpDatabase(database) = self.table.get(&database)?.clone();
        self.count("database-dump.open", database.scope(), 0, 0);
        self.open_stream(|| {
            let bytes = database.dump(DumpOptions { compression: options.compression.into() })?;
            Ok(Content { bytes, archived: None })
        })
    }
}

impl table_rows::Host for Context {
    async fn describe(&mut self, table: Resource<RowsTable>) -> GuestResult<Option<table_rows::Shape>> {
        let RowsTable { database, table } = self.table.get(&table)?.clone();
        let shape = database.shape(&table).await;
        self.count("table-rows.describe", database.scope(), 0, 0);
        let answer = |shape: postgres::Shape| table_rows::Shape { columns: shape.columns, rows: shape.rows };
        Ok(self.answer(shape.map(|shape| shape.map(answer))))
    }

    async fn page(
        &mut self,
        table: Resource<RowsTable>,
        after: Option<i64>,
        order: table_rows::Order,
        count: u32,
    ) -> GuestResult<Vec<table_rows::Row>> {
        let RowsTable { database, table } = self.table.get(&table)?.clone();
        let order = match order {
            table_rows::Order::Ascending => Order::Ascending,
            table_rows::Order::Descending => Order::Descending,
        };
        let rows = database.rows(&table, after, order, count).await;
        let bytes =
            rows.iter().flatten().flat_map(|row| row.values.iter().flatten()).map(|value| value.len() as u64).sum();
        self.count("table-rows.page", database.scope(), rows.iter().flatten().count() as u64, bytes);
        let answer = |Row { key, values }: Row| table_rows::Row { key, values };
        Ok(self.answer(rows.map(|rows| rows.into_iter().map(answer).collect())))
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

/// The order of magnitude of a size. An exact size would show a guest that rows were added.
fn coarse(bytes: u64) -> u64 {
    bytes.max(SHOWN_BYTES_MIN).checked_next_power_of_two().unwrap_or(u64::MAX)
}

fn bounded<T>(list: Vec<T>, what: &str, max: usize) -> Result<Vec<T>> {
    if list.len() <= max {
        return Ok(list);
    }
    let found = list.len();
    Err(refused(format!("the plugin sent {found} {what}, but at most {max} are accepted")))
}

fn name(text: String) -> Result<String> {
    if is_name(&text) {
        return Ok(text);
    }
    let shown = base::text::printable(&text);
    Err(refused(format!("the plugin sent `{shown}`, which is not a valid PostgreSQL name")))
}

fn table_name(table: wit::TableName) -> Result<TableName> {
    Ok(TableName { schema: name(table.schema)?, name: name(table.name)? })
}

/// Limits the size of a selection, because every record contains it and is kept for ten years.
fn recordable(selected: Selected) -> Result<Selected> {
    let bytes = selected.canonical().len();
    if bytes <= SELECTED_BYTES_MAX {
        return Ok(selected);
    }
    Err(refused(format!(
        "the plugin's selection takes {bytes} bytes to record, but at most {SELECTED_BYTES_MAX} are accepted"
    )))
}

fn refused(why: String) -> Error {
    Error::new(Class::PluginRefused, base::text::printable(&why))
}

fn named_twice(TableName { schema, name }: &TableName) -> Error {
    refused(format!("the plugin names the table `{schema}.{name}` twice in one call"))
}

fn latest(tables: Vec<wit::TableName>, column: String) -> Result<Selected> {
    Ok(Selected::Latest { column: name(column)?, schemas: by_schema(tables)? })
}

fn by_schema(tables: Vec<wit::TableName>) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut schemas: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for table in bounded(tables, "tables", TABLES_MAX)? {
        let table = table_name(table)?;
        if !schemas.entry(table.schema.clone()).or_default().insert(table.name.clone()) {
            return Err(named_twice(&table));
        }
    }
    Ok(schemas)
}

fn content(selections: Vec<wit::Selection>, filters: &Filters) -> Result<Selected> {
    let mut schemas: BTreeMap<String, SelectedTables> = BTreeMap::new();
    for selection in bounded(selections, "selections", TABLES_MAX)? {
        let table = table_name(selection.table)?;
        let skip_columns = bounded(selection.skip_columns, "columns to leave out", SKIPPED_COLUMNS_MAX)?;
        let skip_columns = skip_columns.into_iter().map(name).collect::<Result<_>>()?;
        let skip_rows = selection.skip_rows.map(|filter| row_filter(&table, filter, filters)).transpose()?;
        let selected = schemas.entry(table.schema.clone()).or_default();
        if !selected.tables.insert(table.name.clone()) {
            return Err(named_twice(&table));
        }
        selected.skip_columns.insert(table.name.clone(), skip_columns);
        selected.skip_rows.extend(skip_rows.map(|filter| (table.name, filter)));
    }
    for selected in schemas.values_mut() {
        selected.skip_columns.retain(|_, columns| !columns.is_empty());
    }
    Ok(Selected::Content { schemas })
}

fn row_filter(table: &TableName, filter: wit::RowFilter, filters: &Filters) -> Result<RowFilter> {
    let values = bounded(filter.values, "values of a row filter", FILTER_VALUES_MAX)?;
    if values.iter().any(|value| value.len() > FILTER_VALUE_BYTES_MAX || value.contains('\0')) {
        return Err(refused(format!(
            "the plugin sent a value of a row filter that is longer than {FILTER_VALUE_BYTES_MAX} bytes or contains a zero byte"
        )));
    }
    let column = name(filter.column)?;
    if !filters.allow(table, &column) {
        let TableName { schema, name } = table;
        return Err(refused(format!(
            "the plugin leaves out rows of `{schema}.{name}` by `{column}`, which the configuration does not allow"
        ))
        .hint(base::text::printable(&format!(
            "to allow this, write \"{schema}.{name}\" = \"{column}\" in [plugins.fingerprint.filters]"
        ))));
    }
    Ok(RowFilter { column, values: values.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres::evidence::NAME_BYTES_MAX;

    fn selection_of_length(length: usize) -> wit::Selection {
        selection("t".repeat(length), None)
    }

    fn selection(name: String, skip_rows: Option<wit::RowFilter>) -> wit::Selection {
        let table = wit::TableName { schema: "public".into(), name };
        wit::Selection { table, skip_columns: Vec::new(), skip_rows }
    }

    fn parse(selections: Vec<wit::Selection>) -> Result<Selected> {
        content(selections, &Filters::shipped())
    }

    #[test]
    fn an_invalid_name_is_refused_and_the_longest_valid_one_is_not() {
        assert!(parse(vec![selection_of_length(NAME_BYTES_MAX)]).is_ok());
        assert!(parse(vec![selection_of_length(0)]).is_ok(), "the catalog refuses a table without a name later");
        let error = parse(vec![selection_of_length(NAME_BYTES_MAX + 1)]).unwrap_err();
        assert_eq!(error.class(), Class::PluginRefused);
        assert!(name("a\0b".into()).is_err());
        assert!(name("é".repeat(NAME_BYTES_MAX)).is_err(), "cut inside a character");
    }

    #[test]
    fn lists_are_accepted_up_to_their_limit() {
        assert_eq!(bounded(vec![(); TABLES_MAX], "x", TABLES_MAX).unwrap().len(), TABLES_MAX);
        assert!(bounded(vec![(); TABLES_MAX + 1], "x", TABLES_MAX).is_err());
        let filtered = |value: String, count: usize| {
            let values = (0..count).map(|n| format!("{value}{n}")).collect();
            parse(vec![selection("llx_const".into(), Some(wit::RowFilter { column: "name".into(), values }))])
        };
        assert!(filtered("x".repeat(FILTER_VALUE_BYTES_MAX - 1), 1).is_ok());
        assert!(filtered("x".repeat(FILTER_VALUE_BYTES_MAX), 1).is_err());
        assert!(filtered("\0".into(), 1).is_err());
        assert!(filtered(String::new(), FILTER_VALUES_MAX).is_ok());
        assert!(filtered(String::new(), FILTER_VALUES_MAX + 1).is_err());
    }

    #[test]
    fn a_table_may_occur_once_and_rows_are_left_out_only_by_configured_columns() {
        let twice = ["a", "b", "a"].map(|name| selection(name.into(), None));
        let twice = parse(twice.into()).unwrap_err();
        assert!(twice.message().contains("`public.a` twice"), "{twice}");
        let name = || wit::TableName { schema: "x".into(), name: "a".into() };
        assert!(latest(vec![name(), name()], "tms".into()).unwrap_err().message().contains("`x.a` twice"));
        let by = |table: &str, column: &str| {
            let filter = wit::RowFilter { column: column.into(), values: vec!["A*".into()] };
            parse(vec![selection(table.into(), Some(filter))])
        };
        assert!(by("llx_const", "name").is_ok());
        for (table, column) in [("llx_const", "value"), ("llx_societe", "nom"), ("llx_user", "pass_crypted")] {
            let error = by(table, column).unwrap_err();
            assert_eq!(error.class(), Class::PluginRefused);
            let line = format!("\"public.{table}\" = \"{column}\" in [plugins.fingerprint.filters]");
            assert!(error.advice().unwrap().contains(&line), "{error:?}");
        }
    }

    #[test]
    fn a_guest_learns_only_the_order_of_magnitude_of_a_size() {
        let mib = 1 << 20;
        assert_eq!([0, 8_192, mib, mib + 1, 3 * mib, 4 * mib].map(coarse), [mib, mib, mib, 2 * mib, 4 * mib, 4 * mib]);
        assert_eq!(coarse(u64::MAX), u64::MAX);
    }
}
