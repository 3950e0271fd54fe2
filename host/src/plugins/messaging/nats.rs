//! Messages over the store's connection to NATS.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Message, Messaging, MessagingError};
use crate::store::StoreError;
use crate::store::nats::Publisher;

/// A [`Messaging`] over NATS.
pub struct NatsMessaging(Publisher);

impl NatsMessaging {
    /// Over this connection.
    pub fn new(publisher: Publisher) -> NatsMessaging {
        NatsMessaging(publisher)
    }
}

impl Messaging for NatsMessaging {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), MessagingError>> {
        let Message { subject, headers, payload } = message;
        let length =
            payload.len() + headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let most = self.0.max_payload();
        if length > most {
            let text = format!(
                "the NATS server takes messages of at most {most} bytes, this one has about {length}"
            );
            return std::future::ready(Err(MessagingError::TooLarge(text))).boxed();
        }
        let sent = self.0.publish(subject, headers, payload);
        async move {
            sent.await.map_err(|error| match error {
                StoreError::Refused(why) => MessagingError::Denied(format!("NATS refuses it: {why}")),
                StoreError::Unavailable(why) => MessagingError::Unavailable(format!("not sent: {why}")),
                other => MessagingError::Unavailable(format!("perhaps not sent: {other}")),
            })
        }
        .boxed()
    }
}
