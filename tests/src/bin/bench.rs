//! Measures the built binary side by side with its peers, in one run on one store, and prints a table.
//!
//! `cargo xtask bench` builds what it needs and starts it. It is no test: nothing fails on a number.

use anyhow::{Context, Result, ensure};
use rand::{Rng, RngExt, SeedableRng};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::binary::Config;
use tests::garage::Garage;

/// How often a process's peak is read. The kernel keeps the peak, so only the last moment before the end can be missed.
const PEAK_INTERVAL: Duration = Duration::from_millis(5);

/// Sizes of the documents trees, in MiB.
const TREES_MIB: [u64; 2] = [100, 4_096];

/// Times each piece of work is done; the median is shown.
const ROUNDS: usize = 3;

struct Measured {
    seconds: f64,
    peak_mib: f64,
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).context("usage: bench FOLDER BINARY")?);
    let binary = PathBuf::from(std::env::args().nth(2).context("usage: bench FOLDER BINARY")?);
    fs::create_dir_all(&folder)?;
    let mut table = String::from(
        "| documents | work | median s | of `tar -czf` | peak MiB | stored of `tar -czf` |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for mib in TREES_MIB {
        let tree = folder.join(format!("documents-{mib}"));
        if !tree.is_dir() {
            write_tree(&tree, mib)?;
        }
        measure_tree(&folder, &binary, &tree, mib, &mut table)?;
    }
    let report = format!("{}\n{table}", machine()?);
    print!("{report}");
    Ok(())
}

/// Alternates between the peers, so that a machine that slows down slows all of them down.
fn measure_tree(folder: &Path, binary: &Path, tree: &Path, mib: u64, table: &mut String) -> Result<()> {
    let garage = tests::garage::program().ok().map(|_| Garage::start()).transpose()?;
    let (mut cat, mut tar, mut file, mut s3) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut tar_bytes, mut file_bytes) = (0, 0);
    for _ in 0..ROUNDS {
        cat.push(measured(
            Command::new("sh").arg("-c").arg("find . -type f -print0 | xargs -0 cat > /dev/null").current_dir(tree),
        )?);
        let archive = folder.join("peer.tar.gz");
        tar.push(measured(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(tree).arg("."))?);
        tar_bytes = fs::metadata(&archive)?.len();
        fs::remove_file(&archive)?;
        let store = folder.join("store");
        drop(fs::remove_dir_all(&store));
        file.push(measured(&mut backup(folder, binary, Config::directory_store(&store), tree)?)?);
        file_bytes = largest(&store);
        fs::remove_dir_all(&store)?;
        if let Some(garage) = &garage {
            let url = format!("s3://{}/bench-{}", Garage::BUCKET, rand::random::<u32>());
            let config = Config::s3_store(&url, &garage.endpoint(), Garage::REGION, "garage", &garage.credentials());
            s3.push(measured(&mut backup(folder, binary, config, tree)?)?);
        }
    }
    let (base, _) = median(&tar);
    let stored = format!("{:.3}", file_bytes as f64 / tar_bytes as f64);
    let rows = [
        ("`cat` of all files", &cat, ""),
        ("`tar -czf` to a file", &tar, "1"),
        ("first backup to `file://`", &file, stored.as_str()),
        ("first backup to Garage by http", &s3, ""),
    ];
    for (work, runs, stored) in rows.into_iter().filter(|(_, runs, _)| !runs.is_empty()) {
        let (seconds, peak_mib) = median(runs);
        writeln!(table, "| {mib} MiB | {work} | {seconds:.2} | {:.2} | {peak_mib:.0} | {stored} |", seconds / base)?;
    }
    Ok(())
}

fn backup(folder: &Path, binary: &Path, config: Config, tree: &Path) -> Result<Command> {
    let config = config.documents(("prod", "docs"), tree).write(folder)?;
    let mut command = Command::new(binary);
    command.args(["backup", "--env", "prod", "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn measured(command: &mut Command) -> Result<Measured> {
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(peak(&child));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(PEAK_INTERVAL);
    };
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Measured { seconds: began.elapsed().as_secs_f64(), peak_mib: f64::from(peak_kib) / 1_024.0 })
}

/// The kernel's high-water mark of a process's resident memory, in KiB.
fn peak(child: &Child) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn median(runs: &[Measured]) -> (f64, f64) {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let peak = runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
    (middle(runs.iter().map(|run| run.seconds).collect()), peak)
}

fn largest(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|e| if e.path().is_dir() { largest(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
        .max()
        .unwrap_or(0)
}

/// Files as an invoice archive has them: 30 to 300 KB, a little text around bytes that do not shrink.
fn write_tree(tree: &Path, mib: u64) -> Result<()> {
    let mut chance = rand::rngs::StdRng::seed_from_u64(mib);
    let (mut written, mut number) = (0_u64, 0_u32);
    while written < mib << 20 {
        let folder = tree.join(format!("facture/FA{:04}/FA{number:06}", number / 1_000));
        fs::create_dir_all(&folder)?;
        let mut bytes = vec![0_u8; chance.random_range(30_000..300_000)];
        chance.fill_bytes(&mut bytes);
        let mut file = fs::File::create(folder.join(format!("FA{number:06}.pdf")))?;
        for object in 0..12 {
            writeln!(file, "{object} 0 obj << /Type /Page /Parent 1 0 R /Contents {number} 0 R >> endobj")?;
        }
        file.write_all(&bytes)?;
        written += bytes.len() as u64;
        number += 1;
    }
    Ok(())
}

fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores, {model}; medians of {ROUNDS} alternating rounds, largest peak\n"))
}
