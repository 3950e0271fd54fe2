//! What a token says, once its signature is known to be good. Knows no key.

use presence_core::ids::UserId;
use serde_json::{Map, Value};

use super::circle::Circle;
use super::{Bearer, TokenError};
use crate::settings::TokenRules;

/// Checks the claims. `now` is in seconds since 1970.
pub(super) fn check(
    members: &Map<String, Value>,
    rules: &TokenRules,
    now: u64,
) -> Result<Bearer, TokenError> {
    let leeway = rules.leeway.as_secs();
    let expires = members.get("exp").and_then(seconds).ok_or(TokenError::Missing("exp"))?;
    if expires.saturating_add(leeway) <= now {
        return Err(TokenError::Expired);
    }
    if let Some(from) = members.get("nbf") {
        let from = seconds(from).ok_or_else(|| TokenError::BadClaim("nbf".to_owned()))?;
        if from > now.saturating_add(leeway) {
            return Err(TokenError::NotYetValid);
        }
    }
    check_issuer(members.get("iss"), rules.issuer.as_deref())?;
    check_audience(members.get("aud"), rules.audience.as_deref())?;
    let subject = members.get("sub").and_then(Value::as_str).ok_or(TokenError::Missing("sub"))?;
    let user = UserId::new(subject).map_err(TokenError::Subject)?;
    let circle = match rules.watch_claim.as_ref().and_then(|name| Some((name, members.get(name)?))) {
        Some((name, claim)) => Circle::read(claim).ok_or_else(|| TokenError::BadClaim(name.clone()))?,
        None => Circle::default(),
    };
    // A token that is only alive thanks to the leeway opens a session that lasts as long as the leeway does.
    let ends = if expires > now { expires } else { expires.saturating_add(leeway) };
    Ok(Bearer { user, expires_at: ends.saturating_mul(1000), circle })
}

/// One text, and the right one: a list of issuers means nothing.
fn check_issuer(claim: Option<&Value>, wanted: Option<&str>) -> Result<(), TokenError> {
    let Some(wanted) = wanted else { return Ok(()) };
    match claim {
        None | Some(Value::Null) => Err(TokenError::Missing("iss")),
        Some(Value::String(issuer)) if issuer == wanted => Ok(()),
        Some(_) => Err(TokenError::Issuer),
    }
}

/// A token that is meant for somebody is not meant for a host that has no name (RFC 7519, section 4.1.3).
fn check_audience(claim: Option<&Value>, own: Option<&str>) -> Result<(), TokenError> {
    match (claim, own) {
        (None | Some(Value::Null), None) => Ok(()),
        (None | Some(Value::Null), Some(_)) => Err(TokenError::Missing("aud")),
        (Some(_), None) => Err(TokenError::NoAudience),
        (Some(Value::String(audience)), Some(own)) if audience == own => Ok(()),
        (Some(Value::Array(audiences)), Some(own)) if audiences.iter().any(|one| one == own) => Ok(()),
        (Some(_), Some(_)) => Err(TokenError::Audience),
    }
}

/// `NumericDate` may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}
