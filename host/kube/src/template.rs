//! Composes a Job from the template of the installed CronJob, or from one in the configuration. Plugins cannot
//! influence the template.
//!
//! A Job is created with a short deadline. The Secret that its pod mounts is owned by the Job, so it can only be
//! created afterwards; the pod waits for it, as for any missing volume. Then the Job gets its real deadline.
//! `suspend: true` is not an alternative: a suspended Job has no start time, so no deadline would end it if this
//! process died in between, and servers before 1.21 drop the field.

use super::{Namespace, Reference};
use base::error::{Error, Result};
use base::reference::{LABEL_BYTES_MAX, is_label, is_name};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Deadline of a Job whose Secret does not exist yet. Two requests normally follow within a second; if this process
/// dies in between, the Job is gone after this time.
pub(super) const UNSTARTED_SECONDS_MAX: i64 = 120;

/// Deadline of a Job if neither the template nor the configuration sets one: as long as a dump may take.
const DEADLINE_SECONDS: i64 = 12 * 3_600;

/// How long the cluster keeps an ended Job that was not deleted: long enough to read its log.
const TTL_SECONDS: i64 = 600;

/// How long to wait for problems that may resolve themselves: a node joins, a registry recovers, a volume detaches.
const PATIENCE_SECONDS: u64 = 120;

/// Longest part of the environment's name in a Job's name, so that the name with timestamp and suffix fits a label.
const ENVIRONMENT_BYTES_MAX: usize = 20;

/// Where the configuration is mounted, if the host writes the template.
const CONFIG_FOLDER: &str = "/etc/dolibarr-backup";

/// `[env.E.job]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobConfig {
    /// Where the Job runs.
    pub namespace: Namespace,
    /// The CronJob in that namespace whose template is used.
    pub cron_job: Option<String>,
    /// A template, if there is no CronJob.
    pub template: Option<InlineTemplate>,
    /// The container that backs up, if the template has several.
    pub container: Option<String>,
    /// Secrets that the Job borrows, by the name of their place.
    #[serde(default)]
    pub secrets: BTreeMap<String, Borrowed>,
    /// How long the Job may run, in seconds. Default: the template's limit, or twelve hours.
    pub deadline_seconds: Option<i64>,
    /// How long to wait for the pod to start, in seconds, if a problem may resolve itself.
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
    /// Where the Job's container mounts it.
    pub mount: PathBuf,
    /// The keys to borrow. Default: all.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// A template in the configuration, without a CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InlineTemplate {
    /// The image.
    pub image: String,
    /// A ConfigMap that holds `dolibarr-backup.toml`.
    pub config_map: String,
    /// PersistentVolumeClaims and their mount paths, read-only.
    #[serde(default)]
    pub claims: BTreeMap<String, PathBuf>,
    /// Secrets in the same namespace and their mount paths.
    #[serde(default)]
    pub secrets: BTreeMap<String, PathBuf>,
    /// The user that the container runs as. Default: the image's user.
    pub run_as_user: Option<i64>,
    /// A Secret with credentials for the registry.
    pub pull_secret: Option<String>,
}

impl JobConfig {
    /// Checks the constraints that the types do not express.
    pub fn check(&self) -> Result<()> {
        match (&self.cron_job, &self.template) {
            (Some(_), None) | (None, Some(_)) => {}
            (Some(_), Some(_)) => return Err(Error::config("`cron_job` and `template` cannot be combined")),
            (None, None) => {
                return Err(Error::config("neither `cron_job` nor `template` is set")
                    .hint("name the installed CronJob: cron_job = \"dolibarr-backup-prod\""));
            }
        }
        let template = self.template.iter();
        let names = template.flat_map(|one| one.claims.keys().chain(one.secrets.keys()).chain([&one.config_map]));
        if let Some(invalid) = names.chain(&self.cron_job).find(|name| !is_name(name)) {
            return Err(Error::config(format!(
                "`{}` is not a valid name for a Kubernetes object",
                base::text::printable(invalid)
            )));
        }
        if let Some(invalid) = self.secrets.keys().find(|place| !is_label(place)) {
            let shown = base::text::printable(invalid);
            return Err(Error::config(format!("`{shown}` is not a valid name for a place of a Secret"))
                .hint("use lower-case letters, digits and hyphens"));
        }
        let own = self.template.iter().flat_map(|own| own.claims.values().chain(own.secrets.values()));
        let mounts = self.secrets.values().map(|borrowed| &borrowed.mount).chain(own);
        if let Some(invalid) = mounts.into_iter().find(|mount| !mount.is_absolute()) {
            return Err(Error::config(format!("the mount `{}` is not an absolute path", invalid.display())));
        }
        Ok(())
    }

    pub(super) fn limit(&self, template: &Value) -> i64 {
        let own = template.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
        self.deadline_seconds.or(own).unwrap_or(DEADLINE_SECONDS).max(1)
    }
}

impl InlineTemplate {
    /// The template in the form of a CronJob's `jobTemplate`: restricted, without a token, with read-only files.
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

/// A Job to create.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub name: &'a str,
    pub environment: &'a str,
    /// Arguments after the word `backup`.
    pub arguments: &'a [String],
    /// Names of the Job's Secrets, by their places.
    pub secrets: &'a BTreeMap<String, String>,
}

/// A name for a Job: `backup-prod-20260630t010000z-1a2b3c4d`.
pub(super) fn job_name(environment: &str, stamp: &str, random: u32) -> String {
    let environment: String = environment.chars().take(ENVIRONMENT_BYTES_MAX).collect();
    format!("backup-{}-{}-{random:08x}", environment.trim_end_matches('-'), stamp.to_lowercase())
}

/// The container of a template that backs up.
pub(super) fn container_of(config: &JobConfig, template: &Value) -> Result<String> {
    let containers = template.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let names: Vec<&str> = containers.into_iter().flatten().filter_map(|one| one.get("name")?.as_str()).collect();
    match (&config.container, &names[..]) {
        (Some(name), names) if names.contains(&name.as_str()) => Ok(name.clone()),
        (None, [one]) => Ok((*one).to_owned()),
        (wanted, names) => {
            let known: Vec<String> = names.iter().map(|n| format!("`{}`", base::text::printable(n))).collect();
            let which = wanted.as_ref().map_or("one container".to_owned(), |wanted| format!("a container `{wanted}`"));
            Err(Error::config(format!("the Job's template does not have {which}, but {}", known.join(", ")))
                .hint("set `container` in [env.….job]"))
        }
    }
}

/// Composes the Job. If it borrows Secrets, its deadline is [`UNSTARTED_SECONDS_MAX`] until the caller raises it.
pub(super) fn compose(config: &JobConfig, template: &Value, plan: &Plan<'_>) -> Result<Value> {
    let container = container_of(config, template)?;
    let mut spec = template.pointer("/spec").and_then(Value::as_object).cloned().unwrap_or_default();
    // Fields that control the number of pods and retries do not apply: this Job is one pod, and its end is the result.
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
    let deadline = if plan.secrets.is_empty() { config.limit(template) } else { UNSTARTED_SECONDS_MAX };
    spec.insert("parallelism".into(), json!(1));
    spec.insert("completions".into(), json!(1));
    spec.insert("backoffLimit".into(), json!(0));
    spec.insert("activeDeadlineSeconds".into(), json!(deadline));
    spec.insert("ttlSecondsAfterFinished".into(), json!(TTL_SECONDS));
    let mut spec = Value::Object(spec);
    let labels = labels(template.pointer("/metadata/labels"), plan.environment);
    let pod_labels = self::labels(template.pointer("/spec/template/metadata/labels"), plan.environment);
    spec["template"]["metadata"]["labels"] = pod_labels;
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    let mounts: BTreeMap<&str, (&Path, &str)> = config
        .secrets
        .iter()
        .filter_map(|(place, borrowed)| {
            Some((place.as_str(), (borrowed.mount.as_path(), plan.secrets.get(place)?.as_str())))
        })
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

/// The template's labels without those that a controller sets, plus the program's own.
fn labels(from_template: Option<&Value>, environment: &str) -> Value {
    let mut labels: Map<String, Value> = from_template.and_then(Value::as_object).cloned().unwrap_or_default();
    labels.retain(|key, _| !key.starts_with("batch.kubernetes.io/") && key != "controller-uid" && key != "job-name");
    labels.insert("dolibarr-backup/environment".into(), json!(environment));
    labels.insert("dolibarr-backup/run".into(), json!("one-shot"));
    Value::Object(labels)
}

/// The Job's arguments. Arguments before the word `backup` are kept, because they name the configuration. Those after
/// it belong to the schedule and are replaced.
fn arguments(from_template: Option<&Value>, plan: &Plan<'_>) -> Value {
    let own: Vec<&str> =
        from_template.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let before = own.iter().position(|word| *word == "backup").unwrap_or(0);
    let mut all: Vec<&str> = own.into_iter().take(before).collect();
    all.extend(["backup", "--env", plan.environment, "--here"]);
    all.extend(plan.arguments.iter().map(String::as_str));
    json!(all)
}

/// Mounts each Secret at its place. It replaces what the template mounts there, and a volume that is no longer mounted
/// is removed, because its Secret may not exist in this namespace.
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
        // The mode of the replaced volume suits the template's user.
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
