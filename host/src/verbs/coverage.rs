//! `coverage`: shows which volumes of a cluster are covered by a backup.
//!
//! A plugin judges; the host checks its answer against the claims that it passed in, so that none can be omitted.

use crate::config::Config;
use crate::report::{FORMAT_VERSION, Report};
use base::error::{Class, Error, Result};
use base::text::printable;
use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use jiff::Timestamp;
use kubernetes::Cluster;
use kubernetes::volumes::{Claim, Volumes};
use plugin::call::covering::{Finding, Judgement, Remark, State};
use plugin::{Engine, Plugin, Role};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Number of uncovered claims that the error message names; the report has all of them.
const NAMED_MAX: usize = 3;

/// Checks the volumes of the cluster. Uncovered volumes are in the report, as a failure of class [`Class::Stale`].
pub async fn run(config: &Config, folder: Option<&Path>, now: Timestamp) -> Result<Report> {
    let own = config.coverage.clone().ok_or_else(|| {
        Error::config("the configuration has no [coverage] section")
            .hint("add [coverage]; it may be empty or contain namespaces = [\"erp\"]")
    })?;
    let plugin = Plugin::load(&Engine::new()?, &config.plugins, Role::Coverage, folder).await?;
    plugin.check_settings().await?;
    let cluster = Cluster::connect(&config.kubernetes).await?;
    let shown = cluster.shown().to_owned();
    let volumes = Volumes::new(cluster, own);
    let judgement = plugin.judge_coverage(now, volumes.clone()).await.result?;
    let claims = volumes.claims().await?;
    let findings = matched(&claims, &judgement)
        .ok_or_else(|| plugin.refused("it did not return exactly one finding for every claim"))?;
    Ok(report(&shown, &volumes.scope(), &findings, &judgement))
}

/// Pairs every claim with its finding; `None` if they do not match one to one.
fn matched<'a>(claims: &'a [Claim], judgement: &'a Judgement) -> Option<Vec<(&'a Claim, &'a Finding)>> {
    let by_name: BTreeMap<_, _> =
        judgement.findings.iter().map(|finding| ((&finding.namespace, &finding.claim), finding)).collect();
    if by_name.len() != judgement.findings.len() || by_name.len() != claims.len() {
        return None;
    }
    claims.iter().map(|claim| Some((claim, *by_name.get(&(&claim.namespace, &claim.name))?))).collect()
}

fn report(cluster: &str, scope: &str, findings: &[(&Claim, &Finding)], judgement: &Judgement) -> Report {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["", "claim", "size", "why"]);
    for (claim, finding) in findings {
        let word = if finding.state == State::Uncovered { "UNCOVERED" } else { name(finding.state) };
        let size = HumanBytes(claim.bytes).to_string();
        table.add_row([word, &format!("{}/{}", claim.namespace, claim.name), &size, &printable(&finding.reason)]);
    }
    let mut text = format!("volumes of {cluster}, {scope}\n");
    if !findings.is_empty() {
        let _ = writeln!(text, "{}", table.trim_fmt());
    }
    for (what, remarks) in [("job", &judgement.jobs), ("group", &judgement.groups)] {
        for remark in remarks {
            let _ = writeln!(text, "{what} {}: {}", printable(&remark.name), printable(&remark.problem));
        }
    }
    for note in &judgement.notes {
        let _ = writeln!(text, "{}", printable(note));
    }
    let uncovered: Vec<String> = findings
        .iter()
        .filter(|(_, finding)| finding.state == State::Uncovered)
        .map(|(claim, _)| format!("{}/{}", claim.namespace, claim.name))
        .collect();
    let covered = findings.iter().filter(|(_, finding)| finding.state == State::Covered).count();
    let _ = writeln!(text, "{covered} of {} covered, {} uncovered", findings.len(), uncovered.len());
    let document = json!({
        "format_version": FORMAT_VERSION,
        "cluster": cluster,
        "scope": scope,
        "volumes": findings.iter().map(|(claim, finding)| value(claim, finding)).collect::<Vec<_>>(),
        "jobs": judgement.jobs.iter().map(remark).collect::<Vec<_>>(),
        "groups": judgement.groups.iter().map(remark).collect::<Vec<_>>(),
        "notes": judgement.notes.iter().map(|note| printable(note)).collect::<Vec<_>>(),
        "uncovered": uncovered,
    });
    Report { document, text, failure: failure(&uncovered) }
}

fn failure(uncovered: &[String]) -> Option<Error> {
    let named: Vec<&str> = uncovered.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = match uncovered.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("no backup covers {}{more}", named.join(", "));
    (!uncovered.is_empty()).then(|| {
        Error::new(Class::Stale, message)
            .hint("add the volume to a group that a backup job covers, or exclude it by name")
    })
}

const fn name(state: State) -> &'static str {
    match state {
        State::Covered => "covered",
        State::Uncovered => "uncovered",
        State::Excluded => "excluded",
    }
}

fn value(claim: &Claim, finding: &Finding) -> Value {
    let served: Vec<Value> = finding
        .served_by
        .iter()
        .map(|service| json!({ "job": printable(&service.job), "group": service.group.as_deref().map(printable) }))
        .collect();
    json!({
        "namespace": claim.namespace,
        "claim": claim.name,
        "volume": claim.volume,
        "storage_class": claim.storage_class,
        "bytes": claim.bytes,
        "state": name(finding.state),
        "reason": printable(&finding.reason),
        "served_by": served,
        "last_backup": finding.last_backup.and_then(|at| Timestamp::from_second(at).ok()),
    })
}

fn remark(remark: &Remark) -> Value {
    json!({ "name": printable(&remark.name), "problem": printable(&remark.problem) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str) -> Claim {
        Claim {
            namespace: "erp".into(),
            name: name.into(),
            phase: "Bound".into(),
            storage_class: String::new(),
            volume: format!("pv-{name}"),
            bytes: 1,
        }
    }

    fn finding(name: &str, state: State) -> Finding {
        Finding {
            namespace: "erp".into(),
            claim: name.into(),
            state,
            reason: "because\u{1b}".into(),
            served_by: vec![],
            last_backup: Some(i64::MAX),
        }
    }

    fn judgement(findings: Vec<Finding>) -> Judgement {
        Judgement { findings, jobs: vec![], groups: vec![], notes: vec![] }
    }

    #[test]
    fn an_answer_that_misses_a_claim_or_makes_one_up_is_refused_whole() {
        let claims = [claim("docs"), claim("db")];
        let answer = |names: &[&str]| judgement(names.iter().map(|name| finding(name, State::Covered)).collect());
        for (names, fits) in [
            (&["docs", "db"][..], true),
            (&["db", "docs"], true),
            (&["docs"], false),
            (&["docs", "docs"], false),
            (&["docs", "other"], false),
            (&["docs", "db", "other"], false),
            (&[], false),
        ] {
            assert_eq!(matched(&claims, &answer(names)).is_some(), fits, "{names:?}");
        }
    }

    #[test]
    fn an_uncovered_volume_is_named_and_exits_with_four() {
        let claims = [claim("docs"), claim("tmp")];
        let judgement = judgement(vec![finding("docs", State::Uncovered), finding("tmp", State::Excluded)]);
        let findings = matched(&claims, &judgement).unwrap();
        let report = report("a cluster", "erp", &findings, &judgement);
        let failure = report.failure.unwrap();
        assert_eq!((failure.class().exit_code(), failure.message()), (4, "no backup covers erp/docs"));
        assert!(report.text.contains("UNCOVERED") && !report.text.contains('\u{1b}'), "{}", report.text);
        assert_eq!(report.document["volumes"][0]["last_backup"], Value::Null);
        assert_eq!(super::failure(&[]), None);
        let many: Vec<String> = (0..5).map(|n| n.to_string()).collect();
        assert_eq!(super::failure(&many).unwrap().message(), "no backup covers 0, 1, 2 and 2 more");
    }
}
