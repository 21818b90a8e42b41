//! The binary: parse, run, exit. The one place that reads the clock.

use base::telemetry;
use dolibarr_backup::cli;
use plugin::compile;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = compile::run_child(std::env::args_os().skip(1)) {
        return ExitCode::from(code);
    }
    compile::compile_in_children();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    telemetry::init();
    ExitCode::from(cli.run(clock))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn clock() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
