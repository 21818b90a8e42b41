//! The report of a drill as one page that prints well: no script, no font and no picture from elsewhere. Every text is
//! escaped by the template.

use super::{problems, span, verdict};
use crate::report;
use catalogue::proof::{CrosscheckReport, Paths};
use catalogue::proof::{Drill, Phase, SourceProof};
use indicatif::HumanBytes;
use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Ink on paper; one column, so that it fits A4 and Letter.
const STYLE: &str = "\
body{font:11pt/1.4 serif;max-width:46em;margin:2em auto;padding:0 1em;color:#000;background:#fff}\
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:1.4em 0 .3em}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.2em .6em .2em 0;border-bottom:1px solid #bbb}\
td.n{text-align:right;white-space:nowrap}.verdict{font-size:1.3em;font-weight:bold;border:2px solid #000;padding:.3em .6em;margin:1em 0}\
code{font-size:.85em;word-break:break-all}footer{margin-top:2em;font-size:.85em}\
@page{margin:18mm}@media print{body{margin:0;max-width:none}h2,tr{break-after:avoid;break-inside:avoid}}";

/// The page.
pub(super) fn of(drill: &Drill, zone: &TimeZone) -> String {
    let when = report::local(drill.id.moment(), zone);
    let taken = report::local(drill.snapshot.taken(), zone);
    let problems = problems(drill);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Restore drill of " (drill.environment) ", " (when) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Restore drill of " (drill.environment) }
                p { (when) " (" (drill.time_zone) "), snapshot " code { (drill.snapshot) } " taken " (taken) }
                p class="verdict" { (verdict_of(drill, &problems)) }
                @if !problems.is_empty() {
                    h2 { "Problems" }
                    ul { @for problem in &problems { li { (problem) } } }
                }
                h2 { "What was restored" }
                table {
                    tr { th { "Source" } th { "Object" } th { "Found" } }
                    @for (name, source) in &drill.sources { (source_row(name, source)) }
                }
                @if let Some(crosscheck) = &drill.crosscheck { (together(crosscheck)) }
                h2 { "Steps" }
                table {
                    tr { th { "Step" } th { "Time" } th { "Data" } th { "Outcome" } }
                    @for phase in &drill.phases { (phase_row(phase)) }
                }
                footer {
                    p {
                        "Restored to " (drill.server.as_deref().unwrap_or("no server")) " and a temporary folder; both were removed. "
                        "dolibarr-backup " (drill.host_version) ". The machine-readable report is " code { (drill.id) ".json" } " next to this page."
                    }
                    p { "Seen by: ______________________________   Date: ______________" }
                }
            }
        }
    };
    page.into_string()
}

fn verdict_of(drill: &Drill, problems: &[String]) -> &'static str {
    match (drill.passed, problems.is_empty() && drill.sources.values().any(|source| source.untried.is_some())) {
        (true, _) => "Passed",
        (false, true) => "Could not be tested",
        (false, false) => "Failed",
    }
}

fn source_row(name: &str, source: &SourceProof) -> Markup {
    html! {
        tr {
            td { (name) }
            td { code { @if let Some(key) = &source.object { (key) } @else { "none" } } br; (HumanBytes(source.bytes)) }
            td {
                @if let Some(holds) = &source.holds { (holds) br; }
                @if let Some(comparison) = &source.comparison { (comparison) }
                @for note in &source.notes { br; (note) }
                @if let Some(why) = &source.untried { br; "could not be restored here: " (why) }
            }
        }
    }
}

fn together(crosscheck: &CrosscheckReport) -> Markup {
    html! {
        h2 { "Database and documents compared" }
        p { "Documents in the database that were looked up in the folder: " (crosscheck.compared) "." }
        table {
            tr { th { "Check" } th { "Outcome" } th { "Detail" } }
            @for finding in &crosscheck.findings {
                tr { td { (finding.name) } td { (verdict(finding.verdict)) } td { (finding.detail) } }
            }
            @for head in &crosscheck.heads {
                tr {
                    td { (head.log) }
                    td { (head.entries) " entries" }
                    td { "last " (head.last) ", signature " code { (head.signature) } }
                }
            }
        }
        (paths("Listed in the database but missing", &crosscheck.missing))
        (paths("With content that differs from the database", &crosscheck.altered))
        (paths("Not listed in the database", &crosscheck.orphaned))
        p { "Checked by the plugin with SHA-256 " code { (crosscheck.plugin.sha256) } "." }
    }
}

/// The first documents of a kind, where there are any.
fn paths(title: &str, paths: &Paths) -> Markup {
    html! {
        @if paths.total > 0 {
            h2 { (title) ": " (paths.total) }
            ul { @for path in &paths.first { li { code { (path) } } } }
            @if paths.total > paths.first.len() as u64 { p { "Only the first are shown." } }
        }
    }
}

fn phase_row(phase: &Phase) -> Markup {
    html! {
        tr {
            td { (phase.name) }
            td class="n" { (span(phase.millis)) }
            td class="n" { @if let Some(bytes) = phase.bytes { (HumanBytes(bytes)) } }
            td { @if let Some(failure) = &phase.failure { (failure) } @else { "done" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalogue::proof::{CrosscheckVerdict, Finding, Head};
    use catalogue::record::PluginRecord;
    use jiff::Timestamp;

    #[test]
    fn whatever_a_report_says_the_page_has_no_markup_of_it() {
        let evil = "<script>alert('x')</script>\"&".to_owned();
        let drill = Drill {
            format_version: 1,
            id: "20260701T020000Z".parse().unwrap(),
            environment: evil.clone(),
            snapshot: "20260630T010000Z".parse().unwrap(),
            time_zone: evil.clone(),
            finished: Timestamp::UNIX_EPOCH,
            host_version: evil.clone(),
            server: Some(evil.clone()),
            passed: false,
            phases: vec![Phase { name: evil.clone(), millis: 1_234, bytes: Some(5), failure: Some(evil.clone()) }],
            sources: [(
                evil.clone(),
                SourceProof {
                    problems: vec![evil.clone()],
                    holds: Some(evil.clone()),
                    comparison: Some(evil.clone()),
                    ..SourceProof::default()
                },
            )]
            .into(),
            crosscheck_failed: None,
            crosscheck: Some(CrosscheckReport {
                compared: 1,
                missing: Paths { total: 2, first: vec![evil.clone()] },
                altered: Paths { total: 0, first: Vec::new() },
                orphaned: Paths { total: 1, first: vec![evil.clone()] },
                findings: vec![Finding {
                    name: evil.clone(),
                    verdict: CrosscheckVerdict::Failed,
                    detail: evil.clone(),
                }],
                heads: vec![Head { log: evil.clone(), entries: 1, last: 1, signature: evil.clone() }],
                plugin: PluginRecord {
                    name: evil.clone(),
                    component: evil.clone(),
                    sha256: evil.clone(),
                    grants: Vec::new(),
                    settings_sha256: None,
                    tally: Vec::new(),
                },
            }),
            shrunk_logs: vec![evil.clone()],
            chain: vec![evil],
        };
        let page = of(&drill, &TimeZone::UTC);
        assert!(!page.contains("<script") && !page.contains("alert('x')</"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count() * 2, page.matches("script").count(), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 10, "{page}");
        assert!(page.contains("1.2 s") && page.contains("Failed"));
    }
}
