//! `example`: a complete configuration with comments, for somebody who has the binary alone.

use crate::config::EXAMPLE;
use crate::report::{FORMAT_VERSION, Report};
use serde_json::json;

/// Prints the example.
pub fn run() -> Report {
    Report {
        document: json!({ "format_version": FORMAT_VERSION, "example": EXAMPLE }),
        text: EXAMPLE.to_owned(),
        failure: None,
    }
}
