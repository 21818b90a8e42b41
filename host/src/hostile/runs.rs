//! Whole runs with a misbehaving guest.

use super::*;
use crate::report::Report;
use crate::retention;
use crate::session::Session;
use crate::verbs::accept;
use crate::verbs::backup;
use crate::verbs::init;
use ::tests::guests::files;
use catalogue::history;
use jiff::SignedDuration;

/// A documents folder, a store, and runs on it day after day.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { folder: documents_folder() }
    }

    fn store(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.folder.path().join("store"))
    }

    /// `dump` and `retention` are the settings of these guests, as the contents of TOML tables.
    async fn session(&self, dump: &str, retention: &str, now: Timestamp) -> Session {
        let at = self.folder.path().display();
        let constant = "settings = { do = \"least\" }";
        let text = format!(
            "[store]\nurl = \"file://{at}/store\"\n[env.prod.sources.docs]\nkind = \"directory\"\npath = \"{at}/docs\"\n\
             [plugins.fingerprint]\n{}[plugins.dump]\n{}[plugins.retention]\n{}[guard]\nlegal_years = 0\n",
            section(Role::Fingerprint, &guest(Role::Fingerprint), constant),
            section(Role::Dump, &guest(Role::Dump), &format!("settings = {{ {dump} }}")),
            section(Role::Retention, &guest(Role::Retention), &format!("settings = {{ {retention} }}")),
        );
        Session::open(crate::config::Config::parse(&text).unwrap(), "prod", None, now).await.unwrap()
    }

    async fn run(&self, dump: &str, retention: &str, now: Timestamp) -> Result<Report> {
        let mut session = self.session(dump, retention, now).await;
        session.clock = session.clock.moved_by(now.duration_since(machine()));
        init::run(&session).await?;
        backup::run(&session, &backup::Arguments::default(), now, std::future::pending()).await
    }

    /// Honest runs, one a day up to yesterday.
    async fn history(&self, days: i64) {
        for ago in (1..=days).rev() {
            let taken = now() - SignedDuration::from_hours(24 * ago);
            let report = self.run("", KEEP, taken).await.unwrap();
            assert_eq!(report.failure, None);
        }
    }
}

/// The time of the machine that holds the store.
#[expect(clippy::disallowed_methods, reason = "the store's files have the machine's time")]
fn machine() -> Timestamp {
    Timestamp::now()
}

/// The objects of a store.
fn objects(store: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<PathBuf, Vec<u8>> {
    let kept = |path: &Path| path.to_string_lossy().contains("/docs/");
    store.iter().filter(|(path, _)| kept(path)).map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
}

const KEEP: &str = "do = \"keep\"";

#[tokio::test]
async fn a_dump_plugin_that_lies_fails_its_source_and_leaves_no_object() {
    let scene = Scene::new();
    scene.history(1).await;
    let before = objects(&scene.store());
    assert_eq!(before.len(), 2, "an archive and its index: {:?}", before.keys());
    let table = [
        ("dump = { do = \"store-as\", name = \"../STAMP.tar.gz\" }", Class::PluginRefused, "named an object `"),
        ("dump = { do = \"store-as-and-pretend\", name = \"../x\" }", Class::PluginRefused, "stored 0 objects"),
        ("dump = { do = \"never-store\" }", Class::PluginRefused, "stored 0 objects"),
        ("dump = { do = \"other-receipt\" }", Class::PluginRefused, "a receipt that the host did not issue"),
        ("dump = { do = \"store-twice\", name = \"STAMP.tar.gz\" }", Class::PluginRefused, "asked for one object"),
        ("dump = { do = \"store-twice\", name = \"STAMP.index\" }", Class::PluginRefused, "asked for one object"),
        ("dump = { do = \"panic-after-storing\" }", Class::PluginTrapped, "panicked"),
        ("dump = { do = \"panic-with-stream\" }", Class::PluginTrapped, "panicked"),
        ("dump = { do = \"open-for-ever\" }", Class::PluginTrapped, "opened more than 4 streams"),
        ("dump = { do = \"fail-after-storing\", text = \"\\u001b[2J\" }", Class::PluginRefused, "failed in"),
        ("plan = { do = \"name-unknown\", source = \"\\u001b[2J\" }", Class::PluginRefused, "one decision for every"),
        ("plan = { do = \"name-twice\" }", Class::PluginRefused, "one decision for every"),
        ("plan = { do = \"leave-out\" }", Class::PluginRefused, "one decision for every"),
    ];
    for (dump, class, expected) in table {
        let report = scene.run(dump, KEEP, now()).await.expect(dump);
        assert_blamed(&report.failure.expect(dump), Role::Dump, class, expected);
        assert_eq!(report.document["snapshot"]["sources"]["docs"]["condition"], "failed", "{dump}");
        assert_eq!(report.document["retention"]["state"], "frozen", "{dump}");
        let after = objects(&scene.store());
        assert!(after == before, "{dump}: {:?} became {:?}", before.keys(), after.keys());
    }
}

#[tokio::test]
async fn a_source_is_carried_over_only_if_its_object_exists() {
    let scene = Scene::new();
    let carry = "plan = { do = \"carry-all\" }";
    let error = scene.run(carry, KEEP, now()).await.unwrap().failure.unwrap();
    assert_blamed(
        &error,
        Role::Dump,
        Class::PluginRefused,
        "`prod/docs` as unchanged, but the store has no object of it",
    );
    assert_eq!(objects(&scene.store()), BTreeMap::new());

    let scene = Scene::new();
    scene.history(1).await;
    let report = scene.run(carry, KEEP, now()).await.unwrap();
    assert_eq!(report.document["snapshot"]["sources"]["docs"]["outcome"], "unchanged");

    let object = scene.store().into_keys().find(|path| path.to_string_lossy().ends_with(".tar.gz")).unwrap();
    std::fs::remove_file(object).unwrap();
    let before = objects(&scene.store());
    let report = scene.run(carry, KEEP, now() + SignedDuration::from_hours(1)).await.unwrap();
    let error = report.failure.unwrap();
    assert_blamed(&error, Role::Dump, Class::PluginRefused, "the store has no object of it");
    assert_eq!(objects(&scene.store()), before);
}

#[tokio::test]
async fn a_huge_reason_with_escapes_is_recorded_as_one_short_line() {
    let scene = Scene::new();
    let text = quoted(&"\u{1b}[2J\n".repeat(1_000_000));
    let report = scene.run(&format!("plan = {{ do = \"reason\", text = {text} }}"), KEEP, now()).await.unwrap();
    let reason = report.document["snapshot"]["sources"]["docs"]["reason"].as_str().unwrap();
    assert!(reason.len() <= 1_003 && !reason.chars().any(char::is_control), "{} bytes", reason.len());
    assert!(!report.text.replace('\n', "").chars().any(char::is_control));
}

/// Accepts the other retention, as a person would.
async fn accepted(scene: &Scene, retention: &str) {
    let mut session = scene.session("", retention, now()).await;
    session.clock = session.clock.moved_by(now().duration_since(machine()));
    let report = accept::run(&session, &accept::Arguments::default()).await.unwrap();
    assert_eq!(report.failure, None);
}

#[tokio::test]
async fn an_invalid_retention_plan_forgets_nothing() {
    let scene = Scene::new();
    scene.history(4).await;
    let before = scene.store();
    for (doing, expected) in [
        ("do = \"name-unknown\", id = \"20200101T000000Z\"", "names an unknown snapshot `20200101T000000Z`"),
        ("do = \"name-unknown\", id = \"\\u001b[2J\"", "an unknown snapshot"),
        ("do = \"name-unknown\", id = \"\"", "an unknown snapshot"),
        ("do = \"name-twice\"", "twice"),
        ("do = \"leave-out\"", "leaves out the snapshot"),
        ("do = \"no-reasons\"", "gives no reason"),
        ("do = \"many-decisions\", count = 100000", "an unknown snapshot"),
    ] {
        let session = scene.session("", doing, now()).await;
        let plugin = session.plugin(Role::Retention).await.unwrap();
        let history =
            history::load(&session.store, &session.environment, &session.sources.configured, now()).await.unwrap();
        let planned = retention::plan_of(&session, &plugin, &history, now(), true).await;
        assert_blamed(&planned.map(|_| ()).unwrap_err(), Role::Retention, Class::PluginRefused, expected);
    }
    let after_the_last = now() + SignedDuration::from_hours(1);
    accepted(&scene, "do = \"panic\"").await;
    let report = scene.run("", "do = \"panic\"", after_the_last).await.unwrap();
    assert_eq!(report.failure.as_ref().map(Error::class), Some(Class::RetentionIncomplete));
    assert_blamed(report.failure.as_ref().unwrap(), Role::Retention, Class::RetentionIncomplete, "panicked");
    let after = scene.store();
    assert!(before.iter().all(|(path, bytes)| path.ends_with(".fp-docs") || after.get(path) == Some(bytes)));
    assert!(after.len() > before.len(), "the snapshot itself is committed");
}

#[tokio::test]
async fn a_plan_that_forgets_everything_deletes_nothing_at_once_and_keeps_the_newest() {
    let scene = Scene::new();
    scene.history(4).await;
    accepted(&scene, "do = \"forget-everything\"").await;
    let before = scene.store();
    let report = scene.run("", "do = \"forget-everything\"", now()).await.unwrap();
    assert_eq!(report.failure, None);
    let after = scene.store();
    let kept = |path: &&PathBuf| !path.to_string_lossy().contains("/.fp-");
    assert!(before.keys().filter(kept).all(|path| after.contains_key(path)), "something was deleted in one step");
    let binned = report.document["retention"]["binned"].as_array().unwrap();
    assert_eq!(binned.len(), 4, "all but the newest: {binned:?}");
    let back = scene.run("", KEEP, now() + SignedDuration::from_hours(24)).await.unwrap();
    assert_eq!(back.document["retention"]["taken_back"].as_array().map(Vec::len), Some(4));
    assert!(!scene.store().keys().any(|path| path.to_string_lossy().contains("/forgotten/")));
}

#[tokio::test]
async fn huge_reasons_with_escapes_become_short_lines_in_the_certificate() {
    let scene = Scene::new();
    scene.history(2).await;
    for doing in ["do = \"long-reason\", bytes = 10485760", "do = \"reason\", text = \"\\u001b[2J\\r\\n\""] {
        let session = scene.session("", doing, now()).await;
        let plugin = session.plugin(Role::Retention).await.unwrap();
        let history =
            history::load(&session.store, &session.environment, &session.sources.configured, now()).await.unwrap();
        let planned = retention::plan_of(&session, &plugin, &history, now(), false).await.unwrap();
        let reasons: Vec<&String> = planned.plan.values().flat_map(|decision| &decision.reasons).collect();
        assert!(reasons.iter().all(|reason| reason.len() <= 1_003 && !reason.chars().any(char::is_control)), "{doing}");
    }
}
