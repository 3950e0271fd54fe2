//! I3: every plugin with the hook heard each user's final status, or it is in the dead letters.

use presence_core::events::{Hook, Status};

use crate::simulation::clients::user;
use crate::simulation::journal::lock;
use crate::simulation::plugins::PLUGINS;
use crate::simulation::receiver::Receiver;
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    let receiver = lock(&world.receiver);
    let truth = lock(&world.truth);
    let generation = truth.generation();
    for user in (0..world.plan.users).map(user) {
        let Some(record) = truth.record(&user) else { continue };
        // Who was offline before a fresh start stays so without a hook: `everything` has told it.
        if record.status == Status::Offline && record.generation < generation {
            continue;
        }
        let hook = match record.status {
            Status::Online => Hook::UserOnline,
            Status::Idle => Hook::UserIdle,
            Status::Offline => Hook::UserOffline,
        };
        for (plugin, hooks) in PLUGINS {
            let told = (user.clone(), record.revision);
            if hooks.contains(&hook) && !heard(&receiver, plugin, &told, record.status) {
                let last = receiver.heard.get(plugin).and_then(|heard| heard.statuses.get(&user));
                // A store that lost its disks, written back by an owner who was away at the last: not promised.
                if truth.wipes > 0 && last.is_some_and(|(revision, _)| *revision > record.revision) {
                    world.journal.count("status set back by a wipe");
                    continue;
                }
                world.journal.violate(
                    "I3",
                    format!(
                        "{plugin} heard {last:?} of {user}, final is {} r{}",
                        record.status, record.revision
                    ),
                );
            }
        }
    }
}

fn heard(
    receiver: &Receiver,
    plugin: &str,
    told: &(presence_core::ids::UserId, u64),
    status: Status,
) -> bool {
    receiver.heard.get(plugin).is_some_and(|heard| {
        heard.dead_revisions.contains(told) || heard.statuses.get(&told.0) == Some(&(told.1, status))
    })
}
