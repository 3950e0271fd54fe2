//! Whose address a request comes from, where proxies stand before the host. Believes those that presence.toml names and
//! nobody else; knows no socket.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use http::header::FORWARDED;
use http::request::Parts;
use ipnet::IpNet;

use crate::settings::ProxyHeader;

/// Where many proxies write whom they speak for.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Their addresses.
    pub networks: Vec<IpNet>,
    /// The one header that they write. The other is whatever a client says.
    pub header: ProxyHeader,
}

impl Proxies {
    /// The address of the client of a request that came from `peer`: the last one in the header that is no trusted proxy,
    /// since each proxy adds whom it was asked by at the end. What stands before that may be invented. Where a
    /// trusted proxy names none, it is that proxy's.
    pub fn client(&self, peer: IpAddr, request: &Parts) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trust(client) {
            return client;
        }
        for hop in self.hops(request).iter().rev() {
            let Some(address) = address_of(hop) else { break };
            client = address;
            if !self.trust(client) {
                break;
            }
        }
        client
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whom the proxies say they were asked by, as it is written; several headers are one list.
    fn hops<'r>(&self, request: &'r Parts) -> Vec<&'r str> {
        let name = match self.header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR,
            ProxyHeader::Forwarded => FORWARDED,
        };
        let values = request.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default());
        match self.header {
            ProxyHeader::XForwardedFor => values.flat_map(|value| value.split(',')).collect(),
            // An element without `for` names nobody.
            ProxyHeader::Forwarded => values
                .flat_map(|value| split(value, ','))
                .map(|element| for_of(element).unwrap_or_default())
                .collect(),
        }
    }
}

/// The value of `for` in one element of `Forwarded` (RFC 7239), without quotes.
fn for_of(element: &str) -> Option<&str> {
    let mut found = split(element, ';').into_iter().filter_map(|pair| pair.split_once('='));
    let (_, value) = found.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    Some(value.trim().trim_matches('"'))
}

/// The parts between separators outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == '"' {
            quoted = !quoted;
        } else if c == separator && !quoted {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

/// An address with or without a port, of IPv6 also in brackets; none for `unknown`, a made-up name, nonsense.
fn address_of(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse::<IpAddr>().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ProxyHeader) -> Proxies {
        let networks =
            ["10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1/32"].map(|network| network.parse().unwrap());
        Proxies { networks: networks.to_vec(), header }
    }

    fn client(proxies: &Proxies, peer: &str, headers: &[(&str, &str)]) -> String {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap().into_parts().0;
        proxies.client(peer.parse().unwrap(), &request).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let xff = [("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "198.51.100.1", &xff), "198.51.100.1");
        assert_eq!(client(&Proxies::default(), "10.0.0.1", &xff), "10.0.0.1");
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "10.0.0.1", &xff), "203.0.113.9");
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "::ffff:10.0.0.1", &xff), "203.0.113.9");
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_counts_whatever_a_client_wrote_before_it() {
        let from = |value: &str| {
            client(&proxies(ProxyHeader::XForwardedFor), "127.0.0.1", &[("x-forwarded-for", value)])
        };
        for (value, found) in [
            ("1.2.3.4, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
            ("10.9.9.9, 203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:51000", "203.0.113.9"),
            ("[2001:db8:2::7]:443, 2001:db8:1::5", "2001:db8:2::7"),
            ("2001:db8:2::7", "2001:db8:2::7"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
            // Nobody is named: it is the one who should have named somebody.
            ("1.2.3.4, unknown", "127.0.0.1"),
            ("1.2.3.4, unknown, 10.2.2.2", "10.2.2.2"),
            ("", "127.0.0.1"),
            ("203.0.113.9,", "127.0.0.1"),
            ("203.0.113.999", "127.0.0.1"),
        ] {
            assert_eq!(from(value), found, "{value}");
        }
        let twice = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "127.0.0.1", &twice), "203.0.113.9");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_says() {
        let from =
            |value: &str| client(&proxies(ProxyHeader::Forwarded), "127.0.0.1", &[("forwarded", value)]);
        for (value, found) in [
            ("for=203.0.113.9;proto=https;by=10.0.0.1", "203.0.113.9"),
            ("proto=https; For = \"203.0.113.9:4711\"", "203.0.113.9"),
            ("for=1.2.3.4, for=\"[2001:db8:2::7]:4711\", for=10.3.3.3", "2001:db8:2::7"),
            ("for=1.2.3.4;host=\"a,for=5.6.7.8\"", "1.2.3.4"),
            ("for=1.2.3.4, proto=https", "127.0.0.1"),
            ("for=1.2.3.4, for=_hidden", "127.0.0.1"),
            ("for=1.2.3.4, for=unknown, for=10.3.3.3", "10.3.3.3"),
        ] {
            assert_eq!(from(value), found, "{value}");
        }
    }

    #[test]
    fn the_header_that_the_proxies_do_not_write_is_not_looked_at() {
        let both =
            [("forwarded", "for=1.2.3.4"), ("x-forwarded-for", "203.0.113.9"), ("x-real-ip", "5.6.7.8")];
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "10.0.0.1", &both), "203.0.113.9");
        assert_eq!(client(&proxies(ProxyHeader::Forwarded), "10.0.0.1", &both), "1.2.3.4");
        assert_eq!(client(&proxies(ProxyHeader::XForwardedFor), "10.0.0.1", &both[..1]), "10.0.0.1");
    }
}
