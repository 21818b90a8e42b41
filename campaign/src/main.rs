//! `campaign`: simulates histories, one per seed, and prints those that break a rule.

use campaign::{Tally, simulate};
use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Parser)]
struct Arguments {
    /// Number of histories
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// First seed; each further history uses the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Years of each history
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=40))]
    years: u16,
}

fn main() -> ExitCode {
    let Arguments { runs, seed, years } = Arguments::parse();
    let (began, next) = (Instant::now(), AtomicU64::new(seed));
    let (total, failures) = (Mutex::new(Tally::default()), Mutex::new(0_u64));
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed_of_history = next.fetch_add(1, Ordering::Relaxed);
                    if seed_of_history >= seed + runs {
                        return;
                    }
                    match simulate(seed_of_history, years) {
                        Ok(tally) => {
                            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                            *total = total.plus(tally);
                        }
                        Err(failure) => {
                            println!("{failure}");
                            *failures.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                        }
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let simulated = runs * u64::from(years);
    println!(
        "{simulated} years in {} s, {failures} of {runs} histories broke a rule; {total}",
        began.elapsed().as_secs()
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
