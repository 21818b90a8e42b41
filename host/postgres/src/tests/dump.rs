use super::*;
use crate::Compression;
use crate::archive::{Contents, Flaw, Scanner};
use base::error::Class;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// A directory with the real pg_restore and a shell script as pg_dump. In the script, `$REAL` is the real pg_dump.
pub(super) fn fake(server: &Server, version: &str, script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let real = server.bin().join("pg_dump");
    let text = format!(
        "#!/bin/sh\nREAL={}\nHERE={}\nif [ \"$1\" = --version ]; then echo \"{version}\"; exit 0; fi\n{script}\n",
        real.display(),
        folder.path().display()
    );
    let path = folder.path().join("pg_dump");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(server.bin().join("pg_restore"), folder.path().join("pg_restore")).unwrap();
    folder
}

pub(super) fn version_of(server: &Server) -> String {
    let output = std::process::Command::new(server.bin().join("pg_dump")).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(super) fn with_pg_dump(config: &DatabaseConfig, folder: &tempfile::TempDir) -> DatabaseConfig {
    DatabaseConfig { pg_dump: Some(folder.path().join("pg_dump")), ..config.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pg_dump_that_cannot_read_the_server_is_refused_before_anything_is_dumped() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let cases = [
        ("pg_dump (PostgreSQL) 9.6.24", "9.6.24"),
        ("pg_dump (PostgreSQL) 12.22 (Debian 12.22-1)", "12.22"),
        ("something else", "--version"),
    ];
    for (version, text) in cases {
        let error = refusal(&with_pg_dump(&config, &fake(&server, version, "exit 1"))).await;
        assert_eq!(error.class(), Class::Config, "{error}");
        assert!(error.message().contains(text) && error.advice().unwrap().contains("pg_dump"), "{error:?}");
    }
    let newer = fake(&server, "pg_dump (PostgreSQL) 99.1", "exit 1");
    assert_eq!(open(&with_pg_dump(&config, &newer)).await.facts().pg_dump_version, "99.1");
    std::fs::remove_file(newer.path().join("pg_restore")).unwrap();
    let error = refusal(&with_pg_dump(&config, &newer)).await;
    assert!(error.message().contains("no pg_restore in the directory"), "{error}");
    let error = refusal(&DatabaseConfig { pg_dump: Some("/nonexistent/pg_dump".into()), ..config.clone() }).await;
    assert_eq!(error.class(), Class::Config, "{error}");
    assert!(open(&DatabaseConfig { pg_dump: None, ..config }).await.facts().pg_dump_version.contains('.'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_an_incomplete_dump_ends_with_an_error() {
    let Some(server) = sample() else { return };
    let folder = credentials("reader", CANARY);
    let config = reader_config(&server, "sample", &folder);
    let whole = read(open(&config).await.dump(DumpOptions::default()).unwrap()).await.unwrap().len();
    let cut = |bytes: usize| format!("$REAL \"$@\" | head -c {bytes}; exit 0");
    let cases = [
        ("exit 3".to_owned(), Class::Unexpected, "exit code 3"),
        ("echo 'pg_dump: error: it broke' >&2; exit 1".to_owned(), Class::Unexpected, "it broke"),
        (
            "$REAL \"$@\" | head -c 3000; echo 'pg_dump: error: half-way' >&2; exit 1".to_owned(),
            Class::Unexpected,
            "half-way",
        ),
        (
            "$REAL \"$@\"; echo 'pg_dump: warning: something is left out' >&2".to_owned(),
            Class::Unexpected,
            "something is left out",
        ),
        ("$REAL \"$@\"; kill -9 $$".to_owned(), Class::Unexpected, "signal 9"),
        ("kill -15 $$".to_owned(), Class::Unexpected, "signal 15"),
        ("exit 0".to_owned(), Class::Unexpected, "0 bytes"),
        ("echo no dump".to_owned(), Class::Unexpected, "8 bytes"),
        ("head -c 5000 /dev/zero".to_owned(), Class::Unexpected, "does not begin"),
        (cut(5_000), Class::Unexpected, "inside its table of contents"),
        (cut(whole - 1), Class::Unexpected, "inside the data"),
        (cut(whole - 40), Class::Unexpected, "not complete"),
        ("$REAL \"$@\" --exclude-table=const".to_owned(), Class::Unexpected, "has 13 tables, but the database has 14"),
        ("$REAL \"$@\" --schema-only".to_owned(), Class::Unexpected, "has 0 tables"),
        ("$REAL \"$@\" --dbname=absent".to_owned(), Class::Unavailable, "does not exist"),
        ("PGPASSWORD=wrong $REAL \"$@\"".to_owned(), Class::Config, "password authentication failed"),
        ("PGHOST=/nonexistent $REAL \"$@\"".to_owned(), Class::Unavailable, "/nonexistent"),
        ("echo \"password is $PGPASSWORD\" >&2; exit 1".to_owned(), Class::Unexpected, "password is [redacted]"),
        ("printf '\\033[2Jtitle' >&2; exit 1".to_owned(), Class::Unexpected, "title"),
        ("head -c 10000000 /dev/zero >&2; exit 1".to_owned(), Class::Unexpected, "pg_dump failed"),
    ];
    let version = version_of(&server);
    for (script, class, text) in cases {
        let folder = fake(&server, &version, &script);
        let session = open(&with_pg_dump(&config, &folder)).await;
        let error = read(session.dump(DumpOptions::default()).unwrap()).await.expect_err(&script);
        assert_eq!(error.class(), class, "{script}: {error}");
        assert!(error.message().contains(text), "{script}: {error}");
        assert!(!format!("{error:?}").contains("canary") && !error.message().contains('\u{1b}'), "{script}: {error}");
        assert!(error.message().len() < 5_000, "{script}: {} bytes", error.message().len());
    }
    let error = {
        server.psql("sample", "REVOKE SELECT ON const FROM reader");
        read(open(&config).await.dump(DumpOptions::default()).unwrap()).await.unwrap_err()
    };
    assert_eq!(error.class(), Class::Config, "{error}");
    assert!(error.message().contains("const") && error.advice().unwrap().contains("pg_read_all_data"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_pg_restore_cannot_read_is_refused() {
    let Some(server) = sample() else { return };
    let folder = fake(&server, &version_of(&server), "exec $REAL \"$@\"");
    let config = with_pg_dump(&config(&server, "sample"), &folder);
    let restore = folder.path().join("pg_restore");
    for (script, text) in [
        ("echo 'pg_restore: error: unsupported version' >&2; exit 1", "unsupported version"),
        ("cat > /dev/null", "finds no entries"),
        ("exec sleep 0", "finds no entries"),
    ] {
        std::fs::remove_file(&restore).unwrap();
        std::fs::write(&restore, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&restore, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = read(open(&config).await.dump(DumpOptions::default()).unwrap()).await.unwrap_err();
        assert!(error.message().contains(text), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_stream_kills_pg_dump_at_any_time() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    for script in ["echo $$ > $HERE/pid; exec sleep 600", "echo $$ > $HERE/pid; exec cat /dev/zero"] {
        let folder = fake(&server, &version_of(&server), script);
        let session = open(&with_pg_dump(&config, &folder)).await;
        let stream = session.dump(DumpOptions::default()).unwrap();
        let pid =
            wait_for(|| std::fs::read_to_string(folder.path().join("pid")).ok()?.trim().parse::<u32>().ok()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(is_running(pid), "{script}");
        drop(stream);
        wait_for(|| (!is_running(pid)).then_some(())).await;
    }
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_not_an_argument_and_the_child_has_a_clean_environment() {
    let Some(server) = sample() else { return };
    let credentials = credentials("reader", CANARY);
    // The script must stay in the process that was started, with its arguments: opening the pipe waits for a writer.
    let script = "mkfifo $HERE/never; env > $HERE/env.new; mv $HERE/env.new $HERE/env; read -r line < $HERE/never";
    let folder = fake(&server, &version_of(&server), script);
    let program = folder.path().join("pg_dump").display().to_string();
    let config = DatabaseConfig {
        ssl_mode: SslMode::Disable,
        ..with_pg_dump(&reader_config(&server, "sample", &credentials), &folder)
    };
    let session = open(&config).await;
    let stream = session.dump(DumpOptions::default()).unwrap();
    let environment = wait_for(|| std::fs::read_to_string(folder.path().join("env")).ok()).await;
    let mut dumps = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(CANARY), "{line}");
        if line.contains(&program) {
            dumps.push(line);
        }
    }
    assert!(matches!(&*dumps, [line] if line.contains("--format=custom")), "{dumps:?}");
    drop(stream);
    let mut names: Vec<_> = environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    let expected = "HOME LC_ALL PATH PGAPPNAME PGCLIENTENCODING PGCONNECT_TIMEOUT PGDATABASE PGGSSENCMODE PGHOST \
         PGOPTIONS PGPASSFILE PGPASSWORD PGPORT PGSERVICEFILE PGSSLCERT PGSSLKEY PGSSLMODE PGSSLROOTCERT PGSYSCONFDIR \
         PGUSER";
    assert_eq!(names.join(" "), expected);
    assert!(environment.contains("PGSSLMODE=disable\n") && environment.contains(&format!("PGPASSWORD={CANARY}\n")));
    let shown = format!("{session:?} {config:?}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_after_the_snapshot_are_in_neither_the_digest_nor_the_dump() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let session = open(&config).await;
    server.psql(
        "sample",
        "INSERT INTO one_column VALUES ('late'); CREATE TABLE late (id int); UPDATE kinds SET t = 'late'",
    );
    let before = digests(&session).await;
    assert_eq!(before[&public("one_column")].rows, 2);
    let folder = tempfile::tempdir().unwrap();
    let file = dump(&session, DumpOptions::default(), folder.path()).await;
    server.create_database("again", &[]);
    server.restore("again", &file);
    let config = DatabaseConfig { database: "again".into(), ..config };
    assert_eq!(digests_now(&config).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_on_another_server_has_equal_digests_and_definitions() {
    let Some(server) = sample() else { return };
    let options = tests::postgres::Options {
        settings: "datestyle = 'sql, dmy'\ntimezone = 'Asia/Tokyo'\nextra_float_digits = -3\nbytea_output = 'escape'\n\
             intervalstyle = 'iso_8601'\nquote_all_identifiers = on\nstandard_conforming_strings = on\n\
             statement_timeout = '2s'\nidle_in_transaction_session_timeout = '1s'"
            .to_owned(),
        ..tests::postgres::Options::default()
    };
    let Some(other) = Server::start_with(&options) else { return };
    let session = open(&config(&server, "sample")).await;
    let newer = session.program.version.major >= 16;
    let mut compressions = vec![Compression::Automatic, Compression::None, Compression::Gzip(1), Compression::Gzip(9)];
    if newer {
        compressions.push(Compression::Zstd(1));
    }
    for (number, compression) in compressions.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let stream = session.dump(DumpOptions { compression }).unwrap();
        let expected = stream.expected_bytes().unwrap();
        let bytes = match read(stream).await {
            Err(error) if newer && error.message().contains("does not support compression") => continue,
            bytes => bytes.unwrap(),
        };
        assert!(bytes.len() as u64 <= expected, "{compression:?}");
        let file = folder.path().join("dump");
        std::fs::write(&file, bytes).unwrap();
        // Names that libpq could mistake for something else.
        let database = ["plain", "with space", "host=x user='y'", "postgres://quoted\"", "5"][number];
        other.create_database(database, &[]);
        other.restore(database, &file);
        let restored = open(&config(&other, database)).await;
        tokio::time::sleep(Duration::from_millis(if number == 0 { 1_500 } else { 0 })).await;
        assert_eq!(digests(&restored).await, digests(&session).await, "{compression:?}");
        assert_eq!(
            restored.listed(Listing::Structure).await.unwrap(),
            session.listed(Listing::Structure).await.unwrap(),
            "{compression:?}"
        );
        assert!(!read(restored.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty(), "{database}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_the_server_sends_to_everyone_does_not_fail_the_dump() {
    let Some(server) = Server::start() else { return };
    server.create_database("d", &["--locale-provider=icu", "--icu-locale=en-US"]);
    server.psql(
        "d",
        "CREATE TABLE t AS SELECT 1 AS i; UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'd'",
    );
    let session = open(&config(&server, "d")).await;
    assert_eq!(session.holder.notices().len(), 1, "the collation's version changed");
    assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_database_can_be_dumped_and_large_objects_are_in_the_dump() {
    let Some(server) = Server::start() else { return };
    server.create_database("empty", &[]);
    let config = config(&server, "empty");
    assert!(read(open(&config).await.dump(DumpOptions::default()).unwrap()).await.unwrap().len() > 512);
    server.psql(
        "empty",
        "SELECT lo_from_bytea(0, repeat('x', 100000)::bytea), lo_from_bytea(0, '') FROM generate_series(1, 50)",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = dump(&open(&config).await, DumpOptions::default(), folder.path()).await;
    server.create_database("again", &[]);
    server.restore("again", &file);
    assert_eq!(server.psql("again", "SELECT count(*) FROM pg_largeobject_metadata").trim(), "100");
}

#[tokio::test]
async fn a_dump_of_rows_without_their_tables_is_refused() {
    let Some(server) = Server::start() else { return };
    server.create_database("d", &[]);
    server.psql("d", "CREATE TABLE a AS SELECT i FROM generate_series(1, 9) AS i");
    let scan = |more: &[&str]| {
        let output = server.client("pg_dump").args(["-Fc"]).args(more).arg("d").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut scanner = Scanner::new();
        scanner.feed(&output.stdout);
        scanner.finish()
    };
    assert_eq!(scan(&["--data-only"]), Err(Flaw::DataOnly));
    assert_eq!(scan(&[]).unwrap().unwrap().tables, 1);
    let empty = scan(&["--schema-only"]).unwrap().unwrap();
    assert_eq!((empty.tables, empty.definitions), (0, 1));
    assert_eq!(scan(&["--format=plain"]), Err(Flaw::PlainSql));
    assert_eq!(scan(&["--format=tar"]), Err(Flaw::TarForm));
    server.psql("d", "DROP TABLE a");
    assert_eq!(scan(&["--data-only"]).unwrap().unwrap().tables, 0, "there was nothing to dump");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_is_scanned_in_blocks_of_any_size_and_every_truncation_is_found() {
    let Some(server) = Server::start() else { return };
    server.create_database("d", &[]);
    server.psql(
        "d",
        "CREATE TABLE a AS SELECT i FROM generate_series(1, 9) AS i; CREATE TABLE b (); SELECT lo_from_bytea(0, 'x')",
    );
    let config = config(&server, "d");
    let whole =
        read(open(&config).await.dump(DumpOptions { compression: Compression::Gzip(1) }).unwrap()).await.unwrap();
    let scan = |blocks: &mut dyn Iterator<Item = &[u8]>| {
        let mut scanner = Scanner::new();
        blocks.for_each(|block| scanner.feed(block));
        scanner.finish()
    };
    let contents: Contents = scan(&mut std::iter::once(whole.as_slice())).unwrap().unwrap();
    assert_eq!(contents.tables, 2);
    assert_eq!(contents.origin.server_version, open(&config).await.facts().server_version);
    assert!(contents.creation().unwrap().starts_with("CREATE DATABASE d "), "{contents:?}");
    let begun = |length: usize| {
        let mut scanner = Scanner::new();
        scanner.feed(&whole[..length]);
        scanner.contents().map(|contents| contents.map(|known| known.cloned()))
    };
    for length in 0..60 {
        assert_eq!(begun(length), Ok(None), "{length} bytes");
    }
    // The table of contents is known before the data arrives.
    let known = (0..whole.len()).find_map(|length| begun(length).unwrap()).unwrap();
    assert_eq!(known, Some(contents.clone()));
    for size in [1, 2, 3, 7, 64, 1000, whole.len()] {
        assert_eq!(scan(&mut whole.chunks(size)), Ok(Some(contents.clone())), "blocks of {size}");
    }
    for length in 0..whole.len() {
        assert!(scan(&mut std::iter::once(&whole[..length])).is_err(), "cut at {length}");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    assert_eq!(scan(&mut std::iter::once(longer.as_slice())), Err(Flaw::Damaged));
    let twice = [whole.as_slice(), whole.as_slice()].concat();
    assert!(scan(&mut twice.chunks(5)).is_err());
    let mut unknown = whole.clone();
    unknown[6] = 99;
    assert_eq!(scan(&mut std::iter::once(unknown.as_slice())), Ok(None), "a future format is left to pg_restore");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_dumped_without_the_rows_that_it_does_not_have() {
    let Some(server) = sample() else { return };
    server.psql("sample", "CREATE UNLOGGED TABLE hidden (id serial); INSERT INTO hidden DEFAULT VALUES");
    let standby = server.standby();
    wait_for(|| (standby.psql("sample", "SELECT count(*) FROM kinds").trim() != "0").then_some(())).await;
    let session = open(&config(&standby, "sample")).await;
    let facts = session.facts();
    assert!(facts.unreadable_unlogged >= 1 && facts.tables > 3, "{facts:?}");
    assert!(!digests(&session).await.contains_key(&public("hidden")));
    session.measure(Selected::Sequences { skip: BTreeMap::new() }).await.unwrap();
    let dump = read(session.dump(DumpOptions::default()).unwrap()).await.unwrap();
    assert!(dump.len() > 1_000);
    let left_out = facts.left_out().join("\n");
    assert!(left_out.contains("unlogged tables have no rows"), "{left_out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_pg_dump_are_notes_missing_objects_or_failures() {
    let Some(server) = sample() else { return };
    let saying = |words: &str| {
        let script = format!("\"$REAL\" \"$@\" && echo '{words}' >&2");
        (fake(&server, &version_of(&server), &script), words.to_owned())
    };
    for (words, notes, lacking) in [
        ("pg_dump: warning: owner of table \"x\" appears to be invalid", 1, 0),
        ("NOTICE:  welcome", 1, 0),
        (
            "pg_dump: warning: aggregate function x could not be dumped correctly for this database version; ignored",
            0,
            1,
        ),
    ] {
        let (folder, words) = saying(words);
        let session = open(&with_pg_dump(&config(&server, "sample"), &folder)).await;
        read(session.dump(DumpOptions::default()).unwrap()).await.unwrap();
        let remarked = session.remarks();
        assert_eq!((remarked.notes.len(), remarked.lacking.len()), (notes, lacking), "{words}: {remarked:?}");
    }
    let (folder, _) = saying("pg_dump: warning: nobody ever saw this");
    let session = open(&with_pg_dump(&config(&server, "sample"), &folder)).await;
    let error = read(session.dump(DumpOptions::default()).unwrap()).await.unwrap_err();
    assert!(error.message().contains("nobody ever saw this") && error.advice().is_some(), "{error:?}");
}
