//! The CRDs as they are printed: fresh, documented, bounded. What the API server makes of them is in tests/k8s.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::process::Command;

use serde_json::{Value, json};

fn crds() -> Vec<Value> {
    agentpool::api::crds()
        .iter()
        .map(|c| serde_json::to_value(c).unwrap())
        .collect()
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Calls `look` with the path and the schema of every field, array items and map values included.
fn each_field(path: &str, schema: &Value, look: &mut impl FnMut(&str, &Value, bool)) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, field) in properties {
            let path = format!("{path}.{name}");
            look(&path, field, true);
            each_field(&path, field, look);
        }
    }
    for (inner, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[inner].is_object() {
            let path = format!("{path}{mark}");
            look(&path, &schema[inner], false);
            each_field(&path, &schema[inner], look);
        }
    }
}

/// The paths under `spec` and `status` for which `wrong` holds.
fn found(wrong: impl Fn(&str, &Value, bool) -> bool) -> Vec<String> {
    let mut all = vec![];
    for crd in crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        each_field(kind, schema(&crd), &mut |path, field, named| {
            if wrong(path, field, named) {
                all.push(path.to_owned());
            }
        });
    }
    all
}

#[test]
fn the_files_in_crds_are_what_the_binary_prints() {
    for (kind, file) in [
        ("AgentPool", "agentpools"),
        ("AgentInstance", "agentinstances"),
        ("AgentClaim", "agentclaims"),
    ] {
        let printed = Command::new(env!("CARGO_BIN_EXE_agentpool"))
            .args(["crds", "--kind", kind])
            .output()
            .unwrap();
        assert!(printed.status.success());
        let path = format!("{}/crds/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(
            kept == String::from_utf8(printed.stdout).unwrap(),
            "crds/{file}.yaml is stale: run `make gen`"
        );
    }
}

#[test]
fn without_a_kind_every_definition_is_printed_and_an_unknown_kind_is_refused() {
    let print = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentpool"));
        command.arg("crds").args(args).output().unwrap()
    };
    let all = String::from_utf8(print(&[]).stdout).unwrap();
    let kinds: Vec<Value> = serde_yaml::Deserializer::from_str(&all)
        .map(|d| serde::Deserialize::deserialize(d).unwrap())
        .collect();
    assert_eq!(kinds, crds());
    let refused = print(&["--kind", "AgentFool"]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(
        error.contains("--kind") && error.contains("AgentPool, AgentInstance, AgentClaim"),
        "{error}"
    );
}

#[test]
fn every_field_is_described() {
    let bare =
        found(|_, field, named| named && field["description"].as_str().is_none_or(str::is_empty));
    let bare: Vec<_> = bare
        .into_iter()
        // What every object has is the API server's to describe.
        .filter(|p| !p.ends_with(".apiVersion") && !p.ends_with(".kind") || p.contains(".spec"))
        .filter(|p| !p.ends_with(".metadata"))
        .collect();
    // The two roots are described by the kind's own text.
    let bare: Vec<_> = bare
        .into_iter()
        .filter(|p| p.matches('.').count() > 1)
        .collect();
    assert!(bare.is_empty(), "no description: {bare:#?}");
}

#[test]
fn every_number_string_list_and_map_has_bounds() {
    let loose = found(|path, field, _| {
        // Conditions are Kubernetes' own type.
        if path.contains(".conditions[]") || path.matches('.').count() < 2 && !path.contains('[') {
            return false;
        }
        let has = |key: &str| !field[key].is_null();
        match field["type"].as_str() {
            Some("string") => {
                !(has("enum")
                    || has("maxLength")
                    || has("format")
                    || field["pattern"]
                        .as_str()
                        .is_some_and(|p| p.ends_with("}$") || p.ends_with(")?$")))
            }
            // What we count ourselves has a floor; what people set has a ceiling too.
            Some("integer") => {
                !has("minimum")
                    || path.contains(".spec.")
                        && path != "AgentInstance.spec.turn"
                        && !has("maximum")
            }
            Some("array") => !has("maxItems"),
            Some("object") if has("additionalProperties") => !has("maxProperties"),
            _ => false,
        }
    });
    // Written by us alone; a bound would refuse the whole status for one value too many.
    let open = [
        "AgentPool.status.requests",
        "AgentPool.status.resolved{}",
        "AgentInstance.status.services{}",
        "AgentInstance.status.services{}{}",
    ];
    assert_eq!(loose, open);
}

#[test]
fn every_reference_to_an_object_is_a_legal_length() {
    let long = found(|path, field, _| {
        path.ends_with("Ref.name") && (field["maxLength"] != 253 || field["minLength"] != 1)
    });
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn nothing_is_nullable_and_every_format_is_known() {
    let formats = [json!("int32"), json!("int64"), json!("date-time")];
    let odd = found(|_, field, _| {
        field["nullable"] == true
            || !field["format"].is_null() && !formats.contains(&field["format"])
    });
    assert!(odd.is_empty(), "{odd:#?}");
}

#[test]
fn lists_of_objects_are_maps_by_key() {
    let plain = found(|_, field, _| {
        field["type"] == "array"
            && field["items"]["type"] == "object"
            && field["x-kubernetes-list-type"] != "map"
    });
    // Steps are ordered and may repeat a name.
    assert_eq!(plain, ["AgentInstance.status.operation.steps"]);
}

#[test]
fn enums_are_closed_in_spec_and_open_in_status() {
    let closed = found(|path, field, _| path.contains(".status.") && !field["enum"].is_null());
    assert!(
        closed.is_empty(),
        "a downgrade would block writes: {closed:#?}"
    );
}

#[test]
fn every_rule_says_what_to_do() {
    let mut rules = 0;
    for crd in crds() {
        let mut look = |path: &str, field: &Value, _| {
            for rule in field["x-kubernetes-validations"]
                .as_array()
                .into_iter()
                .flatten()
            {
                rules += 1;
                let message = rule["message"].as_str().unwrap_or_default();
                assert!(message.split(' ').count() > 3, "{path}: {rule}");
            }
        };
        look("", schema(&crd), false);
        each_field("", schema(&crd), &mut look);
    }
    assert!(rules > 30, "only {rules} rules were looked at");
}

#[test]
fn names_scope_and_subresources() {
    let crds = crds();
    let (pool, instance, claim) = (&crds[0]["spec"], &crds[1]["spec"], &crds[2]["spec"]);
    for (spec, plural, short) in [
        (pool, "agentpools", "ap"),
        (instance, "agentinstances", "ai"),
        (claim, "agentclaims", "ac"),
    ] {
        assert_eq!(spec["group"], "pool.convos.org");
        assert_eq!(spec["scope"], "Namespaced");
        assert_eq!(spec["names"]["plural"], plural);
        assert_eq!(spec["names"]["shortNames"], json!([short]));
        assert_eq!(spec["names"]["categories"], json!(["agentpool"]));
        assert_eq!(spec["versions"].as_array().unwrap().len(), 1);
        assert_eq!(spec["versions"][0]["name"], "v1alpha1");
        assert_eq!(spec["versions"][0]["subresources"]["status"], json!({}));
    }
    assert_eq!(
        pool["versions"][0]["subresources"]["scale"],
        json!({"specReplicasPath": ".spec.minIdle", "statusReplicasPath": ".status.idle", "labelSelectorPath": ".status.selector"})
    );
    assert_eq!(
        instance["versions"][0]["subresources"]["scale"],
        Value::Null
    );
    let selectable = |spec: &Value| -> Vec<String> {
        spec["versions"][0]["selectableFields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["jsonPath"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        selectable(claim),
        [
            ".spec.poolRef.name",
            ".spec.origin",
            ".spec.for",
            ".status.done"
        ]
    );
    assert_eq!(
        selectable(instance),
        [
            ".spec.poolRef.name",
            ".status.phase",
            ".spec.claim.id",
            ".spec.claim.ref"
        ]
    );
}
