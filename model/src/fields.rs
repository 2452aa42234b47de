//! Whether a document has the fields of its kind: unknown, missing and mistaken ones by their path,
//! all at once. Deserializing would stop at the first one, and not say where it is.

use std::fmt;

use serde_json::Value;

use crate::{ByteSize, Digest, Millis, json_schema, nearest};

/// The most faults that are told of one document.
const MAX_FAULTS: usize = 16;
/// How deep documents are looked into; no kind is so deep.
const MAX_DEPTH: usize = 32;

/// One step of the way to a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into an object.
    Field(String),
    /// Into a list.
    Item(usize),
}

/// A field that is not as its kind has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    /// The way to the field; to the object around it if it is missing.
    pub path: Vec<Step>,
    /// What is wrong with it.
    pub what: String,
}

impl FieldFault {
    /// The path as people write it, such as `spec.routes[0].path`.
    pub fn field(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Item(item) => text.push_str(&format!("[{item}]")),
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => text.push_str(&format!(".{name}")),
            }
        }
        text
    }
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field();
        if field.is_empty() { f.write_str(&self.what) } else { write!(f, "{field}: {}", self.what) }
    }
}

/// The faults of a document of `kind` by the JSON Schema of the kind, at most `MAX_FAULTS`; none
/// if there is no such kind. Rules about values are [`crate::Resource::validate`]'s.
pub fn field_faults(kind: &str, document: &Value) -> Vec<FieldFault> {
    let Some(root) = json_schema(kind) else { return Vec::new() };
    let mut check = Check { root: &root, path: Vec::new(), faults: Vec::new() };
    check.value(&root, document);
    check.faults
}

struct Check<'a> {
    root: &'a Value,
    path: Vec<Step>,
    faults: Vec<FieldFault>,
}

impl Check<'_> {
    fn fault(&mut self, what: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(FieldFault { path: self.path.clone(), what });
        }
    }

    fn below(&mut self, step: Step, schema: &Value, value: &Value) {
        if self.path.len() < MAX_DEPTH {
            self.path.push(step);
            self.value(schema, value);
            self.path.pop();
        }
    }

    fn value(&mut self, schema: &Value, value: &Value) {
        if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
            let schema = &self.root["$defs"][name];
            match value.as_str().and_then(|text| unreadable(name, text)) {
                Some(what) => self.fault(what),
                None => self.value(schema, value),
            }
            return;
        }
        if !is_of(&schema["type"], value) {
            return self.fault(format!("is {}, must be {}", shown(value), kinds(&schema["type"])));
        }
        match value {
            Value::Object(fields) => self.object(schema, fields),
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.below(Step::Item(i), &schema["items"], item);
                }
            }
            Value::Number(number) => {
                let (min, max): (i128, i128) = match schema["format"].as_str() {
                    Some("uint32") => (0, u32::MAX.into()),
                    Some("int32") => (i32::MIN.into(), i32::MAX.into()),
                    Some("int64") => (i64::MIN.into(), i64::MAX.into()),
                    _ => (0, u64::MAX.into()),
                };
                let within = |number: i128| (min..=max).contains(&number);
                if schema["type"] == "integer" && !number.as_i128().is_some_and(within) {
                    self.fault(format!("is {number}, must be from {min} to {max}"));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &Value, fields: &serde_json::Map<String, Value>) {
        let properties = schema["properties"].as_object();
        for (name, value) in fields {
            let step = Step::Field(name.clone());
            match (properties.and_then(|known| known.get(name)), &schema["additionalProperties"]) {
                (Some(schema), _) => self.below(step, schema, value),
                (None, Value::Bool(false)) => {
                    let known = || properties.into_iter().flat_map(|known| known.keys());
                    let what = match nearest(name, known().map(String::as_str)) {
                        Some(meant) => format!("unknown field; did you mean `{meant}`?"),
                        None => {
                            let known: Vec<_> = known().map(|name| format!("`{name}`")).collect();
                            format!("unknown field; there are {}", known.join(", "))
                        }
                    };
                    self.path.push(step);
                    self.fault(what);
                    self.path.pop();
                }
                (None, schema) => self.below(step, schema, value),
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)) {
            self.fault(format!("`{name}` is missing"));
        }
    }
}

/// Why a text is none of the types that are written as text.
fn unreadable(name: &str, text: &str) -> Option<String> {
    match name {
        "ByteSize" => text.parse::<ByteSize>().err().map(|error| error.to_string()),
        "Millis" => text.parse::<Millis>().err().map(|error| error.to_string()),
        "Digest" => text.parse::<Digest>().err().map(|error| error.to_string()),
        _ => None,
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
        Value::String(kind) => match kind.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            _ => true,
        },
        _ => true,
    }
}

fn kinds(kind: &Value) -> String {
    let name = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "object" => "an object".to_owned(),
        "array" => "a list".to_owned(),
        "integer" => "a whole number".to_owned(),
        "null" => "nothing".to_owned(),
        other => format!("a {other}"),
    };
    match kind {
        Value::Array(kinds) => kinds.iter().map(name).collect::<Vec<_>>().join(" or "),
        kind => name(kind),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null => "empty".to_owned(),
        value => value.to_string().chars().take(40).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn function(spec: Value) -> Value {
        json!({
            "apiVersion": "swarmer/v1", "kind": "Function", "metadata": { "name": "a" },
            "spec": spec,
        })
    }

    fn told(document: &Value) -> Vec<String> {
        field_faults("Function", document).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_told_by_its_path() {
        let digest = Digest::of(b"x").to_string();
        let good = function(json!({ "component": digest, "env": { "ANY": "name" } }));
        assert_eq!(told(&good), [""; 0]);
        let of = |priority: i64| {
            let placement = json!({ "priority": priority });
            told(&function(json!({ "component": digest, "placement": placement })))
        };
        assert_eq!(of(-1000), [""; 0], "what may be negative is not refused here");
        let faults = of(-3_000_000_000);
        assert!(faults[0].contains("must be from -2147483648 to 2147483647"), "{faults:?}");
        let bad = function(json!({
            "componnt": digest,
            "limits": { "memory": "12 bananas", "timout": "5s", "concurrency": "many" },
            "routes": [{ "path": "/a" }, { "pth": "/b" }],
            "placement": { "replicas": -1, "zzz": 1 },
            "env": { "A": 1 },
        }));
        let mut faults = told(&bad);
        faults.sort();
        assert_eq!(faults.len(), 10, "{faults:#?}");
        for (i, words) in [
            ["spec.componnt: ", "did you mean `component`"],
            ["spec.env.A: ", "is 1, must be a string"],
            ["spec.limits.concurrency: ", "is \"many\", must be a whole number"],
            ["spec.limits.memory: ", "bananas"],
            ["spec.limits.timout: ", "did you mean `timeout`"],
            ["spec.placement.replicas: ", "from 0 to 4294967295"],
            ["spec.placement.zzz: ", "there are `replicas`, `regions`"],
            ["spec.routes[1].pth: ", "did you mean `path`"],
            ["spec.routes[1]: ", "`path` is missing"],
            ["spec: ", "`component` is missing"],
        ]
        .into_iter()
        .enumerate()
        {
            assert!(words.iter().all(|word| faults[i].contains(word)), "{words:?}: {}", faults[i]);
        }
    }

    #[test]
    fn what_users_must_not_send_is_left_to_the_cluster() {
        let mut value = function(json!({ "component": Digest::of(b"x").to_string() }));
        value["status"] = json!({ "versions": [], "later": 1 });
        assert_eq!(told(&value), [""; 0]);
        value["extra"] = json!(1);
        assert!(told(&value)[0].starts_with("extra: unknown field"));
        assert_eq!(field_faults("Banana", &json!(1)), []);
    }

    #[test]
    fn the_faults_are_bounded() {
        let many: serde_json::Map<String, Value> =
            (0..100).map(|i| (format!("field{i}"), json!(1))).collect();
        assert_eq!(field_faults("Function", &function(Value::Object(many))).len(), MAX_FAULTS);
    }
}
