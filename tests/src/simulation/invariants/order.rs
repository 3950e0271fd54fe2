//! I2: for one user and plugin, calls never go back (checked at each call); and nobody hears what is not recorded.

use crate::simulation::journal::lock;
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    let receiver = lock(&world.receiver);
    let truth = lock(&world.truth);
    if truth.wipes > 0 {
        // What was told of the lost store is in no record.
        return;
    }
    for (plugin, heard) in &receiver.heard {
        for (user, (revision, status)) in &heard.statuses {
            let recorded = truth.record(user).map_or(0, |record| record.revision);
            if *revision > recorded {
                world.journal.violate(
                    "I2",
                    format!("{plugin} heard {user} {status} r{revision}, but recorded is r{recorded}"),
                );
            }
        }
    }
}
