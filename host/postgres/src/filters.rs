//! Which column of which table may tell the rows that do not count. Nobody learns what such a filter leaves out; that it looks at a
//! column is still for the configuration to say, so that `plugins audit` can name it.

use super::evidence::{TableName, is_name};
use base::text::printable;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Tables that a configuration may name. The shipped plugin filters two.
const TABLES_MAX: usize = 16;

/// What the shipped fingerprint plugin leaves out rows by: names of constants, and codes of events.
const SHIPPED: [(&str, &str); 2] = [("llx_actioncomm", "code"), ("llx_const", "name")];

/// `[plugins.fingerprint.filters]`: by table, `table` or `schema.table`, the one column that rows may be left out by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Filters(BTreeMap<TableName, String>);

impl TryFrom<BTreeMap<String, String>> for Filters {
    type Error = String;

    fn try_from(columns: BTreeMap<String, String>) -> Result<Self, String> {
        if columns.len() > TABLES_MAX {
            return Err(format!("`filters` names {} tables, and at most {TABLES_MAX} can be filtered", columns.len()));
        }
        let each = |(label, column): (String, String)| {
            let name = TableName::parse(&label).filter(|_| !column.is_empty() && is_name(&column));
            let wrong = || {
                format!(
                    "`{} = {}` in `filters` names no column of a table, which looks like table = \"column\" or \"schema.table\" = \"column\"",
                    printable(&label),
                    printable(&column)
                )
            };
            Ok((name.ok_or_else(wrong)?, column))
        };
        columns.into_iter().map(each).collect::<Result<_, _>>().map(Self)
    }
}

impl Filters {
    /// What the shipped plugin needs.
    #[must_use]
    pub fn shipped() -> Self {
        let name = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
        Self(SHIPPED.into_iter().map(|(table, column)| (name(table), column.to_owned())).collect())
    }

    /// Whether rows of a table may be left out by a column.
    #[must_use]
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
    fn a_column_is_allowed_in_its_own_table_and_nowhere_else() {
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
    fn what_names_no_column_is_refused_and_so_are_too_many() {
        for (text, says) in [
            ("llx_const = \"\"", "names no column"),
            ("\".x\" = \"y\"", "names no column"),
            ("\"x.\" = \"y\"", "names no column"),
            ("x = [\"y\"]", "expected a string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let many: String = (0..=TABLES_MAX).map(|n| format!("t{n} = \"c\"\n")).collect();
        assert!(parse(&many).unwrap_err().contains("at most 16"));
    }
}
