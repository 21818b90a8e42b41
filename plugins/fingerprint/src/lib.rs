//! Says what a Dolibarr database and its documents durably hold, so that what did not change is not dumped again.
//!
//! `settings.rs` knows what is volatile, `policy.rs` asks and judges, and this file translates between them and the
//! world `fingerprint`.

mod policy;
mod settings;

wit_bindgen::generate!({ world: "fingerprint", path: "../../wit", generate_all });

use backup::host::database_evidence::{self as evidence, Database};
use backup::host::log::{Level, emit};
use backup::host::tree_evidence::{self, Depth, Tree};
use backup::host::types::Error;
use exports::backup::host::fingerprinting::{Fingerprint, Guest};
use settings::{DatabaseMethod, Settings, TreeMethod};

struct Plugin;

impl Guest for Plugin {
    fn settings_schema() -> String {
        settings::SCHEMA.into()
    }

    fn of_database(settings: String, db: &Database) -> Result<Fingerprint, Error> {
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let tables: Vec<_> = evidence::tables(db)?.into_iter().map(policy::Table::from).collect();
        if !policy::prefix_is_used(&settings, &tables) {
            let fields = [("prefix".into(), settings.prefix.clone()), ("tables".into(), tables.len().to_string())];
            emit(Level::Warn, "no table begins with the prefix, so nothing is taken for volatile", &fields);
        }
        let definitions = evidence::definitions(db)?;
        match settings.database {
            DatabaseMethod::Content => {
                let selections: Vec<_> =
                    policy::selections(&settings, &tables).into_iter().map(evidence::Selection::from).collect();
                let digests = evidence::digest(db, &selections)?;
                let asked = selections.iter().map(|selection| &selection.table);
                answers_all(asked, digests.iter().map(|digest| &digest.table))?;
                let found: Vec<_> = digests.into_iter().map(policy::Evidence::from).collect();
                Ok(policy::of_content(&settings, &definitions, &found).into())
            }
            DatabaseMethod::Tms => {
                let names: Vec<_> = policy::dated_tables(&settings, &tables)
                    .into_iter()
                    .map(|table| evidence::TableName { schema: table.schema.clone(), name: table.name.clone() })
                    .collect();
                let latest = evidence::latest(db, &names, &settings.timestamp_column)?;
                answers_all(names.iter(), latest.iter().map(|latest| &latest.table))?;
                let found: Vec<_> = latest.into_iter().map(policy::Evidence::from).collect();
                Ok(policy::of_timestamps(&settings, &definitions, &found).into())
            }
        }
    }

    fn of_tree(settings: String, tree: &Tree) -> Result<Fingerprint, Error> {
        let settings = Settings::parse(&settings).map_err(Error::Denied)?;
        let (method, depth) = match settings.documents {
            TreeMethod::Metadata => ("metadata", Depth::Metadata),
            TreeMethod::Content => ("content", Depth::Content),
        };
        let found = tree_evidence::summarise(tree, &settings.exclude, depth)?;
        if found.unreadable > 0 {
            let fields = [("unreadable".into(), found.unreadable.to_string())];
            emit(Level::Warn, "some entries could not be read, so their changes go unseen", &fields);
        }
        let (files, bytes, unreadable) = (found.files, found.bytes, found.unreadable);
        let summary = policy::Summary { digest: found.digest, files, bytes, unreadable };
        Ok(policy::of_tree(&settings, method, &summary).into())
    }
}

/// A table that was asked for and not answered would silently not count.
fn answers_all<'a>(
    asked: impl Iterator<Item = &'a evidence::TableName>,
    answered: impl Iterator<Item = &'a evidence::TableName>,
) -> Result<(), Error> {
    if asked.map(|table| (&table.schema, &table.name)).eq(answered.map(|table| (&table.schema, &table.name))) {
        return Ok(());
    }
    Err(Error::Permanent("the host answered for other tables than those asked".into()))
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

impl From<evidence::TableDigest> for policy::Evidence {
    fn from(digest: evidence::TableDigest) -> Self {
        let evidence::TableName { schema, name } = digest.table;
        Self { schema, name, rows: digest.rows, found: Some(digest.content) }
    }
}

impl From<evidence::TableLatest> for policy::Evidence {
    fn from(latest: evidence::TableLatest) -> Self {
        let evidence::TableName { schema, name } = latest.table;
        Self { schema, name, rows: latest.rows, found: latest.max }
    }
}

impl From<policy::Fingerprint> for Fingerprint {
    fn from(fingerprint: policy::Fingerprint) -> Self {
        Self { value: fingerprint.value, basis: fingerprint.basis }
    }
}

// Component export names are no symbols to a native linker, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
