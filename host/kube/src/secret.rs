//! Reads Secrets into memory, for one use.

use super::client::SECRETS;
use super::{Cluster, ClusterConfig, Reference};
use base::error::{Error, Result};
use base::secret::{Fetch, Sealed, SecretString};
use serde_json::Value;
use std::sync::Arc;

/// Reads one Secret.
///
/// # Errors
/// [`base::error::Class::Config`] if it does not exist or access is denied; [`base::error::Class::Unavailable`] if the
/// cluster does not answer.
pub async fn read(cluster: &Cluster, secret: &Reference) -> Result<Sealed> {
    let found = cluster.get(SECRETS, secret.namespace.as_str(), &secret.name).await?;
    let Some(Value::Object(mut object)) = found else {
        return Err(Error::config(format!("{} has no Secret {secret}", cluster.shown()))
            .hint("check the namespace and the name, and that the Secret has been created"));
    };
    let data = match object.remove("data") {
        Some(Value::Object(data)) => data,
        Some(_) | None => serde_json::Map::new(),
    };
    let values = data.into_iter().filter_map(|(key, value)| match value {
        Value::String(text) => Some((key, SecretString::from(text))),
        _ => None,
    });
    Ok(Sealed::new(secret.clone(), values.collect()))
}

/// A [`Fetch`] that reads Secrets from the configured cluster. It connects each time.
pub fn fetch(config: Arc<ClusterConfig>) -> Fetch {
    Fetch::new(move |secret| {
        let config = Arc::clone(&config);
        Box::pin(async move { read(&Cluster::connect(&config).await?, &secret).await })
    })
}
