//! Guests that search their whole memory for secrets of the host.

use super::*;
use crate::capabilities::postgres::DumpDatabase;
use ::tests::garage::{self, Garage};
use ::tests::postgres::Server;
use base::secret::{ExposeSecret, SecretSource, SecretString};
use postgres::{self, OpenDatabase};

const USER: &str = "user-canary-4be1";
const PASSWORD: &str = "password-canary-9d27";

/// The masked form that the guests expect, so that a search does not put its own text into their memory.
fn masked(text: &str) -> String {
    hex::encode(text.bytes().map(|byte| byte ^ 0x5a).collect::<Vec<u8>>())
}

fn search_for(role: Role, text: &str) -> Plugin {
    load(role, &format!("do = \"look\", masked = \"{}\"", masked(text)), "")
}

/// Whether the guest found the text, from its answer or from the failure that it returned.
fn found<T>(result: Result<T>, value: impl Fn(T) -> String) -> bool {
    let answer = result.map_or_else(|error| error.message().to_owned(), value);
    assert!(answer.ends_with("found") != answer.ends_with("clean"), "the guest did not search: {answer}");
    answer.ends_with("found")
}

#[tokio::test]
async fn a_guest_finds_its_arguments_in_memory_but_no_credentials() {
    let place = Place::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), format!("{PASSWORD}\n")).unwrap();
    let source = SecretSource { files: Some(folder.path().to_owned()), ..SecretSource::default() };
    let secret: SecretString = source.open().await.unwrap().read("password", "UNSET").unwrap();
    for role in ROLES {
        let settings = "\"do\":\"look\"";
        assert!(found(place.call(&search_for(role, settings)).await, |value| value), "{} cannot search", role.name());
        assert!(!found(place.call(&search_for(role, PASSWORD)).await, |value| value), "{}", role.name());
    }
    assert!(found(place.call(&search_for(Role::Retention, "Europe/Paris")).await, |value| value));
    assert_eq!(secret.expose_secret(), PASSWORD, "the process held it all the time");
}

#[tokio::test]
async fn no_guest_finds_the_credentials_of_its_store() {
    let Some((server, store)) = garage().await else { return };
    let place = Place::new().await;
    for secret in [server.key_id(), server.secret()] {
        let into = Prefix::new(store.clone(), "prod/docs".to_owned(), stamp(), store::Fencing::none());
        let plugin = search_for(Role::Dump, secret);
        let called = plugin.dump_tree(&stamp().to_string(), ArchiveTree(place.tree.clone()), into.clone()).await;
        assert!(!found(called.result, |_| String::new()));
        let [(key, _)] = into.stored().try_into().unwrap();
        store.delete(&key).await.unwrap();
    }
}

#[tokio::test]
async fn no_guest_finds_the_credentials_of_its_database() {
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
    let config: postgres::DatabaseConfig = toml::from_str(&format!(
        "host = \"127.0.0.1\"\nport = {}\ndatabase = \"erp\"\npg_dump = {}\ncredentials = {{ files = {} }}",
        server.port(),
        quoted(&server.bin().join("pg_dump").to_string_lossy()),
        quoted(&folder.path().to_string_lossy())
    ))
    .unwrap();
    let database = OpenDatabase::open(&config, "prod/db".to_owned()).await.unwrap();
    let finds = async |role: Role, text: &str| {
        let plugin = search_for(role, text);
        if role == Role::Fingerprint {
            let called = plugin.measure_database(database.clone()).await;
            return found(called.result, |_| "clean".to_owned());
        }
        let place = Place::new().await;
        let called = plugin.dump_database(&stamp().to_string(), DumpDatabase(database.clone()), place.prefix()).await;
        assert_eq!(called.tally[&("database-dump.open", "prod/db".to_owned())].calls, 2);
        found(called.result, |_| String::new())
    };
    assert!(finds(Role::Fingerprint, "llx_facture").await, "it received the names of tables");
    assert!(!finds(Role::Dump, "llx_facture").await, "no byte of a dump enters the guest");
    for role in [Role::Fingerprint, Role::Dump] {
        assert!(!finds(role, PASSWORD).await, "{}", role.name());
        assert!(!finds(role, USER).await, "{}", role.name());
    }
    database.close().await;
}

/// A real S3 server with a store.
async fn garage() -> Option<(Arc<Garage>, Arc<Store>)> {
    if let Err(why) = garage::program() {
        ::tests::skip(&why);
        return None;
    }
    let server = tokio::task::spawn_blocking(|| Garage::shared().unwrap()).await.unwrap();
    let config: store::StoreConfig = toml::from_str(&format!(
        "url = \"s3://{}/canaries\"\nendpoint = \"{}\"\nregion = \"{}\"\nprofile = \"garage\"\ncredentials = {{ files = {} }}",
        Garage::BUCKET,
        server.endpoint(),
        Garage::REGION,
        quoted(&server.credentials().to_string_lossy())
    ))
    .unwrap();
    Some((server, Arc::new(Store::open(&config).await.unwrap())))
}
