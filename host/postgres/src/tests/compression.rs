//! Which compression a dump gets, depending on the version of pg_dump.

use super::dump::{fake, version_of, with_pg_dump};
use super::*;
use crate::Compression;
use base::error::Class;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compression_that_this_pg_dump_does_not_support_is_refused() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let old = fake(&server, "pg_dump (PostgreSQL) 15.18", "exit 1");
    let new = fake(&server, "pg_dump (PostgreSQL) 16.1", "exit 1");
    let server_major: u32 = version_of(&server).split([' ', '.']).nth(2).unwrap().parse().unwrap();
    if server_major <= 15 {
        let session = open(&with_pg_dump(&config, &old)).await;
        for compression in [Compression::Zstd(3), Compression::Lz4(1)] {
            let error = session.dump(DumpOptions { compression }).unwrap_err();
            assert_eq!(error.class(), Class::Config, "{error}");
            assert!(error.message().contains("15.18") && error.advice().unwrap().contains("16"), "{error:?}");
        }
    }
    if server_major <= 16 {
        let session = open(&with_pg_dump(&config, &new)).await;
        let levels = [
            Compression::Gzip(0),
            Compression::Gzip(10),
            Compression::Zstd(0),
            Compression::Zstd(20),
            Compression::Lz4(13),
        ];
        for compression in levels {
            let error = session.dump(DumpOptions { compression }).unwrap_err();
            assert_eq!(error.class(), Class::PluginRefused, "{compression:?}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn automatic_compression_uses_zstd_only_if_pg_dump_was_built_with_it() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let without = "case \"$*\" in *--snapshot*) echo \"$@\" > $HERE/arguments;; *zstd*) echo 'this build does not support compression with ZSTD' >&2;; esac; exit 1";
    let with =
        "case \"$*\" in *--snapshot*) echo \"$@\" > $HERE/arguments;; *) echo 'could not connect' >&2;; esac; exit 1";
    for (version, script, zstd) in [("99.1", with, true), ("99.1", without, false)] {
        let folder = fake(&server, &format!("pg_dump (PostgreSQL) {version}"), script);
        let session = open(&with_pg_dump(&config, &folder)).await;
        assert!(read(session.dump(DumpOptions::default()).unwrap()).await.is_err());
        let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
        assert_eq!(arguments.contains("--compress=zstd:3"), zstd, "{arguments}");
        assert!(arguments.contains("--format=custom") && arguments.contains("--no-password"), "{arguments}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zstd_dump_is_smaller_and_restores_to_the_same_content() {
    let bin = match tests::postgres::newer() {
        Ok(bin) => bin,
        Err(why) => return tests::skip(&why),
    };
    let Some(server) = sample() else { return };
    server.psql(
        "sample",
        "CREATE TABLE filler AS SELECT i, md5((i % 500)::text) || ' invoice of client ' || i AS t FROM generate_series(1, 40000) AS i",
    );
    let config = config(&server, "sample");
    let newer = DatabaseConfig { pg_dump: Some(bin.join("pg_dump")), ..config.clone() };
    let folder = tempfile::tempdir().unwrap();
    let session = open(&newer).await;
    let sizes = [Compression::Automatic, Compression::Gzip(6), Compression::Lz4(1)];
    let mut bytes = Vec::new();
    for compression in sizes {
        bytes.push(read(session.dump(DumpOptions { compression }).unwrap()).await.unwrap());
    }
    assert!(bytes[0].len() < bytes[1].len() && bytes[1].len() < bytes[2].len(), "zstd, gzip, lz4");
    let before = digests_now(&config).await;
    let file = folder.path().join("dump");
    std::fs::write(&file, &bytes[0]).unwrap();
    server.create_database("again", &[]);
    let mut restore = server.client(bin.join("pg_restore"));
    // Servers before 17 do not know a parameter that pg_restore 17 sets first.
    let restored = restore.args(["--no-owner", "--no-acl", "--dbname", "again"]).arg(&file).output().unwrap();
    let stderr = String::from_utf8_lossy(&restored.stderr);
    assert!(restored.status.success() || !stderr.contains("COPY"), "{stderr}");
    assert_eq!(digests_now(&DatabaseConfig { database: "again".to_owned(), ..config }).await, before);
}
