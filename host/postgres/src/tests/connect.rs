use super::*;
use base::error::Class;
use base::secret::SecretString;
use tests::postgres::Options;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_errors_name_the_server_and_never_the_password() {
    let Some(server) = sample() else { return };
    let (good, bad) = (credentials("reader", CANARY), credentials("reader", "canary-wrong"));
    let (nobody, only_user) =
        (credentials("nobody", CANARY), SecretSource { user: Some("reader".into()), ..SecretSource::default() });
    let right = || reader_config(&server, "sample", &good);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cases = [
        (reader_config(&server, "sample", &bad), Class::Config, "password authentication failed"),
        (reader_config(&server, "sample", &nobody), Class::Config, "password authentication failed"),
        (DatabaseConfig { credentials: only_user, ..right() }, Class::Config, "password missing"),
        (DatabaseConfig { database: "absent".into(), ..right() }, Class::Config, "does not exist"),
        (DatabaseConfig { host: "/nonexistent".into(), ..right() }, Class::Unavailable, "/nonexistent"),
        (DatabaseConfig { host: "name.invalid".into(), ..right() }, Class::Unavailable, "name.invalid"),
        (DatabaseConfig { port: free, ..right() }, Class::Unavailable, "refused"),
        (
            DatabaseConfig { port: silent.local_addr().unwrap().port(), connect_timeout: 1, ..right() },
            Class::Unavailable,
            "within 1 s",
        ),
        (DatabaseConfig { host: "a,,b".into(), ..right() }, Class::Config, "must name servers"),
        (DatabaseConfig { database: String::new(), ..right() }, Class::Config, "empty"),
        (DatabaseConfig { open_timeout: 0, ..right() }, Class::Config, "`open_timeout` must be at least one second"),
    ];
    for (config, class, text) in cases {
        let error = refusal(&config).await;
        assert_eq!(error.class(), class, "{error}");
        assert!(error.message().contains(text), "{error} does not contain {text:?}");
        let shown = format!("{error:?} {config:?}");
        assert!(!shown.contains("canary"), "{shown}");
        if class != Class::Config
            || !["empty", "must name servers", "one second"].iter().any(|part| text.contains(part))
        {
            assert!(
                error.message().contains(&config.host) && error.message().contains(&config.port.to_string()),
                "{error}"
            );
            assert!(error.advice().is_some(), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_read_again_for_every_connection() {
    let Some(server) = sample() else { return };
    let folder = credentials("reader", CANARY);
    let session = open(&reader_config(&server, "sample", &folder)).await;
    server.psql("sample", "ALTER ROLE reader PASSWORD 'canary-rotated'");
    std::fs::write(folder.path().join("password"), "canary-rotated").unwrap();
    assert_eq!(session.digest(&[whole(&public("kinds"))]).await.unwrap()[0].rows, 4);
    assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty());
    std::fs::write(folder.path().join("password"), "canary-stale").unwrap();
    let error = read(session.dump(DumpOptions::default()).unwrap()).await.unwrap_err();
    assert_eq!(error.class(), Class::Config, "{error}");
    assert!(error.message().contains("password authentication failed"), "{error}");
}

/// Rule, mode, host, certificates; `None` if the connection is refused, otherwise whether it uses TLS.
type Case<'a> = (&'a str, SslMode, &'a str, Option<&'a PathBuf>, Option<bool>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_used_and_checked_exactly_as_the_mode_requires() {
    use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    let either = "host all all 127.0.0.1/32 scram-sha-256\n";
    let encrypted = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
    let plain = "hostnossl all all 127.0.0.1/32 scram-sha-256\n";
    let access = |rule: &str| Some(format!("local all postgres trust\n{rule}"));
    let Some(server) = Server::start_with(&Options { tls: true, access: access(either), ..Options::default() }) else {
        return;
    };
    let Some(without) = Server::start() else { return };
    for server in [&server, &without] {
        server.psql("postgres", "CREATE ROLE reader LOGIN PASSWORD 'canary-7f3a9c'");
    }
    let folder = credentials("reader", CANARY);
    let (root, stranger) = (server.root_certificate(), server.stranger_certificate());
    let cases: [Case; 27] = [
        (either, Disable, "127.0.0.1", None, Some(false)),
        (either, Allow, "127.0.0.1", None, Some(false)),
        (either, Prefer, "127.0.0.1", None, Some(true)),
        (either, Require, "127.0.0.1", None, Some(true)),
        (either, Require, "127.0.0.1", Some(&root), Some(true)),
        (either, Require, "127.0.0.1", Some(&stranger), None),
        (either, Prefer, "127.0.0.1", Some(&stranger), Some(false)),
        (either, Prefer, "127.0.0.1", Some(&root), Some(true)),
        (either, VerifyCa, "127.0.0.1", None, None),
        (either, VerifyCa, "127.0.0.1", Some(&root), Some(true)),
        (either, VerifyCa, "127.0.0.1", Some(&stranger), None),
        (either, VerifyFull, "127.0.0.1", None, None),
        (either, VerifyFull, "127.0.0.1", Some(&root), None),
        (either, VerifyFull, "localhost", Some(&root), Some(true)),
        (either, VerifyFull, "localhost", Some(&stranger), None),
        (encrypted, Disable, "127.0.0.1", None, None),
        (encrypted, Allow, "127.0.0.1", None, Some(true)),
        (encrypted, Allow, "127.0.0.1", Some(&stranger), None),
        (encrypted, Prefer, "127.0.0.1", None, Some(true)),
        (encrypted, Prefer, "127.0.0.1", Some(&stranger), None),
        (encrypted, VerifyFull, "localhost", Some(&root), Some(true)),
        (plain, Disable, "127.0.0.1", None, Some(false)),
        (plain, Allow, "127.0.0.1", None, Some(false)),
        (plain, Prefer, "127.0.0.1", None, Some(false)),
        (plain, Require, "127.0.0.1", None, None),
        (plain, VerifyCa, "127.0.0.1", Some(&root), None),
        (plain, VerifyFull, "localhost", Some(&root), None),
    ];
    let mut rule_in_force = either;
    for (rule, ssl_mode, host, roots, expected) in cases {
        if rule != rule_in_force {
            std::fs::write(server.socket().join("data/pg_hba.conf"), access(rule).unwrap()).unwrap();
            // A new connection sees the time at which the server last read its files.
            let read = || server.psql("postgres", "SELECT pg_conf_load_time()");
            let before = read();
            server.psql("postgres", "SELECT pg_reload_conf()");
            wait_for(|| (read() != before).then_some(())).await;
            rule_in_force = rule;
        }
        let config = DatabaseConfig {
            host: host.to_owned(),
            ssl_mode,
            ssl_root_cert: roots.cloned(),
            ..reader_config(&server, "postgres", &folder)
        };
        let case = format!("{rule:?} {} {host} {roots:?}", ssl_mode.name());
        match (OpenDatabase::open(&config, "prod/db".to_owned()).await, expected) {
            (Ok(session), Some(tls)) => {
                let row = session.holder.query_one(USES_TLS, &[]).await.unwrap();
                assert_eq!(row.get::<_, bool>(0), tls, "{case}");
                // pg_dump gets the same settings and decides on its own.
                assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty(), "{case}");
            }
            (Err(error), None) => {
                assert_eq!(error.class(), Class::Config, "{case}: {error}");
                assert!(error.advice().is_some_and(|hint| hint.contains("ssl_")), "{case}: {error:?}");
            }
            (found, expected) => panic!("{case}: expected {expected:?}, found {found:?}"),
        }
    }
    for (mode, connects) in [(Disable, true), (Allow, true), (Prefer, true), (Require, false), (VerifyFull, false)] {
        let config = DatabaseConfig {
            ssl_mode: mode,
            ssl_root_cert: Some(root.clone()),
            ..reader_config(&without, "postgres", &folder)
        };
        let opened = OpenDatabase::open(&config, "prod/db".to_owned()).await;
        assert_eq!(opened.is_ok(), connects, "a server without TLS, {}: {opened:?}", mode.name());
        let class = opened.err().map(|error| error.class());
        assert!(class.is_none_or(|class| class == Class::Config));
    }
    let socket = DatabaseConfig { ssl_mode: VerifyFull, ssl_root_cert: Some(root), ..config(&server, "postgres") };
    open(&socket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_self_signed_certificate_is_trusted_if_it_is_configured() {
    let options = Options { tls: true, self_signed: true, ..Options::default() };
    let Some(server) = Server::start_with(&options) else { return };
    server.psql("postgres", "CREATE ROLE reader LOGIN PASSWORD 'canary-7f3a9c'");
    let folder = credentials("reader", CANARY);
    let itself = server.server_certificate();
    for (ssl_mode, host, roots, connects) in [
        (SslMode::VerifyCa, "127.0.0.1", &itself, true),
        (SslMode::VerifyFull, "localhost", &itself, true),
        (SslMode::VerifyFull, "127.0.0.1", &itself, false),
        (SslMode::VerifyCa, "127.0.0.1", &server.stranger_certificate(), false),
    ] {
        let ssl_root_cert = Some(roots.clone());
        let config = DatabaseConfig {
            host: host.to_owned(),
            ssl_mode,
            ssl_root_cert,
            ..reader_config(&server, "postgres", &folder)
        };
        match OpenDatabase::open(&config, "prod/db".to_owned()).await {
            Ok(session) if connects => {
                assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty());
            }
            Err(error) if !connects => assert_eq!(error.class(), Class::Config, "{error}"),
            found => panic!("{} {host}: {found:?}", ssl_mode.name()),
        }
    }
}

const USES_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        (SslMode::VerifyCa, Some(folder.path().join("absent")), "cannot be read"),
        (SslMode::VerifyCa, Some(file("empty", "")), "contains none"),
        (SslMode::VerifyCa, Some(file("text", "no certificate")), "contains none"),
        (SslMode::VerifyCa, Some(file("broken", broken)), "can be used"),
        (SslMode::VerifyCa, Some("system".into()), "verify-full"),
        (SslMode::Require, Some("system".into()), "verify-full"),
        (SslMode::VerifyFull, None, "ssl_root_cert"),
    ];
    for (ssl_mode, ssl_root_cert, text) in cases {
        let source = SecretSource { user: Some("u".into()), ..SecretSource::default() };
        let written = "host = \"127.0.0.1\"\nport = 1\ndatabase = \"d\"\nconnect_timeout = 1\nopen_timeout = 60\ncredentials = {}";
        let config =
            DatabaseConfig { ssl_mode, ssl_root_cert, credentials: source, ..toml::from_str(written).unwrap() };
        let error = super::super::tls::connector(&config).err().expect("the configuration is refused");
        assert_eq!(error.class(), Class::Config);
        assert!(error.message().contains(text), "{error} does not contain {text:?}");
        assert!(super::super::tls::connector(&DatabaseConfig { ssl_mode: SslMode::Disable, ..config }).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_role_suffices_and_nothing_is_ever_written() {
    let Some(server) = sample() else { return };
    let folder = credentials("reader", CANARY);
    let session = open(&reader_config(&server, "sample", &folder)).await;
    assert_eq!(digests(&session).await.len(), 14);
    session.listed(Listing::Structure).await.unwrap();
    session.latest(&[public("parent")], "tms").await.unwrap();
    assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty());
    assert!(session.holder.query("CREATE TABLE public.written ()", &[]).await.is_err());
    session.close().await;
    let log = server.log();
    let ours: Vec<_> = log.lines().filter(|line| line.starts_with("reader|dolibarr-backup|LOG:")).collect();
    assert!(ours.len() > 50, "{log}");
    for line in ours {
        let statement = line.split_once(": ").map(|(_, rest)| rest.split_once(": ").map_or(rest, |(_, s)| s)).unwrap();
        let verb = statement.split_whitespace().next().unwrap_or_default();
        let reads = [
            "SELECT", "WITH", "BEGIN", "SET", "ROLLBACK", "LOCK", "COPY", "DECLARE", "FETCH", "CLOSE", "PREPARE",
            "EXECUTE", "--",
        ];
        let refused = statement.contains("public.written");
        assert!(reads.contains(&verb) || refused, "{line}");
        assert!(verb != "LOCK" || statement.contains("ACCESS SHARE MODE"), "{line}");
        assert!(verb != "COPY" || statement.ends_with("TO stdout;"), "{line}");
    }
    assert!(
        !log.contains(CANARY) || log.matches(CANARY).count() == 1,
        "only the statement that created the role contains it"
    );
    assert!(!format!("{session_debug:?}", session_debug = SecretString::from(CANARY)).contains("canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_an_error_of_class_unavailable() {
    let Some(server) = sample() else { return };
    let session = open(&config(&server, "sample")).await;
    digests(&session).await;
    server.psql(
        "sample",
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'dolibarr-backup'",
    );
    for _ in 0..3 {
        let error = session.digest(&[whole(&public("kinds"))]).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
    }
    let error = read(session.dump(DumpOptions::default()).unwrap()).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_read_also_stops_on_the_server() {
    let Some(server) = Server::start() else { return };
    server.create_database("d", &[]);
    server.psql("d", "CREATE TABLE slow AS SELECT i FROM generate_series(1, 20) AS i");
    let session = open(&config(&server, "d")).await;
    let reader = session.reader().await.unwrap();
    let query = tokio::spawn(async move { reader.query("SELECT pg_sleep(60)", &[]).await.map(drop) });
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()";
    for count in ["1", "0"] {
        wait_for(|| (server.psql("d", running).trim() == count).then_some(())).await;
        query.abort();
    }
}

#[test]
fn a_configuration_has_defaults_and_refuses_unknown_keys() {
    let text = "host = 'db'\ndatabase = 'erp'\ncredentials = { user = 'u' }\n";
    let config: DatabaseConfig = toml::from_str(text).unwrap();
    assert_eq!((config.port, config.ssl_mode), (5432, SslMode::Prefer));
    assert_eq!((config.connect_timeout, config.open_timeout), (10, 60));
    let config: DatabaseConfig =
        toml::from_str(&format!("{text}ssl_mode = 'verify-full'\nssl_root_cert = 'system'\nport = 6432")).unwrap();
    assert_eq!((config.port, config.ssl_mode), (6432, SslMode::VerifyFull));
    for invalid in
        ["sslmode = 'disable'", "ssl_mode = 'VerifyFull'", "port = 70000", "password = 'x'", "open_timeout = -1"]
    {
        assert!(toml::from_str::<DatabaseConfig>(&format!("{text}{invalid}")).is_err(), "{invalid}");
    }
    for mode in
        [SslMode::Disable, SslMode::Allow, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull]
    {
        let parsed: DatabaseConfig = toml::from_str(&format!("{text}ssl_mode = '{}'", mode.name())).unwrap();
        assert_eq!(parsed.ssl_mode, mode);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_1_certificate_works_if_certificates_are_not_checked() {
    let Some(server) = Server::start_with(&Options { tls: true, version_1: true, ..Options::default() }) else {
        return;
    };
    server.psql("postgres", &format!("CREATE ROLE reader LOGIN PASSWORD '{CANARY}'"));
    let folder = credentials("reader", CANARY);
    for mode in [SslMode::Prefer, SslMode::Require] {
        let session = open(&DatabaseConfig { ssl_mode: mode, ..reader_config(&server, "postgres", &folder) }).await;
        let encrypted = "SELECT count(*) FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid) WHERE a.usename = 'reader' AND s.ssl";
        assert_ne!(server.psql("postgres", encrypted).trim(), "0", "{mode:?}");
        session.close().await;
    }
    let checked = DatabaseConfig {
        ssl_mode: SslMode::VerifyCa,
        ssl_root_cert: Some(server.server_certificate()),
        ..reader_config(&server, "postgres", &folder)
    };
    assert_eq!(refusal(&checked).await.class(), Class::Config);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_acceptable_host_of_several_is_used() {
    let Some(server) = sample() else { return };
    let folder = credentials("reader", CANARY);
    let silent = std::net::TcpListener::bind(("127.0.0.2", server.port())).unwrap();
    let host = |host: &str| DatabaseConfig {
        host: host.into(),
        connect_timeout: 1,
        ..reader_config(&server, "sample", &folder)
    };
    // A host that does not answer uses up only its own timeout, not that of the others.
    for hosts in ["127.0.0.2, 127.0.0.1", "/nonexistent,127.0.0.1", "127.0.0.1,127.0.0.2", "name.invalid,127.0.0.1"] {
        let session = open(&host(hosts)).await;
        assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty(), "{hosts}");
        session.close().await;
    }
    let error = refusal(&host("127.0.0.2,/nonexistent")).await;
    assert!(error.class() == Class::Unavailable && error.message().contains("127.0.0.2"), "{error}");
    let wrong = credentials("reader", "canary-wrong");
    let denied = DatabaseConfig {
        credentials: SecretSource { files: Some(wrong.path().to_owned()), ..SecretSource::default() },
        ..host("127.0.0.1,127.0.0.2")
    };
    assert!(
        refusal(&denied).await.message().contains("password authentication failed"),
        "the first server that answered refused the login"
    );
    drop(silent);

    let standby = server.standby();
    // With the same port number, as if the standby ran on another host.
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        standby.socket().join(format!(".s.PGSQL.{}", standby.port())),
        elsewhere.path().join(format!(".s.PGSQL.{}", server.port())),
    )
    .unwrap();
    wait_for(|| (standby.psql("sample", "SELECT count(*) FROM kinds").trim() != "0").then_some(())).await;
    let (primary, follower) = (server.socket().to_str().unwrap(), elsewhere.path().to_str().unwrap());
    let both = [format!("{primary},{follower}"), format!("{follower},{primary}")];
    for (attrs, expected) in [
        ("primary", [primary, primary]),
        ("read-write", [primary, primary]),
        ("standby", [follower, follower]),
        ("read-only", [follower, follower]),
        ("prefer-standby", [follower, follower]),
        ("any", [primary, follower]),
    ] {
        for (hosts, expected) in both.iter().zip(expected) {
            let text = format!(
                "host = {hosts:?}\nport = {}\ndatabase = \"sample\"\ntarget_session_attrs = {attrs:?}\ncredentials = {{ user = \"postgres\" }}",
                server.port()
            );
            let config =
                DatabaseConfig { pg_dump: Some(server.bin().join("pg_dump")), ..toml::from_str(&text).unwrap() };
            let session = open(&config).await;
            assert_eq!(session.dialer.config().host, *expected, "{attrs} of {hosts}");
            session.close().await;
        }
    }
    let alone = DatabaseConfig { target_session_attrs: SessionAttrs::Standby, ..config(&server, "sample") };
    assert!(refusal(&alone).await.message().contains("it is not a standby"));
    let alone = DatabaseConfig { target_session_attrs: SessionAttrs::Primary, ..config(&standby, "sample") };
    assert!(refusal(&alone).await.message().contains("it is a standby"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_logs_in_and_only_its_owner_may_read_the_key() {
    let access = Some("local all postgres trust\nhostssl all all 127.0.0.1/32 cert\n".to_owned());
    let Some(server) = Server::start_with(&Options { tls: true, access, ..Options::default() }) else { return };
    server.create_database("sample", &[]);
    server.psql("sample", SAMPLE);
    let folder = tempfile::tempdir().unwrap();
    let own = |name: &str| folder.path().join(name);
    let (certificate, key) = server.client_certificate();
    std::fs::copy(certificate, own("client.crt")).unwrap();
    std::fs::copy(key, own("client.key")).unwrap();
    let allow =
        |mode| std::fs::set_permissions(own("client.key"), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let with = |certificate: Option<&str>, key: Option<&str>| DatabaseConfig {
        host: "localhost".into(),
        ssl_mode: SslMode::VerifyFull,
        ssl_root_cert: Some(server.root_certificate()),
        ssl_cert: certificate.map(own),
        ssl_key: key.map(own),
        credentials: SecretSource { user: Some("reader".into()), ..SecretSource::default() },
        ..config(&server, "sample")
    };
    allow(0o600);
    let session = open(&with(Some("client.crt"), Some("client.key"))).await;
    assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty());
    session.close().await;
    std::fs::copy(server.server_certificate().with_extension("key"), own("other.key")).unwrap();
    std::fs::set_permissions(own("other.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(own("none.key"), "no key").unwrap();
    std::fs::set_permissions(own("none.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for (certificate, key, says) in [
        (None, None, "client certificate"),
        (Some("client.crt"), None, "only one of `ssl_cert` and `ssl_key` is set"),
        (None, Some("client.key"), "only one of `ssl_cert` and `ssl_key` is set"),
        (Some("client.crt"), Some("none.key"), "none.key cannot be read"),
        (Some("client.crt"), Some("missing.key"), "missing.key cannot be read"),
        (Some("missing.crt"), Some("client.key"), "missing.crt cannot be read"),
        (Some("client.crt"), Some("other.key"), "cannot be used"),
    ] {
        let error = refusal(&with(certificate, key)).await;
        assert!(error.class() == Class::Config && error.message().contains(says), "{error:?} does not contain {says}");
        assert!(error.advice().is_some(), "{error:?}");
    }
    allow(0o644);
    let error = refusal(&with(Some("client.crt"), Some("client.key"))).await;
    assert!(error.message().contains("is readable by other users"), "{error}");
}
