//! Documents folders that are the same in every run.

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// One in this many files changes between two days of the work "one per cent changed".
const CHANGED_ONE_IN: u32 = 100;

/// Files as in a real Dolibarr instance: invoices of 9 to 36 KB, scans of 30 to 300 KB, a few photographs and a little
/// text. Their average size is 74 KB, and gzip saves about two per cent.
pub fn realistic(tree: &Path, mib: u64) -> Result<()> {
    if tree.is_dir() {
        return Ok(());
    }
    let mut chance = StdRng::seed_from_u64(mib);
    let (mut written, mut number) = (0_u64, 0_u32);
    while written < mib << 20 {
        let (name, size, structure) = match number % 20 {
            0..=12 => ("pdf", chance.random_range(9_000..36_000), 14),
            13..=17 => ("scan.pdf", chance.random_range(30_000..300_000), 8),
            18 => ("jpg", chance.random_range(100_000..900_000), 1),
            _ => ("txt", chance.random_range(100..12_000), 0),
        };
        let folder = tree.join(format!("facture/{:04}/FA{:06}", number / 2_000, number / 2));
        fs::create_dir_all(&folder)?;
        let mut bytes = vec![0_u8; size];
        chance.fill_bytes(&mut bytes);
        if name == "txt" {
            bytes.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu\n"[usize::from(*byte) % 14]);
        }
        let mut file = File::create(folder.join(format!("{number:06}.{name}")))?;
        for object in 0..structure {
            writeln!(file, "{object} 0 obj << /Type /Page /Parent 1 0 R /Contents {number} 0 R >> endobj")?;
        }
        file.write_all(&bytes)?;
        written += size as u64;
        number += 1;
    }
    Ok(())
}

/// Makes small changes to one per cent of the files, as in a day's work.
pub fn change(tree: &Path, day: usize) -> Result<u32> {
    let (mut seen, mut changed) = (0_u32, 0);
    visit(tree, &mut |file| {
        seen += 1;
        if seen.is_multiple_of(CHANGED_ONE_IN) {
            let mut file = File::options().append(true).open(file)?;
            writeln!(file, "% changed on day {day}")?;
            changed += 1;
        }
        Ok(())
    })?;
    Ok(changed)
}

/// Number of files.
pub fn files(tree: &Path) -> Result<u32> {
    let mut seen = 0;
    visit(tree, &mut |_| {
        seen += 1;
        Ok(())
    })?;
    Ok(seen)
}

/// The path, relative to the tree, of a file near the middle.
pub fn one(tree: &Path) -> Result<String> {
    let (middle, mut seen, mut found) = ((files(tree)? / 2).max(1), 0, String::new());
    visit(tree, &mut |file| {
        seen += 1;
        if seen == middle {
            found = file.strip_prefix(tree)?.display().to_string();
        }
        Ok(())
    })?;
    Ok(found)
}

fn visit(folder: &Path, see: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() { visit(&entry.path(), see)? } else { see(&entry.path())? }
    }
    Ok(())
}

/// Files of a few hundred bytes.
pub fn tiny(tree: &Path, count: u32) -> Result<()> {
    if tree.is_dir() {
        return Ok(());
    }
    for number in 0..count {
        let folder = tree.join(format!("{:04}", number / 250));
        if number % 250 == 0 {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("{number:07}.xml")), format!("<row id=\"{number}\"/>").repeat(12))?;
    }
    Ok(())
}

/// One sparse file: a few bytes at each end and a hole between them.
pub fn sparse(tree: &Path, gib: u64) -> Result<()> {
    if tree.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(tree)?;
    let mut file = File::create(tree.join("image.raw"))?;
    file.write_all(b"begin")?;
    file.seek(SeekFrom::Start((gib << 30) - 3))?;
    file.write_all(b"end")?;
    Ok(())
}

/// Files with only random or only repetitive content.
pub fn uniform(tree: &Path, mib: u64, random: bool) -> Result<()> {
    if tree.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(tree)?;
    let mut chance = StdRng::seed_from_u64(mib);
    for number in 0..mib {
        let mut bytes = vec![0_u8; 1 << 20];
        if random {
            chance.fill_bytes(&mut bytes);
        } else {
            for line in bytes.chunks_mut(64) {
                let text = format!(
                    "{:010};411000;FA2601-{:04};1234.56;EUR;2026-06-30;VT;client\n",
                    chance.random_range(0..99_999),
                    number
                );
                let length = line.len().min(text.len());
                line[..length].copy_from_slice(&text.as_bytes()[..length]);
            }
        }
        fs::write(tree.join(format!("{number:06}.dat")), bytes)?;
    }
    Ok(())
}
