//! Whether a client reads what it is sent: not how much waits, which grows with what there is to tell, but how long it waits.
//! Reads no clock.

use std::time::{Duration, Instant};

/// How far one client is behind.
#[derive(Debug, Default)]
pub struct Lag {
    sent: u64,
    /// Since when something has waited: up to which frame, and since when.
    behind: Option<(u64, Instant)>,
}

impl Lag {
    /// A frame went out, and so many wait. True when one of these has waited for longer than `patience`: however much comes
    /// after it, a client that reads has that one by then.
    pub fn is_too_long(&mut self, waiting: usize, now: Instant, patience: Duration) -> bool {
        self.sent += 1;
        let last = self.sent + waiting as u64;
        self.behind = match self.behind {
            _ if waiting == 0 => None,
            Some((until, since)) if self.sent < until => Some((until, since)),
            _ => Some((last, now)),
        };
        self.behind.is_some_and(|(_, since)| now.duration_since(since) > patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn who_reads_may_have_as_much_waiting_as_there_is() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        // A thousand a second come, and go, and a thousand always wait.
        for frame in 0..300_000_u64 {
            assert!(!lag.is_too_long(1000, start + Duration::from_millis(frame), PATIENCE), "{frame}");
        }
    }

    #[test]
    fn who_reads_slower_than_things_come_is_found_out() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        // One a second goes, so that the last of a hundred waits for a hundred seconds.
        let too_long =
            (0..100).find(|second| lag.is_too_long(100, start + Duration::from_secs(*second), PATIENCE));
        assert_eq!(too_long, Some(31));
    }

    #[test]
    fn who_has_caught_up_begins_anew() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        for round in 0..10 {
            assert!(!lag.is_too_long(2, at(40 * round), PATIENCE));
            assert!(!lag.is_too_long(1, at(40 * round + 10), PATIENCE));
            assert!(!lag.is_too_long(0, at(40 * round + 20), PATIENCE));
        }
    }
}
