//! `plugin.grants.messaging`: subjects of NATS that a plugin may publish to.

use super::reader::Table;
use crate::plugins::messaging::subjects::pattern_fault;
use crate::settings::{ClusterSettings, StoreKind};

pub(super) fn read(table: &mut Table<'_, '_>, cluster: &ClusterSettings) -> Vec<String> {
    let found = table.strings("messaging");
    let prefix = match &cluster.store {
        StoreKind::Nats(nats) => nats.prefix.as_str(),
        StoreKind::Memory => {
            if let Some(first) = found.first() {
                table.wrong(
                    first,
                    "needs cluster.store = \"nats\": messages go over NATS, and this host has none",
                );
            }
            return Vec::new();
        }
    };
    let mut granted: Vec<String> = Vec::new();
    for pattern in found {
        if let Some(fault) = pattern_fault(&pattern.value, prefix) {
            let message = format!("\"{}\" can't be granted: {fault}", pattern.value.escape_debug());
            table.wrong(&pattern, &message);
        } else if granted.contains(&pattern.value) {
            table.wrong(&pattern, &format!("grants \"{}\" twice", pattern.value));
        } else {
            granted.push(pattern.value);
        }
    }
    granted
}
