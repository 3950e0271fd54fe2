//! What wasmtime generates from the contract. Knows nothing but `plugin-sdk/wit/0.1.0`.

// Generated names carry the documentation of the WIT file, where it has some.
#![allow(missing_docs)]

wasmtime::component::bindgen!({
    world: "every-hook",
    path: "../plugin-sdk/wit/0.1.0",
    imports: {
        "presence:plugin/keyvalue": async,
        "presence:plugin/messaging": async,
        "presence:plugin/presence": async,
    },
    exports: { default: async },
    // Strings of events are lowered from where they lie: no copy on the way to the guest.
    ownership: Borrowing { duplicate_if_necessary: false },
});

pub use exports::presence::plugin as hooks;
pub use presence::plugin::presence as statuses;
pub use presence::plugin::{keyvalue, log, messaging, types};
