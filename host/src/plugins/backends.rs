//! What stands behind the imports of plugins: the same for all of them, whatever each is granted.

use std::sync::Arc;

use super::keyvalue::KeyValue;
use super::keyvalue::memory::MemoryKeyValue;
use super::messaging::Messaging;
use super::presence::{NoStatuses, Statuses};

/// Where what plugins call leads to. Cheap to clone.
#[derive(Clone)]
pub struct Backends {
    /// Where plugins keep what outlives their guests.
    pub keyvalue: Arc<dyn KeyValue>,
    /// Where their messages go; none: this host has no NATS.
    pub messaging: Option<Arc<dyn Messaging>>,
    /// Who knows the statuses of users.
    pub statuses: Arc<dyn Statuses>,
}

impl Backends {
    /// For plugins that are only tried out: what they keep is gone with them, and nobody is known.
    pub fn for_trials() -> Backends {
        Backends {
            keyvalue: Arc::new(MemoryKeyValue::default()),
            messaging: None,
            statuses: Arc::new(NoStatuses),
        }
    }
}
