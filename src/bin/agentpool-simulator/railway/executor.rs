//! The GraphQL executor: parse, validate, coerce, execute over the whole schema of the contract.
//!
//! Resolvers give JSON; which part of it is an object with a selection and which is a scalar, the
//! schema says. Fields that need a look-up of their own are in `resolve::field`.

use crate::railway::context::Cx;
use crate::railway::errors::{Fail, INTERNAL, not_simulated};
use crate::railway::resolve;
use apollo_compiler::ast::OperationType;
use apollo_compiler::executable::Operation;
use apollo_compiler::resolvers::{Execution, FieldError, ObjectValue, ResolveInfo, ResolvedValue};
use apollo_compiler::response::{GraphQLError, JsonMap};
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Schema, ast};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

const SDL: &str = include_str!("schema.graphql");

/// A document that passed validation, with the operation to run.
pub struct Prepared {
    document: Arc<Valid<ExecutableDocument>>,
    operation: Option<String>,
    /// Root fields in order.
    pub fields: Vec<String>,
    /// Whether it is a mutation.
    pub mutation: bool,
    /// The operation's own name.
    pub name: String,
    variables: Valid<JsonMap>,
}

/// A request that was refused before execution.
pub struct Refused {
    /// The errors, complete.
    pub errors: Vec<Value>,
    /// `GRAPHQL_PARSE_FAILED`, `GRAPHQL_VALIDATION_FAILED` or `BAD_USER_INPUT`.
    pub code: &'static str,
}

/// The schema and, while statuses outside of it are armed, its extension.
pub struct Executor {
    schema: Valid<Schema>,
    /// Documents that passed: a client sends the same few for ever, and validating takes longer than running.
    passed: Mutex<BTreeMap<String, Arc<Valid<ExecutableDocument>>>>,
}

/// Documents kept.
const PASSED: usize = 64;

impl Executor {
    /// Reads the schema; fails only if the file that is compiled in is broken.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            schema: schema(&BTreeSet::new())?,
            passed: Mutex::default(),
        })
    }

    /// Parses and validates.
    fn document(&self, query: &str) -> Result<Arc<Valid<ExecutableDocument>>, Refused> {
        let passed = || self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = passed().get(query) {
            return Ok(found.clone());
        }
        let parsed = ast::Document::parse(query, "query.graphql").map_err(|e| {
            refuse(
                "GRAPHQL_PARSE_FAILED",
                e.errors.iter().map(|d| d.to_json()).collect(),
            )
        })?;
        let document = parsed
            .to_executable_validate(&self.schema)
            .map_err(|errors| {
                let all = errors
                    .errors
                    .iter()
                    .map(|d| d.unstable_to_json_compat())
                    .collect();
                refuse("GRAPHQL_VALIDATION_FAILED", all)
            })?;
        let document = Arc::new(document);
        let mut passed = passed();
        if passed.len() < PASSED {
            passed.insert(query.to_owned(), document.clone());
        }
        Ok(document)
    }

    /// Parses, validates and coerces.
    pub fn prepare(
        &self,
        query: &str,
        operation: Option<&str>,
        variables: &Value,
    ) -> Result<Prepared, Refused> {
        let document = self.document(query)?;
        let chosen = document.operations.get(operation);
        let op = chosen.map_err(|e| {
            refuse(
                "GRAPHQL_VALIDATION_FAILED",
                vec![e.to_graphql_error(&document.sources)],
            )
        })?;
        let raw: JsonMap = serde_json::from_value(variables.clone()).unwrap_or_default();
        let coerced = apollo_compiler::request::coerce_variable_values(&self.schema, op, &raw);
        let variables = coerced.map_err(|e| {
            refuse(
                "BAD_USER_INPUT",
                vec![e.to_graphql_error(&document.sources)],
            )
        })?;
        Ok(Prepared {
            fields: op
                .root_fields(&document)
                .map(|f| f.name.to_string())
                .collect(),
            mutation: op.operation_type == OperationType::Mutation,
            name: op
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            operation: operation.map(str::to_owned),
            variables,
            document,
        })
    }

    /// Executes: `data` and the errors, each with its code.
    pub fn execute(&self, prepared: &Prepared, cx: &Cx) -> (Value, Vec<Value>) {
        let unknown = cx.world.borrow().railway.unknown_statuses.clone();
        let extended;
        let schema = if unknown.is_empty() {
            &self.schema
        } else {
            // Refused by the executor otherwise; the document was validated against the real one.
            extended = schema(&unknown).unwrap_or_else(|_| self.schema.clone());
            &extended
        };
        let Ok(operation) = prepared
            .document
            .operations
            .get(prepared.operation.as_deref())
        else {
            return (Value::Null, Vec::new());
        };
        let root = Obj {
            cx,
            ty: root_type(operation),
            fields: Map::new(),
        };
        let run = Execution::new(schema, &prepared.document)
            .operation(operation)
            .coerced_variable_values(&prepared.variables)
            .enable_schema_introspection(true)
            .execute_sync(&root);
        match run {
            Ok(response) => {
                let data = serde_json::to_value(&response.data).unwrap_or_default();
                (
                    data,
                    response
                        .errors
                        .into_iter()
                        .map(|e| error_json(e, None))
                        .collect(),
                )
            }
            Err(error) => {
                let error = error.to_graphql_error(&prepared.document.sources);
                (Value::Null, vec![error_json(error, Some(INTERNAL))])
            }
        }
    }
}

fn refuse(code: &'static str, errors: Vec<GraphQLError>) -> Refused {
    Refused {
        errors: errors
            .into_iter()
            .map(|e| error_json(e, Some(code)))
            .collect(),
        code,
    }
}

fn root_type(operation: &Operation) -> String {
    operation.object_type().to_string()
}

fn schema(unknown: &BTreeSet<String>) -> anyhow::Result<Valid<Schema>> {
    let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
    let sdl = SDL.replace(
        "enum DeploymentStatus {",
        &format!("enum DeploymentStatus {{ {} ", names.join(" ")),
    );
    Schema::parse_and_validate(sdl, "schema.graphql").map_err(|e| anyhow::anyhow!("schema: {e}"))
}

fn error_json(error: GraphQLError, code: Option<&str>) -> Value {
    let path = serde_json::to_value(&error.path).unwrap_or_default();
    let locations = serde_json::to_value(&error.locations).unwrap_or_default();
    let fail = Fail::unpack(&error.message);
    let mut json = json!({
        "message": fail.message, "locations": locations,
        "extensions": {"code": code.unwrap_or(&fail.code)},
    });
    if path.as_array().is_some_and(|p| !p.is_empty()) {
        json["path"] = path;
    }
    json
}

struct Obj<'c, 'w> {
    cx: &'c Cx<'w>,
    ty: String,
    fields: Map<String, Value>,
}

impl ObjectValue for Obj<'_, '_> {
    fn type_name(&self) -> &str {
        &self.ty
    }

    fn resolve_field<'a>(
        &'a self,
        info: &'a ResolveInfo<'a>,
    ) -> Result<ResolvedValue<'a>, FieldError> {
        let name = info.field_name();
        let args = serde_json::to_value(info.arguments()).unwrap_or_default();
        let answer = match resolve::field(self.cx, &self.ty, &self.fields, name, &args) {
            Some(answer) => answer,
            None => self
                .fields
                .get(name)
                .cloned()
                .ok_or_else(|| not_simulated(name)),
        };
        let value = answer.map_err(|fail| FieldError {
            message: fail.pack(),
        })?;
        let ty = info.field_definition().ty.inner_named_type();
        let is_object = info.schema().get_object(ty).is_some();
        Ok(resolved(self.cx, value, ty.as_str(), is_object))
    }
}

fn resolved<'a>(cx: &'a Cx<'_>, value: Value, ty: &str, is_object: bool) -> ResolvedValue<'a> {
    match value {
        Value::Array(items) if is_object => {
            let items: Vec<_> = items
                .into_iter()
                .map(|v| resolved(cx, v, ty, true))
                .collect();
            ResolvedValue::list(items)
        }
        // A list of leaves has to be a list for the executor, but a scalar may hold an array.
        Value::Array(items) if !is_opaque(ty) => {
            let items: Vec<_> = items
                .into_iter()
                .map(|v| resolved(cx, v, ty, false))
                .collect();
            ResolvedValue::list(items)
        }
        Value::Object(fields) if is_object => ResolvedValue::object(Obj {
            cx,
            ty: ty.to_owned(),
            fields,
        }),
        leaf => ResolvedValue::Leaf(leaf.into()),
    }
}

fn is_opaque(scalar: &str) -> bool {
    matches!(
        scalar,
        "JSON" | "DeploymentMeta" | "EnvironmentConfig" | "NotificationChannelConfig"
    )
}

#[cfg(test)]
mod tests {
    use super::Executor;
    use serde_json::json;

    fn refusal(query: &str, variables: serde_json::Value) -> Option<&'static str> {
        let executor = Executor::new().expect("the schema is valid");
        executor
            .prepare(query, None, &variables)
            .err()
            .map(|r| r.code)
    }

    #[test]
    fn documents_are_parsed_validated_and_coerced() {
        assert_eq!(refusal("{ me { id } }", json!({})), None);
        assert_eq!(
            refusal("{ me { id }", json!({})),
            Some("GRAPHQL_PARSE_FAILED")
        );
        assert_eq!(
            refusal("{ me { idd } }", json!({})),
            Some("GRAPHQL_VALIDATION_FAILED")
        );
        let query = "query Q($id: String!) { project(id: $id) { id } }";
        assert_eq!(refusal(query, json!({"id": "p"})), None);
        assert_eq!(refusal(query, json!({})), Some("BAD_USER_INPUT"));
    }

    #[test]
    fn root_fields_are_those_of_the_document_not_of_its_name() {
        let executor = Executor::new().expect("the schema is valid");
        let query = "mutation Anything { a: volumeDelete(volumeId: \"1\") b: volumeDelete(volumeId: \"2\") }";
        let prepared = executor
            .prepare(query, None, &json!({}))
            .ok()
            .expect("valid");
        assert_eq!(prepared.fields, ["volumeDelete", "volumeDelete"]);
        assert!(prepared.mutation);
    }
}
