//! The whole job against stores that behave like the real ones.

use crate::scene::{DATABASE, PASSWORD, Scene, complains};
use tests::garage::Garage;
use tests::gcs::{Gcs, Transport};

#[test]
fn two_environments_in_one_store_never_touch_each_other() {
    let Some(mut scene) = Scene::small() else { return };
    let documents = scene.documents.clone();
    scene.config = scene.config.documents(("prod-1", "docs"), &documents).documents(("prod-11", "docs"), &documents);
    for environment in ["prod", "prod-1", "prod-11"] {
        let _ = scene.run(["backup", "--env", environment]).expect_code(0);
    }
    for environment in ["prod", "prod-1", "prod-11"] {
        let listed = scene.run(["--json", "list", "--env", environment]).expect_code(0).json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{environment}");
    }
    let before = scene.stored();
    let _ = scene.run(["prune", "--env", "prod-1", "--no-limit"]).expect_code(0);
    complains(&scene.run(["prune", "--env", "prod-1", "--now", "2060-01-01T00:00:00Z"]), 3, "the time is doubted");
    let mine = |(key, _): &(&String, &Vec<u8>)| !key.starts_with("prod-1/");
    assert!(before.iter().filter(mine).eq(scene.stored().iter().filter(mine)));
}

#[test]
fn a_strict_google_like_server_takes_a_whole_backup() {
    let Some(mut scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let garage = scene.garage.clone().unwrap();
    for transport in [Transport::Plain, Transport::Tls] {
        let gcs = Gcs::start(garage.port(), transport).unwrap();
        let url = format!("s3://{}/gcs-{}", Garage::BUCKET, rand::random::<u32>());
        let mut config =
            tests::binary::Config::s3_store(&url, &gcs.endpoint(), Garage::REGION, "gcs", &garage.credentials());
        if let Some(ca) = gcs.ca_file() {
            config = config.store_lines(&format!("ca_file = \"{}\"", ca.display()));
        }
        scene.config = Scene::sources(config, &scene.server, scene.folder.path());
        scene.backup(&[]);
        scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
        scene.backup(&[]);
        assert_eq!(scene.list().len(), 2);
        let text = format!("{:?}", gcs.seen());
        assert!(text.contains("content-md5") && !text.contains("if-none-match"), "not what this server needs");
        assert!(!text.contains(garage.secret()) && !text.contains(PASSWORD), "a secret is on the wire");
    }
}
