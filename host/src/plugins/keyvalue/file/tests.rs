//! The file: everything a store must do, and what is a file's own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use futures_util::future::join_all;
use redb::{DatabaseError, StorageBackend};

use super::*;
use crate::plugins::keyvalue::conformance::{self, SharedKeyValue};
use crate::plugins::testing::Folder;

const BUCKET: Bucket<'static> = Bucket { plugin: "p", bucket: "b" };

fn open(folder: &Folder) -> FileKeyValue {
    let store = FileKeyValue::new(folder.path()).unwrap();
    store.open().unwrap();
    store
}

fn file(folder: &Folder) -> PathBuf {
    folder.path().join("keyvalue.redb")
}

#[tokio::test]
async fn it_passes_the_conformance_suite() {
    let folder = Folder::new();
    let number = std::sync::atomic::AtomicU32::new(0);
    conformance::run_all(async || {
        let data_dir = folder.path().join(number.fetch_add(1, Relaxed).to_string());
        Arc::new(FileKeyValue::new(&data_dir).unwrap()) as SharedKeyValue
    })
    .await;
}

#[tokio::test]
async fn a_bucket_is_bounded_in_keys_and_bytes() {
    let folder = Folder::new();
    let store = Arc::new(open(&folder).with_bounds(10, 1000));
    conformance::bounded(store.clone(), 10).await;
    let other = Bucket { plugin: "p", bucket: "bytes" };
    assert!(store.set(other, "k", vec![0; 999]).await.is_ok());
    let refused = store.set(other, "l", Vec::new()).await;
    assert!(
        matches!(&refused, Err(KeyValueError::TooLarge(text)) if text.contains("1000 bytes")),
        "{refused:?}"
    );
    assert!(store.set(other, "k", Vec::new()).await.is_ok());
    assert!(store.set(other, "l", Vec::new()).await.is_ok());
}

#[tokio::test]
async fn what_was_written_is_there_after_it_was_closed() {
    let folder = Folder::new();
    let store = open(&folder);
    let version = store.set(BUCKET, "k", b"1".to_vec()).await.unwrap();
    assert_eq!(store.increment(BUCKET, "n", 3).await, Ok(3));
    let gone = store.set(BUCKET, "gone", b"1".to_vec()).await.unwrap();
    store.delete(BUCKET, "gone").await.unwrap();
    drop(store);
    let store = open(&folder).with_bounds(3, 1000);
    assert_eq!(store.get(BUCKET, "k").await, Ok(Some(Entry { value: b"1".to_vec(), version })));
    assert_eq!(store.increment(BUCKET, "n", 1).await, Ok(4));
    assert!(store.set(BUCKET, "gone", b"1".to_vec()).await.unwrap() > gone, "versions never come back");
    assert!(store.set(BUCKET, "more", Vec::new()).await.is_err(), "how many there are is known");
    assert_eq!(store.keys(BUCKET, "", None).await.unwrap().keys, ["gone", "k", "n"]);
}

#[tokio::test]
async fn a_bucket_in_a_new_file_counts_on_from_the_present() {
    let folder = Folder::new();
    let store = open(&folder);
    let before = store.set(BUCKET, "k", Vec::new()).await.unwrap();
    drop(store);
    std::fs::remove_file(file(&folder)).unwrap();
    assert!(open(&folder).set(BUCKET, "k", Vec::new()).await.unwrap() > before);
}

#[test]
fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let mode = || std::fs::metadata(file(&folder)).unwrap().permissions().mode() & 0o777;
    drop(open(&folder));
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(file(&folder), std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&folder));
    assert_eq!(mode(), 0o600);
}

#[tokio::test]
async fn a_file_in_use_is_refused_until_it_is_free() {
    let folder = Folder::new();
    let first = open(&folder);
    first.set(BUCKET, "k", b"1".to_vec()).await.unwrap();
    let second = FileKeyValue::new(folder.path()).unwrap();
    let error = second.open().unwrap_err();
    assert!(matches!(error, FileError::InUse { .. }) && !error.is_configuration(), "{error}");
    assert!(error.to_string().contains("keyvalue.redb, which another process uses"), "{error}");
    assert!(matches!(second.get(BUCKET, "k").await, Err(KeyValueError::Unavailable(_))));
    drop(first);
    second.open().unwrap();
    assert_eq!(second.get(BUCKET, "k").await.unwrap().unwrap().value, b"1");
}

#[tokio::test]
async fn a_damaged_file_is_told_of_wherever_the_damage_is() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 0..200 {
        store.set(BUCKET, &number.to_string(), vec![number; 600]).await.unwrap();
    }
    drop(store);
    let whole = std::fs::read(file(&folder)).unwrap();
    let mut damaged: Vec<Vec<u8>> =
        vec![b"no database".to_vec(), whole[..4096].to_vec(), whole[..whole.len() / 2].to_vec()];
    for at in (0..whole.len()).step_by(whole.len() / 16) {
        let mut scratched = whole.clone();
        scratched[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0x5a);
        damaged.push(scratched);
    }
    let mut told = 0;
    for bytes in damaged {
        std::fs::write(file(&folder), bytes).unwrap();
        match FileKeyValue::new(folder.path()).unwrap().open() {
            // Nothing is kept in that place.
            Ok(()) => {}
            Err(error @ FileError::Damaged { .. }) => {
                assert!(
                    error.to_string().contains("keyvalue.redb") && error.to_string().contains("move it away")
                );
                assert!(error.is_configuration());
                told += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(told >= 6, "only {told}");
}

#[tokio::test]
async fn a_file_that_was_never_finished_is_made_again() {
    let folder = Folder::new();
    folder.write("keyvalue.redb", [0; 8192]);
    open(&folder).set(BUCKET, "k", Vec::new()).await.unwrap();
    folder.write("keyvalue.redb", "");
    open(&folder).set(BUCKET, "k", Vec::new()).await.unwrap();
}

#[test]
fn a_folder_that_can_not_be_is_told() {
    let folder = Folder::new();
    let blocked = folder.write("blocked", "");
    let error = FileKeyValue::new(&blocked).unwrap().open().unwrap_err();
    assert!(matches!(error, FileError::Io { .. }) && error.to_string().contains("host.data_dir"), "{error}");
    assert!(error.is_configuration());
}

/// A disk that may be full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
    flushes: Arc<AtomicU32>,
}

impl Disk {
    fn room(&self) -> std::io::Result<()> {
        if self.full.load(Relaxed) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.room()?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.room()?;
        self.flushes.fetch_add(1, Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }
}

/// A store on such a disk, the switch that fills it, and how often it was flushed.
fn on_disk(folder: &Folder) -> (FileKeyValue, Arc<AtomicBool>, Arc<AtomicU32>) {
    let (full, flushes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let shared = (full.clone(), flushes.clone());
    let make: Make = Box::new(move |file| -> Result<_, DatabaseError> {
        let (full, flushes) = shared.clone();
        let disk = Disk { file: FileBackend::new(file)?, full, flushes };
        opening::builder(CACHE_BYTES).create_with_backend(disk)
    });
    (FileKeyValue::with(file(folder), make).unwrap(), full, flushes)
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_nothing_that_was_told_is_lost() {
    let folder = Folder::new();
    let (store, full, _) = on_disk(&folder);
    assert_eq!(store.increment(BUCKET, "n", 1).await, Ok(1));
    full.store(true, Relaxed);
    for ended in join_all((0..20).map(|_| store.increment(BUCKET, "n", 1))).await {
        assert!(matches!(ended, Err(KeyValueError::Unavailable(_))), "{ended:?}");
    }
    full.store(false, Relaxed);
    // It is opened again after a pause; what was told as not written may not be there.
    let again = async {
        loop {
            match store.increment(BUCKET, "n", 1).await {
                Ok(sum) => return sum,
                Err(KeyValueError::Unavailable(_)) => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let sum =
        tokio::time::timeout(std::time::Duration::from_secs(30), again).await.expect("the disk has room");
    assert_eq!(sum, 2);
    assert_eq!(store.get(BUCKET, "n").await.unwrap().unwrap().value, b"2");
}

#[tokio::test]
async fn many_who_write_at_once_share_transactions() {
    let folder = Folder::new();
    let writes = Arc::new(AtomicBool::new(false));
    let (store, _, flushes) = on_disk(&folder);
    store.open().unwrap();
    let before = flushes.load(Relaxed);
    // A transaction that takes its time: the others gather behind it.
    let held = writes.clone();
    let slow = store.write(move |_| {
        while !held.load(Relaxed) {
            std::thread::yield_now();
        }
        Ok(Ok(()))
    });
    let mut slow = Box::pin(slow);
    assert!(futures_util::poll!(&mut slow).is_pending());
    let mut waiting: Vec<_> = (0..500).map(|_| store.increment(BUCKET, "n", 1)).collect();
    for one in &mut waiting {
        assert!(futures_util::poll!(one).is_pending());
    }
    // Readers wait for nobody.
    assert_eq!(store.get(BUCKET, "n").await, Ok(None));
    writes.store(true, Relaxed);
    slow.await.unwrap();
    let mut sums: Vec<i64> = join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=500).collect::<Vec<_>>());
    let flushed = flushes.load(Relaxed) - before;
    assert!(flushed < 100, "{flushed} for 500 writes");
}
