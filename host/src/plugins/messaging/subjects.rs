//! Subjects of NATS and patterns of them: what is one, what matches, what is never a plugin's. Pure.

/// The longest subject or pattern, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 256;

/// What is wrong with a text as a subject to publish to; none: nothing.
pub fn subject_fault(subject: &str) -> Option<&'static str> {
    text_fault(subject).or_else(|| {
        let wild = subject.contains(['*', '>']);
        wild.then_some("it has a wildcard: a message goes to one subject")
    })
}

/// What is wrong with a pattern in presence.toml; none: nothing. `prefix` is the deployment's own.
pub fn pattern_fault(pattern: &str, prefix: &str) -> Option<String> {
    if let Some(fault) = text_fault(pattern) {
        return Some(fault.to_owned());
    }
    let tokens: Vec<&str> = pattern.split('.').collect();
    let first = tokens[0];
    let misplaced = |(at, token): (usize, &&str)| match *token {
        "*" => false,
        ">" => at + 1 < tokens.len(),
        token => token.contains(['*', '>']),
    };
    if tokens.iter().enumerate().any(misplaced) {
        return Some("`*` stands for one whole token, `>` for all that follow, at the end".to_owned());
    }
    if first.starts_with(['$', '_']) {
        return Some(format!("`{first}` is for NATS itself and its clients, never for plugins"));
    }
    if first == "*" || first == ">" {
        return Some(
            "its first token must be no wildcard: it would match subjects of NATS and of this deployment"
                .to_owned(),
        );
    }
    (first == prefix).then(|| format!("`{prefix}.` is where this deployment keeps its own (cluster.prefix)"))
}

/// What is wrong with both alike.
fn text_fault(text: &str) -> Option<&'static str> {
    if text.len() > MAX_SUBJECT_BYTES {
        return Some("it has more than 256 bytes");
    }
    if text.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Some("it has spaces or control characters");
    }
    text.split('.').any(str::is_empty).then_some("it has an empty token: write tokens with dots between them")
}

/// Whether a subject is one of a pattern's.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The line of `[plugin.grants]` with one more subject.
pub fn line_with_subject(granted: &[String], wanted: &str) -> String {
    let wanted = wanted.to_owned();
    let entries: Vec<String> =
        granted.iter().chain([&wanted]).map(|subject| format!("{subject:?}")).collect();
    format!("messaging = [{}]", entries.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_those_of_nats() {
        let cases = [
            ("app.a", "app.a", true),
            ("app.a", "app.a.b", false),
            ("app.a.b", "app.a", false),
            ("app.*", "app.a", true),
            ("app.*", "app", false),
            ("app.*", "app.a.b", false),
            ("app.*.b", "app.a.b", true),
            ("app.>", "app", false),
            ("app.>", "app.a", true),
            ("app.>", "app.a.b", true),
            ("app.>", "apple.a", false),
            ("app.*.>", "app.a", false),
            ("app.*.>", "app.a.b.c", true),
        ];
        for (pattern, subject, expected) in cases {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn what_is_no_subject_is_not_published_to() {
        let long = "a".repeat(257);
        for subject in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a.\tb",
            "a\r\nPUB x",
            "a\u{a0}",
            "app.*",
            "app.>",
            "a>b",
            &long,
        ] {
            assert!(subject_fault(subject).is_some(), "{subject:?}");
        }
        for subject in ["a", "app.presence.alice", "a.b-c_d.1", "ä.ö", "a.$x", &long[1..]] {
            assert_eq!(subject_fault(subject), None, "{subject:?}");
        }
    }

    #[test]
    fn no_pattern_reaches_what_is_not_the_applications() {
        for pattern in ["app.presence.>", "app", "app.*.x", "presence2.>", "app.presence"] {
            assert_eq!(pattern_fault(pattern, "presence"), None, "{pattern}");
        }
        let bad = [
            ">",
            "*",
            "*.x",
            "*.>",
            "$JS.API.>",
            "$SYS.>",
            "_INBOX.>",
            "_x",
            "presence.>",
            "presence.s.>",
            "presence.*",
            "presence",
            "app.>.x",
            "app.a*",
            "app.>x",
            "app..x",
            "app. x",
            "",
        ];
        for pattern in bad {
            assert!(pattern_fault(pattern, "presence").is_some(), "{pattern}");
        }
        // Whatever a pattern that is allowed matches does not begin with what is not.
        assert!(!matches("app.>", "presence.s.1"));
    }

    #[test]
    fn the_line_to_add_is_ready_to_paste() {
        assert_eq!(line_with_subject(&["a.>".to_owned()], "b.c"), r#"messaging = ["a.>", "b.c"]"#);
    }
}
