//! What is in the file: keys with their values and versions, and what each bucket holds altogether, so that limits
//! cost no scan. Knows no threads.

use redb::{Database, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::super::{Bucket, Entry, KeyValueError, PAGE_KEYS, Page, add, bucket_full};
use super::Bounds;
use crate::clock::Clock;

/// By plugin, bucket and key: the version and the value.
const KEYS: TableDefinition<(&str, &str, &str), (u64, &[u8])> = TableDefinition::new("keys");
/// By plugin and bucket: how many keys, how many bytes of keys and values, and the newest version.
const BUCKETS: TableDefinition<(&str, &str), (u64, u64, u64)> = TableDefinition::new("buckets");

/// An answer, or a refusal that is one, or a failure of the file.
pub(super) type Outcome<T> = Result<Result<T, KeyValueError>, redb::Error>;

/// A [`Bucket`] that can be sent to a thread.
pub(super) struct Place {
    plugin: String,
    bucket: String,
}

impl Place {
    pub(super) fn of(bucket: Bucket<'_>) -> Place {
        Place { plugin: bucket.plugin.to_owned(), bucket: bucket.bucket.to_owned() }
    }

    fn bucket(&self) -> (&str, &str) {
        (&self.plugin, &self.bucket)
    }

    fn key<'a>(&'a self, key: &'a str) -> (&'a str, &'a str, &'a str) {
        (&self.plugin, &self.bucket, key)
    }
}

/// Makes the tables of a new file, so that reading finds them.
pub(super) fn make(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let found = transaction.list_tables()?.count();
    drop(Tables::open(&transaction)?);
    if found == 0 {
        transaction.commit()?
    } else {
        transaction.abort()?
    }
    Ok(())
}

/// Both tables within one transaction that writes.
pub(super) struct Tables<'t> {
    keys: Table<'t, (&'static str, &'static str, &'static str), (u64, &'static [u8])>,
    buckets: Table<'t, (&'static str, &'static str), (u64, u64, u64)>,
    changed: bool,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Tables<'t>, redb::Error> {
        let (keys, buckets) = (transaction.open_table(KEYS)?, transaction.open_table(BUCKETS)?);
        Ok(Tables { keys, buckets, changed: false })
    }

    /// Whether there is anything to commit.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    pub(super) fn version(&self, place: &Place, key: &str) -> Result<Option<u64>, redb::Error> {
        Ok(self.keys.get(place.key(key))?.map(|found| found.value().0))
    }

    /// Writes a key, if its bucket has room; answers its version.
    pub(super) fn write(&mut self, place: &Place, key: &str, value: &[u8], bounds: Bounds) -> Outcome<u64> {
        let old = self.keys.get(place.key(key))?.map(|found| found.value().1.len());
        let found = self.buckets.get(place.bucket())?.map(|found| found.value());
        // As over NATS, a bucket that is made anew counts on from the present microsecond: no version comes back.
        let (keys, bytes, version) =
            found.unwrap_or_else(|| (0, 0, Clock::machine().wall().0.saturating_mul(1000)));
        let keys = keys + u64::from(old.is_none());
        if keys > bounds.keys && old.is_none() {
            return Ok(Err(bucket_full(bounds.keys, "keys")));
        }
        let freed = old.map_or(0, |old| weight(key, old));
        let bytes = bytes.saturating_sub(freed) + weight(key, value.len());
        if bytes > bounds.bytes {
            return Ok(Err(bucket_full(bounds.bytes, "bytes")));
        }
        let version = version + 1;
        self.changed = true;
        self.keys.insert(place.key(key), (version, value))?;
        self.buckets.insert(place.bucket(), (keys, bytes, version))?;
        Ok(Ok(version))
    }

    /// Adds to a number; answers the sum.
    pub(super) fn add(&mut self, place: &Place, key: &str, delta: i64, bounds: Bounds) -> Outcome<i64> {
        let found = self.keys.get(place.key(key))?.map(|found| found.value().1.to_vec());
        let sum = match add(key, found.as_deref(), delta) {
            Ok(sum) => sum,
            Err(refused) => return Ok(Err(refused)),
        };
        Ok(self.write(place, key, sum.to_string().as_bytes(), bounds)?.map(|_| sum))
    }

    /// Deletes a key; the bucket's newest version stays.
    pub(super) fn delete(&mut self, place: &Place, key: &str) -> Result<(), redb::Error> {
        let Some(old) = self.keys.remove(place.key(key))?.map(|found| found.value().1.len()) else {
            return Ok(());
        };
        self.changed = true;
        let found = self.buckets.get(place.bucket())?.map(|found| found.value());
        let (keys, bytes, version) = found.unwrap_or_default();
        let left = (keys.saturating_sub(1), bytes.saturating_sub(weight(key, old)), version);
        self.buckets.insert(place.bucket(), left)?;
        Ok(())
    }
}

fn weight(key: &str, value: usize) -> u64 {
    (key.len() + value) as u64
}

/// The table of keys as the last transaction left it.
pub(super) struct ReadTables(
    redb::ReadOnlyTable<(&'static str, &'static str, &'static str), (u64, &'static [u8])>,
);

impl ReadTables {
    pub(super) fn open(transaction: &ReadTransaction) -> Result<ReadTables, redb::Error> {
        Ok(ReadTables(transaction.open_table(KEYS)?))
    }

    pub(super) fn get(&self, place: &Place, key: &str) -> Result<Option<Entry>, redb::Error> {
        let found = ReadableTable::get(&self.0, place.key(key))?;
        Ok(found.map(|found| {
            let (version, value) = found.value();
            Entry { value: value.to_vec(), version }
        }))
    }

    pub(super) fn page(&self, place: &Place, prefix: &str, after: Option<&str>) -> Result<Page, redb::Error> {
        let after = after.filter(|after| *after >= prefix);
        let from = place.key(after.unwrap_or(prefix));
        let mut page = Page { keys: Vec::new(), next: None };
        for entry in ReadableTable::range(&self.0, from..)? {
            let (entry, _) = entry?;
            let (plugin, bucket, key) = entry.value();
            if (plugin, bucket) != place.bucket() || !key.starts_with(prefix) {
                break;
            }
            if after == Some(key) {
                continue;
            }
            if page.keys.len() == PAGE_KEYS {
                page.next = page.keys.last().cloned();
                break;
            }
            page.keys.push(key.to_owned());
        }
        Ok(page)
    }
}
