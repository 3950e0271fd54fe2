//! Hands requests to the fakes of `crate::testing`: for native tests.

use std::time::Duration;

use super::url::Target;
use super::{Error, Request, Response};

pub(super) fn send(request: &Request, _: &Target<'_>, _: Duration) -> Result<Response, Error> {
    let mut response = crate::testing::send(crate::testing::Request {
        method: request.method.clone(),
        url: request.url.clone(),
        headers: request.headers.clone(),
        body: request.body.clone(),
    })?;
    if response.body.len() > request.body_limit {
        response.body.truncate(request.body_limit);
        response.complete = false;
    }
    Ok(response)
}
