//! One object of every kind: what is restored, what is reported as not restorable, and what cannot be tested here.

use super::{databases, restore, with_targets};
use crate::scene::{ROLE, Scene, complains};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::binary::Config;

/// The kinds of object that every role may create.
const MUSEUM: &str = include_str!("museum.sql");

/// The kinds of object that later versions added.
const SINCE_14: &str = include_str!("museum-14.sql");
const SINCE_17: &str = include_str!("museum-17.sql");

/// Objects that depend on the server: roles, extensions, a tablespace, and what only a superuser may create.
const OF_THE_SERVER: &str = "CREATE ROLE \"Odd, role\" NOLOGIN; \
     CREATE POLICY odd ON invoice FOR UPDATE TO \"Odd, role\", CURRENT_USER USING (status IN ('draft', 'sent')); \
     CREATE SCHEMA trigrams; CREATE EXTENSION pg_trgm SCHEMA trigrams; CREATE EXTENSION pg_stat_statements; CREATE EXTENSION postgres_fdw; \
     CREATE INDEX by_trigrams ON invoice USING gin (ref trigrams.gin_trgm_ops); \
     CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (port '1', host '127.0.0.1', dbname 'there'); \
     CREATE USER MAPPING FOR \"Odd, role\" SERVER elsewhere OPTIONS (user 'x', password 'y'); \
     CREATE FOREIGN TABLE far (a integer OPTIONS (column_name 'b')) SERVER elsewhere OPTIONS (table_name 'there'); \
     CREATE PUBLICATION everything FOR ALL TABLES; \
     CREATE PUBLICATION sold FOR TABLE invoice, line WITH (publish = 'insert, delete'); \
     COMMENT ON PUBLICATION sold IS 'a publication'; \
     CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1; END $$; \
     CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION watch(); \
     COMMENT ON EVENT TRIGGER watching IS 'an event trigger'; \
     CREATE TABLE fast (id integer PRIMARY KEY, x text) TABLESPACE fast; \
     CREATE SUBSCRIPTION drawn CONNECTION 'host=127.0.0.1 port=1 dbname=x password=canary-subscription' PUBLICATION p WITH (connect = false); \
     COMMENT ON SUBSCRIPTION drawn IS 'in no dump'; COMMENT ON TYPE line IS 'in no dump'; COMMENT ON TRIGGER on_parts ON event_2025 IS 'in no dump'; \
     COMMENT ON DATABASE museum IS 'of the whole'; \
     GRANT SELECT ON invoice TO \"Odd, role\"; \
     ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO \"Odd, role\"";

/// Security labels. They need a loaded label provider.
const LABELS: &str = "SECURITY LABEL FOR museum ON DATABASE museum IS 'the whole'; SECURITY LABEL FOR museum ON TABLE invoice IS 'it''s secret'; \
     SECURITY LABEL FOR museum ON COLUMN invoice.ref IS 'a column'; SECURITY LABEL FOR museum ON SCHEMA \"Œuvres & Co\" IS 'a schema'; \
     SECURITY LABEL FOR museum ON FUNCTION touch() IS 'a function'; SECURITY LABEL FOR museum ON AGGREGATE joined(text) IS 'an aggregate'; \
     SECURITY LABEL FOR museum ON TYPE mood IS 'a type'; SECURITY LABEL FOR museum ON DOMAIN siren IS 'a domain'; \
     SECURITY LABEL FOR museum ON SEQUENCE counter IS 'a sequence'; SECURITY LABEL FOR museum ON VIEW unpaid IS 'a view'; \
     SECURITY LABEL FOR museum ON MATERIALIZED VIEW totals IS 'a materialized view'; \
     SECURITY LABEL FOR museum ON LARGE OBJECT 70003 IS 'a large object'; SECURITY LABEL FOR museum ON FOREIGN TABLE far IS 'a foreign table'; \
     SECURITY LABEL FOR museum ON EVENT TRIGGER watching IS 'an event trigger'; SECURITY LABEL FOR museum ON PUBLICATION sold IS 'a publication'; \
     SECURITY LABEL FOR museum ON SUBSCRIPTION drawn IS 'in no dump'; SECURITY LABEL FOR museum ON ROLE \"Odd, role\" IS 'of the server'";

/// The settings of the database itself.
const SETTINGS: &str = "ALTER DATABASE museum SET search_path TO public, \"Œuvres & Co\"; ALTER DATABASE museum SET statement_timeout = '5min'; \
     ALTER DATABASE museum SET lc_monetary = 'C'; ALTER DATABASE museum SET own.setting = 'it''s; odd'; \
     ALTER DATABASE museum CONNECTION LIMIT 50; ALTER ROLE \"Odd, role\" IN DATABASE museum SET work_mem = '8MB'; \
     ALTER ROLE \"Odd, role\" SET lock_timeout = '1min'; ALTER ROLE postgres SET own.setting = 'of the first role'; \
     ALTER ROLE ALL SET own.common = 'of all'; ALTER ROLE ALL IN DATABASE museum SET own.other = 'of everybody'; \
     REVOKE CONNECT ON DATABASE museum FROM PUBLIC; GRANT CONNECT ON DATABASE museum TO \"Odd, role\", backup";

/// A scene with a museum, and the `createdb` arguments of its databases.
struct Museum {
    scene: Scene,
    creation: &'static [&'static str],
}

impl std::ops::Deref for Museum {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

/// A database `museum` with the locale provider ICU on the scene's server, which `prod/db` backs up.
fn museum() -> Option<Museum> {
    let scene = Scene::small()?;
    scene.server.psql(
        "postgres",
        &format!("ALTER SYSTEM SET session_preload_libraries = '{}'", label_provider(&scene).display()),
    );
    scene.server.psql("postgres", "SELECT pg_reload_conf()");
    let creation = &["--locale-provider=icu", "--icu-locale=fr-FR", "--locale=C.UTF-8"];
    built(scene, creation, &[MUSEUM, SINCE_14, OF_THE_SERVER, SETTINGS, LABELS])
}

/// A museum with PostgreSQL's builtin locale provider, on the newest available server, which is built without ICU.
fn newest() -> Option<(Museum, PathBuf)> {
    let scene = Scene::on(tests::postgres::Server::start_newer()?);
    let bin = scene.server.bin().to_owned();
    let creation = &["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8"];
    let without_icu = MUSEUM
        .replace("(provider = icu, locale = 'fr-u-kn-true', deterministic = false)", "(provider = libc, locale = 'C')");
    assert_ne!(without_icu, MUSEUM);
    let made = built(scene, creation, &[&without_icu, SINCE_14, OF_THE_SERVER, SINCE_17, SETTINGS])?;
    Some((made, bin))
}

/// Builds the label provider, a library that the server loads into each session.
fn label_provider(scene: &Scene) -> PathBuf {
    let library = scene.server.socket().join("label_provider.so");
    let version = scene.server.psql("postgres", "SHOW server_version_num");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/label-provider/lib.rs");
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition=2024", "--crate-type=cdylib", "--crate-name=label_provider", "-Cpanic=abort", "-o"]);
    run(compiler.arg(&library).arg(source).env("POSTGRES_MAJOR", &version.trim()[..2]));
    library
}

fn built(mut scene: Scene, creation: &'static [&'static str], content: &[&str]) -> Option<Museum> {
    let tablespace = scene.server.socket().join("fast");
    std::fs::create_dir(&tablespace).unwrap();
    if let Some((user, group)) = scene.server.owner() {
        std::os::unix::fs::chown(&tablespace, Some(user), Some(group)).unwrap();
    }
    scene.server.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", tablespace.display()));
    scene.server.create_database("museum", creation);
    for sql in content {
        scene.server.psql("museum", sql);
    }
    scene
        .server
        .psql("museum", &format!("GRANT pg_read_all_data TO {ROLE}; ALTER ROLE {ROLE} BYPASSRLS; {}", rights()));
    let credentials = scene.folder.path().join("credentials");
    scene.config = Config::directory_store(&scene.store)
        .top("time_zone = \"Europe/Paris\"")
        .database(("prod", "db"), ("127.0.0.1", scene.server.port()), "museum", &credentials, "")
        .documents(("prod", "docs"), &scene.documents);
    let scene = with_targets(scene)?;
    Some(Museum { scene, creation })
}

/// Grants on large objects, because `pg_read_all_data` does not include them.
fn rights() -> String {
    [70001, 70002, 70003].map(|id| format!("GRANT SELECT ON LARGE OBJECT {id} TO {ROLE}; ")).concat()
}

/// The definitions of a database as stock pg_dump prints them.
fn schema(scene: &Scene, database: &str) -> String {
    let mut dump = scene.server.client("pg_dump");
    dump.args(["--schema-only", "--no-owner", "--no-acl", "--no-subscriptions", "--dbname", database]);
    let output = dump.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Since PostgreSQL 15.14 each output has its own key.
    text.lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The same after one more dump and restore with stock tools.
fn schema_of_second_round(scene: &Museum, database: &str) -> String {
    let again = format!("{database}_again");
    let file = scene.server.socket().join("again.dump");
    let mut dump = scene.server.client("pg_dump");
    dump.args(["--format=custom", "--no-subscriptions", "--dbname", database, "--file"]).arg(&file);
    run(&mut dump);
    scene.server.create_database(&again, scene.creation);
    scene.server.restore(&again, &file);
    schema(scene, &again)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The content of a database apart from its definitions: rows, large objects, sequences, comments, security labels.
fn content(scene: &Scene, database: &str) -> String {
    let rows = "SELECT table_schema, table_name, md5(query_to_xml(format('SELECT * FROM ONLY %I.%I AS t ORDER BY t::text COLLATE \"C\"', \
         table_schema, table_name), true, false, '')::text) FROM information_schema.tables \
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE' ORDER BY 1, 2";
    let objects = "SELECT oid, md5(lo_get(oid)), length(lo_get(oid)), obj_description(oid, 'pg_largeobject') FROM pg_largeobject_metadata ORDER BY 1";
    let sequences =
        "SELECT schemaname, sequencename, last_value, increment_by, cache_size FROM pg_sequences ORDER BY 1, 2";
    let comments = "SELECT i.identity, d.description FROM pg_description AS d, pg_identify_object(classoid, objoid, objsubid) AS i WHERE objoid >= 16384 AND d.description <> 'in no dump' ORDER BY 1, 2";
    let labels = "SELECT objtype, CASE objtype WHEN 'database' THEN '' ELSE objname END, provider, label FROM pg_seclabels \
         WHERE objtype NOT IN ('role', 'subscription') AND (objtype <> 'database' OR objname = quote_ident(current_database())) ORDER BY 1, 2, 3, 4";
    [rows, objects, sequences, comments, labels].map(|sql| scene.server.psql(database, sql)).concat()
}

/// The properties of the database itself.
fn properties(scene: &Scene, database: &str) -> String {
    // PostgreSQL 17 has one column for the locales of two providers.
    let has_one = scene.server.psql(
        "postgres",
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'pg_database'::regclass AND attname = 'datlocale'",
    );
    let locale = if has_one.trim() == "1" { "datlocale" } else { "daticulocale" };
    let sql = format!(
        "SELECT d.datlocprovider, d.{locale}, d.datcollate, pg_encoding_to_char(d.encoding), d.datconnlimit, \
         (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(d.datacl) AS a), shobj_description(d.oid, 'pg_database'), \
         (SELECT string_agg(coalesce(r.rolname, '') || s.setconfig::text, ' ' ORDER BY r.rolname) FROM pg_db_role_setting AS s \
         LEFT JOIN pg_roles AS r ON r.oid = s.setrole WHERE s.setdatabase = d.oid) FROM pg_database AS d WHERE d.datname = '{database}'"
    );
    scene.server.psql("postgres", &sql)
}

fn notes(value: &Value) -> String {
    let notes = value["notes"].as_array().unwrap_or_else(|| panic!("{value}"));
    notes.iter().map(|note| note.as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn a_museum_comes_back_and_what_does_not_is_listed() {
    let Some(scene) = museum() else { return };
    let mut day = 0;
    let mut next = || {
        day += 1;
        scene.backup(&["--now", &format!("2026-06-{day:02}T01:00:00Z")])
    };
    next();
    for change in [
        "SECURITY LABEL FOR museum ON DATABASE museum IS 'the whole of it'",
        "ALTER DATABASE museum SET statement_timeout = '6min'",
        "ALTER ROLE \"Odd, role\" IN DATABASE museum SET work_mem = '9MB'",
        "REVOKE TEMPORARY ON DATABASE museum FROM PUBLIC",
        "COMMENT ON DATABASE museum IS 'of all of it'",
    ] {
        scene.server.psql("museum", change);
        let made = next();
        assert_eq!(made["snapshot"]["sources"]["db"]["outcome"], "saved", "after {change}: {made}");
    }
    scene.server.psql("museum", "ALTER ROLE ALL SET own.common = 'since the last dump'");
    let carried = next();
    assert_eq!(carried["snapshot"]["sources"]["db"]["outcome"], "unchanged", "{carried}");
    let database = &carried["snapshot"]["sources"]["db"]["database"];
    let left_out = database["left_out"].to_string();
    assert!(left_out.contains("1 subscriptions are left out"), "{database}");
    assert!(left_out.contains("the settings of ALTER ROLE for `Odd, role` and one more role"), "{database}");
    assert!(left_out.contains("the settings of ALTER ROLE ALL in every database"), "{database}");
    assert!(scene.stored().values().all(|bytes| !bytes.windows(19).any(|text| text == b"canary-subscription")));

    let done = restore(&scene, &["--into", "museum_new", "--server", "lab"]).expect_code(0).json();
    let restored = &done["restored"];
    assert_eq!(restored["compared"], "equal", "{done}");
    let (before, after) = (notes(&done["plan"]), notes(restored));
    assert!(before.contains("owners and rights of objects in the database are not restored"), "{before}");
    assert!(before.contains("of the dump: the settings of ALTER ROLE for `Odd, role`"), "{before}");
    assert!(after.contains("differently from the dump") && after.contains("unpaid"), "{after}");
    assert_eq!(schema(&scene, "museum_new"), schema_of_second_round(&scene, "museum_new"));
    assert_eq!(content(&scene, "museum_new"), content(&scene, "museum"));
    assert_eq!(properties(&scene, "museum_new"), properties(&scene, "museum"));
    assert_eq!(content(&scene, "museum_new").matches("|museum|").count(), 15, "a label is missing");
    let sorted = "SELECT string_agg(x, ',' ORDER BY x) FROM (VALUES ('Étienne'), ('Zoé'), ('alice')) AS v (x)";
    assert_eq!(scene.server.psql("museum_new", sorted), scene.server.psql("museum", sorted));
    let analyzed = "SELECT count(*) FROM pg_stats WHERE tablename = 'invoice'";
    assert_ne!(scene.server.psql("museum_new", analyzed).trim(), "0", "no statistics were gathered");

    // Replaces the existing database, and then backs up and restores the replacement.
    scene.server.psql("postgres", "ALTER DATABASE museum CONNECTION LIMIT 7");
    let swap = ["--into", "museum_next", "--swap", "museum", "--same-environment", "--server", "lab"];
    let done = restore(&scene, &swap).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(properties(&scene, "museum"), properties(&scene, "museum_new"));
    scene.server.psql("museum", &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}; {}", rights()));
    let again = scene.backup(&[]);
    assert_eq!(again["snapshot"]["sources"]["db"]["outcome"], "saved", "its rights and texts differ now: {again}");
    let second = restore(&scene, &["--into", "museum_2", "--server", "lab"]).expect_code(0).json();
    assert_eq!(second["restored"]["compared"], "equal", "{second}");
    assert_eq!(schema(&scene, "museum_2"), schema(&scene, "museum_new"));
}

#[test]
fn a_museum_of_the_newest_postgresql_comes_back_with_its_own_programs() {
    let Some((scene, bin)) = newest() else { return };
    let search = format!("{}:/usr/bin:/bin", bin.display());
    let run = |arguments: &[&str]| {
        scene.command(arguments.iter().copied()).env("PATH", &search).finish().expect_code(0).json()
    };
    let made = run(&["--json", "backup", "--env", "prod"]);
    assert!(made["snapshot"]["sources"]["db"]["database"]["pg_dump_version"].as_str() >= Some("17"), "{made}");
    let deep = run(&["--json", "verify", "--env", "prod", "--deep", "--server", "lab"]);
    assert_eq!(deep["verifications"][0]["sources"]["db"]["compared"], "equal", "{deep}");
    let restore = ["--json", "restore", "--env", "prod", "--source", "db", "--server", "lab", "--into"];
    let done = run(&[&restore[..], &["museum_new"]].concat());
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(schema(&scene, "museum_new"), schema_of_second_round(&scene, "museum_new"));
    assert_eq!(content(&scene, "museum_new"), content(&scene, "museum"));
    assert_eq!(properties(&scene, "museum_new"), properties(&scene, "museum"));
    let done = run(&[&restore[..], &["museum_next", "--swap", "museum", "--same-environment"]].concat());
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(schema(&scene, "museum"), schema(&scene, "museum_new"));
    assert_eq!(properties(&scene, "museum"), properties(&scene, "museum_new"));
}

#[test]
fn an_adopted_dump_that_says_something_of_a_subscription_comes_back_without_it() {
    let Some(scene) = museum() else { return };
    std::fs::create_dir_all(scene.store.join("prod/db")).unwrap();
    let mut dump = scene.server.client("pg_dump");
    dump.args(["--format=custom", "--create", "--dbname", "museum", "--file"]);
    run(dump.arg(scene.store.join("prod/db/20260601-010000.dump")));
    let _ = scene.run(["init", "--env", "prod"]).expect_code(0);
    let done = restore(&scene, &["--into", "museum_new", "--server", "lab"]).expect_code(0).json();
    assert!(notes(&done["plan"]).contains("1 subscriptions are not created"), "{done}");
    assert_eq!(schema(&scene, "museum_new"), schema_of_second_round(&scene, "museum_new"));
    assert_eq!(content(&scene, "museum_new"), content(&scene, "museum"));
    assert_eq!(properties(&scene, "museum_new"), properties(&scene, "museum"));
    assert_eq!(scene.server.psql("postgres", "SELECT count(*) FROM pg_subscription").trim(), "1");
}

#[test]
fn a_museum_is_proven_on_a_throwaway_server_that_had_nothing_of_it() {
    let Some(scene) = museum() else { return };
    scene.backup(&["--now", "2026-06-01T01:00:00Z"]);
    let deep = scene.run(["--json", "verify", "--env", "prod", "--deep"]).expect_code(0).json();
    let db = &deep["verifications"][0]["sources"]["db"];
    assert_eq!(
        (&deep["verifications"][0]["depth"], &db["compared"], &db["untried"]),
        (&"deep".into(), &"equal".into(), &Value::Null),
        "{db}"
    );
    assert!(notes(db).contains("differently from the dump"), "{db}");
    let drilled = scene.run(["--json", "drill", "--env", "prod"]).json();
    assert_eq!(drilled["drill"]["sources"]["db"]["compared"], "equal", "{drilled}");
}

#[test]
fn what_only_a_superuser_could_make_cannot_be_tried_here_and_is_no_failure() {
    let Some(mut scene) = Scene::small() else { return };
    scene.server.psql(
        crate::scene::DATABASE,
        "CREATE TYPE coin; CREATE FUNCTION coin_in(cstring) RETURNS coin LANGUAGE internal IMMUTABLE STRICT AS 'int4in'; \
         CREATE FUNCTION coin_out(coin) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out'; \
         CREATE TYPE coin (input = coin_in, output = coin_out, like = int4); \
         CREATE CAST (coin AS int4) WITHOUT FUNCTION AS ASSIGNMENT; \
         CREATE AGGREGATE nearest (ORDER BY anyelement) \
         (sfunc = ordered_set_transition, stype = internal, finalfunc = mode_final, finalfunc_extra)",
    );
    scene = with_targets(scene).unwrap();
    scene.backup(&[]);
    let deep = scene.run(["verify", "--env", "prod", "--deep"]);
    complains(&deep, 64, "the restore could not be tested: ");
    assert!(
        deep.stderr.contains("must be superuser to create a base type") && deep.stdout.contains("passed"),
        "{deep:?}"
    );
    assert_eq!(scene.list()[0]["verified"], true, "the objects that were read are whole");
    let drilled = scene.run(["drill", "--env", "prod"]);
    complains(&drilled, 64, "the restore could not be tested: ");
    assert_eq!(scene.list()[0]["verified"], true);
    let deep = scene.run(["--json", "verify", "--env", "prod", "--deep", "--server", "lab"]).expect_code(0).json();
    assert_eq!(deep["verifications"][0]["sources"]["db"]["compared"], "equal", "{deep}");
}

#[test]
fn what_the_target_lacks_is_named_before_anything_is_made() {
    let Some(scene) = museum() else { return };
    scene.backup(&[]);
    let before = databases(&scene);
    let other = tests::postgres::Server::start().unwrap();
    other.psql("postgres", "CREATE ROLE plain LOGIN CREATEDB PASSWORD 'x'");
    let url = |user: &str| {
        format!("postgres://{user}@{}:{}/", other.socket().to_str().unwrap().replace('/', "%2F"), other.port())
    };
    let into = |user: &str| restore(&scene, &["--into", "x", "--server", &url(user)]);
    let address = url("postgres");
    let plainly = ["restore", "--env", "prod", "--source", "db", "--into", "x", "--server", &address];
    complains(&scene.run(plainly), 64, "the roles `Odd, role`");
    other.psql("postgres", "CREATE ROLE \"Odd, role\"; CREATE ROLE backup");
    let planned = restore(&scene, &["--into", "x", "--server", &url("postgres"), "--dry-run"]).expect_code(0).json();
    let said = notes(&planned["plan"]);
    assert!(said.contains("default tablespace, because `fast`"), "{planned}");
    assert!(
        said.contains("labels of objects in the database are not restored, because `museum` is not loaded"),
        "{planned}"
    );
    assert!(said.contains("ON DATABASE … IS 'the whole' (`museum` is not loaded)"), "{planned}");
    let done = into("postgres").expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(databases(&scene), before);
}

#[test]
fn what_nobody_saw_change_is_seen_now() {
    let Some(scene) = Scene::small() else { return };
    scene.server.psql(
        crate::scene::DATABASE,
        &format!("SELECT lo_from_bytea(70003, 'contract v1'); GRANT SELECT ON LARGE OBJECT 70003 TO {ROLE}"),
    );
    let run = |day: u8| {
        let made = scene.backup(&["--now", &format!("2026-06-{day:02}T01:00:00Z")]);
        made["snapshot"]["sources"]["db"]["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!((run(1), run(2)), ("saved".to_owned(), "unchanged".to_owned()));
    let mut day = 3;
    for (change, outcome) in [
        ("SELECT lo_put(70003, 0, 'contract v2')", "saved"),
        ("SELECT nextval(pg_get_serial_sequence('llx_facture', 'rowid'))", "saved"),
        ("COMMENT ON TABLE llx_facture IS 'invoices'", "saved"),
        ("GRANT SELECT ON llx_facture TO PUBLIC", "saved"),
        ("SELECT nextval(pg_get_serial_sequence('llx_actioncomm', 'id'))", "unchanged"),
    ] {
        scene.server.psql(crate::scene::DATABASE, change);
        assert_eq!(run(day), outcome, "{change}");
        assert_eq!(run(day + 1), "unchanged", "after {change}");
        day += 2;
    }
}

#[test]
fn a_role_with_another_encoding_makes_a_dump_that_is_whole() {
    let Some(scene) = Scene::small() else { return };
    let scene = with_targets(scene).unwrap();
    scene.server.psql(
        crate::scene::DATABASE,
        &format!("ALTER ROLE {ROLE} SET client_encoding = 'LATIN1'; CREATE TABLE far (x text); INSERT INTO far VALUES ('Σ 漢'); GRANT SELECT ON far TO {ROLE}"),
    );
    scene.backup(&[]);
    let done = restore(&scene, &["--into", "far", "--server", "lab"]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(scene.server.psql("far", "SELECT x FROM far").trim(), "Σ 漢");
}

#[test]
fn an_event_trigger_that_refuses_everything_keeps_no_restore_from_ending() {
    let Some(scene) = Scene::small() else { return };
    let scene = with_targets(scene).unwrap();
    scene.server.psql(
        crate::scene::DATABASE,
        "CREATE MATERIALIZED VIEW filled AS SELECT count(*) AS n FROM llx_facture; \
         CREATE FUNCTION never() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no such thing here'; END $$; \
         CREATE EVENT TRIGGER refusing ON ddl_command_start EXECUTE FUNCTION never()",
    );
    scene.backup(&[]);
    let done = restore(&scene, &["--into", "refused", "--server", "lab"]).expect_code(0).json();
    assert_eq!(done["restored"]["compared"], "equal", "{done}");
    assert_eq!(scene.server.psql("refused", "SELECT evtname FROM pg_event_trigger").trim(), "refusing");
    assert_ne!(scene.server.psql("refused", "SELECT n FROM filled").trim(), "0");
    let _ = scene.run(["verify", "--env", "prod", "--deep"]).expect_code(0);
}

#[test]
fn no_dump_makes_a_throwaway_server_run_what_it_says() {
    let Some(scene) = Scene::small() else { return };
    let scene = with_targets(scene).unwrap();
    let trace = scene.server.socket().join("run-by-a-dump");
    // Through a wrapper without its validator, anyone who may use it can run programs.
    scene.server.psql(
        crate::scene::DATABASE,
        &format!(
            "CREATE EXTENSION file_fdw; CREATE FOREIGN DATA WRAPPER bare HANDLER file_fdw_handler; CREATE SERVER s FOREIGN DATA WRAPPER bare; \
             CREATE FOREIGN TABLE t (a text) SERVER s OPTIONS (program 'touch {}; echo x')",
            trace.display()
        ),
    );
    scene.backup(&[]);
    complains(&scene.run(["verify", "--env", "prod", "--deep"]), 64, "the foreign data wrapper `bare`");
    assert!(!trace.exists(), "the throwaway server ran a program");
}
