//! Sends requests through `wasi:http` and waits for them, bounded by one timer for the whole exchange.
//!
//! A pollable is a child of what it waits for and must be dropped first: each lives in a scope of its own.

use std::time::Duration;

use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::poll::{self, Pollable};
use wasip2::io::streams::{OutputStream, StreamError};

use super::url::Target;
use super::{Error, Request, Response};

/// Bytes asked for at once.
const READ: u64 = 16 * 1024;

pub(super) fn send(request: &Request, target: &Target<'_>, timeout: Duration) -> Result<Response, Error> {
    let timer = Timer::new(timeout);
    let outgoing = outgoing(request, target)?;
    let body =
        outgoing.body().map_err(|()| Error::Network("the host gave no body to write to".to_string()))?;
    let future =
        outgoing_handler::handle(outgoing, Some(options(timeout))).map_err(|code| failed(code, timeout))?;
    write(body, &request.body, &timer)?;
    let response = wait(&future, &timer)?;
    Ok(received(response, request.body_limit, &timer))
}

fn outgoing(request: &Request, target: &Target<'_>) -> Result<OutgoingRequest, Error> {
    let mut headers: Vec<(String, Vec<u8>)> =
        request.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let bodyless =
        request.body.is_empty() && matches!(request.method.as_str(), "GET" | "HEAD" | "DELETE" | "OPTIONS");
    if !bodyless {
        headers.push(("content-length".to_string(), request.body.len().to_string().into_bytes()));
    }
    let headers = Fields::from_list(&headers)
        .map_err(|error| Error::Invalid(format!("the host does not take its headers: {error:?}")))?;
    let outgoing = OutgoingRequest::new(headers);
    let scheme = if target.secure { Scheme::Https } else { Scheme::Http };
    let path = match target.path_and_query.as_bytes().first() {
        Some(b'/') => target.path_and_query.to_string(),
        _ => format!("/{}", target.path_and_query),
    };
    outgoing.set_method(&method(&request.method)).map_err(|()| invalid("method"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| invalid("scheme"))?;
    outgoing.set_authority(Some(target.authority)).map_err(|()| invalid("host"))?;
    outgoing.set_path_with_query(Some(&path)).map_err(|()| invalid("path"))?;
    Ok(outgoing)
}

fn invalid(part: &str) -> Error {
    Error::Invalid(format!("the host does not take its {part}"))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_string()),
    }
}

/// A host without one of these options has timeouts of its own; the timer bounds the exchange anyway.
fn options(timeout: Duration) -> RequestOptions {
    let options = RequestOptions::new();
    let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    let _ = options.set_connect_timeout(Some(nanos));
    let _ = options.set_first_byte_timeout(Some(nanos));
    let _ = options.set_between_bytes_timeout(Some(nanos));
    options
}

/// Writes the body. If the other side stops reading, the answer tells why: that is no error here.
fn write(body: OutgoingBody, bytes: &[u8], timer: &Timer) -> Result<(), Error> {
    {
        let stream =
            body.write().map_err(|()| Error::Network("the host gave no stream to write to".to_string()))?;
        if !write_all(&stream, bytes, timer)? {
            return Ok(());
        }
    }
    // A body that ends too early for its content-length cannot happen; other faults are told by the answer.
    let _ = OutgoingBody::finish(body, None);
    Ok(())
}

/// False if the stream closed before its end.
fn write_all(stream: &OutputStream, mut rest: &[u8], timer: &Timer) -> Result<bool, Error> {
    while !rest.is_empty() {
        let room = match stream.check_write() {
            Ok(room) => usize::try_from(room).unwrap_or(usize::MAX).min(rest.len()),
            Err(_) => return Ok(false),
        };
        if room == 0 {
            timer.wait_for(&stream.subscribe())?;
            continue;
        }
        let (now, later) = rest.split_at(room);
        if stream.write(now).is_err() {
            return Ok(false);
        }
        rest = later;
    }
    Ok(stream.flush().is_ok())
}

fn wait(future: &FutureIncomingResponse, timer: &Timer) -> Result<IncomingResponse, Error> {
    loop {
        match future.get() {
            Some(Ok(answer)) => return answer.map_err(|code| failed(code, timer.timeout)),
            Some(Err(())) => {
                return Err(Error::Network("the answer was already taken".to_string()));
            }
            None => timer.wait_for(&future.subscribe())?,
        }
    }
}

fn received(response: IncomingResponse, limit: usize, timer: &Timer) -> Response {
    let headers = response.headers().entries();
    let headers =
        headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    let mut answer =
        Response { status: response.status(), headers: headers.collect(), body: Vec::new(), complete: false };
    if limit > 0
        && let Ok(body) = response.consume()
    {
        answer.complete = read(&body, limit, timer, &mut answer.body);
    }
    answer
}

/// True if `into` holds all of the body.
fn read(body: &IncomingBody, limit: usize, timer: &Timer, into: &mut Vec<u8>) -> bool {
    let Ok(stream) = body.stream() else {
        return false;
    };
    loop {
        match stream.read(READ) {
            Ok(bytes) if bytes.is_empty() => {
                if timer.wait_for(&stream.subscribe()).is_err() {
                    return false;
                }
            }
            Ok(bytes) => {
                let room = limit - into.len();
                into.extend_from_slice(&bytes[..bytes.len().min(room)]);
                if bytes.len() > room {
                    return false;
                }
            }
            Err(StreamError::Closed) => return true,
            Err(StreamError::LastOperationFailed(_)) => return false,
        }
    }
}

fn failed(code: ErrorCode, timeout: Duration) -> Error {
    match code {
        ErrorCode::HttpRequestDenied => Error::Denied("no grant for this origin".to_string()),
        ErrorCode::DestinationIpProhibited => Error::Denied("no grant for this address".to_string()),
        ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestUriTooLong
        | ErrorCode::HttpRequestBodySize(_)
        | ErrorCode::HttpRequestHeaderSize(_)
        | ErrorCode::HttpRequestHeaderSectionSize(_) => {
            Error::Invalid(format!("the host refused it: {code:?}"))
        }
        ErrorCode::ConnectionTimeout | ErrorCode::HttpResponseTimeout | ErrorCode::ConnectionReadTimeout => {
            Error::Timeout(timeout)
        }
        other => Error::Network(format!("{other:?}").replace("ErrorCode::", "")),
    }
}

struct Timer {
    pollable: Pollable,
    timeout: Duration,
}

impl Timer {
    fn new(timeout: Duration) -> Timer {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Timer { pollable: monotonic_clock::subscribe_duration(nanos), timeout }
    }

    /// Waits until the other one is ready, or fails when the time is up.
    fn wait_for(&self, other: &Pollable) -> Result<(), Error> {
        let ready = poll::poll(&[other, &self.pollable]);
        if ready.contains(&0) { Ok(()) } else { Err(Error::Timeout(self.timeout)) }
    }
}
