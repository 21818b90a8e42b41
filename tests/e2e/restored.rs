//! Restores complete documents folders and single documents, from a folder and from a server, and compares them with
//! what was saved. Also checks the message if nothing can be restored.

use crate::scene::{Scene, complains, excluded, key, manifest, raw, succeed};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use tests::garage::Garage;
use tests::gcs::{Gcs, Operation, Transport};

/// Adds entries that are rare in a Dolibarr but that an archive must preserve.
fn complicate(documents: &Path) {
    let at = |name: &str| documents.join(name);
    std::fs::create_dir_all(at("facture/empty folder")).unwrap();
    std::fs::write(documents.join(raw(b"caf\xe9 \x1b[31m.txt")), "latin").unwrap();
    std::fs::hard_link(at("install.lock"), at("users/hard link")).unwrap();
    symlink("/etc/passwd", at("out")).unwrap();
    // Entries that are named like Dolibarr's temporary ones but were named by a person or are in other places.
    std::fs::create_dir_all(at("ecm/temp")).unwrap();
    std::fs::create_dir_all(at("ticket/TS1/temp")).unwrap();
    for name in ["ecm/temp/contrat.odt", "ticket/TS1/server.log", "ticket/TS1/temp/x"] {
        std::fs::write(at(name), name).unwrap();
    }
    let mut large = vec![0_u8; 6 << 20];
    for (n, byte) in large.iter_mut().enumerate().filter(|(n, _)| n >> 20 != 3) {
        *byte = ((n * 2_654_435_761) >> 7) as u8;
    }
    std::fs::write(at("large"), large).unwrap();
    std::fs::set_permissions(at("large"), std::fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(at("large"), Some(33), Some(33)).unwrap();
    }
    attribute(&at("install.lock"), "user.comment", b"line\nbreak \0 \xff");
    attribute(&at("ecm"), "user.of.a.folder", b"1");
    for (name, lists) in
        [("large", &["system.posix_acl_access"][..]), ("ecm", &["system.posix_acl_access", "system.posix_acl_default"])]
    {
        for list in lists {
            attribute(&at(name), list, &list_of(1_000));
        }
    }
}

/// Sets an attribute of a file or folder. If the file system does not support it, records the skip.
fn attribute(path: &Path, name: &str, value: &[u8]) {
    match rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()) {
        Err(rustix::io::Errno::NOTSUP) => tests::skip(&format!("this file system has no attributes as `{name}`")),
        set => set.unwrap(),
    }
}

/// An access control list in the kernel's format: the owner has all rights, one user may read, the group has no rights.
fn list_of(user: u32) -> Vec<u8> {
    let entries =
        [(0x01_u16, 7_u16, u32::MAX), (0x02, 5, user), (0x04, 0, u32::MAX), (0x10, 5, u32::MAX), (0x20, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    list
}

/// Asserts that a folder has exactly what a backup of the scene's documents must restore.
#[track_caller]
pub fn same(scene: &Scene, folder: &Path) {
    let restored = manifest(folder, |_, _| false);
    let expected = manifest(&scene.documents, excluded);
    let shown = |lines: Vec<&Vec<u8>>| {
        let cut = |line: &&Vec<u8>| String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
        lines.iter().map(cut).collect::<Vec<_>>()
    };
    let missing = shown(expected.difference(&restored).collect());
    let surplus = shown(restored.difference(&expected).collect());
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
}

#[test]
fn a_folder_comes_back_from_a_directory_as_it_was() {
    let Some(scene) = Scene::small() else { return };
    complicate(&scene.documents);
    scene.backup(&["--now", "2026-06-30T01:00:00Z"]);
    let into = scene.folder.path().join("restored");
    let arguments = ["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()];

    let stored = scene.stored();
    let planned = scene.run(["--json"].into_iter().chain(arguments).chain(["--dry-run"])).expect_code(0).json();
    assert!(!into.exists());
    assert_eq!(planned["plan"]["snapshot"], "20260630T010000Z");
    assert_eq!(planned["plan"]["index"], "prod/docs/20260630T010000Z.index");
    assert_eq!((planned["format_version"].as_u64(), planned["dry_run"].as_bool()), (Some(1), Some(true)));

    let done = scene.run(["--json"].into_iter().chain(arguments)).expect_code(0).json();
    same(&scene, &into);
    assert_eq!(done["restored"]["files"], planned["plan"]["files"]);
    assert_eq!(done["restored"]["bytes"], planned["plan"]["bytes"]);
    assert_eq!((&done["restored"]["compared"], &done["restored"]["lacking_total"]), (&"equal".into(), &0.into()));
    let record: serde_json::Value = serde_json::from_slice(&stored["prod/snapshots/20260630T010000Z.json"]).unwrap();
    let archive = &record["sources"]["docs"]["archive"];
    assert_eq!((&archive["links_out"][0], &archive["links_out_total"]), (&"out".into(), &1.into()));
    assert!(archive["excluded_names"].as_array().unwrap().contains(&"dolibarr.log".into()), "{archive}");
    let deep = scene.run(["--json", "verify", "--env", "prod", "--deep"]).expect_code(0).json();
    let docs = &deep["verifications"][0]["sources"]["docs"];
    assert_eq!(docs["compared"], "equal", "{docs}");
    let verified = |stored: &std::collections::BTreeMap<String, Vec<u8>>| {
        stored
            .iter()
            .filter(|(key, _)| !key.contains("/verified/"))
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(verified(&scene.stored()), verified(&stored), "a restore changed the store");
    complains(&scene.run(arguments), 2, "is not empty");

    let again = scene.folder.path().join("again");
    std::fs::create_dir(&again).unwrap();
    let words = "restore --env prod --source docs --ignore-index --into".split(' ').chain([again.to_str().unwrap()]);
    let said = scene.run(words);
    let said = said.expect_code(0);
    assert!(said.stdout.contains("without an index") && said.stdout.contains("restored"), "{}", said.stdout);
    same(&scene, &again);
}

#[test]
fn a_restore_goes_into_neither_the_source_nor_the_store_and_an_empty_folder_lends_no_rights() {
    let Some(scene) = Scene::small() else { return };
    scene.backup(&[]);
    let into =
        |path: &Path| scene.run(["restore", "--env", "prod", "--source", "docs", "--into", path.to_str().unwrap()]);
    let linked = scene.folder.path().join("linked");
    symlink(&scene.documents, &linked).unwrap();
    for path in [scene.documents.join("ecm/r"), linked.join("r")] {
        complains(&into(&path), 2, "is inside the folder that `docs` backs up");
        assert!(!path.exists());
    }
    complains(&into(&scene.store.join("prod/docs/r")), 2, "is inside the store");
    let empty = scene.folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        attribute(&empty, list, &list_of(65_534));
    }
    let _ = into(&empty).expect_code(0);
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        assert!(rustix::fs::getxattr(&empty, list, &mut [0_u8; 512][..]).is_err(), "{list} was not removed");
    }
    same(&scene, &empty);
}

#[test]
fn a_dump_that_brings_no_row_back_is_no_snapshot_to_rely_on() {
    let Some(scene) = Scene::small() else { return };
    std::fs::create_dir_all(scene.store.join("prod/db")).unwrap();
    let dump = scene.store.join("prod/db/20260601T010000Z.dump");
    for (arguments, says) in [
        (&["-Fc", "--schema-only"][..], "but no rows, as made by pg_dump --schema-only"),
        (&["-Fc", "--data-only"], "made with pg_dump --data-only"),
        (&["-Fp"], "plain SQL, which this program does not support"),
        (&["-Ft"], "pg_dump's tar form"),
    ] {
        let output = scene.server.client("pg_dump").args(arguments).arg(crate::scene::DATABASE).output().unwrap();
        std::fs::write(&dump, output.stdout).unwrap();
        let which = ["--env", "prod", "--snapshot", "20260601T010000Z"];
        complains(&scene.run(["verify"].into_iter().chain(which)), 4, says);
        let to = ["restore", "--source", "db", "--into", "x", "--server", "postgres://x@192.0.2.1/"];
        complains(&scene.run(to.into_iter().chain(which)), 4, says);
    }
}

#[test]
fn a_folder_and_a_document_come_back_from_a_server_with_few_requests() {
    let Some(mut scene) = Scene::small().and_then(Scene::on_garage) else { return };
    complicate(&scene.documents);
    let garage = scene.garage.clone().unwrap();
    let gcs = Gcs::start(garage.port(), Transport::Plain).unwrap();
    let url = format!("s3://{}/restore-{}", Garage::BUCKET, rand::random::<u32>());
    let config = tests::binary::Config::s3_store(&url, &gcs.endpoint(), Garage::REGION, "gcs", &garage.credentials());
    scene.config = Scene::sources(config, &scene.server, scene.folder.path());
    scene.backup(&[]);

    let into = scene.folder.path().join("restored");
    let _ =
        scene.run(["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()]).expect_code(0);
    same(&scene, &into);

    let before = gcs.seen().len();
    let path = format!("facture/{0}/{0}.pdf", tests::sample::invoice(7));
    let output = scene.folder.path().join("one.pdf");
    let got = scene.run(["--json", "get", "--env", "prod", &path, "--output", output.to_str().unwrap()]);
    let got = got.expect_code(0).json();
    assert_eq!(got["documents"][0]["path"], path.as_str());
    assert_eq!(std::fs::read(output).unwrap(), std::fs::read(scene.documents.join(&path)).unwrap());
    let seen = gcs.seen();
    let of_objects: Vec<_> = seen[before..]
        .iter()
        .filter(|request| request.operation == Operation::GetObject && request.target.contains("/docs/"))
        .map(|request| (request.target.contains(".index"), request.header("range").is_some()))
        .collect();
    assert_eq!(of_objects, [(true, false), (false, true)], "the index, and a range of the archive");
}

#[test]
fn a_document_goes_to_stdout_or_to_new_files_and_never_over_one_that_exists() {
    let Some(scene) = Scene::small() else { return };
    complicate(&scene.documents);
    scene.backup(&[]);
    let get = |more: &[&str]| scene.run(["get", "--env", "prod"].into_iter().chain(more.iter().copied()));
    let csv = get(&["blockedlog/archives/2026-06.csv"]).expect_code(0);
    assert_eq!(csv.stdout, "id;signature\n1;00\n");
    let folder = scene.folder.path().join("out");
    std::fs::create_dir(&folder).unwrap();
    let output = ["--output", folder.to_str().unwrap()];
    let _ = get(&[&["large", "users/hard link"][..], &output[..]].concat()).expect_code(0);
    assert_eq!(std::fs::read(folder.join("large")).unwrap(), std::fs::read(scene.documents.join("large")).unwrap());
    assert_eq!(std::fs::read(folder.join("hard link")).unwrap(), b"");
    complains(&get(&[&["large"][..], &output[..]].concat()), 2, "already exists");
    complains(&get(&["large", "install.lock"]), 2, "several documents");
    complains(&get(&["missing.pdf"]), 2, "no document `missing.pdf`");
    complains(&get(&["out"]), 2, "is a symbolic link to `/etc/passwd`");
    complains(&get(&["facture"]), 2, "is a folder");
    complains(&get(&["--source", "db", "large"]), 2, "no source `db` of this kind");
    let both = get(&["--json", "large"]).expect_code(2);
    assert!(both.stderr.contains("cannot both be written to stdout"), "{}", both.stderr);
    let absent = folder.join("absent/large");
    let nowhere = get(&["large", "--output", absent.to_str().unwrap()]);
    complains(&nowhere, 64, "absent/large cannot be written: no such file or directory");
    assert!(nowhere.stderr.contains("no such file or directory\nhint: "), "the message has more: {}", nowhere.stderr);
    let Some(disk) = crate::verified::small_disk(&scene, "64k") else { return };
    let full = get(&["large", "--output", disk.path.join("large").to_str().unwrap()]);
    complains(&full, 64, "small/large cannot be written: no space left on device");
    assert_eq!(std::fs::read_dir(&disk.path).unwrap().count(), 0, "something is left");
}

#[test]
fn a_time_or_an_id_chooses_the_snapshot_and_what_is_not_there_is_said() {
    let Some(scene) = Scene::small() else { return };
    let csv = scene.documents.join("blockedlog/archives/2026-06.csv");
    for (day, text) in [("2026-06-28", "first"), ("2026-06-29", "second"), ("2026-06-30", "third")] {
        std::fs::write(&csv, text).unwrap();
        scene.backup(&["--now", &format!("{day}T01:00:00Z")]);
    }
    let get = |more: &[&str]| {
        let arguments = ["get", "--env", "prod", "--now", "2026-07-01T00:00:00Z", "blockedlog/archives/2026-06.csv"];
        scene.run(arguments.into_iter().chain(more.iter().copied()))
    };
    for (more, expected) in [
        (&[][..], "third"),
        (&["--at", "2026-06-29"], "second"),
        (&["--at", "2026-06-29T00:59:59Z"], "first"),
        (&["--at", "2026-06-29T03:00"], "second"),
        (&["--snapshot", "20260628T010000Z"], "first"),
    ] {
        assert_eq!(get(more).expect_code(0).stdout, expected, "{more:?}");
    }
    complains(&get(&["--at", "2026-06-01"]), 2, "no whole snapshot of docs at or before");
    let unknown = get(&["--snapshot", "20260629T020000Z"]);
    complains(&unknown, 2, "does not exist");
    assert!(unknown.stderr.contains("the nearest are 20260629T010000Z"), "{}", unknown.stderr);
    complains(&get(&["--snapshot", "newest"]), 2, "is not a valid snapshot id");
    assert_eq!(get(&["--snapshot", "20260628T010000Z", "--at", "2026-06-29"]).code, Some(2));
    complains(&scene.run(["restore", "--env", "prod", "--into", "x"]), 2, "several sources");
    complains(&scene.run(["restore", "--env", "prod", "--source", "docs", "--into", "none/x"]), 64, "does not exist");
}

#[test]
fn what_a_shell_script_left_comes_back_without_an_index() {
    let Some(scene) = Scene::small() else { return };
    complicate(&scene.documents);
    for source in ["db", "docs"] {
        std::fs::create_dir_all(scene.store.join("prod").join(source)).unwrap();
    }
    std::fs::write(scene.store.join("prod/db/20260601T010000Z.dump"), "PGDMP").unwrap();
    let archive = scene.store.join("prod/docs/20260601T010000Z.tar.gz");
    succeed(
        Command::new("tar")
            .args(["--format=pax", "--xattrs", "--acls"])
            .arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(&scene.documents)
            .arg("."),
    );
    let into = scene.folder.path().join("restored");
    let _ =
        scene.run(["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()]).expect_code(0);
    assert_eq!(manifest(&into, |_, _| false), manifest(&scene.documents, |_, _| false));
    let csv = scene.run(["get", "--env", "prod", "blockedlog/archives/2026-06.csv"]).expect_code(0);
    assert_eq!(csv.stdout, "id;signature\n1;00\n");
}

#[test]
fn damage_leaves_the_target_as_it_was_and_says_what_to_do() {
    let Some(scene) = Scene::small() else { return };
    let made = scene.backup(&[]);
    let archive = scene.store.join(key(&made["snapshot"]["sources"], "docs"));
    let index = archive.to_string_lossy().replace(".tar.gz", ".index");
    let into = scene.folder.path().join("restored");
    let restore = |more: &[&str]| {
        let arguments = ["restore", "--env", "prod", "--source", "docs", "--into", into.to_str().unwrap()];
        scene.run(arguments.into_iter().chain(more.iter().copied()))
    };
    let whole = std::fs::read(&index).unwrap();
    std::fs::write(&index, &whole[..whole.len() / 2]).unwrap();
    let cut_off = restore(&[]);
    complains(&cut_off, 4, "is cut off");
    assert!(cut_off.stderr.contains("--ignore-index") && !into.exists());
    let _ = restore(&["--ignore-index"]).expect_code(0);
    std::fs::remove_dir_all(&into).unwrap();

    std::fs::remove_file(&index).unwrap();
    let without = restore(&[]).expect_code(0);
    assert!(without.stderr.contains("the index is not in the store"), "{}", without.stderr);
    std::fs::remove_dir_all(&into).unwrap();

    std::fs::write(&index, &whole).unwrap();
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    let before = std::fs::read_dir(scene.folder.path()).unwrap().count();
    complains(&restore(&[]), 4, "damaged");
    complains(&restore(&["--ignore-index"]), 4, "damaged");
    assert!(!into.exists());
    assert_eq!(std::fs::read_dir(scene.folder.path()).unwrap().count(), before, "something was left");
}

#[test]
fn documents_are_found_and_their_versions_are_told_apart() {
    let Some(scene) = Scene::small() else { return };
    complicate(&scene.documents);
    let csv = "blockedlog/archives/2026-06.csv";
    for (day, text) in [("2026-06-27", "one"), ("2026-06-28", "two"), ("2026-06-29", "two"), ("2026-06-30", "three")] {
        let file = scene.documents.join(csv);
        if std::fs::read_to_string(&file).unwrap() != text {
            std::fs::write(&file, text).unwrap();
        }
        scene.backup(&["--now", &format!("{day}T01:00:00Z")]);
    }
    let now = ["--now", "2026-07-01T00:00:00Z", "--env", "prod"];
    let found = scene.run(["find"].into_iter().chain(now).chain(["*.pdf"])).expect_code(0).stdout;
    assert_eq!(found.lines().count(), tests::sample::INVOICES as usize + 2, "{found}");
    let contract = found.lines().find(|line| line.ends_with("societe/12/Contrat signé – été.pdf")).unwrap();
    assert!(contract.contains(" 30.14 KiB ") && contract.contains(" 4d1efe7f827e "), "{contract}");
    assert!(found.contains("found in snapshot"), "{found}");
    let odd = scene.run(["--json", "find"].into_iter().chain(now).chain(["caf*"])).expect_code(0).json();
    assert_eq!(odd["documents"][0]["shown"], "caf\\xe9 \\x1b[31m.txt");
    assert_eq!((odd["total"].as_u64(), odd["format_version"].as_u64()), (Some(1), Some(1)));
    complains(&scene.run(["find"].into_iter().chain(now).chain(["["])), 2, "is not a valid pattern");

    let versions = scene.run(["--json", "history"].into_iter().chain(now).chain([csv])).expect_code(0).json();
    let of = |n: usize| versions["versions"][n]["snapshots"].clone();
    assert_eq!(of(0), serde_json::json!(["20260630T010000Z"]));
    assert_eq!(of(1), serde_json::json!(["20260629T010000Z", "20260628T010000Z"]));
    assert_eq!(of(2), serde_json::json!(["20260627T010000Z"]));
    assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
    complains(&scene.run(["history"].into_iter().chain(now).chain(["nothing"])), 2, "no snapshot has a document");
}
