//! Commands that read a store with credentials borrowed from the cluster. The credentials exist only in memory, and a
//! command requests only the Secrets that it needs from the API server.

use super::Laptop;
use crate::scene::{DATABASE, Scene, complains, manifest};
use crate::secrets::{arguments, holds};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tests::binary::{Outcome, Run};
use tests::garage::Garage;
use tests::kubernetes::Kubernetes;

/// The password of the role that restores databases.
const LAB_PASSWORD: &str = "canary-lab-c83e1f";

/// A laptop whose configuration has every credential in a Secret, and a store with one backup.
struct Borrower {
    laptop: Laptop,
    scene: Scene,
    garage: Arc<Garage>,
}

impl Borrower {
    /// If Kubernetes, PostgreSQL or Garage is not installed, returns `None` and records the skip.
    fn new() -> Option<Self> {
        let cluster = Kubernetes::shared()?;
        let scene = Scene::small().and_then(Scene::on_garage)?;
        let (laptop, garage) = (Laptop::without_rights(&cluster), scene.garage.clone()?);
        scene.server.psql(DATABASE, &format!("CREATE ROLE lab LOGIN CREATEDB PASSWORD '{LAB_PASSWORD}'"));
        scene.backup(&[]);
        let borrower = Self { laptop, scene, garage };
        borrower.put(
            "s3",
            &[("AWS_ACCESS_KEY_ID", borrower.garage.key_id()), ("AWS_SECRET_ACCESS_KEY", borrower.garage.secret())],
        );
        borrower.put("lab", &[("username", "lab"), ("password", LAB_PASSWORD)]);
        Some(borrower)
    }

    fn put(&self, name: &str, values: &[(&str, &str)]) {
        let values: Vec<String> = values.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        self.laptop.cluster.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {} }}\nstringData: {{ {} }}\n",
            self.laptop.storage,
            values.join(", ")
        ));
    }

    fn may_read(&self, secret: &str) {
        let rule = format!("- {{ apiGroups: [''], resources: [secrets], resourceNames: [{secret}], verbs: [get] }}");
        self.laptop.cluster.grant(&self.laptop.user, Some(&self.laptop.storage), &rule);
    }

    /// A run with all its credentials in the cluster. It may not read the credentials of the source database.
    fn run(&self, arguments: &[&str]) -> Run {
        let of_secret = |name: &str| format!("{{ kube_secret = \"{}/{name}\" }}", self.laptop.storage);
        let files = |folder: &Path| format!("{{ files = \"{}\" }}", folder.display());
        let lab = format!(
            "\n[kubernetes]\nkubeconfig = \"{}\"\n[servers.lab]\nhost = \"127.0.0.1\"\nport = {}\ncredentials = {}\n",
            self.laptop.kubeconfig.display(),
            self.scene.server.port(),
            of_secret("lab")
        );
        let edit = |text: &str| {
            text.replace(&files(&self.garage.credentials()), &of_secret("s3"))
                .replace(&files(&self.scene.folder.path().join("credentials")), &of_secret("db"))
                + &lab
        };
        self.scene.edited(edit, arguments).env("DOLIBARR_BACKUP_LOG", "debug")
    }

    /// Runs to the end, and meanwhile searches every argument list and the run's environment for the secrets.
    #[track_caller]
    fn watched(&self, arguments_of_run: &[&str]) -> Outcome {
        let run = self.run(arguments_of_run).start();
        let environment = format!("/proc/{}/environ", run.id());
        let mut seen = BTreeSet::new();
        let outcome = run.kill_when(|| {
            seen.extend(arguments());
            seen.extend(std::fs::read(&environment));
            false
        });
        let seen: Vec<u8> = seen.into_iter().flatten().collect();
        assert!(holds(&seen, "--env") && holds(&seen, "DOLIBARR_BACKUP_LOG"), "no process was searched");
        for secret in [self.garage.secret(), LAB_PASSWORD] {
            let sealed = base64_of(secret);
            for value in [secret, sealed.as_str()] {
                assert!(!holds(&seen, value), "{arguments_of_run:?}: in an argument or the environment");
                let said = [&outcome.stdout, &outcome.stderr].iter().any(|text| text.contains(value));
                assert!(!said, "{arguments_of_run:?}: in its output");
            }
        }
        outcome
    }

    /// The requests to the API server after the first `before` ones, as verb, resource and name.
    fn asked_since(&self, before: usize) -> BTreeSet<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.laptop.cluster.audit(&self.laptop.user);
        let asked = events.iter().skip(before).map(|event| {
            let of = &event["objectRef"];
            assert!(event["requestObject"].is_null(), "something was sent: {event}");
            (text(&event["verb"]), text(&of["resource"]), text(&of["name"]))
        });
        asked.collect()
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}

#[test]
fn verify_restore_and_status_read_the_one_secret_that_they_need_and_show_it_nowhere() {
    let Some(borrower) = Borrower::new() else { return };
    let at = |name: &str| borrower.scene.folder.path().join(name).to_str().unwrap().to_owned();
    let (documents, invoice) = (at("restored"), at("invoice"));
    let commands: [(&[&str], &[&str]); 7] = [
        (&["status", "--env", "prod"], &["s3"]),
        (&["verify", "--env", "prod"], &["s3"]),
        (&["verify", "--env", "prod", "--deep"], &["s3"]),
        (&["restore", "--env", "prod", "--source", "docs", "--into", &documents], &["s3"]),
        (&["find", "--env", "prod", "*.pdf"], &["s3"]),
        (&["restore", "--env", "prod", "--source", "db", "--into", "erp_new", "--server", "lab"], &["s3", "lab"]),
        (&["status", "--env", "prod", "--prometheus"], &["s3"]),
    ];
    complains(&borrower.run(commands[0].0).finish(), 64, "get secrets `s3`");
    for secret in ["s3", "lab"] {
        borrower.may_read(secret);
    }
    for (command, secrets) in commands {
        let before = borrower.laptop.cluster.audit(&borrower.laptop.user).len();
        let outcome = borrower.watched(command);
        assert_eq!(outcome.code, Some(0), "{command:?}: {}", outcome.stderr);
        let only = |name: &&str| ("get".to_owned(), "secrets".to_owned(), (*name).to_owned());
        assert_eq!(borrower.asked_since(before), secrets.iter().map(only).collect(), "{command:?}");
    }
    let (restored, all) =
        [Path::new(&documents), &borrower.scene.documents].map(|root| manifest(root, |_, _| false)).into();
    assert!(!restored.is_empty() && restored.is_subset(&all), "the restored documents are not those of the source");
    assert_eq!(borrower.scene.contents("erp_new"), borrower.scene.contents(DATABASE));
    let left = borrower.scene.folder.path().read_dir().unwrap().flatten();
    for file in left.filter(|entry| entry.path().is_file()) {
        let text = std::fs::read(file.path()).unwrap();
        assert!(!holds(&text, LAB_PASSWORD), "{} holds a password", file.path().display());
    }

    // A withdrawn key is reported with the bucket's name, and nothing is restored with the old key.
    borrower.put("s3", &[("AWS_ACCESS_KEY_ID", borrower.garage.key_id()), ("AWS_SECRET_ACCESS_KEY", "withdrawn")]);
    for command in [
        &["status", "--env", "prod"][..],
        &["verify", "--env", "prod"],
        &["restore", "--env", "prod", "--source", "docs", "--into", &invoice],
    ] {
        let refused = borrower.watched(command);
        complains(&refused, 64, Garage::BUCKET);
    }
    assert!(!Path::new(&invoice).exists());
}
