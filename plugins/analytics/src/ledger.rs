//! Folds events into users' documents and carries what they add to the roll-ups, exactly once, whatever is cut off
//! and whoever else is at it. Knows keys and versions, and not what the figures mean.
//!
//! An event changes two documents, and only one can be written at a time:
//!
//! 1. the user's: the event folded in, and the addition to the roll-up as `pending`, with a number;
//! 2. the roll-up: the figures added, and the number noted under the user in `applied`;
//! 3. the user's again: `pending` taken out.
//!
//! A guest may be gone after any of these. Whoever comes to this user next (the repeat of the event, or another) finds
//! `pending` and does the rest first. Two may do that at once, and one of them may be slow, so step 2 goes: read the
//! roll-up; if the number is noted there, it is done; *then* read the user's document; if the number is no longer
//! pending there, it is done; write the roll-up if it is still what was read. A note is dropped only by someone who saw
//! that its number is no longer pending, and a number never becomes pending again. So if it was pending after the
//! roll-up was read, no note of it had been dropped before, and a missing one means that nothing was added.

use std::collections::BTreeMap;

use presence_plugin::keyvalue::{self, Bucket};
use presence_plugin::{HookError, StatusChange, time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::figures::Figures;
use crate::record::{Fate, Pending, Step, UserRecord};

/// Users' documents lie under this and the user.
pub const USERS: &str = "user/";
/// Roll-ups of one day. One for each guest that is likely to be at work at once, and then some.
const SHARDS: u64 = 16;
/// How many notes a roll-up holds before those that have served are dropped. Few in tests: it happens all the time.
const NOTES: usize = if cfg!(test) { 2 } else { 32 };
/// How often a step is tried against other writers. One of them gets on every time, so it takes very many to use
/// this up.
const TRIES: usize = 100;

/// Why an event could not be counted. What was done of it stays, and a repeat goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] keyvalue::Error),
    #[error("{key} is not a document of this plugin ({text}): delete it, or give the plugin another bucket")]
    Damaged { key: String, text: String },
    #[error("{0} is written by too many at once")]
    Contended(String),
}

impl From<Error> for HookError {
    fn from(error: Error) -> HookError {
        match error {
            Error::Store(error) => error.into(),
            Error::Damaged { .. } => HookError::reject(error.to_string()),
            Error::Contended(_) => HookError::retry(error.to_string()),
        }
    }
}

/// A document under `rollup/<day>/<shard>`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Rollup {
    figures: Figures,
    /// By user, the number of the last addition.
    applied: BTreeMap<String, u64>,
}

/// The documents of one bucket.
pub struct Ledger {
    bucket: Bucket,
}

impl Ledger {
    pub fn new(bucket: &str) -> Ledger {
        Ledger { bucket: Bucket::new(bucket) }
    }

    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Counts what became of a session. Returns the user's document afterwards.
    pub fn session(
        &self,
        user: &str,
        session: &str,
        connected_at: u64,
        fate: Fate,
    ) -> Result<UserRecord, Error> {
        self.apply(user, |record| record.session(session, connected_at, fate, time::now_ms()))
    }

    /// Counts a change of status.
    pub fn status(&self, change: &StatusChange) -> Result<(), Error> {
        self.apply(&change.user, |record| record.status(change)).map(|_| ())
    }

    fn apply(&self, user: &str, fold: impl Fn(&mut UserRecord) -> Option<Step>) -> Result<UserRecord, Error> {
        let key = user_key(user);
        for _ in 0..TRIES {
            let (mut record, version) = self.read::<UserRecord>(&key)?;
            if let Some(pending) = &record.pending {
                self.settle(user, pending)?;
                continue;
            }
            let Some(step) = fold(&mut record) else {
                return Ok(record);
            };
            if version.is_none() {
                // Numbers never come back, also not to a user who was forgotten.
                record.sequence = time::now_ms();
            }
            if step.delta != Figures::default() {
                record.figures += step.delta;
                record.sequence += 1;
                let (sequence, rollup) = (record.sequence, rollup_key(step.at_ms, user));
                record.pending = Some(Pending { sequence, rollup, delta: step.delta });
            }
            if !self.write(&key, version, &record)? {
                continue;
            }
            if let Some(pending) = record.pending.take() {
                self.settle(user, &pending)?;
            }
            return Ok(record);
        }
        Err(Error::Contended(key))
    }

    /// Steps 2 and 3 above.
    fn settle(&self, user: &str, pending: &Pending) -> Result<(), Error> {
        let key = user_key(user);
        for _ in 0..TRIES {
            let (mut rollup, rollup_version) = self.read::<Rollup>(&pending.rollup)?;
            let (mut record, version) = self.read::<UserRecord>(&key)?;
            if record.pending.as_ref().is_none_or(|now| now.sequence != pending.sequence) {
                return Ok(());
            }
            if rollup.applied.get(user) != Some(&pending.sequence) {
                self.drop_notes(&mut rollup)?;
                rollup.figures += pending.delta;
                rollup.applied.insert(user.to_string(), pending.sequence);
                if !self.write(&pending.rollup, rollup_version, &rollup)? {
                    continue;
                }
            }
            record.pending = None;
            if self.write(&key, version, &record)? {
                return Ok(());
            }
        }
        Err(Error::Contended(pending.rollup.clone()))
    }

    /// Drops the notes whose additions are pending nowhere. The more there are, the fewer of them are needed, so this
    /// costs about one read per addition.
    fn drop_notes(&self, rollup: &mut Rollup) -> Result<(), Error> {
        if rollup.applied.len() < NOTES {
            return Ok(());
        }
        let mut needed = BTreeMap::new();
        for (user, sequence) in std::mem::take(&mut rollup.applied) {
            let (record, _) = self.read::<UserRecord>(&user_key(&user))?;
            if record.pending.is_some_and(|pending| pending.sequence == sequence) {
                needed.insert(user, sequence);
            }
        }
        rollup.applied = needed;
        Ok(())
    }

    /// Reads a document, and its version if it is there.
    pub fn read<T: Default + DeserializeOwned>(&self, key: &str) -> Result<(T, Option<u64>), Error> {
        let Some(entry) = self.bucket.get(key)? else {
            return Ok((T::default(), None));
        };
        let document = serde_json::from_slice(&entry.value)
            .map_err(|error| Error::Damaged { key: key.to_string(), text: error.to_string() })?;
        Ok((document, Some(entry.version)))
    }

    /// Writes a document. False if another writer won.
    pub fn write(&self, key: &str, expected: Option<u64>, document: &impl Serialize) -> Result<bool, Error> {
        let value = serde_json::to_vec(document)
            .map_err(|error| Error::Damaged { key: key.to_string(), text: error.to_string() })?;
        Ok(self.bucket.compare_and_set(key, expected, value)?.is_some())
    }
}

fn user_key(user: &str) -> String {
    format!("{USERS}{user}")
}

/// The key of a user's roll-up for the day of this time.
pub fn rollup_key(at_ms: u64, user: &str) -> String {
    // FNV-1a: any hash will do that is the same in every guest and every version.
    let hash = user.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("rollup/{}/{:x}", time::date(at_ms), hash % SHARDS)
}
