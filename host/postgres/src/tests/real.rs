use super::*;
use std::time::Instant;

/// The dump of a real Dolibarr database, which is not part of the repository.
fn real_dump() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = repository
        .ancestors()
        .map(|folder| folder.join("shared/dolibarr/dolibarr-23.dump"))
        .find(|path| path.is_file());
    if found.is_none() {
        ::tests::skip("no real Dolibarr data beside the checkout");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_dolibarr_database_is_equal_after_dump_and_restore() {
    let (Some(file), Some(server)) = (real_dump(), Server::start()) else { return };
    server.create_database("real", &[]);
    server.restore("real", &file);
    let begun = Instant::now();
    let session = open(&config(&server, "real")).await;
    let opened = begun.elapsed();
    let before = digests(&session).await;
    let digested = begun.elapsed() - opened;
    let again = digests(&session).await;
    let warm = begun.elapsed() - opened - digested;
    let definitions = session.listed(Listing::Structure).await.unwrap();
    let defined = begun.elapsed() - opened - digested - warm;
    assert_eq!(again, before);
    assert!(before.len() > 300 && before.values().map(|digest| digest.rows).sum::<u64>() > 10_000);
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let file = dump(&session, DumpOptions::default(), folder.path()).await;
    let dumped = begun.elapsed();
    let begun = Instant::now();
    let mut plain = server.client("pg_dump");
    let plain_file = server.socket().join("plain");
    assert!(plain.args(["-Fc", "-f"]).arg(plain_file).arg("real").status().unwrap().success());
    let plainly = begun.elapsed();
    println!(
        "open {opened:.0?}, digest {digested:.0?}, again {warm:.0?}, definitions {defined:.0?}, dump {dumped:.0?}, plain pg_dump {plainly:.0?}, {} bytes",
        std::fs::metadata(&file).unwrap().len()
    );
    server.create_database("again", &[]);
    server.restore("again", &file);
    let restored = open(&config(&server, "again")).await;
    assert_eq!(digests(&restored).await, before);
    assert_eq!(restored.listed(Listing::Structure).await.unwrap(), definitions);
}
