//! Objects of a script, without records.

use super::{Office, keep_last, listed};
use crate::scene::succeed;
use std::process::Command;

/// An archive as a script makes it.
fn by_script(office: &Office, source: &str, stamp: &str) {
    let target = office.at("store/prod").join(source).join(format!("{stamp}.tar.gz"));
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::write(office.documents("docs").join("a"), stamp).unwrap();
    succeed(Command::new("tar").arg("-czf").arg(target).arg("-C").arg(office.documents("docs")).arg("."));
}

#[test]
fn adopted_years_stay_when_a_source_is_added_until_a_person_says_that_they_may_age() {
    let office = Office::new(&["docs", "mail"], "");
    let policy = keep_last(1, "legal_years = 0");
    office.configure(&[("docs", "docs")], &policy);
    for year in 2016..=2025 {
        by_script(&office, "docs", &format!("{year}1231-230000"));
    }
    let script: Vec<String> = office.objects("docs").into_keys().collect();
    let there = |office: &Office| {
        let objects = office.objects("docs");
        script.iter().filter(|key| objects.contains_key(*key)).count()
    };
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let _ = office.worked("2026-06-02T22:00:00Z", 0);
    assert_eq!(office.certificates(), 1, "the first run may go, but no adopted snapshot");
    // A source is added, which no adopted snapshot contains.
    office.configure(&[("docs", "docs"), ("mail", "mail")], &policy);
    let _ = office.worked("2026-06-03T22:00:00Z", 3);
    let _ = office.verb(&["accept"], "2026-06-04T08:00:00Z", 0);
    for day in 4..=7 {
        let _ = office.worked(&format!("2026-06-{day:02}T22:00:00Z"), 0);
        office.age_bin(8);
    }
    assert_eq!(there(&office), script.len(), "an adopted object was deleted");
    let pruned = office.verb(&["prune", "--no-limit"], "2026-06-08T08:00:00Z", 0);
    office.age_bin(8);
    let again = office.verb(&["prune", "--no-limit"], "2026-06-08T09:00:00Z", 0);
    for result in [&pruned, &again] {
        let touched = [listed(result, "binned"), listed(result, "forgotten")].concat();
        assert!(touched.iter().all(|id| id.starts_with("202606")), "an adopted snapshot was touched: {result}");
    }
    assert_eq!(there(&office), script.len());
    assert_eq!(office.restored("docs", ["--at", "2016-12-31T23:30:00Z"], "2026-06-08T09:00:00Z"), "20161231-230000");

    let _ = office.verb(&["accept", "--adopted"], "2026-06-08T10:00:00Z", 0);
    let binned = office.verb(&["prune"], "2026-06-08T11:00:00Z", 0);
    assert_eq!(listed(&binned, "binned").len(), script.len(), "{binned}");
    assert_eq!(there(&office), script.len(), "objects of snapshots in the bin still exist");
    // The acceptance does not cover what the script stores from now on.
    by_script(&office, "docs", "20260608-235900");
    let _ = office.worked("2026-06-09T22:00:00Z", 0);
    let _ = office.worked("2026-06-10T22:00:00Z", 0);
    office.age_bin(8);
    let _ = office.worked("2026-06-11T22:00:00Z", 0);
    assert_eq!(there(&office), 0, "{:?}", office.objects("docs").keys());
    assert!(office.objects("docs").contains_key("20260608-235900.tar.gz"));
}

#[test]
fn a_scripts_object_with_the_stamp_of_a_run_in_which_that_source_failed_is_never_deleted() {
    let office = Office::new(&["docs", "mail"], &keep_last(1, "legal_years = 0"));
    let _ = office.worked("2026-06-01T01:00:00Z", 0);
    office.hide("mail");
    let _ = office.worked("2026-06-02T01:00:00Z", 64);
    by_script(&office, "mail", "20260602T010000Z");
    let before = office.objects("mail")["20260602T010000Z.tar.gz"].clone();
    office.show("mail");
    for day in 3..=6 {
        let _ = office.worked(&format!("2026-06-{day:02}T01:00:00Z"), 0);
        office.age_bin(8);
    }
    let left = office.ids("2026-06-06T02:00:00Z");
    assert!(!left.contains(&"20260602T010000Z".to_owned()), "that run was not forgotten: {left:?}");
    assert!(!office.objects("docs").contains_key("20260602T010000Z.tar.gz"), "its own object is still there");
    let after = office.objects("mail");
    assert_eq!(after.get("20260602T010000Z.tar.gz"), Some(&before), "{:?}", after.keys());
}
