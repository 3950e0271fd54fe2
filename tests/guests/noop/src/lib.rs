//! Exports all six hooks and does nothing: what a call alone costs.

use presence_plugin::{Cleanup, Context, HookResult, Session, SessionDisconnected, StatusChange};

/// Nothing.
#[derive(Default)]
pub struct Noop;

#[presence_plugin::plugin]
impl Noop {
    fn session_connected(&self, _: &Context, _: &Session) -> HookResult {
        Ok(())
    }

    fn session_disconnected(&self, _: &Context, _: &SessionDisconnected) -> HookResult {
        Ok(())
    }

    fn cleanup(&self, _: &Context, _: &Cleanup) -> HookResult {
        Ok(())
    }

    fn user_online(&self, _: &Context, _: &StatusChange) -> HookResult {
        Ok(())
    }

    fn user_idle(&self, _: &Context, _: &StatusChange) -> HookResult {
        Ok(())
    }

    fn user_offline(&self, _: &Context, _: &StatusChange) -> HookResult {
        Ok(())
    }
}
