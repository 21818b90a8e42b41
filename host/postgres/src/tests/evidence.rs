use super::*;
use crate::RowFilter;
use base::error::Class;
use std::collections::BTreeSet;
use tests::postgres::Options;

/// The schema and name of a table, and a statement that changes one row of it.
const CHANGES: [(&str, &str, &str); 24] = [
    ("public", "kinds", "INSERT INTO kinds (t) VALUES ('new')"),
    ("public", "kinds", "UPDATE kinds SET t = '' WHERE id = 2"),
    ("public", "kinds", "UPDATE kinds SET t = NULL WHERE id = 3"),
    ("public", "kinds", "UPDATE kinds SET t = 'é' WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET f = 0.30000000000000004 WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET f = 0.3 WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET tz = tz + interval '1 microsecond' WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET jb = '{\"b\": [1]}' WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET j = '{\"a\":1}' WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET a = '{x,\"NULL\",\"y,z\"}' WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET b = '\\x00fe' WHERE id = 1"),
    ("public", "kinds", "UPDATE kinds SET id = 99 WHERE id = 4"),
    ("public", "kinds", "DELETE FROM kinds WHERE id = 99"),
    ("public", "Mixed \"Case", "DELETE FROM \"Mixed \"\"Case\" WHERE ctid = '(0,1)'"),
    ("public", "Mixed \"Case", "UPDATE \"Mixed \"\"Case\" SET \"select\" = 'Y'"),
    ("public", "one_column", "DELETE FROM one_column WHERE t IS NULL"),
    ("public", "one_column", "UPDATE one_column SET t = NULL"),
    ("public", "no_column", "INSERT INTO no_column DEFAULT VALUES"),
    ("public", "no_row", "INSERT INTO no_row DEFAULT VALUES"),
    ("public", "child", "UPDATE child SET late = 'changed'"),
    ("public", "parts_2026", "INSERT INTO parts VALUES (3, 2026)"),
    ("public", "wide", "UPDATE wide SET c800 = 0"),
    ("public", "unlogged", "TRUNCATE unlogged"),
    ("Other", "kinds", "UPDATE \"Other\".kinds SET id = 2"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_a_row_changes_only_the_digest_of_its_table() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let mut before = digests_now(&config).await;
    assert_eq!(digests_now(&config).await, before, "nothing changed");
    let mut seen: BTreeSet<String> = before.values().map(|digest| digest.content.clone()).collect();
    for (schema, name, change) in CHANGES {
        server.psql("sample", change);
        let after = digests_now(&config).await;
        let changed: Vec<_> = after.iter().filter(|(table, digest)| before.get(table) != Some(digest)).collect();
        assert_eq!(changed.len(), 1, "{change}: {changed:?}");
        assert_eq!((changed[0].0.schema.as_str(), changed[0].0.name.as_str()), (schema, name), "{change}");
        assert!(seen.insert(changed[0].1.content.clone()), "{change} produced an earlier digest again");
        before = after;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_the_rows_does_not_matter_and_their_number_does() {
    let Some(server) = Server::start() else { return };
    server.create_database("d", &[]);
    let config = config(&server, "d");
    let variants = [
        "CREATE TABLE t (a text, b text); INSERT INTO t VALUES ('1', 'x'), ('2', 'y'), ('2', 'y')",
        "TRUNCATE t; INSERT INTO t VALUES ('2', 'y'), ('1', 'x'), ('2', 'y')",
        "UPDATE t SET a = a; VACUUM FULL t",
        "DROP TABLE t; CREATE TABLE t (b text, a text); INSERT INTO t VALUES ('y', '2'), ('x', '1'), ('y', '2')",
    ];
    let mut seen = BTreeSet::new();
    for variant in variants {
        server.psql("d", variant);
        seen.insert(digests_now(&config).await[&public("t")].content.clone());
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    for (different, rows) in [
        ("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)", 2),
        ("TRUNCATE t; INSERT INTO t VALUES ('x', '1'), ('x', '1'), ('y', '2')", 3),
        ("TRUNCATE t; INSERT INTO t VALUES ('1', 'x'), ('2', 'y'), ('2', 'y')", 3),
        ("TRUNCATE t; INSERT INTO t VALUES ('', 'x,1'), ('y', '2'), ('y', '2')", 3),
        ("TRUNCATE t; INSERT INTO t VALUES (NULL, 'x,1'), ('y', '2'), ('y', '2')", 3),
        ("ALTER TABLE t RENAME a TO c", 3),
        ("ALTER TABLE t ALTER c TYPE varchar", 3),
        ("TRUNCATE t", 0),
    ] {
        server.psql("d", different);
        let digest = digests_now(&config).await[&public("t")].clone();
        assert_eq!(digest.rows, rows, "{different}");
        assert!(seen.insert(digest.content), "{different}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_leaves_out_only_the_rows_that_it_names() {
    let Some(server) = sample() else { return };
    let session = open(&config(&server, "sample")).await;
    let all = 7;
    let cases: [(&str, &[&str], u64); 13] = [
        ("name", &[], all),
        ("name", &[""], all),
        ("name", &["COMPANY"], all - 1),
        ("name", &["company"], all),
        ("name", &["CRON_*"], all - 2),
        ("name", &["CRON_*", "CRON_LAST", "COMPANY"], all - 3),
        ("name", &["PER%*"], all - 1),
        ("name", &["PER_ENT"], all),
        ("name", &["STAR**"], all - 1),
        ("name", &["*"], 1),
        ("name", &["' OR true --"], all),
        ("amount", &["1", "2*"], all - 2),
        ("absent", &["*"], all),
    ];
    for (column, values, rows) in cases {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let skip_rows = Some(RowFilter { column: column.to_owned(), values });
        let selection = Selection { skip_rows: skip_rows.clone(), ..whole(&public("const")) };
        assert_eq!(session.digest(&[selection]).await.unwrap()[0].rows, rows, "{skip_rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_a_skipped_column_does_not_change_the_digest() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let skip_columns = vec!["value".to_owned(), "absent".to_owned()];
    let some = Selection { skip_columns, ..whole(&public("const")) };
    let names = ["name", "value", "amount"].map(str::to_owned).to_vec();
    let none = Selection { skip_columns: names, ..whole(&public("const")) };
    let mut seen = Vec::new();
    for change in [
        "SELECT",
        "UPDATE const SET value = 'other'",
        "UPDATE const SET name = name || 'x'",
        "DELETE FROM const WHERE name IS NULL",
    ] {
        server.psql("sample", change);
        let session = open(&config).await;
        seen.push(session.digest(&[some.clone(), none.clone()]).await.unwrap());
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1][0], seen[2][0]);
    assert_eq!(seen[1][1], seen[2][1], "without columns only the number of rows counts");
    assert_ne!(seen[2][1], seen[3][1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_listed_by_schema_and_name_with_their_columns() {
    let Some(server) = sample() else { return };
    server.psql("sample", "CREATE TEMPORARY TABLE t (i int)");
    let session = open(&config(&server, "sample")).await;
    let tables = session.tables().await.unwrap();
    let names: Vec<_> = tables.iter().map(|table| format!("{}.{}", table.name.schema, table.name.name)).collect();
    let expected = [
        "Other.kinds",
        "public.Mixed \"Case",
        "public.child",
        "public.const",
        "public.dropped",
        "public.kinds",
        "public.no_column",
        "public.no_row",
        "public.one_column",
        "public.parent",
        "public.parts_2025",
        "public.parts_2026",
        "public.unlogged",
        "public.wide",
    ];
    assert_eq!(names, expected);
    assert_eq!(session.facts().tables, expected.len() as u64);
    let kinds = tables.iter().find(|table| table.name == public("kinds")).unwrap();
    let types: Vec<_> = kinds.columns.iter().take(4).map(|c| (c.name.as_str(), c.type_name.as_str())).collect();
    assert_eq!(types, [("id", "integer"), ("t", "text"), ("v", "character varying(20)"), ("c", "character(8)")]);
    assert!(kinds.bytes >= 8192);
    assert_eq!(tables[6].columns, []);
    assert_eq!(tables[4].columns.len(), 2, "a dropped column is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_value_is_a_number_or_a_time_and_never_a_text() {
    let Some(server) = sample() else { return };
    let session = open(&config(&server, "sample")).await;
    let tables = ["parts_2026", "no_row", "child", "parent"].map(public);
    let latest = session.latest(&tables, "tms").await.unwrap();
    let found: Vec<_> = latest.iter().map(|l| (l.table.name.as_str(), l.rows, l.max.as_deref())).collect();
    let expected = [
        ("parts_2026", 1, Some("2026-06-06 06:06:06.123456")),
        ("no_row", 0, None),
        ("child", 1, None),
        ("parent", 1, Some("2026-01-01 10:00:00")),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        session.latest(&[public("kinds")], "s").await.unwrap()[0].max.as_deref(),
        Some("999"),
        "a domain of a domain"
    );
    assert_eq!(session.latest(&[], "tms").await.unwrap(), []);
    for (table, column) in [("kinds", "t"), ("kinds", "b"), ("kinds", "absent"), ("absent", "tms")] {
        let error = session.latest(&[public(table)], column).await.unwrap_err();
        assert_eq!(error.class(), Class::PluginRefused, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_query_does_not_end_the_snapshot() {
    let Some(server) = sample() else { return };
    let folder = credentials("reader", CANARY);
    server.psql("sample", "REVOKE SELECT ON const FROM reader; ALTER TABLE kinds ENABLE ROW LEVEL SECURITY");
    let session = open(&reader_config(&server, "sample", &folder)).await;
    for table in ["const", "kinds"] {
        let error = session.digest(&[whole(&public(table))]).await.unwrap_err();
        assert_eq!(error.class(), Class::Config, "{error}");
        assert!(error.message().contains(table) && error.advice().unwrap().contains("pg_read_all_data"), "{error}");
    }
    server.psql("sample", "INSERT INTO one_column VALUES ('late')");
    assert_eq!(session.digest(&[whole(&public("one_column"))]).await.unwrap()[0].rows, 2);
    let error = session.digest(&[whole(&public("absent\u{1b}[2J"))]).await.unwrap_err();
    assert_eq!(error.class(), Class::PluginRefused);
    assert!(!error.message().contains('\u{1b}'));
    assert_eq!(session.digest(&[]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_database_is_read_over_several_connections_in_the_one_snapshot() {
    let Some(server) = Server::start() else { return };
    server.create_database("d", &[]);
    server.psql(
        "d",
        "SELECT format('CREATE TABLE t%s AS SELECT i, repeat(md5(i::text), 20) AS x FROM generate_series(1, 10000) AS i', n) \
         FROM generate_series(1, 3) AS n \\gexec",
    );
    let config = config(&server, "d");
    let session = open(&config).await;
    server.psql("d", "DELETE FROM t1 WHERE i <= 5; INSERT INTO t3 VALUES (0, '')");
    let digests = digests(&session).await;
    assert!(digests.values().all(|digest| digest.rows == 10_000), "{digests:?}");
    let contents: BTreeSet<_> = digests.values().map(|digest| &digest.content).collect();
    assert_eq!(contents.len(), 1, "equal tables have equal digests");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let imported = server.log().lines().filter(|line| line.contains("SET TRANSACTION SNAPSHOT '")).count();
    assert_eq!(imported, cores.min(4), "one connection per core");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_spare_connections_is_read_over_one() {
    let options = Options {
        settings: "max_connections = 7\nsuperuser_reserved_connections = 3".to_owned(),
        ..Options::default()
    };
    let Some(server) = Server::start_with(&options) else { return };
    server.create_database("d", &[]);
    server.psql("d", SAMPLE);
    server.psql("d", "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 20) AS x FROM generate_series(1, 30000) AS i; GRANT SELECT ON big TO reader");
    let folder = credentials("reader", CANARY);
    let config = reader_config(&server, "d", &folder);
    let first = open(&config).await;
    let second = open(&config).await;
    let third = open(&config).await;
    // The fourth and last connection reads for the first session.
    assert_eq!(digests(&first).await[&public("big")].rows, 30_000);
    let error = digests_error(&second).await;
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    drop(third);
}

async fn digests_error(session: &OpenDatabase) -> base::error::Error {
    session.digest(&[whole(&public("big"))]).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_invalid_text_do_not_fail_a_digest() {
    let Some(server) = Server::start() else { return };
    for (database, arguments) in
        [("ascii", ["--encoding=SQL_ASCII", "--locale=C"]), ("latin", ["--encoding=LATIN1", "--locale=C"])]
    {
        server.create_database(database, &arguments);
        server.psql(database, "CREATE TABLE t (x text); INSERT INTO t VALUES (E'\\xff\\xfe'), (E'\\xe9')");
        let digest = digests_now(&config(&server, database)).await[&public("t")].clone();
        assert_eq!(digest.rows, 2);
        server.psql(database, "UPDATE t SET x = E'\\xff\\xff' WHERE x = E'\\xff\\xfe'");
        assert_ne!(digests_now(&config(&server, database)).await[&public("t")], digest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_a_definition_changes_the_hash_and_data_rights_and_owners_do_not() {
    let Some(server) = sample() else { return };
    let config = config(&server, "sample");
    let hash = async || {
        let session = open(&config).await;
        let structure = session.listed(Listing::Structure).await.unwrap();
        structure + &session.listed(Listing::Definitions).await.unwrap()
    };
    let mut seen = BTreeSet::from([hash().await]);
    for same in [
        "INSERT INTO kinds (t) VALUES ('data'); SELECT nextval('numbers')",
        "CREATE ROLE other; ALTER TABLE const OWNER TO other; GRANT SELECT ON kinds TO other",
        "COMMENT ON TABLE kinds IS 'text'",
        "ALTER TABLE dropped ADD COLUMN x int; ALTER TABLE dropped DROP COLUMN x",
    ] {
        server.psql("sample", same);
        assert!(!seen.insert(hash().await), "{same}");
    }
    for change in [
        "ALTER TABLE kinds ADD COLUMN extra int",
        "ALTER TABLE kinds ALTER extra TYPE bigint",
        "ALTER TABLE kinds ALTER extra SET DEFAULT 1",
        "ALTER TABLE kinds ALTER extra SET DEFAULT 2",
        "ALTER TABLE no_row ALTER id SET NOT NULL",
        "ALTER TABLE const DROP CONSTRAINT amount_positive",
        "CREATE INDEX ON const (value)",
        "CREATE OR REPLACE VIEW moods AS SELECT id, m FROM kinds WHERE m IN ('ok', 'sad') ORDER BY id",
        "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "ALTER TABLE parent DISABLE TRIGGER touched",
        "DROP TRIGGER touched ON parent",
        "ALTER TYPE mood ADD VALUE 'glad' BEFORE 'happy'",
        "ALTER DOMAIN positive ADD CHECK (VALUE < 5000)",
        "ALTER SEQUENCE numbers INCREMENT 2",
        "ALTER TABLE kinds ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON kinds USING (id > 1)",
        "CREATE SCHEMA more",
        "DROP STATISTICS correlated",
        "DROP RULE quiet ON no_row",
        "DROP AGGREGATE together (text)",
        "ALTER TABLE unlogged SET LOGGED",
        "ALTER TABLE parts DETACH PARTITION parts_2025",
        "ALTER TABLE child NO INHERIT parent",
        "CREATE TYPE span AS RANGE (subtype = int)",
        "ALTER TYPE point3 ADD ATTRIBUTE z float8",
    ] {
        server.psql("sample", change);
        assert!(seen.insert(hash().await), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comments_rights_large_objects_and_sequences_are_measured_separately() {
    let Some(server) = sample() else { return };
    server.psql("sample", "CREATE ROLE other; SELECT lo_from_bytea(9000, 'contract v1'), lo_create(9001)");
    let config = config(&server, "sample");
    let measured = async || {
        let session = open(&config).await;
        let mut measured = Vec::new();
        for selected in [
            Selected::Structure,
            Selected::Comments,
            Selected::Rights,
            Selected::LargeObjects,
            Selected::Sequences { skip: BTreeMap::new() },
        ] {
            measured.push(session.measure(selected).await.unwrap().digest);
        }
        measured
    };
    let mut before = measured().await;
    assert_eq!(before, measured().await, "nothing changed");
    for (change, differs) in [
        ("COMMENT ON TABLE kinds IS 'text'", 1),
        ("COMMENT ON COLUMN kinds.id IS 'text'", 1),
        ("GRANT SELECT ON kinds TO other", 2),
        ("ALTER TABLE const OWNER TO other", 2),
        ("GRANT SELECT (id) ON no_row TO other", 2),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE other GRANT SELECT ON TABLES TO PUBLIC", 2),
        ("SELECT lo_put(9000, 0, 'contract v2')", 3),
        ("SELECT lo_put(9001, 3000000, 'behind a hole')", 3),
        ("SELECT lo_put(9001, 1048575, '\\x0102')", 3),
        ("SELECT nextval('numbers')", 4),
        ("SELECT setval('numbers', 500, false)", 4),
        ("SELECT setval('numbers', 500, true)", 4),
    ] {
        server.psql("sample", change);
        let now = measured().await;
        let found: Vec<usize> = (0..now.len()).filter(|at| now[*at] != before[*at]).collect();
        assert_eq!(found, [differs], "{change}");
        before = now;
    }
    server.psql("sample", "SELECT lo_unlink(9001)");
    let now = measured().await;
    assert!(now[2] != before[2] && now[3] != before[3], "a large object also has an owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_md5_can_be_measured() {
    let Some(server) = sample() else { return };
    server.psql(
        "sample",
        "SET allow_system_table_mods = on; CREATE OR REPLACE FUNCTION pg_catalog.md5(text) RETURNS text LANGUAGE plpgsql AS \
         $$ BEGIN RAISE 'could not compute MD5 hash: unsupported'; END $$",
    );
    let config = config(&server, "sample");
    assert!(digests_now(&config).await.len() > 3);
    let session = open(&config).await;
    for listing in [Listing::Structure, Listing::Definitions, Listing::Comments, Listing::Rights] {
        session.listed(listing).await.unwrap();
    }
    session.large_objects().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_ahead_gives_the_same_digests_and_needs_a_second_connection() {
    let Some(server) = sample() else { return };
    let all = [Selected::Structure, Selected::Definitions, Selected::Comments, Selected::Rights];
    let with =
        async |connections| open(&DatabaseConfig { connections: Some(connections), ..config(&server, "sample") }).await;
    let connected = || server.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'sample'");
    let (two, one) = (with(2).await, with(1).await);
    assert_eq!(connected().trim(), "2");
    one.list_ahead(&all);
    two.list_ahead(&[Selected::LargeObjects]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(connected().trim(), "2", "there was nothing to list ahead, or no connection for it");
    two.list_ahead(&all);
    wait_for(|| (connected().trim() == "3").then_some(())).await;
    for selected in all {
        let digest = async |session: &OpenDatabase| session.measure(selected.clone()).await.unwrap().digest;
        assert_eq!(digest(&two).await, digest(&one).await, "{selected:?}");
    }
    assert_eq!(connected().trim(), "4", "a listing is not made twice, so it needs no further connection");
    two.close().await;
    one.close().await;
}
