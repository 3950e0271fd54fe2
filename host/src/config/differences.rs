//! What else than plugins differs between two texts of presence.toml. Knows no key but `plugin`.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// The keys outside of `[[plugin]]` whose values differ, such as `host.listen`, sorted; nothing of a text that is no
/// TOML.
pub fn differences(one: &str, other: &str) -> Vec<String> {
    let (Ok(one), Ok(other)) = (one.parse::<Table>(), other.parse::<Table>()) else {
        return Vec::new();
    };
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &one, &mut before);
    flatten("", &other, &mut after);
    let mut keys: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| before.get(key) != after.get(key));
    keys
}

fn flatten<'t>(prefix: &str, table: &'t Table, found: &mut BTreeMap<String, &'t Value>) {
    for (key, value) in table {
        match value {
            _ if prefix.is_empty() && key == "plugin" => {}
            Value::Table(inner) => flatten(&format!("{prefix}{key}."), inner, found),
            _ => _ = found.insert(format!("{prefix}{key}"), value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_are_named_and_plugins_are_not() {
        let one = "[host]\nlisten = \"a\"\nadmin = \"b\"\n[auth]\nmode = \"none\"\n[telemetry]\n[[plugin]]\nname = \"p\"";
        let other = "[host]\nlisten = \"c\"\nadmin = \"b\" # the same\n[[auth.key]]\nid = \"k\"\n[presence]\n\
             [telemetry]\notlp = \"http://c:4318\"\n";
        assert_eq!(differences(one, other), ["auth.key", "auth.mode", "host.listen", "telemetry.otlp"]);
        assert_eq!(differences(one, one), Vec::<String>::new());
        assert_eq!(differences(one, "no toml ["), Vec::<String>::new());
    }
}
