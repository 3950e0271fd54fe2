//! Who the sessions of a run belong to, and how they prove it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};

use crate::cli::BenchArguments;
use crate::tokens::MIN_SECRET_BYTES;

/// How long the tokens that are signed here last, in seconds.
const LIFETIME: u64 = 3600;

/// Any number of users, or those of the tokens.
pub(super) struct People {
    prefix: String,
    proof: Proof,
}

enum Proof {
    /// `auth.mode = "none"`
    Named,
    /// Tokens of somebody else, and whose they are.
    Tokens(Vec<Token>),
    /// Tokens that are signed here, with HS256.
    Signed { key: Box<EncodingKey>, header: Box<Header>, issuer: Option<String>, audience: Option<String> },
}

struct Token {
    user: String,
    text: String,
}

/// One of them, as a session needs it.
pub(super) struct Person {
    /// Its user id.
    pub(super) user: String,
    /// Its token, if tokens are asked for.
    pub(super) token: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
}

/// Only whose it is; the host checks it.
#[derive(Deserialize)]
struct Subject {
    sub: String,
}

impl People {
    pub(super) fn new(arguments: &BenchArguments) -> anyhow::Result<People> {
        let proof = match (&arguments.tokens, &arguments.secret_file) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--tokens {} can't be read", path.display()))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate();
                let tokens = lines.map(|(at, line)| {
                    Token::read(line).with_context(|| format!("--tokens {}:{}", path.display(), at + 1))
                });
                Proof::Tokens(tokens.collect::<Result<_, _>>()?)
            }
            (None, Some(path)) => {
                let secret = std::fs::read_to_string(path)
                    .with_context(|| format!("--secret-file {} can't be read", path.display()))?;
                let secret = secret.trim_end_matches(['\r', '\n']);
                ensure!(
                    secret.len() >= MIN_SECRET_BYTES,
                    "--secret-file {}: a secret for HS256 has at least {MIN_SECRET_BYTES} bytes",
                    path.display()
                );
                Proof::Signed {
                    key: Box::new(EncodingKey::from_secret(secret.as_bytes())),
                    header: Box::new(Header {
                        kid: arguments.key_id.clone(),
                        ..Header::new(Algorithm::HS256)
                    }),
                    issuer: arguments.issuer.clone(),
                    audience: arguments.audience.clone(),
                }
            }
            (None, None) => Proof::Named,
        };
        Ok(People { prefix: arguments.prefix.clone(), proof })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        match &self.proof {
            Proof::Tokens(tokens) => tokens.len(),
            Proof::Named | Proof::Signed { .. } => usize::MAX,
        }
    }

    /// The one with this number, below [`People::count`].
    pub(super) fn person(&self, number: usize) -> anyhow::Result<Person> {
        let user = format!("{}{number}", self.prefix);
        match &self.proof {
            Proof::Named => Ok(Person { user, token: None }),
            Proof::Tokens(tokens) => {
                let token = tokens.get(number).context("there are no more tokens")?;
                Ok(Person { user: token.user.clone(), token: Some(token.text.clone()) })
            }
            Proof::Signed { key, header, issuer, audience } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let claims = Claims {
                    sub: user.clone(),
                    exp: Some(now + LIFETIME),
                    iss: issuer.clone(),
                    aud: audience.clone(),
                };
                let token = encode(header, &claims, key).context("a token can't be signed")?;
                Ok(Person { user, token: Some(token) })
            }
        }
    }
}

impl Token {
    fn read(line: &str) -> anyhow::Result<Token> {
        let payload = line.split('.').nth(1).context("this is no JSON Web Token")?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok();
        let subject: Option<Subject> = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let subject = subject.context("this token names no `sub`")?;
        Ok(Token { user: subject.sub, text: line.to_owned() })
    }
}
