//! Waits for an answer without any timeout, which the SDK does not allow: straight through `wasi:http`.

/// Asks the URL (`http://authority/path`) and waits for the answer, however long that takes.
#[cfg(target_family = "wasm")]
pub(crate) fn for_answer(url: &str) -> Result<(), String> {
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

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

/// There is nobody to ask.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn for_answer(url: &str) -> Result<(), String> {
    Err(format!("{url}: only a guest can ask"))
}
