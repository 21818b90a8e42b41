//! A retention plugin that misbehaves as its settings say.

#![cfg_attr(target_family = "wasm", expect(unsafe_code, reason = "the exports that wit-bindgen generates"))]

#[path = "../../misbehave.rs"]
mod misbehave;

wit_bindgen::generate!({ world: "retention", path: "../../../wit", generate_all });

use backup::host::log;
use backup::host::types::{Error, Timestamp};
use exports::backup::host::retaining::{Decision, Guest, RetentionPlan, Snapshot, Verdict};

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Behaviour {
    /// Behaves correctly.
    Keep,
    Loop,
    Recurse,
    TakeMemory,
    Panic,
    LogForEver,
    LogOnce {
        text: String,
    },
    ForgetEverything,
    NameUnknown {
        id: String,
    },
    NameTwice,
    LeaveOut,
    NoReasons,
    LongReason {
        bytes: usize,
    },
    ManyReasons {
        count: usize,
    },
    Reason {
        text: String,
    },
    ManyDecisions {
        count: usize,
    },
    Fail {
        kind: Kind,
        text: String,
    },
    Look {
        masked: String,
    },
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Denied,
    NotFound,
    Transient,
    Permanent,
}

impl Guest for Plugin {
    fn settings_schema() -> String {
        "{}".into()
    }

    fn plan(
        _now: Timestamp,
        _time_zone: String,
        settings: String,
        snapshots: Vec<Snapshot>,
    ) -> Result<RetentionPlan, Error> {
        let behaviour = serde_json::from_str(&settings).map_err(|e| Error::Denied(e.to_string()))?;
        let mut plan = keep_all(&snapshots);
        match behaviour {
            Behaviour::Keep => {}
            Behaviour::Loop => misbehave::endless_loop(),
            Behaviour::Recurse => drop(misbehave::endless_recursion(1)),
            Behaviour::TakeMemory => misbehave::memory_bomb(),
            Behaviour::Panic => panic!("\u{1b}[31mthe guest's own words"),
            Behaviour::LogForEver => loop {
                log::emit(log::Level::Error, "\u{1b}[2Jflood\n", &[("password".into(), "hunter2\r".into())]);
            },
            Behaviour::LogOnce { text } => log::emit(log::Level::Error, &text, &[(text.clone(), text.clone())]),
            Behaviour::ForgetEverything => plan.iter_mut().for_each(|decision| decision.verdict = Verdict::Forget),
            Behaviour::NameUnknown { id } => plan.push(Decision { id, verdict: Verdict::Forget, reasons: reason("x") }),
            Behaviour::NameTwice => plan.extend(plan.last().cloned()),
            Behaviour::LeaveOut => drop(plan.pop()),
            Behaviour::NoReasons => plan.iter_mut().for_each(|decision| decision.reasons.clear()),
            Behaviour::LongReason { bytes } => {
                plan.iter_mut().take(1).for_each(|decision| decision.reasons = reason(&"x".repeat(bytes)));
            }
            Behaviour::ManyReasons { count } => {
                plan.iter_mut().take(1).for_each(|decision| decision.reasons = vec![String::new(); count]);
            }
            Behaviour::Reason { text } => plan.iter_mut().for_each(|decision| decision.reasons = reason(&text)),
            Behaviour::ManyDecisions { count } => {
                let one = Decision { id: String::new(), verdict: Verdict::Forget, reasons: Vec::new() };
                plan = vec![one; count];
            }
            Behaviour::Fail { kind, text } => {
                return Err(match kind {
                    Kind::Denied => Error::Denied(text),
                    Kind::NotFound => Error::NotFound(text),
                    Kind::Transient => Error::Transient(text),
                    Kind::Permanent => Error::Permanent(text),
                });
            }
            Behaviour::Look { masked } => {
                let found = misbehave::is_in_memory(&masked);
                return Err(Error::Permanent(if found { "found" } else { "clean" }.into()));
            }
        }
        Ok(RetentionPlan { decisions: plan, notes: Vec::new() })
    }
}

fn keep_all(snapshots: &[Snapshot]) -> Vec<Decision> {
    let keep = |s: &Snapshot| Decision { id: s.id.clone(), verdict: Verdict::Keep, reasons: reason("kept") };
    snapshots.iter().map(keep).collect()
}

fn reason(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

// A native linker does not accept the export names of a component, and only a component needs them.
#[cfg(target_family = "wasm")]
export!(Plugin);
