//! A small Dolibarr instance made for this project: a database and its documents folder.
//!
//! Except for the files' owners and change times, nothing in it depends on a clock, on chance or on the machine.

use md5::Md5;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Number of invoices in the database. Each has a PDF in the documents.
pub const INVOICES: u32 = 60;

/// 2026-06-30T00:00:00Z, the modification time of every file.
const MODIFIED_SECONDS: u64 = 1_782_777_600;

/// Size of the smallest PDF. Real ones with a logo have 9 to 36 KB.
const PDF_BYTES_MIN: usize = 9_000;

/// Largest difference between the sizes of PDFs.
const PDF_BYTES_SPREAD: usize = 27_000;

/// Paths below the documents that a backup leaves out with Dolibarr's default excludes.
pub const EXCLUDED: [&str; 6] = [
    "admin/backup/pgsqldump_dolibarr_20260601.sql.gz",
    "admin/documents/documents_20260601.tar.gz",
    "dolibarr.log",
    "facture/FA2601-0001/FA2601-0001.pdf_preview-0.png",
    "facture/temp/FA2601-0001.odt",
    "users/1/temp/export.csv",
];

/// Changes business data: one invoice's public note and its ledger line.
pub const CHANGE_INVOICE: &str = "\
UPDATE llx_facture SET note_public = 'corrigé', total_ht = total_ht + 1, total_ttc = total_ttc + 1 WHERE ref = 'FA2606-0060';
UPDATE llx_accounting_bookkeeping SET debit = debit + 1 WHERE doc_ref = 'FA2606-0060' AND numero_compte = '411';
";

/// Makes the changes of a login, which are not business data.
pub const LOGIN: &str = "\
UPDATE llx_user SET datepreviouslogin = datelastlogin, ippreviouslogin = iplastlogin, datelastlogin = '2026-07-01 08:00',
    iplastlogin = '192.0.2.77' WHERE login = 'user1';
INSERT INTO llx_events (type, dateevent, fk_user, description, ip)
    VALUES ('USER_LOGIN', '2026-07-01 08:00', 1, 'UserLogged,user1', '192.0.2.77');
INSERT INTO llx_session VALUES ('77aa01', '', '2026-07-01 08:00', 1, '192.0.2.77', 'Mozilla/5.0');
";

/// Makes the changes of a run of Dolibarr's scheduler, which are not business data.
pub const CRON_TICK: &str = "\
UPDATE llx_cronjob SET datelastrun = '2026-07-01 02:00', datenextrun = '2026-07-02 02:00', datelastresult = '2026-07-01 02:00',
    nbrun = nbrun + 1, lastoutput = 'done', lastresult = '0';
";

/// SQL that creates the tables and rows in an empty database.
pub fn sql() -> String {
    let mut sql = [include_str!("sample/schema.sql"), include_str!("sample/rows.sql")].concat();
    for number in 1..=INVOICES {
        let name = invoice(number);
        let label = hex::encode(Md5::digest(pdf(&name)));
        let _ = writeln!(
            sql,
            "INSERT INTO llx_ecm_files (ref, label, filepath, filename, src_object_type, src_object_id, gen_or_uploaded, date_c, tms) \
             VALUES ('{}', '{label}', 'facture/{name}', '{name}.pdf', 'facture', {number}, 'generated', '2026-06-30', '2026-06-30');",
            hex::encode(Md5::digest(&name)),
        );
    }
    sql
}

/// The name of an invoice, counted from 1: `FA2601-0001`.
pub fn invoice(number: u32) -> String {
    format!("FA26{:02}-{number:04}", 1 + (number.max(1) - 1) / 10)
}

/// Creates the documents folder, including the [`EXCLUDED`] documents. Fails if the folder exists.
pub fn write_documents(root: &Path) -> io::Result<()> {
    fs::create_dir(root)?;
    for number in 1..=INVOICES {
        let name = invoice(number);
        write(root, &format!("facture/{name}/{name}.pdf"), &pdf(&name))?;
    }
    for (path, bytes) in [
        ("install.lock", &b""[..]),
        ("blockedlog/archives/2026-06.csv", b"id;signature\n1;00\n"),
        ("societe/12/Contrat sign\u{e9} \u{2013} \u{e9}t\u{e9}.pdf", &pdf("contrat")),
        ("societe/3/re\u{301}sume\u{301} (copie).txt", b"decomposed accents\n"),
        ("produit/P001/photo no 1 & 2.jpg", &noise("photo", 20_000)),
        ("users/1/signature.png", &noise("signature", 1_000)),
        ("medias/image/logo 'bleu'.svg", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>\n"),
    ] {
        write(root, path, bytes)?;
    }
    EXCLUDED.iter().try_for_each(|path| write(root, path, &noise(path, 2_000)))?;
    fs::create_dir_all(root.join("facture/(PROV61)"))
}

/// Rewrites the PDF of the last invoice, as Dolibarr does after a correction.
pub fn rewrite_invoice_pdf(root: &Path) -> io::Result<()> {
    let name = invoice(INVOICES);
    let path = root.join(format!("facture/{name}/{name}.pdf"));
    fs::write(&path, pdf(&format!("{name} corrected")))?;
    stamp(&path, MODIFIED_SECONDS + 86_400)
}

fn write(root: &Path, path: &str, bytes: &[u8]) -> io::Result<()> {
    let path = root.join(path);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(&path, bytes)?;
    stamp(&path, MODIFIED_SECONDS)
}

fn stamp(path: &Path, seconds: u64) -> io::Result<()> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().write(true).open(path)?.set_times(FileTimes::new().set_modified(at).set_accessed(at))
}

/// A file that a compressor and `file` take for a PDF: a header, one incompressible stream and a trailer.
fn pdf(name: &str) -> Vec<u8> {
    let seed = Sha256::digest(name);
    let bytes = PDF_BYTES_MIN + usize::from(u16::from_be_bytes([seed[0], seed[1]])) % PDF_BYTES_SPREAD;
    let mut text = format!("%PDF-1.7\n1 0 obj\n<< /Length {bytes} /Filter /FlateDecode >>\nstream\n").into_bytes();
    text.extend(noise(name, bytes));
    text.extend(b"\nendstream\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n");
    text
}

/// Incompressible bytes that depend only on the name.
fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let blocks = (0u32..).map(|block| Sha256::new().chain_update(name).chain_update(block.to_be_bytes()).finalize());
    blocks.flatten().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_same_every_time() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        write_documents(&one).expect("written");
        write_documents(&two).expect("written");
        assert_eq!(listing(&one), listing(&two));
        assert!(write_documents(&one).is_err(), "an existing folder is not overwritten");
    }

    #[test]
    fn every_label_of_the_database_is_the_digest_of_its_file() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let root = scratch.path().join("documents");
        write_documents(&root).expect("written");
        let sql = sql();
        for number in 1..=INVOICES {
            let name = invoice(number);
            let file = fs::read(root.join(format!("facture/{name}/{name}.pdf"))).expect("the invoice's PDF");
            let row = format!("'{}', 'facture/{name}', '{name}.pdf'", hex::encode(Md5::digest(file)));
            assert!(sql.contains(&row), "no row {row}");
        }
    }

    #[test]
    fn a_rewritten_pdf_differs_in_bytes_and_time() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let root = scratch.path().join("documents");
        write_documents(&root).expect("written");
        let before = listing(&root);
        rewrite_invoice_pdf(&root).expect("written");
        let changed = listing(&root).into_iter().filter(|entry| !before.contains(entry)).count();
        assert_eq!(changed, 1);
    }

    #[test]
    fn invoices_are_named_by_month_and_number() {
        for (number, name) in [(1, "FA2601-0001"), (10, "FA2601-0010"), (11, "FA2602-0011"), (60, "FA2606-0060")] {
            assert_eq!(invoice(number), name);
        }
    }

    /// Path, content and time of every file.
    fn listing(root: &Path) -> Vec<(String, Vec<u8>, SystemTime)> {
        let mut files = Vec::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let name = entry.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                let modified = fs::metadata(&entry).and_then(|meta| meta.modified()).expect("its time");
                files.push((name, fs::read(&entry).expect("its bytes"), modified));
            }
        }
        files.sort();
        files
    }
}
