//! JSON objects in base64url, as tokens are made of them: one in which a name comes twice is refused, because two
//! readers may take two meanings from it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::TokenError;

/// Reads one part of a token.
pub(super) fn read(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    let object: Object = serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)?;
    if object.is_ambiguous { Err(TokenError::Ambiguous) } else { Ok(object.members) }
}

struct Object {
    members: Map<String, Value>,
    is_ambiguous: bool,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
        let mut object = Object { members: Map::new(), is_ambiguous: false };
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            object.is_ambiguous |= object.members.insert(name, value).is_some();
        }
        Ok(object)
    }
}
