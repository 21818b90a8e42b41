//! Formats documents for `find` and `history`.

use super::local;
use documents::{Document, shown_path};
use indicatif::HumanBytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// The kind, size, time and digest of a document, in columns.
pub fn described(document: &Document, zone: &TimeZone) -> String {
    let (seconds, _) = document.modified;
    let modified = Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| local(time, zone));
    let sum = document.sha256.as_ref().and_then(|sum| sum.get(..12)).unwrap_or("-");
    format!("{:<6} {:>11}  {modified}  {sum:<12}", document.kind, HumanBytes(document.size_bytes).to_string())
}

/// A document for machines.
pub fn value(document: &Document) -> Value {
    let text = String::from_utf8(document.path.clone()).ok();
    json!({
        "path": text,
        "shown": shown_path(&document.path),
        "kind": document.kind,
        "bytes": document.size_bytes,
        "modified": Timestamp::from_second(document.modified.0).ok(),
        "sha256": document.sha256,
        "first_name": document.first.as_ref().map(|first| shown_path(first)),
    })
}
