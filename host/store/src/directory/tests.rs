use super::*;
use base::error::Class;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_missing_folder_is_empty_until_the_first_write_and_a_missing_parent_is_refused() {
    let above = tempfile::tempdir().unwrap();
    let directory = Directory::open(above.path().join("erp")).await.unwrap();
    let key = ObjectKey::parse("prod/db/a.dump").unwrap();
    assert_eq!(directory.list("prod/").await.unwrap().len(), 0);
    assert!(directory.get(&key).await.unwrap().is_none());
    assert!(!above.path().join("erp").exists(), "reading created the folder");
    directory.create(&key, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(std::fs::metadata(above.path().join("erp")).unwrap().permissions().mode() & 0o777, 0o700);
    let error = Directory::open(above.path().join("mnt/erp")).await.unwrap_err();
    assert_eq!(error.class(), Class::Config);
    assert!(error.advice().unwrap().contains("mount"), "{error:?}");
    std::fs::write(above.path().join("file"), "").unwrap();
    assert_eq!(Directory::open(above.path().join("file")).await.unwrap_err().class(), Class::Config);
}

#[tokio::test]
async fn a_folder_that_vanishes_is_unavailable_and_never_recreated() {
    let above = tempfile::tempdir().unwrap();
    std::fs::create_dir(above.path().join("erp")).unwrap();
    let directory = Directory::open(above.path().join("erp")).await.unwrap();
    std::fs::remove_dir(above.path().join("erp")).unwrap();
    let key = ObjectKey::parse("prod/db/a.dump").unwrap();
    let body = Bytes::from_static(b"x");
    assert_eq!(directory.create(&key, body).await.unwrap_err().class(), Class::Unavailable);
    assert_eq!(directory.get(&key).await.unwrap_err().class(), Class::Unavailable);
    assert_eq!(directory.head(&key).await.unwrap_err().class(), Class::Unavailable);
    assert_eq!(directory.delete(&key).await.unwrap_err().class(), Class::Unavailable);
    assert_eq!(directory.list("prod/").await.unwrap_err().class(), Class::Unavailable);
    assert!(!above.path().join("erp").exists());
}

#[tokio::test]
async fn only_the_owner_can_read_objects_and_links_are_not_objects() {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path().to_owned()).await.unwrap();
    let key = ObjectKey::parse("prod/db/a.dump").unwrap();
    directory.create(&key, Bytes::from_static(b"x")).await.unwrap();
    let mode = |name: &str| std::fs::metadata(root.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("prod"), mode("prod/db"), mode("prod/db/a.dump")), (0o700, 0o700, 0o600));

    std::os::unix::fs::symlink("/etc/hostname", root.path().join("prod/db/link")).unwrap();
    std::os::unix::fs::symlink("/etc", root.path().join("prod/etc")).unwrap();
    let link = ObjectKey::parse("prod/db/link").unwrap();
    assert_eq!(directory.list("").await.unwrap().len(), 1);
    assert_eq!(directory.head(&link).await.unwrap(), None);
    assert_eq!(directory.get(&link).await.unwrap_err().class(), Class::Config);
}
