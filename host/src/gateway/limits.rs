//! How much of a host clients may take: connections a second, sessions of one user, sessions from one address. Counts
//! for this host alone; knows no socket and no driver.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use presence_core::ids::UserId;

use crate::settings::ClientLimits;

/// As many as are allowed in so long may come at once.
const BURST: Duration = Duration::from_secs(1);

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// `limits.connects_per_second`
    #[error("more clients connect to this host than it takes a second: try again")]
    Rate,
    /// `limits.sessions_per_user`
    #[error("this user has as many sessions on this host as a user may have: close one")]
    User,
    /// `limits.sessions_per_address`
    #[error("there are as many sessions from this address as there may be: close one")]
    Address,
}

/// The limits and what is taken of them.
#[derive(Debug)]
pub struct Limits {
    settings: ClientLimits,
    rate: Mutex<Rate>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    users: HashMap<UserId, u32>,
    addresses: HashMap<IpAddr, u32>,
}

/// A session's place within the limits; free again with this value.
#[derive(Debug)]
pub struct Seat {
    limits: Arc<Limits>,
    user: Option<UserId>,
    address: Option<IpAddr>,
}

impl Limits {
    /// Nothing is taken yet.
    pub fn new(settings: ClientLimits) -> Arc<Limits> {
        Arc::new(Limits { settings, rate: Mutex::default(), taken: Mutex::default() })
    }

    /// The most users that one session may watch.
    pub fn watched_users(&self) -> usize {
        self.settings.watched_users as usize
    }

    /// Whether one more frame may come from a session that has sent at this rate.
    pub fn message(&self, rate: &mut Rate, now: Instant) -> bool {
        self.settings.messages_per_second.is_none_or(|most| rate.admits(most, now))
    }

    /// Somebody connects.
    pub fn connect(&self, now: Instant) -> Result<(), Limit> {
        let Some(most) = self.settings.connects_per_second else { return Ok(()) };
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.admits(most, now) { Ok(()) } else { Err(Limit::Rate) }
    }

    /// A session of this user from this address: both or none is counted.
    pub fn seat(self: &Arc<Limits>, user: &UserId, address: IpAddr) -> Result<Seat, Limit> {
        let user = self.settings.sessions_per_user.map(|most| (user.clone(), most));
        let address = self.settings.sessions_per_address.map(|most| (network(address), most));
        let mut taken = self.taken();
        let is_free = |count: Option<&u32>, most: u32| count.is_none_or(|count| *count < most);
        if user.as_ref().is_some_and(|(user, most)| !is_free(taken.users.get(user), *most)) {
            return Err(Limit::User);
        }
        if address.as_ref().is_some_and(|(address, most)| !is_free(taken.addresses.get(address), *most)) {
            return Err(Limit::Address);
        }
        let (user, address) = (user.map(|(user, _)| user), address.map(|(address, _)| address));
        if let Some(user) = &user {
            *taken.users.entry(user.clone()).or_default() += 1;
        }
        if let Some(address) = address {
            *taken.addresses.entry(address).or_default() += 1;
        }
        Ok(Seat { limits: self.clone(), user, address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.limits.taken();
        if let Some(user) = &self.user {
            release(&mut taken.users, user);
        }
        if let Some(address) = &self.address {
            release(&mut taken.addresses, address);
        }
    }
}

/// Nothing is kept of who has left.
fn release<K: Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => _ = counts.remove(key),
    }
}

/// What belongs to one client: an IPv4 address, or the half of an IPv6 address that names a network, since whoever has
/// one has all of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// What came in the last second, as the time until which they would have taken at an even pace.
#[derive(Debug, Default)]
pub struct Rate {
    until: Option<Instant>,
}

impl Rate {
    fn admits(&mut self, most: u32, now: Instant) -> bool {
        let until = self.until.map_or(now, |until| until.max(now)) + BURST / most;
        if until.duration_since(now) > BURST {
            return false;
        }
        self.until = Some(until);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(user: Option<u32>, address: Option<u32>) -> Arc<Limits> {
        Limits::new(ClientLimits {
            connects_per_second: Some(4),
            sessions_per_user: user,
            sessions_per_address: address,
            ..crate::gateway::tests::limits::NONE
        })
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_connect_at_once_and_then_at_an_even_pace() {
        let (limits, start) = (limits(None, None), Instant::now());
        let admitted = |at: u64| limits.connect(start + Duration::from_millis(at)).is_ok();
        let at_once = (0..10).filter(|_| admitted(0)).count();
        assert_eq!(at_once, 4);
        assert!(!admitted(249));
        assert!(admitted(250));
        assert!(!admitted(499));
        let after_a_pause = (0..10).filter(|_| admitted(60_000)).count();
        assert_eq!(after_a_pause, 4, "a quiet minute saves nothing up");
        let unlimited = Limits::new(ClientLimits { connects_per_second: None, ..limits.settings });
        assert!((0..1000).all(|_| unlimited.connect(start).is_ok()));
    }

    #[test]
    fn a_seat_is_free_again_when_its_session_ends_i8() {
        let limits = limits(Some(2), Some(3));
        let seat = |name, address| limits.seat(&user(name), ip(address));
        let first = seat("alice", "10.0.0.1").unwrap();
        let second = seat("alice", "10.0.0.2").unwrap();
        assert_eq!(seat("alice", "10.0.0.3").unwrap_err(), Limit::User);
        drop(first);
        let third = seat("alice", "10.0.0.2").unwrap();
        let fourth = seat("bob", "10.0.0.2").unwrap();
        assert_eq!(seat("carol", "10.0.0.2").unwrap_err(), Limit::Address);
        assert!(seat("carol", "10.0.0.3").is_ok());
        drop((second, third, fourth));
        let taken = limits.taken();
        assert!(taken.users.is_empty() && taken.addresses.is_empty(), "{taken:?}");
    }

    #[test]
    fn what_is_not_limited_is_not_counted() {
        let limits = limits(None, None);
        let seats: Vec<Seat> = (0..100).map(|_| limits.seat(&user("alice"), ip("::1")).unwrap()).collect();
        assert!(limits.taken().users.is_empty() && limits.taken().addresses.is_empty());
        drop(seats);
    }

    #[test]
    fn a_client_does_not_grow_by_addresses_of_its_own_network() {
        let limits = limits(None, Some(1));
        let _seat = limits.seat(&user("a"), ip("2001:db8:0:1::1")).unwrap();
        assert!(limits.seat(&user("a"), ip("2001:db8:0:1:ffff::2")).is_err());
        assert!(limits.seat(&user("a"), ip("2001:db8:0:2::1")).is_ok());
        let _seat = limits.seat(&user("a"), ip("10.0.0.1")).unwrap();
        assert!(limits.seat(&user("a"), ip("::ffff:10.0.0.1")).is_err());
        assert!(limits.seat(&user("a"), ip("10.0.0.2")).is_ok());
    }
}
