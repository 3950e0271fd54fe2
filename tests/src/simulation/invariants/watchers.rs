//! I9: at rest, what each watcher last heard is the user's status.

use presence_core::events::Status;

use crate::simulation::journal::lock;
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    let people = lock(&world.people);
    let truth = lock(&world.truth);
    for live in people.live.values() {
        for (user, heard) in &live.watched {
            let status = truth.record(user).map_or(Status::Offline, |record| record.status);
            if heard.map(|(status, _)| status) != Some(status) {
                let watcher = &live.user;
                world
                    .journal
                    .violate("I9", format!("{watcher} last heard {heard:?} of {user}, who is {status}"));
            }
        }
    }
}
