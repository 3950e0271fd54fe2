//! Carries out the steps of the plan. A host is one lane's business alone; the supervisor looks at it only when no step
//! holds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::hosts::Host;
use super::ledger::Ledger;
use super::plan::{Fault, HOSTS, Step, TTL};
use super::recorder::ChaosRecorder;
use crate::nats::NatsServer;

/// A step goes on without a host that is not ready again after so long (NATS may be away).
const READY_AGAIN: Duration = Duration::from_secs(20);

/// What can go wrong, and be mended.
pub(super) struct Stage {
    pub(super) hosts: Vec<Mutex<Host>>,
    pub(super) servers: Vec<Mutex<NatsServer>>,
    pub(super) recorder: ChaosRecorder,
    pub(super) ledger: Arc<Ledger>,
    /// Whether steps are told as they happen.
    pub(super) talkative: bool,
}

impl Stage {
    /// Takes steps until the time is over; the last one is mended all the same.
    pub(super) async fn run(&self, steps: impl Iterator<Item = Step>, until: Instant) {
        for step in steps {
            if Instant::now() + step.after >= until {
                return;
            }
            sleep(step.after).await;
            self.ledger.fault(step.fault.kind());
            self.say(&format!("{:?} for {:?}", step.fault, step.lasts));
            self.take(&step).await;
        }
    }

    /// Looks after hosts that end by themselves, for ever.
    pub(super) async fn supervise(&self) {
        loop {
            for host in &self.hosts {
                if let Ok(mut host) = host.try_lock() {
                    host.look_after().await;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    fn say(&self, what: &str) {
        if self.talkative {
            println!("{:>8.1} s  {what}", self.ledger.now().as_secs_f64());
        }
    }

    async fn take(&self, step: &Step) {
        match &step.fault {
            Fault::KillHosts(hosts) => self.restart(hosts, step.lasts).await,
            Fault::RestartAll => self.restart(&(0..HOSTS).collect::<Vec<_>>(), step.lasts).await,
            Fault::SuspendHosts(hosts) => {
                self.pause(hosts, step.lasts, Host::suspend, Host::resume).await;
            }
            Fault::CutHosts(hosts) => self.pause(hosts, step.lasts, Host::cut, Host::mend).await,
            Fault::RollingRestart => {
                for host in &self.hosts {
                    let mut host = host.lock().await;
                    host.terminate().await;
                    host.start().await;
                    host.until_ready(READY_AGAIN).await;
                    sleep(step.lasts).await;
                }
            }
            Fault::KillNats(server) => self.without_nats(&[*server], step.lasts).await,
            Fault::NatsAway => {
                (0..HOSTS).for_each(|host| self.ledger.paused(host));
                self.without_nats(&(0..self.servers.len()).collect::<Vec<_>>(), step.lasts).await;
                // They find each other, and the hosts find them.
                sleep(TTL).await;
                (0..HOSTS).for_each(|host| self.ledger.resumed(host));
            }
            Fault::SuspendNats(server) => {
                self.servers[*server].lock().await.suspend();
                sleep(step.lasts).await;
                self.servers[*server].lock().await.resume();
            }
            Fault::ReceiverAway => {
                self.recorder.be_away(true);
                sleep(step.lasts).await;
                self.recorder.be_away(false);
            }
        }
    }

    /// All are killed before the first comes back.
    async fn restart(&self, hosts: &[usize], lasts: Duration) {
        let mut held = Vec::new();
        for host in hosts {
            let mut host = self.hosts[*host].lock().await;
            host.kill().await;
            held.push(host);
        }
        sleep(lasts).await;
        for host in &mut held {
            host.start().await;
        }
        for host in &held {
            host.until_ready(READY_AGAIN).await;
        }
    }

    async fn pause(&self, hosts: &[usize], lasts: Duration, begin: fn(&Host), end: fn(&Host)) {
        let mut held = Vec::new();
        for host in hosts {
            let host = self.hosts[*host].lock().await;
            begin(&host);
            held.push(host);
        }
        sleep(lasts).await;
        for host in &held {
            end(host);
        }
        for host in &held {
            host.until_ready(READY_AGAIN).await;
        }
    }

    async fn without_nats(&self, servers: &[usize], lasts: Duration) {
        for server in servers {
            self.servers[*server].lock().await.kill();
        }
        sleep(lasts).await;
        for server in servers {
            self.servers[*server].lock().await.restart().await;
        }
    }
}
