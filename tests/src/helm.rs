//! Helm's own engines, versions 3 and 4, and the published schemas of Kubernetes, through `tests/chart/engine.py`.
//!
//! `cargo xtask test` and `cargo xtask chart` install the Python packages. No cluster is contacted.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Characters of the digest that identifies a set of packages.
const KEY_LENGTH: usize = 16;

/// The release name and namespace of the golden files.
const RELEASE: &str = "erp";

/// `tests/chart` of the checkout.
pub fn folder() -> PathBuf {
    crate::workspace_root().join("tests/chart")
}

/// The name of the cache folder with the engines. Other packages give another name.
pub fn cache_name() -> Result<String> {
    let mut hash = Sha256::new();
    for name in ["requirements.txt", "unpack_helm3.py"] {
        let path = folder().join(name);
        hash.update(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let mut key = hex::encode(hash.finalize());
    key.truncate(KEY_LENGTH);
    Ok(format!("chart-engine-{key}"))
}

/// Both engines.
#[derive(Debug)]
pub struct Helm {
    python: PathBuf,
}

/// One set of values, rendered by both engines.
#[derive(Debug)]
pub struct Case {
    /// The name of the values file, without folder and extension.
    pub name: String,
    /// The rendering of Helm 3.
    pub helm3: String,
    /// The rendering of Helm 4.
    pub helm4: String,
    /// The path of the golden file.
    pub golden: PathBuf,
}

impl Helm {
    /// The engines in a folder that [`cache_name`] names.
    pub fn at(folder: &Path) -> Self {
        Self { python: folder.join("venv/bin/python3") }
    }

    /// The installed engines. If they are not installed, returns `None` and records the skip.
    ///
    /// # Panics
    /// If the checkout is incomplete.
    pub fn installed() -> Option<Self> {
        let name = cache_name().expect("the list of packages");
        let helm = crate::cache_folder().map(|cache| Self::at(&cache.join(name)))?;
        if helm.python.exists() {
            return Some(helm);
        }
        crate::skip("Helm's engines are not installed; `cargo xtask chart` installs them");
        None
    }

    /// Sends requests to the engines; see `engine.py`.
    ///
    /// # Errors
    /// If Python fails. A chart that does not render is an answer, not an error.
    pub fn ask(&self, requests: &Value) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(folder().join("engine.py")).env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start Python")?;
        let mut stdin = child.stdin.take().context("Python has no input")?;
        // Python reads everything before it writes, so neither side waits for the other.
        stdin.write_all(requests.to_string().as_bytes()).context("cannot send the requests to Python")?;
        drop(stdin);
        let output = child.wait_with_output().context("cannot read Python's output")?;
        ensure!(output.status.success(), "the engine failed: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("the engine did not write JSON")
    }

    /// Renders every file of `tests/chart/values` with both engines.
    ///
    /// # Errors
    /// If one does not render.
    pub fn cases(&self) -> Result<Vec<Case>> {
        let names = case_names()?;
        let request = |name: &String, helm: u8| json!({"helm": helm, "name": RELEASE, "namespace": RELEASE, "file": format!("values/{name}.yaml")});
        let requests: Vec<_> = names.iter().flat_map(|name| [request(name, 3), request(name, 4)]).collect();
        let answers = self.ask(&requests.into())?;
        let text = |answer: &Value, name: &str| -> Result<String> {
            let text = answer["text"].as_str().map(str::to_owned);
            text.with_context(|| format!("{name} does not render: {}", answer["error"]))
        };
        let pairs = names.into_iter().zip(answers.chunks(2));
        let case = |(name, pair): (String, &[Value])| {
            let golden = folder().join("golden").join(&name).with_extension("yaml");
            let (helm3, helm4) = (text(&pair[0], &name)?, text(&pair[1], &name)?);
            Ok(Case { name, helm3, helm4, golden })
        };
        pairs.map(case).collect()
    }
}

/// Prometheus' promtool. If it is not installed, returns `None` and records the skip.
pub fn promtool() -> Option<PathBuf> {
    let installed = Path::new("/usr/bin/promtool").to_path_buf();
    let fetched = crate::cache_folder().map(|cache| cache.join("prometheus/usr/bin/promtool"));
    let found = [Some(installed), fetched].into_iter().flatten().find(|program| program.is_file());
    if found.is_none() {
        crate::skip("promtool is not installed; `cargo xtask test` fetches it");
    }
    found
}

/// The names of the values files, sorted.
pub fn case_names() -> Result<Vec<String>> {
    let values = folder().join("values");
    let entries = std::fs::read_dir(&values).with_context(|| format!("cannot read {}", values.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<_> = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}
