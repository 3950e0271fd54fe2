//! Who may ask the admin listener, and what for: the keys of presence.toml, and the scope that each route is in. Knows
//! no socket and not what is asked.
//!
//! A request passes twice: [`Callers::check`] wants a key of everybody but those who look at the host's health, whatever
//! the path, so that a route that was put nowhere is not open; [`scoped`] puts routes into their scope.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::problem::Problem;
use super::traffic::{ApiRefusal, Traffic};
use crate::api_keys::{ApiKey, ApiKeys, Scope, Scopes};

/// What needs no key: those who look whether a host lives have none.
pub(super) const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// The keys in force. Others can take their place while the host runs.
#[derive(Debug, Default)]
pub struct Callers(RwLock<Arc<ApiKeys>>);

/// Who asks, beside a request that was let in.
#[derive(Clone, Debug)]
enum Caller {
    /// There are no keys, or none is needed for this.
    Anybody,
    Key {
        name: Arc<str>,
        scopes: Scopes,
    },
}

impl Callers {
    /// With these keys; none: nobody needs one.
    pub fn new(keys: ApiKeys) -> Arc<Callers> {
        Arc::new(Callers(RwLock::new(Arc::new(keys))))
    }

    /// Whether nobody needs a key.
    pub fn are_free(&self) -> bool {
        self.keys().is_empty()
    }

    /// From now on these keys are let in and no others; false, and nothing changes, where that would open to everybody what
    /// was closed.
    pub fn replace(&self, keys: ApiKeys) -> bool {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() && !present.is_empty() {
            return false;
        }
        *present = Arc::new(keys);
        true
    }

    fn keys(&self) -> Arc<ApiKeys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a request in, and notes who asks.
    pub(super) fn check(&self, request: &mut Parts, traffic: &Traffic) -> Result<(), Problem> {
        let caller = self.caller(request).inspect_err(|refusal| traffic.count_api_refused(*refusal));
        let caller = caller.map_err(|refusal| {
            let challenge = match refusal {
                ApiRefusal::NoKey => "Bearer",
                _ => "Bearer error=\"invalid_token\"",
            };
            Problem::new(StatusCode::UNAUTHORIZED, refusal.detail())
                .with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
        })?;
        request.extensions.insert(caller);
        Ok(())
    }

    fn caller(&self, request: &Parts) -> Result<Caller, ApiRefusal> {
        let keys = self.keys();
        if keys.is_empty() || OPEN_PATHS.contains(&request.uri.path()) {
            return Ok(Caller::Anybody);
        }
        let sent = bearer(request)?;
        let ApiKey { name, scopes, .. } = keys.find(sent).ok_or(ApiRefusal::UnknownKey)?;
        Ok(Caller::Key { name: name.as_str().into(), scopes: scopes.clone() })
    }
}

/// What the request has in `Authorization`.
fn bearer(request: &Parts) -> Result<&str, ApiRefusal> {
    let mut headers = request.headers.get_all(AUTHORIZATION).iter();
    let header = headers.next().ok_or(ApiRefusal::NoKey)?;
    let (scheme, key) =
        header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(ApiRefusal::UnknownKey)?;
    if headers.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
        return Err(ApiRefusal::UnknownKey);
    }
    Ok(key.trim())
}

/// These routes are for callers with this scope.
pub(super) fn scoped<S>(scope: Scope, routes: Router<S>, traffic: &Arc<Traffic>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    if !routes.has_routes() {
        return routes;
    }
    let traffic = traffic.clone();
    routes.route_layer(from_fn(move |request: Request, next: Next| {
        let allowed = may(&request, scope).inspect_err(|_| traffic.count_api_refused(ApiRefusal::Scope));
        async move {
            match allowed {
                Ok(()) => next.run(request).await,
                Err(problem) => problem,
            }
        }
    }))
}

#[expect(clippy::result_large_err, reason = "it is sent as it is")]
fn may(request: &Request, scope: Scope) -> Result<(), Response> {
    let wanted = scope.as_str();
    match request.extensions().get::<Caller>() {
        Some(Caller::Anybody) => Ok(()),
        Some(Caller::Key { name, scopes }) if scopes.allow(scope) => {
            if scope == Scope::Admin {
                // Who changed what is asked later.
                tracing::info!(key = &**name, method = %request.method(), path = request.uri().path(), "asked with an API key");
            }
            Ok(())
        }
        Some(Caller::Key { name, scopes }) => {
            let has = scopes.names().join("`, `");
            let detail = format!("this needs a key with the scope `{wanted}`; the key `{name}` has `{has}`");
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{wanted}\"");
            let mut problem = Problem::new(StatusCode::FORBIDDEN, detail);
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                problem = problem.with(WWW_AUTHENTICATE, challenge);
            }
            Err(problem.into_response())
        }
        None => {
            let detail = "the request came without a caller";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_keys::KeyDigest;

    fn keys(of: &[&str]) -> ApiKeys {
        let key = |sent: &&str| ApiKey {
            name: sent.to_string(),
            scopes: [Scope::Read].into_iter().collect(),
            digest: KeyDigest::of(sent),
        };
        ApiKeys(of.iter().map(key).collect())
    }

    fn check(callers: &Callers, path: &str, headers: &[&str]) -> Result<(), ApiRefusal> {
        let mut request = http::Request::builder().uri(path);
        for header in headers {
            request = request.header(AUTHORIZATION, *header);
        }
        callers.caller(&request.body(()).unwrap().into_parts().0).map(|_| ())
    }

    #[test]
    fn a_key_is_taken_from_one_header_and_nowhere_else() {
        let callers = Callers::new(keys(&["pk_a", "pk_b"]));
        for header in ["Bearer pk_a", "bearer pk_b", "BEARER  pk_a "] {
            assert_eq!(check(&callers, "/v1/users", &[header]), Ok(()), "{header}");
        }
        assert_eq!(check(&callers, "/v1/users?access_token=pk_a&key=pk_a", &[]), Err(ApiRefusal::NoKey));
        for headers in [
            &["Bearer pk_c"][..],
            &["pk_a"],
            &["Basic pk_a"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer pk_a", "Bearer pk_a"],
        ] {
            assert_eq!(check(&callers, "/v1/users", headers), Err(ApiRefusal::UnknownKey), "{headers:?}");
        }
    }

    #[test]
    fn health_is_open_and_nothing_that_looks_like_it() {
        let callers = Callers::new(keys(&["pk_a"]));
        for path in ["/healthz", "/readyz", "/readyz?verbose"] {
            assert_eq!(check(&callers, path, &[]), Ok(()), "{path}");
        }
        for path in
            ["/", "/metrics", "/healthz/", "//healthz", "/healthz/../v1/users", "/v1/healthz", "/healthz%2f"]
        {
            assert_eq!(check(&callers, path, &[]), Err(ApiRefusal::NoKey), "{path}");
        }
    }

    #[test]
    fn keys_come_and_go_but_never_all_of_them() {
        let callers = Callers::new(ApiKeys::default());
        assert!(callers.are_free());
        assert_eq!(check(&callers, "/metrics", &[]), Ok(()));
        assert!(callers.replace(keys(&["pk_a"])));
        assert_eq!(check(&callers, "/metrics", &[]), Err(ApiRefusal::NoKey));
        assert!(callers.replace(keys(&["pk_b"])));
        assert_eq!(check(&callers, "/metrics", &["Bearer pk_a"]), Err(ApiRefusal::UnknownKey));
        assert!(!callers.replace(ApiKeys::default()), "what was closed stays closed");
        assert_eq!(check(&callers, "/metrics", &["Bearer pk_b"]), Ok(()));
    }
}
