//! The body of an answer: so many bytes at most, and never a long silence.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use wasmtime_wasi_http::Error;

/// What a guest reads. Dropping it closes the connection, if there is more to come.
pub(super) struct ResponseBody {
    inner: Limited<Incoming>,
    limit: usize,
    pause: Duration,
    /// Runs while the server is silent.
    silence: Option<Pin<Box<Sleep>>>,
    /// Among the guest's requests; free when the body is gone.
    _place: Option<OwnedSemaphorePermit>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Incoming,
        limit: usize,
        pause: Duration,
        place: Option<OwnedSemaphorePermit>,
    ) -> ResponseBody {
        ResponseBody { inner: Limited::new(inner, limit), limit, pause, silence: None, _place: place }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            self.silence = None;
            let limit = self.limit as u64;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| classify(&*error, limit))));
        }
        let pause = self.pause;
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        silence.as_mut().poll(context).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn classify(error: &(dyn std::error::Error + Send + Sync + 'static), limit: u64) -> Error {
    if error.is::<LengthLimitError>() {
        Error::HttpResponseBodySize(Some(limit))
    } else {
        Error::HttpResponseIncomplete
    }
}
