//! Complete runs with stores that behave like real ones.

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
    complains(&scene.run(["prune", "--env", "prod-1", "--now", "2060-01-01T00:00:00Z"]), 3, "the time is in doubt");
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
        assert!(text.contains("content-md5") && !text.contains("if-none-match"), "this server needs other headers");
        assert!(!text.contains(garage.secret()) && !text.contains(PASSWORD), "a secret is on the wire");
    }
}

/// Each request costs a server's latency, and some stores bill it. Before the environment's file, the announcements in
/// the lease's mark and the check after the commit were added, an ordinary night took 11 requests if nothing had
/// changed and 21 if both sources had.
#[test]
fn an_ordinary_night_takes_few_requests() {
    let Some(mut scene) = Scene::small().and_then(Scene::on_garage) else { return };
    let garage = scene.garage.clone().unwrap();
    let gcs = Gcs::start(garage.port(), Transport::Plain).unwrap();
    let url = format!("s3://{}/night-{}", Garage::BUCKET, rand::random::<u32>());
    let config = tests::binary::Config::s3_store(&url, &gcs.endpoint(), Garage::REGION, "gcs", &garage.credentials());
    scene.config = Scene::sources(config, &scene.server, scene.folder.path());
    scene.backup(&[]);
    let night = |what: &str, most: usize| {
        let before = gcs.seen().len();
        scene.backup(&[]);
        let mut made: Vec<String> =
            gcs.seen()[before..].iter().map(|request| format!("{:?} {}", request.operation, request.target)).collect();
        // Each process begins by opening the store. The requests of the test's own `init` come first and do not count.
        made.drain(..made.iter().rposition(|request| request.contains("max-keys=1")).unwrap());
        println!("{what}: {} requests", made.len());
        assert!(made.len() <= most, "{what}: {} requests\n{}", made.len(), made.join("\n"));
    };
    night("unchanged", 14);
    scene.server.psql(DATABASE, tests::sample::CHANGE_INVOICE);
    std::fs::write(scene.documents.join("new.pdf"), "new").unwrap();
    night("changed", 24);
}
