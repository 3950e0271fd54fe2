//! Texts that stand for values: durations, sizes, variables.

use std::time::Duration;

/// `5s`, `1m30s`, `250ms`, `0s`, `90d`; at most ten years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let parsed = if text == "0" { Duration::ZERO } else { humantime::parse_duration(text).ok()? };
    (parsed <= Duration::from_secs(10 * 366 * 86_400)).then_some(parsed)
}

/// `32MiB`, `64KiB`, `1GiB`, `512` (bytes).
pub(super) fn size(text: &str) -> Option<u64> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1), ("", 1)];
    let (unit, factor) = units.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    let digits = text.strip_suffix(unit)?.trim_end();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Replaces `${VAR}` and `${VAR:-default}`; `$$` is a dollar. The error says what is wrong; it never holds a
/// variable's value. `brought` is told the name and the value of each variable that was put in.
pub(super) fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    brought: &mut Vec<(String, String)>,
) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let end = inside.find('}').ok_or("has a `${` without a `}`; write `$$` for a dollar")?;
            let (name, default) = match inside[..end].split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (&inside[..end], None),
            };
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(valid) {
                return Err(format!("has `${{{}}}`, which names no variable", &inside[..end]));
            }
            match env(name).filter(|value| !value.is_empty() || default.is_none()) {
                Some(value) => {
                    expanded.push_str(&value);
                    brought.push((name.to_owned(), value));
                }
                None => expanded.push_str(default.ok_or_else(|| {
                    format!("needs the environment variable {name}, which is not set; or write ${{{name}:-default}}")
                })?),
            }
            rest = &inside[end + 1..];
        } else {
            return Err("has a lone `$`: write `${VAR}` for a variable, `$$` for a dollar".into());
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        assert_eq!(duration("90d"), Some(Duration::from_secs(90 * 86_400)));
        for bad in ["", "5", "5 sec ago", "-1s", "1000000y", "s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(size("32MiB"), Some(32 << 20));
        assert_eq!(size("64 KiB"), Some(64 << 10));
        assert_eq!(size("512"), Some(512));
        for bad in ["", "MiB", "1.5MiB", "32MB", "-1", "99999999999999999999", "20000000000GiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn variables() {
        let env = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let mut brought = Vec::new();
        assert_eq!(expand("x${A}y$$z${B:-two}${EMPTY:-3}", &env, &mut brought).unwrap(), "xoney$ztwo3");
        assert_eq!(brought, [("A".to_owned(), "one".to_owned())]);
        assert_eq!(expand("${EMPTY}", &env, &mut brought).unwrap(), "");
        for bad in ["${B}", "$A", "${A", "${}", "${a b}"] {
            assert!(expand(bad, &env, &mut Vec::new()).is_err(), "{bad}");
        }
    }
}
