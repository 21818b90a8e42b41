//! The instances in a cluster, as described by the chart's ConfigMaps. This module reads no other objects.
//!
//! Anyone with write access to ConfigMaps in a namespace controls their content, so a ConfigMap cannot refer to a
//! Secret in another namespace: an annotation gives the Secret's name, and the namespace is the ConfigMap's own.

use super::client::CONFIG_MAPS;
use super::{Cluster, Namespace, Reference};
use base::error::{Class, Error, Result};
use base::reference::is_name;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;

/// The label of the chart's objects.
const LABEL: &str = "app.kubernetes.io/name=dolibarr-backup";

/// The key of the configuration in a ConfigMap.
const KEY: &str = "dolibarr-backup.toml";

/// The annotation in which the chart names the Secret with the store's credentials.
const ANNOTATION: &str = "/metadata/annotations/dolibarr-backup~1store-secret";

/// Namespaces that are listed at the same time. Answers are small, and an API server handles hundreds of requests.
const LISTINGS_MAX: usize = 8;

/// `[fleet]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetConfig {
    /// Namespaces to search for instances. Default: all.
    pub namespaces: Vec<Namespace>,
    /// PEM certificates for the stores of instances that set `ca_file`, because theirs is a file in a pod.
    pub ca_file: Option<PathBuf>,
}

/// One installed instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its ConfigMap, which has the same name as its CronJob.
    pub at: Reference,
    /// The configuration that its pods read.
    pub text: String,
    /// The Secret with the store's credentials, in the same namespace; `None` if the ConfigMap does not name one.
    pub store_secret: Option<Reference>,
}

/// A namespace that could not be listed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The namespace.
    pub namespace: Namespace,
    /// The cluster's reason.
    pub why: Error,
}

/// Every instance, sorted by namespace and name, and the namespaces that could not be listed.
///
/// # Errors
/// The cluster's error if no instance was found and a namespace could not be listed; [`Class::Config`] if no instance
/// is installed.
pub async fn installed(cluster: &Cluster, config: &FleetConfig) -> Result<(Vec<Installed>, Vec<Closed>)> {
    let list = async |namespace: Option<&Namespace>| {
        let found = cluster.list(CONFIG_MAPS, namespace.map(Namespace::as_str), Some(LABEL), None).await?;
        Ok::<_, Error>(found.unwrap_or_default())
    };
    let (mut found, mut closed) = (Vec::new(), Vec::new());
    if config.namespaces.is_empty() {
        let all = list(None).await.map_err(|error| match error.class() {
            Class::Config => {
                let hint = "name the namespaces that you have access to: `namespaces = [\"erp\"]` in [fleet]";
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
        (true, None) => Err(Error::config(format!("no instance was found in {}", cluster.shown()))
            .hint("check the context and `namespaces` in [fleet]; the chart labels its ConfigMaps app.kubernetes.io/name=dolibarr-backup")),
    }
}

/// The instance that a ConfigMap describes; `None` for other ConfigMaps of the chart, such as a dashboard.
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
    fn the_secret_of_an_instance_is_in_its_own_namespace() {
        let store_secret = |secret: &str| {
            let object = json!({
                "metadata": {
                    "namespace": "erp", "name": "erp-prod", "annotations": { "dolibarr-backup/store-secret": secret },
                },
                "data": { "dolibarr-backup.toml": "x = 1" },
            });
            instance(&object).unwrap().store_secret.map(|reference| reference.to_string())
        };
        assert_eq!(store_secret("erp-prod-store").as_deref(), Some("erp/erp-prod-store"));
        for elsewhere in ["other/erp-prod-store", "../secrets/x", "", "A"] {
            assert_eq!(store_secret(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_config_map_without_a_configuration_is_not_an_instance() {
        let dashboard = json!({
            "metadata": { "namespace": "erp", "name": "erp-dashboard" }, "data": { "dolibarr-backup.json": "{}" },
        });
        assert_eq!(instance(&dashboard), None);
        assert_eq!(instance(&json!({})), None);
    }
}
