//! The columns by which a plugin may leave out rows. A plugin does not learn which rows such a filter leaves out. The
//! configuration still has to list the columns, so that `plugins audit` can show them.

use super::evidence::{TableName, is_name};
use base::text::printable;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Maximum number of tables in the configuration. The shipped plugin filters two.
const TABLES_MAX: usize = 16;

/// The columns that the shipped fingerprint plugin filters by: names of constants and codes of events.
const SHIPPED: [(&str, &str); 2] = [("llx_actioncomm", "code"), ("llx_const", "name")];

/// `[plugins.fingerprint.filters]`: for each table, written as `table` or `schema.table`, the one column by which rows
/// may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Filters(BTreeMap<TableName, String>);

impl TryFrom<BTreeMap<String, String>> for Filters {
    type Error = String;

    fn try_from(columns: BTreeMap<String, String>) -> Result<Self, String> {
        if columns.len() > TABLES_MAX {
            return Err(format!("`filters` lists {} tables, but at most {TABLES_MAX} are allowed", columns.len()));
        }
        let each = |(label, column): (String, String)| {
            let name = TableName::parse(&label).filter(|_| !column.is_empty() && is_name(&column));
            let invalid = || {
                format!(
                    "`{} = {}` in `filters` is invalid: write table = \"column\" or \"schema.table\" = \"column\"",
                    printable(&label),
                    printable(&column)
                )
            };
            Ok((name.ok_or_else(invalid)?, column))
        };
        columns.into_iter().map(each).collect::<Result<_, _>>().map(Self)
    }
}

impl Filters {
    /// The filters that the shipped plugin needs.
    pub fn shipped() -> Self {
        let name = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
        Self(SHIPPED.into_iter().map(|(table, column)| (name(table), column.to_owned())).collect())
    }

    /// Whether rows of a table may be left out by this column.
    pub fn allow(&self, table: &TableName, column: &str) -> bool {
        self.0.get(table).is_some_and(|allowed| allowed == column)
    }

    /// Each column, as `schema.table#column`.
    pub fn columns(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(table, column)| format!("{}.{}#{column}", table.schema, table.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Filters, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_column_is_allowed_only_in_its_own_table() {
        let filters = parse("llx_const = \"name\"\n\"other.llx_const\" = \"value\"").unwrap();
        let table = |schema: &str, name: &str| TableName { schema: schema.to_owned(), name: name.to_owned() };
        assert!(filters.allow(&table("public", "llx_const"), "name"));
        assert!(!filters.allow(&table("public", "llx_const"), "value"));
        assert!(filters.allow(&table("other", "llx_const"), "value"));
        assert!(!filters.allow(&table("public", "llx_societe"), "name"));
        assert_eq!(filters.columns().collect::<Vec<_>>(), ["other.llx_const#value", "public.llx_const#name"]);
        assert!(Filters::shipped().allow(&table("public", "llx_actioncomm"), "code"));
    }

    #[test]
    fn invalid_columns_and_too_many_tables_are_refused() {
        for (text, says) in [
            ("llx_const = \"\"", "is invalid"),
            ("\".x\" = \"y\"", "is invalid"),
            ("\"x.\" = \"y\"", "is invalid"),
            ("x = [\"y\"]", "expected a string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let many: String = (0..=TABLES_MAX).map(|n| format!("t{n} = \"c\"\n")).collect();
        assert!(parse(&many).unwrap_err().contains("at most 16"));
    }
}
