//! I1: at rest, a user's recorded status is the function of the live sessions.

use presence_core::events::Status;
use presence_core::ids::UserId;

use crate::simulation::clients::user;
use crate::simulation::journal::lock;
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    for number in 0..world.plan.users {
        let user = user(number);
        let expected = expected(world, &user);
        let record = lock(&world.truth).record(&user);
        if record.map_or(Status::Offline, |record| record.status) != expected {
            world.journal.violate("I1", format!("{user} is {expected}, recorded is {record:?}"));
        }
    }
}

fn expected(world: &World, user: &UserId) -> Status {
    let people = lock(&world.people);
    let of_user = people.live.values().filter(|live| live.user == *user).map(|live| live.status);
    of_user.min().unwrap_or(Status::Offline)
}
