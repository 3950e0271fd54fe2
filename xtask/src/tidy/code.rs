//! The code of a Rust file without its comments and its texts, so that rules don't trip over words in them.

/// Source with comments, strings and characters blanked out; lines stay where they were.
pub struct Code(String);

impl Code {
    /// Blanks out what is no code.
    pub fn of(source: &str) -> Code {
        let mut code = String::with_capacity(source.len());
        let mut rest = source;
        while let Some(first) = rest.chars().next() {
            let after_word = code.chars().next_back().is_some_and(is_word);
            let length = skipped(rest, after_word);
            if length == 0 {
                code.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let (blank, remainder) = rest.split_at(length);
            code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = remainder;
        }
        Code(code)
    }

    /// The code as text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Numbers of the lines that hold this text.
    pub fn lines_with(&self, text: &str) -> Vec<usize> {
        self.lines_where(|line| line.contains(text))
    }

    /// Numbers of the lines that hold this whole word.
    pub fn lines_with_word(&self, word: &str) -> Vec<usize> {
        self.lines_where(|line| words(line, word).next().is_some())
    }

    /// Numbers of the lines that call the macro.
    pub fn lines_with_macro(&self, name: &str) -> Vec<usize> {
        self.lines_where(|line| {
            words(line, name).any(|rest| rest.starts_with('!') && !rest.starts_with("!="))
        })
    }

    fn lines_where(&self, holds: impl Fn(&str) -> bool) -> Vec<usize> {
        self.0.lines().enumerate().filter(|(_, line)| holds(line)).map(|(index, _)| index + 1).collect()
    }
}

/// What follows each place where `word` stands as a whole.
fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(word).filter_map(move |(at, _)| {
        let rest = &line[at + word.len()..];
        let whole = !line[..at].ends_with(is_word) && !rest.starts_with(is_word);
        whole.then_some(rest)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the comment, string or character that `rest` starts with; 0 if it starts with code.
fn skipped(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if !after_word {
        for prefix in ["br", "cr", "r"] {
            if let Some(body) = rest.strip_prefix(prefix)
                && let Some(length) = raw_string(body)
            {
                return prefix.len() + length;
            }
        }
    }
    if rest.starts_with('\'') { character(rest) } else { 0 }
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Up to and with the closing mark; a backslash hides the character behind it.
fn quoted(rest: &str, mark: char) -> usize {
    let mut hidden = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if hidden => hidden = false,
            '\\' => hidden = true,
            c if c == mark => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// `"…"` or `#"…"#` with any number of hashes, behind an `r`.
fn raw_string(body: &str) -> Option<usize> {
    let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
    let text = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = text.find(&end).map_or(text.len(), |at| at + end.len());
    Some(hashes + 1 + length)
}

/// A character, or nothing: a lifetime has no closing mark after its first letter.
fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(rest, '\''),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_blanked_out() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x \" y") z"#, "f(        ) z"),
            (r##"f(r#"x " y"#) z"##, "f(          ) z"),
            ("bar\"x\"", "bar   "),
            ("let c = '\"'; x", "let c =    ; x"),
            (r"let c = '\''; x", "let c =     ; x"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("\"a\nb\"c", "  \n  c"),
            ("\"open", "     "),
        ];
        for (source, code) in cases {
            assert_eq!(Code::of(source).text(), code, "{source}");
        }
    }

    #[test]
    fn only_whole_words_count() {
        let code = Code::of("use a::Instant;\nstruct InstantMessage;\nlet my_Instant = 1;\nInstant::now()\n");
        assert_eq!(code.lines_with_word("Instant"), [1, 4]);
    }

    #[test]
    fn a_macro_is_no_comparison() {
        let code = Code::of("if dbg != 1 {}\ndbg !(x)\ndbg!(x)\nmydbg!(x)\n");
        assert_eq!(code.lines_with_macro("dbg"), [3]);
    }
}
