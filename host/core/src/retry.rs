//! How long to wait before trying again: exponential, with jitter, from a seeded generator.

use std::time::Duration;

/// A guest may ask for a pause of at most so many times `max_backoff`.
pub const LONGEST_WISH: u32 = 10;

/// Pauses of one plugin.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    state: u64,
}

impl Backoff {
    /// The pause after the first failure, the longest pause, and the seed of the jitter.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Backoff {
        Backoff { first, longest, state: seed }
    }

    /// The pause after so many failures in a row (from 1): `first` doubled with each, at most `longest`, of which
    /// a random half is left out so that many that failed together don't come back together.
    pub fn pause(&mut self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.longest);
        let share = (self.random() >> 11) as f64 / (1_u64 << 53) as f64;
        full.mul_f64(0.5 + share / 2.0)
    }

    /// The pause that a guest asked for, at most ten times the longest of its own.
    pub fn wished(&self, wish: Duration) -> Duration {
        wish.min(self.longest.saturating_mul(LONGEST_WISH))
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_half() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, longest, 42);
        let mut seen = std::collections::BTreeSet::new();
        for failures in 1..100 {
            let full = (first * 2_u32.saturating_pow(failures - 1).min(10_000)).min(longest);
            let pause = backoff.pause(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?} of {full:?}");
            seen.insert(pause);
        }
        assert!(seen.len() > 90, "the jitter is random");
        assert_eq!(backoff.wished(Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(backoff.wished(Duration::from_secs(7000)), Duration::from_secs(300));
    }
}
