//! Credentials from a Secret are read into memory, read again for every connection, and never shown.

use super::Laptop;
use crate::scene::{DATABASE, PASSWORD, ROLE, Scene, complains};
use std::process::Stdio;
use tests::kubernetes::Kubernetes;

/// The password after it was changed.
const ROTATED: &str = "canary-pg-rotated-77aa";

/// The password after it was changed in the middle of a run.
const ROTATED_IN_A_RUN: &str = "canary-pg-rotated-in-a-run-4b19";

#[test]
fn a_store_and_a_database_are_reached_with_credentials_of_a_secret_and_a_rotation_is_followed() {
    let Some(cluster) = Kubernetes::shared() else { return };
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let (laptop, garage) = (Laptop::without_rights(&cluster), scene.garage.clone().unwrap());
    let put = |name: &str, values: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {} }}\nstringData: {{ {values} }}\n",
            laptop.storage
        ));
    };
    put(
        "s3",
        &format!(
            "AWS_ACCESS_KEY_ID: {}, AWS_SECRET_ACCESS_KEY: {}, AWS_ENDPOINTS: '{}'",
            garage.key_id(),
            garage.secret(),
            garage.endpoint()
        ),
    );
    put("db", &format!("username: {ROLE}, password: {PASSWORD}"));

    let files = |credentials: &std::path::Path| format!("{{ files = \"{}\" }}", credentials.display());
    let of_secret = |name: &str| format!("{{ kube_secret = \"{}/{name}\" }}", laptop.storage);
    let edit = |text: &str| {
        let endpoint = format!("endpoint = \"{}\"\n", garage.endpoint());
        text.replace(&files(&garage.credentials()), &of_secret("s3"))
            .replace(&files(&scene.folder.path().join("credentials")), &of_secret("db"))
            .replace(&endpoint, "")
            + &format!("\n[kubernetes]\nkubeconfig = \"{}\"\n", laptop.kubeconfig.display())
    };
    let run = |arguments: &[&str]| scene.edited(edit, arguments).without_init().finish();
    let backup = ["--json", "backup", "--env", "prod", "--force"];

    complains(&run(&["list", "--env", "prod"]), 64, "get secrets `s3`");
    cluster.grant(&laptop.user, Some(&laptop.storage), "- { apiGroups: [''], resources: [secrets], verbs: [get] }");
    let _ = run(&["init", "--env", "prod"]).expect_code(0);
    let saved = run(&backup).expect_code(0);
    assert_eq!(
        run(&["--json", "list", "--env", "prod"]).expect_code(0).json()["snapshots"].as_array().unwrap().len(),
        1
    );

    scene.server.psql(DATABASE, &format!("ALTER ROLE {ROLE} PASSWORD '{ROTATED}'"));
    assert_ne!(run(&backup).code, Some(0), "the run succeeded although the Secret has the old password");
    put("db", &format!("username: {ROLE}, password: {ROTATED}"));
    let rotated = run(&backup).expect_code(0);
    for text in [&saved.stdout, &saved.stderr, &rotated.stdout, &rotated.stderr] {
        assert!(![PASSWORD, ROTATED, garage.secret()].iter().any(|secret| text.contains(secret)), "{text}");
    }

    // A run that waits for a lock is halfway: its database snapshot is open, but pg_dump has not logged in yet.
    let lock = "BEGIN; LOCK TABLE llx_user IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(100)";
    let mut locking = scene.server.client("psql");
    locking.args(["--dbname", DATABASE, "--command", lock]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut locking = locking.spawn().unwrap();
    let counts = |what: &str| scene.server.psql(DATABASE, &format!("SELECT count(*) FROM {what}")).trim() != "0";
    let held = "pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'llx_user'::regclass";
    cluster.wait("lock", || counts(held).then_some(()));
    let run_on = scene.edited(edit, &backup).without_init().start();
    let waits = "pg_stat_activity WHERE application_name = 'dolibarr-backup' AND wait_event_type = 'Lock'";
    cluster.wait("run that waits for a lock", || counts(waits).then_some(()));
    scene.server.psql(DATABASE, &format!("ALTER ROLE {ROLE} PASSWORD '{ROTATED_IN_A_RUN}'"));
    put("db", &format!("username: {ROLE}, password: {ROTATED_IN_A_RUN}"));
    scene.server.psql(DATABASE, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)' AND pid <> pg_backend_pid()");
    let survived = run_on.finish().expect_code(0);
    assert!(!survived.stderr.contains(ROTATED_IN_A_RUN), "{}", survived.stderr);
    drop(locking.wait());

    let audit = cluster.audit(&laptop.user);
    let refused = audit.iter().filter(|event| event["responseStatus"]["code"] == 403).count();
    assert!(audit.iter().all(|event| event["verb"] == "get" && event["objectRef"]["resource"] == "secrets"));
    let of_store = audit.iter().filter(|event| event["objectRef"]["name"] == "s3").count() - refused;
    assert!(of_store <= 15, "the store's Secret should be read once a minute, not for every request: {of_store}");

    cluster.kubectl(&["delete", "secret", "s3", "--namespace", &laptop.storage], "");
    complains(&run(&["list", "--env", "prod"]), 64, &format!("has no Secret {}/s3", laptop.storage));
    put("s3", "AWS_ACCESS_KEY_ID: x");
    complains(&run(&["list", "--env", "prod"]), 64, "has no key `AWS_SECRET_ACCESS_KEY`");
}
