//! What counts in a database and in a folder, and the value that stands for it. Pure functions: what is asked of the
//! host comes from [`selections`] and [`dated_tables`], what it answers goes into the values. No row, no file name
//! and no byte of a document is ever seen here.

use crate::settings::Settings;
use sha2::{Digest, Sha256};

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
    /// The column whose values tell the rows that do not count, and those values.
    pub skip_rows: Option<(String, Vec<String>)>,
}

/// What the host found in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// How many rows count.
    pub rows: u64,
    /// A hash of them, or their newest timestamp; none where there is no row that has one.
    pub found: Option<String>,
}

/// What the host found in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// A hash of all that counts.
    pub digest: String,
    /// How many files that is.
    pub files: u64,
    /// And how many bytes.
    pub bytes: u64,
    /// How many entries could not be read.
    pub unreadable: u64,
}

/// A fingerprint's value and the line that says what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Equal means unchanged.
    pub value: String,
    /// For people.
    pub basis: String,
}

/// What counts of each table: every table that is not volatile, without its volatile columns and rows.
#[must_use]
pub fn selections(settings: &Settings, tables: &[Table]) -> Vec<Selection> {
    tables.iter().filter(|table| !is_volatile(settings, table)).map(|table| selection(settings, table)).collect()
}

/// The tables whose timestamps count. One whose timestamp is itself volatile is left out whole, because a count alone
/// would say next to nothing of it.
#[must_use]
pub fn dated_tables<'a>(settings: &Settings, tables: &'a [Table]) -> Vec<&'a Table> {
    let column = &settings.timestamp_column;
    let durable = tables.iter().filter(|table| !is_volatile(settings, table));
    let dated = durable.filter(|table| table.columns.contains(column));
    dated.filter(|table| !volatile_columns(settings, table).contains(column)).collect()
}

/// Whether any table is the application's; if none is, the prefix or the database is the wrong one.
#[must_use]
pub fn prefix_is_used(settings: &Settings, tables: &[Table]) -> bool {
    tables.iter().any(|table| bare_name(settings, table).is_some())
}

/// The value of all rows that count.
#[must_use]
pub fn of_content(settings: &Settings, definitions: &str, evidence: &[Evidence]) -> Fingerprint {
    let value = format!("content:1:{}", hash_tables(settings, definitions, evidence));
    Fingerprint { value, basis: format!("content of {}", tables_and_rows(evidence)) }
}

/// The value of all timestamps that count.
#[must_use]
pub fn of_timestamps(settings: &Settings, definitions: &str, evidence: &[Evidence]) -> Fingerprint {
    let value = format!("tms:1:{}", hash_tables(settings, definitions, evidence));
    let basis = format!("row count and newest {} of {}", settings.timestamp_column, tables_and_rows(evidence));
    Fingerprint { value, basis }
}

/// The value of a folder. `method` is `metadata` or `content`.
#[must_use]
pub fn of_tree(settings: &Settings, method: &str, summary: &Summary) -> Fingerprint {
    let mut encoder = Encoder::default();
    encoder.list("exclude", sorted(&settings.exclude));
    encoder.field("digest", &summary.digest);
    let value = format!("tree-{method}:1:{}", encoder.finish());
    let (files, bytes) = (grouped(summary.files), grouped(summary.bytes));
    let basis = match summary.unreadable {
        0 => format!("{method} of {files} files, {bytes} bytes"),
        unreadable => format!("{method} of {files} files, {bytes} bytes, {} unreadable", grouped(unreadable)),
    };
    Fingerprint { value, basis }
}

/// The table's name without the prefix, if it is the application's.
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
            && table.columns.iter().any(|has| has == column)
            && !values.is_empty();
        applies.then(|| (column.to_owned(), values.clone()))
    });
    Selection { schema: table.schema.clone(), name: table.name.clone(), skip_columns, skip_rows }
}

/// The settings that select are part of the value: with other settings the same rows say something else.
fn hash_tables(settings: &Settings, definitions: &str, evidence: &[Evidence]) -> String {
    let mut encoder = Encoder::default();
    encoder.field("prefix", &settings.prefix);
    encoder.field("timestamp_column", &settings.timestamp_column);
    encoder.list("volatile_tables", sorted(&settings.volatile_tables));
    for (table, columns) in &settings.volatile_columns {
        encoder.field("volatile_columns", table);
        encoder.list("of", sorted(columns));
    }
    encoder.list("volatile_constants", sorted(&settings.volatile_constants));
    encoder.list("volatile_events", sorted(&settings.volatile_events));
    encoder.field("definitions", definitions);
    let mut evidence: Vec<_> = evidence.iter().collect();
    evidence.sort_by_key(|table| (&table.schema, &table.name));
    for table in evidence {
        encoder.list("table", vec![&table.schema, &table.name, &table.rows.to_string()]);
        encoder.list("found", table.found.iter().map(String::as_str).collect());
    }
    encoder.finish()
}

fn sorted(entries: &[String]) -> Vec<&str> {
    let mut entries: Vec<_> = entries.iter().map(String::as_str).collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// Hashes named texts so that no two different inputs are the same bytes: each text goes behind its length, each
/// list behind its count.
#[derive(Default)]
struct Encoder(Sha256);

impl Encoder {
    fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn field(&mut self, name: &str, text: &str) {
        self.list(name, vec![text]);
    }

    fn list(&mut self, name: &str, texts: Vec<&str>) {
        self.text(name);
        self.0.update((texts.len() as u64).to_be_bytes());
        for text in texts {
            self.text(text);
        }
    }

    fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

fn tables_and_rows(evidence: &[Evidence]) -> String {
    let rows = evidence.iter().fold(0_u64, |sum, table| sum.saturating_add(table.rows));
    format!("{} tables, {} rows", grouped(evidence.len() as u64), grouped(rows))
}

/// `30112` as `30,112`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(name: &str, columns: &[&str]) -> Table {
        let columns = columns.iter().map(|&column| column.into()).collect();
        Table { schema: "public".into(), name: name.into(), columns }
    }

    fn evidence(name: &str, rows: u64, found: &str) -> Evidence {
        Evidence { schema: "public".into(), name: name.into(), rows, found: Some(found.into()) }
    }

    /// What is asked about one table under the default settings: the skipped columns and row values, if it counts.
    fn asked(table: Table) -> Option<(Vec<String>, Vec<String>)> {
        let selection = selections(&Settings::default(), &[table]).pop()?;
        Some((selection.skip_columns, selection.skip_rows.map(|(_, values)| values).unwrap_or_default()))
    }

    #[test]
    fn volatile_tables_are_not_asked_about_and_every_other_one_is() {
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
            assert_eq!(asked(table(name, &["rowid"])).is_some(), counts, "{name}");
        }
        assert!(selections(&Settings::default(), &[]).is_empty());
    }

    #[test]
    fn a_login_a_tick_and_a_counter_leave_only_skipped_columns_changed() {
        for (name, columns, skipped) in [
            ("llx_user", &["rowid", "login", "api_key", "datelastlogin", "tms"][..], &["datelastlogin", "tms"][..]),
            ("llx_cronjob", &["label", "datelastrun", "nbrun", "status"], &["datelastrun", "nbrun"]),
            ("llx_website", &["ref", "pageviews_total"], &["pageviews_total"]),
            ("llx_facture", &["rowid", "tms"], &[]),
            ("user", &["datelastlogin"], &[]),
        ] {
            assert_eq!(asked(table(name, columns)).unwrap().0, skipped, "{name}");
        }
    }

    #[test]
    fn constants_and_events_are_left_out_by_name_alone() {
        assert_eq!(asked(table("llx_const", &["name", "value"])).unwrap().1, ["MAIN_FIRST_PING*", "MAIN_LAST_PING*"]);
        assert!(asked(table("llx_actioncomm", &["id", "code"])).unwrap().1.contains(&"AC_OTH_AUTO".to_owned()));
        // Without the column there is nothing to tell the rows by, so they all count.
        assert!(asked(table("llx_const", &["value"])).unwrap().1.is_empty());
        assert!(asked(table("const", &["name"])).unwrap().1.is_empty());
        let settings = Settings { volatile_constants: vec![], ..Settings::default() };
        assert_eq!(selections(&settings, &[table("llx_const", &["name"])])[0].skip_rows, None);
    }

    #[test]
    fn timestamps_are_asked_of_tables_that_have_a_durable_one() {
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

    #[test]
    fn any_change_of_what_was_found_or_how_it_was_selected_changes_the_value() {
        let settings = Settings::default();
        let base = [evidence("a", 1, "x"), evidence("b", 2, "y")];
        let mut seen = std::collections::BTreeSet::from([of_content(&settings, "d", &base).value]);
        for (case, definitions, found) in [
            ("definitions", "e", base.to_vec()),
            ("content", "d", vec![evidence("a", 1, "z"), evidence("b", 2, "y")]),
            ("rows", "d", vec![evidence("a", 3, "x"), evidence("b", 2, "y")]),
            ("a table less", "d", vec![evidence("a", 1, "x")]),
            ("no table", "d", vec![]),
            ("contents swapped", "d", vec![evidence("a", 1, "y"), evidence("b", 2, "x")]),
            ("a name that runs into its neighbour", "d", vec![evidence("a1", 1, "x"), evidence("b", 2, "y")]),
            ("nothing instead of an empty text", "d", vec![Evidence { found: None, ..evidence("a", 1, "") }]),
            ("an empty text", "d", vec![evidence("a", 1, "")]),
            ("another schema", "d", vec![Evidence { schema: "s".into(), ..evidence("a", 1, "x") }, base[1].clone()]),
        ] {
            assert!(seen.insert(of_content(&settings, definitions, &found).value), "{case}");
        }
        let names = |entries: &[&str]| entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        for (case, settings) in [
            ("prefix", Settings { prefix: "x_".into(), ..Settings::default() }),
            ("tables", Settings { volatile_tables: names(&["events"]), ..Settings::default() }),
            ("columns", Settings { volatile_columns: [].into(), ..Settings::default() }),
            ("constants", Settings { volatile_constants: names(&["A"]), ..Settings::default() }),
            ("events", Settings { volatile_events: names(&["A"]), ..Settings::default() }),
        ] {
            assert!(seen.insert(of_content(&settings, "d", &base).value), "{case}");
        }
        assert!(seen.insert(of_timestamps(&settings, "d", &base).value), "another method");
    }

    #[test]
    fn the_order_of_tables_and_of_settings_does_not_matter() {
        let found = [evidence("a", 1, "x"), evidence("b", 2, "y")];
        let mut turned = Settings::default();
        turned.volatile_tables.reverse();
        turned.volatile_tables.push("events".into());
        turned.exclude.reverse();
        let value = of_content(&Settings::default(), "d", &found).value;
        assert_eq!(of_content(&turned, "d", &[found[1].clone(), found[0].clone()]).value, value);
        // The excludes of the documents say nothing about the database.
        assert_eq!(of_content(&Settings { exclude: vec![], ..Settings::default() }, "d", &found).value, value);
    }

    #[test]
    fn a_folders_value_follows_its_digest_its_method_and_its_excludes() {
        let settings = Settings::default();
        let summary = Summary { digest: "a".into(), files: 1_064, bytes: 13_656_048, unreadable: 0 };
        let base = of_tree(&settings, "metadata", &summary);
        assert!(base.value.starts_with("tree-metadata:1:"));
        assert_eq!(base.basis, "metadata of 1,064 files, 13,656,048 bytes");
        let other = Summary { digest: "b".into(), ..summary.clone() };
        assert_ne!(of_tree(&settings, "metadata", &other).value, base.value);
        assert_ne!(of_tree(&settings, "content", &summary).value, base.value);
        let fewer = Settings { exclude: vec!["temp/".into()], ..Settings::default() };
        assert_ne!(of_tree(&fewer, "metadata", &summary).value, base.value);
        let unreadable = Summary { unreadable: 2, ..summary };
        assert!(of_tree(&settings, "metadata", &unreadable).basis.ends_with(", 2 unreadable"));
    }

    #[test]
    fn the_basis_counts_tables_and_rows() {
        for (rows, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (30_112, "30,112"), (u64::MAX, "18,446,744,073,709,551,615")]
        {
            let basis = of_content(&Settings::default(), "d", &[evidence("a", rows, "x")]).basis;
            assert_eq!(basis, format!("content of 1 tables, {text} rows"));
        }
        assert_eq!(of_timestamps(&Settings::default(), "", &[]).basis, "row count and newest tms of 0 tables, 0 rows");
    }

    proptest! {
        #[test]
        fn a_value_is_short_printable_ascii(
            definitions: String,
            found in prop::collection::vec((any::<String>(), any::<String>(), any::<u64>(), any::<Option<String>>()), 0..9),
        ) {
            let found: Vec<_> = found
                .into_iter()
                .map(|(schema, name, rows, found)| Evidence { schema, name, rows, found })
                .collect();
            let value = of_content(&Settings::default(), &definitions, &found).value;
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()) && value.len() == "content:1:".len() + 64);
        }
    }
}
