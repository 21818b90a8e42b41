//! What a release can reach in the store, with the configuration that the chart renders and a real S3 server.

use super::{documents, of_kind, prod_with};
use crate::scene::{DATABASE, Scene, complains};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tests::binary::Run;
use tests::garage::Garage;
use tests::helm::Helm;

/// The bucket of the sandbox. Its key has no rights in any other bucket.
const SANDBOX: &str = "sandbox-backup";

/// One release's configuration, as a file.
struct Release {
    file: PathBuf,
}

impl Release {
    /// Renders a release of an environment for a bucket, and replaces its mount paths with the scene's folders.
    fn new(engine: &Helm, scene: &Scene, environment: &str, bucket: &str, credentials: &Path) -> Self {
        let garage = scene.garage.as_ref().unwrap();
        let values = prod_with(&[
            ("environment", environment.into()),
            (
                "store",
                json!({
                    "url": format!("s3://{bucket}/erp"),
                    "endpoint": garage.endpoint(),
                    "region": Garage::REGION,
                    "profile": "garage",
                }),
            ),
            ("database", json!({"host": "127.0.0.1", "port": scene.server.port(), "name": DATABASE})),
        ]);
        let documents = documents(engine, &values);
        let text = of_kind(&documents, "ConfigMap")[0]["data"]["dolibarr-backup.toml"].as_str().unwrap().to_owned();
        let at = |path: &Path| path.to_str().unwrap().to_owned();
        let text = text
            .replace("/run/secrets/s3", &at(credentials))
            .replace("/run/secrets/db", &at(&scene.folder.path().join("credentials")))
            .replace("/var/www/documents", &at(&scene.documents))
            .replace("/tmp/components", &at(&scene.folder.path().join("components")));
        let file = scene.folder.path().join(format!("{environment}.toml"));
        std::fs::write(&file, text).unwrap();
        Self { file }
    }

    fn run(&self, arguments: &[&str]) -> tests::binary::Outcome {
        let all: Vec<_> =
            ["--config", self.file.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
        Run::new(all).finish()
    }

    /// Runs `init`, as the installation does, and then the first backup.
    #[track_caller]
    fn backup(&self, environment: &str) {
        let _ = self.run(&["init", "--env", environment]).expect_code(0);
        let _ = self.run(&["backup", "--env", environment]).expect_code(0);
    }

    fn snapshots(&self, environment: &str) -> Value {
        self.run(&["--json", "list", "--env", environment]).expect_code(0).json()["snapshots"].clone()
    }
}

#[test]
fn the_sandboxs_release_can_neither_read_nor_write_what_is_prods() {
    let Some(engine) = Helm::installed() else { return };
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let garage = scene.garage.clone().unwrap();
    let credentials = garage.other_bucket(SANDBOX).unwrap();
    let prod = Release::new(&engine, &scene, "prod", Garage::BUCKET, &garage.credentials());
    let sandbox = Release::new(&engine, &scene, "sandbox", SANDBOX, &credentials);
    prod.backup("prod");
    let before = prod.snapshots("prod");
    assert_eq!(before.as_array().map(Vec::len), Some(1), "{before}");

    sandbox.backup("sandbox");
    assert_eq!(sandbox.snapshots("sandbox").as_array().map(Vec::len), Some(1));
    for verb in [&["backup", "--env", "prod"][..], &["list", "--env", "prod"], &["prune", "--env", "prod"]] {
        complains(&sandbox.run(verb), 64, "unknown environment `prod`");
    }
    // Whoever changes the sandbox's ConfigMap still has only the sandbox's key.
    let text = std::fs::read_to_string(&sandbox.file).unwrap();
    std::fs::write(&sandbox.file, text.replace(SANDBOX, Garage::BUCKET).replace("\"sandbox\"", "\"prod\"")).unwrap();
    for verb in [&["init", "--env", "prod"][..], &["backup", "--env", "prod"], &["list", "--env", "prod"]] {
        complains(&sandbox.run(verb), 64, Garage::BUCKET);
    }
    assert_eq!(prod.snapshots("prod"), before);
}

#[test]
fn two_environments_in_one_bucket_see_their_own_prefix_alone() {
    let Some(engine) = Helm::installed() else { return };
    let Some(scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let garage = scene.garage.clone().unwrap();
    // One environment's name is a prefix of the other's.
    let release = |environment: &str| Release::new(&engine, &scene, environment, Garage::BUCKET, &garage.credentials());
    let (one, other) = (release("shop-1"), release("shop-11"));
    one.backup("shop-1");
    assert_eq!(other.snapshots("shop-11"), json!([]));
    other.backup("shop-11");
    let before = one.snapshots("shop-1");
    let _ = other.run(&["prune", "--env", "shop-11", "--now"]).expect_code(0);
    assert_eq!(one.snapshots("shop-1"), before);
}
