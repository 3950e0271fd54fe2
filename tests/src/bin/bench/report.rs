//! How figures are printed: what, the figure, and the yardstick beside it.

/// One figure.
pub fn line(what: &str, figure: String, yardstick: &str) {
    println!("{what:<58} {figure:>14}   {yardstick}");
}

/// With thousands separators.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in the unit that suits it.
pub fn time(value: std::time::Duration) -> String {
    let nanos = value.as_nanos() as f64;
    match nanos {
        _ if nanos < 1e4 => format!("{nanos:.0} ns"),
        _ if nanos < 1e7 => format!("{:.1} µs", nanos / 1e3),
        _ if nanos < 1e10 => format!("{:.1} ms", nanos / 1e6),
        _ => format!("{:.1} s", nanos / 1e9),
    }
}

/// The value below which the given share of the values lies; sorts them.
pub fn percentile(values: &mut [std::time::Duration], share: f64) -> std::time::Duration {
    values.sort_unstable();
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or_default()
}
