//! A deterministic simulation: several hosts' real core and unchanged driver in one process, in virtual time, over a
//! store that fails in all the ways that the real one was seen to. Everything in a run follows from one seed.
//!
//! ```text
//!  clients, holders ──▶ driver + core ──▶ store (one per host) ──▶ links ──▶ truth (a memory store and its observer)
//!  faults ──▶ hosts, links         └──▶ plugins ──▶ receivers
//!                                                      └── at rest: invariants
//! ```
//!
//! For some time faults happen, then none, and when all is at rest the invariants are checked by name. What must never
//! happen is checked whenever it could. Plants are faults of the store that the invariants must find.

mod clients;
mod clock;
mod faults;
mod history;
mod holders;
mod invariants;
mod journal;
mod links;
mod plan;
mod plugins;
mod process;
mod receiver;
mod store;
mod summary;
mod truth;
mod world;

use std::sync::Arc;

pub use history::{Report, Violation};
pub use plan::Plant;
pub use summary::Summary;

use clients::Client;
use holders::Holder;
use plan::Plan;
use store::SimStore;
use truth::Origin;
use world::World;

/// One run. With `keep` its history is in the report.
pub fn run(seed: u64, plant: Plant, keep: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime with nothing but timers");
    runtime.block_on(async {
        let world = Arc::new(World::new(seed, Plan::of(seed, plant), keep));
        world.journal.note(format_args!("seed {seed}: {:?}", world.plan));
        for number in 0..world.plan.clients {
            tokio::spawn(Client::new(world.clone(), number).run());
        }
        for number in 0..holders::count(seed) {
            tokio::spawn(Holder::new(world.clone(), number).run());
        }
        faults::run(world.clone()).await;
        invariants::check(&world);
        world.end();
        world.journal.finish(seed)
    })
}

/// A simulated store of its own, without faults: for the conformance suite. Needs a runtime whose time is paused.
pub fn store() -> impl presence_host::store::Store {
    let plan = Plan { hosts: 1, ..Plan::of(0, Plant::Nothing) };
    SimStore::new(Arc::new(World::new(0, plan, false)), Origin { host: 0, run: 1 })
}
