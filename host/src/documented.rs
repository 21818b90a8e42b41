//! The documents say what the code does: their tables are compared with it.

use base::error::Class;
use catalogue::questions::{DISPROVED, QuestionKind};
use plugin::Role;
use plugin::grant::Grant;

const EXIT_CODES: &str = include_str!("../../docs/exit-codes.md");
const PLUGINS: &str = include_str!("../../docs/plugins.md");
const RETENTION: &str = include_str!("../../docs/retention.md");

/// The rows of the table whose header begins with a cell.
fn table<'t>(text: &'t str, first_cell: &str) -> Vec<Vec<&'t str>> {
    let header = format!("| {first_cell} |");
    let lines = text.lines().skip_while(|line| !line.starts_with(&header)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The names in the first column of a table.
fn names<'t>(text: &'t str, first_cell: &str) -> Vec<&'t str> {
    table(text, first_cell).iter().map(|row| row[0].trim_matches('`')).collect()
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_classes() {
    let mut expected: Vec<(u8, &str, &str)> = vec![(0, "done", "")];
    for class in Class::ALL {
        let retry = if class == Class::Unavailable { "**yes**" } else { "no" };
        expected.push((class.exit_code(), class.meaning(), retry));
    }
    let documented: Vec<(u8, &str, &str)> = table(EXIT_CODES, "code")
        .iter()
        .map(|row| (row[0].parse().unwrap(), row[1], row.get(2).copied().unwrap_or_default().trim_matches('|').trim()))
        .collect();
    assert_eq!(documented, expected, "docs/exit-codes.md");
}

#[test]
fn the_tables_of_roles_and_grants_name_every_one() {
    assert_eq!(names(PLUGINS, "role"), Role::ALL.map(Role::name), "docs/plugins.md");
    assert_eq!(names(PLUGINS, "grant"), Grant::ALL.map(Grant::name), "docs/plugins.md");
}

#[test]
fn the_table_of_questions_names_every_kind() {
    let asked = QuestionKind::ALL.into_iter().map(QuestionKind::name).chain([DISPROVED]);
    assert_eq!(names(RETENTION, "kind"), asked.collect::<Vec<_>>(), "docs/retention.md");
}
