//! The CEL rules of our kinds, natively; the parity test holds them against the real ones.

use serde_json::Value;

/// A rule about a change: whether old (none at creation) and new are allowed.
type Rule = (&'static str, fn(&Value, &Value) -> bool);

fn spec<'a>(object: &'a Value, field: &str) -> &'a Value {
    &object["spec"][field]
}

fn has(object: &Value, field: &str) -> bool {
    !spec(object, field).is_null()
}

fn turn(object: &Value) -> i64 {
    spec(object, "turn").as_i64().unwrap_or(1)
}

const INSTANCE: &[Rule] = &[
    ("spec.id is immutable", |old, new| {
        spec(old, "id") == spec(new, "id")
    }),
    ("spec.poolRef is immutable", |old, new| {
        spec(old, "poolRef") == spec(new, "poolRef")
    }),
    ("spec.providerName is immutable", |old, new| {
        spec(old, "providerName") == spec(new, "providerName")
    }),
    ("spec.template is immutable", |old, new| {
        spec(old, "template") == spec(new, "template")
    }),
    ("spec.provider is immutable", |old, new| {
        spec(old, "provider") == spec(new, "provider")
    }),
    ("spec.turn rises by one", |old, new| {
        (turn(old)..=turn(old) + 1).contains(&turn(new))
    }),
    (
        "spec.turn rises only in the write that clears spec.claim",
        |old, new| turn(old) == turn(new) || !has(new, "claim"),
    ),
    (
        "spec.claim can be set only while status.turn equals spec.turn",
        |old, new| {
            !has(new, "claim")
                || has(old, "claim")
                || new["status"]["turn"].as_i64() == Some(turn(new))
        },
    ),
    ("a claim is never changed into another", |old, new| {
        !has(new, "claim") || !has(old, "claim") || spec(new, "claim") == spec(old, "claim")
    }),
    (
        "spec.claim is removed only together with a higher spec.turn",
        |old, new| !has(old, "claim") || has(new, "claim") || turn(new) > turn(old),
    ),
    ("status.turn cannot be ahead of spec.turn", |_, new| {
        new["status"]["turn"]
            .as_i64()
            .is_none_or(|t| t <= turn(new))
    }),
];

const POOL: &[Rule] = &[
    ("spec.environment is immutable", |old, new| {
        spec(old, "environment") == spec(new, "environment")
    }),
    ("spec.environmentCode is immutable", |old, new| {
        spec(old, "environmentCode") == spec(new, "environmentCode")
    }),
    ("spec.namePrefix is immutable", |old, new| {
        spec(old, "namePrefix") == spec(new, "namePrefix")
    }),
    ("the provider's key is immutable", |old, new| {
        let keys = |o: &Value| {
            spec(o, "provider")
                .as_object()
                .map(|p| p.keys().cloned().collect::<Vec<_>>())
        };
        keys(old) == keys(new)
    }),
    ("maxTotal is at least minIdle", |_, new| enough(new)),
];

fn enough(pool: &Value) -> bool {
    let number = |field| spec(pool, field).as_i64();
    number("maxTotal").is_none_or(|max| number("minIdle").is_none_or(|min| max >= min))
}

/// The first rule that a change breaks; `old` is none at creation.
pub(super) fn broken(plural: &str, old: Option<&Value>, new: &Value) -> Option<&'static str> {
    let rules = match plural {
        "agentinstances" => INSTANCE,
        "agentpools" => POOL,
        _ => &[],
    };
    match old {
        Some(old) => rules
            .iter()
            .find(|(_, holds)| !holds(old, new))
            .map(|(name, _)| *name),
        None if plural == "agentinstances"
            && has(new, "claim")
            && spec(new, "restored") != true =>
        {
            Some("spec.claim is set by a claim on an Idle instance, never at creation")
        }
        None if plural == "agentpools" && !enough(new) => Some("maxTotal is at least minIdle"),
        None => None,
    }
}
