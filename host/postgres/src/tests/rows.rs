//! Pages of rows on a real server: keys, order, limits, and tables that cannot be read.

use super::*;
use crate::{Order, PAGE_ROWS_MAX, Readable, ReadableTable};
use base::error::Class;

const TABLES: &str = "
CREATE TABLE empty (rowid serial PRIMARY KEY, name text);
CREATE TABLE many (rowid bigint PRIMARY KEY, name varchar(50), at timestamp, secret text);
INSERT INTO many SELECT n * 3, CASE WHEN n % 2 = 0 THEN 'name ' || n END, timestamp '2026-01-01', 'canary' FROM generate_series(-1200, 1200) AS n;
CREATE TABLE texts (rowid serial PRIMARY KEY, name text);
INSERT INTO texts (name) VALUES (repeat('é', 1024)), (repeat('é', 1025));
CREATE TABLE no_index (rowid integer NOT NULL, name text);
CREATE TABLE nullable (rowid integer UNIQUE, name text);
CREATE TABLE partly (rowid integer NOT NULL, name text); CREATE UNIQUE INDEX ON partly (rowid) WHERE rowid > 0;
CREATE TABLE wide (rowid integer NOT NULL, entity integer, PRIMARY KEY (rowid, entity));
CREATE TABLE of_text (rowid text PRIMARY KEY);
CREATE SCHEMA other; CREATE TABLE other.\"Odd \"\"Table\" (\"Key ; --\" integer PRIMARY KEY, \"select\" text);
INSERT INTO other.\"Odd \"\"Table\" VALUES (1, 'x');
CREATE VIEW seen AS SELECT * FROM many;";

fn table(label: &str, columns: &[&str]) -> ReadableTable {
    Readable::of(&[(label, columns)]).unwrap().iter().next().unwrap().clone()
}

async fn scene() -> Option<(Server, Arc<OpenDatabase>)> {
    let server = Server::start()?;
    server.create_database("rows", &[]);
    server.psql("rows", TABLES);
    let session = open(&config(&server, "rows")).await;
    Some((server, session))
}

#[tokio::test]
async fn pages_follow_the_key_in_both_directions_and_contain_only_the_listed_columns() {
    let Some((server, session)) = scene().await else { return };
    let many = table("many", &["rowid", "gone", "name"]);
    let shape = session.shape(&many).await.unwrap().unwrap();
    assert_eq!((shape.columns, shape.rows), (vec!["rowid".to_owned(), "name".to_owned()], 2_401));
    // Later changes are not in the snapshot.
    server.psql("rows", "INSERT INTO many VALUES (1, 'new', NULL, NULL); DELETE FROM many WHERE rowid > 3000");
    for order in [Order::Ascending, Order::Descending] {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = session.rows(&many, after, order, u32::MAX).await.unwrap();
            assert!(page.len() <= PAGE_ROWS_MAX as usize);
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            assert!(page.iter().all(|row| row.values[0].as_deref() == Some(row.key.to_string().as_str())));
            assert!(page.iter().all(|row| row.values[1].is_some() == (row.key % 2 == 0)), "NULL becomes None");
            keys.extend(page.iter().map(|row| row.key));
        }
        let mut expected: Vec<i64> = (-1200..=1200).map(|n| n * 3).collect();
        if order == Order::Descending {
            expected.reverse();
        }
        assert_eq!(keys, expected);
    }
    let page = session.rows(&many, Some(i64::MAX), Order::Descending, 2).await.unwrap();
    assert_eq!(page.iter().map(|row| row.key).collect::<Vec<_>>(), [3_600, 3_597]);
    assert!(session.rows(&many, None, Order::Ascending, 0).await.unwrap().is_empty());
    assert!(session.rows(&table("empty", &["rowid"]), None, Order::Ascending, 9).await.unwrap().is_empty());
    session.close().await;
}

#[tokio::test]
async fn a_missing_table_is_distinguished_from_one_with_an_unsuitable_key() {
    let Some((_server, session)) = scene().await else { return };
    for label in ["gone", "other.gone", "gone.many", "pg_catalog.pg_authid", "seen", "many\"; DROP TABLE many; --"] {
        let gone = table(label, &["rowid"]);
        assert_eq!(session.shape(&gone).await.unwrap(), None, "{label}");
        assert!(session.rows(&gone, None, Order::Ascending, 9).await.unwrap().is_empty(), "{label}");
    }
    for (label, key, why) in [
        ("many", "name", "it is not an integer"),
        ("of_text", "rowid", "it is not an integer"),
        ("many", "gone", "it does not exist"),
        ("no_index", "rowid", "it is not unique or can be null"),
        ("nullable", "rowid", "it is not unique or can be null"),
        ("partly", "rowid", "it is not unique or can be null"),
        ("wide", "rowid", "it is not unique or can be null"),
    ] {
        let error = session.shape(&table(label, &[key])).await.unwrap_err();
        assert_eq!(error.class(), Class::Config);
        assert!(error.message().contains(why) && error.message().contains(&format!("`{label}`")), "{error}");
        assert!(error.advice().unwrap().contains("[plugins.crosscheck.tables]"), "{error:?}");
    }
    let odd = table("other.Odd \"Table", &["Key ; --", "select"]);
    assert_eq!(session.shape(&odd).await.unwrap().unwrap().rows, 1);
    assert_eq!(session.rows(&odd, None, Order::Descending, 9).await.unwrap()[0].values[1].as_deref(), Some("x"));
    session.close().await;
}

#[tokio::test]
async fn a_value_that_is_too_long_is_refused() {
    let Some((_server, session)) = scene().await else { return };
    let texts = table("texts", &["rowid", "name"]);
    let first = session.rows(&texts, None, Order::Ascending, 1).await.unwrap();
    assert_eq!(first[0].values[1].as_ref().unwrap().chars().count(), 1_024, "the longest allowed value");
    let error = session.rows(&texts, None, Order::Ascending, 2).await.unwrap_err();
    assert_eq!(error.class(), Class::Config);
    assert!(
        error.message().contains("`name` of the table `texts` has a value of more than 1024 characters"),
        "{error}"
    );
    session.close().await;
}

#[tokio::test]
async fn a_role_without_the_right_to_read_the_table_gets_an_error() {
    let Some((server, session)) = scene().await else { return };
    server.psql("rows", "CREATE ROLE reader LOGIN PASSWORD 'x'");
    let credentials = credentials("reader", "x");
    let reader = open(&reader_config(&server, "rows", &credentials)).await;
    let error = reader.rows(&table("many", &["rowid"]), None, Order::Ascending, 9).await.unwrap_err();
    assert_eq!(error.class(), Class::Config);
    assert!(error.message().contains("permission denied"), "{error}");
    reader.close().await;
    session.close().await;
}
