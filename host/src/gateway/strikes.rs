//! Counts a client's errors: who goes on making them is sent away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many errors are forgiven ...
pub const FORGIVEN: usize = 10;

/// ... within any such span.
pub const SPAN: Duration = Duration::from_secs(10);

/// The recent errors of one connection. Holds memory only for clients that make some.
#[derive(Debug, Default)]
pub struct Strikes(Option<Box<VecDeque<Instant>>>);

impl Strikes {
    /// Notes an error; true when it is one too many.
    pub fn strike(&mut self, now: Instant) -> bool {
        let recent = self.0.get_or_insert_default();
        while recent.front().is_some_and(|at| now.duration_since(*at) > SPAN) {
            recent.pop_front();
        }
        recent.push_back(now);
        recent.len() > FORGIVEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_errors_in_ten_seconds_are_forgiven_the_eleventh_is_not() {
        let start = Instant::now();
        let mut strikes = Strikes::default();
        for second in 0..10 {
            assert!(!strikes.strike(start + Duration::from_secs(second)));
        }
        assert!(strikes.strike(start + Duration::from_secs(10)));
    }

    #[test]
    fn rare_errors_are_forgiven_for_ever() {
        let start = Instant::now();
        let mut strikes = Strikes::default();
        for minute in 0..100 {
            assert!(!strikes.strike(start + Duration::from_secs(60 * minute)));
        }
    }
}
