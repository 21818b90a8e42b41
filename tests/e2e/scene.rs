//! A small company: a Dolibarr on PostgreSQL, its documents, a store, and a configuration that backs both up.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tests::binary::{Config, Outcome, Run};
use tests::garage::Garage;
use tests::postgres::Server;

/// The password of the role that backs up. It may occur nowhere but in its file and in the server.
pub const PASSWORD: &str = "canary-pg-5f1c7d9e";

/// The database and role of every scene.
pub const DATABASE: &str = "erp";
pub const ROLE: &str = "backup";

/// The cache of compiled plugins for all runs of the suite: a run takes a tenth of a second instead of a second. Other
/// tests cover the effects of a cache on a run.
pub const COMPILED: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/compiled");

pub struct Scene {
    pub server: Server,
    pub folder: TempDir,
    pub config: Config,
    /// Where the documents are.
    pub documents: PathBuf,
    /// Where the store is, if it is a folder.
    pub store: PathBuf,
    /// The server with the store, if the store is not a folder.
    pub garage: Option<Arc<Garage>>,
}

impl Scene {
    /// The sample Dolibarr and a folder as the store. If PostgreSQL is not installed, returns `None` and records the
    /// skip.
    pub fn small() -> Option<Self> {
        Server::start().map(Self::on)
    }

    /// The real database and documents that may lie beside the checkout, and a folder as the store.
    pub fn real() -> Option<Self> {
        let shared = tests::shared()?.join("dolibarr");
        let scene = Self::new(String::new(), |documents| {
            std::fs::create_dir(documents).unwrap();
            let archive = shared.join("documents.tar.gz");
            succeed(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(documents).arg("--strip-components=1"));
        })?;
        scene.server.restore(DATABASE, &shared.join("dolibarr-23.dump"));
        scene.grant_select();
        Some(scene)
    }

    fn new(sql: String, documents_at: impl FnOnce(&Path)) -> Option<Self> {
        Server::start().map(|server| Self::made(server, sql, documents_at))
    }

    /// The sample Dolibarr on another server.
    pub fn on(server: Server) -> Self {
        Self::made(server, tests::sample::sql(), |documents| tests::sample::write_documents(documents).unwrap())
    }

    fn made(server: Server, sql: String, documents_at: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The server's own tools run as its user and must be able to read fetched objects.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name);
        server.create_database(DATABASE, &[]);
        server.psql(DATABASE, &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
        if !sql.is_empty() {
            server.psql(DATABASE, &sql);
        }
        documents_at(&at("documents"));
        std::fs::create_dir(at("credentials")).unwrap();
        std::fs::write(at("credentials/username"), ROLE).unwrap();
        std::fs::write(at("credentials/password"), PASSWORD).unwrap();
        let config = Self::sources(Config::directory_store(&at("store")), &server, folder.path());
        let (documents, store) = (at("documents"), at("store"));
        let scene = Self { server, config, documents, store, garage: None, folder };
        scene.grant_select();
        scene
    }

    /// A configuration with this scene's sources.
    pub fn sources(config: Config, server: &Server, folder: &Path) -> Config {
        let at = ("127.0.0.1", server.port());
        config
            .top("time_zone = \"Europe/Paris\"")
            .database(("prod", "db"), at, DATABASE, &folder.join("credentials"), "")
            .documents(("prod", "docs"), &folder.join("documents"))
    }

    /// The same scene with an S3 server as the store. Without a server, returns `None` and records the skip.
    pub fn on_garage(self) -> Option<Self> {
        let garage = match tests::garage::program() {
            Ok(_) => Garage::shared().unwrap(),
            Err(why) => {
                tests::skip(&why);
                return None;
            }
        };
        let url = format!("s3://{}/erp-{}", Garage::BUCKET, rand::random::<u32>());
        let config = Config::s3_store(&url, &garage.endpoint(), Garage::REGION, "garage", &garage.credentials());
        let config = Self::sources(config, &self.server, self.folder.path());
        Some(Self { config, garage: Some(garage), ..self })
    }

    fn grant_select(&self) {
        self.server.psql(
            DATABASE,
            &format!(
                "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"
            ),
        );
    }

    /// A run with these arguments, not started.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Run {
        self.config.write(self.folder.path()).unwrap();
        Run::new(arguments).folder(self.folder.path()).env("XDG_CACHE_HOME", COMPILED)
    }

    /// A run, not started, whose configuration is edited first, for mistakes that the builder does not make.
    pub fn edited(&self, edit: impl Fn(&str) -> String, arguments: &[&str]) -> Run {
        self.config.write(self.folder.path()).unwrap();
        let edited = self.folder.path().join("edited.toml");
        std::fs::write(&edited, edit(&self.config.text())).unwrap();
        let named = ["--config", edited.to_str().unwrap()];
        let all: Vec<&str> = named.into_iter().chain(arguments.iter().copied()).collect();
        Run::new(all).folder(self.folder.path()).env("XDG_CACHE_HOME", COMPILED)
    }

    /// The same, run to its end.
    #[track_caller]
    pub fn run_edited(&self, edit: impl Fn(&str) -> String, arguments: &[&str]) -> Outcome {
        self.edited(edit, arguments).finish()
    }

    /// Runs these arguments to the end.
    #[track_caller]
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        self.command(arguments).finish()
    }

    /// One backup of `prod` that succeeds, as JSON.
    #[track_caller]
    pub fn backup(&self, more: &[&str]) -> serde_json::Value {
        let arguments = ["--json", "backup", "--env", "prod"].into_iter().chain(more.iter().copied());
        self.run(arguments).expect_code(0).json()
    }

    /// The snapshots as `list --json` has them, newest first.
    #[track_caller]
    pub fn list(&self) -> Vec<serde_json::Value> {
        let listed = self.run(["--json", "list", "--env", "prod"]).expect_code(0).json();
        listed["snapshots"].as_array().unwrap().clone()
    }

    /// Changes file times as if everything in the bin had entered it this many days earlier, and the last two runs were
    /// today. The time of a folder store is that of its files.
    pub fn age_bin(&self, environment: &str, days: u64) {
        age_all(&self.store.join(environment), days, 2);
    }

    /// Deletes what is in the bin, as a prune does after a week.
    #[track_caller]
    pub fn empty_bin(&self, now: &str) -> serde_json::Value {
        self.age_bin("prod", 8);
        self.run(["--json", "prune", "--env", "prod", "--now", now]).expect_code(0).json()
    }

    /// Every file of a folder store by its path, except the environment's own files.
    pub fn data(&self) -> BTreeMap<String, Vec<u8>> {
        self.stored().into_iter().filter(|(key, _)| !key.contains("/environment/")).collect()
    }

    /// Every file of a folder store by its path.
    pub fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.store, &self.store, &mut files);
        files
    }

    /// Fetches an object with a stock tool: `cp` from a folder, curl's own S3 signing from a server.
    pub fn fetch(&self, key: &str, to: &str) -> PathBuf {
        let target = self.folder.path().join(to);
        let Some(garage) = &self.garage else {
            std::fs::copy(self.store.join(key), &target).unwrap();
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644)).unwrap();
            return target;
        };
        let text = self.config.text();
        let prefix = text.split("s3://").nth(1).unwrap().split('"').next().unwrap();
        let url = format!("{}/{prefix}/{key}", garage.endpoint());
        succeed(
            Command::new("curl")
                .args(["--silent", "--fail", "--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
                .args(["--aws-sigv4", &format!("aws:amz:{}:s3", Garage::REGION)])
                .args(["--user", &format!("{}:{}", garage.key_id(), garage.secret()), "--output"])
                .arg(&target)
                .arg(url),
        );
        target
    }

    /// What every table of a database holds, computed by the server and without the program under test.
    pub fn contents(&self, database: &str) -> String {
        self.server.psql(
            database,
            "SELECT table_name, md5(query_to_xml(format('SELECT * FROM %I.%I t ORDER BY t::text', table_schema, table_name), \
             true, false, '')::text) FROM information_schema.tables \
             WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY table_name",
        )
    }
}

/// Asserts the exit code, and that the message is one sentence and one hint without internals.
#[track_caller]
pub fn complains(outcome: &Outcome, code: i32, says: &str) {
    let stderr = &outcome.stderr;
    assert_eq!(outcome.code, Some(code), "{stderr}");
    let of = |kind: &str| stderr.lines().filter(|line| line.starts_with(kind)).collect::<Vec<_>>();
    let (errors, hints) = (of("error: "), of("hint: "));
    assert!(errors.len() == 1 && hints.len() == 1, "expected one sentence and one hint: {stderr}");
    assert!(errors[0].contains(says), "`{}` does not say `{says}`", errors[0]);
    assert!(!stderr.contains("panicked at") && !stderr.contains("stack backtrace"), "{stderr}");
}

/// Changes file times as if the bin and the records of an environment, except the last `but` records, had been written
/// this many days earlier.
pub fn age_all(environment: &Path, days: u64, but: usize) {
    let files = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(environment.join(folder)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let (certificates, mut records) = (files("forgotten"), files("snapshots"));
    records.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().modified().unwrap()));
    let is_binned = |record: &Path| certificates.iter().any(|path| path.file_name() == record.file_name());
    let older =
        records.iter().enumerate().filter(|(place, path)| *place >= but || is_binned(path)).map(|(_, path)| path);
    for path in certificates.iter().chain(older) {
        age(path, std::time::Duration::from_secs(days * 24 * 3600));
    }
}

/// Changes a file's time as if it had been written this much earlier.
#[track_caller]
pub fn age(path: &Path, by: std::time::Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - by).unwrap();
}

/// Sends a signal to a process, which must exist.
#[track_caller]
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The key of a source's object in a snapshot or a run's record.
#[track_caller]
pub fn key(sources: &serde_json::Value, source: &str) -> String {
    let source = &sources[source];
    let key = source["key"].as_str().or_else(|| source["object"]["key"].as_str());
    key.unwrap_or_else(|| panic!("no key in {source}")).to_owned()
}

/// Runs a tool that must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            // During a run, a file may disappear between the listing and the read.
            files.extend(std::fs::read(&path).ok().map(|bytes| (name, bytes)));
        }
    }
}

/// What the shipped exclude patterns leave out, implemented a second time and without globs.
pub fn excluded(path: &Path, folder: bool) -> bool {
    let name = path.file_name().unwrap().as_bytes();
    let depth = path.components().count();
    let temp = folder
        && name == b"temp"
        && ((depth == 2 && !path.starts_with("ecm") && !path.starts_with("medias"))
            || (depth == 3 && ["users", "expedition", "reception"].iter().any(|at| path.starts_with(at))));
    let preview = name.windows(13).any(|part| part == b".pdf_preview-") && name.ends_with(b".png");
    let nested = ["admin/documents", "admin/backup"].iter().any(|nested| path == Path::new(nested));
    temp || (depth == 1 && name.ends_with(b".log")) || preview || nested
}

/// Everything in a tree that an archive must reproduce, one line per entry: path, kind, mode, time, owner, attributes,
/// content or target.
pub fn manifest(root: &Path, excluded: impl Fn(&Path, bool) -> bool) -> BTreeSet<Vec<u8>> {
    let mut lines = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&below)).unwrap().map(Result::unwrap) {
            let path = below.join(entry.file_name());
            let meta = std::fs::symlink_metadata(root.join(&path)).unwrap();
            if excluded(&path, meta.is_dir()) {
                continue;
            }
            lines.insert(line(root, &path, &meta));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    lines
}

fn line(root: &Path, path: &Path, meta: &std::fs::Metadata) -> Vec<u8> {
    let (kind, content) = if meta.is_symlink() {
        ("link", std::fs::read_link(root.join(path)).unwrap().into_os_string().as_bytes().to_vec())
    } else if meta.is_dir() {
        ("folder", Vec::new())
    } else {
        ("file", std::fs::read(root.join(path)).unwrap())
    };
    let mtime = if meta.is_dir() || meta.is_symlink() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
    let mode = if meta.is_symlink() { 0 } else { meta.permissions().mode() & 0o7777 };
    let mut line = path.as_os_str().as_bytes().to_vec();
    line.extend(format!("|{kind}|{mode:o}|{}.{:09}|{}:{}|", mtime.0, mtime.1, meta.uid(), meta.gid()).into_bytes());
    line.extend(format!("{:?}|", attributes(&root.join(path))).into_bytes());
    line.extend(content);
    line
}

/// Extended attributes by name, including access control lists. A symbolic link has none.
fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (String::from_utf8_lossy(name).into_owned(), value)
    };
    names.filter(|name| !name.starts_with(b"security.")).map(value).collect()
}

/// A file name from bytes, which need not be UTF-8.
pub fn raw(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
