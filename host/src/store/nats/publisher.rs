//! Messages that are no documents, over the store's connection. Knows neither plugins nor grants.
//!
//! A message has no acknowledgement in core NATS. A request that the server answers goes right behind it: the server
//! reads one connection in order, so the answer says that it has taken the message too.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use presence_core::documents::Bucket;
use serde_json::json;

use super::link::{Link, LinkError, Outgoing};
use super::streams::Which;
use super::{NatsStore, refused};
use crate::store::StoreError;

/// A way out for messages. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    link: Link,
    /// The request behind each message, and its body: something small that is always there.
    proof: (String, String),
}

impl NatsStore {
    /// The connection, for messages to others. Nothing is given to it while it is away.
    pub fn publisher(&self) -> Publisher {
        let names = &self.shared.streams.names;
        let stream = names.stream(Which::Bucket(Bucket::Instances));
        let body = json!({ "last_by_subj": format!("{}.meta", names.prefix) }).to_string();
        Publisher { link: self.shared.link.clone(), proof: (format!("$JS.API.DIRECT.GET.{stream}"), body) }
    }
}

impl Publisher {
    /// What the server takes at most, headers included.
    pub fn max_payload(&self) -> usize {
        self.link.client().server_info().max_payload
    }

    /// Sends a message. Done when the server has taken it. `Unavailable`: certainly not sent; `Unknown`: perhaps;
    /// `Refused`: the server never takes it.
    pub fn publish(
        &self,
        subject: String,
        headers: Vec<(String, String)>,
        payload: Vec<u8>,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                (Ok(name), Ok(value)) => map.append(name, value),
                _ => return refused(StoreError::Refused(format!("the header {name:?} can't be sent"))),
            }
        }
        let message = Outgoing { subject: subject.into(), headers: map, payload: payload.into() };
        let (subject, body) = self.proof.clone();
        let proof = Outgoing { subject: subject.into(), headers: HeaderMap::new(), payload: body.into() };
        let sent = self.link.deliver(message, proof);
        async move {
            match sent.await {
                // Nobody may have anything to say to the request: the server has read it.
                Ok(_) | Err(LinkError::NoResponders(_)) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        .boxed()
    }
}
