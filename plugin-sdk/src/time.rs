//! Clocks and dates for plugins. The one place of the SDK that reads a clock.

use std::time::Duration;

/// Milliseconds since 1970, UTC: the host's wall clock, or in tests what `testing::set_now_ms` said.
pub fn now_ms() -> u64 {
    clock::now_ms()
}

/// What is left until the deadline of the running hook call; none outside a call (so in native tests).
pub fn remaining() -> Option<Duration> {
    clock::remaining()
}

/// `2026-11-25T08:30:00.125Z`, for milliseconds since 1970 (years up to 9999 have four digits).
pub fn rfc3339(ms: u64) -> String {
    let (second, milli) = (ms / 1000 % 86_400, ms % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", date(ms))
}

/// `2026-11-25`: the UTC day that holds this millisecond since 1970.
pub fn date(ms: u64) -> String {
    let (year, month, day) = civil(ms / 86_400_000);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970 in the Gregorian calendar. Counting starts on 1 March of the
/// year 0, so that the leap day is the last of its year; 400 years always have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(target_family = "wasm")]
pub(crate) use wasi as clock;

/// WASI's clocks, not std's: they work on every wasm target, also where std knows no clock.
#[cfg(target_family = "wasm")]
pub(crate) mod wasi {
    use std::cell::Cell;
    use std::time::Duration;

    use wasip2::clocks::{monotonic_clock, wall_clock};

    std::thread_local! {
        /// On the monotonic clock, in nanoseconds.
        static DEADLINE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub(super) fn now_ms() -> u64 {
        let now = wall_clock::now();
        now.seconds * 1000 + u64::from(now.nanoseconds) / 1_000_000
    }

    pub(super) fn remaining() -> Option<Duration> {
        let deadline = DEADLINE.get()?;
        Some(Duration::from_nanos(deadline.saturating_sub(monotonic_clock::now())))
    }

    /// A call begins (so many milliseconds are left), or has ended.
    pub(crate) fn set_call(time_left_ms: Option<u32>) {
        DEADLINE.set(time_left_ms.map(|ms| monotonic_clock::now().saturating_add(u64::from(ms) * 1_000_000)));
    }
}

#[cfg(not(target_family = "wasm"))]
mod clock {
    use std::time::{Duration, SystemTime};

    pub(super) fn now_ms() -> u64 {
        crate::testing::fixed_now_ms().unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        })
    }

    pub(super) fn remaining() -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_all_kinds() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), expected);
        }
    }
}
