//! The status of a fleet, from a laptop: the chart's own ConfigMaps in a real API server, with real stores.

use crate::scene::{DATABASE, Scene, complains};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::binary::{Outcome, Run};
use tests::garage::Garage;
use tests::helm::Helm;
use tests::kubernetes::Kubernetes;

/// The time at which the laptop runs `status`.
const NOW: &str = "2026-06-30T12:00:00Z";

/// The instances: one is backed up every day, one no longer is, one has lost its store, one has the key of another by
/// mistake, and the laptop's user has no rights for the last.
const INSTANCES: [&str; 5] = ["good", "stale", "gone", "wrong", "locked"];

/// The folder of a plugin that exists in the pods of one instance but not on the laptop.
const OF_THE_PODS: &str = "/plugins/config-map/";

/// One release of the chart with all instances, and the laptop.
struct Fleet {
    cluster: Arc<Kubernetes>,
    scene: Scene,
    garage: Arc<Garage>,
    namespaces: BTreeMap<&'static str, String>,
    user: String,
    kubeconfig: PathBuf,
}

impl Fleet {
    /// If Helm, Kubernetes, PostgreSQL or Garage is not installed, returns `None` and records the skip.
    fn new() -> Option<Self> {
        let engine = Helm::installed()?;
        let cluster = Kubernetes::shared()?;
        let scene = Scene::small().and_then(Scene::on_garage)?;
        let user = format!("laptop-{:08x}", rand::random::<u32>());
        let fleet = Self {
            garage: scene.garage.clone()?,
            namespaces: INSTANCES.map(|name| (name, cluster.namespace())).into(),
            kubeconfig: cluster.kubeconfig(&user),
            scene,
            cluster,
            user,
        };
        fleet.install(&engine);
        Some(fleet)
    }

    fn values(&self) -> Value {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let entries = INSTANCES.map(|name| {
            let mut entry = json!({
                "name": name,
                "namespace": self.namespaces[name],
                "database": { "name": name },
                "documents": { "claimName": "documents" },
                "watchers": [{ "kind": "User", "name": self.user, "apiGroup": "rbac.authorization.k8s.io" }],
            });
            match name {
                "gone" => entry["store"] = json!({ "endpoint": format!("http://{closed}") }),
                "locked" => entry["watchers"] = json!([]),
                "stale" => {
                    let component = format!("{OF_THE_PODS}retention-last.wasm");
                    entry["plugins"] = json!({ "retention": { "component": component } });
                }
                _ => {}
            }
            entry
        });
        json!({
            "image": { "repository": "registry.example.org/dolibarr-backup" },
            "backup": { "enabled": true },
            "store": {
                "url": format!("s3://{}/fleet-{:08x}", Garage::BUCKET, rand::random::<u32>()),
                "endpoint": self.garage.endpoint(),
                "region": Garage::REGION,
                "profile": "garage",
                "secretName": "store",
                "vault": { "enabled": false },
            },
            "database": { "host": "127.0.0.1", "port": self.scene.server.port() },
            "fleet": entries,
        })
    }

    /// Creates the objects that the laptop reads in the API server, with the Secrets that an operator would create, and
    /// makes the backups of the CronJobs.
    fn install(&self, engine: &Helm) {
        let request = json!([{ "helm": 4, "name": "erp", "namespace": "default", "values": self.values() }]);
        let answer = engine.ask(&request).unwrap().remove(0);
        let documents = answer["documents"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let wanted =
            |document: &&Value| ["ConfigMap", "Role", "RoleBinding"].map(Value::from).contains(&document["kind"]);
        let items: Vec<&Value> = documents.iter().filter(wanted).collect();
        self.cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string());
        for name in INSTANCES {
            let secret = if name == "wrong" { "another-ones" } else { self.garage.secret() };
            self.cluster.apply(&format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{ name: store, namespace: {} }}\n\
                 stringData: {{ AWS_ACCESS_KEY_ID: {}, AWS_SECRET_ACCESS_KEY: {secret} }}\n",
                self.namespaces[name],
                self.garage.key_id()
            ));
        }
        for (name, at) in [("good", "2026-06-30T10:00:00Z"), ("stale", "2026-06-27T10:00:00Z"), ("locked", NOW)] {
            self.back_up(name, at, items.iter().copied());
        }
    }

    fn back_up<'a>(&self, name: &str, at: &str, mut items: impl Iterator<Item = &'a Value>) {
        let folder = self.scene.folder.path();
        let map =
            items.find(|item| item["kind"] == "ConfigMap" && item["metadata"]["namespace"] == *self.namespaces[name]);
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let text = map.unwrap()["data"]["dolibarr-backup.toml"].as_str().unwrap();
        let text = text
            .replace("/run/secrets/s3", &path(&self.garage.credentials()))
            .replace("/run/secrets/db", &path(&folder.join("credentials")))
            .replace("/var/www/documents", &path(&self.scene.documents))
            .replace(OF_THE_PODS, "")
            .replace("/tmp/components", &path(&folder.join("components")))
            .replace(&format!("database = \"{name}\""), &format!("database = \"{DATABASE}\""));
        let file = path(&folder.join(format!("{name}.toml")));
        std::fs::write(&file, text).unwrap();
        let _ = Run::new(["--config", &file, "backup", "--env", name, "--now", at]).finish().expect_code(0);
    }

    /// Runs `status --fleet` on the namespaces of some instances.
    fn look(&self, names: &[&str], more: &[&str]) -> Outcome {
        let namespaces: Vec<&String> = names.iter().map(|name| &self.namespaces[name]).collect();
        let text = format!(
            "[kubernetes]\nkubeconfig = \"{}\"\n[fleet]\nnamespaces = {}\n",
            self.kubeconfig.display(),
            json!(namespaces)
        );
        let file = self.scene.folder.path().join("laptop.toml");
        std::fs::write(&file, text).unwrap();
        let all = [&["--config", file.to_str().unwrap(), "status", "--fleet", "--now", NOW][..], more].concat();
        let outcome = Run::new(all).env("DOLIBARR_BACKUP_LOG", "debug").finish();
        for text in [&outcome.stdout, &outcome.stderr] {
            assert!(!text.contains(self.garage.secret()), "the key is shown: {text}");
        }
        outcome
    }

    /// The instances in the JSON output of `status --fleet`, by namespace.
    #[track_caller]
    fn seen(outcome: &Outcome) -> BTreeMap<String, Value> {
        let document = outcome.json();
        assert_eq!(document["format_version"], 1);
        let instances = document["instances"].as_array().unwrap().iter();
        instances.map(|of| (of["namespace"].as_str().unwrap().to_owned(), of.clone())).collect()
    }
}

#[test]
fn every_instance_is_a_line_and_none_hides_another() {
    let Some(fleet) = Fleet::new() else { return };
    let all = fleet.look(&INSTANCES, &["--json"]).expect_code(4);
    let seen = Fleet::seen(&all);
    assert_eq!((all.json()["healthy"].as_bool(), seen.len()), (Some(false), INSTANCES.len()));
    let of = |name: &str| &seen[&fleet.namespaces[name]];
    let table = [
        ("good", "healthy", Value::Null),
        ("stale", "stale", Value::Null),
        ("gone", "unavailable", json!(75)),
        ("wrong", "refused", json!(64)),
        ("locked", "refused", json!(64)),
    ];
    for (name, verdict, code) in table {
        let one = of(name);
        assert_eq!((&one["verdict"], &one["failure"]["exit_code"]), (&json!(verdict), &code), "{one}");
        assert_eq!(one["status"].is_null(), code != Value::Null, "{one}");
        let instance = if name == "locked" { Value::Null } else { json!(format!("erp-dolibarr-backup-{name}")) };
        assert_eq!(one["instance"], instance, "{one}");
    }
    let good = &of("good")["status"];
    assert_eq!((&good["environment"], &good["retention"]["state"]), (&json!("good"), &json!("applied")), "{good}");
    let unseen = &of("stale")["status"]["retention"];
    assert_eq!(unseen["state"], "unseen", "{unseen}");
    assert!(unseen["error"].as_str().unwrap().contains("a file in its pods"), "{unseen}");
    for source in ["db", "docs"] {
        assert_eq!(good["sources"][source]["last_success"], "2026-06-30T10:00:00Z", "{good}");
        assert_eq!(of("stale")["status"]["sources"][source]["last_success"], "2026-06-27T10:00:00Z");
    }
    assert!(of("locked")["failure"]["error"].as_str().unwrap().contains("list configmaps"), "{}", of("locked"));

    let shown = fleet.look(&INSTANCES, &[]);
    complains(&shown, 4, "stale");
    let line = |name: &str| {
        let mut lines = shown.stdout.lines();
        lines
            .find(|line| line.trim_start().starts_with(fleet.namespaces[name].as_str()))
            .unwrap_or_else(|| panic!("{}", shown.stdout))
            .to_owned()
    };
    for (name, says) in [
        ("good", &["db 2 hours", "docs 2 hours", "applied", "healthy"][..]),
        ("stale", &["db 3 days", "unknown", "stale"]),
        ("gone", &["erp-dolibarr-backup-gone", "unavailable"]),
        ("wrong", &["refused"]),
        ("locked", &["refused"]),
    ] {
        assert!(says.iter().all(|word| line(name).contains(word)), "{name}: {}", line(name));
    }
    assert!(shown.stdout.ends_with("1 of 5 are healthy\n"), "{}", shown.stdout);

    let metrics = fleet.look(&INSTANCES, &["--prometheus"]).expect_code(4).stdout;
    let labels = |name: &str| {
        format!("namespace=\"{}\",cronjob=\"erp-dolibarr-backup-{name}\",env=\"{name}\"", fleet.namespaces[name])
    };
    for (name, reachable) in [("good", 1), ("stale", 1), ("gone", 0), ("wrong", 0)] {
        let line = format!("dolibarr_backup_reachable{{{}}} {reachable}\n", labels(name));
        assert!(metrics.contains(&line), "`{line}` is not in {metrics}");
        let success = format!("dolibarr_backup_last_success_timestamp_seconds{{{},source=\"db\"}}", labels(name));
        assert_eq!(metrics.contains(&success), reachable == 1, "{metrics}");
        let retention = format!("dolibarr_backup_retention_ok{{{}}} 1", labels(name));
        assert_eq!(
            metrics.contains(&retention),
            name == "good",
            "an unknown retention state must be reported neither as good nor as bad: {metrics}"
        );
    }
}

#[test]
fn the_exit_code_is_that_of_the_worst_and_the_laptop_asks_for_no_more_than_its_role_allows() {
    let Some(fleet) = Fleet::new() else { return };
    let table: [(&[&str], i32); 5] = [
        (&["good"], 0),
        (&["good", "gone"], 75),
        (&["gone", "good", "wrong"], 64),
        (&["good", "locked"], 64),
        (&["wrong", "gone", "stale"], 4),
    ];
    for (names, code) in table {
        let outcome = fleet.look(names, &["--json"]);
        assert_eq!(outcome.code, Some(code), "{names:?}: {}", outcome.stderr);
    }
    complains(&fleet.look(&["locked"], &[]), 64, "list configmaps");
    let asked: BTreeSet<(String, String, String)> = fleet.cluster.audit(&fleet.user).iter().map(asked).collect();
    let expected = [("get", "secrets", "store"), ("list", "configmaps", "")];
    assert_eq!(asked, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).into());

    // Without a configuration, the command searches every namespace, which needs a right in the whole cluster.
    let folder = tempfile::tempdir().unwrap();
    let bare = || {
        let run = Run::new(["--json", "status", "--fleet", "--now", NOW]).folder(folder.path());
        run.env("KUBECONFIG", fleet.kubeconfig.to_str().unwrap()).finish()
    };
    let refused = bare();
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
    assert!(refused.stderr.contains("namespaces = "), "{}", refused.stderr);
    fleet.cluster.grant(&fleet.user, None, "- { apiGroups: [''], resources: [configmaps], verbs: [list] }");
    let seen = Fleet::seen(&bare().expect_code(4));
    let locked = &seen[&fleet.namespaces["locked"]];
    assert!(locked["failure"]["error"].as_str().unwrap().contains("get secrets `store`"), "{locked}");
    assert_eq!(seen[&fleet.namespaces["good"]]["verdict"], "healthy");
}

fn asked(event: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["verb"]), text(&event["objectRef"]["resource"]), text(&event["objectRef"]["name"]))
}

#[test]
fn a_config_map_that_somebody_wrote_reaches_no_secret_of_another_namespace() {
    let Some(cluster) = Kubernetes::shared() else { return };
    let (theirs, ours) = (cluster.namespace(), cluster.namespace());
    let user = format!("laptop-{:08x}", rand::random::<u32>());
    let kubeconfig = cluster.kubeconfig(&user);
    for namespace in [&theirs, &ours] {
        cluster.grant(
            &user,
            Some(namespace),
            "- { apiGroups: [''], resources: [secrets, configmaps], verbs: [get, list] }",
        );
    }
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s3, namespace: {ours} }}\n\
         stringData: {{ AWS_ACCESS_KEY_ID: canary, AWS_SECRET_ACCESS_KEY: canary }}\n"
    ));
    let folder = tempfile::tempdir().unwrap();
    let written = |annotation: &str, store: &str| {
        let config = format!(
            "[store]\n{store}\n[kubernetes]\nkubeconfig = \"/theirs\"\n[plugins]\ncache = \"{0}/made\"\n\
             [env.prod.sources.docs]\nkind = \"directory\"\npath = \"/x\"\n",
            folder.path().display()
        );
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "written-by-hand", "namespace": theirs,
                "labels": { "app.kubernetes.io/name": "dolibarr-backup" },
                "annotations": { "dolibarr-backup/store-secret": annotation },
            },
            "data": { "dolibarr-backup.toml": config },
        });
        cluster.apply(&map.to_string());
        let text =
            format!("[kubernetes]\nkubeconfig = \"{}\"\n[fleet]\nnamespaces = [\"{theirs}\"]\n", kubeconfig.display());
        std::fs::write(folder.path().join("dolibarr-backup.toml"), text).unwrap();
        Run::new(["status", "--fleet"]).folder(folder.path()).finish()
    };
    let s3 = |credentials: &str| {
        format!(
            "url = \"s3://bucket/erp\"\nendpoint = \"http://127.0.0.1:9\"\nregion = \"x\"\ncredentials = {credentials}"
        )
    };
    let table = [
        (format!("{ours}/s3"), s3("{ env = true }"), "does not name the Secret"),
        ("s3".to_owned(), s3(&format!("{{ kube_secret = \"{ours}/s3\" }}")), "has no Secret"),
        ("s3".to_owned(), s3("{ files = \"/etc\" }"), "has no Secret"),
        ("s3".to_owned(), format!("url = \"file://{}\"", folder.path().display()), "a folder inside the cluster"),
        ("s3".to_owned(), "url = ".to_owned(), "line 2"),
    ];
    for (annotation, store, says) in table {
        complains(&written(&annotation, &store), 64, says);
    }
    let read = cluster.audit(&user).iter().filter(|event| event["objectRef"]["namespace"] == *ours).count();
    assert_eq!(read, 0, "something of another namespace was read");
    assert!(!folder.path().join("made").exists());
}

/// How many stores are read at once, as documented in docs/kubernetes.md.
const AT_A_TIME: usize = 8;

/// A server that accepts connections but never answers. It drops them once `until` of them are open, or after some
/// seconds, and counts how many were open at most.
fn silent_server(until: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let told = Arc::clone(&most);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            let (open, most) = (Arc::clone(&open), Arc::clone(&most));
            std::thread::spawn(move || {
                let since = Instant::now();
                while most.load(Ordering::SeqCst) < until && since.elapsed() < Duration::from_secs(10) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Stays open a little longer, so that a connection that comes late is still counted as simultaneous.
                std::thread::sleep(Duration::from_millis(300));
                open.fetch_sub(1, Ordering::SeqCst);
                drop(connection);
            });
        }
    });
    (port, told)
}

#[test]
fn stores_that_do_not_answer_are_waited_for_side_by_side_and_not_all_at_once() {
    let Some(cluster) = Kubernetes::shared() else { return };
    let namespace = cluster.namespace();
    let user = format!("laptop-{:08x}", rand::random::<u32>());
    let kubeconfig = cluster.kubeconfig(&user);
    cluster.grant(
        &user,
        Some(&namespace),
        "- { apiGroups: [''], resources: [secrets, configmaps], verbs: [get, list] }",
    );
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: s3, namespace: {namespace} }}\n\
         stringData: {{ AWS_ACCESS_KEY_ID: x, AWS_SECRET_ACCESS_KEY: x }}\n"
    ));
    let (port, most) = silent_server(AT_A_TIME);
    let map = |number: usize| {
        let config = format!(
            "[store]\nurl = \"s3://bucket/erp\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"x\"\n\
             [env.company-{number}.sources.docs]\nkind = \"directory\"\npath = \"/x\"\n"
        );
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": format!("company-{number}"), "namespace": namespace,
                "labels": { "app.kubernetes.io/name": "dolibarr-backup" },
                "annotations": { "dolibarr-backup/store-secret": "s3" },
            },
            "data": { "dolibarr-backup.toml": config },
        })
    };
    let maps: Vec<Value> = (0..AT_A_TIME + 4).map(map).collect();
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": maps }).to_string());
    let folder = tempfile::tempdir().unwrap();
    let text =
        format!("[kubernetes]\nkubeconfig = \"{}\"\n[fleet]\nnamespaces = [\"{namespace}\"]\n", kubeconfig.display());
    std::fs::write(folder.path().join("dolibarr-backup.toml"), text).unwrap();
    let outcome = Run::new(["--json", "status", "--fleet"]).folder(folder.path()).finish().expect_code(75);
    let lines = outcome.json()["instances"].as_array().unwrap().clone();
    assert_eq!(lines.len(), maps.len());
    assert!(lines.iter().all(|line| line["verdict"] == "unavailable"), "{lines:?}");
    assert_eq!(most.load(Ordering::SeqCst), AT_A_TIME);
}
