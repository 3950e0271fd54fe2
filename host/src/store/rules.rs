//! What no store accepts, whatever it is made of. It knows keys and kinds, not what documents mean.

use std::time::Duration;

use presence_core::documents::{Document, Expect, Key};

use super::{MIN_LEASE, StoreError, token};

/// Refuses a document that is not of the key's kind.
pub(super) fn check_fit(key: &Key, document: &Document) -> Result<(), StoreError> {
    if token::fits(key, document) {
        Ok(())
    } else {
        Err(StoreError::Refused(format!("{} must not hold {document:?}", token::subject(key, ""))))
    }
}

/// Refuses a fence in another bucket.
pub(super) fn check_bucket(key: &Key, expect: &Expect) -> Result<(), StoreError> {
    match expect {
        Expect::Fence(fence, _) if fence.bucket() != key.bucket() => Err(StoreError::Refused(format!(
            "{} can't fence {}: they are in different buckets",
            token::subject(fence, ""),
            token::subject(key, "")
        ))),
        _ => Ok(()),
    }
}

/// Refuses a lease that is too short.
pub(super) fn check_lease(lease: Option<Duration>) -> Result<(), StoreError> {
    if lease.is_some_and(|lease| lease < MIN_LEASE) {
        return Err(StoreError::Refused(format!("a lease must last at least {MIN_LEASE:?}")));
    }
    Ok(())
}
