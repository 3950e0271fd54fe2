//! What the gateway counts. Plain numbers: how they are printed is for `metrics.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::protocol::ErrorCode;

/// Why a connection or a request for a session was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400, 426: not a request that the gateway understands.
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 503: the host is starting, draining or stopped.
    Unavailable,
    /// 503: too many connections.
    Full,
    /// 503: too many connects a second.
    Rate,
    /// 429: the user has too many sessions.
    UserSessions,
    /// 429: too many sessions come from the address.
    AddressSessions,
}

impl Refusal {
    /// All of them, in the order of the counters.
    pub const ALL: [Refusal; 8] = [
        Refusal::BadRequest,
        Refusal::Unauthorized,
        Refusal::Forbidden,
        Refusal::Unavailable,
        Refusal::Full,
        Refusal::Rate,
        Refusal::UserSessions,
        Refusal::AddressSessions,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::BadRequest => "bad_request",
            Refusal::Unauthorized => "unauthorized",
            Refusal::Forbidden => "forbidden",
            Refusal::Unavailable => "unavailable",
            Refusal::Full => "full",
            Refusal::Rate => "rate",
            Refusal::UserSessions => "user_sessions",
            Refusal::AddressSessions => "address_sessions",
        }
    }

    /// The refusal that an HTTP status stands for.
    pub fn of(status: http::StatusCode) -> Refusal {
        match status.as_u16() {
            401 => Refusal::Unauthorized,
            403 => Refusal::Forbidden,
            503 => Refusal::Unavailable,
            _ => Refusal::BadRequest,
        }
    }
}

/// Why a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The TLS handshake failed, or took too long.
    Handshake,
    /// No head of a request came in time.
    Head,
    /// The client does not read what it is sent.
    SlowReader,
    /// Errors without end.
    Abuse,
    /// A message that is too large.
    TooLarge,
    /// Not WebSocket.
    Protocol,
}

impl Cut {
    /// All of them, in the order of the counters.
    pub const ALL: [Cut; 6] =
        [Cut::Handshake, Cut::Head, Cut::SlowReader, Cut::Abuse, Cut::TooLarge, Cut::Protocol];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Cut::Handshake => "handshake",
            Cut::Head => "head",
            Cut::SlowReader => "slow_reader",
            Cut::Abuse => "abuse",
            Cut::TooLarge => "too_large",
            Cut::Protocol => "protocol",
        }
    }
}

/// Why a request to the admin listener was refused for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiRefusal {
    /// 401: it has none.
    NoKey,
    /// 401: it has one that is none of ours.
    UnknownKey,
    /// 403: its key may do other things.
    Scope,
}

impl ApiRefusal {
    /// All of them, in the order of the counters.
    pub const ALL: [ApiRefusal; 3] = [ApiRefusal::NoKey, ApiRefusal::UnknownKey, ApiRefusal::Scope];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            ApiRefusal::NoKey => "no_key",
            ApiRefusal::UnknownKey => "unknown_key",
            ApiRefusal::Scope => "scope",
        }
    }

    /// The sentence for whoever asked.
    pub fn detail(self) -> &'static str {
        match self {
            ApiRefusal::NoKey => {
                "this host wants a key: send `Authorization: Bearer pk_…` (`presence keys new` makes one)"
            }
            ApiRefusal::UnknownKey => {
                "this is no key of this host: send `Authorization: Bearer pk_…` with one of its [[api.key]], once"
            }
            ApiRefusal::Scope => "the key may do other things",
        }
    }
}

/// Counters of one gateway; they only grow.
#[derive(Debug, Default)]
pub struct Traffic {
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    errors: [AtomicU64; ErrorCode::ALL.len()],
    tokens_renewed: AtomicU64,
    key_readings: [AtomicU64; 2],
    api_refused: [AtomicU64; ApiRefusal::ALL.len()],
    event_streams: AtomicU64,
    event_streams_cut: AtomicU64,
    event_resets: AtomicU64,
    cut: [AtomicU64; Cut::ALL.len()],
    certificate_readings: [AtomicU64; 2],
}

/// An event stream that is open, as long as this is kept.
#[derive(Debug)]
pub struct OpenStream(Arc<Traffic>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.event_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Traffic {
    /// A session was opened.
    pub fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A session was not opened.
    pub fn count_refused(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A frame came from a client.
    pub fn count_frame_in(&self) {
        self.frames_in.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame was handed to the operating system for a client.
    pub fn count_frame_out(&self) {
        self.frames_out.fetch_add(1, Ordering::Relaxed);
    }

    /// A client was told of an error.
    pub fn count_error(&self, code: ErrorCode) {
        self.errors[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A session goes on with a fresh token.
    pub fn count_token_renewed(&self) {
        self.tokens_renewed.fetch_add(1, Ordering::Relaxed);
    }

    /// The key set was read, or could not be.
    pub fn count_key_reading(&self, succeeded: bool) {
        self.key_readings[usize::from(!succeeded)].fetch_add(1, Ordering::Relaxed);
    }

    /// A request to the admin listener was refused for its key.
    pub fn count_api_refused(&self, reason: ApiRefusal) {
        self.api_refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Such refusals so far, by reason.
    pub fn api_refused(&self) -> impl Iterator<Item = (ApiRefusal, u64)> {
        let count = |reason: ApiRefusal| self.api_refused[reason as usize].load(Ordering::Relaxed);
        ApiRefusal::ALL.into_iter().map(move |reason| (reason, count(reason)))
    }

    /// An event stream begins.
    pub fn event_stream(self: &Arc<Traffic>) -> OpenStream {
        self.event_streams.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    /// The reader of an event stream took nothing, and was cut off.
    pub fn count_event_stream_cut(&self) {
        self.event_streams_cut.fetch_add(1, Ordering::Relaxed);
    }

    /// The reader of an event stream was told to begin anew.
    pub fn count_event_reset(&self) {
        self.event_resets.fetch_add(1, Ordering::Relaxed);
    }

    /// Event streams: open now, cut off so far, resets told so far.
    pub fn event_streams(&self) -> [u64; 3] {
        [&self.event_streams, &self.event_streams_cut, &self.event_resets]
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// A connection was cut.
    pub fn count_cut(&self, reason: Cut) {
        self.cut[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Such connections so far, by reason.
    pub fn cut(&self) -> impl Iterator<Item = (Cut, u64)> {
        Cut::ALL.into_iter().map(|reason| (reason, self.cut[reason as usize].load(Ordering::Relaxed)))
    }

    /// A certificate was read again, or could not be.
    pub fn count_certificate_reading(&self, succeeded: bool) {
        self.certificate_readings[usize::from(!succeeded)].fetch_add(1, Ordering::Relaxed);
    }

    /// Such readings so far: that succeeded, that failed.
    pub fn certificate_readings(&self) -> [u64; 2] {
        self.certificate_readings.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Fresh tokens so far.
    pub fn tokens_renewed(&self) -> u64 {
        self.tokens_renewed.load(Ordering::Relaxed)
    }

    /// Readings of the key set so far: that succeeded, that failed.
    pub fn key_readings(&self) -> [u64; 2] {
        self.key_readings.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Sessions opened so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Refusals so far, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().map(|reason| (reason, self.refused[reason as usize].load(Ordering::Relaxed)))
    }

    /// Frames so far: in, out.
    pub fn frames(&self) -> [u64; 2] {
        [self.frames_in.load(Ordering::Relaxed), self.frames_out.load(Ordering::Relaxed)]
    }

    /// Errors so far, by code.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.into_iter().map(|code| (code, self.errors[code as usize].load(Ordering::Relaxed)))
    }
}
