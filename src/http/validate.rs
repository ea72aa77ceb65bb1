//! A claim's body, checked in the documented order and in the documented words. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::join_url;
use crate::api::agent_pool::{AgentPoolSpec, RequireFields, ValidateJoinUrl};
use crate::claim::ClaimRequest;
use crate::domain::template::is_production;

const DEFAULT_NAME: &str = "Assistant";
const DEFAULT_INSTRUCTIONS: &str = "You are a helpful AI assistant.";
const MAX_NAME_CHARS: usize = 200;
const MAX_INSTRUCTIONS_BYTES: usize = 100_000;
const MAX_SOURCE_CHARS: usize = 63;
const MAX_PASSED_BYTES: usize = 16 * 1024;

/// The claim that a body asks for, or the 400 that it gets.
pub fn claim_request(
    spec: &AgentPoolSpec,
    environment: &str,
    body: &Map<String, Value>,
) -> Result<ClaimRequest, ApiError> {
    let field = |name: &str| body.get(name).filter(|v| !v.is_null());
    let joins = field("joinUrl").is_some_and(truthy);
    let required = match spec.claim.require_fields {
        RequireFields::Always => true,
        RequireFields::CreateOnly => !joins,
        RequireFields::Never => false,
    };
    let instructions = text_field("instructions", field("instructions"), required)?;
    let agent_name = text_field("agentName", field("agentName"), required)?;
    let join_url = optional_text("joinUrl", field("joinUrl"))?;
    let profile_image = optional_text("profileImage", field("profileImage"))?;
    let metadata = metadata(field("metadata"))?;
    let runtime = runtime(field("runtime"))?;
    if let Some(url) = &join_url {
        join_url::check_environment(url, environment)?;
    }
    let metadata = metadata.map(strings).transpose()?;
    let passed_through = passed_through(&spec.claim.pass_through_fields, body)?;
    let agent_name = agent_name.map_or_else(|| default_name(spec), str::to_owned);
    let instructions = instructions.unwrap_or(DEFAULT_INSTRUCTIONS).to_owned();
    check_limits(&agent_name, &instructions)?;
    let join_url = join_url.map(|url| url.trim().to_owned());
    if let Some(url) = &join_url {
        join_url::check_form(url)?;
        if spec.claim.validate_join_url == ValidateJoinUrl::Strict {
            join_url::check_strictly(
                url,
                &spec.runtime.invite_domains,
                is_production(environment),
            )?;
        }
    }
    let source = source(field("source"));
    Ok(ClaimRequest {
        agent_name,
        instructions,
        join_url,
        profile_image,
        metadata,
        passed_through,
        source,
        runtime,
        reference: None,
    })
}

/// A string that is required or not; an empty one counts as missing.
fn text_field<'a>(
    name: &str,
    value: Option<&'a Value>,
    required: bool,
) -> Result<Option<&'a str>, ApiError> {
    let text = match value {
        None => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) if required => {
            return Err(ApiError::bad_request(format!(
                "{name} (string) is required"
            )));
        }
        Some(_) => {
            return Err(ApiError::bad_request(format!(
                "{name} must be a string if provided"
            )));
        }
    };
    // The name is trimmed, and what is left of it decides; instructions go to the agent as they are.
    let text = if name == "agentName" {
        text.map(str::trim)
    } else {
        text
    };
    match text.filter(|t| !t.is_empty()) {
        None if required => Err(ApiError::bad_request(format!(
            "{name} (string) is required"
        ))),
        text => Ok(text),
    }
}

fn optional_text(name: &str, value: Option<&Value>) -> Result<Option<String>, ApiError> {
    match value.filter(|v| truthy(v)) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::bad_request(format!(
            "{name} must be a string if provided"
        ))),
    }
}

fn runtime(value: Option<&Value>) -> Result<Option<String>, ApiError> {
    match value.filter(|v| truthy(v)) {
        None => Ok(None),
        Some(Value::String(kind)) if kind == "hermes" || kind == "openclaw" => {
            Ok(Some(kind.clone()))
        }
        Some(_) => Err(ApiError::bad_request(
            "runtime must be 'hermes' or 'openclaw' if provided",
        )),
    }
}

fn metadata(value: Option<&Value>) -> Result<Option<&Map<String, Value>>, ApiError> {
    match value.filter(|v| truthy(v)) {
        None => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(ApiError::bad_request(
            "metadata must be an object if provided",
        )),
    }
}

fn strings(map: &Map<String, Value>) -> Result<BTreeMap<String, String>, ApiError> {
    let pairs = map
        .iter()
        .map(|(key, value)| value.as_str().map(|v| (key.clone(), v.to_owned())));
    pairs
        .collect::<Option<_>>()
        .ok_or_else(|| ApiError::bad_request("metadata values must be strings"))
}

/// The fields that the pool passes through, as they came. Null is none, as everywhere; all others are nobody's.
fn passed_through(
    fields: &[String],
    body: &Map<String, Value>,
) -> Result<BTreeMap<String, Value>, ApiError> {
    let given = |name: &String| Some((name.clone(), body.get(name)?.clone()));
    let found = fields.iter().filter_map(given);
    let found: BTreeMap<_, _> = found.filter(|(_, value)| !value.is_null()).collect();
    let bytes: usize = found
        .iter()
        .map(|(k, v)| k.len() + v.to_string().len())
        .sum();
    if bytes > MAX_PASSED_BYTES {
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        return Err(ApiError::bad_request(format!(
            "{} must have at most {MAX_PASSED_BYTES} bytes together",
            names.join(", ")
        )));
    }
    Ok(found)
}

/// Who asks, for logs and metrics: not worth a refusal.
fn source(value: Option<&Value>) -> String {
    let word = value
        .and_then(Value::as_str)
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .unwrap_or("api");
    word.chars()
        .filter(|c| !c.is_control())
        .take(MAX_SOURCE_CHARS)
        .collect()
}

/// The pool's own default name is the variable `DEFAULT_AGENT_NAME` of its agents.
fn default_name(spec: &AgentPoolSpec) -> String {
    let own = spec
        .runtime
        .env
        .iter()
        .find(|e| e.name == "DEFAULT_AGENT_NAME")
        .and_then(|e| e.value.as_deref());
    own.map(str::trim)
        .filter(|n| !n.is_empty())
        .unwrap_or(DEFAULT_NAME)
        .to_owned()
}

fn check_limits(name: &str, instructions: &str) -> Result<(), ApiError> {
    if name.chars().count() > MAX_NAME_CHARS {
        return Err(ApiError::bad_request(
            "agentName must have 1 to 200 characters",
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(ApiError::bad_request(
            "agentName must not contain control characters",
        ));
    }
    if name.starts_with('-') {
        return Err(ApiError::bad_request("agentName must not start with '-'"));
    }
    if instructions.len() > MAX_INSTRUCTIONS_BYTES {
        return Err(ApiError::bad_request(
            "instructions must have at most 100000 bytes",
        ));
    }
    Ok(())
}

/// What JavaScript takes for true: the predecessor's checks are written with it.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
