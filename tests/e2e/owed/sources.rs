//! Sources that are renamed, removed, added or down for weeks, or whose objects are missing for a night.

use super::{Office, commands, keep_last, listed};

const BOTH: [(&str, &str); 2] = [("docs", "docs"), ("mail", "mail")];

#[test]
fn a_source_that_is_renamed_removed_or_absent_from_one_configuration_costs_nothing() {
    let configurations: [(&str, &[(&str, &str)]); 3] = [
        ("renamed", &[("papers", "docs"), ("mail", "mail")]),
        ("removed", &[("mail", "mail")]),
        ("the only one left", &[("docs", "docs")]),
    ];
    let office = Office::new(&["docs", "mail"], "");
    office.old();
    for (day, (what, configuration)) in (12..).step_by(3).zip(configurations) {
        let at = |after: i32| format!("2025-01-{:02}T22:00:00Z", day + after);
        office.configure(configuration, "");
        let night = office.worked(&at(0), 3);
        assert_eq!(office.certificates(), 0, "{what}: something entered the bin: {night}");
        assert_eq!(night["retention"]["state"], "frozen", "{what}: {night}");
        let _ = office.verb(&["prune"], &at(0), 3);
        assert_eq!(office.certificates(), 0, "{what}: a prune put something into the bin");
        let gone = if what == "the only one left" { "mail" } else { "docs" };
        let status = office.status(&at(0), 4);
        let named = commands(&status, "waiting");
        let retires = |command: &&str| command.ends_with(&format!(" --retire {gone}"));
        assert!(named.iter().any(retires), "{what}: {status}");
        let new = named.iter().any(|command| !command.contains("--retire"));
        assert_eq!(new, what == "renamed", "{what}: {status}");
        // The name is configured again, and no further answer is needed.
        office.configure(&BOTH, "");
        let mended = office.worked(&at(1), 0);
        assert_eq!(mended["retention"]["state"], "applied", "{what}: {mended}");
        office.is_green(&at(1));
        assert_eq!(office.certificates(), 0, "{what}");
    }
    for source in ["docs", "mail"] {
        office.has_all_of_old(source, "2025-01-20T00:00:00Z");
    }
}

#[test]
fn a_source_that_is_retired_for_a_new_one_goes_on_and_its_year_ends_stay() {
    let office = Office::new(&["docs", "mail"], "");
    office.old();
    office.configure(&[("papers", "docs"), ("mail", "mail")], "");
    let _ = office.worked("2025-01-12T22:00:00Z", 3);
    let accepted = office.verb(&["accept", "--retire", "docs"], "2025-01-13T08:00:00Z", 0);
    assert_eq!(accepted["still_waiting"].as_array().unwrap().len(), 0, "{accepted}");
    let next = office.worked("2025-01-13T22:00:00Z", 0);
    assert_eq!(next["retention"]["state"], "applied", "{next}");
    office.is_green("2025-01-13T23:00:00Z");
    // Three months later its daily states have aged, as for any source, but its year ends have not.
    for day in ["2025-02-20", "2025-03-25", "2025-03-26", "2025-04-20", "2025-04-21", "2025-04-22"] {
        let _ = office.worked(&format!("{day}T22:00:00Z"), 0);
        office.age_bin(8);
    }
    let objects = office.objects("docs");
    for year in 2016..=2024 {
        let key = format!("{year}1231T220000Z.tar.gz");
        assert!(objects.contains_key(&key), "{key} is gone: {:?}", objects.keys());
    }
    assert!(!objects.contains_key("20250105T220000Z.tar.gz"), "none of its daily states aged: {:?}", objects.keys());
    assert_eq!(office.restored("mail", ["--at", "2018-12-31"], "2025-04-22T23:00:00Z"), "2018-12-31T22:00:00Z");
    // It can be restored once somebody configures it again.
    office.configure(&BOTH, "");
    assert_eq!(office.restored("docs", ["--at", "2018-12-31"], "2025-04-22T23:00:00Z"), "2018-12-31T22:00:00Z");
}

#[test]
fn a_folder_of_objects_that_is_away_for_a_night_costs_nothing() {
    let office = Office::new(&["docs", "mail"], "");
    office.old();
    let (there, away) = (office.at("store/prod/docs"), office.at("store/away"));
    std::fs::rename(&there, &away).unwrap();
    let night = office.worked("2025-01-12T22:00:00Z", 3);
    assert_eq!(office.certificates(), 0, "{night}");
    assert_eq!(night["snapshot"]["sources"]["docs"]["outcome"], "saved", "{night}");
    let _ = office.verb(&["prune"], "2025-01-12T23:00:00Z", 3);
    assert_eq!(office.certificates(), 0);
    let status = office.status("2025-01-12T23:00:00Z", 4);
    assert_eq!(commands(&status, "missing"), ["accept --env prod --lost"], "{status}");
    for entry in std::fs::read_dir(&away).unwrap().map(Result::unwrap) {
        std::fs::rename(entry.path(), there.join(entry.file_name())).unwrap();
    }
    std::fs::remove_dir(&away).unwrap();
    office.is_green("2025-01-13T08:00:00Z");
    let next = office.worked("2025-01-13T22:00:00Z", 0);
    assert_eq!(next["retention"]["state"], "applied", "{next}");
    assert_eq!(office.certificates(), 0);
    for source in ["docs", "mail"] {
        office.has_all_of_old(source, "2025-01-14T00:00:00Z");
    }
}

#[test]
fn a_source_that_is_down_over_the_years_end_does_not_cost_the_other_one_its_year() {
    let few_days = "[plugins.retention]\ncomponent = \"retention-tiered.wasm\"\nsettings = { daily = 3, monthly = 1, yearly = 0 }\n";
    // One policy knows years and the other does not. In both cases the guard keeps the end of the year.
    for policy in [few_days.to_owned(), keep_last(3, "")] {
        let office = Office::new(&["docs", "mail"], &policy);
        for day in ["2025-12-02", "2025-12-03", "2025-12-04"] {
            let _ = office.worked(&format!("{day}T22:00:00Z"), 0);
        }
        office.hide("mail");
        for day in ["2025-12-05", "2025-12-20", "2025-12-30", "2025-12-31", "2026-01-01", "2026-01-15", "2026-01-28"] {
            let night = office.worked(&format!("{day}T22:00:00Z"), 64);
            assert_eq!(night["snapshot"]["sources"]["docs"]["outcome"], "saved", "{night}");
            assert_eq!(office.certificates(), 0, "something entered the bin while a source was down: {night}");
        }
        office.show("mail");
        let mut day = 29;
        for month in ["2026-01", "2026-02", "2026-03", "2026-04", "2026-05"] {
            for _ in 0..3 {
                let _ = office.worked(&format!("{month}-{day:02}T22:00:00Z"), 0);
                office.age_bin(8);
                day = if day == 31 { 1 } else { day + 1 };
            }
        }
        let now = "2026-05-20T22:00:00Z";
        let left = office.ids(now);
        assert!(
            !left.contains(&"20251220T220000Z".to_owned()),
            "nothing was forgotten, so this proves nothing: {left:?}"
        );
        assert_eq!(office.restored("docs", ["--at", "2025-12-31"], now), "2025-12-31T22:00:00Z");
        assert_eq!(office.restored("mail", ["--at", "2025-12-31"], now), "2025-12-04T22:00:00Z");
        let listed = office.snapshots(now);
        let why = |id: &str| listed.iter().find(|snapshot| snapshot["id"] == id).unwrap()["keep"].to_string();
        for (id, source) in [("20251231T220000Z", "docs"), ("20251204T220000Z", "mail")] {
            let rule = format!("the legal floor of the fiscal year that ended on 2025-12-31, of {source}");
            assert!(why(id).contains(&rule), "{}", why(id));
        }
    }
}

#[test]
fn a_source_that_is_down_freezes_forgetting_and_forgetting_goes_on_when_it_is_back() {
    let office = Office::new(&["docs", "mail"], &keep_last(2, "legal_years = 0"));
    let _ = office.worked("2026-06-01T22:00:00Z", 0);
    let _ = office.worked("2026-06-02T22:00:00Z", 0);
    office.hide("mail");
    let _ = office.worked("2026-06-03T22:00:00Z", 64);
    let _ = office.worked("2026-06-04T22:00:00Z", 64);
    assert_eq!(office.certificates(), 0);
    office.show("mail");
    let back = office.worked("2026-06-05T22:00:00Z", 0);
    // Two states of each source are kept, so the last one before the outage stays too.
    assert_eq!(listed(&back, "binned"), ["20260601T220000Z"], "{back}");
}
