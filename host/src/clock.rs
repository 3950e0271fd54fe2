//! The two clocks of this host, read in one place. Knows the operating system, not what the time is used for.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use presence_core::time::{Now, Tick, Timestamp};

/// Where the time comes from, if not from the machine: simulations have their own.
pub trait TimeSource: Debug + Send + Sync {
    /// Both clocks, read together.
    fn now(&self) -> Now;
}

/// Reads wall-clock time and monotonic time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// None: the machine's.
    source: Option<Arc<dyn TimeSource>>,
}

impl Clock {
    /// The machine's clocks.
    pub fn machine() -> Clock {
        Clock::default()
    }

    /// Clocks of somebody else's.
    pub fn of(source: Arc<dyn TimeSource>) -> Clock {
        Clock { source: Some(source) }
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        match &self.source {
            None => Now { wall: machine_wall(), tick: machine_tick() },
            Some(source) => source.now(),
        }
    }

    /// Milliseconds since 1970, UTC. Follows adjustments of the machine's clock; 0 before 1970.
    pub fn wall(&self) -> Timestamp {
        self.source.as_ref().map_or_else(machine_wall, |source| source.now().wall)
    }

    /// Milliseconds since the machine was started. Never goes back, and goes on while the machine is suspended: a
    /// lease that ran out during a suspension is seen to have run out.
    pub fn tick(&self) -> Tick {
        self.source.as_ref().map_or_else(machine_tick, |source| source.now().tick)
    }
}

fn machine_wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn machine_tick() -> Tick {
    let time = rustix::time::clock_gettime(BOOT_CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let millis = u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000;
    Tick(seconds.saturating_mul(1000).saturating_add(millis))
}

#[cfg(target_os = "linux")]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
// Elsewhere the monotonic clock is the nearest there is; on macOS it counts suspension too.
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_never_goes_back_and_the_wall_is_this_century() {
        let clock = Clock::machine();
        let first = clock.now();
        let second = clock.now();
        assert!(second.tick >= first.tick);
        assert!(first.wall > Timestamp(1_600_000_000_000), "{first:?}");
    }
}
