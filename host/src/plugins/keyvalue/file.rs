//! Buckets in one file of this host, `data_dir/keyvalue.redb`: what a plugin was told is written survives a crash of
//! the machine. Knows neither plugins' grants nor the store of documents.
//!
//! One thread writes: it takes whatever waits, makes one transaction of it and answers when that is on the disk, so
//! that many writers pay for one flush together. Two threads read; they see the last transaction and wait for no
//! writer. Guests' threads only ever wait for answers.
//!
//! The file is opened when it is first needed, or by [`FileKeyValue::open`], and belongs to one process. After a
//! failure (a full disk, say) it is closed, and opened again for those who come a second later.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::FutureExt;
use redb::backends::FileBackend;
use tokio::sync::{mpsc, oneshot};

use self::opening::{Make, Opened};
use self::tables::{Outcome, Place, ReadTables, Tables};
use self::threads::{Committed, Read, Write};
use super::{Answer, Bucket, Entry, KeyValue, KeyValueError, MAX_BUCKET_BYTES, MAX_KEYS, Page};

mod opening;
mod tables;
#[cfg(test)]
mod tests;
mod threads;

pub use opening::FileError;

/// So many operations wait for a thread; then their guests wait to hand them in.
const MAX_WAITING: usize = 1024;
/// Pages of the file that are kept in memory, in bytes.
const CACHE_BYTES: usize = 32 << 20;
/// Threads that read.
const READERS: usize = 2;

/// What a bucket may hold.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    keys: u64,
    bytes: u64,
}

/// All buckets of all plugins of this host.
pub struct FileKeyValue {
    opened: Arc<Opened>,
    bounds: Bounds,
    /// None only while this is dropped.
    queues: Option<(mpsc::Sender<Write>, mpsc::Sender<Read>)>,
    threads: Vec<JoinHandle<()>>,
}

impl FileKeyValue {
    /// The file `keyvalue.redb` in this folder; it is not touched yet. Fails when there are no threads to be had.
    pub fn new(data_dir: &Path) -> Result<FileKeyValue, FileError> {
        FileKeyValue::with(
            data_dir.join("keyvalue.redb"),
            Box::new(|file| opening::builder(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)),
        )
    }

    fn with(path: PathBuf, make: Make) -> Result<FileKeyValue, FileError> {
        let opened = Arc::new(Opened::new(path.clone(), make));
        let (writes, waiting_writes) = mpsc::channel(MAX_WAITING);
        let (reads, waiting_reads) = mpsc::channel(MAX_WAITING);
        let threads = threads::start(&opened, waiting_writes, waiting_reads, READERS)
            .map_err(|error| FileError::Io { path, error })?;
        let bounds = Bounds { keys: MAX_KEYS as u64, bytes: MAX_BUCKET_BYTES as u64 };
        Ok(FileKeyValue { opened, bounds, queues: Some((writes, reads)), threads })
    }

    /// The same with other limits than [`MAX_KEYS`] and [`MAX_BUCKET_BYTES`].
    pub fn with_bounds(mut self, keys: usize, bytes: usize) -> FileKeyValue {
        self.bounds = Bounds { keys: keys as u64, bytes: bytes as u64 };
        self
    }

    /// Opens the file, or makes it, now. Blocks: a large file is checked for damage.
    pub fn open(&self) -> Result<(), FileError> {
        self.opened.open()
    }

    /// Does something to the tables in the next transaction, and answers when that is on the disk.
    fn write<'a, T: Send + 'static>(
        &'a self,
        act: impl FnOnce(&mut Tables<'_>) -> Outcome<T> + Send + 'static,
    ) -> Answer<'a, T> {
        let (answer, answered) = oneshot::channel();
        let work = move |tables: &mut Tables<'_>| {
            let done = act(tables)?;
            // Whoever waited may be gone.
            let tell: Committed = Box::new(move || _ = answer.send(done));
            Ok(tell)
        };
        let queue = self.queues.as_ref().map(|(writes, _)| writes);
        async move {
            if let Some(queue) = queue {
                // A queue whose thread is gone drops the work, which is heard below.
                _ = queue.send(Box::new(work)).await;
            }
            answered.await.unwrap_or_else(|_| Err(unavailable()))
        }
        .boxed()
    }

    /// Looks something up in the last transaction.
    fn read<'a, T: Send + 'static>(
        &'a self,
        look: impl FnOnce(&ReadTables) -> Result<T, redb::Error> + Send + 'static,
    ) -> Answer<'a, T> {
        let (answer, answered) = oneshot::channel();
        let work = move |tables: &ReadTables| {
            let found = look(tables)?;
            _ = answer.send(found);
            Ok(())
        };
        let queue = self.queues.as_ref().map(|(_, reads)| reads);
        async move {
            if let Some(queue) = queue {
                _ = queue.send(Box::new(work)).await;
            }
            answered.await.map_err(|_| unavailable())
        }
        .boxed()
    }
}

impl Drop for FileKeyValue {
    /// Whatever was handed in is written, then the file is closed.
    fn drop(&mut self) {
        self.queues = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to close.
            _ = thread.join();
        }
    }
}

fn unavailable() -> KeyValueError {
    KeyValueError::Unavailable(
        "the host can't use its file of keys at the moment; its log says why".to_owned(),
    )
}

impl KeyValue for FileKeyValue {
    fn get<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, Option<Entry>> {
        let (place, key) = (Place::of(bucket), key.to_owned());
        self.read(move |tables| tables.get(&place, &key))
    }

    fn set<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, value: Vec<u8>) -> Answer<'a, u64> {
        let (place, key, bounds) = (Place::of(bucket), key.to_owned(), self.bounds);
        self.write(move |tables| tables.write(&place, &key, &value, bounds))
    }

    fn compare_and_set<'a>(
        &'a self,
        bucket: Bucket<'a>,
        key: &'a str,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Answer<'a, Option<u64>> {
        let (place, key, bounds) = (Place::of(bucket), key.to_owned(), self.bounds);
        self.write(move |tables| {
            if tables.version(&place, &key)? != expected {
                return Ok(Ok(None));
            }
            Ok(tables.write(&place, &key, &value, bounds)?.map(Some))
        })
    }

    fn increment<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, delta: i64) -> Answer<'a, i64> {
        let (place, key, bounds) = (Place::of(bucket), key.to_owned(), self.bounds);
        self.write(move |tables| tables.add(&place, &key, delta, bounds))
    }

    fn delete<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, ()> {
        let (place, key) = (Place::of(bucket), key.to_owned());
        self.write(move |tables| tables.delete(&place, &key).map(Ok))
    }

    fn keys<'a>(&'a self, bucket: Bucket<'a>, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        let (place, prefix, after) = (Place::of(bucket), prefix.to_owned(), after.map(str::to_owned));
        self.read(move |tables| tables.page(&place, &prefix, after.as_deref()))
    }
}
