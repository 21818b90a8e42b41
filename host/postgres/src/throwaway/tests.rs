//! The throwaway server: how it starts, and that nothing of it is left behind.

use super::*;
use std::os::unix::fs::MetadataExt;
use tokio_postgres::error::SqlState;

#[test]
fn a_user_is_found_by_name_and_root_never_is() {
    let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533::/:/bin/false\nalias:x:0:5::/:/bin/sh\n";
    assert_eq!(ids(users, "nobody"), Some((65_534, 65_533)));
    for name in ["root", "alias", "postgres", "", "nob"] {
        assert_eq!(ids(users, name), None, "{name}");
    }
}

fn installed() -> bool {
    let found = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut entries| entries.next().is_some());
    if !found {
        ::tests::skip("no PostgreSQL server is installed");
    }
    found
}

fn scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    scratch
}

fn entries(scratch: &Path) -> usize {
    std::fs::read_dir(scratch).unwrap().count()
}

#[tokio::test]
async fn a_server_runs_without_root_and_without_a_port_and_ends_with_its_value() {
    if !installed() {
        return;
    }
    let scratch = scratch();
    let server = Throwaway::start("13", scratch.path()).await.unwrap();
    let data = server.folder.path.join(SERVER).join("data");
    let pid = running(&data).unwrap();
    assert_eq!(pid, server.process.id());
    assert_ne!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 0, "it runs as root");
    let connection = Dialer::for_restore(&server.config("postgres")).unwrap().connect().await.unwrap();
    let row = connection.query_one("SELECT current_setting('listen_addresses')", &[]).await.unwrap();
    assert_eq!(connection.read::<String>(&row, 0).unwrap(), "");
    let program = connection.execute("COPY (SELECT 1) TO PROGRAM 'true'").await.unwrap_err();
    assert_eq!(program.state, Some(SqlState::INSUFFICIENT_PRIVILEGE), "a dump could run programs");
    sweep(scratch.path());
    assert!(running(&data).is_some(), "a server in use was swept");
    drop(server);
    assert_eq!(entries(scratch.path()), 0);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn the_server_of_a_killed_process_is_swept_and_other_directories_are_kept() {
    if !installed() {
        return;
    }
    let scratch = scratch();
    let mut server = Throwaway::start("13", scratch.path()).await.unwrap();
    let pid = server.process.id();
    // As after a SIGKILL: the lock is gone with the process, but the server and its directory are not.
    server.folder._lock = File::open("/dev/null").unwrap();
    std::fs::create_dir(scratch.path().join(format!("{PREFIX}without-lock"))).unwrap();
    std::os::unix::fs::symlink("/", scratch.path().join(format!("{PREFIX}link"))).unwrap();
    sweep(scratch.path());
    assert_eq!(entries(scratch.path()), 2, "the directory was not swept, or another one was");
    assert!(!server.process.wait().unwrap().success() || !Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_server_that_cannot_start_is_reported_in_one_sentence() {
    let scratch = scratch();
    let error = Throwaway::start("99.1 (Debian)", scratch.path()).await.unwrap_err();
    assert!(error.message().contains("no PostgreSQL server of version 99"), "{error}");
    assert!(error.advice().unwrap().contains("--server"));
    if installed() {
        let error = Throwaway::start("13", &scratch.path().join("absent")).await.unwrap_err();
        assert!(error.message().contains("cannot be used for the throwaway server"), "{error}");
    }
    assert_eq!(entries(scratch.path()), 0);
}
