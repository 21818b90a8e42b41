//! The properties and rights of the chart's pods.

use super::{documents, name, of_kind, prod, prod_with};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::helm::{self, Helm};

/// The pods of every CronJob, of `init` and of `helm test`, each with the name of the object that creates it.
fn pods(documents: &[Value]) -> Vec<(&str, &Value)> {
    let made = of_kind(documents, "CronJob")
        .into_iter()
        .map(|job| (name(job), &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]));
    let of_jobs = of_kind(documents, "Job").into_iter().map(|job| (name(job), &job["spec"]["template"]["spec"]));
    let of_test = of_kind(documents, "Pod").into_iter().map(|pod| (name(pod), &pod["spec"]));
    made.chain(of_jobs).chain(of_test).collect()
}

/// Asserts what the restricted Pod Security Standard requires and what the chart promises in addition.
fn hold_restricted(of: &str, pod: &Value) {
    let security = &pod["securityContext"];
    assert_eq!(security["runAsNonRoot"], true, "{of}");
    assert!(security["runAsUser"].as_u64().is_some_and(|user| user > 0), "{of}");
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{of}");
    for field in ["hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"] {
        assert!(pod[field].is_null(), "{of} has {field}");
    }
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "{of}");
    let security = &containers[0]["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false, "{of}");
    assert_eq!(security["readOnlyRootFilesystem"], true, "{of}");
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{of}");
    assert!(security["privileged"].is_null() && containers[0]["ports"].is_null(), "{of}");
    assert!(containers[0]["resources"]["limits"]["memory"].is_string(), "{of}");
    let kinds = ["configMap", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "secret"];
    for volume in pod["volumes"].as_array().unwrap() {
        let mut keys = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        let kind = keys.next().unwrap();
        assert!(kinds.contains(&kind.as_str()) && keys.next().is_none(), "{of}: {volume}");
    }
}

#[test]
fn every_pod_is_restricted() {
    let Some(engine) = Helm::installed() else { return };
    let requests = helm::case_names()
        .unwrap()
        .into_iter()
        .map(|name| json!({"helm": 4, "name": "erp", "namespace": "erp", "file": format!("values/{name}.yaml")}));
    let mut seen = 0;
    for answer in engine.ask(&requests.collect()).unwrap() {
        let documents = answer["documents"].as_array().unwrap();
        for (of, pod) in pods(documents) {
            hold_restricted(of, pod);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn no_pod_has_a_token_unless_a_capability_needs_one() {
    let Some(engine) = Helm::installed() else { return };
    let tokens = |documents: &[Value]| -> BTreeSet<String> {
        let with = |(of, pod): (&str, &Value)| (pod["automountServiceAccountToken"] != false).then(|| of.to_owned());
        pods(documents).into_iter().filter_map(with).collect()
    };
    let plain = documents(&engine, &prod());
    assert!(tokens(&plain).is_empty());
    assert!(of_kind(&plain, "Role").is_empty() && of_kind(&plain, "RoleBinding").is_empty());
    assert_eq!(of_kind(&plain, "ServiceAccount")[0]["automountServiceAccountToken"], false);
    let api = documents(&engine, &prod_with(&[("kubernetesApi", json!({"enabled": true}))]));
    let with: Vec<_> = tokens(&api).into_iter().collect();
    let expected = ["erp-dolibarr-backup", "erp-dolibarr-backup-init", "erp-dolibarr-backup-test"];
    assert_eq!(with, expected, "pods that only read the store need no token");
    let rules = of_kind(&api, "Role")[0]["rules"].as_array().unwrap().clone();
    for rule in &rules {
        assert_eq!((&rule["apiGroups"], &rule["resources"]), (&json!(["coordination.k8s.io"]), &json!(["leases"])));
        assert!(rule["verbs"] == json!(["create"]) || rule["resourceNames"].is_array(), "{rule}");
    }
}

#[test]
fn coverage_has_an_account_of_its_own_that_lists_and_sees_neither_store_nor_sources() {
    let Some(engine) = Helm::installed() else { return };
    let coverage = json!({"enabled": true, "namespaces": ["erp", "shop"]});
    let documents = documents(&engine, &prod_with(&[("coverage", coverage)]));
    let account = "erp-dolibarr-backup-coverage";
    let (_, pod) = *pods(&documents).iter().find(|(of, _)| *of == account).unwrap();
    assert_eq!((&pod["serviceAccountName"], &pod["automountServiceAccountToken"]), (&account.into(), &true.into()));
    let volumes: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    assert_eq!(volumes, ["config", "tmp"]);
    let bindings = [of_kind(&documents, "RoleBinding"), of_kind(&documents, "ClusterRoleBinding")].concat();
    assert!(
        bindings
            .iter()
            .all(|binding| binding["subjects"]
                == json!([{"kind": "ServiceAccount", "name": account, "namespace": "erp"}]))
    );
    let roles = [of_kind(&documents, "Role"), of_kind(&documents, "ClusterRole")].concat();
    let mut lists: Vec<_> = roles
        .iter()
        .flat_map(|role| {
            role["rules"].as_array().unwrap().iter().map(|rule| {
                assert_eq!(rule["verbs"], json!(["list"]), "{rule}");
                (role["metadata"]["namespace"].as_str().unwrap_or("everywhere"), rule["resources"].to_string())
            })
        })
        .collect();
    lists.sort();
    let claims = ["[\"persistentvolumeclaims\"]", "[\"volumesnapshots\"]"];
    let expected = [
        ("erp", claims[0]),
        ("erp", claims[1]),
        ("everywhere", "[\"persistentvolumes\"]"),
        ("longhorn-system", "[\"backups\",\"recurringjobs\",\"volumes\"]"),
        ("shop", claims[0]),
        ("shop", claims[1]),
    ];
    assert!(lists.iter().map(|(place, what)| (*place, what.as_str())).eq(expected), "{lists:?}");
    let policies = of_kind(&documents, "NetworkPolicy").into_iter();
    let [policy] = &policies.filter(|policy| name(policy).ends_with("-api")).collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(policy["spec"]["podSelector"]["matchExpressions"][0]["values"], json!(["coverage"]));
}

#[test]
fn no_role_reads_a_secret_or_uses_a_wildcard() {
    let Some(engine) = Helm::installed() else { return };
    let launchers = json!([{"kind": "User", "name": "lea"}]);
    let documents =
        documents(&engine, &prod_with(&[("launchers", launchers), ("kubernetesApi", json!({"enabled": true}))]));
    let roles = of_kind(&documents, "Role");
    assert_eq!(roles.len(), 2);
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        assert!(!rule.to_string().contains('*'), "{rule}");
        if rule["resources"].as_array().unwrap().contains(&"secrets".into()) {
            assert_eq!(rule["verbs"], json!(["create"]), "{rule}");
        }
    }
}

#[test]
fn documents_and_secrets_are_mounted_read_only_and_only_where_they_are_needed() {
    let Some(engine) = Helm::installed() else { return };
    for (of, pod) in pods(&documents(&engine, &prod())) {
        let reads_sources =
            ["erp-dolibarr-backup", "erp-dolibarr-backup-init", "erp-dolibarr-backup-test"].contains(&of);
        let volume = |name: &str| pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == name);
        for name in ["documents", "database"] {
            assert_eq!(volume(name).is_some(), reads_sources, "{of}: {name}");
        }
        assert!(volume("store").is_some(), "{of}");
        if let Some(volume) = volume("documents") {
            assert_eq!(volume["persistentVolumeClaim"]["readOnly"], true, "{of}");
            assert!(pod["securityContext"]["fsGroup"].is_null(), "{of} would change all documents' group");
        }
        for mount in pod["containers"][0]["volumeMounts"].as_array().unwrap() {
            let writable = ["tmp", "scratch"].map(Value::from).contains(&mount["name"]);
            assert_eq!(mount["readOnly"] == true, !writable, "{of}: {mount}");
        }
    }
}

#[test]
fn a_run_is_retried_after_75_and_after_nothing_else() {
    let Some(engine) = Helm::installed() else { return };
    let documents = documents(&engine, &prod());
    let jobs = of_kind(&documents, "CronJob");
    assert_eq!(jobs.len(), 4);
    for job in &jobs {
        let spec = &job["spec"];
        assert_eq!(spec["concurrencyPolicy"], "Forbid");
        assert_eq!(spec["timeZone"], "Europe/Paris");
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            assert!(spec[field].is_u64(), "{field}");
        }
    }
    let made = jobs.into_iter().map(|job| &job["spec"]["jobTemplate"]["spec"]);
    for template in made.chain(of_kind(&documents, "Job").into_iter().map(|job| &job["spec"])) {
        assert!(template["activeDeadlineSeconds"].is_u64() && template["backoffLimit"].is_u64());
        let pod = &template["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Never", "a pod failure policy requires it");
        let rules = template["podFailurePolicy"]["rules"].as_array().unwrap();
        let fatal: Vec<_> = rules.iter().filter(|rule| rule["action"] == "FailJob").collect();
        let [rule] = fatal[..] else { panic!("expected exactly one rule that fails the Job: {rules:?}") };
        let codes = json!({"containerName": pod["containers"][0]["name"], "operator": "NotIn", "values": [75]});
        assert_eq!(rule["onExitCodes"], codes);
    }
}

#[test]
fn network_policies_let_pods_reach_what_they_need_and_nothing_else() {
    let Some(engine) = Helm::installed() else { return };
    let ports = |policy: &Value| -> Vec<u64> {
        let rules = policy["spec"]["egress"].as_array().unwrap();
        rules
            .iter()
            .flat_map(|rule| rule["ports"].as_array().unwrap())
            .map(|port| port["port"].as_u64().unwrap())
            .collect()
    };
    let table = [
        (prod(), vec![53, 53, 443], vec![5432]),
        (prod_with(&[("store.endpoint", json!("http://garage.storage:3900"))]), vec![53, 53, 3900], vec![5432]),
        (prod_with(&[("store.endpoint", json!("http://garage.storage"))]), vec![53, 53, 80], vec![5432]),
        (prod_with(&[("kubernetesApi", json!({"enabled": true}))]), vec![53, 53, 443], vec![5432, 443, 6443]),
    ];
    for (values, every, sources) in table {
        let documents = documents(&engine, &values);
        let policies = of_kind(&documents, "NetworkPolicy");
        let of = |end: &str| *policies.iter().find(|policy| name(policy).ends_with(end)).unwrap();
        assert_eq!(ports(of("-store")), every);
        assert_eq!(ports(of("-sources")), [every.clone(), sources].concat());
        for policy in &policies {
            assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
            assert_eq!(policy["spec"]["ingress"], json!([]));
        }
        // Exactly one policy selects each pod.
        let selects = |policy: &Value, pod: &Value| {
            let selector = &policy["spec"]["podSelector"];
            let components = selector["matchExpressions"][0]["values"].as_array().unwrap();
            let mut labels = selector["matchLabels"].as_object().unwrap().iter();
            labels.all(|(key, value)| pod[key] == *value) && components.contains(&pod["app.kubernetes.io/component"])
        };
        let jobs = of_kind(&documents, "CronJob").into_iter();
        let of_cron_jobs = jobs.map(|job| &job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]);
        let jobs = of_kind(&documents, "Job").into_iter();
        let of_jobs = jobs.map(|job| &job["spec"]["template"]["metadata"]["labels"]);
        let of_test = of_kind(&documents, "Pod").into_iter().map(|pod| &pod["metadata"]["labels"]);
        for pod in of_cron_jobs.chain(of_jobs).chain(of_test) {
            assert_eq!(policies.iter().filter(|policy| selects(policy, pod)).count(), 1, "{pod}");
        }
    }
}

#[test]
fn the_test_pod_is_a_hook_that_writes_nothing() {
    let Some(engine) = Helm::installed() else { return };
    let documents = documents(&engine, &prod());
    let pod = of_kind(&documents, "Pod")[0];
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    let arguments = pod["spec"]["containers"][0]["args"].as_array().unwrap();
    assert!(arguments.contains(&"backup".into()) && arguments.contains(&"--dry-run".into()), "{arguments:?}");
}

#[test]
fn names_stay_within_what_a_cron_job_may_be_called() {
    const CRON_JOB_NAME_MAX: usize = 52;
    let Some(engine) = Helm::installed() else { return };
    let long = "a-release-whose-name-is-as-long-as-helm-lets-it-be-53";
    let fleet: Vec<_> = ["one-instance-with-a-long-name", "one-instance-with-a-longer-1"]
        .map(|name| json!({"name": name, "database": {"name": name, "secretName": name}, "documents": {"claimName": name}}))
        .to_vec();
    let values = prod_with(&[("fleet", fleet.into())]);
    let request = json!([{"helm": 4, "name": long, "namespace": "erp", "values": values}]);
    let answer = engine.ask(&request).unwrap().remove(0);
    let documents = answer["documents"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let mut names = BTreeSet::new();
    for document in documents {
        assert!(
            names.insert((document["kind"].as_str().unwrap(), name(document))),
            "{} is rendered twice",
            name(document)
        );
    }
    for job in of_kind(documents, "CronJob") {
        assert!(name(job).len() <= CRON_JOB_NAME_MAX, "{}", name(job));
    }
}
