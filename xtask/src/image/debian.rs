//! Debian's packages for the image: which are needed, where they come from, and which of their files are used. Apt
//! reports the version and digest of each package and downloads it. Nothing is installed, and no package script runs.

use crate::run::{failure, quiet};
use crate::tree::Tree;
use crate::{cache, machine};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages that are always included, in addition to PostgreSQL. All others are dependencies.
const ALWAYS: [&str; 4] = ["ca-certificates", "dash", "libc-bin", "tzdata"];

/// The oldest PostgreSQL that the host backs up.
const POSTGRES_MAJOR_MIN: u32 = 13;

/// Dependencies that nothing in the image uses, with the reason. `*` in a name matches any text.
const UNUSED: [(&str, &str); 12] = [
    ("debconf*", "asks questions during installation"),
    ("libllvm*", "compiles long queries of a server, and is larger than everything else together"),
    ("libpam*", "authentication modules; a throwaway server asks for no password"),
    ("libreadline*", "for psql, which is left out"),
    ("locales", "C.UTF-8 is in libc-bin"),
    ("openssl", "only its library is used"),
    ("perl*", "for the wrappers of postgresql-client-common"),
    ("postgresql-client-common", "wrappers that choose a version; the host chooses the version itself"),
    ("postgresql-common", "manages a machine's services and clusters"),
    ("gcc-*-base", "documentation"),
    ("sensible-utils", "an editor for psql"),
    ("ssl-cert", "a certificate for a server on the network"),
];

/// Folders that hold neither programs nor libraries. Licences are kept.
const LEFT_OUT: [&str; 10] = [
    "usr/share/gcc/",
    "usr/share/zoneinfo/right/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/gdb/",
    "usr/lib/systemd/",
    "usr/lib/tmpfiles.d/",
    "etc/",
];

/// Programs of PostgreSQL that the host starts.
const PROGRAMS: [&str; 4] = ["initdb", "pg_dump", "pg_restore", "postgres"];

/// One package.
#[derive(Debug)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Digest of the package's file, from Debian's index.
    pub sha256: String,
    file: PathBuf,
    depends: Vec<String>,
}

impl Package {
    /// The package as an entry of a bill of materials.
    pub fn in_bill(&self) -> Value {
        let Self { name, version, architecture, sha256, .. } = self;
        let purl =
            format!("pkg:deb/debian/{name}@{}?arch={architecture}", version.replace(':', "%3A").replace('+', "%2B"));
        json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        })
    }
}

/// Every package that the image needs, sorted by name.
pub fn packages() -> Result<Vec<Package>> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        if machine::on_path(program).is_none() {
            let hint = "build the image on Debian, or use the Dockerfile";
            return Err(failure(format_args!("the image needs Debian's packages, but {program} was not found"), hint));
        }
    }
    let folder = cache::folder()?.join("debian-packages");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut wanted: BTreeSet<String> = ALWAYS.iter().map(|&name| name.to_owned()).chain(postgres()?).collect();
    let mut found = BTreeMap::new();
    while !wanted.is_empty() {
        let new = fetch(&folder, &wanted)?;
        let depends = new.iter().flat_map(|package| package.depends.iter().cloned()).collect::<BTreeSet<_>>();
        found.extend(new.into_iter().map(|package| (package.name.clone(), package)));
        wanted = depends.into_iter().filter(|name| !found.contains_key(name) && is_used(name)).collect();
    }
    Ok(found.into_values().collect())
}

/// The client and server of every major version in apt's sources.
fn postgres() -> Result<Vec<String>> {
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only", "^postgresql(-client)?-[0-9]+$"]);
    let text = quiet(&mut search, "check apt's sources")?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let major = |name: &str| name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
    let names: Vec<_> = names.filter(|name| major(name) >= Some(POSTGRES_MAJOR_MIN)).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(failure("apt has no package postgresql-client", "run apt-get update, and check apt's sources"));
    }
    Ok(names)
}

fn is_used(name: &str) -> bool {
    // The server needs PAM's library to start, but not its modules.
    name == "libpam0g"
        || !UNUSED.iter().any(|(unused, _)| match unused.split_once('*') {
            Some((begin, end)) => name.starts_with(begin) && name.ends_with(end),
            None => name == *unused,
        })
}

/// Packages by name, from the cache or through apt.
fn fetch(folder: &Path, names: &BTreeSet<String>) -> Result<Vec<Package>> {
    let by_hand = "run apt-get update, and check that apt's sources can be reached";
    let listed = match listing(names) {
        Ok(listed) => listed,
        Err(_) => {
            quiet(&mut machine::as_root(["apt-get", "update", "-q"]), by_hand)?;
            listing(names)?
        }
    };
    let is_cached = |line: &Listed| sha256(&folder.join(&line.file)).is_ok_and(|digest| digest == line.sha256);
    let missing: Vec<_> = listed.iter().filter(|line| !is_cached(line)).collect();
    if !missing.is_empty() {
        let mut download = Command::new("apt-get");
        download.args(["download", "-q"]).args(missing.iter().map(|line| &line.name)).current_dir(folder);
        quiet(&mut download, by_hand)?;
    }
    listed.into_iter().map(|line| package(folder, line)).collect()
}

/// A line of apt's list of downloads.
struct Listed {
    name: String,
    file: String,
    sha256: String,
}

fn listing(names: &BTreeSet<String>) -> Result<Vec<Listed>> {
    let mut print = Command::new("apt-get");
    print.args(["download", "--print-uris", "-q"]).args(names);
    let text = quiet(&mut print, "check that apt's sources have the packages")?;
    text.lines().map(|line| parse_listed(line).with_context(|| format!("unexpected line from apt: {line:?}"))).collect()
}

/// Reads `'URI' NAME_VERSION_ARCHITECTURE.deb SIZE SHA256:DIGEST`.
fn parse_listed(line: &str) -> Option<Listed> {
    let mut words = line.split(' ').skip(1);
    let file = words.next()?.to_owned();
    let sha256 = words.nth(1)?.strip_prefix("SHA256:")?.to_owned();
    Some(Listed { name: file.split('_').next()?.to_owned(), file, sha256 })
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

fn package(folder: &Path, line: Listed) -> Result<Package> {
    let file = folder.join(&line.file);
    let digest = sha256(&file)?;
    ensure!(digest == line.sha256, "{} has the digest {digest}, but Debian's index has {}", line.file, line.sha256);
    let mut show = Command::new("dpkg-deb");
    show.args(["--show", "--showformat", "${Version}\n${Architecture}\n${Depends}, ${Pre-Depends}\n"]).arg(&file);
    let text = quiet(&mut show, "remove the file named above, and run this again")?;
    let mut lines = text.lines().map(str::to_owned);
    let (version, architecture) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let depends = parse_depends(&lines.next().unwrap_or_default());
    Ok(Package { name: line.name, version, architecture, sha256: line.sha256, file, depends })
}

/// Names in a `Depends` field. If there are alternatives, only the first one counts.
fn parse_depends(field: &str) -> Vec<String> {
    let first = |clause: &str| {
        let name = clause.split(['|', '(', ':']).next().unwrap_or_default().trim();
        (!name.is_empty()).then(|| name.to_owned())
    };
    field.split(',').filter_map(first).collect()
}

/// Adds the used files of all packages to a tree, with the bundle of CA certificates that ca-certificates would create.
pub fn unpack(packages: &[Package], tree: &mut Tree) -> Result<()> {
    let mut authorities = Tree::default();
    for package in packages {
        let mut read = Command::new("dpkg-deb");
        let output = read.arg("--fsys-tarfile").arg(&package.file).output().context("cannot start dpkg-deb")?;
        ensure!(output.status.success(), "dpkg-deb cannot read {}", package.file.display());
        if package.name == "ca-certificates" {
            authorities.unpack(&output.stdout, |path| path.ends_with(".crt"))?;
        }
        tree.unpack(&output.stdout, |path| is_wanted(&package.name, path))
            .with_context(|| format!("cannot unpack {}", package.name))?;
    }
    let mut bundle = Vec::new();
    for (_, certificate) in authorities.files(|_| true) {
        bundle.extend_from_slice(certificate.trim_ascii_end());
        bundle.push(b'\n');
    }
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, bundle);
    tree.link("usr/bin/sh", "dash");
    // OpenSSL, and so libpq, looks for the system's CA certificates here.
    tree.link("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt");
    Ok(())
}

/// Whether a file of a package is used.
fn is_wanted(package: &str, path: &str) -> bool {
    if path.ends_with("/copyright") {
        return true;
    }
    // The plugins in gconv convert between character sets, and everything here is UTF-8.
    if path.starts_with("usr/share/doc/")
        || path.contains("/gconv/")
        || LEFT_OUT.iter().any(|folder| path.starts_with(folder))
    {
        return false;
    }
    if let Some((_, below)) = path.strip_prefix("usr/lib/postgresql/").and_then(|path| path.split_once('/')) {
        let program = below.strip_prefix("bin/").is_none_or(|program| PROGRAMS.contains(&program));
        return program && !below.contains("bitcode/") && !below.contains("llvmjit");
    }
    match package {
        "ca-certificates" => false,
        // Only initdb needs a shell, to start the server.
        "dash" => path == "usr/bin/dash",
        "libc-bin" => path.starts_with("usr/lib/locale/C.utf8/"),
        _ => !path.starts_with("usr/share/postgresql/") || !path.contains("/man/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_is_read_as_file_and_digest() {
        let line = "'http://x/libpq5_15.20-0%2bdeb12u1_amd64.deb' libpq5_15.20-0+deb12u1_amd64.deb 205248 SHA256:ac8a";
        let read = parse_listed(line).expect("a line");
        let parts = (read.name.as_str(), read.file.as_str(), read.sha256.as_str());
        assert_eq!(parts, ("libpq5", "libpq5_15.20-0+deb12u1_amd64.deb", "ac8a"));
        for invalid in ["", "'uri' file.deb", "'uri' file.deb 12 MD5Sum:aa"] {
            assert!(parse_listed(invalid).is_none(), "{invalid:?}");
        }
    }

    #[test]
    fn the_first_alternative_of_each_dependency_counts() {
        let field = "locales | locales-all, libc6 (>= 2.34), python3:any, , debconf (>= 0.5) | debconf-2.0";
        assert_eq!(parse_depends(field), ["locales", "libc6", "python3", "debconf"]);
        assert_eq!(parse_depends(", "), Vec::<String>::new());
    }

    #[test]
    fn unused_packages_are_left_out_and_needed_libraries_are_kept() {
        let unused = ["debconf", "libllvm14", "perl", "postgresql-common", "gcc-12-base", "libpam-modules", "locales"];
        assert!(unused.iter().all(|name| !is_used(name)));
        assert!(
            ["libpam0g", "libgcc-s1", "libpq5", "postgresql-client-15", "libssl3"].iter().all(|name| is_used(name))
        );
    }

    #[test]
    fn programs_libraries_and_licences_of_a_package_are_kept() {
        let table = [
            ("postgresql-client-15", "usr/lib/postgresql/15/bin/pg_dump", true),
            ("postgresql-client-15", "usr/lib/postgresql/15/bin/psql", false),
            ("postgresql-client-15", "usr/share/postgresql/15/man/man1/pg_dump.1.gz", false),
            ("postgresql-15", "usr/lib/postgresql/15/lib/plpgsql.so", true),
            ("postgresql-15", "usr/lib/postgresql/15/lib/llvmjit.so", false),
            ("postgresql-15", "usr/lib/postgresql/15/lib/bitcode/postgres/a.bc", false),
            ("postgresql-15", "usr/share/postgresql/15/postgres.bki", true),
            ("libc6", "usr/lib/x86_64-linux-gnu/libc.so.6", true),
            ("libc6", "usr/share/doc/libc6/copyright", true),
            ("libc6", "usr/share/doc/libc6/NEWS.gz", false),
            ("libc6", "etc/ld.so.conf.d/x86_64-linux-gnu.conf", false),
            ("libc-bin", "usr/bin/ldd", false),
            ("dash", "usr/bin/dash", true),
            ("dash", "usr/share/applications/x", false),
            ("libc-bin", "usr/lib/locale/C.utf8/LC_CTYPE", true),
            ("tzdata", "usr/share/zoneinfo/Europe/Paris", true),
        ];
        for (package, path, wanted) in table {
            assert_eq!(is_wanted(package, path), wanted, "{path}");
        }
    }
}
