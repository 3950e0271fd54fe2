//! The request over wasi:http. Used in a guest only.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
    Scheme,
};
use wasip2::io::streams::StreamError;

use super::{Error, MAX_BODY, Request, Response};

/// wasi:http lets a guest write so many bytes at once.
const WRITE_CHUNK: usize = 4096;

pub(super) fn send(request: &Request) -> Result<Response, Error> {
    let outgoing = prepare(request)?;
    let body = outgoing.body().map_err(|()| Error::Invalid("the body was taken".into()))?;
    let options = RequestOptions::new();
    if let Some(timeout) = request.timeout {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // Where the host knows no such limit, its own holds.
        let _ = options.set_connect_timeout(Some(nanos));
        let _ = options.set_first_byte_timeout(Some(nanos));
    }
    let future = outgoing_handler::handle(outgoing, Some(options)).map_err(error)?;
    write(body, &request.body)?;
    future.subscribe().block();
    match future.get() {
        Some(Ok(Ok(response))) => read(&response),
        Some(Ok(Err(code))) => Err(error(code)),
        _ => Err(Error::Network("the host gave no answer".into())),
    }
}

fn prepare(request: &Request) -> Result<OutgoingRequest, Error> {
    let invalid = |what: &str| Error::Invalid(what.to_owned());
    let (scheme, rest) = request.url.split_once("://").ok_or_else(|| invalid("the URL is not absolute"))?;
    let rest = rest.split('#').next().unwrap_or(rest);
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path = match path {
        "" => "/".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    };
    let mut headers: Vec<(String, Vec<u8>)> = Vec::with_capacity(request.headers.len() + 1);
    for (name, value) in &request.headers {
        headers.push((name.clone(), value.clone().into_bytes()));
    }
    headers.push(("content-length".into(), request.body.len().to_string().into_bytes()));
    let headers = Fields::from_list(&headers).map_err(|_| invalid("a header can't be sent"))?;
    let outgoing = OutgoingRequest::new(headers);
    let method = match request.method.as_str() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
        "OPTIONS" => Method::Options,
        other => Method::Other(other.to_owned()),
    };
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        other => Scheme::Other(other.to_owned()),
    };
    outgoing.set_method(&method).map_err(|()| invalid("the method can't be sent"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| invalid("the URL's scheme can't be used"))?;
    outgoing.set_authority(Some(authority)).map_err(|()| invalid("the URL's host can't be used"))?;
    outgoing.set_path_with_query(Some(&path)).map_err(|()| invalid("the URL's path can't be used"))?;
    Ok(outgoing)
}

fn write(body: OutgoingBody, bytes: &[u8]) -> Result<(), Error> {
    if !bytes.is_empty() {
        let stream = body.write().map_err(|()| Error::Invalid("the body was taken".into()))?;
        for chunk in bytes.chunks(WRITE_CHUNK) {
            if stream.blocking_write_and_flush(chunk).is_err() {
                // The answer, or the error, says why the server stopped reading.
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
    Ok(())
}

fn read(response: &IncomingResponse) -> Result<Response, Error> {
    let headers = response.headers().entries().into_iter();
    let headers = headers.map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned())).collect();
    let status = response.status();
    let mut body = Vec::new();
    let incoming: IncomingBody =
        response.consume().map_err(|()| Error::Network("the answer has no body".into()))?;
    {
        let stream =
            incoming.stream().map_err(|()| Error::Network("the answer's body can't be read".into()))?;
        while body.len() < MAX_BODY {
            match stream.blocking_read((MAX_BODY - body.len()) as u64) {
                Ok(bytes) => body.extend(bytes),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(cause)) => {
                    return Err(Error::Network(format!("the answer broke off: {}", cause.to_debug_string())));
                }
            }
        }
    }
    Ok(Response { status, headers, body })
}

fn error(code: ErrorCode) -> Error {
    match code {
        ErrorCode::HttpRequestDenied => Error::Denied("presence.toml grants no such origin".into()),
        ErrorCode::DestinationIpProhibited => {
            Error::Denied("the name leads to an address that presence.toml does not grant".into())
        }
        ErrorCode::HttpRequestUriInvalid => Error::Invalid("the URL can't be used".into()),
        ErrorCode::ConnectionRefused => Error::Network("connection refused".into()),
        ErrorCode::ConnectionTimeout => Error::Network("no connection in time".into()),
        ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => {
            Error::Network("no answer in time".into())
        }
        ErrorCode::DnsError(_) => Error::Network("the name can't be resolved".into()),
        ErrorCode::InternalError(Some(message)) => Error::Network(message),
        other => Error::Network(format!("{other:?}")),
    }
}
