//! Simulated holders: backends that report sessions to whatever host they reach, renew their lease, crash, come back as
//! another incarnation. What they were answered is the truth that the product is measured by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presence_core::events::{Attributes, Status, labels};
use presence_core::holders::{Facts, Operation, Rejected};
use presence_core::ids::{HolderName, Incarnation, InstanceId, UserId};
use presence_host::driver::{HeldChange, HolderAnswer, HolderOrder, HolderRefused, HolderVerb};
use tokio::time::{Instant, sleep, timeout};

use super::clients::{Known, Live, user};
use super::journal::{lock, millis};
use super::plan::rng;
use super::truth::short;
use super::world::World;

/// How long a holder lives without a renewal.
const LEASE: Duration = Duration::from_secs(5);

/// Clients have lower numbers.
const FIRST_NUMBER: u32 = 1_000_000;

/// How many holders a run has. Many have none.
pub(super) fn count(seed: u64) -> u32 {
    [0, 0, 1, 1, 2][rng(seed, "holders").usize(0..5)]
}

/// One backend, over all its incarnations.
pub(super) struct Holder {
    world: Arc<World>,
    name: HolderName,
    random: fastrand::Rng,
    /// Numbers of its sessions, which are never taken twice.
    sessions: u32,
    first: u32,
    incarnations: u32,
    /// Whether it lives when all is at rest.
    stays: bool,
}

/// One incarnation.
struct Life {
    incarnation: Incarnation,
    instance: InstanceId,
    /// By number.
    open: BTreeMap<u32, (UserId, Status)>,
    renew: Instant,
}

/// The incarnation is over, by its own will or not.
struct Over;

impl Holder {
    pub(super) fn new(world: Arc<World>, number: u32) -> Holder {
        let mut random = rng(world.seed, &format!("holder {number}"));
        let stays = random.bool();
        let name = format!("chat-{number}").parse().expect("a name");
        let first = FIRST_NUMBER * (number + 1);
        Holder { world, name, random, sessions: 0, first, incarnations: 0, stays }
    }

    /// Lives until the run ends.
    pub(super) async fn run(mut self) {
        sleep(millis(&mut self.random, 0..=8_000)).await;
        loop {
            if self.world.quiet.is() && !self.stays {
                return;
            }
            self.incarnations += 1;
            let incarnation: Incarnation = self.incarnations.to_string().parse().expect("an incarnation");
            if let Some(instance) = self.register(&incarnation).await {
                self.note(format_args!("lives as {} (incarnation {incarnation})", short(instance)));
                let renew = Instant::now() + LEASE / 3;
                let mut life = Life { incarnation, instance, open: BTreeMap::new(), renew };
                while self.live(&mut life).await.is_ok() {}
                self.note(format_args!("is over (incarnation {})", life.incarnation));
                self.forget_all(&life);
            }
            sleep(millis(&mut self.random, 20..=4_000)).await;
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.journal.note(format_args!("{} {what}", self.name));
    }

    /// Asks whatever host it reaches, once; none: no answer, or none of any use.
    async fn ask(
        &mut self,
        incarnation: &Incarnation,
        verb: HolderVerb,
    ) -> Option<Result<HolderAnswer, HolderRefused>> {
        let running = self.world.running();
        let (_, up) = running.get(self.random.usize(..running.len().max(1)))?.clone();
        let order = HolderOrder { name: self.name.clone(), incarnation: incarnation.clone(), verb };
        let asked = timeout(Duration::from_secs(8), up.handle.hold(order));
        tokio::select! {
            biased;
            () = up.gone.wait() => None,
            answer = asked => match answer.ok()?.ok()? {
                Err(HolderRefused::Starting | HolderRefused::Draining | HolderRefused::Store(_)) => None,
                answer => Some(answer),
            },
        }
    }

    async fn register(&mut self, incarnation: &Incarnation) -> Option<InstanceId> {
        for _ in 0..40 {
            if self.world.quiet.is() && !self.stays {
                return None;
            }
            match self.ask(incarnation, HolderVerb::Keep(LEASE)).await {
                Some(Ok(HolderAnswer::Kept(kept))) => return Some(kept.instance),
                Some(_) => return None,
                None => sleep(millis(&mut self.random, 50..=900)).await,
            }
        }
        None
    }

    /// Until it is answered for certain, or the incarnation is over.
    async fn change(&mut self, life: &mut Life, change: HeldChange) -> Result<Result<(), Rejected>, Over> {
        loop {
            self.renew(life).await?;
            match self.ask(&life.incarnation, HolderVerb::Change(vec![change.clone()])).await {
                Some(Ok(HolderAnswer::Changed(mut results))) => match results.pop() {
                    Some(Err(Rejected::Gone)) | None => return Err(Over),
                    Some(Err(Rejected::Lapsed)) => life.renew = Instant::now(),
                    Some(Err(
                        Rejected::Busy | Rejected::Unsure | Rejected::Withdrawn | Rejected::Refused(_),
                    )) => {}
                    Some(result) => return Ok(result.map(drop)),
                },
                Some(Err(HolderRefused::Lapsed)) => life.renew = Instant::now(),
                Some(_) => return Err(Over),
                None => {}
            }
            sleep(millis(&mut self.random, 20..=600)).await;
        }
    }

    /// Renews the lease if it is time.
    async fn renew(&mut self, life: &mut Life) -> Result<(), Over> {
        if life.renew > Instant::now() {
            return Ok(());
        }
        match self.ask(&life.incarnation, HolderVerb::Keep(LEASE)).await {
            // It was not known any more, and is begun anew.
            Some(Ok(HolderAnswer::Kept(kept))) if kept.instance != life.instance => Err(Over),
            Some(Ok(_)) => {
                life.renew = Instant::now() + LEASE / 3;
                Ok(())
            }
            Some(Err(_)) => Err(Over),
            None => {
                life.renew = Instant::now() + millis(&mut self.random, 20..=400);
                Ok(())
            }
        }
    }

    /// One thing that a holder does.
    async fn live(&mut self, life: &mut Life) -> Result<(), Over> {
        self.renew(life).await?;
        let quiet = self.world.quiet.is();
        if quiet && !self.stays {
            self.world.journal.count("holder stopped");
            return Err(Over);
        }
        if quiet {
            sleep(Duration::from_millis(500)).await;
            return Ok(());
        }
        sleep(millis(&mut self.random, 20..=900)).await;
        let picked = self.random.usize(..life.open.len().max(1));
        let picked = life.open.keys().nth(picked).copied();
        match (self.random.u8(..), picked) {
            (0..110, _) => self.open(life).await,
            (110..170, Some(number)) => self.close(life, number).await,
            (170..230, Some(number)) => self.set(life, number).await,
            (230..236, _) => {
                self.world.journal.count("holder crashed");
                self.note(format_args!("crashes"));
                Err(Over)
            }
            (236..240, _) => {
                self.world.journal.count("holder ended");
                self.note(format_args!("ends"));
                // Whether or not it is heard, the incarnation is over.
                self.ask(&life.incarnation, HolderVerb::End).await;
                Err(Over)
            }
            (240..244, _) => {
                // Silent for longer than its lease.
                self.world.journal.count("holder silent");
                sleep(LEASE * 2).await;
                life.renew = Instant::now();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn open(&mut self, life: &mut Life) -> Result<(), Over> {
        self.sessions += 1;
        let number = self.sessions;
        let user = user(self.random.u32(0..self.world.plan.users));
        let status = if self.random.u8(..) < 64 { Status::Idle } else { Status::Online };
        self.note(format_args!("opens {number} of {user}, {status}"));
        let operation = Operation::Put(status, Facts::default());
        let change = HeldChange { user: user.clone(), session: self.session(number), operation };
        if self.change(life, change).await?.is_ok() {
            self.note(format_args!("has opened {number}"));
            life.open.insert(number, (user.clone(), status));
            let session = self.session(number);
            let live = Live {
                user,
                status,
                session: session.clone(),
                watched: BTreeMap::new(),
                asked: BTreeMap::new(),
                attributes: Attributes::default(),
            };
            let people = &mut lock(&self.world.people);
            people.live.insert(self.first + number, live);
            people.sessions.insert(session, Known { instance: life.instance, live: true });
        }
        Ok(())
    }

    async fn close(&mut self, life: &mut Life, number: u32) -> Result<(), Over> {
        let Some((user, _)) = life.open.remove(&number) else { return Ok(()) };
        self.note(format_args!("closes {number}"));
        self.forget(number);
        let operation = Operation::End(labels::CLOSED.into());
        let change = HeldChange { user, session: self.session(number), operation };
        let closed = self.change(life, change).await?;
        self.note(format_args!("has closed {number}: {closed:?}"));
        Ok(())
    }

    async fn set(&mut self, life: &mut Life, number: u32) -> Result<(), Over> {
        let Some((user, old)) = life.open.get(&number).cloned() else { return Ok(()) };
        let status = if old == Status::Idle { Status::Online } else { Status::Idle };
        let operation = Operation::Change(Some(status), Facts::default());
        let change = HeldChange { user: user.clone(), session: self.session(number), operation };
        if let Err(rejected) = self.change(life, change).await? {
            // What a store knew that lost its disks is not promised.
            if lock(&self.world.truth).wipes == 0 {
                let details = format!("{} has {number} open, and was told: {rejected}", self.name);
                self.world.journal.violate("I1", details);
            }
            return Err(Over);
        }
        self.note(format_args!("has set {number} {status}"));
        life.open.insert(number, (user, status));
        if let Some(live) = lock(&self.world.people).live.get_mut(&(self.first + number)) {
            live.status = status;
        }
        Ok(())
    }

    fn session(&self, number: u32) -> presence_core::ids::SessionId {
        self.name.session(&number.to_string()).expect("a session")
    }

    /// The session does not count any more.
    fn forget(&self, number: u32) {
        let people = &mut lock(&self.world.people);
        people.live.remove(&(self.first + number));
        if let Some(known) = people.sessions.get_mut(&self.session(number)) {
            known.live = false;
        }
    }

    fn forget_all(&self, life: &Life) {
        for number in life.open.keys() {
            self.forget(*number);
            // It is in the cleanup, if anything of it is.
            lock(&self.world.people).sessions.remove(&self.session(*number));
        }
    }
}
