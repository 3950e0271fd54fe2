//! I5: every dead instance is cleaned up: what the store knew of it is named, or covered by an `everything`; and no
//! session that a receiver heard of is forgotten. That none is cleaned up which kept its lease, and that `everything`
//! runs on fresh starts alone, is checked when it is written.

use std::collections::BTreeSet;
use std::time::Duration;

use presence_core::ids::{InstanceId, SessionId};
use tokio::time::Instant;

use crate::simulation::journal::lock;
use crate::simulation::plugins::PLUGINS;
use crate::simulation::receiver::Receiver;
use crate::simulation::truth::{Truth, session};
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    let receiver = lock(&world.receiver);
    let truth = lock(&world.truth);
    for (plugin, _) in PLUGINS {
        dead(world, &truth, &receiver, plugin);
        undeclared(world, &truth, &receiver, plugin);
    }
    forgotten(world, &truth, &receiver);
}

/// Whether an `everything` came after this.
fn swept(receiver: &Receiver, plugin: &str, after: Instant) -> bool {
    let everything = receiver.heard.get(plugin).and_then(|heard| heard.everything);
    everything.is_some_and(|everything| everything >= after)
}

fn named(receiver: &Receiver, plugin: &str, instance: InstanceId) -> Option<BTreeSet<SessionId>> {
    let heard = receiver.heard.get(plugin)?;
    heard.cleaned_last.get(&instance)?;
    heard.cleaned.get(&instance).cloned()
}

fn dead(world: &World, truth: &Truth, receiver: &Receiver, plugin: &str) {
    for (instance, death) in &truth.deaths {
        // Of one that has left no documents nothing is left after its last renewal, however late it is judged: hosts that
        // wait for a fresh start do so while it runs.
        let known = truth.instances.get(instance).filter(|_| death.sessions.is_empty());
        let over = known.map_or(death.at, |known| known.renewed);
        // What a store knew that lost its disks is not promised.
        if death.wipes < truth.wipes || swept(receiver, plugin, over) {
            continue;
        }
        let whose = truth.whose(*instance);
        let Some(named) = named(receiver, plugin, *instance) else {
            world.journal.violate("I5", format!("{whose} died, and {plugin} was not told to clean up"));
            continue;
        };
        // What ended in good order in the meantime has left its document.
        let ended = |id: &SessionId| {
            let heard = receiver.heard.get(PLUGINS[0].0).and_then(|heard| heard.sessions.get(id));
            heard.is_some_and(|one| one.disconnected.taken + one.disconnected.dead > 0)
        };
        for missing in death.sessions.difference(&named).filter(|id| !ended(id)) {
            let id = session(missing);
            world
                .journal
                .violate("I5", format!("{whose} died with {id}, which no cleanup of {plugin} named"));
        }
    }
}

fn undeclared(world: &World, truth: &Truth, receiver: &Receiver, plugin: &str) {
    let leased: BTreeSet<InstanceId> = truth.leased().into_iter().map(|(instance, _)| instance).collect();
    for (instance, known) in &truth.instances {
        // Who came and went unseen and left nothing behind is nobody's business.
        let after = truth.wiped_at.map(|wiped_at| wiped_at + Duration::from_secs(3));
        let left_something = receiver.heard.get(PLUGINS[0].0).is_some_and(|heard| {
            heard.sessions.values().any(|one| {
                let open = one.disconnected.taken + one.disconnected.dead == 0;
                one.instance == Some(*instance) && one.first > after && open
            })
        });
        if !left_something && truth.sessions_of(*instance).is_empty() {
            continue;
        }
        let gone = !leased.contains(instance) && !known.left && !truth.deaths.contains_key(instance);
        if gone && known.wipes == truth.wipes && !swept(receiver, plugin, known.leased_since) {
            let whose = truth.whose(*instance);
            world.journal.violate("I5", format!("{whose} is gone and was never declared dead ({plugin})"));
        }
    }
}

fn forgotten(world: &World, truth: &Truth, receiver: &Receiver) {
    let people = lock(&world.people);
    let live: BTreeSet<&SessionId> = people.live.values().map(|live| &live.session).collect();
    let plugin = PLUGINS[0].0;
    let Some(heard) = receiver.heard.get(plugin) else { return };
    for (id, one) in &heard.sessions {
        let begun = one.connected.started > 0;
        let ended = one.disconnected.taken + one.disconnected.dead > 0;
        let (Some(instance), Some(first)) = (one.instance, one.first) else { continue };
        // Of what was recorded before a wipe, only what its host came to write again is known.
        let before = |wiped_at| first < wiped_at + Duration::from_secs(3);
        let lost = truth.instances.get(&instance).is_none_or(|known| known.wipes < truth.wipes)
            || truth.wiped_at.is_some_and(before);
        if !begun || ended || live.contains(id) || lost || swept(receiver, plugin, first) {
            continue;
        }
        if !heard.cleaned.get(&instance).is_some_and(|named| named.contains(id)) {
            let (id, whose) = (session(id), truth.whose(instance));
            world.journal.violate("I5", format!("{plugin} heard of {id} of {whose}, and never of its end"));
        }
    }
}
