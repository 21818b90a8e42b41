//! A server to restore to: either a section of the configuration, or a URL without a password.

use super::{DatabaseConfig, PORT_DEFAULT, SslMode};
use base::error::{Class, Error, Result};
use base::secret::SecretSource;
use serde::Deserialize;
use std::path::PathBuf;
use url::Url;

/// The database that every server has, which is used to create others.
const MAINTENANCE_DATABASE: &str = "postgres";

/// `[servers.NAME]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// A host name, an address, or the directory of a Unix socket, which begins with `/`.
    pub host: String,
    /// TCP port, or the number in the socket's name.
    #[serde(default = "super::port_default")]
    pub port: u16,
    /// The database to connect to in order to create others.
    #[serde(default = "maintenance_database")]
    pub database: String,
    /// TLS mode, with libpq's names.
    #[serde(default)]
    pub ssl_mode: SslMode,
    /// PEM file with the certificates to trust, or `system` for the operating system's certificates.
    pub ssl_root_cert: Option<PathBuf>,
    /// PEM file with the client certificate.
    pub ssl_cert: Option<PathBuf>,
    /// PEM file with the unencrypted key of the client certificate.
    pub ssl_key: Option<PathBuf>,
    /// Credentials of a user who may create databases.
    pub credentials: SecretSource,
}

fn maintenance_database() -> String {
    MAINTENANCE_DATABASE.to_owned()
}

impl ServerConfig {
    /// Parses `postgres://USER@HOST:PORT/DATABASE?sslmode=…&sslrootcert=…`. The directory of a socket is written as the
    /// host, with `%2F` for its slashes, or as `?host=/DIRECTORY`. The password comes from `PGPASSWORD`, never from the
    /// URL.
    ///
    /// # Errors
    /// Class [`Class::Usage`]. The message does not repeat the URL, which may contain a password.
    pub fn from_url(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(Class::Usage, format!("--server is not a valid PostgreSQL URL: {why}"))
                .hint("write postgres://USER@HOST:5432/postgres, or the NAME of a section [servers.NAME]")
        };
        let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(invalid("it does not begin with postgres://"));
        }
        if url.password().is_some() {
            return Err(Error::new(
                Class::Usage,
                "--server contains a password, which every user of this machine could read",
            )
            .hint("remove it from the URL and set PGPASSWORD, or add a section [servers.NAME] with credentials"));
        }
        let decoded = |text: &str| percent_decoded(text).ok_or_else(|| invalid("a part of it is not valid text"));
        let mut host = decoded(url.host_str().unwrap_or_default())?;
        let (mut ssl_mode, mut ssl_root_cert, mut ssl_cert, mut ssl_key) = (SslMode::default(), None, None, None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "host" => host = value.into_owned(),
                "sslmode" => ssl_mode = SslMode::from_name(&value).ok_or_else(|| invalid("unknown sslmode"))?,
                "sslrootcert" => ssl_root_cert = Some(PathBuf::from(value.into_owned())),
                "sslcert" => ssl_cert = Some(PathBuf::from(value.into_owned())),
                "sslkey" => ssl_key = Some(PathBuf::from(value.into_owned())),
                _ => {
                    let known = "the allowed parameters are host, sslmode, sslrootcert, sslcert and sslkey";
                    return Err(invalid(known));
                }
            }
        }
        if host.is_empty() {
            return Err(invalid("the host is missing"));
        }
        let user = Some(decoded(url.username())?).filter(|user| !user.is_empty());
        let database = decoded(url.path().trim_start_matches('/'))?;
        Ok(Self {
            host,
            port: url.port().unwrap_or(PORT_DEFAULT),
            database: if database.is_empty() { maintenance_database() } else { database },
            ssl_mode,
            ssl_root_cert,
            ssl_cert,
            ssl_key,
            credentials: SecretSource { env: true, user, ..SecretSource::default() },
        })
    }

    /// How to connect to the server.
    pub fn config(&self) -> DatabaseConfig {
        DatabaseConfig {
            ssl_mode: self.ssl_mode,
            ssl_root_cert: self.ssl_root_cert.clone(),
            ssl_cert: self.ssl_cert.clone(),
            ssl_key: self.ssl_key.clone(),
            ..DatabaseConfig::new(self.host.clone(), self.port, self.database.clone(), self.credentials.clone())
        }
    }
}

impl DatabaseConfig {
    /// The same server, but with the database that is used to create others.
    pub fn maintenance(&self) -> Self {
        Self { database: MAINTENANCE_DATABASE.to_owned(), ..self.clone() }
    }

    /// Whether a database of this name on the server of `other` can be this database. Host names are compared by their
    /// addresses, and every socket counts as this machine. Names that do not resolve are the same only if they are
    /// written the same.
    pub async fn may_be(&self, other: &Self, database: &str) -> bool {
        // A service that cannot be read may name this very database.
        let (Ok(own), Ok(other)) = (self.resolved(), other.resolved()) else { return true };
        if own.port != other.port || own.database != database {
            return false;
        }
        let port = own.port;
        for (own, other) in own.hosts().flat_map(|own| other.hosts().map(move |other| (own, other))) {
            if own.eq_ignore_ascii_case(other) {
                return true;
            }
            let (own, other) = (addresses(own, port).await, addresses(other, port).await);
            if own.iter().any(|address| other.contains(address)) {
                return true;
            }
        }
        false
    }
}

/// The addresses of a host. All loopback addresses and sockets count as the same one.
async fn addresses(host: &str, port: u16) -> Vec<std::net::IpAddr> {
    let local = std::net::IpAddr::from([127, 0, 0, 1]);
    if host.starts_with('/') {
        return vec![local];
    }
    let Ok(found) = tokio::net::lookup_host((host, port)).await else { return Vec::new() };
    found.map(|address| if address.ip().is_loopback() { local } else { address.ip() }).collect()
}

impl SslMode {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull].into_iter().find(|mode| mode.name() == name)
    }
}

/// Decodes `%XX` sequences. `None` if the result is not valid text.
fn percent_decoded(text: &str) -> Option<String> {
    // The `url` crate decodes query values. Outside a query, a plus is not a space.
    let query = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.next().map(|(_, value)| value.into_owned()).filter(|value| !value.contains(['\0', '\u{fffd}']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed_as_libpq_parses_it() {
        for (text, expected) in [
            ("postgres://me@db.example:6432/admin", ("db.example", 6432, "admin", Some("me"))),
            ("postgresql://db.example", ("db.example", 5432, "postgres", None)),
            ("postgres://me@%2Fvar%2Frun%2Fpg:5433/", ("/var/run/pg", 5433, "postgres", Some("me"))),
            ("postgres://m%40e@x/a?host=/run/pg&sslmode=verify-full", ("/run/pg", 5432, "a", Some("m@e"))),
        ] {
            let server = ServerConfig::from_url(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let found = (&*server.host, server.port, &*server.database, server.credentials.user.as_deref());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for (text, says) in [
            ("postgres://me:canary@x/", "contains a password"),
            ("postgres://me@x/?password=canary", "the allowed parameters are"),
            ("postgres:///", "the host is missing"),
            ("postgres://x/?sslmode=perhaps", "unknown sslmode"),
            ("postgres://x:notaport/", "not a valid PostgreSQL URL"),
        ] {
            let error = ServerConfig::from_url(text).unwrap_err();
            assert!(error.class() == Class::Usage && error.message().contains(says), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("canary"));
        }
    }

    #[tokio::test]
    async fn a_database_that_a_service_names_is_guarded_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("services");
        std::fs::write(&file, "[erp]\nport=6432\nhost=192.0.2.1\n").unwrap();
        let config = |text: &str| -> DatabaseConfig {
            toml::from_str(&format!("service_file = {file:?}\ncredentials = {{ user = \"x\" }}\n{text}")).unwrap()
        };
        let source = config("service = \"erp\"\nhost = \"db1\"\ndatabase = \"erp\"");
        let target = source.maintenance();
        assert!(source.may_be(&target, "erp").await, "the same server from the same service");
        assert!(!source.may_be(&target, "erp_new").await);
        let written = config("host = \"db1\"\nport = 6432\ndatabase = \"postgres\"");
        assert!(
            source.may_be(&written, "erp").await
                && !source.may_be(&config("host = \"db1\"\ndatabase = \"x\""), "erp").await
        );
        let lost = config("service = \"gone\"\ndatabase = \"erp\"");
        assert!(lost.may_be(&written, "erp").await && written.may_be(&lost, "erp").await, "unknown");
    }

    #[tokio::test]
    async fn the_same_database_is_recognised_under_another_name_of_its_host() {
        let config = ServerConfig::from_url("postgres://127.0.0.1:5432/erp").unwrap().config();
        for (host, port, database, same) in [
            ("127.0.0.1", 5432, "erp", true),
            ("/var/run/postgresql", 5432, "erp", true),
            ("::1", 5432, "erp", true),
            ("127.0.0.1", 5433, "erp", false),
            ("127.0.0.1", 5432, "erp2", false),
            ("192.0.2.1", 5432, "erp", false),
        ] {
            let other = DatabaseConfig { host: host.to_owned(), port, ..config.clone() };
            assert_eq!(config.may_be(&other, database).await, same, "{host} {port} {database}");
            let among = DatabaseConfig { host: format!("192.0.2.7,{host}"), ..other };
            assert_eq!(config.may_be(&among, database).await, same, "one of several hosts");
        }
    }
}
