//! The rounds that ticks make through the users' documents: counting who is there, forgetting who has long been gone.
//! A round may take several ticks; where it stands is in the bucket, so any guest goes on with it. Done twice, each step
//! says the same.

use presence_plugin::{Status, log, time};
use serde::{Deserialize, Serialize};

use crate::ledger::{Error, Ledger, USERS};
use crate::record::UserRecord;

/// How far the round has come.
const ROUND: &str = "round";
const HOURS: &str = "hour/";
const DAYS: &str = "day/";
/// So many documents of each are kept: 31 days, and more than a year. Fewer in tests.
const KEPT_HOURS: usize = if cfg!(test) { 30 } else { 31 * 24 };
const KEPT_DAYS: usize = if cfg!(test) { 10 } else { 400 };
/// Users that one tick sees at most. Few in tests: rounds take several ticks all the time.
const USERS_A_TICK: usize = if cfg!(test) { 4 } else { 10_000 };

/// Who is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Census {
    /// With a document.
    pub users: u64,
    /// By their status.
    pub online: u64,
    /// By their status.
    pub idle: u64,
    /// Open ones of all users.
    pub sessions: u64,
}

impl Census {
    fn count(&mut self, record: &UserRecord) {
        self.users += 1;
        self.online += u64::from(record.status == Some(Status::Online));
        self.idle += u64::from(record.status == Some(Status::Idle));
        self.sessions += record.open_sessions();
    }

    fn max(self, other: Census) -> Census {
        Census {
            users: self.users.max(other.users),
            online: self.online.max(other.online),
            idle: self.idle.max(other.idle),
            sessions: self.sessions.max(other.sessions),
        }
    }
}

/// The document under [`ROUND`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Round {
    /// The last key that was seen.
    after: Option<String>,
    /// Of those seen so far.
    census: Census,
    forgotten: u64,
}

/// A document under `hour/<hour>` or `day/<day>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attendance {
    /// When it was counted last, in milliseconds since 1970.
    pub at: u64,
    /// What was counted then.
    pub now: Census,
    /// The greatest of each number so far.
    pub peak: Census,
}

/// Goes on with the round, or begins one, until all users are seen or the time is up. `due` is that of the tick.
pub fn go_on(
    ledger: &Ledger,
    due: u64,
    forget_after: Option<u64>,
    out_of_time: impl Fn() -> bool,
) -> Result<(), Error> {
    let (mut round, version) = ledger.read::<Round>(ROUND)?;
    let keys = match &round.after {
        Some(after) => ledger.bucket().keys_after(USERS, after),
        None => ledger.bucket().keys(USERS),
    };
    for (seen, key) in keys.enumerate() {
        if seen >= USERS_A_TICK || out_of_time() {
            log::debug!(users = round.census.users, "the next tick goes on with the count");
            // If another guest was at it too, it has come as far.
            ledger.write(ROUND, version, &round)?;
            return Ok(());
        }
        let key = key?;
        look_at(ledger, &key, due, forget_after, &mut round)?;
        round.after = Some(key);
    }
    attend(ledger, &hour_key(due), due, round.census)?;
    attend(ledger, &format!("{DAYS}{}", time::date(due)), due, round.census)?;
    drop_oldest(ledger, HOURS, KEPT_HOURS)?;
    drop_oldest(ledger, DAYS, KEPT_DAYS)?;
    if version.is_some() {
        ledger.bucket().delete(ROUND)?;
    }
    let Census { users, online, idle, sessions } = round.census;
    log::info!(users, online, idle, sessions, forgotten = round.forgotten, "who is here");
    Ok(())
}

fn look_at(
    ledger: &Ledger,
    key: &str,
    due: u64,
    forget_after: Option<u64>,
    round: &mut Round,
) -> Result<(), Error> {
    let (record, version) = match ledger.read::<UserRecord>(key) {
        Err(error @ Error::Damaged { .. }) => {
            log::error!(%error, "left alone");
            return Ok(());
        }
        read => read?,
    };
    if version.is_none() {
        return Ok(());
    }
    let long_gone = forget_after
        .is_some_and(|after| record.gone_since().is_some_and(|since| since.saturating_add(after) < due));
    if long_gone {
        ledger.bucket().delete(key)?;
        round.forgotten += 1;
    } else {
        round.census.count(&record);
    }
    Ok(())
}

/// Notes a count. If another guest is first it says the same, or something newer.
fn attend(ledger: &Ledger, key: &str, due: u64, census: Census) -> Result<(), Error> {
    let (mut attendance, version) = ledger.read::<Attendance>(key)?;
    if attendance.at > due {
        return Ok(());
    }
    attendance = Attendance { at: due, now: census, peak: attendance.peak.max(census) };
    ledger.write(key, version, &attendance).map(drop)
}

/// Keys are in the order of time.
fn drop_oldest(ledger: &Ledger, prefix: &str, kept: usize) -> Result<(), Error> {
    let keys = ledger.bucket().keys(prefix).collect::<Result<Vec<String>, _>>()?;
    for key in &keys[..keys.len().saturating_sub(kept)] {
        ledger.bucket().delete(key)?;
    }
    Ok(())
}

/// `hour/2026-11-25T17`
fn hour_key(at_ms: u64) -> String {
    format!("{HOURS}{}T{:02}", time::date(at_ms), at_ms / 3_600_000 % 24)
}
