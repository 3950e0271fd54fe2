//! The custom message of a user ("in a meeting"): checked here, kept in the store under a key of its own until it expires.
//!
//! It must not know who set it, nor who sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{Now, Timestamp};

/// The longest text, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 256;

/// The shortest time that a message may be set for: as short a lease as stores grant.
pub const MIN_EXPIRY: Duration = Duration::from_secs(1);

/// The longest time that a message may be set for: a year.
pub const MAX_EXPIRY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why something is no custom message: what is wrong, and what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Nothing, or nothing but white space.
    #[error("the text of a message must not be blank; null clears it")]
    Blank,
    /// More than [`MAX_TEXT_BYTES`].
    #[error("the text of a message has at most {MAX_TEXT_BYTES} bytes, not {0}")]
    TooLong(usize),
    /// A character that Unicode calls a control character.
    #[error("the text of a message must not hold control characters")]
    ControlCharacter,
    /// Not between [`MIN_EXPIRY`] and [`MAX_EXPIRY`].
    #[error("`expires_in_ms` must be from 1000 to 31536000000, which is a year, not {0}")]
    Expiry(u64),
    /// An expiry of nothing.
    #[error("`expires_in_ms` is for a message that is set, not for one that is cleared")]
    ExpiryOfNothing,
}

/// A custom message as somebody wants it: valid, not in the store yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    text: Arc<str>,
    expires_in: Option<Duration>,
}

/// Texts of people are not for logs.
impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

impl Wanted {
    /// Checks the rules. Without a text nothing is wanted: the message is to be cleared.
    pub fn new(text: Option<&str>, expires_in_ms: Option<u64>) -> Result<Option<Wanted>, InvalidText> {
        let Some(text) = text else {
            return if expires_in_ms.is_some() { Err(InvalidText::ExpiryOfNothing) } else { Ok(None) };
        };
        if text.len() > MAX_TEXT_BYTES {
            return Err(InvalidText::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidText::ControlCharacter);
        }
        if text.trim().is_empty() {
            return Err(InvalidText::Blank);
        }
        let expires_in = match expires_in_ms {
            Some(millis) if !(MIN_EXPIRY..=MAX_EXPIRY).contains(&Duration::from_millis(millis)) => {
                return Err(InvalidText::Expiry(millis));
            }
            millis => millis.map(Duration::from_millis),
        };
        Ok(Some(Wanted { text: text.into(), expires_in }))
    }

    /// What goes to the store, and for how long. Who names no expiry has it kept for `otherwise`, as far as that is
    /// between the bounds.
    pub fn kept(&self, now: Now, otherwise: Duration) -> (CustomMessage, Duration) {
        let lasts = self.expires_in.unwrap_or_else(|| otherwise.clamp(MIN_EXPIRY, MAX_EXPIRY));
        (CustomMessage { text: self.text.clone(), until: now.wall + lasts }, lasts)
    }
}

/// The custom message of a user, as the store has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomMessage {
    /// 1 to [`MAX_TEXT_BYTES`] of text without control characters.
    pub text: Arc<str>,
    /// There is none from then on, also while the store still has it.
    pub until: Timestamp,
}

/// Texts of people are not for logs.
impl fmt::Debug for CustomMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomMessage").field("until", &self.until).finish_non_exhaustive()
    }
}

impl CustomMessage {
    /// True until its time is over.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_checked_and_says_what_is_allowed() {
        let long = "é".repeat(129);
        for (text, expires, error) in [
            (Some(""), None, InvalidText::Blank),
            (Some(" \u{2003}"), None, InvalidText::Blank),
            (Some(long.as_str()), None, InvalidText::TooLong(258)),
            (Some("a\nb"), None, InvalidText::ControlCharacter),
            (Some("a\u{85}"), None, InvalidText::ControlCharacter),
            (Some("a"), Some(999), InvalidText::Expiry(999)),
            (Some("a"), Some(31_536_000_001), InvalidText::Expiry(31_536_000_001)),
            (Some("a"), Some(u64::MAX), InvalidText::Expiry(u64::MAX)),
            (None, Some(5000), InvalidText::ExpiryOfNothing),
        ] {
            assert_eq!(Wanted::new(text, expires), Err(error), "{text:?}");
        }
        assert_eq!(
            InvalidText::Expiry(0).to_string(),
            "`expires_in_ms` must be from 1000 to 31536000000, which is a year, not 0"
        );
        assert_eq!(Wanted::new(None, None), Ok(None));
    }

    #[test]
    fn it_is_kept_until_its_expiry_or_as_long_as_users_are_remembered() {
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        let now = Now::at(5_000);
        for (expires, otherwise, lasts) in [
            (Some(1000), days(90), Duration::from_secs(1)),
            (None, days(90), days(90)),
            (None, days(4000), days(365)),
            (None, Duration::ZERO, Duration::from_secs(1)),
        ] {
            let wanted = Wanted::new(Some("in a meeting"), expires).unwrap().unwrap();
            let (message, kept) = wanted.kept(now, otherwise);
            assert_eq!((&*message.text, message.until, kept), ("in a meeting", now.wall + lasts, lasts));
            assert!(message.holds(now.wall));
            assert!(!message.holds(message.until));
            assert!(!format!("{wanted:?} {message:?}").contains("meeting"));
        }
    }
}
