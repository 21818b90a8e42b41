//! Tests of the requests on the wire and of their failures: against a real server, through a proxy that is as strict as
//! Google Cloud Storage and injects faults.

use super::*;
use crate::suite::{self, PART_BYTES, Place, collected, impatient, key, noise, produce, streamed};
use crate::{Store, StoreConfig};
use ::tests::gcs::{Fault, Gcs, Operation, Request, Transport};
use base::error::Class;
use base::secret::SecretSource;

async fn proxied() -> Option<Place> {
    suite::on_garage(Some(Transport::Plain)).await
}

fn proxy(place: &Place) -> &Gcs {
    place.proxy.as_ref().expect("the place has a proxy")
}

fn s3(place: &Place) -> &S3 {
    match &place.store {
        Store::S3(s3) => s3,
        Store::Directory(_) | Store::Memory(_) => panic!("the place is not an S3 server"),
    }
}

/// Sends every kind of request that the store uses.
async fn send_every_request(store: &Store) {
    let (small, large, new) = (key("prod/a.json"), key("prod/db/a.dump"), key("prod/b.json"));
    store.put(&small, Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(store.create(&new, Bytes::new()).await.unwrap(), Created::Created);
    store.put_stream(&large, streamed(noise(2 * PART_BYTES + 1))).await.unwrap();
    collected(store.read(&large, Some(1..9)).await.unwrap()).await.unwrap();
    store.get(&small).await.unwrap();
    store.list("prod").await.unwrap();
    let (writer, stream) = stream::channel(None);
    tokio::spawn(async move {
        produce(&writer, &noise(40 << 20)).await;
    });
    store.put_stream(&key("prod/db/b.dump"), stream).await.unwrap_err();
    assert_eq!(store.delete(&large).await.unwrap(), Deleted::Gone);
    store.abort_uploads("prod").await.unwrap();
}

fn assert_portable(request: &Request) {
    let shown = format!("{request:#?}");
    let has = |name: &str| request.header(name).is_some();
    let is_upload = matches!(request.method.as_str(), "PUT" | "POST");
    assert!(!is_upload || has("content-length"), "no length: {shown}");
    assert!(!has("transfer-encoding"), "chunked instead of a length: {shown}");
    let wants_md5 = matches!(request.operation, Operation::PutObject | Operation::UploadPart);
    assert!(!wants_md5 || has("content-md5"), "no MD5: {shown}");
    assert!(!request.header("content-encoding").unwrap_or_default().contains("aws-chunked"), "a trailer: {shown}");
    let signed = request.header("authorization").unwrap_or_default();
    let signed = signed.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    assert!(signed.split(';').any(|name| name == "host"), "not signed: {shown}");
    for (name, _) in &request.headers {
        let is_foreign = name.starts_with("x-goog-")
            || name.starts_with("x-amz-checksum-")
            || matches!(name.as_str(), "x-amz-sdk-checksum-algorithm" | "x-amz-checksum-mode" | "x-amz-trailer")
            || matches!(name.as_str(), "if-match" | "if-none-match");
        assert!(!is_foreign, "{name}: {shown}");
    }
    let hop_by_hop = ["accept-encoding", "user-agent", "connection", "expect"];
    assert!(!signed.split(';').any(|name| hop_by_hop.contains(&name)), "a proxy may change it: {shown}");
    let names_object = matches!(request.operation, Operation::PutObject | Operation::CreateMultipartUpload);
    assert!(!names_object || has("x-amz-meta-write-id"), "no write id: {shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_portable() {
    for transport in [Transport::Plain, Transport::Tls] {
        let Some(place) = suite::on_garage(Some(transport)).await else { return };
        send_every_request(&place.store).await;
        let seen = proxy(&place).seen();
        for request in &seen {
            assert_portable(request);
        }
        use Operation as O;
        for operation in [
            O::AbortMultipartUpload,
            O::CompleteMultipartUpload,
            O::CreateMultipartUpload,
            O::DeleteObject,
            O::GetObject,
            O::HeadObject,
            O::ListMultipartUploads,
            O::ListObjects,
            O::PutObject,
            O::UploadPart,
        ] {
            assert!(seen.iter().any(|request| request.operation == operation), "{operation:?} was never requested");
        }
        let parts: Vec<_> = seen.iter().filter(|request| request.operation == O::UploadPart).collect();
        let full = parts.iter().filter(|part| part.header("content-length") == Some("8388608")).count();
        assert!(full >= 2, "the parts before the last differ in size: {parts:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_is_only_sent_if_the_profile_supports_it() {
    use crate::profile::Profile;
    for profile in Profile::ALL {
        let Some(place) = proxied().await else { return };
        let config = StoreConfig { profile, ..place.config.clone() };
        let store = suite::open(&config, impatient()).await.unwrap();
        store.create(&key("prod/a.json"), Bytes::from_static(b"{}")).await.unwrap();
        let seen = proxy(&place).seen();
        let put = seen.iter().find(|request| request.operation == Operation::PutObject).unwrap();
        let condition = profile.facts().conditional_create.then_some("*");
        assert_eq!(put.header("if-none-match"), condition, "{profile}");
        let looked = seen.iter().any(|request| request.operation == Operation::HeadObject);
        assert_eq!(looked, condition.is_none(), "{profile}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_carry_the_checksum_that_the_profiles_servers_verify() {
    use crate::profile::{PartChecksum, Profile};
    for profile in Profile::ALL {
        let Some(place) = proxied().await else { return };
        let store = suite::open(&StoreConfig { profile, ..place.config.clone() }, impatient()).await.unwrap();
        let content = noise(2 * PART_BYTES + 1);
        let store = Store::S3(store);
        store.put_stream(&key("prod/db/a.dump"), streamed(content.clone())).await.unwrap();
        let back = collected(store.read(&key("prod/db/a.dump"), None).await.unwrap()).await.unwrap();
        assert!(back == content, "{profile}");
        let seen = proxy(&place).seen();
        let parts: Vec<_> = seen.iter().filter(|request| request.operation == Operation::UploadPart).collect();
        assert_eq!(parts.len(), 3, "{profile}");
        for part in parts {
            let header = |name| part.header(name).is_some();
            let found = (header("content-md5"), header("x-amz-checksum-crc32c"));
            let by_crc = profile.facts().part_checksum == PartChecksum::Crc32c;
            assert_eq!(found, (!by_crc, by_crc), "{profile}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garage_refuses_a_part_that_was_damaged_in_transit() {
    let Some(place) = suite::on_garage(None).await else { return };
    let store = s3(&place);
    let (client, bucket, name) = (&store.0.client, &store.0.bucket, format!("{}damaged", store.0.prefix));
    let begun = client.create_multipart_upload().bucket(bucket).key(&name);
    let begun = begun.checksum_algorithm(aws_sdk_s3::types::ChecksumAlgorithm::Crc32C).send().await.unwrap();
    let (good, zero) = ("4waSgw==", "AAAAAA==");
    for (sum, is_taken) in [(good, true), (zero, false)] {
        let part = client.upload_part().bucket(bucket).key(&name).upload_id(begun.upload_id().unwrap()).part_number(1);
        let part = part.body(Body::from_static(b"123456789")).checksum_crc32_c(sum).customize();
        let answer = part.disable_payload_signing().send().await;
        assert_eq!(answer.is_ok(), is_taken, "{sum}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_fault_is_survived() {
    use Operation as O;
    let cut = Fault::ResetRequestAfter(100_000);
    let table = [
        (O::PutObject, Fault::TooManyRequests, 2),
        (O::PutObject, Fault::SlowDown, 2),
        (O::PutObject, Fault::CommitThenDrop, 1),
        (O::PutObject, Fault::ResetRequestAfter(0), 1),
        (O::CreateMultipartUpload, Fault::TooManyRequests, 2),
        (O::CreateMultipartUpload, Fault::SlowDown, 1),
        (O::UploadPart, Fault::TooManyRequests, 3),
        (O::UploadPart, Fault::SlowDown, 3),
        (O::UploadPart, cut, 2),
        (O::UploadPart, Fault::CommitThenDrop, 2),
        (O::CompleteMultipartUpload, Fault::SlowDown, 2),
        (O::CompleteMultipartUpload, Fault::ErrorIn200, 1),
        (O::CompleteMultipartUpload, Fault::CommitThenDrop, 1),
        (O::CompleteMultipartUpload, Fault::CommitThenDrop, 6),
        (O::HeadObject, Fault::SlowDown, 2),
        (O::GetObject, Fault::TooManyRequests, 2),
        (O::GetObject, Fault::ResetAnswerAfter(10), 2),
        (O::GetObject, Fault::ResetAnswerAfter(2_500_000), 3),
        (O::ListObjects, Fault::SlowDown, 2),
        (O::DeleteObject, Fault::TooManyRequests, 2),
    ];
    for (operation, fault, times) in table {
        let Some(place) = proxied().await else { return };
        let (store, content) = (&place.store, noise(2 * PART_BYTES + 1));
        proxy(&place).inject(operation, fault, times);
        let at = key("prod/db/a.dump");
        let what = format!("{operation:?} {fault:?} {times}");
        let stored = store.put_stream(&at, streamed(content.clone())).await.expect(&what);
        assert_eq!(stored.bytes, content.len() as u64, "{what}");
        store.put(&key("prod/a.json"), Bytes::from_static(b"small, but not too small")).await.expect(&what);
        assert_eq!(store.get(&key("prod/a.json")).await.expect(&what).unwrap(), "small, but not too small");
        let back = collected(store.read(&at, None).await.expect(&what)).await.expect(&what);
        assert!(back == content, "{what}");
        assert_eq!(suite::names(store, "").await, ["prod/a.json", "prod/db/a.dump"], "{what}");
        assert_eq!(store.delete(&at).await.expect(&what), Deleted::Gone);
        assert_eq!(store.abort_uploads("").await.expect(&what), 0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_fault_is_unavailable_and_leaves_nothing() {
    use Operation as O;
    let faults = [Fault::TooManyRequests, Fault::SlowDown, Fault::ResetRequestAfter(0)];
    for operation in [O::CreateMultipartUpload, O::UploadPart, O::CompleteMultipartUpload] {
        for fault in faults
            .into_iter()
            .chain([Fault::ErrorIn200].into_iter().filter(|_| operation == O::CompleteMultipartUpload))
        {
            let Some(place) = proxied().await else { return };
            proxy(&place).inject(operation, fault, 100);
            let error =
                place.store.put_stream(&key("prod/db/a.dump"), streamed(noise(3 * PART_BYTES))).await.unwrap_err();
            let what = format!("{operation:?} {fault:?}: {error:?}");
            assert_eq!(error.class(), Class::Unavailable, "{what}");
            assert!(error.message().contains(&proxy(&place).endpoint()), "{what}");
            assert_eq!(suite::names(&place.store, "").await, Vec::<String>::new(), "{what}");
            assert_eq!(place.store.abort_uploads("").await.unwrap(), 0, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_times_out() {
    let Some(place) = proxied().await else { return };
    let patience = Patience {
        attempt: Duration::from_millis(300),
        upload_attempt: Duration::from_millis(300),
        attempts_max: 2,
        upload_attempts_max: 2,
        ..impatient()
    };
    let store = suite::open(&place.config, patience).await.unwrap();
    let stall = Fault::Stall(Duration::from_secs(30));
    for operation in [Operation::PutObject, Operation::HeadObject, Operation::ListObjects] {
        proxy(&place).inject(operation, stall, 2);
        let asked = async {
            match operation {
                Operation::PutObject => store.put(&key("prod/a.json"), Bytes::from_static(b"{}")).await,
                Operation::HeadObject => store.head(&key("prod/a.json")).await.map(drop),
                _ => store.list("").await.map(drop),
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("a timely failure").unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{operation:?}: {error:?}");
    }
    // A temporary stall costs one attempt.
    proxy(&place).inject(Operation::PutObject, stall, 1);
    store.put(&key("prod/a.json"), Bytes::from_static(b"{}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_survives_its_abort_is_aborted_again() {
    let Some(place) = proxied().await else { return };
    proxy(&place).inject(Operation::AbortMultipartUpload, Fault::Swallow, 2);
    let (writer, stream) = stream::channel(Some(1));
    tokio::spawn(async move {
        produce(&writer, &noise(PART_BYTES + 1)).await;
        writer.fail(Error::unexpected("enough")).await;
    });
    let error = place.store.put_stream(&key("prod/db/a.dump"), stream).await.unwrap_err();
    assert_eq!(error.message(), "enough");
    assert_eq!(proxy(&place).count(Operation::AbortMultipartUpload), 3);
    assert_eq!(place.store.abort_uploads("").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_delete_is_retention_and_not_a_failure() {
    let Some(place) = proxied().await else { return };
    let at = key("prod/db/a.dump");
    place.store.put(&at, Bytes::from_static(b"x")).await.unwrap();
    proxy(&place).inject(Operation::DeleteObject, Fault::AccessDenied, 1);
    assert_eq!(place.store.delete(&at).await.unwrap(), Deleted::Retained);
    assert_eq!(place.store.get(&at).await.unwrap().unwrap(), "x");
    assert_eq!(place.store.delete(&at).await.unwrap(), Deleted::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_uploads_and_keys_below_the_given_folder_are_touched() {
    let Some(place) = suite::on_garage(None).await else { return };
    let store = s3(&place);
    let prefix = &store.0.prefix;
    for name in ["prod/db/a.dump", "prod/docs/b.tar.gz", "prod-1/db/c.dump", "prod/not a key"] {
        // The order matters: Garage drops an unfinished upload when another request writes its key.
        let request = store.0.client.put_object().bucket(&store.0.bucket).key(format!("{prefix}{name}"));
        request.send().await.unwrap();
        let request = store.0.client.create_multipart_upload().bucket(&store.0.bucket).key(format!("{prefix}{name}"));
        request.send().await.unwrap();
    }
    assert_eq!(suite::names(&place.store, "prod").await, ["prod/db/a.dump", "prod/docs/b.tar.gz"]);
    assert_eq!(place.store.abort_uploads("prod").await.unwrap(), 2);
    assert_eq!(place.store.abort_uploads("prod").await.unwrap(), 0);
    let open = store.open_uploads(prefix).await.unwrap();
    let mut open: Vec<_> =
        open.into_iter().map(|(key, _)| key.trim_start_matches(prefix.as_str()).to_owned()).collect();
    open.sort_unstable();
    assert_eq!(open, ["prod-1/db/c.dump", "prod/not a key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_on_opening_have_a_hint_and_contain_no_secret() {
    let Some(place) = suite::on_garage(None).await else { return };
    let server = place.server.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let credentials = |name: &str, id: &str, secret: &str| {
        let at = folder.path().join(name);
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("AWS_ACCESS_KEY_ID"), id).unwrap();
        std::fs::write(at.join("AWS_SECRET_ACCESS_KEY"), secret).unwrap();
        Some(SecretSource { files: Some(at), ..SecretSource::default() })
    };
    let missing = Some(SecretSource { files: Some(folder.path().join("none")), ..SecretSource::default() });
    let good = place.config.clone();
    let canary = "hunter2-canary";
    let table = [
        ("bucket", StoreConfig { url: "s3://no-such-bucket/erp".into(), ..good.clone() }, Class::Config),
        (
            "secret",
            StoreConfig { credentials: credentials("a", server.key_id(), canary), ..good.clone() },
            Class::Config,
        ),
        ("key", StoreConfig { credentials: credentials("b", "GK0123456789", canary), ..good.clone() }, Class::Config),
        ("no key", StoreConfig { credentials: None, ..good.clone() }, Class::Config),
        ("no secret", StoreConfig { credentials: missing, ..good.clone() }, Class::Config),
        ("region", StoreConfig { region: Some("elsewhere".into()), ..good.clone() }, Class::Config),
        ("endpoint", StoreConfig { endpoint: Some("http://127.0.0.1:1".into()), ..good.clone() }, Class::Unavailable),
        ("no endpoint", StoreConfig { endpoint: None, ..good.clone() }, Class::Config),
        (
            "name",
            StoreConfig { endpoint: Some("http://no-such-host.invalid".into()), ..good.clone() },
            Class::Unavailable,
        ),
    ];
    for (what, config, class) in table {
        let error = suite::open(&config, Patience { attempts_max: 2, ..impatient() }).await.unwrap_err();
        assert_eq!(error.class(), class, "{what}: {error:?}");
        assert!(error.advice().is_some(), "{what}: {error:?}");
        let shown = format!("{error} {error:?} {config:?}");
        assert!(!shown.contains(canary) && !shown.contains(server.secret()), "{what}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_certificate_is_refused() {
    let Some(place) = suite::on_garage(Some(Transport::Tls)).await else { return };
    let other = Gcs::start(place.server.as_ref().unwrap().port(), Transport::Tls).unwrap();
    let config = StoreConfig { ca_file: other.ca_file().map(std::path::Path::to_owned), ..place.config.clone() };
    let error = suite::open(&config, impatient()).await.unwrap_err();
    assert_eq!(error.class(), Class::Config, "{error:?}");
    assert!(error.advice().unwrap().contains("ca_file"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_is_read_again() {
    let Some(place) = suite::on_garage(None).await else { return };
    let server = place.server.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &str| std::fs::write(folder.path().join(name), value).unwrap();
    write("AWS_ACCESS_KEY_ID", server.key_id());
    write("AWS_SECRET_ACCESS_KEY", "stale");
    write("AWS_ENDPOINTS", &server.endpoint());
    let credentials = Some(SecretSource { files: Some(folder.path().into()), ..SecretSource::default() });
    let config = StoreConfig { credentials, endpoint: None, ..place.config.clone() };
    assert_eq!(suite::open(&config, impatient()).await.unwrap_err().class(), Class::Config);
    write("AWS_SECRET_ACCESS_KEY", server.secret());
    let store = suite::open(&config, impatient()).await.unwrap();
    write("AWS_SECRET_ACCESS_KEY", "stale again");
    assert_eq!(store.list("").await.unwrap_err().class(), Class::Config);
    write("AWS_SECRET_ACCESS_KEY", server.secret());
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_output_of_a_store_contains_no_secret() {
    let Some(place) = suite::on_garage(None).await else { return };
    let server = place.server.as_ref().unwrap();
    let store = s3(&place);
    let shown = format!("{:?} {} {:?} {:?}", place.store, place.store.describe(), store.0.keys, store.0.patience);
    assert!(!shown.contains(server.secret()), "{shown}");
    assert!(shown.contains("s3://backup/"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_a_store_gives_up_earlier_than_an_upload() {
    let Some(place) = proxied().await else { return };
    let patience = Patience { upload_attempts_max: 8, ..impatient() };
    let before = proxy(&place).count(Operation::ListObjects);
    proxy(&place).inject(Operation::ListObjects, Fault::SlowDown, patience.opening_attempts_max);
    proxy(&place).inject(Operation::UploadPart, Fault::SlowDown, 7);
    assert_eq!(suite::open(&place.config, patience.clone()).await.unwrap_err().class(), Class::Unavailable);
    let opening = u32::try_from(proxy(&place).count(Operation::ListObjects) - before).unwrap();
    assert_eq!(opening, patience.opening_attempts_max);

    // One fault fewer than a part has attempts, whichever parts they hit.
    let store = Store::S3(suite::open(&place.config, patience).await.unwrap());
    store.put_stream(&key("prod/db/a.dump"), streamed(noise(PART_BYTES + 1))).await.unwrap();
    assert_eq!(proxy(&place).count(Operation::UploadPart), 2 + 7);
}
