//! What a Job is made from: the installed CronJob's template, or one that the configuration describes. A plugin has no part
//! in it.
//!
//! A Job is made with a short deadline, because the Secret that its pod mounts needs an owner to go away with, and so must
//! come second. Its pod waits for the Secret, as any pod does for what it mounts; then the Job gets the deadline that it
//! is to have. It is not made with `suspend: true`: a suspended Job has no start time, so no deadline would ever end one whose
//! maker died in between, and servers before 1.21 drop the field.

use super::{Namespace, Reference};
use base::error::{Error, Result};
use base::reference::{LABEL_BYTES_MAX, is_label, is_name};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Life of a Job whose Secret is not there yet. Two requests follow within a second; what a laptop that died in between leaves
/// is gone after this.
pub(super) const UNSTARTED_SECONDS_MAX: i64 = 120;

/// Life of a Job that has started, where neither the template nor the configuration sets one: as long as a dump may take.
const DEADLINE_SECONDS: i64 = 12 * 3_600;

/// How long the cluster keeps a Job that has ended and that nobody deleted: enough to read its log.
const TTL_SECONDS: i64 = 600;

/// How long what may mend itself is waited for: a node that joins, a registry that answers again, a volume that detaches.
const PATIENCE_SECONDS: u64 = 120;

/// Longest part of a Job's name that comes from the environment's; with stamp and a random end a label still holds it.
const ENVIRONMENT_BYTES_MAX: usize = 20;

/// Where the configuration is in the image, when the host writes the template.
const CONFIG_FOLDER: &str = "/etc/dolibarr-backup";

/// `[env.E.job]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the Job runs.
    pub namespace: Namespace,
    /// The CronJob there whose template is taken.
    pub cron_job: Option<String>,
    /// A template without a CronJob.
    pub template: Option<Own>,
    /// The container that backs up, where there are several.
    pub container: Option<String>,
    /// Secrets that the Job borrows, by the names of their places.
    #[serde(default)]
    pub secrets: BTreeMap<String, Borrowed>,
    /// How long the Job may run, in seconds; otherwise the template's own limit, or twelve hours.
    pub deadline_seconds: Option<i64>,
    /// How long what may mend itself is waited for before the pod runs, in seconds.
    #[serde(default = "patience_default")]
    pub patience_seconds: u64,
}

const fn patience_default() -> u64 {
    PATIENCE_SECONDS
}

/// A Secret that a Job borrows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Borrowed {
    /// The Secret, in any namespace.
    pub from: Reference,
    /// Where the Job's container finds it as files.
    pub mount: PathBuf,
    /// The keys that are borrowed; all of them unless said.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// A template that the host writes itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Own {
    /// The image.
    pub image: String,
    /// A ConfigMap that holds `dolibarr-backup.toml`.
    pub config_map: String,
    /// PersistentVolumeClaims and where they are mounted, read-only.
    #[serde(default)]
    pub claims: BTreeMap<String, PathBuf>,
    /// Secrets of the same namespace and where they are mounted.
    #[serde(default)]
    pub secrets: BTreeMap<String, PathBuf>,
    /// The user that the container runs as; the image's own unless said.
    pub run_as_user: Option<i64>,
    /// Credentials for the registry.
    pub pull_secret: Option<String>,
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`base::error::Class::Config`].
    pub fn check(&self) -> Result<()> {
        match (&self.cron_job, &self.template) {
            (Some(_), None) | (None, Some(_)) => {}
            (Some(_), Some(_)) => return Err(Error::config("`cron_job` and `template` exclude each other")),
            (None, None) => {
                return Err(Error::config("neither `cron_job` nor `template` is set")
                    .hint("name the installed CronJob: cron_job = \"dolibarr-backup-prod\""));
            }
        }
        let template = self.template.iter();
        let names = template.flat_map(|own| own.claims.keys().chain(own.secrets.keys()).chain([&own.config_map]));
        if let Some(wrong) = names.chain(&self.cron_job).find(|name| !is_name(name)) {
            return Err(Error::config(format!(
                "`{}` cannot name an object in Kubernetes",
                base::text::printable(wrong)
            )));
        }
        if let Some(wrong) = self.secrets.keys().find(|place| !is_label(place)) {
            let shown = base::text::printable(wrong);
            return Err(Error::config(format!("`{shown}` cannot name a place of a Secret"))
                .hint("use lower-case letters, digits and hyphens"));
        }
        let own = self.template.iter().flat_map(|own| own.claims.values().chain(own.secrets.values()));
        let mounts = self.secrets.values().map(|borrowed| &borrowed.mount).chain(own);
        if let Some(wrong) = mounts.into_iter().find(|mount| !mount.is_absolute()) {
            return Err(Error::config(format!("the mount `{}` is not an absolute path", wrong.display())));
        }
        Ok(())
    }

    pub(super) fn limit(&self, template: &Value) -> i64 {
        let own = template.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
        self.deadline_seconds.or(own).unwrap_or(DEADLINE_SECONDS).max(1)
    }
}

impl Own {
    /// A template as a CronJob holds one: restricted, without a token, with its files read-only.
    pub(super) fn job_template(&self) -> Value {
        let mut volumes = vec![
            json!({ "name": "config", "configMap": { "name": self.config_map } }),
            json!({ "name": "tmp", "emptyDir": {} }),
        ];
        let mut mounts = vec![
            json!({ "name": "config", "mountPath": CONFIG_FOLDER, "readOnly": true }),
            json!({ "name": "tmp", "mountPath": "/tmp" }),
        ];
        for (number, (claim, path)) in self.claims.iter().enumerate() {
            let name = format!("claim-{number}");
            volumes.push(json!({ "name": name, "persistentVolumeClaim": { "claimName": claim, "readOnly": true } }));
            mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
        }
        for (number, (secret, path)) in self.secrets.iter().enumerate() {
            let name = format!("secret-{number}");
            volumes.push(json!({ "name": name, "secret": { "secretName": secret } }));
            mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
        }
        let mut security = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
        if let Some(user) = self.run_as_user {
            security["runAsUser"] = json!(user);
        }
        let pull: Vec<Value> = self.pull_secret.iter().map(|name| json!({ "name": name })).collect();
        json!({ "spec": { "template": { "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": pull,
            "securityContext": security,
            "volumes": volumes,
            "containers": [{
                "name": "backup",
                "image": self.image,
                "args": ["--config", format!("{CONFIG_FOLDER}/dolibarr-backup.toml"), "backup"],
                "volumeMounts": mounts,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        } } } })
    }
}

/// One Job that is to be made.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub name: &'a str,
    pub environment: &'a str,
    /// Behind the word `backup`.
    pub arguments: &'a [String],
    /// Secrets by their places: the name that each has for this Job.
    pub secrets: &'a BTreeMap<String, String>,
}

/// A name for a Job: `backup-prod-20260630t010000z-1a2b3c4d`.
pub(super) fn job_name(environment: &str, stamp: &str, random: u32) -> String {
    let environment: String = environment.chars().take(ENVIRONMENT_BYTES_MAX).collect();
    format!("backup-{}-{}-{random:08x}", environment.trim_end_matches('-'), stamp.to_lowercase())
}

/// Which container of a template backs up.
pub(super) fn container_of(config: &Config, template: &Value) -> Result<String> {
    let containers = template.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let names: Vec<&str> = containers.into_iter().flatten().filter_map(|one| one.get("name")?.as_str()).collect();
    match (&config.container, &names[..]) {
        (Some(wanted), names) if names.contains(&wanted.as_str()) => Ok(wanted.clone()),
        (None, [one]) => Ok((*one).to_owned()),
        (wanted, names) => {
            let known: Vec<String> = names.iter().map(|n| format!("`{}`", base::text::printable(n))).collect();
            let which = wanted.as_ref().map_or("one container".to_owned(), |wanted| format!("a container `{wanted}`"));
            Err(Error::config(format!("the Job's template does not have {which}, but {}", known.join(", ")))
                .hint("set `container` in [env.….job]"))
        }
    }
}

/// The Job. One that borrows Secrets lives for [`UNSTARTED_SECONDS_MAX`] unless it is told otherwise.
pub(super) fn compose(config: &Config, template: &Value, plan: &Plan<'_>) -> Result<Value> {
    let container = container_of(config, template)?;
    let mut spec = template.pointer("/spec").and_then(Value::as_object).cloned().unwrap_or_default();
    // What counts pods and failures is the CronJob's business; this is one pod, and its end is the answer.
    for field in [
        "suspend",
        "selector",
        "manualSelector",
        "completionMode",
        "podFailurePolicy",
        "successPolicy",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "managedBy",
    ] {
        spec.remove(field);
    }
    let life = if plan.secrets.is_empty() { config.limit(template) } else { UNSTARTED_SECONDS_MAX };
    spec.insert("parallelism".into(), json!(1));
    spec.insert("completions".into(), json!(1));
    spec.insert("backoffLimit".into(), json!(0));
    spec.insert("activeDeadlineSeconds".into(), json!(life));
    spec.insert("ttlSecondsAfterFinished".into(), json!(TTL_SECONDS));
    let mut spec = Value::Object(spec);
    let labels = labels(template.pointer("/metadata/labels"), plan.environment);
    let pod_labels = self::labels(template.pointer("/spec/template/metadata/labels"), plan.environment);
    spec["template"]["metadata"]["labels"] = pod_labels;
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    let mounts: BTreeMap<&str, (&Path, &str)> = config
        .secrets
        .iter()
        .filter_map(|(place, of)| Some((place.as_str(), (of.mount.as_path(), plan.secrets.get(place)?.as_str()))))
        .collect();
    mount(&mut spec["template"]["spec"], &container, &mounts);
    for one in spec["template"]["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if one.get("name").and_then(Value::as_str) == Some(&container) {
            if let Some(command) = one.get_mut("command").and_then(Value::as_array_mut) {
                let end = command.iter().skip(1).position(|word| word == "backup").map_or(command.len(), |at| at + 1);
                command.truncate(end);
            }
            one["args"] = arguments(one.get("args"), plan);
        }
    }
    let annotations = template.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({}));
    Ok(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": plan.name, "namespace": config.namespace.as_str(), "labels": labels, "annotations": annotations },
        "spec": spec,
    }))
}

/// The template's labels without those that a controller sets, and ours.
fn labels(of_template: Option<&Value>, environment: &str) -> Value {
    let mut labels: Map<String, Value> = of_template.and_then(Value::as_object).cloned().unwrap_or_default();
    labels.retain(|key, _| !key.starts_with("batch.kubernetes.io/") && key != "controller-uid" && key != "job-name");
    labels.insert("dolibarr-backup/environment".into(), json!(environment));
    labels.insert("dolibarr-backup/run".into(), json!("one-shot"));
    Value::Object(labels)
}

/// What stands before the word `backup` in the template stays: it names the configuration. What stands behind it is the
/// schedule's.
fn arguments(of_template: Option<&Value>, plan: &Plan<'_>) -> Value {
    let own: Vec<&str> =
        of_template.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let before = own.iter().position(|word| *word == "backup").unwrap_or(0);
    let mut all: Vec<&str> = own.into_iter().take(before).collect();
    all.extend(["backup", "--env", plan.environment, "--here"]);
    all.extend(plan.arguments.iter().map(String::as_str));
    json!(all)
}

/// Puts each Secret where it belongs. What the template has there gives way, and a volume that nothing mounts any more
/// goes, because its Secret may not exist here.
fn mount(pod: &mut Value, container: &str, secrets: &BTreeMap<&str, (&Path, &str)>) {
    let mut displaced = BTreeMap::new();
    for one in pod["containers"].as_array_mut().into_iter().flatten() {
        if one.get("name").and_then(Value::as_str) != Some(container) {
            continue;
        }
        let mut mounts: Vec<Value> = one.get("volumeMounts").and_then(Value::as_array).cloned().unwrap_or_default();
        for (place, (path, _)) in secrets {
            let is_there = |mount: &Value| {
                mount.get("mountPath").and_then(Value::as_str).is_some_and(|there| Path::new(there) == *path)
            };
            let before = mounts.iter().find(|mount| is_there(mount)).and_then(|mount| mount.get("name")?.as_str());
            if let Some(name) = before {
                displaced.insert((*place).to_owned(), name.to_owned());
            }
            mounts.retain(|mount| !is_there(mount));
            mounts.push(json!({ "name": volume_name(place), "mountPath": path, "readOnly": true }));
        }
        one["volumeMounts"] = json!(mounts);
    }
    let still_mounted = mounted(pod);
    let mut volumes: Vec<Value> = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
    for (place, (_, secret)) in secrets {
        let before = displaced.get(*place);
        let before =
            volumes.iter().find(|volume| volume.get("name").and_then(Value::as_str) == before.map(String::as_str));
        // Its modes fit the template's user.
        let mode = before.and_then(|volume| volume.pointer("/secret/defaultMode")).cloned();
        let mut source = json!({ "secretName": secret });
        if let Some(mode) = mode {
            source["defaultMode"] = mode;
        }
        volumes.push(json!({ "name": volume_name(place), "secret": source }));
    }
    let is_displaced = |volume: &Value| {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        displaced.values().any(|gone| gone == name) && !still_mounted.iter().any(|still| still == name)
    };
    volumes.retain(|volume| !is_displaced(volume));
    pod["volumes"] = json!(volumes);
}

fn volume_name(place: &str) -> String {
    format!("borrowed-{place}").chars().take(LABEL_BYTES_MAX).collect::<String>().trim_end_matches('-').to_owned()
}

fn mounted(pod: &Value) -> Vec<String> {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| pod.get(list)?.as_array());
    let mounts = lists.flatten().filter_map(|one| one.get("volumeMounts")?.as_array()).flatten();
    mounts.filter_map(|mount| Some(mount.get("name")?.as_str()?.to_owned())).collect()
}
