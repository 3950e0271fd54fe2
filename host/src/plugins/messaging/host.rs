//! The import `messaging`: checks grants and limits, adds the host's headers, then hands the message on.

use std::sync::Arc;

use super::subjects::{line_with_subject, matches, subject_fault};
use super::{MAX_HEADER_BYTES, MAX_HEADERS, MAX_PAYLOAD_BYTES, Message, Messaging, MessagingError};
use crate::plugins::bindings::messaging::{self, Error};
use crate::plugins::denials::Denials;
use crate::plugins::guest::GuestState;

/// The event whose hook sent it.
const EVENT_ID: &str = "Presence-Event-Id";
/// By which JetStream knows repeats.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Headers that plugins may not set begin so, in whatever case.
const RESERVED: [&str; 2] = ["nats-", "presence-"];

/// The subjects that one plugin may publish to.
#[derive(Clone)]
pub struct GrantedSubjects {
    /// Where messages go; none: the host has no NATS.
    pub broker: Option<Arc<dyn Messaging>>,
    /// Patterns.
    pub granted: Arc<[String]>,
    /// Where denials are told.
    pub denials: Arc<Denials>,
}

/// What one guest publishes.
pub struct Publishing {
    subjects: GrantedSubjects,
    /// Of the call at work; empty outside of hooks.
    event_id: String,
    /// Messages of this call so far.
    count: u32,
}

impl Publishing {
    /// Of a guest that is not in a hook yet.
    pub fn new(subjects: GrantedSubjects) -> Publishing {
        Publishing { subjects, event_id: String::new(), count: 0 }
    }

    /// A hook is about to be called.
    pub fn begin(&mut self, event_id: &str) {
        if !self.subjects.granted.is_empty() {
            self.event_id.clear();
            self.event_id.push_str(event_id);
            self.count = 0;
        }
    }

    fn check(
        &mut self,
        subject: String,
        payload: Vec<u8>,
        mut headers: Vec<(String, String)>,
    ) -> Result<(Arc<dyn Messaging>, Message), Error> {
        // A subject as long as a guest likes must not fill the log.
        let shown: String = subject.chars().take(64).collect();
        if let Some(fault) = subject_fault(&subject) {
            return Err(Error::Denied(format!("{shown:?} is no subject to publish to: {fault}")));
        }
        let GrantedSubjects { broker, granted, denials } = &self.subjects;
        if !granted.iter().any(|pattern| matches(pattern, &subject)) {
            denials.tell(&format!("the NATS subject {shown:?}"), &line_with_subject(granted, &shown));
            return Err(Error::Denied(format!("no grant for the subject {shown:?}")));
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            let length = payload.len();
            return Err(Error::TooLarge(format!(
                "a payload has at most {MAX_PAYLOAD_BYTES} bytes, this one {length}"
            )));
        }
        check_headers(&headers)?;
        if self.event_id.is_empty() {
            return Err(Error::Denied("messages are sent by hooks alone, not by `configure`".to_owned()));
        }
        let Some(broker) = broker else {
            return Err(Error::Unavailable("this host has no NATS".to_owned()));
        };
        headers.push((EVENT_ID.to_owned(), self.event_id.clone()));
        headers.push((MESSAGE_ID.to_owned(), format!("{}#{}", self.event_id, self.count)));
        self.count += 1;
        Ok((broker.clone(), Message { subject, headers, payload }))
    }
}

fn check_headers(headers: &[(String, String)]) -> Result<(), Error> {
    let length: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > MAX_HEADERS || length > MAX_HEADER_BYTES {
        return Err(Error::TooLarge(format!(
            "a message has at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes together"
        )));
    }
    for (name, value) in headers {
        let shown: String = name.chars().take(64).collect();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(Error::Denied(format!("{shown:?} is no name of a header")));
        }
        if value.contains(['\r', '\n']) {
            return Err(Error::Denied(format!("the value of the header {shown:?} has a line break")));
        }
        let name = name.to_ascii_lowercase();
        if RESERVED.iter().any(|reserved| name.starts_with(reserved)) {
            return Err(Error::Denied(format!("the header {shown:?} is for the host to set")));
        }
    }
    Ok(())
}

impl From<MessagingError> for Error {
    fn from(error: MessagingError) -> Error {
        match error {
            MessagingError::Denied(message) => Error::Denied(message),
            MessagingError::TooLarge(message) => Error::TooLarge(message),
            MessagingError::Unavailable(message) => Error::Unavailable(message),
        }
    }
}

impl messaging::Host for GuestState {
    async fn publish(
        &mut self,
        subject: String,
        payload: Vec<u8>,
        headers: Vec<(String, String)>,
    ) -> Result<(), Error> {
        let (broker, message) = self.publishing.check(subject, payload, headers)?;
        Ok(broker.publish(message).await?)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;

    struct Nowhere;

    impl Messaging for Nowhere {
        fn publish(&self, _: Message) -> BoxFuture<'_, Result<(), MessagingError>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    fn publishing(granted: &[&str]) -> Publishing {
        let granted: Vec<String> = granted.iter().map(|pattern| (*pattern).to_owned()).collect();
        let denials = Arc::new(Denials::new("p".into()));
        let broker: Arc<dyn Messaging> = Arc::new(Nowhere);
        let mut publishing =
            Publishing::new(GrantedSubjects { broker: Some(broker), granted: granted.into(), denials });
        publishing.begin("p:tick:5");
        publishing
    }

    fn refusal(
        publishing: &mut Publishing,
        subject: &str,
        payload: usize,
        headers: &[(&str, &str)],
    ) -> String {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match publishing.check(subject.to_owned(), vec![0; payload], headers) {
            Ok(_) => "none".to_owned(),
            Err(Error::Denied(text)) => format!("denied: {text}"),
            Err(Error::TooLarge(text)) => format!("too large: {text}"),
            Err(Error::Unavailable(text)) => format!("unavailable: {text}"),
        }
    }

    #[test]
    fn messages_carry_the_event_and_their_number_in_the_call() {
        let mut publishing = publishing(&["app.>"]);
        let mut ids = Vec::new();
        for _ in 0..2 {
            let headers = vec![("a".to_owned(), "b".to_owned())];
            let Ok((_, message)) = publishing.check("app.x".to_owned(), Vec::new(), headers) else {
                panic!("granted");
            };
            ids.push(message.headers);
        }
        publishing.begin("p:tick:6");
        let Ok((_, message)) = publishing.check("app.x".to_owned(), Vec::new(), Vec::new()) else {
            panic!("granted");
        };
        ids.push(message.headers);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let host = |event: &str, number: u32| {
            [header(EVENT_ID, event), header(MESSAGE_ID, &format!("{event}#{number}"))]
        };
        assert_eq!(ids[0], [vec![header("a", "b")], host("p:tick:5", 0).to_vec()].concat());
        assert_eq!(ids[1][1..], host("p:tick:5", 1));
        assert_eq!(ids[2], host("p:tick:6", 0));
    }

    #[test]
    fn what_is_not_granted_or_too_large_is_refused() {
        let mut granted = publishing(&["app.>", "other.*"]);
        let mut refused = |subject: &str, payload, headers: &[(&str, &str)]| {
            refusal(&mut granted, subject, payload, headers)
        };
        assert_eq!(refused("other.x", 65_536, &[("x", "y z")]), "none");
        assert!(refused("else.x", 0, &[]).starts_with("denied: no grant for the subject \"else.x\""));
        assert!(refused("app.*", 0, &[]).starts_with("denied: \"app.*\" is no subject"));
        assert!(refused("app.x", 65_537, &[]).starts_with("too large: a payload"));
        assert!(refused("app.x", 0, &[("x", &"y".repeat(9000))]).starts_with("too large: "));
        assert!(refused("app.x", 0, &[("x", ""); 33]).starts_with("too large: "));
        for (name, value) in [("", "x"), ("a b", "x"), ("a:", "x"), ("ä", "x"), ("a", "x\r\ny")] {
            assert!(refused("app.x", 0, &[(name, value)]).starts_with("denied: "), "{name:?}");
        }
        for name in ["Nats-Msg-Id", "NATS-TTL", "presence-event-id"] {
            assert!(refused("app.x", 0, &[(name, "x")]).contains("for the host to set"), "{name}");
        }
        assert!(refusal(&mut publishing(&[]), "app.x", 0, &[]).contains("no grant"));
    }

    #[test]
    fn configure_sends_nothing() {
        let mut publishing = publishing(&["app.>"]);
        publishing.event_id.clear();
        assert!(refusal(&mut publishing, "app.x", 0, &[]).contains("by hooks alone"));
    }
}
