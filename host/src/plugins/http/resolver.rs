//! From a granted host's name to the addresses its grant allows. All others are dropped before anything connects.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;

use super::Boxed;
use crate::plugins::grants::allow_address;
use crate::settings::HttpGrant;

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// Only to addresses that the grant does not allow.
    #[error("the name leads only to private addresses, which its grant does not allow")]
    Prohibited(Vec<IpAddr>),
    /// The system's resolver knows nothing, or did not answer.
    #[error("the name can't be resolved")]
    Lookup(#[source] std::io::Error),
}

/// Resolves names for one grant.
#[derive(Clone)]
pub(super) struct GrantedResolver(Arc<HttpGrant>);

impl GrantedResolver {
    pub(super) fn new(grant: HttpGrant) -> GrantedResolver {
        GrantedResolver(Arc::new(grant))
    }
}

impl tower_service::Service<Name> for GrantedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Boxed<Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let grant = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(ResolveError::Lookup)?;
            filter(&grant, found).map(Vec::into_iter)
        })
    }
}

fn filter(
    grant: &HttpGrant,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let (allowed, dropped): (Vec<_>, Vec<_>) = found.partition(|found| allow_address(grant, found.ip()));
    if allowed.is_empty() {
        Err(ResolveError::Prohibited(dropped.iter().map(SocketAddr::ip).collect()))
    } else {
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_dropped_and_public_ones_stay() {
        let grant = HttpGrant {
            scheme: "http".to_owned(),
            host: "profiles".to_owned(),
            port: 80,
            addresses: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let filtered = |addresses: &[&str]| {
            let found = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0));
            filter(&grant, found)
                .map(|kept| kept.iter().map(|kept| kept.ip().to_string()).collect::<Vec<_>>())
        };
        let kept = filtered(&["127.0.0.1", "8.8.8.8", "10.1.1.1", "::ffff:169.254.169.254"]).unwrap();
        assert_eq!(kept, ["8.8.8.8", "10.1.1.1"]);
        assert!(matches!(filtered(&["::1", "192.168.1.1"]), Err(ResolveError::Prohibited(_))));
    }
}
