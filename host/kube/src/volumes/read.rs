//! Reads fields of the API server's objects. Missing fields are empty, and all text is made printable.

use super::{Backup, Claim, LonghornVolume, RecurringJob, Volume, VolumeSnapshot};
use base::text::printable;
use jiff::Timestamp;
use serde_json::Value;

/// Prefixes of the labels that enrol a Longhorn volume; the name of the job or group follows.
const JOB_LABEL: &str = "recurring-job.longhorn.io/";
const GROUP_LABEL: &str = "recurring-job-group.longhorn.io/";

/// The value of such a label.
const ENROLLED: &str = "enabled";

impl From<&Value> for Claim {
    fn from(object: &Value) -> Self {
        let capacity =
            object.pointer("/status/capacity/storage").or(object.pointer("/spec/resources/requests/storage"));
        Self {
            namespace: text(object, "/metadata/namespace"),
            name: text(object, "/metadata/name"),
            phase: text(object, "/status/phase"),
            storage_class: text(object, "/spec/storageClassName"),
            volume: text(object, "/spec/volumeName"),
            bytes: capacity.and_then(Value::as_str).and_then(quantity).unwrap_or(0),
        }
    }
}

impl From<&Value> for Volume {
    fn from(object: &Value) -> Self {
        Self {
            name: text(object, "/metadata/name"),
            driver: text(object, "/spec/csi/driver"),
            handle: text(object, "/spec/csi/volumeHandle"),
        }
    }
}

impl From<&Value> for LonghornVolume {
    fn from(object: &Value) -> Self {
        Self {
            name: text(object, "/metadata/name"),
            groups: enrolled(object, GROUP_LABEL),
            jobs: enrolled(object, JOB_LABEL),
            last_backup: time(object, "/status/lastBackupAt"),
        }
    }
}

impl From<&Value> for RecurringJob {
    fn from(object: &Value) -> Self {
        let groups = object.pointer("/spec/groups").and_then(Value::as_array);
        Self {
            name: text(object, "/metadata/name"),
            task: text(object, "/spec/task"),
            cron: text(object, "/spec/cron"),
            groups: groups.into_iter().flatten().filter_map(Value::as_str).map(printable).collect(),
        }
    }
}

impl From<&Value> for Backup {
    fn from(object: &Value) -> Self {
        let named = text(object, "/status/volumeName");
        let labelled = object.pointer("/metadata/labels/backup-volume").and_then(Value::as_str).unwrap_or_default();
        Self {
            volume: if named.is_empty() { printable(labelled) } else { named },
            state: text(object, "/status/state"),
            created: time(object, "/status/backupCreatedAt").or(time(object, "/metadata/creationTimestamp")),
        }
    }
}

impl From<&Value> for VolumeSnapshot {
    fn from(object: &Value) -> Self {
        Self {
            namespace: text(object, "/metadata/namespace"),
            name: text(object, "/metadata/name"),
            claim: text(object, "/spec/source/persistentVolumeClaimName"),
            ready: object.pointer("/status/readyToUse").and_then(Value::as_bool).unwrap_or(false),
            created: time(object, "/status/creationTime").or(time(object, "/metadata/creationTimestamp")),
        }
    }
}

fn text(object: &Value, path: &str) -> String {
    printable(object.pointer(path).and_then(Value::as_str).unwrap_or_default())
}

fn time(object: &Value, path: &str) -> Option<Timestamp> {
    object.pointer(path)?.as_str()?.parse().ok()
}

fn enrolled(object: &Value, label: &str) -> Vec<String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let ours = labels.into_iter().flatten().filter(|(_, value)| value.as_str() == Some(ENROLLED));
    ours.filter_map(|(key, _)| key.strip_prefix(label)).map(printable).collect()
}

/// Bytes of a quantity such as `10Gi` or `5e9`; `None` if it is not a number or is negative.
fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 11] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("", 1),
    ];
    let (number, unit) = UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    // Volume sizes are far below the limit of exact integers in a float.
    Some((number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_parsed() {
        for (text, bytes) in [
            ("10Gi", Some(10 << 30)),
            ("5e3", Some(5_000)),
            ("1.5Ki", Some(1_536)),
            ("2G", Some(2_000_000_000)),
            ("7", Some(7)),
            ("0", Some(0)),
            ("", None),
            ("Gi", None),
            ("-1Gi", None),
            ("much", None),
        ] {
            assert_eq!(quantity(text), bytes, "{text}");
        }
    }

    #[test]
    fn a_volume_is_enrolled_by_labels_with_the_value_enabled() {
        let volume = json!({
            "metadata": { "name": "pvc-1", "labels": {
                "recurring-job-group.longhorn.io/default": "enabled",
                "recurring-job-group.longhorn.io/off": "disabled",
                "recurring-job.longhorn.io/nightly": "enabled",
                "longhornvolume": "pvc-1",
            } },
            "status": { "lastBackupAt": "" },
        });
        let read = LonghornVolume::from(&volume);
        assert_eq!((read.groups, read.jobs), (vec!["default".to_owned()], vec!["nightly".to_owned()]));
        assert_eq!(read.last_backup, None);
        assert_eq!(LonghornVolume::from(&json!({})).groups, Vec::<String>::new());
    }
}
