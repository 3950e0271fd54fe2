//! Everything that one run shares: the truth, the links, the receivers, the hosts, the people. And how a host is
//! started and ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presence_core::ids::InstanceId;
use presence_host::clock::Clock;
use presence_host::driver::{Driver, DriverConfig, Ending, Event, Handle};
use presence_host::store::SharedStore;
use tokio::sync::Notify;

use super::clients::People;
use super::clock::SimClock;
use super::journal::{Journal, lock, millis};
use super::links::Links;
use super::plan::{LAYOUT, Plan, TTL, presence, rng};
use super::plugins::SimPlugins;
use super::process::{End, Switch, Task};
use super::receiver::Receiver;
use super::store::SimStore;
use super::truth::{Origin, Truth};

/// So many events wait for a driver.
const EVENT_QUEUE: usize = 256;

/// A host, by its latest run.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) origin: Origin,
    /// None: it is down.
    pub(super) up: Option<Up>,
}

/// A host that runs.
#[derive(Clone)]
pub(super) struct Up {
    pub(super) handle: Handle,
    pub(super) switch: Arc<Switch>,
    pub(super) clock: Arc<SimClock>,
    /// Told when the process has ended.
    pub(super) gone: Arc<Once>,
    pub(super) draining: bool,
}

/// Something that happens once, for those who wait for it. They are woken in the order in which they came to wait, which a
/// channel of tokio's leaves to chance.
#[derive(Default)]
pub(super) struct Once {
    is: std::sync::atomic::AtomicBool,
    told: Notify,
}

impl Once {
    pub(super) async fn wait(&self) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.is() {
                return;
            }
            told.await;
        }
    }

    pub(super) fn is(&self) -> bool {
        self.is.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.is.store(true, std::sync::atomic::Ordering::Relaxed);
        self.told.notify_waiters();
    }
}

/// One run.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) journal: Arc<Journal>,
    pub(super) truth: Mutex<Truth>,
    pub(super) links: Mutex<Links>,
    pub(super) stores: Mutex<BTreeMap<Origin, SimStore>>,
    pub(super) receiver: Mutex<Receiver>,
    pub(super) hosts: Mutex<BTreeMap<u32, Host>>,
    pub(super) people: Mutex<People>,
    /// No faults happen any more.
    pub(super) quiet: Once,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, keep: bool) -> World {
        let journal = Arc::new(Journal::new(keep));
        let truth = Truth::new(journal.clone(), plan.plant, rng(seed, "truth"));
        World {
            seed,
            plan,
            journal,
            truth: Mutex::new(truth),
            links: Mutex::default(),
            stores: Mutex::default(),
            receiver: Mutex::default(),
            hosts: Mutex::default(),
            people: Mutex::default(),
            quiet: Once::default(),
        }
    }

    /// Starts a host that is down, or one more.
    pub(super) fn start_host(self: &Arc<World>, number: u32) {
        let run = lock(&self.hosts).get(&number).map_or(0, |host| host.origin.run) + 1;
        let origin = Origin { host: number, run };
        let mut random = rng(self.seed, &format!("host {origin}"));
        let clock = Arc::new(SimClock::new(self.journal.started(), random.u64(0..100_000_000)));
        let store: SharedStore = Arc::new(SimStore::new(self.clone(), origin));
        let plugins = Arc::new(SimPlugins::new(self.clone(), origin, Clock::of(clock.clone())));
        let (handle, events) = Handle::channel(EVENT_QUEUE);
        let config = DriverConfig {
            host: format!("host-{number}"),
            instance: InstanceId(random.u128(..)),
            layout: LAYOUT,
            instance_ttl: TTL,
            presence: presence(),
            drain_timeout: Duration::from_secs(8),
            unready_after: Duration::from_secs(10),
            handover_timeout: Duration::from_secs(2),
            shared: true,
            silent_plugins: BTreeSet::new(),
            seed: random.u64(..),
        };
        self.journal.note(format_args!("---- {origin} starts as {}", super::truth::short(config.instance)));
        let driver = Driver::new(config, Clock::of(clock.clone()), store, plugins.clone(), events);
        let switch = Arc::new(Switch::default());
        let gone = Arc::new(Once::default());
        tokio::spawn(Task::new(switch.clone(), plugins.work()));
        let (world, process) = (self.clone(), Task::new(switch.clone(), driver.run()));
        let up = Up { handle, switch: switch.clone(), clock, gone: gone.clone(), draining: false };
        tokio::spawn(async move {
            let ending = process.await;
            switch.kill();
            world.ended(origin, ending, &gone);
        });
        lock(&self.hosts).insert(number, Host { origin, up: Some(up) });
    }

    fn ended(self: &Arc<World>, origin: Origin, ending: End<Ending>, gone: &Once) {
        match ending {
            End::Killed => self.journal.note(format_args!("---- {origin} is dead")),
            End::Spinning => {
                self.journal.violate("I8", format!("the driver of {origin} runs in circles"));
            }
            End::Done(ending) => {
                self.journal.count(if ending.undelivered > 0 { "left unsettled" } else { "left" });
                let (error, left) = (ending.error.unwrap_or_default(), ending.undelivered);
                self.journal.note(format_args!("---- {origin} has ended; {left} undelivered {error}"));
            }
        }
        lock(&self.stores).remove(&origin);
        if let Some(host) = lock(&self.hosts).get_mut(&origin.host)
            && host.origin == origin
        {
            host.up = None;
        }
        gone.set();
    }

    /// Ends a host at once, wherever it is.
    pub(super) fn kill(&self, number: u32, random: &mut fastrand::Rng) {
        let Some(up) = self.up(number) else { return };
        up.switch.resume();
        if random.bool() {
            up.switch.kill();
        } else {
            // Somewhere in the midst of what it does next.
            up.switch.kill_after(random.u32(0..12));
            let switch = up.switch.clone();
            let latest = millis(random, 5..=400);
            tokio::spawn(async move {
                tokio::time::sleep(latest).await;
                switch.kill();
            });
        }
    }

    /// Tells a host to stop in good order.
    pub(super) fn drain(&self, number: u32) {
        let Some(up) = self.up(number) else { return };
        if let Some(host) = lock(&self.hosts).get_mut(&number)
            && let Some(up) = &mut host.up
        {
            up.draining = true;
        }
        tokio::spawn(async move {
            // A host that has ended needs no telling.
            let _ = up.handle.send(Event::Drain).await;
        });
    }

    /// The run is over: the hosts and their stores, which hold the world, go.
    pub(super) fn end(&self) {
        let (hosts, stores) =
            (std::mem::take(&mut *lock(&self.hosts)), std::mem::take(&mut *lock(&self.stores)));
        drop((hosts, stores));
    }

    pub(super) fn up(&self, number: u32) -> Option<Up> {
        lock(&self.hosts).get(&number).and_then(|host| host.up.clone())
    }

    /// The hosts that run, by number.
    pub(super) fn running(&self) -> Vec<(Origin, Up)> {
        let hosts = lock(&self.hosts);
        hosts.values().filter_map(|host| Some((host.origin, host.up.clone()?))).collect()
    }

    /// The hosts that are down.
    pub(super) fn down(&self) -> Vec<u32> {
        lock(&self.hosts).values().filter(|host| host.up.is_none()).map(|host| host.origin.host).collect()
    }
}
