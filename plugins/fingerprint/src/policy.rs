//! Selects what counts in a database: pure functions of names and settings. The host measures what is selected here;
//! this code never sees the content.

use crate::settings::Settings;

/// Table and column of the constants, without the prefix.
const CONSTANTS: (&str, &str) = ("const", "name");
/// Table and column of the agenda's events, without the prefix.
const EVENTS: (&str, &str) = ("actioncomm", "code");

/// A table as the host lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name, with the prefix.
    pub name: String,
    /// The names of its columns.
    pub columns: Vec<String>,
}

/// The part of a table that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// Columns that do not count.
    pub skip_columns: Vec<String>,
    /// A column and its values: rows with one of these values do not count.
    pub skip_rows: Option<(String, Vec<String>)>,
}

/// What counts of each table: every table that is not volatile, without its volatile columns and rows.
pub fn selections(settings: &Settings, tables: &[Table]) -> Vec<Selection> {
    tables.iter().filter(|table| !is_volatile(settings, table)).map(|table| selection(settings, table)).collect()
}

/// The tables whose timestamps count. A table with a volatile timestamp is left out entirely, because its row count
/// alone says almost nothing.
pub fn dated_tables<'a>(settings: &Settings, tables: &'a [Table]) -> Vec<&'a Table> {
    let column = &settings.timestamp_column;
    let durable = tables.iter().filter(|table| !is_volatile(settings, table));
    let dated = durable.filter(|table| table.columns.contains(column));
    dated.filter(|table| !volatile_columns(settings, table).contains(column)).collect()
}

/// The tables whose sequences do not count, because rows that do not count advance them too.
pub fn uncounted<'a>(settings: &Settings, tables: &'a [Table]) -> Vec<&'a Table> {
    let skips_rows = |table: &&Table| is_volatile(settings, table) || selection(settings, table).skip_rows.is_some();
    tables.iter().filter(skips_rows).collect()
}

/// Whether any table has the application's prefix. If none has, the prefix or the database is wrong.
pub fn prefix_is_used(settings: &Settings, tables: &[Table]) -> bool {
    tables.iter().any(|table| bare_name(settings, table).is_some())
}

/// The table's name without the prefix, if it has the prefix.
fn bare_name<'a>(settings: &Settings, table: &'a Table) -> Option<&'a str> {
    table.name.strip_prefix(settings.prefix.as_str())
}

fn is_volatile(settings: &Settings, table: &Table) -> bool {
    bare_name(settings, table).is_some_and(|name| settings.volatile_tables.iter().any(|volatile| volatile == name))
}

fn volatile_columns<'a>(settings: &'a Settings, table: &Table) -> &'a [String] {
    bare_name(settings, table).and_then(|name| settings.volatile_columns.get(name)).map_or(&[], Vec::as_slice)
}

fn selection(settings: &Settings, table: &Table) -> Selection {
    let skip_columns: Vec<_> =
        volatile_columns(settings, table).iter().filter(|column| table.columns.contains(column)).cloned().collect();
    let filters = [(CONSTANTS, &settings.volatile_constants), (EVENTS, &settings.volatile_events)];
    let skip_rows = filters.into_iter().find_map(|((name, column), values)| {
        let applies = bare_name(settings, table) == Some(name)
            && table.columns.iter().any(|name| name == column)
            && !values.is_empty();
        applies.then(|| (column.to_owned(), values.clone()))
    });
    Selection { schema: table.schema.clone(), name: table.name.clone(), skip_columns, skip_rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, columns: &[&str]) -> Table {
        let columns = columns.iter().map(|&column| column.into()).collect();
        Table { schema: "public".into(), name: name.into(), columns }
    }

    /// The skipped columns and row values of one table under the default settings, if the table counts.
    fn skips(table: Table) -> Option<(Vec<String>, Vec<String>)> {
        let selection = selections(&Settings::default(), &[table]).pop()?;
        Some((selection.skip_columns, selection.skip_rows.map(|(_, values)| values).unwrap_or_default()))
    }

    #[test]
    fn volatile_tables_are_left_out_and_every_other_table_counts() {
        for (name, counts) in [
            ("llx_events", false),
            ("llx_session", false),
            ("llx_oauth_token", false),
            ("llx_facture", true),
            ("llx_accounting_bookkeeping", true),
            ("llx_events_extrafields", true),
            ("events", true),
            ("other_events", true),
            ("llx_", true),
            ("", true),
        ] {
            assert_eq!(skips(table(name, &["rowid"])).is_some(), counts, "{name}");
        }
        assert!(selections(&Settings::default(), &[]).is_empty());
    }

    #[test]
    fn sequences_of_tables_that_do_not_count_fully_do_not_count() {
        let tables = [
            table("llx_events", &["rowid"]),
            table("llx_actioncomm", &["id", "code"]),
            table("llx_const", &["rowid", "name"]),
            table("llx_user", &["rowid", "datelastlogin"]),
            table("llx_facture", &["rowid"]),
        ];
        let names: Vec<_> = uncounted(&Settings::default(), &tables).iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["llx_events", "llx_actioncomm", "llx_const"]);
    }

    #[test]
    fn a_login_a_cron_run_and_a_counter_change_only_skipped_columns() {
        for (name, columns, skipped) in [
            ("llx_user", &["rowid", "login", "api_key", "datelastlogin", "tms"][..], &["datelastlogin", "tms"][..]),
            ("llx_cronjob", &["label", "datelastrun", "nbrun", "status"], &["datelastrun", "nbrun"]),
            ("llx_website", &["ref", "pageviews_total"], &["pageviews_total"]),
            ("llx_facture", &["rowid", "tms"], &[]),
            ("user", &["datelastlogin"], &[]),
        ] {
            assert_eq!(skips(table(name, columns)).unwrap().0, skipped, "{name}");
        }
    }

    #[test]
    fn constants_and_events_are_left_out_only_by_name() {
        assert_eq!(skips(table("llx_const", &["name", "value"])).unwrap().1, ["MAIN_FIRST_PING*", "MAIN_LAST_PING*"]);
        assert!(skips(table("llx_actioncomm", &["id", "code"])).unwrap().1.contains(&"AC_OTH_AUTO".to_owned()));
        // Without the column the rows cannot be distinguished, so they all count.
        assert!(skips(table("llx_const", &["value"])).unwrap().1.is_empty());
        assert!(skips(table("const", &["name"])).unwrap().1.is_empty());
        let settings = Settings { volatile_constants: vec![], ..Settings::default() };
        assert_eq!(selections(&settings, &[table("llx_const", &["name"])])[0].skip_rows, None);
    }

    #[test]
    fn timestamps_are_read_from_tables_that_have_a_durable_one() {
        let tables = [
            table("llx_facture", &["rowid", "tms"]),
            table("llx_facturedet", &["rowid"]),
            table("llx_events", &["rowid", "tms"]),
            table("llx_user", &["rowid", "tms"]),
            table("notes", &["tms"]),
        ];
        let settings = Settings::default();
        let names: Vec<_> = dated_tables(&settings, &tables).into_iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["llx_facture", "notes"]);
    }

    #[test]
    fn a_wrong_prefix_is_noticed() {
        let tables = [table("dolibarr_facture", &["rowid"])];
        assert!(!prefix_is_used(&Settings::default(), &tables));
        assert!(!prefix_is_used(&Settings::default(), &[]));
        assert!(prefix_is_used(&Settings { prefix: "dolibarr_".into(), ..Settings::default() }, &tables));
    }
}
