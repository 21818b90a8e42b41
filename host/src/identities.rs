//! Reads the identity of each configured database.

use crate::config::Source;
use crate::session::Session;
use postgres::OpenDatabase;
use std::collections::BTreeMap;

/// The identity of each database, by source. One that cannot be reached is left to the first run.
pub async fn identities(session: &Session) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, source) in &session.sources.sources {
        let Source::Postgres(config) = source else { continue };
        match OpenDatabase::open(config, format!("{}/{name}", session.environment)).await {
            Ok(database) => {
                found.extend(database.facts().identity.map(|identity| (name.clone(), identity)));
                database.close().await;
            }
            Err(error) => tracing::warn!("could not read the identity of the database {name}: {error}"),
        }
    }
    found
}
