//! From a granted host's name to the addresses its grant allows. All others are dropped before anything connects.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;

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
pub(super) struct GrantedResolver {
    grant: Arc<HttpGrant>,
    /// Places for lookups. One that nobody waits for any more keeps its place until it ends, as it keeps its thread.
    places: Arc<Semaphore>,
}

impl GrantedResolver {
    pub(super) fn new(grant: HttpGrant, places: Arc<Semaphore>) -> GrantedResolver {
        GrantedResolver { grant: Arc::new(grant), places }
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
        let (grant, places) = (self.grant.clone(), self.places.clone());
        Box::pin(async move {
            let found = look_up(places, move || (name.as_str(), 0).to_socket_addrs()).await;
            filter(&grant, found.map_err(ResolveError::Lookup)?).map(Vec::into_iter)
        })
    }
}

async fn look_up<T: Send + 'static>(
    places: Arc<Semaphore>,
    ask: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let place = places.acquire_owned().await.map_err(std::io::Error::other)?;
    let asked = tokio::task::spawn_blocking(move || {
        let _place = place;
        ask()
    });
    asked.await.map_err(std::io::Error::other)?
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
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_lookup_that_hangs_keeps_its_place_when_nobody_waits_for_it() {
        let places = Arc::new(Semaphore::new(1));
        let (answer, hangs) = std::sync::mpsc::channel();
        let hanging = move || hangs.recv().map_err(std::io::Error::other);
        assert!(look_up(places.clone(), hanging).now_or_never().is_none());
        let mut next = Box::pin(look_up(places, || Ok(7)));
        assert!(next.as_mut().now_or_never().is_none(), "it waits for the place, not for a thread");
        answer.send(()).unwrap();
        assert_eq!(next.await.unwrap(), 7);
    }

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
