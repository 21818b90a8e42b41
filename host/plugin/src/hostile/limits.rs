//! Guests that try to exhaust the machine: time, stack, memory, threads, the log.

use super::*;

/// How long a call with a limit of one second may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_guest_that_exceeds_a_limit_is_stopped_and_named_in_every_world() {
    for role in ROLES {
        for (doing, expected) in [
            ("loop", "computed for more than 1 s in `"),
            ("recurse", "used more than 512 KiB of stack in `"),
            ("take-memory", "needs more than 64 MiB of memory in `"),
            ("panic", "panicked"),
        ] {
            let place = Place::new().await;
            let plugin = load(role, &format!("do = \"{doing}\""), "compute_seconds = 1");
            let begun = Instant::now();
            let error = place.call(&plugin).await.unwrap_err();
            assert!(begun.elapsed() < PATIENCE, "{} {doing} took {:?}", role.name(), begun.elapsed());
            assert_blamed(&error, role, Class::PluginTrapped, expected);
            assert!(error.message().contains(crate::short_digest(plugin.digest())), "{error}");
            assert!(error.advice().unwrap().contains("the plugin is at fault, not the data"), "{error:?}");
            place.assert_untouched().await;
        }
    }
}

#[tokio::test]
async fn the_hint_names_the_setting_that_raises_the_limit() {
    let place = Place::new().await;
    for (doing, setting) in [("loop", "compute_seconds"), ("take-memory", "memory_mib")] {
        let plugin = load(Role::Retention, &format!("do = \"{doing}\""), "compute_seconds = 1, memory_mib = 8");
        let error = place.call(&plugin).await.unwrap_err();
        assert!(error.advice().unwrap().contains(setting), "{error:?}");
    }
    let plenty = load(Role::Retention, "do = \"keep\"", "compute_seconds = 18446744073709551615, memory_mib = 100000");
    assert!(place.call(&plenty).await.is_ok());
}

#[tokio::test]
async fn a_guest_that_computes_does_not_block_others() {
    let place = Place::new().await;
    let (endless, honest) =
        (load(Role::Retention, "do = \"loop\"", "compute_seconds = 2"), load(Role::Retention, "do = \"keep\"", ""));
    let stopped = async { (place.call(&endless).await, Instant::now()) };
    let kept = async { (place.call(&honest).await, Instant::now()) };
    let ((stopped, stopped_at), (kept, kept_at)) = tokio::join!(stopped, kept);
    assert!(stopped.is_err() && kept.is_ok());
    assert!(kept_at < stopped_at, "both run on one thread, and the honest guest had to wait");
}

#[tokio::test]
async fn a_guest_that_calls_the_host_forever_hits_a_limit() {
    let place = Place::new().await;
    let plugin = load(Role::Fingerprint, "do = \"ask-for-ever\"", "call_seconds = 1");
    let error = place.call(&plugin).await.unwrap_err();
    assert_blamed(&error, Role::Fingerprint, Class::PluginTrapped, "did not finish `of-tree` within 1 s");
    assert!(error.advice().unwrap().contains("call_seconds"), "{error:?}");
    place.assert_untouched().await;
}

#[tokio::test]
async fn a_call_that_times_out_during_an_upload_leaves_nothing() {
    let place = Place::new().await;
    let endless = std::fs::File::create(place.folder.path().join("docs/endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let plugin = load(Role::Dump, "do = \"store\"", "call_seconds = 2");
    let watched = async {
        while files(&place.folder.path().join("store")).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (called, ()) = tokio::join!(place.call(&plugin), watched);
    assert_blamed(&called.unwrap_err(), Role::Dump, Class::PluginTrapped, "did not finish `dump-tree` within 2 s");
    place.assert_untouched().await;
}

#[tokio::test]
async fn too_many_streams_are_refused_before_they_cost_anything() {
    for doing in ["open-for-ever", "open-and-drop-for-ever"] {
        let place = Place::new().await;
        let plugin = load(Role::Dump, &format!("do = \"{doing}\""), "");
        let called = plugin.dump_tree(&stamp().to_string(), ArchiveTree(place.tree.clone()), place.prefix()).await;
        assert_blamed(&called.result.unwrap_err(), Role::Dump, Class::PluginTrapped, "opened more than 4 streams");
        assert_eq!(called.tally[&("tree-archive.open", "prod/docs".to_owned())].calls, 5, "the refused one is counted");
        place.assert_untouched().await;
    }
}

#[tokio::test]
async fn a_trap_with_an_open_stream_stops_its_producer() {
    let place = Place::new().await;
    let endless = std::fs::File::create(place.folder.path().join("docs/endless")).unwrap();
    endless.set_len(1 << 40).unwrap();
    let error = place.call(&load(Role::Dump, "do = \"panic-with-stream\"", "")).await.unwrap_err();
    assert_blamed(&error, Role::Dump, Class::PluginTrapped, "panicked");
    place.assert_untouched().await;
}

#[tokio::test]
async fn an_oversized_answer_is_not_copied() {
    let place = Place::new().await;
    for (role, doing) in [
        (Role::Fingerprint, "do = \"ask\", pattern = \"x\", count = 20000000"),
        (Role::Retention, "do = \"many-decisions\", count = 3000000"),
    ] {
        let error = place.call(&load(role, doing, "memory_mib = 1024")).await.unwrap_err();
        assert_blamed(&error, role, Class::PluginTrapped, "was stopped: ");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_limited_and_each_stays_on_one_line() {
    let place = Place::new().await;
    let text = quoted(&format!("AKIAIOSFODNN7EXAMPLE\u{1b}]0;title\u{7}\r\n\u{202e}{}", "x".repeat(100_000)));
    let table = [
        (load(Role::Retention, "do = \"log-for-ever\"", "compute_seconds = 1"), 201, false),
        (load(Role::Retention, &format!("do = \"log-once\", text = {text}"), ""), 1, true),
    ];
    for (plugin, lines, succeeds) in table {
        let log = Log::default();
        let guard = log.begin();
        let answer = place.call(&plugin).await;
        drop(guard);
        assert_eq!(answer.is_ok(), succeeds, "{answer:?}");
        let logged = log.text();
        let own: Vec<&str> = logged.split_inclusive('\n').filter(|line| line.contains("plugin=retention")).collect();
        assert_eq!(own.len(), lines, "{logged}");
        assert_eq!(own.concat(), logged, "each line names the plugin");
        assert!(
            own.iter().all(|line| line.len() < 1_200 && !line.trim_end_matches('\n').chars().any(char::is_control))
        );
        assert!(!logged.contains('\u{202e}'));
    }
}
