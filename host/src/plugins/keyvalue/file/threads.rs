//! The threads at the file: one that writes, some that read. They end when their queue does. Knows transactions, not
//! what is done in them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use redb::{Database, ReadableDatabase};
use tokio::sync::mpsc::Receiver;

use super::MAX_WAITING;
use super::opening::Opened;
use super::tables::{ReadTables, Tables};

/// Tells somebody that the transaction is on the disk. Dropped without a call when it is not.
pub(super) type Committed = Box<dyn FnOnce() + Send>;
/// A part of a transaction.
pub(super) type Write = Box<dyn FnOnce(&mut Tables<'_>) -> Result<Committed, redb::Error> + Send>;
/// One look at the last transaction.
pub(super) type Read = Box<dyn FnOnce(&ReadTables) -> Result<(), redb::Error> + Send>;

/// Starts the threads.
pub(super) fn start(
    opened: &Arc<Opened>,
    writes: Receiver<Write>,
    reads: Receiver<Read>,
    readers: usize,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let thread = |name: &str| Builder::new().name(name.to_owned());
    let file = opened.clone();
    let mut threads = vec![thread("keyvalue-write").spawn(move || write_all(&file, writes))?];
    let reads = Arc::new(Mutex::new(reads));
    for _ in 0..readers {
        let (file, reads) = (opened.clone(), reads.clone());
        threads.push(thread("keyvalue-read").spawn(move || read_all(&file, &reads))?);
    }
    Ok(threads)
}

fn write_all(file: &Opened, mut writes: Receiver<Write>) {
    let mut batch = Vec::new();
    while writes.blocking_recv_many(&mut batch, MAX_WAITING) > 0 {
        let batch = std::mem::take(&mut batch);
        let told = file.with(|database| guarded(|| commit(database, batch)));
        told.into_iter().flatten().for_each(|tell| tell());
    }
}

/// One transaction of all.
fn commit(database: &Database, batch: Vec<Write>) -> Result<Vec<Committed>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut told = Vec::with_capacity(batch.len());
    let mut tables = Tables::open(&transaction)?;
    for write in batch {
        told.push(write(&mut tables)?);
    }
    let changed = tables.changed();
    drop(tables);
    if changed {
        transaction.commit()?
    } else {
        transaction.abort()?
    }
    Ok(told)
}

fn read_all(file: &Opened, reads: &Mutex<Receiver<Read>>) {
    loop {
        // One waits at the queue, the others for it.
        let next = reads.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(read) = next else { return };
        _ = file.with(|database| guarded(|| look(database, read)));
    }
}

fn look(database: &Database, read: Read) -> Result<(), redb::Error> {
    read(&ReadTables::open(&database.begin_read()?)?)
}

/// The library panics over some kinds of damage: to plugins that is a failure like others.
fn guarded<T>(act: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let damaged = || redb::Error::Corrupted("the library could not go on".to_owned());
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err(damaged()))
}
