//! Straight through WASI, past the SDK, which allows no request without a timeout, and past std, which has neither
//! sleep nor exit on every wasm target.

#[cfg(target_family = "wasm")]
mod host {
    use std::mem::ManuallyDrop;

    use wasip2::cli::exit;
    use wasip2::clocks::monotonic_clock;
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{Fields, IncomingResponse, OutgoingRequest, Scheme};
    use wasip2::io::poll;
    use wasip2::io::streams::StreamError;
    use wasip2::random::random;

    pub(crate) fn now() -> u64 {
        monotonic_clock::now()
    }

    pub(crate) fn random(bytes: u64) -> usize {
        random::get_random_bytes(bytes).len()
    }

    pub(crate) fn sleep(ms: u64) {
        monotonic_clock::subscribe_duration(ms * 1_000_000).block();
    }

    pub(crate) fn exit() {
        exit::exit(Ok(()));
    }

    pub(crate) fn poll_timers(count: usize) {
        let timers: Vec<_> = (0..count).map(|_| monotonic_clock::subscribe_duration(1_000_000)).collect();
        let all: Vec<_> = timers.iter().cycle().take(count * 100).collect();
        loop {
            poll::poll(&all);
        }
    }

    fn request(url: &str) -> Result<OutgoingRequest, String> {
        let rest = url.strip_prefix("http://").ok_or("not a http URL")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let request = OutgoingRequest::new(Fields::new());
        request.set_scheme(Some(&Scheme::Http)).map_err(|()| "scheme")?;
        request.set_authority(Some(authority)).map_err(|()| "authority")?;
        request.set_path_with_query(Some(path)).map_err(|()| "path")?;
        Ok(request)
    }

    fn ask(url: &str) -> Result<IncomingResponse, String> {
        let future = outgoing_handler::handle(request(url)?, None).map_err(|error| format!("{error:?}"))?;
        future.subscribe().block();
        match future.get() {
            Some(Ok(Ok(answer))) => Ok(answer),
            other => Err(format!("{other:?}")),
        }
    }

    pub(crate) fn wait_for_answer(url: &str) -> Result<(), String> {
        ask(url).map(drop)
    }

    pub(crate) fn read_all(url: &str) -> Result<u64, String> {
        let answer = ask(url)?;
        let body = answer.consume().map_err(|()| "no body")?;
        let stream = body.stream().map_err(|()| "no stream")?;
        let mut read = 0;
        loop {
            match stream.blocking_read(u64::MAX) {
                Ok(bytes) => read += bytes.len() as u64,
                Err(StreamError::Closed) => return Ok(read),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(format!("after {read} bytes: {}", error.to_debug_string()));
                }
            }
        }
    }

    pub(crate) fn follow(url: &str) -> Result<(), String> {
        let answer = ask(url)?;
        let location = answer.headers().get("location");
        let next = location.first().ok_or("it sends nowhere")?;
        wait_for_answer(&String::from_utf8_lossy(next))
    }

    pub(crate) fn keep_answers(url: &str) -> String {
        for kept in 0_u32.. {
            match ask(url) {
                Ok(answer) => _ = ManuallyDrop::new(answer),
                Err(error) => return format!("after {kept} answers: {error}"),
            }
        }
        String::new()
    }

    pub(crate) fn hoard() -> String {
        let long = format!("/{}", "x".repeat(60_000));
        loop {
            let Ok(request) = request("http://example.org/") else {
                return "no request".to_owned();
            };
            if request.set_path_with_query(Some(&long)).is_err() {
                return "no path".to_owned();
            }
            _ = ManuallyDrop::new(request);
        }
    }
}

/// Natively there is no host: nothing waits, nothing ends.
#[cfg(not(target_family = "wasm"))]
mod host {
    pub(crate) fn now() -> u64 {
        0
    }

    pub(crate) fn random(_: u64) -> usize {
        0
    }

    pub(crate) fn sleep(_: u64) {}

    pub(crate) fn exit() {}

    pub(crate) fn poll_timers(_: usize) {}

    pub(crate) fn wait_for_answer(url: &str) -> Result<(), String> {
        Err(format!("{url}: only a guest can ask"))
    }

    pub(crate) fn read_all(url: &str) -> Result<u64, String> {
        wait_for_answer(url).map(|()| 0)
    }

    pub(crate) fn follow(url: &str) -> Result<(), String> {
        wait_for_answer(url)
    }

    pub(crate) fn keep_answers(url: &str) -> String {
        format!("{url}: only a guest can ask")
    }

    pub(crate) fn hoard() -> String {
        "only a guest can hoard".to_owned()
    }
}

pub(crate) use host::{
    exit, follow, hoard, keep_answers, now, poll_timers, random, read_all, sleep, wait_for_answer,
};
