//! Behaviour that every store shares. The same tests run against a folder, a real S3 server, and that server behind a
//! proxy that is as strict as Google Cloud Storage, over HTTP and over TLS.

use super::*;
use ::tests::garage::Garage;
use ::tests::gcs::{Gcs, Transport};
use base::error::Class;
use base::stream::{self, Writer};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// Part size for streams that announce a small length.
pub(super) const PART_BYTES: usize = 8 << 20;

/// An empty store, and everything that it depends on.
pub(super) struct Place {
    pub store: Store,
    pub config: StoreConfig,
    pub proxy: Option<Gcs>,
    pub server: Option<Arc<Garage>>,
    pub folder: Option<tempfile::TempDir>,
}

/// The shortest timeouts that a server on the same machine allows.
pub(super) fn impatient() -> s3::Patience {
    s3::Patience {
        connect: Duration::from_secs(2),
        attempt: Duration::from_secs(20),
        upload_attempt: Duration::from_secs(20),
        upload_attempts_max: 6,
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        ..s3::Patience::default()
    }
}

async fn on_directory() -> Option<Place> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/erp", folder.path().display());
    let config = StoreConfig {
        url,
        endpoint: None,
        region: None,
        profile: Default::default(),
        credentials: None,
        ca_file: None,
    };
    let store = Store::open(&config).await.unwrap();
    Some(Place { store, config, proxy: None, server: None, folder: Some(folder) })
}

/// A separate prefix on the shared server, behind a proxy if `transport` is set. Without a server it returns `None` and
/// logs why.
pub(super) async fn on_garage(transport: Option<Transport>) -> Option<Place> {
    if let Err(why) = ::tests::garage::program() {
        ::tests::skip(&why);
        return None;
    }
    let (server, proxy) = tokio::task::spawn_blocking(move || {
        let server = Garage::shared().unwrap();
        let proxy = transport.map(|transport| Gcs::start(server.port(), transport).unwrap());
        (server, proxy)
    })
    .await
    .unwrap();
    let profile = if proxy.is_some() { profile::Profile::Gcs } else { profile::Profile::Garage };
    let config = StoreConfig {
        url: format!("s3://{}/t-{}/erp", Garage::BUCKET, hex::encode(rand::random::<[u8; 8]>())),
        endpoint: Some(proxy.as_ref().map_or_else(|| server.endpoint(), Gcs::endpoint)),
        region: Some(Garage::REGION.to_owned()),
        profile,
        credentials: Some(base::secret::SecretSource {
            files: Some(server.credentials()),
            ..base::secret::SecretSource::default()
        }),
        ca_file: proxy.as_ref().and_then(|proxy| proxy.ca_file().map(std::path::Path::to_owned)),
    };
    let store = Store::S3(open(&config, impatient()).await.unwrap());
    Some(Place { store, config, proxy, server: Some(server), folder: None })
}

pub(super) async fn open(config: &StoreConfig, patience: s3::Patience) -> Result<s3::S3> {
    let Location::Bucket { bucket, prefix } = locate(&config.url)? else { panic!("{} has no bucket", config.url) };
    s3::S3::open(config, bucket, prefix, patience).await
}

pub(super) fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// Deterministic pseudo-random bytes.
pub(super) fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes as u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    Bytes::from(noise)
}

/// Sends bytes in blocks of a size that divides neither blocks nor parts.
pub(super) async fn produce(writer: &Writer, bytes: &Bytes) {
    for block in bytes.chunks(700_001) {
        if writer.send(bytes.slice_ref(block)).await.is_err() {
            return;
        }
    }
}

/// A whole stream.
pub(super) fn streamed(bytes: Bytes) -> ByteStream {
    let (writer, stream) = stream::channel(Some(bytes.len() as u64));
    tokio::spawn(async move {
        produce(&writer, &bytes).await;
        let _ = writer.finish().await;
    });
    stream
}

pub(super) async fn collected(mut stream: ByteStream) -> Result<Bytes> {
    let mut all = Vec::new();
    while let Some(block) = stream.next().await? {
        all.extend_from_slice(&block);
    }
    Ok(Bytes::from(all))
}

pub(super) async fn names(store: &Store, under: &str) -> Vec<String> {
    store.list(under).await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect()
}

async fn a_small_object_is_written_read_listed_and_deleted(place: Place) {
    let store = &place.store;
    let at = key("prod/snapshots/20260630T010000Z.json");
    assert_eq!(store.get(&at).await.unwrap(), None);
    assert_eq!(store.head(&at).await.unwrap(), None);
    assert_eq!(store.delete(&at).await.unwrap(), Deleted::Gone);
    assert_eq!(store.list("").await.unwrap(), []);

    store.put(&at, Bytes::from_static(b"one")).await.unwrap();
    store.put(&at, Bytes::from_static(b"another")).await.unwrap();
    store.put(&key("prod/empty"), Bytes::new()).await.unwrap();
    assert_eq!(store.get(&at).await.unwrap().unwrap(), "another");
    assert_eq!(store.get(&key("prod/empty")).await.unwrap().unwrap(), "");
    let meta = store.head(&at).await.unwrap().unwrap();
    assert_eq!((meta.key.clone(), meta.bytes), (at.clone(), 7));
    assert!(meta.modified.as_second() > 1_700_000_000, "{meta:?}");
    let listed = store.list("prod").await.unwrap();
    assert_eq!(
        listed.iter().map(|meta| (meta.key.as_str(), meta.bytes)).collect::<Vec<_>>(),
        [("prod/empty", 0), (at.as_str(), 7)]
    );

    // Names as backup scripts write them: signing and listing must escape the same characters.
    let stamped = key("prod/docs/2026-06-30T03:00:00+02:00.tar.gz");
    store.put(&stamped, Bytes::from_static(b"archive")).await.unwrap();
    assert_eq!(names(store, "prod/docs/").await, [stamped.as_str()]);
    assert_eq!(store.head(&stamped).await.unwrap().unwrap().bytes, 7);
    assert_eq!(collected(store.read(&stamped, Some(1..3)).await.unwrap()).await.unwrap(), "rc");
    assert_eq!(store.delete(&stamped).await.unwrap(), Deleted::Gone);
    assert_eq!(names(store, "prod/docs/").await, Vec::<String>::new());

    assert_eq!(store.delete(&at).await.unwrap(), Deleted::Gone);
    assert_eq!(store.get(&at).await.unwrap(), None);
    assert_eq!(names(store, "").await, ["prod/empty"]);
}

async fn a_stream_of_any_length_is_stored_whole(place: Place) {
    let store = &place.store;
    let lengths = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 40 << 20];
    for length in lengths {
        let content = noise(length);
        let at = key(&format!("prod/db/{length}.dump"));
        let stored = store.put_stream(&at, streamed(content.clone())).await.unwrap();
        let sha256 = hex::encode(Sha256::digest(&content));
        assert_eq!(stored, Stored { bytes: length as u64, sha256 }, "{length}");
        assert_eq!(store.head(&at).await.unwrap().unwrap().bytes, length as u64);
        let back = collected(store.read(&at, None).await.unwrap()).await.unwrap();
        assert!(back == content, "{length} bytes came back as {} other bytes", back.len());
    }
    assert_eq!(store.abort_uploads("").await.unwrap(), 0);
}

async fn a_producer_that_fails_leaves_nothing(place: Place) {
    let store = &place.store;
    let failure = Error::unavailable("the database went away").hint("start it");
    for length in [0, 1, PART_BYTES, 3 * PART_BYTES + 5] {
        for reports_error in [true, false] {
            let (writer, stream) = stream::channel(None);
            let failure = failure.clone();
            let reported = failure.clone();
            tokio::spawn(async move {
                produce(&writer, &noise(length)).await;
                if reports_error {
                    writer.fail(reported).await;
                }
            });
            let error = store.put_stream(&key("prod/db/a.dump"), stream).await.unwrap_err();
            assert_eq!(error == failure, reports_error, "{length}: {error:?}");
            assert_eq!(names(store, "").await, Vec::<String>::new());
            assert_eq!(store.abort_uploads("").await.unwrap(), 0, "{length}");
        }
    }
}

async fn a_dropped_upload_leaves_nothing(place: Place) {
    let store = &place.store;
    for (length, wait) in [(0, 0), (10, 50), (3 * PART_BYTES, 0), (3 * PART_BYTES, 5), (3 * PART_BYTES, 400)] {
        let (writer, stream) = stream::channel(Some(length as u64));
        let producer = tokio::spawn(async move {
            produce(&writer, &noise(length)).await;
            writer.closed().await;
        });
        let at = key("prod/db/a.dump");
        let upload = store.put_stream(&at, stream);
        assert!(tokio::time::timeout(Duration::from_millis(wait), upload).await.is_err());
        producer.await.unwrap();
        store.settle().await;
        // The threads of an upload to a folder end shortly after its future is dropped.
        for _ in 0..50 {
            if leftovers(&place) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(leftovers(&place), 0, "{length} {wait}");
        assert_eq!(store.abort_uploads("prod").await.unwrap(), 0, "{length} {wait}");
        assert_eq!(names(store, "").await, Vec::<String>::new());
    }
}

/// Number of temporary files in the store's folder.
fn leftovers(place: &Place) -> usize {
    let Some(folder) = &place.folder else { return 0 };
    let entries = std::fs::read_dir(folder.path().join("erp/prod/db"));
    entries.map_or(0, |entries| entries.count())
}

async fn an_existing_object_is_never_replaced_by_a_new_one(place: Place) {
    let store = &place.store;
    let at = key("prod/db/a.dump");
    assert_eq!(store.create(&at, Bytes::from_static(b"first")).await.unwrap(), Created::Created);
    assert_eq!(store.create(&at, Bytes::from_static(b"second")).await.unwrap(), Created::Exists);
    let error = store.put_stream(&at, streamed(noise(PART_BYTES + 1))).await.unwrap_err();
    assert!(error.message().contains("exists") && error.class() == Class::Unexpected, "{error:?}");
    assert_eq!(store.get(&at).await.unwrap().unwrap(), "first");
    assert_eq!(store.abort_uploads("").await.unwrap(), 0);
}

async fn a_listing_spans_pages_and_is_sorted(place: Place) {
    let store = &place.store;
    let expected: Vec<_> = (0..1_005).map(|number| format!("prod/snapshots/{number:05}.json")).collect();
    let puts = expected.iter().rev().map(|name| async move { store.put(&key(name), Bytes::from_static(b"{}")).await });
    let done: Vec<_> = futures::stream::iter(puts).buffer_unordered(16).collect().await;
    assert!(done.into_iter().all(|put| put.is_ok()));
    assert_eq!(names(store, "prod/snapshots/").await, expected);
}

async fn an_environment_never_lists_objects_of_another(place: Place) {
    let store = &place.store;
    for name in ["xx-1/db/a.dump", "xx-11/db/b.dump", "xx-1/docs/c.tar.gz", "xx-1.json", "xx-1/db-2/d.dump"] {
        store.put(&key(name), Bytes::from_static(b"x")).await.unwrap();
    }
    for under in ["xx-1", "xx-1/"] {
        assert_eq!(names(store, under).await, ["xx-1/db-2/d.dump", "xx-1/db/a.dump", "xx-1/docs/c.tar.gz"]);
    }
    assert_eq!(names(store, "xx-1/db").await, ["xx-1/db/a.dump"]);
    assert_eq!(names(store, "xx-11").await, ["xx-11/db/b.dump"]);
    assert_eq!(names(store, "xx").await, Vec::<String>::new());
    assert!(store.list("../xx").await.is_err());
}

async fn a_range_is_read_exactly(place: Place) {
    let store = &place.store;
    let (at, length) = (key("prod/docs/a.tar.gz"), 3 << 20);
    let content = noise(length);
    store.put_stream(&at, streamed(content.clone())).await.unwrap();
    let length = length as u64;
    for range in [0..0, 7..7, 0..1, 0..length, length - 1..length, 5..2_000_000, (1 << 20)..(2 << 20)] {
        let back = collected(store.read(&at, Some(range.clone())).await.unwrap()).await.unwrap();
        let expected = content.slice(range.start as usize..range.end as usize);
        assert!(back == expected, "{range:?} came back as {} bytes", back.len());
    }
    for range in [0..length + 1, length..length + 1, length + 5..length + 9] {
        let error = store.read(&at, Some(range.clone())).await.unwrap_err();
        assert_eq!(error.class(), Class::Stale, "{range:?}: {error}");
    }
    assert_eq!(store.read(&key("prod/docs/none"), None).await.unwrap_err().class(), Class::Stale);
    assert_eq!(store.read(&key("prod/docs/none"), Some(0..5)).await.unwrap_err().class(), Class::Stale);
}

async fn dropping_the_reader_stops_the_download(place: Place) {
    let at = key("prod/db/a.dump");
    place.store.put_stream(&at, streamed(noise(20 << 20))).await.unwrap();
    let mut stream = place.store.read(&at, None).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
    drop(stream);
    assert_eq!(place.store.delete(&at).await.unwrap(), Deleted::Gone);
}

macro_rules! behaviours {
    ($($name:ident)*) => {
        behaviours!(@on directory, on_directory(), $($name)*);
        behaviours!(@on garage, on_garage(None), $($name)*);
        behaviours!(@on gcs_by_http, on_garage(Some(Transport::Plain)), $($name)*);
        behaviours!(@on gcs_by_tls, on_garage(Some(Transport::Tls)), $($name)*);
    };
    (@on $store:ident, $open:expr, $($name:ident)*) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(place) = $open.await {
                        super::$name(place).await;
                    }
                }
            )*
        }
    };
}

behaviours! {
    a_small_object_is_written_read_listed_and_deleted
    a_stream_of_any_length_is_stored_whole
    a_producer_that_fails_leaves_nothing
    a_dropped_upload_leaves_nothing
    an_existing_object_is_never_replaced_by_a_new_one
    a_listing_spans_pages_and_is_sorted
    an_environment_never_lists_objects_of_another
    a_range_is_read_exactly
    dropping_the_reader_stops_the_download
}
