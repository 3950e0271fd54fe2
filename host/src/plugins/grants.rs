//! What a plugin may reach: origins and addresses. Decides, and does nothing else.
//!
//! A request must pass twice: its origin must be granted, and every address its name leads to must be public or
//! granted with that origin. A name that leads to a private address is how a harmless origin becomes a way inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::settings::HttpGrant;

/// The longest name of a host.
const MAX_HOST_BYTES: usize = 253;

/// Why a request is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No such grant.
    Origin(Origin),
    /// `user:password@` in the URL, no host, or no http.
    Malformed,
}

/// Scheme, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: String,
    /// Lower case, without a dot at the end, IPv6 without brackets.
    pub host: String,
    /// Always given.
    pub port: u16,
}

impl Origin {
    /// The origin of an absolute URL.
    pub fn of(uri: &Uri) -> Option<Origin> {
        let authority = uri.authority()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host();
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // `authority.port_u16` is none for "no port" and for "no number": a strange port must not become 80.
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().len() == authority.host().len() => default_port,
            None => return None,
        };
        // Longer ones are no names of DNS, and would fill the log.
        (1..=MAX_HOST_BYTES).contains(&host.len()).then(|| Origin {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    fn is(&self, grant: &HttpGrant) -> bool {
        self.scheme == grant.scheme && self.port == grant.port && same_host(&self.host, &grant.host)
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_origin(f, &self.scheme, &self.host, self.port)
    }
}

/// As it is written in presence.toml: default ports left out, IPv6 in brackets.
fn write_origin(f: &mut impl std::fmt::Write, scheme: &str, host: &str, port: u16) -> std::fmt::Result {
    let brackets = if host.contains(':') { ("[", "]") } else { ("", "") };
    write!(f, "{scheme}://{}{host}{}", brackets.0, brackets.1)?;
    match (scheme, port) {
        ("http", 80) | ("https", 443) => Ok(()),
        _ => write!(f, ":{port}"),
    }
}

/// Literal addresses are compared as addresses: `::1` is `0:0:0:0:0:0:0:1`. `::ffff:127.0.0.1` is not `127.0.0.1`,
/// and no odd spelling (`2130706433`, `0x7f.1`) is an address at all.
fn same_host(asked: &str, granted: &str) -> bool {
    match (asked.parse::<IpAddr>(), granted.parse::<IpAddr>()) {
        (Ok(asked), Ok(granted)) => asked == granted,
        (Err(_), Err(_)) => asked == granted,
        _ => false,
    }
}

/// The position of the grant that allows a URL.
pub fn allow(grants: &[HttpGrant], uri: &Uri) -> Result<usize, Denied> {
    let origin = Origin::of(uri).ok_or(Denied::Malformed)?;
    grants.iter().position(|grant| origin.is(grant)).ok_or(Denied::Origin(origin))
}

/// The URL with the grant's own spelling of its host: what was checked is what is resolved and connected to.
pub fn normalise(grant: &HttpGrant, uri: Uri) -> Result<Uri, http::Error> {
    let brackets = if grant.host.contains(':') { ("[", "]") } else { ("", "") };
    Uri::builder()
        .scheme(grant.scheme.as_str())
        .authority(format!("{}{}{}:{}", brackets.0, grant.host, brackets.1, grant.port))
        .path_and_query(uri.path_and_query().map_or("/", |path| path.as_str()))
        .build()
}

/// Whether a grant may lead to an address: public ones always, others when the grant names them.
pub fn allow_address(grant: &HttpGrant, address: IpAddr) -> bool {
    let plain = address.to_canonical();
    !is_special(address)
        || grant.addresses.iter().any(|range| range.contains(&address) || range.contains(&plain))
        || grant.host.parse::<IpAddr>().is_ok_and(|literal| literal == address)
}

/// Addresses that are not the public internet: this machine, its networks, and ranges with a purpose of their own.
pub fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_special_v4(address),
        IpAddr::V6(address) => is_special_v6(address),
    }
}

fn is_special_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        // Shared address space of providers, benchmarks, protocol assignments, the old 6to4 relays.
        || (a == 100 && b & 0xc0 == 64)
        || (a == 198 && b & 0xfe == 18)
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
}

fn is_special_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_special_v4(inner);
    }
    // NAT64 leads to the IPv4 address inside.
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_special_v4(Ipv4Addr::from_bits((u32::from(s[6]) << 16) | u32::from(s[7])));
    }
    // Only 2000::/3 is the public internet, and not all of it.
    (s[0] & 0xe000) != 0x2000
        // Protocol assignments (Teredo among them), documentation, 6to4, more documentation.
        || (s[0] == 0x2001 && s[1] < 0x200)
        || (s[0] == 0x2001 && s[1] == 0xdb8)
        || s[0] == 0x2002
        || (s[0] & 0xfff0) == 0x3ff0
}

/// The line of `[plugin.grants]` with one more origin.
pub fn line_with_origin(grants: &[HttpGrant], wanted: &Origin) -> String {
    let mut entries: Vec<String> = grants.iter().map(|grant| entry(grant, &[])).collect();
    entries.push(format!("\"{wanted}\""));
    format!("http = [{}]", entries.join(", "))
}

/// The line of `[plugin.grants]` in which one origin may lead to more addresses.
pub fn line_with_addresses(grants: &[HttpGrant], origin: usize, wanted: &[IpAddr]) -> String {
    let more = |at| if at == origin { wanted } else { &[] };
    let entries: Vec<String> = grants.iter().enumerate().map(|(at, grant)| entry(grant, more(at))).collect();
    format!("http = [{}]", entries.join(", "))
}

/// The line of `[plugin.grants]` with one more bucket.
pub fn line_with_bucket(buckets: &[String], wanted: &str) -> String {
    let wanted = wanted.to_owned();
    let entries: Vec<String> = buckets.iter().chain([&wanted]).map(|bucket| format!("{bucket:?}")).collect();
    format!("keyvalue = [{}]", entries.join(", "))
}

/// Addresses for a message, comma between them.
pub fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn entry(grant: &HttpGrant, more: &[IpAddr]) -> String {
    let mut origin = String::new();
    _ = write_origin(&mut origin, &grant.scheme, &grant.host, grant.port);
    let literal = |range: &&ipnet::IpNet| {
        // A literal address grants itself: the settings list it, the file does not.
        !(range.prefix_len() == range.max_prefix_len()
            && grant.host.parse::<IpAddr>().is_ok_and(|address| address == range.addr()))
    };
    let mut addresses: Vec<String> =
        grant.addresses.iter().filter(literal).map(|range| format!("\"{range}\"")).collect();
    addresses.extend(more.iter().map(|address| format!("\"{}\"", ipnet::IpNet::from(*address))));
    if addresses.is_empty() {
        format!("\"{origin}\"")
    } else {
        format!("{{ origin = \"{origin}\", addresses = [{}] }}", addresses.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(scheme: &str, host: &str, port: u16, addresses: &[&str]) -> HttpGrant {
        HttpGrant {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            addresses: addresses.iter().map(|range| range.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn only_granted_origins_pass() {
        let grants = [
            grant("http", "profiles", 8080, &[]),
            grant("https", "api.example.com", 443, &[]),
            grant("http", "127.0.0.1", 8090, &[]),
            grant("http", "::1", 80, &[]),
        ];
        let allowed = |url: &str| allow(&grants, &url.parse().unwrap()).ok();
        let cases = [
            ("http://profiles:8080/a?b", Some(0)),
            ("http://PROFILES.:8080/", Some(0)),
            ("http://profiles/", None),
            ("https://profiles:8080/", None),
            ("http://profiles:8081/", None),
            ("https://api.example.com/", Some(1)),
            ("https://api.example.com:443/", Some(1)),
            ("http://api.example.com/", None),
            ("http://api.example.com:443/", None),
            ("https://api.example.com.evil.org/", None),
            ("https://xapi.example.com/", None),
            ("http://127.0.0.1:8090/", Some(2)),
            ("http://2130706433:8090/", None),
            ("http://0x7f.1:8090/", None),
            ("http://127.1:8090/", None),
            ("http://0.0.0.0:8090/", None),
            ("http://[::ffff:127.0.0.1]:8090/", None),
            ("http://localhost:8090/", None),
            ("http://169.254.169.254/latest", None),
            ("http://[::1]/", Some(3)),
            ("http://[0:0:0:0:0:0:0:1]:80/", Some(3)),
        ];
        for (url, expected) in cases {
            assert_eq!(allowed(url), expected, "{url}");
        }
    }

    #[test]
    fn what_was_checked_is_what_is_connected_to() {
        let normalised =
            |grant: HttpGrant, url: &str| normalise(&grant, url.parse().unwrap()).unwrap().to_string();
        assert_eq!(
            normalised(grant("http", "profiles", 80, &[]), "http://PROFILES./a?b"),
            "http://profiles:80/a?b"
        );
        assert_eq!(normalised(grant("https", "::1", 444, &[]), "https://[0:0::1]:444"), "https://[::1]:444/");
    }

    #[test]
    fn user_info_and_other_schemes_are_malformed() {
        let grants = [grant("http", "profiles", 80, &[])];
        for url in [
            "http://u@profiles/",
            "http://u:p@profiles/",
            "ftp://profiles/",
            "/relative",
            "http://profiles:/",
        ] {
            let verdict = url.parse().map(|uri| allow(&grants, &uri));
            assert!(matches!(verdict, Ok(Err(Denied::Malformed)) | Err(_)), "{url}: {verdict:?}");
        }
    }

    #[test]
    fn special_addresses_are_known_in_every_spelling() {
        let special = [
            "127.0.0.1",
            "127.255.1.2",
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
        ];
        for address in special {
            assert!(is_special(address.parse().unwrap()), "{address} is special");
        }
        let public = [
            "8.8.8.8",
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2606:4700::1",
            "2001:4860:4860::8888",
            "2a00:1450::1",
        ];
        for address in public {
            assert!(!is_special(address.parse().unwrap()), "{address} is public");
        }
    }

    #[test]
    fn special_addresses_need_a_grant_of_their_own() {
        let open = grant("http", "profiles", 80, &["10.0.0.0/8"]);
        assert!(allow_address(&open, "10.1.1.1".parse().unwrap()));
        assert!(allow_address(&open, "::ffff:10.1.1.1".parse().unwrap()));
        assert!(allow_address(&open, "8.8.8.8".parse().unwrap()));
        assert!(!allow_address(&open, "192.168.1.1".parse().unwrap()));
        assert!(!allow_address(&grant("http", "profiles", 80, &[]), "10.1.1.1".parse().unwrap()));
        let literal = grant("http", "127.0.0.1", 80, &[]);
        assert!(allow_address(&literal, "127.0.0.1".parse().unwrap()));
        assert!(!allow_address(&literal, "127.0.0.2".parse().unwrap()));
    }

    #[test]
    fn the_line_to_add_is_ready_to_paste() {
        let origin = Origin::of(&"http://127.0.0.1:8090/x".parse().unwrap()).unwrap();
        assert_eq!(line_with_origin(&[], &origin), r#"http = ["http://127.0.0.1:8090"]"#);
        let grants = [grant("http", "::1", 81, &["::1/128"]), grant("https", "a.b", 443, &["10.0.0.0/8"])];
        assert_eq!(
            line_with_origin(&grants, &origin),
            r#"http = ["http://[::1]:81", { origin = "https://a.b", addresses = ["10.0.0.0/8"] }, "http://127.0.0.1:8090"]"#
        );
        assert_eq!(
            line_with_addresses(&grants, 1, &["192.168.0.4".parse().unwrap()]),
            r#"http = ["http://[::1]:81", { origin = "https://a.b", addresses = ["10.0.0.0/8", "192.168.0.4/32"] }]"#
        );
        assert_eq!(line_with_bucket(&["a".to_owned()], "b"), r#"keyvalue = ["a", "b"]"#);
    }
}
