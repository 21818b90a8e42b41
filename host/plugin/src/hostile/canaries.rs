//! Secrets of the host, and guests that look for them in the whole of their memory.

use super::*;
use crate::capabilities::postgres::DumpDatabase;
use ::tests::garage::{self, Garage};
use ::tests::postgres::Server;
use base::secret::{ExposeSecret, SecretString, Source};
use postgres::{self, Session};

const USER: &str = "user-canary-4be1";
const PASSWORD: &str = "password-canary-9d27";

/// As the guests take it: asking for a text must not put it into their memory.
fn masked(text: &str) -> String {
    hex::encode(text.bytes().map(|byte| byte ^ 0x5a).collect::<Vec<u8>>())
}

fn looking_for(role: Role, text: &str) -> Plugin {
    load(role, &format!("do = \"look\", masked = \"{}\"", masked(text)), "")
}

/// What the guest says it found: its answer, or the failure that it made of it.
fn found<T>(result: Result<T>, value: impl Fn(T) -> String) -> bool {
    let said = result.map_or_else(|error| error.message().to_owned(), value);
    assert!(said.ends_with("found") != said.ends_with("clean"), "the guest did not look: {said}");
    said.ends_with("found")
}

#[tokio::test]
async fn a_guest_finds_in_its_memory_what_it_was_passed_and_no_credential_of_the_process() {
    let place = Place::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
    let source = Source { files: Some(folder.path().to_owned()), ..Source::default() };
    let secret: SecretString = source.look().await.unwrap().read("password", "UNSET").unwrap();
    for role in ROLES {
        let settings = "\"do\":\"look\"";
        assert!(found(place.call(&looking_for(role, settings)).await, |value| value), "{} cannot look", role.name());
        assert!(!found(place.call(&looking_for(role, PASSWORD)).await, |value| value), "{}", role.name());
    }
    assert!(found(place.call(&looking_for(Role::Retention, "Europe/Paris")).await, |value| value));
    assert_eq!(secret.expose_secret(), PASSWORD, "it was there all the time");
}

#[tokio::test]
async fn no_guest_finds_the_credentials_of_the_store_that_it_writes_to() {
    let Some((server, store)) = garage().await else { return };
    let place = Place::new().await;
    for secret in [server.key_id(), server.secret()] {
        let into = Prefix::new(store.clone(), "prod/docs".to_owned(), stamp(), store::Fencing::none());
        let plugin = looking_for(Role::Dump, secret);
        let called = plugin.dump_tree(&stamp().to_string(), ArchiveTree(place.tree.clone()), into.clone()).await;
        assert!(!found(called.result, |_| String::new()));
        let [(key, _)] = into.stored().try_into().unwrap();
        store.delete(&key).await.unwrap();
    }
}

#[tokio::test]
async fn no_guest_finds_the_credentials_of_the_database_that_it_is_handed() {
    let Some(server) = Server::start() else { return };
    server.create_database("erp", &[]);
    server.psql(
        "erp",
        &format!(
            "CREATE TABLE llx_facture (ref text, tms timestamp);\nCREATE ROLE \"{USER}\" LOGIN PASSWORD '{PASSWORD}';\n\
             GRANT SELECT ON llx_facture TO \"{USER}\";"
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("username"), USER).unwrap();
    std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
    let config: postgres::Config = toml::from_str(&format!(
        "host = \"127.0.0.1\"\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ files = {} }}",
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy()),
        quoted(&folder.path().to_string_lossy())
    ))
    .unwrap();
    let session = Session::open(&config, "prod/db".to_owned()).await.unwrap();
    let looked = async |role: Role, text: &str| {
        let plugin = looking_for(role, text);
        if role == Role::Fingerprint {
            let called = plugin.of_database(session.clone()).await;
            return found(called.result, |_| "clean".to_owned());
        }
        let place = Place::new().await;
        let called = plugin.dump_database(&stamp().to_string(), DumpDatabase(session.clone()), place.prefix()).await;
        assert_eq!(called.tally[&("database-dump.open", "prod/db".to_owned())].calls, 2);
        found(called.result, |_| String::new())
    };
    assert!(looked(Role::Fingerprint, "llx_facture").await, "it was told the tables");
    assert!(!looked(Role::Dump, "llx_facture").await, "no byte of a dump enters the guest");
    for role in [Role::Fingerprint, Role::Dump] {
        assert!(!looked(role, PASSWORD).await, "{}", role.name());
        assert!(!looked(role, USER).await, "{}", role.name());
    }
    session.close().await;
}

/// A real S3 server, and a store on it.
async fn garage() -> Option<(Arc<Garage>, Arc<Store>)> {
    if let Err(why) = garage::program() {
        ::tests::skip(&why);
        return None;
    }
    let server = tokio::task::spawn_blocking(|| Garage::shared().unwrap()).await.unwrap();
    let config: store::Config = toml::from_str(&format!(
        "url = \"s3://{}/canaries\"\nendpoint = \"{}\"\nregion = \"{}\"\nprofile = \"garage\"\ncredentials = {{ files = {} }}",
        Garage::BUCKET,
        server.endpoint(),
        Garage::REGION,
        quoted(&server.credentials().to_string_lossy())
    ))
    .unwrap();
    Some((server, Arc::new(Store::open(&config).await.unwrap())))
}
