//! Reads documents of docs/ for the tests that hold them against the code. Knows Markdown as far as the documents here use it,
//! and nothing of what they say.

use std::collections::BTreeSet;

/// The guide for authors of plugins.
pub(crate) const PLUGINS: &str = include_str!("../../docs/plugins.md");

/// The first five minutes.
pub(crate) const GETTING_STARTED: &str = include_str!("../../docs/getting-started.md");

/// The same for languages without a template.
pub(crate) const LANGUAGES: &str = include_str!("../../docs/plugin-languages.md");

/// What is said of the HTTP API.
pub(crate) const HTTP_API: &str = include_str!("../../docs/http-api.md");

/// The cells of a row of a table, trimmed.
pub(crate) type Row = Vec<String>;

/// The blocks of a kind, which is all that stands behind the three backticks.
pub(crate) fn blocks(document: &str, kind: &str) -> Vec<String> {
    let (mut blocks, mut open): (Vec<String>, Option<(bool, String)>) = (Vec::new(), None);
    for line in document.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(found), None) => open = Some((found == kind, String::new())),
            (Some(_), Some(_)) => {
                blocks.extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, text)| text));
            }
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The tables between a heading and the next one, without their heads.
pub(crate) fn tables(document: &str, heading: &str) -> Vec<Vec<Row>> {
    let from = document.lines().skip_while(|line| *line != heading).skip(1);
    let (mut tables, mut fenced) = (vec![Vec::new()], false);
    for line in from {
        fenced ^= line.starts_with("```");
        match line.strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) {
            _ if fenced => {}
            Some(cells) => {
                let row: Row = cells.split('|').map(|cell| cell.trim().to_owned()).collect();
                tables.last_mut().expect("one is there").push(row);
            }
            None if line.starts_with('#') => break,
            None if tables.last().is_some_and(|table| !table.is_empty()) => tables.push(Vec::new()),
            None => {}
        }
    }
    tables.retain(|table| table.len() > 2);
    tables.iter_mut().for_each(|table| _ = table.drain(..2));
    assert!(!tables.is_empty(), "no table below {heading:?}");
    tables
}

/// The first cells of a table, without backticks.
pub(crate) fn names(table: &[Row]) -> BTreeSet<String> {
    table.iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}

/// The pattern in a cell: what stands between two backticks on either side.
pub(crate) fn pattern(cell: &str) -> &str {
    let inside = cell.strip_prefix("``").and_then(|rest| rest.strip_suffix("``"));
    inside.unwrap_or_else(|| panic!("`` and `` belong around {cell}")).trim()
}

/// Whether a text is what a pattern says, in which `…` stands for anything.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut left) = parts.next().and_then(|head| text.strip_prefix(head)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return left.is_empty();
    };
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

#[test]
fn a_document_is_read() {
    let document = "## A\n\n| x | y |\n|---|---|\n| `one` | 1 |\n| two | |\n\n```toml b\n| no | row |\n```\n\n\
                    | z |\n|---|\n| 3 |\n## B\n| w |\n|---|\n| 4 |\n";
    let tables = tables(document, "## A");
    assert_eq!(tables.len(), 2);
    assert_eq!(names(&tables[0]), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    assert_eq!((tables[0][0][1].as_str(), tables[1][0][0].as_str()), ("1", "3"));
    assert_eq!(blocks(document, "toml b"), ["| no | row |\n"]);
    assert_eq!(blocks(document, "toml"), [] as [&str; 0]);
}

#[test]
fn a_pattern_fits_the_whole_text() {
    assert!(fits("a … b", "a long b") && fits("…b", "b") && fits("a…", "a") && fits("a…c…e", "abcde"));
    assert!(!fits("a", "ab") && !fits("a…c", "abd") && !fits("b…", "ab") && !fits("a…bc…c", "abc"));
    assert_eq!(pattern("`` `a` b``"), "`a` b");
}
