//! Reads a Secret into memory for one use.

use super::client::SECRETS;
use super::{Cluster, Config, Reference};
use base::error::{Error, Result};
use base::secret::{Fetch, Sealed, SecretString};
use serde_json::Value;
use std::sync::Arc;

/// Reads one Secret.
///
/// # Errors
/// [`base::error::Class::Config`] when there is none or it may not be read; [`base::error::Class::Unavailable`].
pub async fn read(cluster: &Cluster, of: &Reference) -> Result<Sealed> {
    let found = cluster.get(SECRETS, of.namespace.as_str(), &of.name).await?;
    let Some(Value::Object(mut object)) = found else {
        return Err(Error::config(format!("{} has no Secret {of}", cluster.shown()))
            .hint("check `namespace/name`, and that whoever makes it has done so"));
    };
    let data = match object.remove("data") {
        Some(Value::Object(data)) => data,
        Some(_) | None => serde_json::Map::new(),
    };
    let values = data.into_iter().filter_map(|(key, value)| match value {
        Value::String(text) => Some((key, SecretString::from(text))),
        _ => None,
    });
    Ok(Sealed::new(of.clone(), values.collect()))
}

/// Reads credentials out of a Secret of the configured cluster whenever they are asked for.
#[must_use]
pub fn fetch(config: Arc<Config>) -> Fetch {
    Fetch::new(move |of| {
        let config = Arc::clone(&config);
        Box::pin(async move { read(&Cluster::connect(&config).await?, &of).await })
    })
}
