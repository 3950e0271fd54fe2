//! What goes wrong, and when: a seeded schedule of faults, then quiet. Faults are counted by name.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::journal::{lock, millis};
use super::plan::{TTL, rng};
use super::plugins::PLUGINS;
use super::receiver::Mood;
use super::world::World;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A host is killed, and started again later.
    Kill,
    /// A host is suspended for less than its lease.
    ShortPause,
    /// A host is suspended for longer than its lease.
    LongPause,
    /// A host stops in good order, and is started again later.
    Drain,
    /// One more host joins.
    Join,
    /// A host loses its connection to the store.
    Cut,
    /// Nobody reaches the store, for less than a lease.
    ShortAway,
    /// Nobody reaches the store, for longer than a lease.
    LongAway,
    /// The store loses everything.
    Wipe,
    /// Requests and answers get lost and come late.
    Lossy,
    /// Everything takes long.
    Slow,
    /// A wall clock jumps.
    Clock,
    /// A receiver fails, hangs, or refuses; or a plugin crashes.
    Plugin,
    /// Everything is killed at once, and started again.
    KillAll,
    /// Everything is drained at once, and started again.
    DrainAll,
    /// All but one are killed.
    KillAllButOne,
}

impl Fault {
    /// All of them.
    pub(super) const ALL: [Fault; 16] = [
        Fault::Kill,
        Fault::ShortPause,
        Fault::LongPause,
        Fault::Drain,
        Fault::Join,
        Fault::Cut,
        Fault::ShortAway,
        Fault::LongAway,
        Fault::Wipe,
        Fault::Lossy,
        Fault::Slow,
        Fault::Clock,
        Fault::Plugin,
        Fault::KillAll,
        Fault::DrainAll,
        Fault::KillAllButOne,
    ];

    /// How it is counted.
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Kill => "host killed",
            Fault::ShortPause => "host suspended briefly",
            Fault::LongPause => "host suspended for longer than its lease",
            Fault::Drain => "host drained",
            Fault::Join => "host joined",
            Fault::Cut => "host cut off",
            Fault::ShortAway => "store away briefly",
            Fault::LongAway => "store away for longer than the lease",
            Fault::Wipe => "store wiped",
            Fault::Lossy => "requests and answers lost",
            Fault::Slow => "everything slow",
            Fault::Clock => "clock jumped",
            Fault::Plugin => "plugin failing",
            Fault::KillAll => "all hosts killed",
            Fault::DrainAll => "all hosts drained",
            Fault::KillAllButOne => "all hosts but one killed",
        }
    }
}

/// Runs the schedule, then brings everything back, then waits until all is at rest.
pub(super) async fn run(world: Arc<World>) {
    let mut random = rng(world.seed, "faults");
    for number in 0..world.plan.hosts {
        world.start_host(number);
        if random.bool() {
            sleep(millis(&mut random, 0..=2_000)).await;
        }
    }
    sleep(millis(&mut random, 0..=8_000)).await;
    let end = Instant::now() + world.plan.chaos;
    let pace = world.plan.pace.as_millis() as u64;
    while Instant::now() < end {
        let fault = world.plan.kinds[random.usize(..world.plan.kinds.len())];
        happen(&world, fault, &mut random);
        sleep(millis(&mut random, 0..=pace * 2)).await;
    }
    settle(&world, &mut random).await;
}

fn happen(world: &Arc<World>, fault: Fault, random: &mut fastrand::Rng) {
    let running = world.running();
    let one = (!running.is_empty()).then(|| running[random.usize(..running.len())].0.host);
    let happened = match fault {
        Fault::Kill => one.map(|host| kill(world, host, random)).is_some(),
        Fault::ShortPause => one.map(|host| pause(world, host, millis(random, 100..=2_500))).is_some(),
        Fault::LongPause => one.map(|host| pause(world, host, millis(random, 3_000..=14_000))).is_some(),
        Fault::Drain => one.map(|host| drain(world, host, random)).is_some(),
        Fault::Join => join(world),
        Fault::Cut => one.map(|host| cut(world, host, millis(random, 500..=14_000))).is_some(),
        Fault::ShortAway => away(world, millis(random, 200..=2_500)),
        Fault::LongAway => away(world, millis(random, 3_500..=15_000)),
        Fault::Wipe => wipe(world, random),
        Fault::Lossy => {
            lock(&world.links).lossy_until = Some(Instant::now() + millis(random, 2_000..=12_000));
            true
        }
        Fault::Slow => {
            lock(&world.links).slow_until = Some(Instant::now() + millis(random, 2_000..=8_000));
            true
        }
        Fault::Clock => one.map(|host| jump(world, host, random.i64(-900..=900))).is_some(),
        Fault::Plugin => plugin(world, random),
        Fault::KillAll => {
            running.iter().for_each(|(origin, _)| kill(world, origin.host, random));
            !running.is_empty()
        }
        Fault::DrainAll => {
            running.iter().for_each(|(origin, _)| drain(world, origin.host, random));
            !running.is_empty()
        }
        Fault::KillAllButOne => {
            let others = running.iter().filter(|(origin, _)| Some(origin.host) != one);
            others.for_each(|(origin, _)| kill(world, origin.host, random));
            running.len() > 1
        }
    };
    if happened {
        world.journal.count(fault.name());
        world.journal.note(format_args!("**** {}", fault.name()));
    }
}

fn kill(world: &Arc<World>, host: u32, random: &mut fastrand::Rng) {
    world.journal.note(format_args!("**** h{host} is killed"));
    world.kill(host, random);
    restart(world, host, millis(random, 300..=15_000));
}

/// Starts the host again, if it has ended by then; else it waits for that.
fn restart(world: &Arc<World>, host: u32, after: Duration) {
    let world = world.clone();
    tokio::spawn(async move {
        sleep(after).await;
        while let Some(up) = world.up(host) {
            if !up.draining {
                return;
            }
            up.gone.wait().await;
        }
        if !world.quiet.is() {
            world.start_host(host);
        }
    });
}

fn pause(world: &Arc<World>, host: u32, time: Duration) {
    let Some(up) = world.up(host) else { return };
    if up.switch.is_paused() {
        return;
    }
    world.journal.note(format_args!("**** h{host} is suspended for {time:?}"));
    up.switch.pause();
    let world = world.clone();
    tokio::spawn(async move {
        sleep(time).await;
        world.journal.note(format_args!("**** h{host} goes on"));
        up.switch.resume();
    });
}

fn drain(world: &Arc<World>, host: u32, random: &mut fastrand::Rng) {
    world.journal.note(format_args!("**** h{host} is told to stop"));
    world.drain(host);
    restart(world, host, millis(random, 300..=12_000));
}

fn join(world: &Arc<World>) -> bool {
    let number = lock(&world.hosts).len() as u32;
    let room = number < world.plan.max_hosts;
    if room {
        world.start_host(number);
    }
    room
}

fn cut(world: &Arc<World>, host: u32, time: Duration) {
    world.journal.note(format_args!("**** h{host} is cut off for {time:?}"));
    lock(&world.links).cut_until.insert(host, Instant::now() + time);
}

fn away(world: &Arc<World>, time: Duration) -> bool {
    world.journal.note(format_args!("**** the store is away for {time:?}"));
    let mut links = lock(&world.links);
    links.away_until = links.away_until.max(Some(Instant::now() + time));
    true
}

fn wipe(world: &Arc<World>, random: &mut fastrand::Rng) -> bool {
    lock(&world.truth).wipe();
    lock(&world.links).unavailable_until = Some(Instant::now() + millis(random, 100..=5_000));
    true
}

fn jump(world: &Arc<World>, host: u32, skew: i64) {
    if let Some(up) = world.up(host) {
        world.journal.note(format_args!("**** the clock of h{host} is off by {skew} ms"));
        up.clock.set_skew(skew);
    }
}

fn plugin(world: &Arc<World>, random: &mut fastrand::Rng) -> bool {
    let moods = [Mood::Failing, Mood::Trapping, Mood::Hanging, Mood::Refusing];
    let (mood, time) = (moods[random.usize(..moods.len())], millis(random, 500..=8_000));
    let name = PLUGINS[random.usize(..PLUGINS.len())].0;
    world.journal.note(format_args!("**** {name} is {mood:?} for {time:?}"));
    lock(&world.receiver).moods.insert(name, mood);
    let world = world.clone();
    tokio::spawn(async move {
        sleep(time).await;
        lock(&world.receiver).moods.remove(name);
    });
    true
}

/// No more faults. Some hosts stay down, at least one is there.
async fn settle(world: &Arc<World>, random: &mut fastrand::Rng) {
    world.quiet.set();
    world.journal.note(format_args!("==== quiet"));
    lock(&world.links).heal();
    for (_, up) in world.running() {
        up.switch.resume();
        up.clock.set_skew(0);
    }
    for host in world.down() {
        if random.bool() {
            world.start_host(host);
        }
    }
    let all_leave = |world: &World| world.running().iter().all(|(_, up)| up.draining);
    if all_leave(world) {
        sleep(millis(random, 0..=12_000)).await;
    }
    let rest = Instant::now() + super::plan::QUIET;
    while Instant::now() < rest {
        if all_leave(world)
            && let Some(host) = world.down().first()
        {
            world.start_host(*host);
        }
        sleep(Duration::from_secs(2)).await;
    }
    debug_assert!(TTL < super::plan::QUIET);
}
