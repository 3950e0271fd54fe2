//! What is done to the deployment, from one seed. Three lanes run beside each other: hosts, NATS, the receiver. The
//! order within a lane is the seed's alone; how lanes interleave depends on how long things take.

use std::time::Duration;

/// How a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random comes from it.
    pub seed: u64,
    /// How long faults go on.
    pub faults_for: Duration,
    /// The clients; several belong to one user.
    pub clients: usize,
    /// The users.
    pub users: usize,
    /// Each client does something about that often.
    pub pace: Duration,
    /// NATS servers: 1 or 3.
    pub servers: usize,
}

/// `cluster.instance_ttl` of every host.
pub const TTL: Duration = Duration::from_secs(4);
/// `presence.offline_grace`.
pub const GRACE: Duration = Duration::from_secs(2);
/// How many hosts there are.
pub const HOSTS: usize = 3;

impl Plan {
    /// What `cargo xtask chaos` runs.
    pub fn full(seed: u64, faults_for: Duration) -> Plan {
        Plan { seed, faults_for, clients: 300, users: 150, pace: Duration::from_secs(4), servers: 3 }
    }

    /// So little that it can run among other tests.
    pub fn small(seed: u64, faults_for: Duration) -> Plan {
        Plan { clients: 60, users: 30, ..Plan::full(seed, faults_for) }
    }

    /// The lanes of this plan, each for ever: hosts, NATS, the receiver.
    pub fn lanes(&self) -> [Lane; 3] {
        let lane = |number, kinds: &'static [Kind], gap| Lane {
            rng: fastrand::Rng::with_seed(self.seed.wrapping_mul(31).wrapping_add(number)),
            kinds,
            deck: Vec::new(),
            gap,
            servers: self.servers,
        };
        [lane(1, &HOST_KINDS, 2..7), lane(2, &NATS_KINDS, 8..20), lane(3, &RECEIVER_KINDS, 20..40)]
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and started again after the step's time.
    KillHosts(Vec<usize>),
    /// SIGSTOP, and SIGCONT after the step's time.
    SuspendHosts(Vec<usize>),
    /// Nothing gets through between these hosts and NATS.
    CutHosts(Vec<usize>),
    /// All hosts are killed; a fresh start.
    RestartAll,
    /// SIGTERM, one host after the other, each started again.
    RollingRestart,
    /// `kill -9` of one NATS server.
    KillNats(usize),
    /// SIGSTOP of one NATS server.
    SuspendNats(usize),
    /// All NATS servers are killed.
    NatsAway,
    /// The receiver answers 503.
    ReceiverAway,
}

impl Fault {
    /// For counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::KillHosts(_) => "hosts killed",
            Fault::SuspendHosts(_) => "hosts suspended",
            Fault::CutHosts(_) => "hosts cut off from NATS",
            Fault::RestartAll => "all hosts killed",
            Fault::RollingRestart => "rolling restart",
            Fault::KillNats(_) => "NATS server killed",
            Fault::SuspendNats(_) => "NATS server suspended",
            Fault::NatsAway => "all NATS servers killed",
            Fault::ReceiverAway => "receiver away",
        }
    }
}

/// A fault of a lane: after a pause, for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Nothing happens in this lane for so long before.
    pub after: Duration,
    /// What happens.
    pub fault: Fault,
    /// How long it lasts before it is mended.
    pub lasts: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Kill,
    Suspend,
    Cut,
    RestartAll,
    Rolling,
    KillNats,
    SuspendNats,
    NatsAway,
    Receiver,
}

const HOST_KINDS: [Kind; 8] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Suspend,
    Kind::Suspend,
    Kind::Cut,
    Kind::Cut,
    Kind::RestartAll,
    Kind::Rolling,
];
const NATS_KINDS: [Kind; 5] =
    [Kind::KillNats, Kind::KillNats, Kind::SuspendNats, Kind::KillNats, Kind::NatsAway];
const RECEIVER_KINDS: [Kind; 1] = [Kind::Receiver];

/// Draws from a shuffled deck, so that a short run sees every kind before it sees one again.
#[derive(Clone, Debug)]
pub struct Lane {
    rng: fastrand::Rng,
    kinds: &'static [Kind],
    deck: Vec<Kind>,
    /// Seconds.
    gap: std::ops::Range<u64>,
    servers: usize,
}

impl Iterator for Lane {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.deck.is_empty() {
            self.deck = self.kinds.to_vec();
            self.rng.shuffle(&mut self.deck);
        }
        let kind = self.deck.pop()?;
        let after = Duration::from_secs(self.rng.u64(self.gap.clone()));
        let (fault, millis) = match kind {
            Kind::Kill => (Fault::KillHosts(self.victims()), 0..8_000),
            // Around the time to live: some come back in time, most do not.
            Kind::Suspend => (Fault::SuspendHosts(self.victims()), 2_500..14_000),
            Kind::Cut => (Fault::CutHosts(self.victims()), 2_500..14_000),
            // Back before their leases are over, or a fresh start.
            Kind::RestartAll => (Fault::RestartAll, 0..12_000),
            Kind::Rolling => (Fault::RollingRestart, 0..2_000),
            Kind::KillNats => (Fault::KillNats(self.rng.usize(..self.servers)), 500..8_000),
            Kind::SuspendNats => (Fault::SuspendNats(self.rng.usize(..self.servers)), 1_000..8_000),
            Kind::NatsAway => (Fault::NatsAway, 2_000..10_000),
            Kind::Receiver => (Fault::ReceiverAway, 1_000..12_000),
        };
        Some(Step { after, fault, lasts: Duration::from_millis(self.rng.u64(millis)) })
    }
}

impl Lane {
    /// One host, sometimes two: never all.
    fn victims(&mut self) -> Vec<usize> {
        let mut hosts: Vec<usize> = (0..HOSTS).collect();
        self.rng.shuffle(&mut hosts);
        hosts.truncate(if self.rng.u8(..4) == 0 { 2 } else { 1 });
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let steps = |seed| {
            let plan = Plan::small(seed, Duration::from_secs(60));
            plan.lanes().map(|lane| lane.take(20).collect::<Vec<Step>>())
        };
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }

    #[test]
    fn every_kind_comes_before_one_comes_too_often() {
        let [hosts, ..] = Plan::small(3, Duration::from_secs(60)).lanes();
        let kinds: std::collections::BTreeSet<&str> =
            hosts.take(HOST_KINDS.len()).map(|step| step.fault.kind()).collect();
        assert_eq!(kinds.len(), 5, "{kinds:?}");
    }

    #[test]
    fn one_host_is_always_left() {
        let [hosts, ..] = Plan::full(5, Duration::from_secs(60)).lanes();
        for step in hosts.take(200) {
            if let Fault::KillHosts(hosts) | Fault::SuspendHosts(hosts) | Fault::CutHosts(hosts) = step.fault
            {
                assert!((1..HOSTS).contains(&hosts.len()));
            }
        }
    }
}
