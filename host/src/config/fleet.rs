//! The configuration for `status --fleet`, and the configuration of each instance, adapted for use outside its cluster.

use super::{Config, DEFAULT_FILE, File, in_file, text, toml_error};
use base::error::{Error, Result};
use base::secret::SecretSource;
use jiff::tz::TimeZone;
use kubernetes::fleet::{self, Installed};
use plugin::Limits;
use std::path::{Path, PathBuf};

/// The fleet and how to display it. The file needs neither a store nor an environment.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The time zone of displayed times.
    pub time_zone: TimeZone,
    /// The cluster.
    pub kubernetes: kubernetes::ClusterConfig,
    /// Which instances to check.
    pub looked_at: fleet::FleetConfig,
    /// Where components are kept.
    cache: Option<PathBuf>,
}

impl Fleet {
    /// Reads the configuration file. If the default file does not exist, all defaults apply.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read(path: &Path) -> Result<Self> {
        if path == Path::new(DEFAULT_FILE) && !path.exists() {
            return Self::parse("");
        }
        Self::parse(&text(path)?).map_err(|e| in_file(path, e))
    }

    /// Checks what it needs of a configuration.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|e| toml_error(text, &e))?;
        Ok(Self {
            time_zone: super::time_zone(file.time_zone.as_deref())?,
            kubernetes: file.kubernetes,
            looked_at: file.fleet,
            cache: file.plugins.cache,
        })
    }

    /// The configuration of an instance, for use here: its store with the credentials from the Secret that its pods
    /// mount. No other file, variable, Secret or cluster that its text names is used.
    ///
    /// # Errors
    /// [`base::error::Class::Config`] for an invalid configuration, and for a store that cannot be reached from here.
    pub fn instance(&self, of: &Installed) -> Result<Config> {
        let mut file: File = toml::from_str(&of.text).map_err(|e| toml_error(&of.text, &e))?;
        let secret = of.store_secret.clone();
        if let Some(store) = &mut file.store {
            if !store.url.starts_with("s3:") {
                return Err(Error::config("its store is a folder inside the cluster, which cannot be read from here")
                    .hint("run `status` in the cluster, as the chart's CronJob does"));
            }
            let secret = secret.ok_or_else(|| {
                Error::config("its ConfigMap does not name the Secret of its store")
                    .hint("upgrade the chart, or annotate it with dolibarr-backup/store-secret")
            })?;
            store.credentials = Some(SecretSource { kube_secret: Some(Box::new(secret)), ..SecretSource::default() });
            if store.ca_file.is_some() {
                let ca_file = self.looked_at.ca_file.clone().ok_or_else(|| {
                    Error::config("its store uses its own certificate authority, whose file is only in its pods")
                        .hint("set `ca_file` in [fleet]")
                })?;
                store.ca_file = Some(ca_file);
            }
        }
        file.kubernetes = kubernetes::ClusterConfig { lease_namespace: None, ..self.kubernetes.clone() };
        file.plugins.cache.clone_from(&self.cache);
        file.plugins.retention.limits = Limits::default();
        Config::of(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubernetes::Reference;

    const INSTANCE: &str = r#"
[store]
url = "s3://bucket/erp"
endpoint = "https://s3.example.org"
credentials = { files = "/run/secrets/s3" }
[plugins]
cache = "/tmp/components"
[plugins.retention]
component = "retention-last.wasm"
limits = { memory_mib = 100000 }
[kubernetes]
kubeconfig = "/theirs"
lease_namespace = "erp"
[env.prod.sources.docs]
kind = "directory"
path = "/var/www/documents"
"#;

    fn reference(text: &str) -> Reference {
        Reference::try_from(text.to_owned()).unwrap()
    }

    fn installed(text: &str) -> Installed {
        Installed { at: reference("erp/erp-prod"), text: text.to_owned(), store_secret: Some(reference("erp/s3")) }
    }

    #[test]
    fn an_empty_configuration_is_a_look_at_every_namespace_and_a_mistake_in_one_is_told() {
        assert_eq!(Fleet::parse("").unwrap().looked_at, fleet::FleetConfig::default());
        let some = Fleet::parse("[fleet]\nnamespaces = [\"erp\", \"bakery\"]\n").unwrap();
        assert_eq!(some.looked_at.namespaces.len(), 2);
        for (text, says) in [
            ("[fleet]\nnamespace = \"erp\"", "unknown field `namespace`"),
            ("[fleet]\nnamespaces = [\"a/b\"]", "`a/b` cannot name a namespace"),
            ("time_zone = \"Mars\"", "unknown time zone"),
        ] {
            let error = Fleet::parse(text).map(|_| ()).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn the_text_of_an_instance_reaches_no_file_no_other_secret_and_no_other_cluster() {
        let fleet = Fleet::parse("[kubernetes]\nkubeconfig = \"/ours\"\n[plugins]\ncache = \"/our/cache\"\n").unwrap();
        for credentials in ["files = \"/run/secrets/s3\"", "env = true", "kube_secret = \"kube-system/root\""] {
            let config =
                fleet.instance(&installed(&INSTANCE.replace("files = \"/run/secrets/s3\"", credentials))).unwrap();
            let used = config.store.credentials.unwrap();
            assert_eq!((&used.files, used.env, &used.user), (&None, false, &None));
            assert_eq!(used.kube_secret.as_deref(), Some(&reference("erp/s3")));
            let refused = used.open().await.map(|_| ()).unwrap_err();
            assert!(refused.message().contains("/ours"), "asks another cluster: {refused}");
            assert_eq!(config.kubernetes.kubeconfig.as_deref(), Some(Path::new("/ours")));
            assert_eq!(config.kubernetes.lease_namespace, None);
            assert_eq!(config.plugins.cache.as_deref(), Some(Path::new("/our/cache")));
            assert_eq!(config.plugins.retention.limits, Limits::default());
        }
    }

    #[test]
    fn what_cannot_be_seen_from_outside_is_told_in_one_sentence() {
        let fleet = Fleet::parse("").unwrap();
        let folder = "[store]\nurl = \"file:///srv/backup/erp\"\n";
        let own_ca = INSTANCE.replace("[plugins]", "ca_file = \"/run/secrets/s3-ca/ca.crt\"\n[plugins]");
        let nameless = Installed { store_secret: None, ..installed(INSTANCE) };
        for (instance, says) in [
            (installed(folder), "a folder inside the cluster"),
            (installed(&own_ca), "its own certificate authority"),
            (nameless, "does not name the Secret"),
            (installed("[store"), "line 1"),
            (installed(""), "no store is configured"),
        ] {
            let error = fleet.instance(&instance).map(|_| ()).unwrap_err();
            assert!(error.message().contains(says) && error.advice().is_some(), "{error:?}");
        }
        let ours = Fleet::parse("[fleet]\nca_file = \"/etc/ssl/ours.pem\"\n").unwrap();
        let config = ours.instance(&installed(&own_ca)).unwrap();
        assert_eq!(config.store.ca_file.as_deref(), Some(Path::new("/etc/ssl/ours.pem")));
    }
}
