//! Measures a selection of a database as evidence: a digest and counts, which only the host receives.

use super::evidence::{Digest, Latest, Sealed, Selection, TableName};
use super::{Listing, OpenDatabase, RowFilter};
use base::error::{Error, Result};
use base::evidence::{Counts, Measured, Selected, SelectedTables};
use std::collections::{BTreeMap, BTreeSet};

impl OpenDatabase {
    /// Measures a selection in this session's snapshot.
    ///
    /// # Errors
    /// Class `PluginRefused` for a table or column that does not exist or cannot be measured in this way; see also
    /// [`OpenDatabase::open`].
    pub async fn measure(&self, selected: Selected) -> Result<Measured> {
        let (digest, counts) = match &selected {
            Selected::Structure => (self.listed(Listing::Structure).await?, Counts::default()),
            Selected::Definitions => (self.listed(Listing::Definitions).await?, Counts::default()),
            Selected::Comments => (self.listed(Listing::Comments).await?, Counts::default()),
            Selected::Rights => (self.listed(Listing::Rights).await?, Counts::default()),
            Selected::LargeObjects => {
                let (digest, large_objects, bytes) = self.large_objects().await?;
                (digest, Counts { large_objects, bytes, ..Counts::default() })
            }
            Selected::Sequences { skip } => {
                let is_skipped =
                    |table: &TableName| skip.get(&table.schema).is_some_and(|tables| tables.contains(&table.name));
                let (digest, sequences) = self.sequences(is_skipped).await?;
                (digest, Counts { sequences, ..Counts::default() })
            }
            Selected::Content { schemas } => {
                let selections = selections(schemas);
                seal_content(&selections, &self.digest(&selections).await?)
            }
            Selected::Latest { column, schemas } => {
                let tables: Vec<_> = names(schemas).collect();
                seal_latest(&self.latest(&tables, column).await?)
            }
            Selected::TreeMetadata { .. } | Selected::TreeContent { .. } => {
                return Err(Error::unexpected(format!("a database does not have a {}", selected.name())));
            }
        };
        Ok(Measured { selected, digest, counts })
    }

    /// Size of the selected tables on disk. Tables that do not exist are ignored.
    pub async fn selected_bytes(&self, selected: &Selected) -> u64 {
        let Ok(catalog) = self.catalog().await else { return 0 };
        let tables: Vec<TableName> = match selected {
            Selected::Content { schemas } => selections(schemas).into_iter().map(|selection| selection.table).collect(),
            Selected::Latest { schemas, .. } => names(schemas).collect(),
            _ => Vec::new(),
        };
        let found = tables.iter().filter_map(|name| catalog.get(name));
        found.fold(0, |sum: u64, (table, _)| sum.saturating_add(table.bytes))
    }
}

fn names(schemas: &BTreeMap<String, BTreeSet<String>>) -> impl Iterator<Item = TableName> {
    let name = |schema: &String, name: &String| TableName { schema: schema.clone(), name: name.clone() };
    schemas.iter().flat_map(move |(schema, tables)| tables.iter().map(move |table| name(schema, table)))
}

fn selections(schemas: &BTreeMap<String, SelectedTables>) -> Vec<Selection> {
    let each = |(schema, selected): (&String, &SelectedTables)| {
        let one = |table: &String| Selection {
            table: TableName { schema: schema.clone(), name: table.clone() },
            skip_columns: selected.skip_columns.get(table).into_iter().flatten().cloned().collect(),
            skip_rows: selected.skip_rows.get(table).map(|filter| RowFilter {
                column: filter.column.clone(),
                values: filter.values.iter().cloned().collect(),
            }),
        };
        selected.tables.iter().map(one).collect::<Vec<_>>()
    };
    schemas.iter().flat_map(each).collect()
}

fn seal_content(selections: &[Selection], digests: &[Digest]) -> (String, Counts) {
    let mut sealed = Sealed::new(b"content");
    let mut counts = Counts { tables: selections.len() as u64, ..Counts::default() };
    for (selection, digest) in selections.iter().zip(digests) {
        for part in [&digest.table.schema, &digest.table.name, &digest.rows.to_string(), &digest.content] {
            sealed.add(part.as_bytes());
        }
        match selection.skip_rows {
            Some(_) => counts.tables_in_part += 1,
            None => counts.rows = counts.rows.saturating_add(digest.rows),
        }
    }
    (sealed.finish(), counts)
}

fn seal_latest(latest: &[Latest]) -> (String, Counts) {
    let mut sealed = Sealed::new(b"latest");
    let mut counts = Counts { tables: latest.len() as u64, ..Counts::default() };
    for one in latest {
        // A table without a value differs from one whose greatest value is empty.
        let max = one.max.as_deref().map_or_else(|| "none".to_owned(), |max| format!("some {max}"));
        for part in [&one.table.schema, &one.table.name, &one.rows.to_string(), &max] {
            sealed.add(part.as_bytes());
        }
        counts.rows = counts.rows.saturating_add(one.rows);
    }
    (sealed.finish(), counts)
}
