//! Text for people in terminals: columns, and nothing that could steer the terminal.

/// Rows under headings, in columns as wide as their widest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([heading.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in [&headings].into_iter().chain(rows) {
        let line: String = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}  ", " ".repeat(width - cell.chars().count())))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Control characters, also those that change the direction of writing, become a dot.
pub fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["zoë".into(), "online".into()], vec!["bob-the-builder".into(), "idle".into()]];
        let expected = "USER             STATUS\nzoë              online\nbob-the-builder  idle\n";
        assert_eq!(table(&["USER", "STATUS"], &rows), expected);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}d 🦀"), "a·[2Jb·c·d 🦀");
    }
}
