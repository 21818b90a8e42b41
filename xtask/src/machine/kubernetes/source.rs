//! Builds Kubernetes from Debian's source package. The package in Debian 12 contains all of upstream's 1.20 and its
//! dependencies. In later releases it contains only kubectl. No release has binary packages of the servers. etcd and
//! kubectl come from Debian's packages.

use crate::machine::{apt, fetch, on_path};
use crate::run::{failure, quiet, timed};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler. Newer ones refuse the source's list of vendored modules.
const GO: &str = "golang-1.19-go";
const GO_ROOT: &str = "/usr/lib/go-1.19";

/// The tag of Go packages whose types belong to the OpenAPI definitions.
const OPENAPI_TAG: &str = "+k8s:openapi-gen=";

/// Files in the work folder that show that the source is complete, and that the OpenAPI definitions are complete.
const UNPACKED: &str = "unpacked";
const GENERATED: &str = "generated";

/// Build tags that leave out what no test uses, two fifths of the code: volumes and credentials of cloud providers, and
/// Docker as a container runtime.
const TAGS: &str = "providerless,dockerless";

/// Go packages with the variables for the version that a binary reports.
const VERSION_PACKAGES: [&str; 2] = ["component-base/version", "client-go/pkg/version"];

/// Builds components of Kubernetes into a folder. With the API server come etcd and kubectl. `work` keeps the source and
/// the compiler's cache from one call to the next, and grows to about 2 GB.
///
/// # Errors
/// If apt or the source package is missing, or the compiler fails.
pub fn build(work: &Path, components: &[&str], into: &Path) -> Result<()> {
    if !Path::new(GO_ROOT).join("bin/go").is_file() || on_path("dpkg-source").is_none() {
        apt(&[GO, "dpkg-dev"])?;
    }
    let source = unpacked(work)?;
    if components.contains(&"kube-apiserver") {
        fetch_programs(work, &source.version, into)?;
    }
    let (go, release) = (Go { work }, release(&source.version));
    go.generate_openapi(&source.folder)?;
    for component in components {
        timed(&format!("building {component} {release}"), || {
            go.build(&source.folder, &linker_flags(&release), &format!("./cmd/{component}"), &into.join(component))
        })?;
    }
    Ok(())
}

/// Removes the work folder. The marks go first, so that an incomplete rest is never mistaken for a complete folder.
pub fn remove(work: &Path) {
    for mark in [UNPACKED, GENERATED] {
        let _ = fs::remove_file(work.join(mark));
    }
    let _ = fs::remove_dir_all(work);
}

/// The unpacked source package.
struct Source {
    folder: PathBuf,
    /// The version of the package.
    version: String,
}

/// Fetches and unpacks the source package, unless `work` has it. apt checks the signature of the archive and the
/// digests of the files.
fn unpacked(work: &Path) -> Result<Source> {
    // Go finds packages by their path below GOPATH.
    let folder = work.join("gopath/src/k8s.io/kubernetes");
    let done = work.join(UNPACKED);
    if let Some(version) = fs::read_to_string(&done).ok().filter(|version| !version.is_empty()) {
        return Ok(Source { folder, version });
    }
    let apt = Apt::new(work)?;
    apt.run(&["apt-get", "update", "-q"])?;
    let listed = apt.run(&["apt-cache", "showsrc", "--only-source", "kubernetes"])?;
    let version = whole_version(&listed).ok_or_else(|| {
        let hint = "set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl";
        failure("the apt sources of this system have no source package of the Kubernetes servers", hint)
    })?;
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.parent().unwrap_or(work))?;
    apt.run(&["apt-get", "source", "-q", "--download-only", &format!("kubernetes={version}")])?;
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "-x", &format!("kubernetes_{version}.dsc")]).arg(&folder);
    quiet(unpack.current_dir(work), "check the content of the source package")?;
    fs::write(&done, &version)?;
    Ok(Source { folder, version })
}

/// apt with its own package lists: the system's archives, but for source packages.
struct Apt<'a> {
    work: &'a Path,
    options: Vec<String>,
}

impl<'a> Apt<'a> {
    fn new(work: &'a Path) -> Result<Self> {
        let own = work.join("apt");
        for folder in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(own.join(folder))?;
        }
        let system = Path::new("/etc/apt");
        let listed =
            fs::read_dir(system.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
        for (number, file) in listed.chain([system.join("sources.list")]).enumerate() {
            // apt ignores files with other extensions, such as backups of lists.
            let Some(kind) =
                file.extension().and_then(|end| end.to_str()).filter(|end| ["sources", "list"].contains(end))
            else {
                continue;
            };
            let Ok(text) = fs::read_to_string(&file) else { continue };
            fs::write(own.join(format!("sources/{number}.{kind}")), asking_for_sources(&text))?;
        }
        let user = quiet(Command::new("id").arg("-un"), "check why `id` fails")?;
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = vec![
            set("Dir::Etc::sourcelist", Path::new("/dev/null")),
            set("Dir::Etc::sourceparts", &own.join("sources")),
            set("Dir::State::lists", &own.join("lists")),
            set("Dir::Cache", &own.join("cache")),
            format!("APT::Sandbox::User={}", user.trim()),
        ];
        Ok(Self { work, options })
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("the command is empty")?;
        let mut command = Command::new(program);
        command.args(self.options.iter().flat_map(|option| ["-o", option])).args(arguments).current_dir(self.work);
        quiet(&mut command, "check that the archives in /etc/apt can be reached")
    }
}

/// Changes the text of an apt sources file so that it requests source packages instead of binary packages. Understands
/// both of apt's formats.
fn asking_for_sources(text: &str) -> String {
    let line = |line: &str| match line.split_once(char::is_whitespace) {
        Some(("deb", rest)) => Some(format!("deb-src {rest}")),
        Some(("deb-src", _)) => None,
        Some(("Types:", _)) => Some("Types: deb-src".to_owned()),
        _ => Some(line.to_owned()),
    };
    text.lines().filter_map(line).map(|line| line + "\n").collect()
}

/// The newest version of the source package that still has the servers. `+ds` in a version means that files were
/// removed.
fn whole_version(showsrc: &str) -> Option<String> {
    let versions = showsrc.lines().filter_map(|line| line.strip_prefix("Version: "));
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    versions.filter(|version| !version.contains("+ds")).max_by_key(|version| numbers(version)).map(str::to_owned)
}

/// The upstream release of a Debian version: for `1.20.5+really1.20.2-1` it is 1.20.2.
fn release(version: &str) -> String {
    let upstream = version.rsplit("really").next().unwrap_or(version);
    upstream.split('-').next().unwrap_or(upstream).to_owned()
}

fn linker_flags(release: &str) -> String {
    let minor = release.split('.').nth(1).unwrap_or_default();
    let values = [
        ("gitVersion", format!("v{release}+debian")),
        ("gitMajor", "1".to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", "archive".to_owned()),
    ];
    let mut flags = "-s -w".to_owned();
    for package in VERSION_PACKAGES {
        for (name, value) in &values {
            flags.push_str(&format!(" -X k8s.io/kubernetes/vendor/k8s.io/{package}.{name}={value}"));
        }
    }
    flags
}

/// The Go compiler in the mode in which Kubernetes 1.20 was built: packages are found below GOPATH, and cgo is off.
struct Go<'a> {
    work: &'a Path,
}

impl Go<'_> {
    fn command(&self, program: &Path, source: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(source).env("GOPATH", self.work.join("gopath")).env("GOCACHE", self.work.join("gocache"));
        // The generator reads the types of the standard library, and looks for them only in GOROOT.
        command.envs([("GOROOT", GO_ROOT), ("GO111MODULE", "off"), ("CGO_ENABLED", "0"), ("GOFLAGS", "")]);
        // The compiler of this version collects its garbage often. A larger heap saves a fifth of its time.
        command.env("GOGC", "400");
        command
    }

    fn build(&self, source: &Path, flags: &str, package: &str, into: &Path) -> Result<()> {
        let mut go = self.command(&Path::new(GO_ROOT).join("bin/go"), source);
        go.args(["build", "-trimpath", "-tags", TAGS, "-ldflags", flags, "-o"]).arg(into).arg(package);
        quiet(&mut go, "see the compiler's errors above").map(drop)
    }

    /// Generates the OpenAPI definitions with the generator that the source package vendors. The package does not
    /// contain the definitions themselves.
    fn generate_openapi(&self, source: &Path) -> Result<()> {
        let done = self.work.join(GENERATED);
        if done.is_file() {
            return Ok(());
        }
        let generator = self.work.join("openapi-gen");
        self.build(source, "", "./vendor/k8s.io/kube-openapi/cmd/openapi-gen", &generator)?;
        let packages: Vec<String> = tagged_packages(source)?.into_iter().collect();
        let mut generate = self.command(&generator, source);
        generate.args(["--logtostderr", "-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi"]);
        generate.args(["-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt", "-i", &packages.join(",")]);
        generate.arg("-r").arg(self.work.join("openapi-violations"));
        timed("generating the OpenAPI definitions of Kubernetes", || {
            quiet(&mut generate, "see the generator's errors above")?;
            fs::write(done, "").context("cannot write to the cache folder")
        })
    }
}

/// The import paths of every package with the tag, in the order that the generator expects. Packages below `staging`
/// have their vendored paths.
fn tagged_packages(source: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for folder in ["cmd", "pkg", "plugin", "staging/src/k8s.io"] {
        collect_tagged(source, &source.join(folder), &mut found)?;
    }
    Ok(found)
}

fn collect_tagged(source: &Path, folder: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !path.is_symlink() {
            // These two have their own copies of the definitions.
            if !["code-generator", "sample-apiserver"].contains(&name) {
                collect_tagged(source, &path, found)?;
            }
        } else if name.ends_with(".go")
            && !name.ends_with("_test.go")
            && fs::read_to_string(&path)?.contains(OPENAPI_TAG)
        {
            let below = folder.strip_prefix(source)?.to_string_lossy().replace("staging/src/", "vendor/");
            found.insert(format!("k8s.io/kubernetes/{below}"));
        }
    }
    Ok(())
}

/// Fetches etcd, and the kubectl of this version of the source package. A rebuilt package has a longer version.
fn fetch_programs(work: &Path, version: &str, into: &Path) -> Result<()> {
    let folder = work.join("debian");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    fetch(&["etcd-server", &format!("kubernetes-client={version}*")], &folder)?;
    for program in ["etcd", "kubectl"] {
        let from = folder.join("usr/bin").join(program);
        fs::copy(&from, into.join(program)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_list_of_archives_are_asked_for_sources() {
        let old = "# main\ndeb [signed-by=/k] http://archive.example.org bookworm main\ndeb-src http://x y z\n";
        let expected = "# main\ndeb-src [signed-by=/k] http://archive.example.org bookworm main\n";
        assert_eq!(asking_for_sources(old), expected);
        let new = "Types: deb\nURIs: http://archive.example.org\nSuites: bookworm\n";
        assert_eq!(asking_for_sources(new), "Types: deb-src\nURIs: http://archive.example.org\nSuites: bookworm\n");
        assert_eq!(asking_for_sources(""), "");
    }

    #[test]
    fn the_newest_version_with_the_servers_is_taken() {
        let shown = "Version: 1.20.5+really1.20.2-1.1\n\nVersion: 1.20.5+really1.20.2-1\n\nVersion: 1.31.4+ds-1\n";
        assert_eq!(whole_version(shown).as_deref(), Some("1.20.5+really1.20.2-1.1"));
        assert_eq!(whole_version("Version: 1.31.4+ds-1\n"), None);
        assert_eq!(whole_version(""), None);
        assert_eq!(release("1.20.5+really1.20.2-1.1"), "1.20.2");
        assert_eq!(release("1.20.2-1"), "1.20.2");
    }

    #[test]
    fn a_tagged_package_is_named_by_its_import_path() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        for empty in ["cmd", "plugin"] {
            fs::create_dir_all(folder.path().join(empty)).expect("a folder");
        }
        write("pkg/apis/types.go", "// +k8s:openapi-gen=true\n");
        write("pkg/other/types_test.go", "// +k8s:openapi-gen=true\n");
        write("staging/src/k8s.io/api/core/v1/doc.go", "// +k8s:openapi-gen=true\n");
        write("staging/src/k8s.io/sample-apiserver/doc.go", "// +k8s:openapi-gen=true\n");
        let found: Vec<String> = tagged_packages(folder.path()).expect("packages").into_iter().collect();
        assert_eq!(found, ["k8s.io/kubernetes/pkg/apis", "k8s.io/kubernetes/vendor/k8s.io/api/core/v1"]);
    }
}
