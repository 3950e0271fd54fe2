//! I6: for every session of a host that lives, one connected and, if it has ended, one disconnected. Their order, and
//! that each is issued once, is checked at the call.

use presence_core::ids::SessionId;

use crate::simulation::journal::lock;
use crate::simulation::plugins::PLUGINS;
use crate::simulation::receiver::{Counts, SessionHeard};
use crate::simulation::truth::session;
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    let receiver = lock(&world.receiver);
    let people = lock(&world.people);
    let leased = lock(&world.truth).leased();
    let plugin = PLUGINS[0].0;
    let Some(heard) = receiver.heard.get(plugin) else { return };
    for (id, known) in &people.sessions {
        if !leased.iter().any(|(instance, _)| *instance == known.instance) {
            continue;
        }
        let nothing = SessionHeard::default();
        let one = heard.sessions.get(id).unwrap_or(&nothing);
        let ended = one.disconnected.started + one.disconnected.dead > 0;
        if !told(one.connected) {
            wrong(world, id, "never heard of its beginning");
        }
        if known.live && ended {
            wrong(world, id, "heard of its end, but it lives");
        }
        if !known.live && !told(one.disconnected) {
            wrong(world, id, "never heard of its end");
        }
    }
}

fn told(counts: Counts) -> bool {
    counts.taken + counts.dead > 0
}

fn wrong(world: &World, id: &SessionId, what: &str) {
    world.journal.violate("I6", format!("{} of a living host: the receiver {what}", session(id)));
}
