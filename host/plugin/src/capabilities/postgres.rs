//! The capabilities `database-evidence`, `database-dump` and `table-rows`: handles on one session, and what a plugin may ask
//! of them.
//!
//! What a plugin sends is measured here before it is looked at.

use crate::context::{Context, types};
use base::error::{Class, Error, Result};
use base::evidence::{Measured, RowFilter, Selected, SelectedTables};
use base::stream::ByteStream;
use postgres::evidence::{TableName, is_name};
use postgres::{Compression, DumpOptions, Filters, Order, ReadableTable, Row, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wasmtime::component::{HasSelf, Linker, Resource};

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

/// One value of a row filter: a name or a code, not a text.
const FILTER_VALUE_BYTES_MAX: usize = 256;

/// Bytes of one selection as it is recorded. A Dolibarr with every module takes 15 KiB.
const SELECTED_BYTES_MAX: usize = 256 << 10;

/// The least that a guest is told of a table's size: below it a few rows more would show, and all of it is read at once.
const SHOWN_BYTES_MIN: u64 = 1 << 20;

/// The handle behind `database-evidence.database`.
#[derive(Debug, Clone)]
pub struct EvidenceDatabase {
    /// Where it is measured.
    pub session: Arc<Session>,
    /// The columns that rows may be left out by.
    pub filters: Arc<Filters>,
}

/// The handle behind `database-evidence.measure`.
#[derive(Debug)]
pub struct DatabaseMeasure(pub Measured);

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
        let EvidenceDatabase { session, .. } = self.table.get(&database)?.clone();
        let tables = session.tables().await;
        self.count("database-evidence.tables", session.scope(), tables.iter().flatten().count() as u64, 0);
        let table = |table: postgres::Table| wit::Table {
            schema: table.name.schema,
            name: table.name.name,
            columns: table.columns.into_iter().map(|c| wit::Column { name: c.name, type_: c.type_name }).collect(),
            bytes: coarse(table.bytes),
        };
        Ok(self.answer(tables.map(|tables| tables.into_iter().map(table).collect())))
    }

    async fn structure(&mut self, database: Resource<EvidenceDatabase>) -> Answer<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.structure", &database, Selected::Structure).await
    }

    async fn definitions(&mut self, database: Resource<EvidenceDatabase>) -> Answer<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.definitions", &database, Selected::Definitions).await
    }

    async fn comments(&mut self, database: Resource<EvidenceDatabase>) -> Answer<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.comments", &database, Selected::Comments).await
    }

    async fn rights(&mut self, database: Resource<EvidenceDatabase>) -> Answer<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.rights", &database, Selected::Rights).await
    }

    async fn large_objects(&mut self, database: Resource<EvidenceDatabase>) -> Answer<Resource<DatabaseMeasure>> {
        self.measured_whole("database-evidence.large-objects", &database, Selected::LargeObjects).await
    }

    async fn sequences(
        &mut self,
        database: Resource<EvidenceDatabase>,
        skip: Vec<wit::TableName>,
    ) -> Answer<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { session, .. } = self.table.get(&database)?.clone();
        let selected = by_schema(skip).map(|skip| Selected::Sequences { skip });
        self.measured("database-evidence.sequences", &session, selected).await
    }

    async fn latest(
        &mut self,
        database: Resource<EvidenceDatabase>,
        tables: Vec<wit::TableName>,
        column: String,
    ) -> Answer<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { session, .. } = self.table.get(&database)?.clone();
        self.measured("database-evidence.latest", &session, latest(tables, column)).await
    }

    async fn content(
        &mut self,
        database: Resource<EvidenceDatabase>,
        selections: Vec<wit::Selection>,
    ) -> Answer<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { session, filters } = self.table.get(&database)?.clone();
        self.measured("database-evidence.content", &session, content(selections, &filters)).await
    }
}

impl Context {
    /// Measures what has no choice in it.
    async fn measured_whole(
        &mut self,
        function: &'static str,
        database: &Resource<EvidenceDatabase>,
        selected: Selected,
    ) -> Answer<Resource<DatabaseMeasure>> {
        let EvidenceDatabase { session, .. } = self.table.get(database)?.clone();
        self.measured(function, &session, Ok(selected)).await
    }

    /// Measures what was selected, counts it, and hands out what nobody can read.
    async fn measured(
        &mut self,
        function: &'static str,
        session: &Session,
        selected: Result<Selected>,
    ) -> Answer<Resource<DatabaseMeasure>> {
        let selected = self.begin_measure().and(selected).and_then(recordable);
        let tables = selected.as_ref().map_or(0, Selected::tables);
        let (bytes, measured) = match selected {
            Ok(selected) => (session.bytes_of(&selected).await, session.measure(selected).await),
            Err(error) => (0, Err(error)),
        };
        self.count(function, session.scope(), tables, bytes);
        self.hand_out(measured.map(DatabaseMeasure))
    }
}

impl wit::HostMeasure for Context {
    async fn drop(&mut self, measure: Resource<DatabaseMeasure>) -> wasmtime::Result<()> {
        self.table.delete(measure)?;
        Ok(())
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
        self.count("database-dump.open", session.scope(), 0, 0);
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
        self.count("table-rows.describe", session.scope(), 0, 0);
        let answer = |shape: postgres::Shape| table_rows::Shape { columns: shape.columns, rows: shape.rows };
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
        self.count("table-rows.page", session.scope(), rows.iter().flatten().count() as u64, bytes);
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

/// A size of which a guest learns the order of magnitude alone: an exact one would tell it that something was added.
fn coarse(bytes: u64) -> u64 {
    bytes.max(SHOWN_BYTES_MIN).checked_next_power_of_two().unwrap_or(u64::MAX)
}

fn bounded<T>(list: Vec<T>, what: &str, max: usize) -> Result<Vec<T>> {
    if list.len() <= max {
        return Ok(list);
    }
    let found = list.len();
    Err(refused(format!("the plugin sent {found} {what}, and at most {max} are taken")))
}

fn name(text: String) -> Result<String> {
    if is_name(&text) {
        return Ok(text);
    }
    let shown = base::text::printable(&text);
    Err(refused(format!("the plugin sent `{shown}`, which cannot be a name in PostgreSQL")))
}

fn table_name(table: wit::TableName) -> Result<TableName> {
    Ok(TableName { schema: name(table.schema)?, name: name(table.name)? })
}

/// What is measured is recorded, for ten years and in every record.
fn recordable(selected: Selected) -> Result<Selected> {
    let bytes = selected.canonical().len();
    if bytes <= SELECTED_BYTES_MAX {
        return Ok(selected);
    }
    Err(refused(format!(
        "the plugin selects what takes {bytes} bytes to record, and at most {SELECTED_BYTES_MAX} are taken"
    )))
}

fn refused(why: String) -> Error {
    Error::new(Class::PluginRefused, base::text::printable(&why))
}

fn twice(TableName { schema, name }: &TableName) -> Error {
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
            return Err(twice(&table));
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
            return Err(twice(&table));
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
            "the plugin sent a value of a row filter that is longer than {FILTER_VALUE_BYTES_MAX} bytes or holds a zero byte"
        )));
    }
    let column = name(filter.column)?;
    if !filters.allow(table, &column) {
        let TableName { schema, name } = table;
        return Err(refused(format!(
            "the plugin leaves out rows of `{schema}.{name}` by `{column}`, which the configuration does not let it"
        ))
        .hint(base::text::printable(&format!(
            "if it should, write \"{schema}.{name}\" = \"{column}\" in [plugins.fingerprint.filters]"
        ))));
    }
    Ok(RowFilter { column, values: values.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres::evidence::NAME_BYTES_MAX;

    fn of_length(length: usize) -> wit::Selection {
        of("t".repeat(length), None)
    }

    fn of(name: String, skip_rows: Option<wit::RowFilter>) -> wit::Selection {
        let table = wit::TableName { schema: "public".into(), name };
        wit::Selection { table, skip_columns: Vec::new(), skip_rows }
    }

    fn asked(selections: Vec<wit::Selection>) -> Result<Selected> {
        content(selections, &Filters::shipped())
    }

    #[test]
    fn a_name_that_no_database_can_have_is_refused_and_the_longest_possible_one_is_not() {
        assert!(asked(vec![of_length(NAME_BYTES_MAX)]).is_ok());
        assert!(asked(vec![of_length(0)]).is_ok(), "the catalog refuses a table without a name later");
        let error = asked(vec![of_length(NAME_BYTES_MAX + 1)]).unwrap_err();
        assert_eq!(error.class(), Class::PluginRefused);
        assert!(name("a\0b".into()).is_err());
        assert!(name("é".repeat(NAME_BYTES_MAX)).is_err(), "cut inside a character");
    }

    #[test]
    fn lists_are_taken_up_to_their_limit_and_refused_beyond() {
        assert_eq!(bounded(vec![(); TABLES_MAX], "x", TABLES_MAX).unwrap().len(), TABLES_MAX);
        assert!(bounded(vec![(); TABLES_MAX + 1], "x", TABLES_MAX).is_err());
        let filtered = |value: String, count: usize| {
            let values = (0..count).map(|n| format!("{value}{n}")).collect();
            asked(vec![of("llx_const".into(), Some(wit::RowFilter { column: "name".into(), values }))])
        };
        assert!(filtered("x".repeat(FILTER_VALUE_BYTES_MAX - 1), 1).is_ok());
        assert!(filtered("x".repeat(FILTER_VALUE_BYTES_MAX), 1).is_err());
        assert!(filtered("\0".into(), 1).is_err());
        assert!(filtered(String::new(), FILTER_VALUES_MAX).is_ok());
        assert!(filtered(String::new(), FILTER_VALUES_MAX + 1).is_err());
    }

    #[test]
    fn a_table_comes_once_in_a_call_and_rows_are_left_out_by_columns_of_the_configuration_alone() {
        let twice = asked(vec![of("a".into(), None), of("b".into(), None), of("a".into(), None)]).unwrap_err();
        assert!(twice.message().contains("`public.a` twice"), "{twice}");
        let name = || wit::TableName { schema: "x".into(), name: "a".into() };
        assert!(latest(vec![name(), name()], "tms".into()).unwrap_err().message().contains("`x.a` twice"));
        let by = |table: &str, column: &str| {
            asked(vec![of(table.into(), Some(wit::RowFilter { column: column.into(), values: vec!["A*".into()] }))])
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
    fn a_guest_learns_the_order_of_magnitude_of_a_size() {
        let mib = 1 << 20;
        assert_eq!([0, 8_192, mib, mib + 1, 3 * mib, 4 * mib].map(coarse), [mib, mib, mib, 2 * mib, 4 * mib, 4 * mib]);
        assert_eq!(coarse(u64::MAX), u64::MAX);
    }
}
