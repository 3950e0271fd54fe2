//! The place of a span in its trace, and the header `traceparent` that tells it to others (W3C Trace Context).

use std::fmt::{Display, Formatter};

/// The bytes of a `traceparent`.
const LENGTH: usize = 55;

/// A sampled span: neither number is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// Of the trace.
    pub trace: u128,
    /// Within the trace.
    pub span: u64,
}

/// As a `traceparent`.
impl Display for SpanContext {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// What a sender says of the trace that he has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// His span.
    pub context: SpanContext,
    /// Whether he records it.
    pub sampled: bool,
}

impl Traceparent {
    /// Reads the header's value; what is none is to be ignored.
    pub fn parse(text: &str) -> Option<Traceparent> {
        let whole = match text.as_bytes().get(LENGTH) {
            // A later version may say more.
            Some(b'-') if !text.starts_with("00") => text.get(..LENGTH)?,
            Some(_) => return None,
            None => text,
        };
        let mut parts = whole.split('-');
        let (version, trace) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
        let (span, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        let valid = parts.next().is_none() && version != 0xff && trace != 0 && span != 0;
        let context = SpanContext { trace, span: u64::try_from(span).ok()? };
        valid.then_some(Traceparent { context, sampled: flags & 1 == 1 })
    }
}

/// So many digits of 0-9 and a-f.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(lower)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = Traceparent::parse(text).unwrap();
        assert!(read.sampled);
        assert_eq!(read.context.to_string(), text);
        let unsampled = text.replace("-01", "-00");
        assert_eq!(Traceparent::parse(&unsampled), Some(Traceparent { sampled: false, ..read }));
        let later = format!("cc{}-what-comes", &text[2..]);
        assert_eq!(Traceparent::parse(&later), Some(read), "of a later version what is known");
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-"),
            &format!("{good}0"),
            &good.to_uppercase(),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-é",
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }
}
