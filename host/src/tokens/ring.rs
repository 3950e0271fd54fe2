//! All keys that are known, found by the `kid` of a token: looked up in a map, never in a file, an address or a
//! database.

use std::collections::HashMap;

use super::TokenError;
use super::jwks::KeySet;
use super::key::Key;
use crate::settings::AuthKey;

/// The keys of presence.toml and those of a key set.
#[derive(Debug, Default)]
pub struct KeyRing {
    by_id: HashMap<Box<str>, Key>,
    /// The only key of all: for tokens without a `kid`.
    only: Option<Key>,
    /// It takes whatever id the issuer has for it.
    takes_any_id: bool,
}

impl KeyRing {
    /// Of two keys with one id the first counts, and those of presence.toml come first.
    pub fn new(fixed: &[AuthKey], set: Option<&KeySet>) -> KeyRing {
        let fixed = fixed.iter().map(|key| (key.id.as_deref(), &key.key));
        let fetched = set.into_iter().flat_map(|set| &set.keys).map(|key| (key.id.as_deref(), &key.key));
        let keys: Vec<(Option<&str>, &Key)> = fixed.chain(fetched).collect();
        let mut ring = KeyRing::default();
        if let [(id, key)] = keys[..] {
            ring.only = Some(key.clone());
            ring.takes_any_id = id.is_none() && set.is_none();
        }
        for (id, key) in keys {
            if let Some(id) = id {
                ring.by_id.entry(id.into()).or_insert_with(|| key.clone());
            }
        }
        ring
    }

    /// The key for a token with this `kid`.
    pub(super) fn find(&self, id: Option<&str>) -> Result<&Key, TokenError> {
        match id {
            None => self.only.as_ref().ok_or(TokenError::NoKeyId),
            Some(id) => {
                let any = self.only.as_ref().filter(|_| self.takes_any_id);
                self.by_id.get(id).or(any).ok_or(TokenError::UnknownKey)
            }
        }
    }

    /// The ids, sorted.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.by_id.keys().map(|id| &**id).collect();
        ids.sort_unstable();
        ids
    }
}
