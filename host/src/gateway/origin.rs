//! Who may reach an address of this machine: rules on `Host` and `Origin` that keep web pages from elsewhere out,
//! also those that point a name of their own at 127.0.0.1.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{HOST, HeaderName, ORIGIN};
use http::request::Parts;

/// Why a request is not let in (403).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// No `Host`, several, or one that is not this machine.
    #[error(
        "the Host header must be localhost, 127.x.y.z or [::1]: this address is for programs on this machine"
    )]
    Host,
    /// A web page that does not come from this machine.
    #[error(
        "requests by web pages of another origin are refused: serve the page from localhost, or use auth.mode \"jwt\""
    )]
    PageElsewhere,
    /// A web page that `auth.origins` does not list.
    #[error("web pages of this origin may not connect: auth.origins does not list it")]
    NotListed,
    /// A web page of another origin, where only the own is allowed.
    #[error("requests by web pages of another origin are refused")]
    CrossOrigin,
}

/// The rule of `auth.mode = "none"`: a loopback Host, and a loopback Origin if there is one.
pub fn loopback_only(request: &Parts) -> Result<(), Foreign> {
    loopback_host(request)?;
    match only_value(request, ORIGIN) {
        Value::Absent => Ok(()),
        Value::One(origin) if origin_authority(origin).is_some_and(is_loopback_authority) => Ok(()),
        Value::One(_) | Value::Unusable => Err(Foreign::PageElsewhere),
    }
}

/// The `Host` must name this machine, also where the request line holds a whole address.
pub fn loopback_host(request: &Parts) -> Result<(), Foreign> {
    let line_is_fine =
        request.uri.authority().is_none_or(|authority| is_loopback_authority(authority.as_str()));
    match only_value(request, HOST) {
        Value::One(host) if line_is_fine && is_loopback_authority(host) => Ok(()),
        _ => Err(Foreign::Host),
    }
}

/// If a browser names an origin, it must be one of these.
pub fn listed(request: &Parts, origins: &[String]) -> Result<(), Foreign> {
    match only_value(request, ORIGIN) {
        Value::Absent => Ok(()),
        Value::One(origin) if origins.iter().any(|listed| listed == origin) => Ok(()),
        Value::One(_) | Value::Unusable => Err(Foreign::NotListed),
    }
}

/// If a browser names an origin, it must be the one that is asked.
pub fn same_origin(request: &Parts) -> Result<(), Foreign> {
    match (only_value(request, ORIGIN), only_value(request, HOST)) {
        (Value::Absent, _) => Ok(()),
        (Value::One(origin), Value::One(host))
            if origin_authority(origin).is_some_and(|authority| authority.eq_ignore_ascii_case(host)) =>
        {
            Ok(())
        }
        _ => Err(Foreign::CrossOrigin),
    }
}

enum Value<'a> {
    Absent,
    One(&'a str),
    Unusable,
}

fn only_value(request: &Parts, name: HeaderName) -> Value<'_> {
    let mut values = request.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Value::Absent,
        (Some(value), None) => value.to_str().map_or(Value::Unusable, Value::One),
        (Some(_), Some(_)) => Value::Unusable,
    }
}

/// The `host:port` of an origin of a web page; none for `null`, other schemes and nonsense.
fn origin_authority(origin: &str) -> Option<&str> {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?;
    (!authority.is_empty() && !authority.contains(['/', '@', '?', '#'])).then_some(authority)
}

/// `localhost`, 127.0.0.0/8 or `[::1]`, with any port. Other spellings of loopback addresses are not accepted: no
/// program needs them, and browsers turn them into these.
fn is_loopback_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => {
                return host.parse::<Ipv6Addr>().is_ok_and(|address| address == Ipv6Addr::LOCALHOST)
                    && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    port.is_none_or(is_port)
        && (host.eq_ignore_ascii_case("localhost")
            || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(HeaderName, &str)]) -> Parts {
        let mut request = http::Request::builder().uri("/v1/connect?user=a");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn loopback_hosts_pass_and_others_do_not() {
        for host in
            ["localhost", "LocalHost:7070", "127.0.0.1", "127.0.0.1:0", "127.9.8.7:80", "[::1]", "[::1]:7070"]
        {
            assert_eq!(loopback_only(&request(&[(HOST, host)])), Ok(()), "{host}");
        }
        let foreign = [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.nip.io",
            "10.0.0.1",
            "0.0.0.0",
            "2130706433",
            "0177.0.0.1",
            "127.1",
            "[::ffff:127.0.0.1]",
            "[::]",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "::1",
            "localhost:",
            "localhost:70000",
            "localhost:+1",
            "user@localhost",
        ];
        for host in foreign {
            assert_eq!(loopback_only(&request(&[(HOST, host)])), Err(Foreign::Host), "{host}");
        }
        assert_eq!(loopback_only(&request(&[])), Err(Foreign::Host));
        assert_eq!(loopback_only(&request(&[(HOST, "localhost"), (HOST, "localhost")])), Err(Foreign::Host));
    }

    #[test]
    fn a_whole_address_in_the_request_line_is_held_to_the_same_rule() {
        let request = http::Request::builder()
            .uri("http://example.org/v1/connect")
            .header(HOST, "localhost")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        assert_eq!(loopback_only(&request), Err(Foreign::Host));
    }

    #[test]
    fn pages_of_this_machine_pass_and_others_do_not() {
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080"] {
            assert_eq!(loopback_only(&request(&[(HOST, "localhost"), (ORIGIN, origin)])), Ok(()), "{origin}");
        }
        let foreign = [
            "null",
            "",
            "http://",
            "https://example.org",
            "http://localhost.example.org",
            "http://localhost@example.org",
            "http://example.org/localhost",
            "file://localhost",
            "localhost",
        ];
        for origin in foreign {
            let request = request(&[(HOST, "localhost"), (ORIGIN, origin)]);
            assert_eq!(loopback_only(&request), Err(Foreign::PageElsewhere), "{origin}");
        }
    }

    #[test]
    fn listed_pages_pass_and_so_does_who_is_no_page() {
        let origins = ["https://app.example".to_owned(), "capacitor://localhost".to_owned()];
        let told = |headers: &[(HeaderName, &str)]| listed(&request(headers), &origins);
        assert_eq!(told(&[]), Ok(()));
        assert_eq!(told(&[(ORIGIN, "https://app.example")]), Ok(()));
        assert_eq!(told(&[(ORIGIN, "capacitor://localhost")]), Ok(()));
        for origin in [
            "null",
            "",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "https://evil.example/https://app.example",
            "https://app.example https://evil.example",
        ] {
            assert_eq!(told(&[(ORIGIN, origin)]), Err(Foreign::NotListed), "{origin}");
        }
        let twice = [(ORIGIN, "https://app.example"), (ORIGIN, "https://app.example")];
        assert_eq!(told(&twice), Err(Foreign::NotListed));
        assert_eq!(listed(&request(&[(ORIGIN, "https://app.example")]), &[]), Err(Foreign::NotListed));
    }

    #[test]
    fn the_admin_listener_answers_its_own_pages_only() {
        let own = [(HOST, "admin.internal:7071"), (ORIGIN, "http://Admin.internal:7071")];
        assert_eq!(same_origin(&request(&own)), Ok(()));
        assert_eq!(same_origin(&request(&[(HOST, "localhost:7071")])), Ok(()));
        for origin in ["null", "http://localhost:3000", "https://example.org"] {
            let request = request(&[(HOST, "localhost:7071"), (ORIGIN, origin)]);
            assert_eq!(same_origin(&request), Err(Foreign::CrossOrigin), "{origin}");
        }
    }
}
