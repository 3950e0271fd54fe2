//! The functions a plugin exports: found once for the component, loaded once for each guest. Loading checks types.

use std::collections::BTreeSet;

use presence_core::events::Hook;
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use super::GuestState;
use crate::plugins::admission::Admitted;
use crate::plugins::bindings::hooks;
use crate::plugins::problem::Problem;

macro_rules! exports {
    ($($module:ident: $wanted:expr,)*) => {
        /// Where the exports are in the component.
        pub(in crate::plugins) struct HookIndices {
            $($module: Option<hooks::$module::GuestIndices>,)*
        }

        /// The exports of one guest, ready to be called.
        pub(in crate::plugins) struct Exports {
            $(pub(in crate::plugins) $module: Option<hooks::$module::Guest>,)*
        }

        impl HookIndices {
            /// Finds what admission has seen.
            pub(in crate::plugins) fn find(
                pre: &InstancePre<GuestState>,
                admitted: &Admitted,
            ) -> Result<HookIndices, Vec<Problem>> {
                let mut problems = Vec::new();
                let found = HookIndices {
                    $($module: if $wanted(admitted) {
                        checked(stringify!($module), hooks::$module::GuestIndices::new(pre), &mut problems)
                    } else {
                        None
                    },)*
                };
                if problems.is_empty() { Ok(found) } else { Err(problems) }
            }

            /// Loads the exports of one guest.
            pub(in crate::plugins) fn load(
                &self,
                store: &mut Store<GuestState>,
                instance: &Instance,
            ) -> Result<Exports, Vec<Problem>> {
                let mut problems = Vec::new();
                let loaded = Exports {
                    $($module: self.$module.as_ref().and_then(|indices| {
                        checked(stringify!($module), indices.load(&mut *store, instance), &mut problems)
                    }),)*
                };
                if problems.is_empty() { Ok(loaded) } else { Err(problems) }
            }
        }
    };
}

exports! {
    session_connected: has(Hook::SessionConnected),
    session_disconnected: has(Hook::SessionDisconnected),
    cleanup: has(Hook::Cleanup),
    user_online: has(Hook::UserOnline),
    user_idle: has(Hook::UserIdle),
    user_offline: has(Hook::UserOffline),
    tick: has(Hook::Tick),
    configure: |admitted: &Admitted| admitted.configurable,
}

fn has(hook: Hook) -> impl Fn(&Admitted) -> bool {
    move |admitted| BTreeSet::contains(&admitted.hooks, &hook)
}

fn checked<T>(module: &str, found: wasmtime::Result<T>, problems: &mut Vec<Problem>) -> Option<T> {
    let problem = |error| Problem::Types {
        export: format!("presence:plugin/{}", module.replace('_', "-")),
        reason: format!("{error:#}"),
    };
    found.map_err(|error| problems.push(problem(error))).ok()
}
