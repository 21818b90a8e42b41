//! A server to restore to, as a person names it: a section of the configuration, or a URL without a password.

use super::{Config, PORT_DEFAULT, SslMode};
use base::error::{Class, Error, Result};
use base::secret::Source;
use serde::Deserialize;
use std::path::PathBuf;
use url::Url;

/// The database that every server has, through which others are made.
const MAINTENANCE_DATABASE: &str = "postgres";

/// `[servers.NAME]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// A host name, an address, or the folder of a Unix socket, which begins with `/`.
    pub host: String,
    /// TCP port, or the number in the socket's name.
    #[serde(default = "super::port_default")]
    pub port: u16,
    /// The database that is connected to in order to make others.
    #[serde(default = "maintenance_database")]
    pub database: String,
    /// How TLS is used, by libpq's names.
    #[serde(default)]
    pub ssl_mode: SslMode,
    /// Certificates to trust, in PEM; `system` for the ones that the operating system trusts.
    pub ssl_root_cert: Option<PathBuf>,
    /// A certificate to show the server, in PEM.
    pub ssl_cert: Option<PathBuf>,
    /// Its key, in PEM and not encrypted.
    pub ssl_key: Option<PathBuf>,
    /// Of a user who may make databases.
    pub credentials: Source,
}

fn maintenance_database() -> String {
    MAINTENANCE_DATABASE.to_owned()
}

impl ServerConfig {
    /// Reads `postgres://USER@HOST:PORT/DATABASE?sslmode=…&sslrootcert=…`. A socket's folder is the host with its slashes as
    /// `%2F`, or `?host=/FOLDER`. The password comes from `PGPASSWORD`, and never from here.
    ///
    /// # Errors
    /// Of class [`Class::Usage`], without the text where it may hold a password.
    pub fn of_url(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(Class::Usage, format!("--server is no URL of a PostgreSQL server: {why}"))
                .hint("write postgres://USER@HOST:5432/postgres, or the name of a section [servers.NAME]")
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(wrong("it begins with something else than postgres://"));
        }
        if url.password().is_some() {
            return Err(Error::new(
                Class::Usage,
                "--server holds a password, which every user of this machine could read",
            )
            .hint("leave it out of the URL and set PGPASSWORD, or write a section [servers.NAME] with credentials"));
        }
        let decoded = |text: &str| percent_decoded(text).ok_or_else(|| wrong("a part of it is no text"));
        let mut host = decoded(url.host_str().unwrap_or_default())?;
        let (mut ssl_mode, mut ssl_root_cert, mut ssl_cert, mut ssl_key) = (SslMode::default(), None, None, None);
        for (key, value) in url.query_pairs() {
            match &*key {
                "host" => host = value.into_owned(),
                "sslmode" => ssl_mode = SslMode::named(&value).ok_or_else(|| wrong("there is no such sslmode"))?,
                "sslrootcert" => ssl_root_cert = Some(PathBuf::from(value.into_owned())),
                "sslcert" => ssl_cert = Some(PathBuf::from(value.into_owned())),
                "sslkey" => ssl_key = Some(PathBuf::from(value.into_owned())),
                _ => {
                    let known = "it may have host, sslmode, sslrootcert, sslcert and sslkey behind the question mark";
                    return Err(wrong(known));
                }
            }
        }
        if host.is_empty() {
            return Err(wrong("it names no host"));
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
            credentials: Source { env: true, user, ..Source::default() },
        })
    }

    /// How to connect to it.
    #[must_use]
    pub fn config(&self) -> Config {
        Config {
            ssl_mode: self.ssl_mode,
            ssl_root_cert: self.ssl_root_cert.clone(),
            ssl_cert: self.ssl_cert.clone(),
            ssl_key: self.ssl_key.clone(),
            ..Config::new(self.host.clone(), self.port, self.database.clone(), self.credentials.clone())
        }
    }
}

impl Config {
    /// The server of a source, to make databases on.
    #[must_use]
    pub fn maintenance(&self) -> Self {
        Self { database: MAINTENANCE_DATABASE.to_owned(), ..self.clone() }
    }

    /// Whether a database of this name on another's server can be the same one. Two names for one host are told by their addresses, and
    /// every socket counts as this machine; where that is not known, it is the same only if it is spelt the same.
    pub async fn may_be(&self, other: &Self, database: &str) -> bool {
        // What a service names that cannot be read may be just that.
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

/// The addresses behind a host; this machine's, whichever of them, as one.
async fn addresses(host: &str, port: u16) -> Vec<std::net::IpAddr> {
    let local = std::net::IpAddr::from([127, 0, 0, 1]);
    if host.starts_with('/') {
        return vec![local];
    }
    let Ok(found) = tokio::net::lookup_host((host, port)).await else { return Vec::new() };
    found.map(|address| if address.ip().is_loopback() { local } else { address.ip() }).collect()
}

impl SslMode {
    pub(super) fn named(name: &str) -> Option<Self> {
        use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
        [Disable, Allow, Prefer, Require, VerifyCa, VerifyFull].into_iter().find(|mode| mode.name() == name)
    }
}

/// The text behind `%XX`.
fn percent_decoded(text: &str) -> Option<String> {
    // A query's value is decoded by the crate that knows how; a plus stands for itself elsewhere.
    let query = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.next().map(|(_, value)| value.into_owned()).filter(|value| !value.contains(['\0', '\u{fffd}']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        for (text, expected) in [
            ("postgres://me@db.example:6432/admin", ("db.example", 6432, "admin", Some("me"))),
            ("postgresql://db.example", ("db.example", 5432, "postgres", None)),
            ("postgres://me@%2Fvar%2Frun%2Fpg:5433/", ("/var/run/pg", 5433, "postgres", Some("me"))),
            ("postgres://m%40e@x/a?host=/run/pg&sslmode=verify-full", ("/run/pg", 5432, "a", Some("m@e"))),
        ] {
            let server = ServerConfig::of_url(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let found = (&*server.host, server.port, &*server.database, server.credentials.user.as_deref());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for (text, says) in [
            ("postgres://me:canary@x/", "holds a password"),
            ("postgres://me@x/?password=canary", "behind the question mark"),
            ("postgres:///", "names no host"),
            ("postgres://x/?sslmode=perhaps", "no such sslmode"),
            ("postgres://x:notaport/", "no URL"),
        ] {
            let error = ServerConfig::of_url(text).unwrap_err();
            assert!(error.class() == Class::Usage && error.message().contains(says), "{text}: {error:?}");
            assert!(!format!("{error:?}").contains("canary"));
        }
    }

    #[tokio::test]
    async fn what_a_service_names_is_guarded_as_if_it_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("services");
        std::fs::write(&file, "[erp]\nport=6432\nhost=192.0.2.1\n").unwrap();
        let config = |text: &str| -> Config {
            toml::from_str(&format!("service_file = {file:?}\ncredentials = {{ user = \"x\" }}\n{text}")).unwrap()
        };
        let source = config("service = \"erp\"\nhost = \"db1\"\ndatabase = \"erp\"");
        let target = source.maintenance();
        assert!(source.may_be(&target, "erp").await, "one server by one service");
        assert!(!source.may_be(&target, "erp_new").await);
        let written = config("host = \"db1\"\nport = 6432\ndatabase = \"postgres\"");
        assert!(
            source.may_be(&written, "erp").await
                && !source.may_be(&config("host = \"db1\"\ndatabase = \"x\""), "erp").await
        );
        let lost = config("service = \"gone\"\ndatabase = \"erp\"");
        assert!(lost.may_be(&written, "erp").await && written.may_be(&lost, "erp").await, "nobody knows");
    }

    #[tokio::test]
    async fn the_same_database_is_recognised_under_another_name_of_its_host() {
        let config = ServerConfig::of_url("postgres://127.0.0.1:5432/erp").unwrap().config();
        for (host, port, database, same) in [
            ("127.0.0.1", 5432, "erp", true),
            ("/var/run/postgresql", 5432, "erp", true),
            ("::1", 5432, "erp", true),
            ("127.0.0.1", 5433, "erp", false),
            ("127.0.0.1", 5432, "erp2", false),
            ("192.0.2.1", 5432, "erp", false),
        ] {
            let other = Config { host: host.to_owned(), port, ..config.clone() };
            assert_eq!(config.may_be(&other, database).await, same, "{host} {port} {database}");
            let among = Config { host: format!("192.0.2.7,{host}"), ..other };
            assert_eq!(config.may_be(&among, database).await, same, "one of several hosts");
        }
    }
}
