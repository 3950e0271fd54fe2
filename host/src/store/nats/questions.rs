//! Questions to all hosts over core NATS: `<prefix>.events.ask`, the answers on `<prefix>.events.answer.<number>`. Both are
//! below what a host may publish and subscribe to anyway. It knows no question.

use std::sync::{Arc, PoisonError, Weak};

use async_nats::{Message, Subscriber};
use futures_util::future::select_ok;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Shared, api};
use crate::store::{ASK_PATIENCE, Asking, Question, Questions, StoreError};

impl Shared {
    /// The first answer, from here or elsewhere.
    pub(super) async fn ask(&self, question: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let nobody =
            || StoreError::Unknown(format!("no host has answered within {} s", ASK_PATIENCE.as_secs()));
        let here = self.ask_here(&question).boxed();
        let asking = select_ok([here, self.ask_others(question).boxed()]);
        timeout(ASK_PATIENCE, asking)
            .await
            .map_or_else(|_| Err(nobody()), |first| first.map(|(answer, _)| answer))
    }

    async fn ask_others(&self, question: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let unavailable =
            |error: String| StoreError::Unavailable(format!("the other hosts can't be asked: {error}"));
        let client = self.link.client();
        let prefix = &self.streams.names.prefix;
        let reply = format!("{prefix}.events.answer.{:032x}", fastrand::u128(..));
        let mut answers =
            client.subscribe(reply.clone()).await.map_err(|error| unavailable(error.to_string()))?;
        let sent = client.publish_with_reply(format!("{prefix}.events.ask"), reply, question.into()).await;
        sent.map_err(|error| unavailable(error.to_string()))?;
        match answers.next().await {
            // The server's own word: nobody else has subscribed.
            Some(answer) if api::status(&answer) == Some(503) => {
                Err(StoreError::Unknown("no other host listens".into()))
            }
            Some(answer) => Ok(answer.payload.to_vec()),
            None => Err(StoreError::Unknown("the connection to NATS ended".into())),
        }
    }

    /// Hands the question to those who listen on this connection.
    fn ask_here(
        &self,
        question: &[u8],
    ) -> impl Future<Output = Result<Vec<u8>, StoreError>> + Send + 'static {
        let (sender, mut answers) = mpsc::unbounded_channel();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|asking| {
            let sender = sender.clone();
            // Who does not wait any more needs no answer.
            asking.hand(Question::new(question.to_vec(), move |answer| drop(sender.send(answer))))
        });
        async move {
            // Once all have let the question go.
            answers.recv().await.ok_or_else(|| StoreError::Unknown("nobody here answers".into()))
        }
    }

    /// What others, and this host itself, ask from now on.
    pub(super) fn questions(self: &Arc<Shared>) -> Questions {
        let (asking, questions) = Questions::channel();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asking.clone());
        let subscribed = self.link.subscribe(format!("{}.events.ask", self.streams.names.prefix).into());
        tokio::spawn(listen(Arc::downgrade(self), subscribed, asking));
        questions
    }
}

async fn listen(shared: Weak<Shared>, subscribed: oneshot::Receiver<Subscriber>, asking: Asking) {
    let Ok(mut subscriber) = subscribed.await else { return };
    while let Some(Message { reply, payload, .. }) = subscriber.next().await {
        let Some(shared) = shared.upgrade() else { return };
        // What is sent without a way back is no question.
        let Some(reply) = reply else { continue };
        let client = shared.link.client().clone();
        let question = Question::new(payload.to_vec(), move |answer| {
            tokio::spawn(async move {
                // Whoever asked hears nothing then, and asks again.
                let _ = client.publish(reply, answer.into()).await;
            });
        });
        if !asking.hand(question) {
            return;
        }
    }
}
