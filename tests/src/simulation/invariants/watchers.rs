//! I9: at rest, what each watcher last heard is the user's status, and what it was shown last of what it has asked to see
//! is what there is.

use presence_core::events::Status;
use presence_core::ids::UserId;
use presence_core::time::Timestamp;
use presence_core::watchers::Shown;

use crate::simulation::clients::{Live, People};
use crate::simulation::clock::EPOCH;
use crate::simulation::journal::lock;
use crate::simulation::truth::Truth;
use crate::simulation::world::World;

pub(in crate::simulation) fn check(world: &World) {
    let people = lock(&world.people);
    let truth = lock(&world.truth);
    let now = Timestamp(EPOCH + world.journal.millis());
    for live in people.live.values() {
        for (user, heard) in &live.watched {
            let status = truth.record(user).map_or(Status::Offline, |record| record.status);
            let watcher = &live.user;
            if heard.map(|(status, _)| status) != Some(status) {
                world
                    .journal
                    .violate("I9", format!("{watcher} last heard {heard:?} of {user}, who is {status}"));
            }
            if let Some(wrong) = shown_wrongly(&people, &truth, now, live, user, status) {
                world.journal.violate("I9", format!("{watcher} was shown of {user} {wrong}"));
            }
        }
    }
}

/// What a watcher was shown last of a user, and what there is, if that is something else.
fn shown_wrongly(
    people: &People,
    truth: &Truth,
    now: Timestamp,
    live: &Live,
    user: &UserId,
    status: Status,
) -> Option<String> {
    let (with, shown) = live.asked.get(user).filter(|(with, _)| !with.is_nothing())?;
    let Some(Shown { details, .. }) = shown else { return Some("nothing that was asked for".to_owned()) };
    let (message, is) =
        (details.message.as_ref().map(|message| message.text.clone()), truth.message(user, now));
    if with.message && message != is {
        return Some(format!("the message {message:?}, which is {is:?}"));
    }
    if !with.metadata || status == Status::Offline {
        return None;
    }
    let of_user = people.live.values().filter(|other| other.user == *user);
    let mut is: Vec<_> = of_user
        .filter(|other| other.attributes.has_metadata())
        .map(|other| (other.status, other.attributes.pairs().to_vec()))
        .collect();
    let mut sessions: Vec<_> = details
        .sessions
        .iter()
        .map(|session| (session.status, session.attributes.pairs().to_vec()))
        .collect();
    is.sort();
    sessions.sort();
    (sessions != is).then(|| format!("the sessions {sessions:?}, which are {is:?}"))
}
