//! Somebody changed the store: an edited file, an old copy put back, a missing file. `status` asks about each, and
//! nothing is forgotten before the answer.

use super::undone::{SHORT_GUARD, nights};
use super::{Office, commands, keep_last, listed, problems};

fn at(day: u32) -> String {
    format!("2026-06-{day:02}T01:00:00Z")
}

fn id(day: u32) -> String {
    format!("202606{day:02}T010000Z")
}

/// An office after five days' work, of which three are in the bin.
fn office() -> Office {
    let office = Office::new(&["docs"], &keep_last(2, "legal_years = 0"));
    for day in 1..=5 {
        let _ = office.worked(&at(day), 0);
    }
    office
}

/// Asserts that the question is red, that it freezes forgetting however much time passes, and that its command clears
/// it.
#[track_caller]
fn is_asked(office: &Office, says: &str, answer: &[&str]) {
    let now = "2026-06-05T03:00:00Z";
    let status = office.status(now, 4);
    assert!(status.to_string().contains(says), "{status}");
    let command =
        format!("{} --env prod{}", answer[0], answer[1..].iter().map(|word| format!(" {word}")).collect::<String>());
    assert!(commands(&status, "missing").contains(&command.as_str()), "{status}");
    office.age_bin(9);
    for day in 6..=7 {
        let frozen = office.worked(&at(day), 3);
        assert_eq!(listed(&frozen, "forgotten"), Vec::<String>::new(), "{frozen}");
    }
    let _ = office.verb(answer, "2026-06-07T04:00:00Z", 0);
    office.is_green("2026-06-07T05:00:00Z");
}

#[test]
fn a_record_that_was_edited_is_asked_about_and_taken_as_it_is_by_the_answer() {
    let office = office();
    let key = format!("prod/snapshots/{}.json", id(3));
    let record = std::fs::read_to_string(office.at("store").join(&key)).unwrap();
    office.put(&key, record.replacen("\"whole\"", "\"whole\" ", 1).as_bytes());
    let _ = office.verb(&["verify"], "2026-06-05T02:00:00Z", 4);
    is_asked(&office, "was edited or replaced", &["accept", "--lost"]);
    let verified = office.verb(&["verify"], "2026-06-07T06:00:00Z", 0);
    assert!(verified["chain"]["notes"].to_string().contains("(accepted)"), "{verified}");
    let _ = office.worked(&at(8), 0);
    office.is_green("2026-06-08T02:00:00Z");
}

#[test]
fn an_environments_file_that_is_gone_or_an_old_copy_does_not_take_an_answer_back_in_silence() {
    let remove_newest = |office: &Office| {
        let newest = office.environment_files().into_iter().next_back().unwrap();
        std::fs::remove_file(office.at("store/prod/environment").join(newest)).unwrap();
    };
    let copy_oldest = |office: &Office| {
        let folder = office.at("store/prod/environment");
        let oldest = office.environment_files().into_iter().next().unwrap();
        std::fs::copy(folder.join(oldest), folder.join("20260605T020000Z.json")).unwrap();
    };
    for (is_gone, says) in [(true, "is gone"), (false, "does not follow")] {
        let office = office();
        let _ = office.verb(&["unforget", &id(1)], "2026-06-05T01:10:00Z", 0);
        let _ = office.worked("2026-06-05T01:20:00Z", 0);
        if is_gone {
            remove_newest(&office)
        } else {
            copy_oldest(&office)
        }
        is_asked(&office, says, &["accept"]);
        assert!(office.ids("2026-06-07T06:00:00Z").contains(&id(1)));
        let _ = office.worked(&at(8), 0);
        office.is_green("2026-06-08T02:00:00Z");
    }
}

#[test]
fn a_snapshot_whose_certificate_is_damaged_waits_anew_and_the_chain_stays_whole() {
    let office = office();
    office.put(&format!("prod/forgotten/{}.json", id(1)), b"{\"format_ver");
    office.age_bin(9);
    let nights: Vec<_> = (6..=7).map(|day| office.worked(&at(day), 0)).collect();
    let forgotten: Vec<String> = nights.iter().flat_map(|night| listed(night, "forgotten")).collect();
    assert!(forgotten.contains(&id(2)) && !forgotten.contains(&id(1)), "{forgotten:?}");
    assert_eq!(office.restored("docs", ["--snapshot", &id(1)], "2026-06-07T04:00:00Z"), at(1));
    let verified = office.verb(&["verify"], "2026-06-07T05:00:00Z", 0);
    assert_eq!(verified["chain"]["problems"].as_array().map(Vec::len), Some(0), "{verified}");
    let _ = office.worked(&at(8), 0);
    let listed = office.snapshots("2026-06-08T02:00:00Z");
    let binned = listed.iter().find(|snapshot| snapshot["id"] == id(1)).unwrap();
    assert!(!binned["in_bin_since"].is_null(), "{binned}");
}

#[test]
fn what_is_lost_and_given_up_fails_no_verification_from_then_on() {
    let office = office();
    std::fs::remove_file(office.at("store/prod/docs").join(format!("{}.tar.gz", id(4)))).unwrap();
    let _ = office.verb(&["verify", "--all"], "2026-06-05T02:00:00Z", 4);
    let _ = office.verb(&["accept", "--lost"], "2026-06-05T03:00:00Z", 0);
    office.is_green("2026-06-05T03:10:00Z");
    for hour in 4..=5 {
        let run = ["verify", "--all", "--env", "prod", "--now", &format!("2026-06-05T{hour:02}:00:00Z")];
        let verified = office.run(&run).expect_code(0).stdout;
        assert!(verified.contains("(accepted)"), "{verified}");
        office.is_green(&format!("2026-06-05T{hour:02}:10:00Z"));
    }
    // The answer does not cover another object.
    std::fs::remove_file(office.at("store/prod/docs").join(format!("{}.tar.gz", id(5)))).unwrap();
    let _ = office.verb(&["verify", "--all"], "2026-06-05T06:00:00Z", 4);
    assert!(!problems(&office.status("2026-06-05T06:10:00Z", 4)).is_empty());
}

#[test]
fn a_restore_says_which_snapshot_it_passes_over_and_why() {
    let office = office();
    std::fs::remove_file(office.at("store/prod/docs").join(format!("{}.tar.gz", id(4)))).unwrap();
    let restored = |which: &[&str]| {
        let into = tempfile::tempdir().unwrap();
        let target = into.path().join("restored");
        let restore = ["restore", "--env", "prod", "--source", "docs", "--into", target.to_str().unwrap()];
        let all = [&restore[..], which, &["--now", "2026-06-05T02:00:00Z"]].concat();
        let outcome = office.run(&all).expect_code(0);
        (std::fs::read_to_string(target.join("a")).unwrap(), outcome.stderr)
    };
    let (content, said) = restored(&["--at", "2026-06-04"]);
    assert_eq!(content, at(3));
    let expected = format!("skipping {} because the object of docs is lost; using {}", id(4), id(3));
    assert!(said.contains(&expected), "{said}");
    let (content, said) = restored(&[]);
    assert!(content == at(5) && !said.contains("skipping"), "{said}");
}

#[test]
fn a_status_of_a_store_that_is_not_there_does_not_say_that_nobody_ran_init() {
    let office = office();
    std::fs::rename(office.at("store"), office.at("unmounted")).unwrap();
    std::fs::create_dir(office.at("store")).unwrap();
    let status = office.status("2026-06-05T02:00:00Z", 4);
    assert!(status.to_string().contains("its disk is not mounted, `url` is wrong"), "{status}");
}

/// An office that kept the snapshot of 1 June but forgot the one that followed it.
fn old_office() -> Office {
    let office = Office::new(&["docs"], &keep_last(2, "legal_years = 0"));
    let _ = office.worked(&at(1), 0);
    let _ = office.verb(&["unforget", &id(1)], "2026-06-01T02:00:00Z", 0);
    for day in 2..=5 {
        let _ = office.worked(&at(day), 0);
    }
    office.age_bin(9);
    let nights: Vec<_> = (6..=7).map(|day| office.worked(&at(day), 0)).collect();
    assert!(nights.iter().any(|night| listed(night, "forgotten").contains(&id(2))), "{nights:?}");
    office
}

#[test]
fn a_record_whose_follower_is_forgotten_is_missed_and_an_edit_of_it_is_seen() {
    for is_edited in [false, true] {
        let office = old_office();
        office.is_green("2026-06-07T02:00:00Z");
        let path = office.at("store/prod/snapshots").join(format!("{}.json", id(1)));
        if is_edited {
            let record = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, record.replacen("\"whole\"", "\"whole\" ", 1)).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        let now = "2026-06-07T03:00:00Z";
        let status = office.status(now, 4);
        assert!(commands(&status, "missing").contains(&"accept --env prod --lost"), "{status}");
        let night = office.worked(&at(8), 3);
        assert_eq!(listed(&night, "binned"), Vec::<String>::new(), "{night}");
        let _ = office.verb(&["accept", "--lost"], "2026-06-08T02:00:00Z", 0);
        let _ = office.worked(&at(9), 0);
        office.is_green("2026-06-09T02:00:00Z");
    }
}

#[test]
fn what_was_verified_and_is_gone_without_a_trace_is_missed() {
    let office = office();
    let _ = office.verb(&["verify"], "2026-06-05T02:00:00Z", 0);
    // The newest night disappears, as if an old copy of two folders had been put back.
    for path in [format!("store/prod/snapshots/{}.json", id(5)), format!("store/prod/docs/{}.tar.gz", id(5))] {
        std::fs::remove_file(office.at(&path)).unwrap();
    }
    let status = office.status("2026-06-05T03:00:00Z", 4);
    assert!(status.to_string().contains(&format!("({})", id(5))), "{status}");
    assert!(commands(&status, "missing").contains(&"accept --env prod --lost"), "{status}");
    let said = office.run(&["verify", "--env", "prod", "--now", "2026-06-05T04:00:00Z"]).expect_code(4).stderr;
    assert!(said.contains("accept --env prod --lost"), "{said}");
}

#[test]
fn an_edit_of_the_newest_version_of_the_environments_file_is_asked_about() {
    let office = office();
    let _ = office.verb(&["unforget", &id(1)], "2026-06-05T01:10:00Z", 0);
    let _ = office.worked("2026-06-05T01:20:00Z", 0);
    let newest = office.environment_files().into_iter().next_back().unwrap();
    let path = office.at("store/prod/environment").join(newest);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["kept"] = serde_json::json!([]);
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    is_asked(&office, "was edited after the run", &["accept"]);
}

#[test]
fn init_after_the_environments_file_is_gone_expects_what_the_newest_run_saved() {
    let office = Office::new(&["docs", "other"], "");
    for day in 1..=2 {
        let _ = office.worked(&at(day), 0);
    }
    std::fs::remove_dir_all(office.at("store/prod/environment")).unwrap();
    office.configure(&[("docs", "docs")], "");
    let now = "2026-06-02T02:00:00Z";
    let status = office.status(now, 4);
    assert!(status.to_string().contains("is gone, although a run used its version"), "{status}");
    let _ = office.verb(&["init"], now, 0);
    let _ = office.worked(&at(3), 3);
    let status = office.status("2026-06-03T02:00:00Z", 4);
    assert!(problems(&status).iter().any(|(_, source)| *source == Some("other")), "{status}");
}

#[test]
fn an_adopted_snapshot_in_the_bin_whose_certificate_is_damaged_stays_listed_and_can_be_had_back() {
    let office = Office::new(&["docs"], &keep_last(1, "legal_years = 0"));
    for day in 1..=4 {
        office.put(&format!("prod/docs/{}.tar.gz", id(day)), b"of a script");
    }
    let _ = office.verb(&["init"], "2026-06-05T00:00:00Z", 0);
    let _ = office.verb(&["accept", "--adopted"], "2026-06-05T00:10:00Z", 0);
    let night = office.worked(&at(5), 0);
    assert!(listed(&night, "binned").contains(&id(2)), "{night}");
    office.put(&format!("prod/forgotten/{}.json", id(2)), b"");
    assert!(office.ids("2026-06-05T02:00:00Z").contains(&id(2)));
    let _ = office.verb(&["unforget", &id(2)], "2026-06-05T03:00:00Z", 0);
    office.age_bin(9);
    for day in 6..=7 {
        let _ = office.worked(&at(day), 0);
    }
    assert!(office.objects("docs").contains_key(&format!("{}.tar.gz", id(2))));
}

/// An old version of the program created the environment, and `init` adds what that version did not write.
#[test]
fn init_goes_over_no_version_of_the_environments_file_that_is_gone() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-06", 1..=3, 0);
    let folder = office.at("store/prod/environment");
    let first = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&first).unwrap()).unwrap();
    file["format_version"] = 1.into();
    file.as_object_mut().unwrap().remove("seal_key");
    std::fs::write(&first, serde_json::to_vec(&file).unwrap()).unwrap();
    let _ = office.verb(&["unforget", "20260602T220000Z"], "2026-06-04T08:00:00Z", 64);
    let _ = office.verb(&["accept", "--only", "other-file"], "2026-06-04T08:05:00Z", 0);
    let _ = office.verb(&["unforget", "20260602T220000Z"], "2026-06-04T08:10:00Z", 0);
    nights(&office, "2026-06", 4..=4, 0);
    let later = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| *path != first);
    later.for_each(|path| std::fs::remove_file(path).unwrap());
    let refused = office.run(&["init", "--env", "prod", "--now", "2026-06-05T08:00:00Z"]).expect_code(64);
    assert!(refused.stderr.contains("accept --env prod --only other-file"), "{}", refused.stderr);
}

#[test]
fn a_name_from_the_end_of_time_stops_nothing() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-06", 1..=2, 0);
    let archive = office.objects("docs").into_values().next().unwrap();
    office.put("prod/docs/99991230T220000Z.tar.gz", &archive);
    nights(&office, "2026-06", 3..=3, 0);
    let _ = office.snapshots("2026-06-04T08:00:00Z");
    office.put("prod/environment/99991230T220000Z.json", b"{");
    let _ = office.run(&["accept", "--env", "prod", "--now", "2026-06-04T08:10:00Z"]).expect_code(1);
    let refused = office.run(&["init", "--env", "prod", "--now", "2026-06-04T08:20:00Z"]).expect_code(64);
    assert!(refused.stderr.contains("environment/99991230T220000Z.json") && refused.stderr.contains("by hand"));
    nights(&office, "2026-06", 4..=4, 3);
}

#[test]
fn an_empty_certificate_of_what_was_adopted_asks_for_no_record() {
    let office = Office::new(&["docs"], SHORT_GUARD);
    nights(&office, "2026-06", 1..=1, 0);
    let archive = office.objects("docs").into_iter().find(|(name, _)| name.ends_with(".tar.gz")).unwrap().1;
    for month in ["0301", "0401"] {
        office.put(&format!("prod/docs/2025{month}T010000Z.tar.gz"), &archive);
    }
    let _ = office.verb(&["accept", "--adopted"], "2026-06-02T08:00:00Z", 0);
    office.put("prod/forgotten/20250301T010000Z.json", b"");
    let status = office.status("2026-06-02T08:10:00Z", 4);
    assert!(!status.to_string().contains("is missing"), "{status}");
}
