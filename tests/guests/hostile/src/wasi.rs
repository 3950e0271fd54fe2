//! Straight through WASI, past the SDK, which allows no request without a timeout, and past std, which has neither
//! sleep nor exit on every wasm target.

#[cfg(target_family = "wasm")]
mod host {
    use wasip2::cli::exit;
    use wasip2::clocks::monotonic_clock;
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

    pub(crate) fn sleep(ms: u64) {
        monotonic_clock::subscribe_duration(ms * 1_000_000).block();
    }

    pub(crate) fn exit() {
        exit::exit(Ok(()));
    }

    pub(crate) fn wait_for_answer(url: &str) -> Result<(), String> {
        let rest = url.strip_prefix("http://").ok_or("not a http URL")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let request = OutgoingRequest::new(Fields::new());
        request.set_scheme(Some(&Scheme::Http)).map_err(|()| "scheme")?;
        request.set_authority(Some(authority)).map_err(|()| "authority")?;
        request.set_path_with_query(Some(path)).map_err(|()| "path")?;
        let future = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
        future.subscribe().block();
        match future.get() {
            Some(Ok(Ok(_))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// Natively there is no host: nothing waits, nothing ends.
#[cfg(not(target_family = "wasm"))]
mod host {
    pub(crate) fn sleep(_: u64) {}

    pub(crate) fn exit() {}

    pub(crate) fn wait_for_answer(url: &str) -> Result<(), String> {
        Err(format!("{url}: only a guest can ask"))
    }
}

pub(crate) use host::{exit, sleep, wait_for_answer};
