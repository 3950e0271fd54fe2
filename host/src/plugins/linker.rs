//! What guests can import. Everything here is harmless by itself: grants are checked at the call.

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Engine, Result};

use super::bindings::{EveryHook, types};
use super::guest::GuestState;

/// The interface holds types alone: there is nothing to do.
impl types::Host for GuestState {}

/// Links the empty WASI, outgoing HTTP and our own interfaces.
pub(super) fn new_linker(engine: &Engine) -> Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    EveryHook::add_to_linker::<_, HasSelf<GuestState>>(&mut linker, |state| state)?;
    Ok(linker)
}
