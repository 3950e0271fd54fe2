//! The named invariants (DESIGN 10), checked when all is at rest. I4, and what must never happen in between, is checked
//! where it would happen: by the truth and by the receivers.

mod cleanup;
mod completeness;
mod order;
mod pairs;
mod status;
mod watchers;

use super::world::World;

/// Checks all of them.
pub(super) fn check(world: &World) {
    status::check(world);
    order::check(world);
    completeness::check(world);
    cleanup::check(world);
    pairs::check(world);
    watchers::check(world);
}
