//! Rows and folders as Dolibarr writes them, and the findings about them.

use super::*;

const MD5: &str = "4b085cf509b8ace4259e8097f8d04662";

fn row(entity: &str, folder: &str, name: &str, label: &str) -> [Option<String>; 4] {
    [entity, folder, name, label].map(|value| Some(value.to_owned()))
}

fn named(path: &str) -> Noted {
    Noted { key: key(path), path: path.into(), elsewhere: None, md5: Some(MD5.into()) }
}

/// A row's key: a different one for each path.
fn key(path: &str) -> i64 {
    path.bytes().fold(0, |key, byte| key * 31 + i64::from(byte))
}

fn file() -> Found {
    Found::File(MD5.into())
}

fn verdicts(comparison: &Comparison) -> Vec<(Check, Verdict)> {
    comparison.findings().into_iter().map(|finding| (finding.check, finding.verdict)).collect()
}

#[test]
fn a_row_names_one_path_and_for_other_companies_a_second_one() {
    for (entity, folder, name, path, elsewhere) in [
        ("1", "facture/FA2601-0001", "FA2601-0001.pdf", "facture/FA2601-0001/FA2601-0001.pdf", None),
        ("2", "2/facture/FA1", "FA1.pdf", "2/facture/FA1/FA1.pdf", None),
        ("2", "facture/FA1", "FA1.pdf", "facture/FA1/FA1.pdf", Some("2/facture/FA1/FA1.pdf")),
        ("2", "20/x", "a.pdf", "20/x/a.pdf", Some("2/20/x/a.pdf")),
        ("1", "", "a.pdf", "a.pdf", None),
        ("0", "/medias//image/./", "/a b.png", "medias/image/a b.png", None),
        ("", "x", "é.pdf", "x/é.pdf", None),
        ("-1", "x", "a", "x/a", None),
        ("99999999999", "x", "a", "x/a", None),
        // A path that leads out of the folder is requested unchanged: the host finds nothing there.
        ("1", "../..", "etc/passwd", "../../etc/passwd", None),
    ] {
        let noted = noted(7, &row(entity, folder, name, MD5)).unwrap();
        assert_eq!((noted.path.as_str(), noted.elsewhere.as_deref()), (path, elsewhere), "{entity} {folder} {name}");
    }
    for name in ["", "/"] {
        assert_eq!(noted(7, &row("1", "facture", name, MD5)), None);
    }
    assert_eq!(noted(7, &[None, None, None, None]), None);
}

#[test]
fn only_an_md5_is_compared_and_its_case_does_not_matter() {
    for (label, expected) in [
        (MD5.to_owned(), Some(MD5)),
        (MD5.to_uppercase(), Some(MD5)),
        (String::new(), None),
        ("facture".into(), None),
        (format!("{MD5}0"), None),
        (MD5.replace('4', "g"), None),
    ] {
        assert_eq!(noted(7, &row("1", "x", "y", &label)).unwrap().md5.as_deref(), expected, "{label}");
    }
}

#[test]
fn an_empty_comparison_passes_and_so_do_documents_that_agree() {
    let mut comparison = Comparison::new(Settings::default());
    let all_passed =
        |comparison: &Comparison| verdicts(comparison).iter().all(|(_, verdict)| *verdict == Verdict::Passed);
    assert!(all_passed(&comparison));
    for n in 0..1_000 {
        assert_eq!(comparison.settle(named(&format!("f/{n}.pdf")), file()), None);
    }
    for n in 0..1_000 {
        comparison.saw(format!("f/{n}.pdf"));
    }
    comparison.saw("f/temp/x.pdf".into());
    assert!(all_passed(&comparison), "{:?}", comparison.totals);
    assert_eq!(comparison.totals.compared, 1_000);
}

#[test]
fn missing_altered_unreadable_and_orphaned_documents_are_distinguished() {
    let mut comparison = Comparison::new(Settings::default());
    for (path, found) in [
        ("good", file()),
        ("gone", Found::Missing),
        ("folder", Found::NotAFile),
        ("changed", Found::File("0".repeat(32))),
        ("locked", Found::Unreadable),
    ] {
        assert_eq!(comparison.settle(named(path), found), None);
    }
    none_left_out(&mut comparison);
    for path in ["good", "changed", "locked", "stranger"] {
        comparison.saw(path.into());
    }
    let Totals { compared, missing, altered, orphaned, .. } = &comparison.totals;
    assert_eq!(*compared, 5);
    assert_eq!((missing.total, missing.first.as_slice()), (2, &[key("folder"), key("gone")][..]));
    assert_eq!(altered.first, ["changed", "locked"].map(key));
    assert_eq!(orphaned.first, ["stranger"]);
    let expected =
        [(Check::Present, Verdict::Failed), (Check::Unaltered, Verdict::Failed), (Check::Known, Verdict::Noted)];
    assert_eq!(verdicts(&comparison), expected);
    let counts: Vec<_> = comparison.findings().iter().map(|finding| (finding.count, finding.total)).collect();
    assert_eq!(counts, [(3, 5), (2, 5), (1, 4)]);
}

/// Records that no exclude pattern explains the missing documents.
fn none_left_out(comparison: &mut Comparison) {
    let missing = comparison.take_missing();
    comparison.missing(missing.into_iter().map(|(key, _)| (key, false)));
}

#[test]
fn a_document_that_the_archive_leaves_out_is_noted_but_not_missing() {
    let mut comparison = Comparison::new(Settings::default());
    for path in ["gone", "a.log"] {
        comparison.settle(named(path), Found::Missing);
    }
    let missing = comparison.take_missing();
    assert_eq!(missing, ["gone", "a.log"].map(|path| (key(path), path.to_owned())));
    comparison.missing(missing.into_iter().map(|(key, path)| (key, path.ends_with(".log"))));
    assert_eq!(comparison.totals.missing.first, [key("gone")]);
    let found = comparison.findings();
    let found: Vec<_> =
        found.iter().map(|finding| (finding.check, finding.verdict, finding.count, finding.total)).collect();
    assert!(found.contains(&(Check::Present, Verdict::Failed, 0, 2)), "{found:?}");
    assert!(found.contains(&(Check::LeftOut, Verdict::Noted, 1, 2)), "{found:?}");
    assert_eq!(comparison.take_missing(), []);
}

#[test]
fn a_document_of_another_company_is_also_looked_for_in_the_companys_folder() {
    let mut comparison = Comparison::new(Settings::default());
    let noted = noted(7, &row("2", "facture/FA1", "FA1.pdf", MD5)).unwrap();
    let again = comparison.settle(noted, Found::Missing).expect("there is another place");
    assert_eq!((again.path.as_str(), comparison.totals.compared), ("2/facture/FA1/FA1.pdf", 0));
    assert_eq!(comparison.settle(again, file()), None);
    comparison.saw("2/facture/FA1/FA1.pdf".into());
    assert_eq!((comparison.totals.compared, comparison.totals.orphaned.total), (1, 0));
}

#[test]
fn settings_decide_what_a_difference_means_and_the_rest_is_noted() {
    let settings = Settings {
        missing: Meaning::Report,
        altered: Meaning::Report,
        orphaned: Meaning::Fail,
        shown: 1,
        ..Settings::default()
    };
    let mut comparison = Comparison::new(settings);
    for n in 0..3 {
        comparison.settle(named(&format!("gone{n}")), Found::Missing);
        comparison.saw(format!("stranger{n}"));
    }
    none_left_out(&mut comparison);
    comparison.settle(Noted { md5: None, ..named("old") }, file());
    comparison.nameless();
    comparison.unseen(2);
    assert_eq!(comparison.totals.missing, First { total: 3, first: vec![key("gone0")] });
    let verdicts: Vec<Verdict> = verdicts(&comparison).into_iter().map(|(_, verdict)| verdict).collect();
    let (noted, failed) = (Verdict::Noted, Verdict::Failed);
    assert_eq!(verdicts, [noted, Verdict::Passed, failed, noted, noted, noted]);
}

#[test]
fn a_log_is_counted_with_one_head_for_each_company() {
    let mut log = Log::default();
    assert_eq!(log.finding(0).verdict, Verdict::Skipped);
    for (key, company) in [(1, "1"), (2, "2"), (5, "1")] {
        log.entry(key, company, true);
    }
    let heads: Vec<_> = log.heads().map(|head| (head.entries, head.last)).collect();
    assert_eq!(heads, [(2, 5), (1, 2)]);
    let finding = log.finding(3);
    assert_eq!((finding.verdict, finding.count, finding.total), (Verdict::Passed, 3, 3));
    assert_eq!(log.finding(4).verdict, Verdict::Failed, "one entry was not read");
    log.entry(6, "1", false);
    assert_eq!(log.finding(4).verdict, Verdict::Failed, "an entry without a signature breaks the chain");
}

#[test]
fn each_check_has_its_number_a_unique_name_and_says_what_it_counts() {
    let names: std::collections::BTreeSet<_> = Check::ALL.into_iter().map(Check::name).collect();
    assert_eq!(names.len(), Check::ALL.len());
    for (number, check) in Check::ALL.into_iter().enumerate() {
        assert_eq!(check as usize, number);
        assert!(!check.counts("llx_ecm_files", "llx_blockedlog").is_empty());
    }
}
