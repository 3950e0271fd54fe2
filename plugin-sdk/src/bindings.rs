//! What wit-bindgen makes of the contract. Authors use the names in the crate's root instead.
#![allow(missing_docs, unsafe_code, clippy::all)]

pub mod contract {
    wit_bindgen::generate!({
        path: "wit",
        world: "sdk-types",
        pub_export_macro: true,
        generate_unused_types: true,
        additional_derives: [PartialEq, Clone],
    });
}

macro_rules! hook {
    ($module:ident, $world:literal) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "wit",
                world: $world,
                pub_export_macro: true,
                export_macro_name: "export_hook",
                additional_derives: [PartialEq, Clone],
                with: { "presence:plugin/types@0.1.0": crate::bindings::contract::presence::plugin::types },
            });
        }
    };
}

hook!(session_connected, "sdk-session-connected");
hook!(session_disconnected, "sdk-session-disconnected");
hook!(cleanup, "sdk-cleanup");
hook!(user_online, "sdk-user-online");
hook!(user_idle, "sdk-user-idle");
hook!(user_offline, "sdk-user-offline");

pub mod configure {
    wit_bindgen::generate!({
        path: "wit",
        world: "sdk-configure",
        pub_export_macro: true,
        export_macro_name: "export_hook",
    });
}
