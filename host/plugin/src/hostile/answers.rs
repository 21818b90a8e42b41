//! Guests that give unrequested answers, and how their text is sanitised.

use super::*;

const ESCAPES: &str = "\u{1b}[2J\u{7}\r\nforged line\u{202e}\0";

#[tokio::test]
async fn a_fingerprint_of_nothing_is_refused() {
    let place = Place::new().await;
    let error = place.call(&load(Role::Fingerprint, "do = \"nothing\"", "")).await.unwrap_err();
    assert_blamed(
        &error,
        Role::Fingerprint,
        Class::PluginRefused,
        "it measured nothing, so every day would look unchanged",
    );
    assert!(place.call(&load(Role::Fingerprint, "do = \"least\"", "")).await.is_ok());
}

#[tokio::test]
async fn a_guests_error_text_is_shown_without_control_characters() {
    let place = Place::new().await;
    for (kind, class) in [
        ("denied", Class::Config),
        ("not-found", Class::PluginRefused),
        ("permanent", Class::PluginRefused),
        // A guest has no services of its own, and an unavailable service would be retried again and again.
        ("transient", Class::PluginRefused),
    ] {
        for text in [ESCAPES.to_owned(), ESCAPES.repeat(100_000), String::new()] {
            let doing = format!("do = \"fail\", kind = \"{kind}\", text = {}", quoted(&text));
            let error = place.call(&load(Role::Retention, &doing, "")).await.unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            assert!(error.message().contains("the plugin `retention`"), "{error}");
            assert!(error.message().contains("failed in `plan`"), "{error}");
            assert_presentable(&error);
        }
    }
}

#[tokio::test]
async fn too_many_or_invalid_patterns_are_refused_and_name_the_plugin() {
    let place = Place::new().await;
    let long = "x".repeat(100_000);
    for (pattern, count, expected) in [
        ("x", 100_000, "100000 exclude patterns"),
        (long.as_str(), 1, "is longer than"),
        ("", 1, "an exclude pattern is empty"),
        ("a[\u{1b}[2J", 1, "is not a glob"),
        (ESCAPES, 1, "that no pattern can hold"),
    ] {
        let doing = format!("do = \"ask\", pattern = {}, count = {count}", quoted(pattern));
        let error = place.call(&load(Role::Fingerprint, &doing, "")).await.unwrap_err();
        assert_eq!(error.class(), Class::PluginRefused, "{error}");
        assert!(error.message().contains(expected), "{error}");
        assert!(error.message().contains("the plugin `fingerprint`"), "does not name the plugin: {error}");
        assert_presentable(&error);
    }
}

#[tokio::test]
async fn the_largest_lists_of_patterns_are_compiled_quickly() {
    let place = Place::new().await;
    for pattern in ["{a,b}".repeat(800), "*a".repeat(2_000), "**/".repeat(1_300)] {
        let doing = format!("do = \"ask\", pattern = {}, count = 1000", quoted(&pattern));
        let begun = Instant::now();
        let error = place.call(&load(Role::Fingerprint, &doing, "")).await.unwrap_err();
        assert!(error.message().contains("bytes, more than 65536 together"), "{error}");
        let count = (64 << 10) / pattern.len();
        let doing = format!("do = \"ask\", pattern = {}, count = {count}", quoted(&pattern));
        assert!(place.call(&load(Role::Fingerprint, &doing, "")).await.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(20), "{}… took {:?}", &pattern[..10], begun.elapsed());
    }
}

#[tokio::test]
async fn excess_reasons_are_counted_but_not_kept() {
    let plugin = load(Role::Retention, "do = \"many-reasons\", count = 1000000", "");
    let plan = plugin.plan_retention(now(), "Europe/Paris", &snapshots(2)).await.result.unwrap();
    assert_eq!(plan.decisions[0].reasons.len(), 101);
    assert_eq!(plan.decisions[0].reasons[100], "and 999900 more");
    assert_eq!(plan.decisions[1].reasons, ["kept"]);
}

#[tokio::test]
async fn an_object_without_the_runs_stamp_in_its_name_is_refused_and_not_stored() {
    let place = Place::new().await;
    let long = "x".repeat(10_000);
    let names = [
        "",
        ".",
        "..",
        "/",
        "/etc/cron.d/x",
        "../STAMP.tar.gz",
        "../../sandbox/docs/STAMP.tar.gz",
        "sandbox/docs/STAMP.tar.gz",
        "prod/docs/STAMP.tar.gz",
        "../snapshots/STAMP.json",
        "STAMP",
        "STAMP.",
        "STAMP..",
        "STAMP.tar.",
        "STAMP..gz",
        "STAMP.tar/gz",
        "STAMP.tar.gz/..",
        "STAMP.TAR",
        "STAMP.tar.gz\n",
        "STAMP.\u{1b}[2J",
        "STAMP.é",
        "STAMP.abcdefghijklmnopq",
        "20200101T000000Z.tar.gz",
        "xSTAMP.tar.gz",
        "STAMPx.tar.gz",
        "STAMP\0.tar.gz",
        &long,
        &format!("STAMP.{long}"),
    ];
    let mut plugin = load(Role::Dump, "do = \"store\"", "");
    for name in names {
        plugin.settings = serde_json::json!({ "dump": { "do": "store-as", "name": name } }).to_string();
        let error = place.call(&plugin).await.unwrap_err();
        assert_blamed(
            &error,
            Role::Dump,
            Class::PluginRefused,
            "was refused in `dump-tree`: the plugin named an object `",
        );
    }
    place.assert_untouched().await;
    plugin.settings = serde_json::json!({ "dump": { "do": "store-as", "name": "STAMP.abcdefghijklmnop" } }).to_string();
    assert_eq!(place.call(&plugin).await.unwrap(), format!("prod/docs/{}.abcdefghijklmnop", stamp()), "the longest");
}
