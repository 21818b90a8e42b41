//! Reads libpq's connection service file: sections in brackets, `name=value` on lines of their own, and comments that
//! begin with `#` at the start of a line. It has no quotes and no escapes, so a generic INI parser would misread it.
//!
//! Users and passwords come only from `credentials`; those in the service file are ignored.

use super::{DatabaseConfig, PORT_DEFAULT, SessionAttrs, SslMode};
use base::error::{Error, Result, reason};
use base::secret::SecretSource;
use serde::Deserialize;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Maximum file size. A file with a hundred services has 20 KiB.
const BYTES_MAX: u64 = 1 << 20;

/// A database as it is written in the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default)]
    host: String,
    port: Option<u16>,
    #[serde(default)]
    database: String,
    service: Option<String>,
    service_file: Option<PathBuf>,
    target_session_attrs: Option<SessionAttrs>,
    ssl_mode: Option<SslMode>,
    ssl_root_cert: Option<PathBuf>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
    credentials: SecretSource,
    restore_credentials: Option<Box<SecretSource>>,
    pg_dump: Option<PathBuf>,
    connect_timeout: Option<u16>,
    open_timeout: Option<u16>,
    connections: Option<u8>,
}

/// Settings that the configuration omits, so that a service may provide them. A setting that is written out is not
/// overridden, even if its value is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Unset {
    port: bool,
    ssl_mode: bool,
    target_session_attrs: bool,
}

impl From<Written> for DatabaseConfig {
    fn from(written: Written) -> Self {
        let unset = Unset {
            port: written.port.is_none(),
            ssl_mode: written.ssl_mode.is_none(),
            target_session_attrs: written.target_session_attrs.is_none(),
        };
        let port = written.port.unwrap_or(PORT_DEFAULT);
        let plain = Self::new(written.host, port, written.database, written.credentials);
        Self {
            service: written.service,
            service_file: written.service_file,
            target_session_attrs: written.target_session_attrs.unwrap_or_default(),
            ssl_mode: written.ssl_mode.unwrap_or_default(),
            ssl_root_cert: written.ssl_root_cert,
            ssl_cert: written.ssl_cert,
            ssl_key: written.ssl_key,
            restore_credentials: written.restore_credentials,
            pg_dump: written.pg_dump,
            connect_timeout: written.connect_timeout.unwrap_or(plain.connect_timeout),
            open_timeout: written.open_timeout.unwrap_or(plain.open_timeout),
            connections: written.connections,
            unset,
            ..plain
        }
    }
}

impl DatabaseConfig {
    /// The same configuration with the settings of its service, if it has one.
    ///
    /// # Errors
    /// Class `Config` if the file cannot be read, has no such section, or has an invalid value.
    pub(super) fn resolved(&self) -> Result<Self> {
        let Some(service) = &self.service else { return Ok(self.clone()) };
        let file = self.service_file.as_ref().ok_or_else(|| {
            Error::config(format!("no service file is configured for the service `{service}`"))
                .hint("set `service_file` or PGSERVICEFILE")
        })?;
        let text = read(file)?;
        let mut config = Self { service: None, ..self.clone() };
        let invalid = |name: &str| {
            Error::config(format!("`{name}` of the service `{service}` in {} has an invalid value", file.display()))
                .hint("see \"The Connection Service File\" in PostgreSQL's documentation")
        };
        for (name, value) in section(&text, service).ok_or_else(|| {
            Error::config(format!("{} does not define the service `{service}`", file.display())).hint("check `service`")
        })? {
            let path = || Some(PathBuf::from(value));
            match name {
                "host" if config.host.is_empty() => value.clone_into(&mut config.host),
                "dbname" if config.database.is_empty() => value.clone_into(&mut config.database),
                "hostaddr" if self.host.is_empty() => {
                    config.address = Some(value.parse().map_err(|_| invalid(name))?);
                }
                "port" if self.unset.port && value.contains(',') => {
                    return Err(Error::config(format!(
                        "the service `{service}` has a port for each host, but only one port is supported"
                    ))
                    .hint("set the hosts in `host` and the port in `port`, or define one service for each host"));
                }
                "port" if self.unset.port => config.port = value.parse().map_err(|_| invalid(name))?,
                "sslmode" if self.unset.ssl_mode => {
                    config.ssl_mode = SslMode::from_name(value).ok_or_else(|| invalid(name))?;
                }
                "sslrootcert" if config.ssl_root_cert.is_none() => config.ssl_root_cert = path(),
                "sslcert" if config.ssl_cert.is_none() => config.ssl_cert = path(),
                "sslkey" if config.ssl_key.is_none() => config.ssl_key = path(),
                "target_session_attrs" if self.unset.target_session_attrs => {
                    config.target_session_attrs = SessionAttrs::from_name(value).ok_or_else(|| invalid(name))?;
                }
                _ => {}
            }
        }
        if let (Some(address), true) = (config.address, config.host.is_empty()) {
            config.host = address.to_string();
        }
        Ok(config)
    }
}

impl SessionAttrs {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "any" => Some(Self::Any),
            "primary" | "read-write" => Some(Self::Primary),
            "standby" | "read-only" => Some(Self::Standby),
            "prefer-standby" => Some(Self::PreferStandby),
            _ => None,
        }
    }
}

fn read(file: &Path) -> Result<String> {
    let failed = |why: String| {
        Error::config(format!("the service file {} cannot be read: {why}", file.display())).hint("check `service_file`")
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|error| failed(reason(&error)))?;
    opened.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failed(reason(&error)))?;
    if text.len() as u64 > BYTES_MAX { Err(failed(format!("it is longer than {BYTES_MAX} bytes"))) } else { Ok(text) }
}

/// The settings in the first section of that name, in file order. `None` if there is no such section.
fn section<'t>(text: &'t str, service: &str) -> Option<Vec<(&'t str, &'t str)>> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.find(|line| line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) == Some(service))?;
    let own = lines.take_while(|line| !line.starts_with('['));
    Some(own.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), value.trim())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::error::Class;

    const FILE: &str = "# services\n[other]\nhost=elsewhere\n\n[erp]\nhost=db1,db2\nport=6432\ndbname=erp=prod\n#port=1\n  sslmode=verify-full\n\
        sslcert=/a b/client.crt\ntarget_session_attrs=read-write\nuser=root\npassword=canary\ngssencmode=disable\n[last]\n";

    fn config(text: &str) -> DatabaseConfig {
        toml::from_str(&format!("credentials = {{ user = \"reader\" }}\n{text}")).unwrap()
    }

    #[test]
    fn a_service_provides_the_settings_that_the_configuration_omits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pg_service.conf");
        std::fs::write(&path, FILE).unwrap();
        let named = format!("service_file = {:?}\nservice = ", path.to_str().unwrap());
        let found = config(&format!("{named}\"erp\"")).resolved().unwrap();
        assert_eq!((&*found.host, found.port, &*found.database), ("db1,db2", 6432, "erp=prod"));
        assert_eq!((found.ssl_mode, found.target_session_attrs), (SslMode::VerifyFull, SessionAttrs::Primary));
        assert_eq!(found.ssl_cert.as_deref(), Some(Path::new("/a b/client.crt")));
        assert_eq!(found.credentials.user.as_deref(), Some("reader"), "the user comes from the credentials");
        assert!(!format!("{found:?}").contains("canary"));
        let own =
            config(&format!("{named}\"erp\"\nhost = \"mine\"\nport = 7\nssl_mode = \"disable\"")).resolved().unwrap();
        assert_eq!((&*own.host, own.port, own.ssl_mode), ("mine", 7, SslMode::Disable));
        let default = config(&format!("{named}\"erp\"\nport = 5432\nssl_mode = \"prefer\"")).resolved().unwrap();
        assert_eq!((default.port, default.ssl_mode), (5432, SslMode::Prefer), "explicit defaults win");
        std::fs::write(folder.path().join("at.conf"), "[at]\nhostaddr=192.0.2.1\ndbname=d\n").unwrap();
        let at =
            config(&format!("service_file = {:?}\nservice = \"at\"", folder.path().join("at.conf").to_str().unwrap()));
        assert_eq!(at.resolved().unwrap().address, Some("192.0.2.1".parse().unwrap()));
        assert!(config(&format!("{named}\"last\"")).resolved().unwrap().check().is_err(), "it has no host");
        for (name, says) in [("nobody", "does not define the service `nobody`"), ("erp]", "does not define")] {
            let error = config(&format!("{named}{name:?}")).resolved().unwrap_err();
            assert!(error.class() == Class::Config && error.message().contains(says), "{error:?}");
        }
        std::fs::write(&path, "[erp]\nport=many\n").unwrap();
        let error = config(&format!("{named}\"erp\"")).resolved().unwrap_err();
        assert!(error.message().contains("`port` of the service `erp`"), "{error}");
        let missing = config("service_file = \"/nowhere/x\"\nservice = \"erp\"").resolved().unwrap_err();
        assert!(missing.message().contains("/nowhere/x cannot be read") && missing.advice().is_some(), "{missing:?}");
    }
}
