//! An issuer of tokens, as an identity provider is one: it signs with keys that it publishes as a key set.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::Value;

use crate::receiver::{Mood, Receiver};

/// The issuer and its server; ends with this value.
#[derive(Debug)]
pub struct Issuer {
    server: Receiver,
    keys: BTreeMap<String, EncodingKey>,
}

impl Issuer {
    /// One with these keys, each of which it can sign with; nothing is published yet.
    pub async fn start(ids: &[&str]) -> Issuer {
        let keys = ids.iter().map(|id| {
            // On P-256, for ES256.
            let key = rcgen::KeyPair::generate().expect("a key");
            ((*id).to_owned(), EncodingKey::from_ec_der(&key.serialize_der()))
        });
        let issuer = Issuer { server: Receiver::start().await, keys: keys.collect() };
        issuer.publish(&[]);
        issuer
    }

    /// Seconds since 1970, as claims have them.
    pub fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs()
    }

    /// A section `[auth.jwks]` that leads here, with these further lines.
    pub fn section(&self, lines: &str) -> String {
        format!("[auth.jwks]\nurl = \"{}/.well-known/jwks.json\"\n{lines}", self.server.origin())
    }

    /// The set of these keys and no others.
    pub fn document(&self, ids: &[&str]) -> String {
        let keys = ids.iter().map(|id| {
            let mut jwk = Jwk::from_encoding_key(&self.keys[*id], Algorithm::ES256).expect("a sound key");
            jwk.common.key_id = Some((*id).to_owned());
            jwk
        });
        serde_json::to_string(&JwkSet { keys: keys.collect() }).expect("a set becomes JSON")
    }

    /// Publishes these keys and no others from now on.
    pub fn publish(&self, ids: &[&str]) {
        self.server.answer(Mood::Document(self.document(ids)));
    }

    /// Answers like this from now on.
    pub fn answer(&self, mood: Mood) {
        self.server.answer(mood);
    }

    /// How often the set was asked for.
    pub fn asked(&self) -> u64 {
        self.server.attempts()
    }

    /// A token that is signed with this key.
    pub fn token(&self, id: &str, claims: &Value) -> String {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &self.keys[id]).expect("claims become a token")
    }
}
