//! NATS in operator mode: an operator, an account with JetStream, and users of it, all as signed tokens. Knows the tokens
//! as nats-server reads them (version 2), nothing of what is done with them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account for everybody and one for the system.
#[derive(Debug)]
pub struct Operator {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    /// With new keys.
    pub fn new() -> Operator {
        let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
        Operator { operator: KeyPair::new_operator(), account, system }
    }

    /// Lines of a nats-server's configuration: it believes this operator, and no other way in.
    pub fn nats_lines(&self) -> String {
        let operator = signed(&self.operator, &self.operator, "operator", None, json!({}));
        let [account, system] = [(&self.account, -1), (&self.system, 0)]
            .map(|(account, storage)| (account.public_key(), self.account_token(account, storage)));
        format!(
            "operator: \"{operator}\"\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload {{\n{}: \"{}\"\n{}: \"{}\"\n}}",
            system.0, account.0, account.1, system.0, system.1
        )
    }

    /// The `.creds` file of a new user of the account.
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        self.credentials_of(&user, &user, None)
    }

    /// The same, of a user whose time was over in 1970.
    pub fn expired_credentials(&self) -> String {
        let user = KeyPair::new_user();
        self.credentials_of(&user, &user, Some(1))
    }

    /// A token of one user with the key of another.
    pub fn mismatched_credentials(&self) -> String {
        self.credentials_of(&KeyPair::new_user(), &KeyPair::new_user(), None)
    }

    fn credentials_of(&self, user: &KeyPair, key: &KeyPair, expires: Option<u64>) -> String {
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        let token = signed(&self.account, user, "user", expires, limits);
        let seed = key.seed().expect("a new key has its seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    /// Without limits but for storage: -1 is without one too, 0 turns JetStream off.
    fn account_token(&self, account: &KeyPair, storage: i64) -> String {
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
        });
        signed(&self.operator, account, "account", None, json!({"limits": limits}))
    }
}

impl Default for Operator {
    fn default() -> Operator {
        Operator::new()
    }
}

/// A token about `subject`, signed by `issuer`.
fn signed(issuer: &KeyPair, subject: &KeyPair, kind: &str, expires: Option<u64>, mut nats: Value) -> String {
    nats["type"] = json!(kind);
    nats["version"] = json!(2);
    let issued = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut claims = json!({
        "jti": format!("{kind} of tests"), "iat": issued, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": format!("{kind} of tests"), "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = json!(expires);
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("a new key signs");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}
