//! The instances that a cluster has, as the ConfigMaps of the chart describe them. It reads no Secret and no other object.
//!
//! Whoever may write a ConfigMap in some namespace says what stands in it, so what leads to a secret is not taken from its
//! text: the Secret is one of the ConfigMap's own namespace, by the name in an annotation.

use super::client::CONFIG_MAPS;
use super::{Cluster, Namespace, Reference};
use base::error::{Class, Error, Result};
use base::reference::is_name;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;

/// What the chart's objects are labelled with.
const LABEL: &str = "app.kubernetes.io/name=dolibarr-backup";

/// The key of a ConfigMap that holds a configuration.
const KEY: &str = "dolibarr-backup.toml";

/// Where the chart names the Secret with the store's credentials.
const ANNOTATION: &str = "/metadata/annotations/dolibarr-backup~1store-secret";

/// Namespaces that are asked at a time: answers are small, and an API server takes hundreds.
const LISTINGS_MAX: usize = 8;

/// `[fleet]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where instances are looked for; in every namespace where none is named.
    pub namespaces: Vec<Namespace>,
    /// PEM certificates, for the stores of instances that have authorities of their own: theirs are files in a pod.
    pub ca_file: Option<PathBuf>,
}

/// One installed instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its ConfigMap, which is called as its CronJob is.
    pub at: Reference,
    /// The configuration that its pods read.
    pub text: String,
    /// The Secret with the credentials of its store, in the same namespace; none where the ConfigMap names none.
    pub store_secret: Option<Reference>,
}

/// A namespace that could not be looked into, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Which.
    pub namespace: Namespace,
    /// The cluster's reason.
    pub why: Error,
}

/// Every instance, by namespace and name, and the namespaces that stay closed.
///
/// # Errors
/// The cluster's, where no namespace could be looked into; [`Class::Config`] where no instance is installed.
pub async fn installed(cluster: &Cluster, config: &Config) -> Result<(Vec<Installed>, Vec<Closed>)> {
    let list = async |namespace: Option<&Namespace>| {
        let found = cluster.list(CONFIG_MAPS, namespace.map(Namespace::as_str), Some(LABEL), None).await?;
        Ok::<_, Error>(found.unwrap_or_default())
    };
    let (mut found, mut closed) = (Vec::new(), Vec::new());
    if config.namespaces.is_empty() {
        let all = list(None).await.map_err(|error| match error.class() {
            Class::Config => {
                let hint = "name the namespaces that you may look into: `namespaces = [\"erp\"]` in [fleet]";
                Error::config(error.message()).hint(hint)
            }
            _ => error,
        });
        found = all?;
    }
    let listed = stream::iter(&config.namespaces).map(async |namespace| (namespace, list(Some(namespace)).await));
    for (namespace, answer) in listed.buffered(LISTINGS_MAX).collect::<Vec<_>>().await {
        match answer {
            Ok(objects) => found.extend(objects),
            Err(why) => closed.push(Closed { namespace: namespace.clone(), why }),
        }
    }
    let mut instances: Vec<Installed> = found.iter().filter_map(instance).collect();
    instances.sort_by(|a, b| (&a.at.namespace, &a.at.name).cmp(&(&b.at.namespace, &b.at.name)));
    instances.dedup_by(|a, b| a.at == b.at);
    match (instances.is_empty(), closed.first()) {
        (false, _) => Ok((instances, closed)),
        (true, Some(first)) => Err(first.why.clone()),
        (true, None) => Err(Error::config(format!("no instance is installed where {} was looked into", cluster.shown()))
            .hint("check the context and `namespaces` in [fleet]; the chart labels its ConfigMaps app.kubernetes.io/name=dolibarr-backup")),
    }
}

/// What a ConfigMap describes; none where it is another one of the chart's, such as a dashboard.
fn instance(object: &Value) -> Option<Installed> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let name = |path: &str| text(path).filter(|name| is_name(name)).map(str::to_owned);
    let namespace = Namespace::try_from(text("/metadata/namespace")?.to_owned()).ok()?;
    let at = Reference { namespace, name: name("/metadata/name")? };
    let secret = name(ANNOTATION).map(|name| Reference { namespace: at.namespace.clone(), name });
    Some(Installed { text: text(&format!("/data/{KEY}"))?.to_owned(), store_secret: secret, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_secret_of_an_instance_is_one_of_its_own_namespace() {
        let of = |secret: &str| {
            let object = json!({
                "metadata": {
                    "namespace": "erp", "name": "erp-prod", "annotations": { "dolibarr-backup/store-secret": secret },
                },
                "data": { "dolibarr-backup.toml": "x = 1" },
            });
            instance(&object).unwrap().store_secret.map(|of| of.to_string())
        };
        assert_eq!(of("erp-prod-store").as_deref(), Some("erp/erp-prod-store"));
        for elsewhere in ["other/erp-prod-store", "../secrets/x", "", "A"] {
            assert_eq!(of(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_config_map_without_a_configuration_is_no_instance() {
        let dashboard = json!({
            "metadata": { "namespace": "erp", "name": "erp-dashboard" }, "data": { "dolibarr-backup.json": "{}" },
        });
        assert_eq!(instance(&dashboard), None);
        assert_eq!(instance(&json!({})), None);
    }
}
