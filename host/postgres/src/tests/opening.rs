//! What is read when a source is opened, and that opening always ends.

use super::*;
use crate::RowFilter;
use base::error::Class;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_identified_by_its_server_and_its_name() {
    let (Some(server), Some(other)) = (sample(), sample()) else { return };
    let folder = credentials("reader", CANARY);
    let identity = async |config: &DatabaseConfig| open(config).await.facts().identity.unwrap();
    let sample = identity(&reader_config(&server, "sample", &folder)).await;
    let number = server.psql("postgres", "SELECT system_identifier FROM pg_control_system()");
    assert_eq!(sample, format!("{}/sample", number.trim()));
    assert_eq!(identity(&config(&server, "sample")).await, sample, "the user does not matter");
    assert_eq!(identity(&config(&server, "postgres")).await, format!("{}/postgres", number.trim()));
    assert_ne!(identity(&config(&other, "sample")).await, sample);
    server.psql("postgres", "ALTER DATABASE sample RENAME TO copied; CREATE DATABASE sample TEMPLATE copied");
    assert_eq!(identity(&config(&server, "sample")).await, sample, "a copy under the same name cannot be told apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_report_its_identifier_still_has_a_snapshot() {
    let Some(server) = sample() else { return };
    server.psql("sample", "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    let folder = credentials("reader", CANARY);
    let session = open(&reader_config(&server, "sample", &folder)).await;
    assert!(server.log().contains("permission denied for function pg_control_system"));
    assert_eq!(session.facts().identity, None);
    server.psql("sample", "INSERT INTO one_column VALUES ('late')");
    assert_eq!(session.digest(&[whole(&public("one_column"))]).await.unwrap()[0].rows, 2);
    assert!(!read(session.dump(DumpOptions::default()).unwrap()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_counted_once_per_table_and_only_if_all_of_them_were_read() {
    let Some(server) = sample() else { return };
    let session = open(&config(&server, "sample")).await;
    assert_eq!(session.rows_read(), None);
    session.tables().await.unwrap();
    session.latest(&[public("parent")], "tms").await.unwrap();
    session.digest(&[]).await.unwrap();
    assert_eq!(session.rows_read(), None, "nothing was digested");
    let filtered = |column: &str, values: &[&str]| Selection {
        skip_rows: Some(RowFilter {
            column: column.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }),
        ..whole(&public("const"))
    };
    session.digest(&[filtered("name", &["absent"])]).await.unwrap();
    assert_eq!(session.rows_read(), None, "filtered tables do not count");
    session.digest(&[whole(&public("no_row"))]).await.unwrap();
    assert_eq!(session.rows_read(), Some(0), "an empty table was counted");
    let kinds = Selection { skip_columns: vec!["t".to_owned()], ..whole(&public("kinds")) };
    for _ in 0..2 {
        session.digest(&[kinds.clone(), whole(&public("kinds")), whole(&public("one_column"))]).await.unwrap();
        assert_eq!(session.rows_read(), Some(4 + 2));
    }
    session.digest(&[filtered("name", &["COMPANY"])]).await.unwrap();
    assert_eq!(session.rows_read(), Some(4 + 2));
    session.digest(&[whole(&public("kinds")), whole(&public("absent"))]).await.unwrap_err();
    assert_eq!(session.rows_read(), Some(4 + 2));
    session.digest(&[filtered("absent", &["*"])]).await.unwrap();
    assert_eq!(session.rows_read(), Some(4 + 2 + 7), "a filter on a missing column leaves out nothing");
}

/// A proxy in front of a server. It forwards the login and `queries` more messages of the client, and then nothing
/// more, but keeps its connections open. It runs until the process ends.
fn silent_proxy(server: &Server, queries: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), server.port());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", behind)).unwrap();
            let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
            std::thread::spawn(move || forward(client, server, queries));
        }
    });
    port
}

fn forward(mut client: TcpStream, mut server: TcpStream, mut queries: usize) {
    let mut buffer = [0; 64 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        // After the login, each request begins with a Query or Parse message.
        if matches!(buffer[0], b'Q' | b'P') {
            if queries == 0 {
                continue;
            }
            queries -= 1;
        }
        if server.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_times_out_if_the_server_stops_answering_after_the_login() {
    let Some(server) = sample() else { return };
    let folder = credentials("reader", CANARY);
    let through = |queries| DatabaseConfig {
        port: silent_proxy(&server, queries),
        ssl_mode: SslMode::Disable,
        open_timeout: 1,
        ..reader_config(&server, "sample", &folder)
    };
    // The identity, the settings for every database, the transaction, its settings, the facts.
    for queries in 0..5 {
        let config = through(queries);
        let begun = Instant::now();
        let error = refusal(&config).await;
        let took = begun.elapsed();
        assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?} after {queries} queries");
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        let expected = format!(
            "database `sample` on 127.0.0.1:{}: no snapshot was opened within 1 s, because the server has stopped answering or \
             answers too slowly",
            config.port
        );
        assert_eq!(error.message(), expected);
        assert!(error.advice().unwrap().contains("`open_timeout`"), "{error:?}");
    }
    assert!(OpenDatabase::open(&DatabaseConfig { open_timeout: 60, ..through(5) }, "prod/db".to_owned()).await.is_ok());
}
