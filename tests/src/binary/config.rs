//! Configuration files for tests, in the form that a user writes.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// A configuration with a store, sources by environment, and the shipped plugins. Everything else has its default until
/// a test sets it.
#[derive(Debug, Clone)]
pub struct Config {
    top: String,
    store: String,
    sources: String,
    fingerprint: Plugin,
    dump: Plugin,
    retention: Plugin,
    guard: String,
}

#[derive(Debug, Clone)]
struct Plugin {
    component: String,
    grants: &'static [&'static str],
    settings: String,
}

impl Plugin {
    fn new(component: &str, grants: &'static [&'static str]) -> Self {
        Self { component: component.into(), grants, settings: String::new() }
    }
}

impl Config {
    /// A configuration with a folder as the store.
    pub fn directory_store(folder: &Path) -> Self {
        Self::store(&format!("url = {}\n", quoted(&format!("file://{}", folder.display()))))
    }

    /// A configuration with an S3 server as the store: `s3://bucket/prefix`, its endpoint, and a folder with credential
    /// files.
    pub fn s3_store(url: &str, endpoint: &str, region: &str, profile: &str, credentials: &Path) -> Self {
        let mut store = String::new();
        for (key, value) in [("url", url), ("endpoint", endpoint), ("region", region), ("profile", profile)] {
            let _ = writeln!(store, "{key} = {}", quoted(value));
        }
        let _ = writeln!(store, "credentials = {{ files = {} }}", quoted_path(credentials));
        Self::store(&store)
    }

    fn store(store: &str) -> Self {
        Self {
            top: String::new(),
            store: store.into(),
            sources: String::new(),
            fingerprint: Plugin::new("fingerprint.wasm", &["database-evidence", "tree-evidence"]),
            dump: Plugin::new("dump.wasm", &["database-dump", "tree-archive", "object-write"]),
            retention: Plugin::new("retention-tiered.wasm", &[]),
            guard: String::new(),
        }
    }

    /// Adds lines to `[store]`.
    #[must_use]
    pub fn store_lines(mut self, lines: &str) -> Self {
        let _ = writeln!(self.store, "{lines}");
        self
    }

    /// Adds lines above the first table, such as `time_zone = "Europe/Paris"`.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        let _ = writeln!(self.top, "{lines}");
        self
    }

    /// Adds a PostgreSQL database. `more` is added to its table, such as `ssl_mode = "disable"`.
    #[must_use]
    pub fn database(
        mut self,
        source: (&str, &str),
        server: (&str, u16),
        name: &str,
        credentials: &Path,
        more: &str,
    ) -> Self {
        let _ = write!(
            self.sources,
            "\n[env.{}.sources.{}]\nkind = \"postgres\"\nhost = {}\nport = {}\ndatabase = {}\ncredentials = {{ files = {} }}\n{more}\n",
            source.0,
            source.1,
            quoted(server.0),
            server.1,
            quoted(name),
            quoted_path(credentials),
        );
        self
    }

    /// Adds a server to restore to, whose administrator needs no password on the socket.
    #[must_use]
    pub fn server(mut self, name: &str, socket: &Path, port: u16) -> Self {
        let host = quoted_path(socket);
        let _ = write!(
            self.sources,
            "\n[servers.{name}]\nhost = {host}\nport = {port}\ncredentials = {{ user = \"postgres\" }}\n"
        );
        self
    }

    /// Adds a documents folder.
    #[must_use]
    pub fn documents(mut self, (environment, source): (&str, &str), path: &Path) -> Self {
        let path = quoted_path(path);
        let _ = write!(self.sources, "\n[env.{environment}.sources.{source}]\nkind = \"directory\"\npath = {path}\n");
        self
    }

    /// Sets the fingerprint plugin's settings: the content of an inline table, such as `documents = "content"`.
    #[must_use]
    pub fn fingerprint_settings(mut self, settings: &str) -> Self {
        self.fingerprint.settings = settings.into();
        self
    }

    /// Sets the dump plugin's settings.
    #[must_use]
    pub fn dump_settings(mut self, settings: &str) -> Self {
        self.dump.settings = settings.into();
        self
    }

    /// Sets the retention plugin and its settings.
    #[must_use]
    pub fn retention(mut self, component: &str, settings: &str) -> Self {
        self.retention = Plugin { settings: settings.into(), ..Plugin::new(component, &[]) };
        self
    }

    /// Adds lines to `[guard]`.
    #[must_use]
    pub fn guard(mut self, lines: &str) -> Self {
        let _ = writeln!(self.guard, "{lines}");
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n[store]\n{}{}", self.top, self.store, self.sources);
        for (role, plugin) in [("fingerprint", &self.fingerprint), ("dump", &self.dump), ("retention", &self.retention)]
        {
            let grants: Vec<_> = plugin.grants.iter().map(|grant| quoted(grant)).collect();
            let (component, grants) = (quoted(&plugin.component), grants.join(", "));
            let _ = write!(text, "\n[plugins.{role}]\ncomponent = {component}\ngrants = [{grants}]\n");
            if !plugin.settings.is_empty() {
                let _ = writeln!(text, "settings = {{ {} }}", plugin.settings);
            }
        }
        if !self.guard.is_empty() {
            let _ = write!(text, "\n[guard]\n{}", self.guard);
        }
        text
    }

    /// Writes `dolibarr-backup.toml` to a folder and returns its path.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        let path = folder.join("dolibarr-backup.toml");
        // Atomically: another run in the same folder may be reading it.
        let new = path.with_extension("toml.new");
        std::fs::write(&new, self.text())?;
        std::fs::rename(&new, &path)?;
        Ok(path)
    }
}

/// A JSON string is a TOML basic string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_valid_toml_whatever_the_names_contain() {
        let secrets = Path::new("/run/s\"x\n\u{e9}");
        let config = Config::s3_store("s3://b/erp", "http://127.0.0.1:1", "garage", "garage", secrets)
            .top("time_zone = \"Europe/Paris\"")
            .database(("prod", "db"), ("127.0.0.1", 5432), "erp", secrets, "ssl_mode = \"disable\"")
            .documents(("prod", "docs"), Path::new("/var/www/documents"))
            .fingerprint_settings("documents = \"content\"")
            .retention("retention-last.wasm", "keep = 3")
            .guard("min_age = \"0s\"");
        let parsed: toml::Table = config.text().parse().expect("TOML");
        assert_eq!(parsed["store"]["credentials"]["files"].as_str(), secrets.to_str());
        assert_eq!(parsed["env"]["prod"]["sources"]["db"]["port"].as_integer(), Some(5432));
        assert_eq!(parsed["env"]["prod"]["sources"]["db"]["ssl_mode"].as_str(), Some("disable"));
        assert_eq!(parsed["env"]["prod"]["sources"]["docs"]["kind"].as_str(), Some("directory"));
        assert_eq!(parsed["plugins"]["retention"]["settings"]["keep"].as_integer(), Some(3));
        assert_eq!(parsed["plugins"]["dump"]["grants"].as_array().map(Vec::len), Some(3));
        assert_eq!(parsed["guard"]["min_age"].as_str(), Some("0s"));
    }

    #[test]
    fn settings_that_are_not_set_are_left_out() {
        let parsed: toml::Table = Config::directory_store(Path::new("/srv/x")).text().parse().expect("TOML");
        assert_eq!(parsed["store"]["url"].as_str(), Some("file:///srv/x"));
        assert!(parsed.get("guard").is_none() && parsed.get("time_zone").is_none() && parsed.get("env").is_none());
    }
}
