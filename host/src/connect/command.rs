//! What can be typed.

use presence_core::events::Status;
use presence_core::ids::{InvalidUserId, UserId};

/// A line that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `i`, `o`
    Status(Status),
    /// `w NAME`
    Watch(UserId),
    /// `u NAME`
    Unwatch(UserId),
    /// `q`
    Quit,
}

/// A line that was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mistake {
    #[error("`{0}` is no command")]
    Unknown(String),
    #[error("whom? {0}")]
    User(#[from] InvalidUserId),
}

impl Command {
    /// None for an empty line.
    pub(super) fn parse(line: &str) -> Result<Option<Command>, Mistake> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let command = match (word, rest.trim()) {
            ("", _) => return Ok(None),
            ("i", "") => Command::Status(Status::Idle),
            ("o", "") => Command::Status(Status::Online),
            ("q", "") => Command::Quit,
            ("w", user) => Command::Watch(UserId::new(user)?),
            ("u", user) => Command::Unwatch(UserId::new(user)?),
            _ => return Err(Mistake::Unknown(line.chars().take(40).collect())),
        };
        Ok(Some(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_mistakes() {
        let user = |text| UserId::new(text).unwrap();
        assert_eq!(Command::parse(" i "), Ok(Some(Command::Status(Status::Idle))));
        assert_eq!(Command::parse("o\r"), Ok(Some(Command::Status(Status::Online))));
        assert_eq!(Command::parse("w zoë 🦀"), Ok(Some(Command::Watch(user("zoë 🦀")))));
        assert_eq!(Command::parse("u  bob"), Ok(Some(Command::Unwatch(user("bob")))));
        assert_eq!(Command::parse("q"), Ok(Some(Command::Quit)));
        assert_eq!(Command::parse("  "), Ok(None));
        assert_eq!(Command::parse("w"), Err(Mistake::User(InvalidUserId::Empty)));
        assert_eq!(Command::parse("hello there"), Err(Mistake::Unknown("hello there".into())));
        assert_eq!(Command::parse("q now"), Err(Mistake::Unknown("q now".into())));
    }
}
