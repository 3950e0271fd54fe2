//! Schemas of what the API has in common: words of the core, which knows no OpenAPI, and shapes of parameters.

use presence_core::documents::{CleanupPhase, InstanceState, Reason};
use presence_core::events::Status;
use presence_core::ids::{MAX_HELD_ID_BYTES, MAX_HOLDER_NAME_BYTES, MAX_USER_ID_BYTES};
use presence_core::metadata::{MAX_METADATA_BYTES, MAX_METADATA_KEY_BYTES, MAX_METADATA_KEYS};
use serde::Serialize;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Any text.
pub fn text() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).into()
}

/// A user id.
pub fn user_id() -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String);
    // The length counts characters, of which each has at least a byte.
    let object = object.min_length(Some(1)).max_length(Some(MAX_USER_ID_BYTES));
    object.pattern(Some(r"^(?!\.{1,2}$)[^\u0000-\u001F\u007F-\u009F]+$")).into()
}

/// A text of so many characters at most that matches a pattern.
pub fn matching(most: usize, pattern: &'static str) -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::String);
    object.min_length(Some(1)).max_length(Some(most)).pattern(Some(pattern)).into()
}

/// The name of a holder, or one of its incarnations.
pub fn holder_text() -> Schema {
    matching(MAX_HOLDER_NAME_BYTES, r"^(?!\.{1,2}$)[A-Za-z0-9._-]+$")
}

/// The id that a holder gives a session.
pub fn held_id() -> Schema {
    matching(MAX_HELD_ID_BYTES, r"^(?!\.{1,2}$)[!-.0-~]+$")
}

/// What is said of a session beyond its status. That all of it is bounded together can't be said in a schema.
pub fn metadata() -> Schema {
    let value = ObjectBuilder::new().schema_type(Type::String).pattern(Some(NO_CONTROLS));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .max_properties(Some(MAX_METADATA_KEYS))
        .property_names(Some(matching(MAX_METADATA_KEY_BYTES, "^[a-z0-9_.-]+$")))
        .additional_properties(Some(value.max_length(Some(MAX_METADATA_BYTES))))
        .into()
}

/// What [`char::is_control`] calls no control character.
const NO_CONTROLS: &str = r"^[^\u0000-\u001F\u007F-\u009F]*$";

/// The greatest number that every reader of JSON holds exactly.
pub const GREATEST_NUMBER: u64 = (1 << 53) - 1;

/// A whole number, no greater than [`GREATEST_NUMBER`].
pub fn number(least: u64, most: u64) -> Schema {
    let object = ObjectBuilder::new().schema_type(Type::Integer);
    let object = object.minimum(Some(least as f64));
    object.maximum(Some(most as f64)).into()
}

/// One of these words.
pub fn one_of(words: impl IntoIterator<Item = impl Into<String>>) -> Schema {
    let words = words.into_iter().map(|word| serde_json::Value::from(word.into()));
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

/// Several of them, each with a name of its own in the query.
pub fn several(of: Schema, most: usize) -> Schema {
    ArrayBuilder::new().items(RefOr::T(of)).min_items(Some(1)).max_items(Some(most)).into()
}

/// The word that a value is written as.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a word is written as {other:?}"),
    }
}

/// A type that stands for a set of words in schemas.
macro_rules! words {
    ($(#[$about:meta])* $name:ident, $title:literal, $values:expr) => {
        $(#[$about])*
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T(one_of($values.iter().map(word)))
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $title.into()
            }
        }
    };
}

/// All statuses of a user.
pub const STATUSES: [Status; 3] = [Status::Online, Status::Idle, Status::Offline];

words!(
    /// The status of a user.
    StatusWord, "Status", STATUSES
);
words!(
    /// The status of a session while it is there.
    SessionStatusWord,
    "SessionStatus",
    [Status::Online, Status::Idle]
);
words!(
    /// Why a status was decided.
    ReasonWord, "Reason", Reason::ALL
);
words!(
    /// The life of an instance.
    InstanceStateWord,
    "InstanceState",
    [
        InstanceState::Joining,
        InstanceState::Ready,
        InstanceState::Draining,
        InstanceState::Dead,
        InstanceState::Left,
    ]
);
words!(
    /// How far a cleanup is.
    CleanupPhaseWord,
    "CleanupPhase",
    [CleanupPhase::Telling, CleanupPhase::Told, CleanupPhase::Purged]
);
