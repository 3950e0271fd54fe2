//! Questions that one host asks all others: whoever it concerns answers, the others are silent. It knows no question.

use std::fmt;

use tokio::sync::mpsc;

/// So many questions wait for a host; more are dropped, and whoever asks hears no answer.
const MAX_WAITING: usize = 256;

/// A question, and the way back.
pub struct Question {
    body: Vec<u8>,
    reply: Box<dyn FnOnce(Vec<u8>) + Send>,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Question").field(&String::from_utf8_lossy(&self.body)).finish()
    }
}

impl Question {
    /// `reply` takes the answer; that may come to nothing.
    pub fn new(body: Vec<u8>, reply: impl FnOnce(Vec<u8>) + Send + 'static) -> Question {
        Question { body, reply: Box::new(reply) }
    }

    /// What is asked.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Answers. Whoever asked takes the first answer that comes.
    pub fn answer(self, answer: Vec<u8>) {
        (self.reply)(answer);
    }
}

/// Hands questions to one host.
#[derive(Clone, Debug)]
pub struct Asking {
    sender: mpsc::Sender<Question>,
}

impl Asking {
    /// Hands one over, if there is room. False if nobody listens any more.
    pub fn hand(&self, question: Question) -> bool {
        !matches!(self.sender.try_send(question), Err(mpsc::error::TrySendError::Closed(_)))
    }

    /// Whether somebody listens.
    pub fn is_heard(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// A running [`Store::questions`](super::Store::questions). Waiting can be given up at any time without losing one.
#[derive(Debug)]
pub struct Questions {
    receiver: mpsc::Receiver<Question>,
}

impl Questions {
    /// The two ends.
    pub fn channel() -> (Asking, Questions) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Asking { sender }, Questions { receiver })
    }

    /// The next one. Waits for ever when the store is gone.
    pub async fn next(&mut self) -> Question {
        match self.receiver.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }

    /// The next one, if one waits.
    pub fn try_next(&mut self) -> Option<Question> {
        self.receiver.try_recv().ok()
    }
}
