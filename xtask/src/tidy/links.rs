//! Links between the repository's own documents: what they point at must be there.

use std::path::Path;

use super::Fault;

/// Links to files that don't exist. `file` is relative to `root`.
pub fn faults(root: &Path, file: &Path, text: &str) -> Vec<Fault> {
    let folder = root.join(file.parent().unwrap_or(Path::new("")));
    let mut faults = Vec::new();
    for (line, target) in targets(text) {
        let path = target.split('#').next().unwrap_or_default();
        if path.is_empty() || is_elsewhere(path) {
            continue;
        }
        let there =
            if path.starts_with('/') { root.join(path.trim_start_matches('/')) } else { folder.join(path) };
        if !there.exists() {
            faults.push(Fault::new(file, line, format!("links to `{path}`, which is not there")));
        }
    }
    faults
}

/// `https:`, `mailto:` and so on.
fn is_elsewhere(path: &str) -> bool {
    path.split_once(':').is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Targets of `[text](target)` and of `[label]: target`, with their lines; code is left out.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let prose = without_code(line);
        for (at, mark) in prose.match_indices("](") {
            let rest = &prose[at + mark.len()..];
            let end = rest.find(')').unwrap_or(rest.len());
            let target = rest[..end].split_whitespace().next().unwrap_or_default();
            found.push((index + 1, target.to_owned()));
        }
        if let Some(rest) = prose.strip_prefix('[')
            && let Some((_, target)) = rest.split_once("]: ")
        {
            found.push((index + 1, target.trim().to_owned()));
        }
    }
    found
}

/// The line without what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_must_lead_somewhere() {
        let root = std::env::temp_dir().join(format!("presence-links-{}", std::process::id()));
        std::fs::create_dir_all(root.join("docs")).unwrap();
        std::fs::write(root.join("docs/a.md"), "").unwrap();
        let text = "[a](docs/a.md) [b](docs/a.md#part) [c](#here) [d](https://example.org/x) `[e](code.md)`\n\
                    ```\n[f](fenced.md)\n```\n[g](docs/gone.md) and [h](a.md \"title\")\n[i]: docs/lost.md\n";
        let found = faults(&root, Path::new("README.md"), text);
        let lines: Vec<usize> = found.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [5, 5, 6]);
        assert!(found[0].to_string().contains("`docs/gone.md`"), "{}", found[0]);
        assert_eq!(faults(&root, Path::new("docs/b.md"), "[a](a.md) [top](/docs/a.md)"), []);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
