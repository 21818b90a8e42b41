//! What an auditor and an operator see of the plugins.

use crate::scene::{Scene, complains};
use serde_json::Value;
use std::path::Path;
use tests::binary::Run;

/// A folder with a configuration that has only documents, so that no database is needed.
fn folder_with(plugins: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("documents")).unwrap();
    let text = format!(
        "time_zone = \"Europe/Paris\"\n[store]\nurl = \"file://{0}/store\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"{0}/documents\"\n{plugins}",
        folder.path().display()
    );
    std::fs::write(folder.path().join("dolibarr-backup.toml"), text).unwrap();
    folder
}

fn run(folder: &tempfile::TempDir, arguments: &[&str]) -> tests::binary::Outcome {
    Run::new(arguments.iter().copied()).folder(folder.path()).finish()
}

const FINGERPRINT: &str =
    "[plugins.fingerprint]\ncomponent = \"fingerprint.wasm\"\ngrants = [\"database-evidence\", \"tree-evidence\"]\n";
const FINGERPRINT_WITHOUT_TREE: &str =
    "[plugins.fingerprint]\ncomponent = \"fingerprint.wasm\"\ngrants = [\"database-evidence\"]\n";

#[test]
fn an_audit_shows_every_function_its_grant_and_what_that_reaches() {
    let folder = folder_with("");
    let audit = run(&folder, &["plugins", "audit", "--json"]).expect_code(0).json();
    let plugin = |role: &str| {
        audit["plugins"].as_array().unwrap().iter().find(|p| p["role"] == role).unwrap_or_else(|| panic!("{audit}"))
    };
    let line = |role: &str, interface: &str| -> Value {
        let lines = plugin(role)["lines"].as_array().unwrap();
        lines.iter().find(|l| l["interface"].as_str().unwrap().contains(interface)).cloned().unwrap_or_default()
    };
    let put = line("dump", "object-write");
    assert_eq!((put["verdict"].as_str(), put["functions"][0].as_str()), (Some("granted"), Some("put")));
    assert!(put["scope"][0].as_str().unwrap().contains("/store/prod/docs/"), "{put}");
    assert_eq!(line("fingerprint", "tree-evidence")["scope"][0], "prod/docs");
    assert_eq!(line("fingerprint", "/log")["verdict"], "free");
    assert!(plugin("retention")["lines"].as_array().unwrap().iter().all(|l| l["verdict"] == "free"), "{audit}");
    assert_eq!(plugin("dump")["sha256"].as_str().unwrap().len(), 64);
    assert!(!folder.path().join("store").exists(), "an audit opens no store");
    // The audit also shows the settings, because they decide what a plugin does with its grants.
    let last = "[plugins.retention]\ncomponent = \"retention-last.wasm\"\n";
    let folder = folder_with(&format!("{last}settings = {{ keep = 3 }}\nlimits = {{ call_seconds = 9 }}\n"));
    let shown = run(&folder, &["plugins", "audit"]).expect_code(0).stdout;
    assert!(shown.contains("\n  settings {\"keep\":3}\n  limits call_seconds 9\n"), "{shown}");
}

#[test]
fn what_is_not_granted_is_denied_and_what_is_not_used_fails_a_strict_audit() {
    let folder = folder_with(FINGERPRINT_WITHOUT_TREE);
    let denied = run(&folder, &["plugins", "audit"]);
    complains(&denied, 64, "of backup:host/tree-evidence@0.2.0");
    assert!(denied.stdout.contains("DENIED"), "{}", denied.stdout);
    assert_eq!(run(&folder, &["plugins", "audit", "--write"]).code, Some(64));
    assert!(!folder.path().join("capabilities.lock").exists(), "a denied import was recorded as reviewed");

    let folder = folder_with("[plugins.retention]\ncomponent = \"retention-last.wasm\"\ngrants = [\"wasi\"]\n");
    let _ = run(&folder, &["plugins", "audit"]).expect_code(0);
    complains(&run(&folder, &["plugins", "audit", "--strict"]), 64, "`retention` does not use wasi");
}

#[test]
fn a_run_takes_only_what_was_reviewed_where_the_configuration_says_so() {
    let required = "[plugins]\nrequire_lock = true\n";
    let last = "[plugins.retention]\ncomponent = \"retention-last.wasm\"\n";
    let folder = folder_with(&format!("{required}{last}"));
    let backup = |folder: &tempfile::TempDir| run(folder, &["backup", "--env", "prod", "--dry-run"]);
    complains(&backup(&folder), 64, "require_lock is set, but there is no ");
    let _ = run(&folder, &["plugins", "audit", "--write"]).expect_code(0);
    let reviewed = std::fs::read_to_string(folder.path().join("capabilities.lock")).unwrap();
    let _ = backup(&folder).expect_code(0);
    let other = folder_with(&format!("{required}{last}settings = {{ keep = 1 }}\n"));
    std::fs::write(other.path().join("capabilities.lock"), reviewed).unwrap();
    complains(&backup(&other), 64, "`retention` has the settings {\"keep\":1} instead of {}");
}

#[test]
fn a_mistyped_role_or_digest_does_not_read_as_if_nothing_had_been_done() {
    let folder = folder_with("");
    let log = |flag: &str, value: &str| run(&folder, &["plugins", "log", "--env", "prod", flag, value]);
    complains(&log("--plugin", "bogus"), 2, "bogus");
    complains(&log("--digest", "ZZ"), 2, "expected the first hexadecimal digits of a SHA-256");
}

#[test]
fn a_file_that_lies_about_its_length_is_refused_with_the_reason_and_the_place() {
    let folder = folder_with("");
    std::fs::write(folder.path().join("tiny.wasm"), b"\0asm\x0d\0\x01\0\x07\xff\xff\xff\xff\x0f").unwrap();
    let inspected = run(&folder, &["plugins", "inspect", "tiny.wasm"]);
    complains(&inspected, 64, "tiny.wasm is not a WebAssembly component: unexpected end-of-file at byte 14");
}

#[test]
fn a_list_of_imports_that_grew_since_it_was_reviewed_fails() {
    let last = "[plugins.retention]\ncomponent = \"retention-last.wasm\"\n";
    let folder = folder_with(last);
    let _ = run(&folder, &["plugins", "audit", "--write"]).expect_code(0);
    let _ = run(&folder, &["plugins", "audit", "--strict"]).expect_code(0);
    let lock = folder.path().join("capabilities.lock");
    let reviewed = std::fs::read_to_string(&lock).unwrap();

    let without = reviewed.replace("\"backup:host/object-write@0.2.0#put\", ", "");
    assert_ne!(reviewed, without);
    std::fs::write(&lock, &without).unwrap();
    let grown = run(&folder, &["plugins", "audit"]);
    complains(&grown, 64, "`dump` now imports backup:host/object-write@0.2.0#put");

    // Another component may do something else with the same capabilities.
    let other = reviewed.replace("sha256 = \"", "sha256 = \"0");
    std::fs::write(&lock, other).unwrap();
    complains(&run(&folder, &["plugins", "audit"]), 64, "has sha256");

    // An unreadable lock is reported, and the reviewer can write it again.
    std::fs::write(&lock, &reviewed[..reviewed.len() / 2]).unwrap();
    complains(&run(&folder, &["plugins", "audit"]), 64, "cannot be read");
    let _ = run(&folder, &["plugins", "audit", "--write"]).expect_code(0);
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), reviewed);
    let _ = run(&folder, &["plugins", "audit", "--locked"]).expect_code(0);
    for (changed, says) in [
        (format!("{last}settings = {{ keep = 3 }}\n"), "`retention` has the settings {\"keep\":3} instead of {}"),
        (format!("{last}limits = {{ memory_mib = 128 }}\n"), "`retention` now has the limits memory_mib 128"),
        (
            format!("{last}{FINGERPRINT}filters = {{ llx_societe = \"nom\" }}\n"),
            "`fingerprint` now may leave out rows by public.llx_societe#nom",
        ),
    ] {
        let other = folder_with(&changed);
        std::fs::write(other.path().join("capabilities.lock"), &reviewed).unwrap();
        complains(&run(&other, &["plugins", "audit"]), 64, says);
    }

    std::fs::remove_file(&lock).unwrap();
    let _ = run(&folder, &["plugins", "audit"]).expect_code(0);
    complains(&run(&folder, &["plugins", "audit", "--locked"]), 64, "there is no ");
    std::fs::write(&lock, "no lock file").unwrap();
    complains(&run(&folder, &["plugins", "audit"]), 64, "capabilities.lock cannot be read");
}

#[test]
fn which_rows_a_plugin_may_read_is_shown_column_by_column_and_one_more_fails_the_audit() {
    let tables = |columns: &str| {
        format!(
            "[env.prod.sources.db]\nkind = \"postgres\"\nhost = \"192.0.2.1\"\ndatabase = \"erp\"\ncredentials = {{ user = \"u\" }}\n\
             [plugins.crosscheck]\ncomponent = \"crosscheck-dolibarr.wasm\"\ngrants = [\"table-rows\", \"documents-digests\"]\n{columns}"
        )
    };
    let audit = |folder: &tempfile::TempDir| run(folder, &["plugins", "audit", "--json"]).json();
    let reaches = |audit: &Value, interface: &str| -> String {
        let plugins = audit["plugins"].as_array().unwrap();
        let plugin = plugins.iter().find(|plugin| plugin["role"] == "crosscheck").unwrap();
        let lines = plugin["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["interface"].as_str().unwrap().contains(interface)).unwrap();
        assert_eq!(line["verdict"], "granted");
        line["scope"][0].as_str().unwrap().to_owned()
    };
    let folder = folder_with(&tables(""));
    assert_eq!(reaches(&audit(&folder), "table-rows"), "nothing: `tables` names no table");
    assert_eq!(reaches(&audit(&folder), "documents-digests"), "prod/docs");

    let folder = folder_with(&tables("tables = { llx_ecm_files = [\"rowid\", \"label\"] }"));
    assert_eq!(reaches(&audit(&folder), "table-rows"), "prod/db: llx_ecm_files (rowid, label)");
    let _ = run(&folder, &["plugins", "audit", "--write"]).expect_code(0);
    let config = folder.path().join("dolibarr-backup.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"label\"]", "\"label\", \"share\"]")).unwrap();
    complains(&run(&folder, &["plugins", "audit"]), 64, "`crosscheck` now may read llx_ecm_files#share");

    let shipped = folder_with(
        "[env.prod.sources.db]\nkind = \"postgres\"\nhost = \"h\"\ndatabase = \"erp\"\ncredentials = { user = \"u\" }\n",
    );
    let expected =
        "prod/db: llx_blockedlog (rowid, entity, signature), llx_ecm_files (rowid, entity, filepath, filename, label)";
    assert_eq!(reaches(&audit(&shipped), "table-rows"), expected);
    for (columns, says) in [
        ("tables = { llx_ecm_files = [] }", "`llx_ecm_files` in `tables` lists 0 columns"),
        ("tables = [\"llx_ecm_files\"]", "invalid type"),
        (
            "[plugins.retention]\ncomponent = \"retention-last.wasm\"\ntables = { t = [\"id\"] }",
            "[plugins.retention] has `tables`",
        ),
    ] {
        complains(&run(&folder_with(&tables(columns)), &["plugins", "audit"]), 64, says);
    }
}

#[test]
fn any_file_can_be_inspected_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let component = tests::binary::program().parent().unwrap().join("plugins/dump.wasm");
    let path = component.to_str().unwrap();
    let seen = Run::new(["plugins", "inspect", path, "--json"]).folder(folder.path()).finish().expect_code(0).json();
    assert_eq!(seen["world"], "dump");
    let needs: Vec<&str> = seen["imports"].as_array().unwrap().iter().filter_map(|i| i["needs"].as_str()).collect();
    assert_eq!(needs, ["database-dump", "tree-archive", "object-write"]);
    std::fs::write(folder.path().join("x.wasm"), "no component").unwrap();
    let none = Run::new(["plugins", "inspect", "x.wasm"]).folder(folder.path()).finish();
    complains(&none, 64, "x.wasm is not a WebAssembly component");
}

#[test]
fn a_setting_that_the_plugins_own_schema_refuses_ends_every_verb_that_runs_it() {
    for (settings, says) in [
        ("keep = -1", "the setting `keep` of the plugin `retention` is invalid"),
        ("keep = \"all\"", "the setting `keep` of the plugin `retention` is invalid"),
        ("kep = 3", "the plugin `retention` has no setting `kep`"),
    ] {
        let section =
            format!("[plugins.retention]\ncomponent = \"retention-last.wasm\"\nsettings = {{ {settings} }}\n");
        let folder = folder_with(&section);
        for verb in ["backup", "prune"] {
            complains(&run(&folder, &[verb, "--env", "prod"]), 64, says);
        }
        assert!(!folder.path().join("store/prod/snapshots").exists(), "something was saved");
    }
}

#[test]
fn years_of_the_shipped_retention_lose_nothing_and_the_last_fourteen_lose_months_and_years() {
    let folder = folder_with("");
    for pattern in ["office", "quiet", "holes"] {
        let arguments =
            ["plugins", "simulate", "--years", "11", "--pattern", pattern, "--json", "--now", "2026-07-01T12:00:00Z"];
        let tiered = run(&folder, &arguments).expect_code(0).json();
        assert_eq!(tiered["ever_lost"].as_array().unwrap().len(), 0, "{pattern}: {tiered}");
        assert!(tiered["snapshots"].as_u64().unwrap() < 80, "{pattern}: {tiered}");
    }
    let arguments =
        ["plugins", "simulate", "--component", "retention-last.wasm", "--settings", "keep = 14", "--years", "3"];
    let arguments = [&arguments[..], &["--now", "2026-07-01T12:00:00Z", "--json"]].concat();
    let last = run(&folder, &arguments).expect_code(0).json();
    let lost: Vec<&str> = last["lost"].as_array().unwrap().iter().map(|point| point.as_str().unwrap()).collect();
    assert!(lost.contains(&"month 2026-01") && lost.contains(&"day 2026-06-05"), "{lost:?}");
    assert!(!lost.iter().any(|point| point.starts_with("fiscal year")), "the guard keeps the legal floor: {lost:?}");
    assert!(!last["guard_kept"].as_array().unwrap().is_empty());
    assert!(!folder.path().join("store").exists(), "a simulation opens no store");
}

#[test]
fn a_diff_shows_on_the_real_catalogue_what_the_other_plugin_would_forget_and_changes_nothing() {
    let folder = folder_with("[guard]\nmax_forget = 1\n");
    for day in 1..=6 {
        std::fs::write(folder.path().join("documents/a.txt"), format!("{day}")).unwrap();
        let now = format!("2026-06-0{day}T01:00:00Z");
        let _ = run(&folder, &["backup", "--env", "prod", "--now", &now]).expect_code(0);
    }
    let listed = || run(&folder, &["list", "--env", "prod", "--json"]).expect_code(0).stdout;
    let before = listed();
    let arguments =
        ["plugins", "diff", "retention-tiered.wasm", "retention-last.wasm", "--settings", "keep = 2", "--env", "prod"];
    let arguments = [&arguments[..], &["--now", "2026-06-08T01:00:00Z", "--json"]].concat();
    let diff = run(&folder, &arguments).expect_code(0).json();
    let forgets: Vec<&str> =
        diff["retention"]["new_forgets"].as_array().unwrap().iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(forgets, ["20260601T010000Z", "20260602T010000Z", "20260603T010000Z", "20260604T010000Z"]);
    let (enters, later) = (&diff["retention"]["new_enters_bin"], &diff["retention"]["new_deferred"]);
    assert_eq!((enters.as_array().map(Vec::len), later.as_array().map(Vec::len)), (Some(1), Some(3)), "{diff}");
    assert_eq!(diff["retention"]["new_keeps"].as_array().unwrap().len(), 0);
    assert_eq!(listed(), before);
    let roles = run(&folder, &["plugins", "diff", "dump.wasm", "retention-last.wasm", "--env", "prod"]);
    complains(&roles, 2, "OLD is a dump plugin and NEW a retention plugin");
}

#[test]
fn a_plugin_that_would_forget_everything_fails_a_build_although_the_guard_stops_it_today() {
    let folder = folder_with("");
    let _ = run(&folder, &["backup", "--env", "prod", "--now", "2026-06-01T01:00:00Z"]).expect_code(0);
    let diff = |settings: &str, code: i32| {
        let two = ["plugins", "diff", "retention-tiered.wasm", "retention-last.wasm", "--settings", settings];
        let more = ["--env", "prod", "--now", "2026-06-01T02:00:00Z", "--fail-on", "forgets-more"];
        run(&folder, &[&two[..], &more].concat()).expect_code(code)
    };
    let nothing = diff("keep = 0, keep_nothing = true", 4);
    assert!(nothing.stdout.contains("the guard keeps 20260601T010000Z against NEW"), "{}", nothing.stdout);
    assert!(nothing.stderr.contains("NEW forgets 1 snapshot that OLD keeps"), "{}", nothing.stderr);
    let _ = diff("keep = 3", 0);
}

#[test]
fn the_log_adds_up_what_each_digest_did_in_the_runs_of_a_span() {
    let Some(scene) = Scene::small() else { return };
    let at = |day: u8| format!("2026-06-{day:02}T01:00:00Z");
    for day in [1, 20, 21] {
        let _ = scene.backup(&["--now", &at(day)]);
    }
    let log = |since: &str| {
        let arguments =
            ["--json", "plugins", "log", "--env", "prod", "--since", since, "--now", "2026-06-21T02:00:00Z"];
        scene.run(arguments).expect_code(0).json()
    };
    let of = |log: &Value, function: &str, scope: &str| -> Value {
        let deeds = log["deeds"].as_array().unwrap();
        let wanted = |deed: &&Value| deed["function"].as_str().unwrap().contains(function) && deed["scope"] == scope;
        deeds.iter().find(wanted).cloned().unwrap_or_else(|| panic!("no {function} in {log}"))
    };
    let all = log("30d");
    assert_eq!(all["runs"], 3);
    assert_eq!(of(&all, "database-evidence.content", "prod/db")["times"], 3);
    assert!(
        of(&all, "database-evidence.content", "prod/db")["items"].as_u64().unwrap() > 10,
        "the number of selected tables"
    );
    let idle = |deed: &Value| deed["plugin"] == "retention" && deed["function"] == "-";
    assert!(all["deeds"].as_array().unwrap().iter().any(idle), "a plugin that called nothing must be listed: {all}");
    let put = of(&all, "put", "prod/docs");
    assert_eq!((put["times"].as_u64(), put["calls"].as_u64()), (Some(1), Some(1)), "two days were unchanged");
    assert!(put["bytes"].as_u64().unwrap() > 10_000);
    assert_eq!(log("2d")["runs"], 2);
    let alone = |more: &[&str]| {
        let log = ["--json", "plugins", "log", "--env", "prod", "--now", "2026-06-21T02:00:00Z"];
        let log = scene.run(log.into_iter().chain(more.iter().copied())).expect_code(0).json();
        let deeds = log["deeds"].as_array().unwrap().iter().map(|deed| deed["plugin"].as_str().unwrap().to_owned());
        deeds.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(alone(&["--plugin", "dump"]), ["dump"]);
    assert_eq!(alone(&["--digest", put["sha256"].as_str().unwrap().get(..12).unwrap()]), ["dump"]);
    assert_eq!(alone(&["--digest", "00000000"]), Vec::<String>::new());
    let soon = scene.run(["plugins", "log", "--env", "prod", "--since", "soon"]).expect_code(2);
    assert!(
        soon.stderr.contains("`soon` is not a valid age; expected a number with a unit, such as 24h, 90m or 7d"),
        "{}",
        soon.stderr
    );
}

#[test]
fn the_archive_leaves_out_what_the_fingerprint_leaves_out() {
    let of = |plugin: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(plugin).join("settings.schema.json");
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        schema["properties"]["exclude"]["default"].clone()
    };
    assert!(of("dump").is_array());
    assert_eq!(of("dump"), of("fingerprint"));
}

#[test]
fn the_rules_of_a_world_are_tried_on_any_component_and_explained() {
    let built = tests::binary::program().parent().unwrap().to_owned();
    let check = |file: &str, settings: &str| {
        let file = built.join(file);
        Run::new(["plugins", "check", file.to_str().unwrap(), "--settings", settings])
            .env("HOME", built.to_str().unwrap())
            .finish()
    };
    let good = check("plugins/retention-tiered.wasm", "").expect_code(0).stdout;
    assert_eq!((good.matches("holds   it ").count(), good.matches("BROKEN").count()), (8, 0), "{good}");
    for (does, code, seen) in [
        ("name-twice", 71, "twice"),
        ("leave-out", 71, "leaves out the snapshot"),
        ("no-reasons", 71, "gives no reason"),
        ("forget-everything", 71, "it forgets the newest"),
        ("keep", 71, "it accepts the setting `no_plugin_has_this`"),
    ] {
        let bad = check("guests/hostile-retention.wasm", &format!("do = \"{does}\"")).expect_code(code);
        assert!(bad.stdout.contains(seen) && bad.stdout.contains("because "), "{does}: {}", bad.stdout);
        complains(&bad, code, "of the rules above");
    }
    complains(&check("plugins/absent.wasm", ""), 64, "cannot be read");
}

/// As a plugin author works: in a folder outside any repository, with only Rust and the binary.
#[test]
fn a_new_plugin_in_rust_is_built_outside_of_the_repository_packed_and_holds_to_every_rule() {
    let rustc = |arguments: &[&str]| {
        let output = std::process::Command::new("rustc").args(arguments).output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let target = "wasm32-unknown-unknown";
    let library = rustc(&["--print", "target-libdir", "--target", target]).unwrap_or_default();
    if !Path::new(&library).is_dir() {
        tests::skip("rustc has no target wasm32-unknown-unknown: rustup target add wasm32-unknown-unknown");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for world in ["retention", "fingerprint", "dump"] {
        let name = format!("{world}-of-a-test");
        let new = ["plugins", "new", world, &name];
        let _ = Run::new(new).folder(folder.path()).finish().expect_code(0);
        let twice = Run::new(new).folder(folder.path()).finish();
        complains(&twice, 64, "already exists");
        let own = folder.path().join(&name);
        let cargo = |arguments: &[&str]| {
            let mut cargo = std::process::Command::new("cargo");
            cargo.args(arguments).current_dir(&own).env("CARGO_TARGET_DIR", folder.path().join("target"));
            let output = cargo.env_remove("RUSTFLAGS").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{world}: {said}{}", String::from_utf8_lossy(&output.stderr));
            said
        };
        cargo(&["build", "--quiet", "--release", "--target", target]);
        // The other templates' tests need more crates.
        if world == "fingerprint" {
            assert!(cargo(&["test", "--quiet"]).contains("test result: ok"));
        }
        let module = folder.path().join("target").join(target).join("release").join(format!("{world}_of_a_test.wasm"));
        let component = own.join("plugin.wasm");
        let (module, component) = (module.to_str().unwrap(), component.to_str().unwrap());
        let _ = Run::new(["plugins", "pack", module, "--out", component]).finish().expect_code(0);
        let checked = Run::new(["plugins", "check", component]).env("HOME", own.to_str().unwrap()).finish();
        assert_eq!(checked.code, Some(0), "{world}: {}{}", checked.stdout, checked.stderr);
        complains(
            &Run::new(["plugins", "pack", component, "--out", component]).finish(),
            64,
            "cannot become a component",
        );
    }
}
