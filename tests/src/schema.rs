//! JSON held against the schemas of an OpenAPI document, as far as ours go: types, words, required and known fields, items,
//! bounds, times. Stricter than a client should be: a field that no schema tells of is a fault.

use serde_json::Value;

/// An OpenAPI document.
#[derive(Clone, Debug)]
pub struct OpenApi(Value);

impl OpenApi {
    /// Panics if it is no JSON.
    pub fn parse(text: &str) -> OpenApi {
        OpenApi(serde_json::from_str(text).unwrap_or_else(|error| panic!("no OpenAPI document: {error}")))
    }

    /// The document.
    pub fn document(&self) -> &Value {
        &self.0
    }

    /// What a JSON answer of an operation, such as `get /v1/users/{user}`, is wrong in; nothing if it is as told.
    pub fn faults_of(&self, operation: &str, status: u16, answer: &Value) -> Vec<String> {
        let (method, path) = operation.split_once(' ').expect("a method and a path");
        let content = &self.0["paths"][path][method]["responses"][status.to_string()]["content"];
        let kind = if status < 400 { "application/json" } else { "application/problem+json" };
        match content.get(kind).map(|media| &media["schema"]) {
            None => vec![format!("{operation} is not told to answer {status} as {kind}")],
            Some(schema) => self.faults(schema, answer),
        }
    }

    /// What a value is wrong in, by a schema or the name of one.
    pub fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults
    }

    /// The schema of this name.
    pub fn schema(&self, name: &str) -> &Value {
        &self.0["components"]["schemas"][name]
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().expect("a name");
            return self.check(self.schema(name), value, at, faults);
        }
        for several in ["oneOf", "anyOf"] {
            if let Some(several) = schema[several].as_array() {
                let fits = |one: &&Value| self.faults(one, value).is_empty();
                if !several.iter().any(|one| fits(&one)) {
                    faults.push(format!("{at}: {value} is none of {several:?}"));
                }
                return;
            }
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|kind| is_of(kind, value)) {
            return faults.push(format!("{at}: {value} is not {types:?}"));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            faults.push(format!("{at}: {value} is none of {words:?}"));
        }
        match value {
            Value::Object(fields) => self.check_fields(schema, fields, at, faults),
            Value::Array(items) => {
                let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
                if items.len() as u64 > most {
                    faults.push(format!("{at}: more than {most} items"));
                }
                for (index, item) in items.iter().enumerate() {
                    self.check(&schema["items"], item, &format!("{at}[{index}]"), faults);
                }
            }
            Value::Number(number) => {
                let bound = |name: &str| schema[name].as_f64();
                let number = number.as_f64().unwrap_or(f64::NAN);
                let low = bound("minimum").is_some_and(|least| number < least);
                if low || bound("maximum").is_some_and(|most| number > most) {
                    faults.push(format!("{at}: {number} is out of range"));
                }
            }
            Value::String(text)
                if schema["format"] == "date-time" && humantime::parse_rfc3339(text).is_err() =>
            {
                faults.push(format!("{at}: {text:?} is no time"));
            }
            _ => {}
        }
    }

    fn check_fields(
        &self,
        schema: &Value,
        fields: &serde_json::Map<String, Value>,
        at: &str,
        faults: &mut Vec<String>,
    ) {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                faults.push(format!("{at}.{required} is missing"));
            }
        }
        for (name, value) in fields {
            let at = format!("{at}.{name}");
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(schema), _) => self.check(schema, value, &at, faults),
                (None, more @ Value::Object(_)) => self.check(more, value, &at, faults),
                // An object of which nothing is told: an event.
                (None, _) if schema.get("properties").is_none() => {}
                (None, _) => faults.push(format!("{at} is told of nowhere")),
            }
        }
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_held_against_its_schema() {
        let word = json!({"type": "string", "enum": ["on", "off"]});
        let thing = json!({
            "type": "object", "required": ["name", "state"], "properties": {
                "name": {"type": "string"}, "state": {"$ref": "#/components/schemas/Word"},
                "count": {"type": ["integer", "null"], "minimum": 1},
                "more": {"type": "array", "maxItems": 1, "items": {"type": "string", "format": "date-time"}},
            }
        });
        let api = OpenApi(json!({"components": {"schemas": {"Word": word, "Thing": thing}}}));
        let faults = |value: Value| api.faults(api.schema("Thing"), &value).len();
        assert_eq!(
            faults(json!({"name": "a", "state": "on", "count": null, "more": ["2026-11-25T16:00:00Z"]})),
            0
        );
        for wrong in [
            json!([]),
            json!({"name": "a"}),
            json!({"name": 1, "state": "on"}),
            json!({"name": "a", "state": "out"}),
            json!({"name": "a", "state": "on", "count": 0}),
            json!({"name": "a", "state": "on", "more": ["today"]}),
            json!({"name": "a", "state": "on", "surprise": 1}),
        ] {
            assert_eq!(faults(wrong.clone()), 1, "{wrong}");
        }
    }
}
