//! Fingerprints the durable content of a Dolibarr database and its documents, so that an unchanged source is not dumped
//! again.
//!
//! `settings.rs` knows what is volatile, `policy.rs` selects what counts, and this file translates between them and the
//! world `fingerprint`.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

mod policy;
mod settings;

wit_bindgen::generate!({ world: "fingerprint", path: "../../wit", generate_all });

use backup::host::database_evidence::{self as evidence, Database, Measure as DatabaseMeasure};
use backup::host::log::{self, Level, emit};
use backup::host::tree_evidence::{self, Measure as TreeMeasure, Tree};
use backup::host::types::Error;
use exports::backup::host::fingerprinting::Guest;
use kit::PluginSettings;
use settings::{DatabaseMethod, Settings, TreeMethod};

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        Settings::SCHEMA.into()
    }

    fn of_database(settings: String, db: &Database) -> Result<Vec<DatabaseMeasure>, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let tables: Vec<_> = evidence::tables(db)?.into_iter().map(policy::Table::from).collect();
        if !policy::prefix_is_used(&settings, &tables) {
            let fields = [("prefix".into(), settings.prefix.clone()), ("tables".into(), tables.len().to_string())];
            emit(Level::Warn, "no table has the prefix, so every table counts in full", &fields);
        }
        let rows = match settings.database {
            DatabaseMethod::Content => {
                let selections: Vec<_> =
                    policy::selections(&settings, &tables).into_iter().map(evidence::Selection::from).collect();
                evidence::content(db, &selections)?
            }
            DatabaseMethod::Tms => {
                let names: Vec<_> = policy::dated_tables(&settings, &tables)
                    .into_iter()
                    .map(|table| evidence::TableName { schema: table.schema.clone(), name: table.name.clone() })
                    .collect();
                evidence::latest(db, &names, &settings.timestamp_column)?
            }
        };
        let uncounted: Vec<_> = policy::uncounted(&settings, &tables)
            .into_iter()
            .map(|table| evidence::TableName { schema: table.schema.clone(), name: table.name.clone() })
            .collect();
        Ok(vec![
            evidence::structure(db)?,
            evidence::definitions(db)?,
            evidence::comments(db)?,
            evidence::rights(db)?,
            evidence::large_objects(db)?,
            evidence::sequences(db, &uncounted)?,
            rows,
        ])
    }

    fn of_tree(settings: String, tree: &Tree) -> Result<Vec<TreeMeasure>, Error> {
        kit::panics::report_to(|message| log::emit(log::Level::Error, message, &[]));
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let measure = match settings.documents {
            TreeMethod::Metadata => tree_evidence::metadata(tree, &settings.exclude)?,
            TreeMethod::Content => tree_evidence::content(tree, &settings.exclude)?,
        };
        Ok(vec![measure])
    }
}

impl From<evidence::Table> for policy::Table {
    fn from(table: evidence::Table) -> Self {
        let columns = table.columns.into_iter().map(|column| column.name).collect();
        Self { schema: table.schema, name: table.name, columns }
    }
}

impl From<policy::Selection> for evidence::Selection {
    fn from(selection: policy::Selection) -> Self {
        let policy::Selection { schema, name, skip_columns, skip_rows } = selection;
        let skip_rows = skip_rows.map(|(column, values)| evidence::RowFilter { column, values });
        Self { table: evidence::TableName { schema, name }, skip_columns, skip_rows }
    }
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
