//! What one run is like: sizes, timings, which faults, which planted ones. All of it follows from the seed.

use std::time::Duration;

use presence_core::documents::Layout;
use presence_host::settings::PresenceSettings;

/// How long an instance lives without a renewal.
pub(super) const TTL: Duration = Duration::from_secs(3);
/// The slicing: few partitions, so that every run has users beside each other.
pub(super) const LAYOUT: Layout = Layout { partitions: 4, leaves: 2 };
/// How long the store's client waits for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The deadline of every call of a plugin: shorter than the lease minus one and a half renewals.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);
/// Without faults for so long, everything is at rest.
pub(super) const QUIET: Duration = Duration::from_secs(90);

/// Seeds before this one are without metadata and messages, and keep the histories that they had.
const DETAILS_FROM: u64 = 1_000_000;

/// Faults that are planted into the store, to see that the simulation finds them. None in the product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plant {
    /// Nothing is planted.
    #[default]
    Nothing,
    /// The store ignores fences.
    NoFencing,
    /// A snapshot lacks what was rewritten after the claim, as that of a consumer does.
    ConsumerForSnapshot,
    /// A status record is acknowledged before it is written, and some never are.
    HookBeforeRecord,
    /// A dead record is written without compare-and-set.
    DeathWithoutCompare,
    /// The boot record is written without compare-and-set.
    EverythingByTwo,
}

impl Plant {
    /// All of them, and none.
    pub const ALL: [Plant; 6] = [
        Plant::Nothing,
        Plant::NoFencing,
        Plant::ConsumerForSnapshot,
        Plant::HookBeforeRecord,
        Plant::DeathWithoutCompare,
        Plant::EverythingByTwo,
    ];
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Hosts at first, and at most.
    pub(super) hosts: u32,
    pub(super) max_hosts: u32,
    pub(super) users: u32,
    pub(super) clients: u32,
    /// How long faults go on.
    pub(super) chaos: Duration,
    /// Which kinds of faults this run has; a run with all of them at once would hide some behind others.
    pub(super) kinds: Vec<super::faults::Fault>,
    /// The pause between two faults is up to twice this.
    pub(super) pace: Duration,
    pub(super) plant: Plant,
    /// People give metadata, set messages and ask to see those of others.
    pub(super) details: bool,
}

impl Plan {
    pub(super) fn of(seed: u64, plant: Plant) -> Plan {
        let mut random = rng(seed, "plan");
        let hosts = random.u32(2..=3);
        let max_hosts = if random.bool() { hosts } else { random.u32(hosts..=5) };
        let users = random.u32(8..=20);
        let share = random.f32() * 0.7 + 0.25;
        let mut kinds: Vec<_> =
            super::faults::Fault::ALL.iter().copied().filter(|_| random.f32() < share).collect();
        if kinds.is_empty() {
            kinds.push(super::faults::Fault::Kill);
        }
        Plan {
            hosts,
            max_hosts,
            users,
            clients: users + random.u32(0..=users),
            chaos: Duration::from_millis(random.u64(40_000..=100_000)),
            kinds,
            pace: Duration::from_millis(random.u64(1_000..=6_000)),
            plant,
            details: seed >= DETAILS_FROM,
        }
    }
}

/// The random numbers of one concern: another concern that asks for more changes nothing here.
pub(super) fn rng(seed: u64, concern: &str) -> fastrand::Rng {
    let mut hash = seed ^ 0x9e37_79b9_7f4a_7c15;
    for byte in concern.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    fastrand::Rng::with_seed(hash.wrapping_mul(0xbf58_476d_1ce4_e5b9))
}

/// `[presence]` of every host.
pub(super) fn presence() -> PresenceSettings {
    PresenceSettings {
        offline_grace: Duration::from_millis(800),
        drain_grace: Duration::from_secs(6),
        idle_after: None,
        heartbeat: Duration::from_secs(6),
        heartbeat_timeout: Duration::from_secs(3),
        offline_retention: Duration::from_secs(3_600),
        max_users: 10_000,
        boot_timeout: Duration::from_secs(5),
    }
}
