//! Whom a token lets its user watch: ids one by one, and all ids that begin alike. Knows no policy.

use presence_core::ids::UserId;
use serde_json::Value;

/// The users in a token's claim. Prefixes are marked as such and not by a character, because every character may be
/// part of a user id: an id that its user has chosen never becomes a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circle {
    /// Sorted.
    users: Box<[UserId]>,
    prefixes: Box<[Box<str>]>,
}

impl Circle {
    /// Reads `["bob", {"prefix": "team-7/"}]`; none if it is anything else.
    pub fn read(claim: &Value) -> Option<Circle> {
        let (mut users, mut prefixes) = (Vec::new(), Vec::new());
        for entry in claim.as_array()? {
            match entry {
                Value::String(user) => users.push(UserId::new(user).ok()?),
                Value::Object(members) if members.len() == 1 => {
                    prefixes.push(members.get("prefix")?.as_str()?.into());
                }
                _ => return None,
            }
        }
        users.sort_unstable();
        users.dedup();
        Some(Circle { users: users.into(), prefixes: prefixes.into() })
    }

    /// Whether the user is among them.
    pub fn holds(&self, user: &UserId) -> bool {
        self.users.binary_search(user).is_ok()
            || self.prefixes.iter().any(|prefix| user.as_str().starts_with(&**prefix))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(circle: &Circle, user: &str) -> bool {
        circle.holds(&UserId::new(user).unwrap())
    }

    #[test]
    fn ids_are_taken_as_they_are_and_prefixes_cover_what_begins_alike() {
        let circle = Circle::read(&json!(["carol", "bob", "*", "x*", {"prefix": "team-7/"}])).unwrap();
        for user in ["bob", "carol", "*", "x*", "team-7/", "team-7/é"] {
            assert!(holds(&circle, user), "{user}");
        }
        for user in ["Bob", "bobby", "xy", "team-70", "team-7"] {
            assert!(!holds(&circle, user), "{user}");
        }
        let everybody = Circle::read(&json!([{"prefix": ""}])).unwrap();
        assert!(holds(&everybody, "anyone"));
        assert!(!holds(&Circle::read(&json!([])).unwrap(), "bob"));
    }

    #[test]
    fn anything_else_is_no_circle() {
        let others = [
            json!("bob"),
            json!(null),
            json!({"prefix": "a"}),
            json!([7]),
            json!([".."]),
            json!([""]),
            json!([["bob"]]),
            json!([{"prefix": 7}]),
            json!([{"prefix": "a", "suffix": "b"}]),
            json!([{"pattern": "a"}]),
            json!([{}]),
        ];
        for other in others {
            assert_eq!(Circle::read(&other), None, "{other}");
        }
    }
}
