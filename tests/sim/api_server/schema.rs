//! The structural schemas of our own kinds, from `crds/`: what is unknown is dropped, what is missing gets its
//! default, what does not fit is refused.

use std::sync::LazyLock;

use serde_json::Value;

fn schema_of(yaml: &str) -> Value {
    let crd: Value = serde_yaml::from_str(yaml).expect("a CRD of ours");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

static POOLS: LazyLock<Value> =
    LazyLock::new(|| schema_of(include_str!("../../../crds/agentpools.yaml")));
static INSTANCES: LazyLock<Value> =
    LazyLock::new(|| schema_of(include_str!("../../../crds/agentinstances.yaml")));

/// The schema of a kind; `None`: not one of ours.
pub(super) fn of(plural: &str) -> Option<&'static Value> {
    match plural {
        "agentpools" => Some(&POOLS),
        "agentinstances" => Some(&INSTANCES),
        _ => None,
    }
}

/// Drops what the schema does not know and fills in its defaults, below `spec` and `status`.
pub(super) fn shape(object: &mut Value, schema: &Value) {
    for part in ["spec", "status"] {
        if let Some(value) = object.get_mut(part) {
            fit(value, &schema["properties"][part]);
        }
    }
}

fn fit(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(known) = schema["properties"].as_object() {
                if schema["x-kubernetes-preserve-unknown-fields"] != true {
                    fields.retain(|key, _| known.contains_key(key));
                }
                for (key, of) in known {
                    let missing = fields.get(key).is_none_or(Value::is_null);
                    if missing && let Some(default) = of.get("default") {
                        fields.insert(key.clone(), default.clone());
                    }
                    if let Some(field) = fields.get_mut(key) {
                        fit(field, of);
                    }
                }
            } else if schema["additionalProperties"].is_object() {
                for field in fields.values_mut() {
                    fit(field, &schema["additionalProperties"]);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                fit(item, &schema["items"]);
            }
        }
        _ => {}
    }
}

/// The first thing that does not fit, as the API server would say it.
pub(super) fn offence(object: &Value, schema: &Value) -> Option<String> {
    let mut found = None;
    for part in ["spec", "status"] {
        match object.get(part) {
            Some(value) => found = found.or(misfit(value, &schema["properties"][part], part)),
            None if part == "spec" => found = found.or(Some("spec: Required value".to_owned())),
            None => {}
        }
    }
    found
}

fn misfit(value: &Value, schema: &Value, path: &str) -> Option<String> {
    if value.is_null() && schema["nullable"] == true {
        return None;
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    };
    if !fits {
        return Some(format!(
            "{path}: Invalid value: must be of type {}",
            schema["type"]
        ));
    }
    let number = |key: &str| schema[key].as_f64();
    let outside = match value {
        Value::String(text) => {
            let length = text.chars().count() as f64;
            number("maxLength").is_some_and(|m| length > m)
                || number("minLength").is_some_and(|m| length < m)
                || schema["enum"]
                    .as_array()
                    .is_some_and(|all| !all.contains(value))
        }
        Value::Number(n) => {
            let n = n.as_f64().unwrap_or_default();
            number("maximum").is_some_and(|m| n > m) || number("minimum").is_some_and(|m| n < m)
        }
        Value::Array(items) => number("maxItems").is_some_and(|m| items.len() as f64 > m),
        Value::Object(fields) => number("maxProperties").is_some_and(|m| fields.len() as f64 > m),
        _ => false,
    };
    if outside {
        return Some(format!("{path}: Invalid value: {value}"));
    }
    if let Value::Object(fields) = value {
        for key in schema["required"].as_array().into_iter().flatten() {
            let key = key.as_str().unwrap_or_default();
            if !fields.contains_key(key) {
                return Some(format!("{path}.{key}: Required value"));
            }
        }
        for (key, field) in fields {
            let of = schema["properties"]
                .get(key)
                .unwrap_or(&schema["additionalProperties"]);
            if let Some(found) = misfit(field, of, &format!("{path}.{key}")) {
                return Some(found);
            }
        }
    }
    if let Value::Array(items) = value {
        let found = items.iter().enumerate();
        return found
            .filter_map(|(i, item)| misfit(item, &schema["items"], &format!("{path}[{i}]")))
            .next();
    }
    None
}
