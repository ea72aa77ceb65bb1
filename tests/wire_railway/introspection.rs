//! An introspection's JSON as the schema language that apollo-compiler reads. Descriptions and deprecations are left out.

use serde_json::Value;

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn of(kind: &Value) -> String {
    match kind["kind"].as_str() {
        Some("NON_NULL") => format!("{}!", of(&kind["ofType"])),
        Some("LIST") => format!("[{}]", of(&kind["ofType"])),
        _ => name(kind).to_owned(),
    }
}

fn inputs(values: &Value) -> String {
    let one = |value: &Value| {
        let default = value["defaultValue"].as_str();
        let default = default.map(|d| format!(" = {d}")).unwrap_or_default();
        format!("{}: {}{default}", name(value), of(&value["type"]))
    };
    list(values).map(one).collect::<Vec<_>>().join(" ")
}

fn fields(kind: &Value) -> String {
    let one = |field: &Value| {
        let arguments = inputs(&field["args"]);
        let arguments = match arguments.as_str() {
            "" => String::new(),
            some => format!("({some})"),
        };
        format!("{}{arguments}: {}", name(field), of(&field["type"]))
    };
    list(&kind["fields"])
        .map(one)
        .collect::<Vec<_>>()
        .join("\n")
}

fn names(values: &Value, between: &str) -> String {
    list(values).map(name).collect::<Vec<_>>().join(between)
}

/// The schema language of an introspection: `{"data": {"__schema": …}}`, or what is in it.
pub fn sdl(introspection: &Value) -> String {
    let schema = ["/data/__schema", "/__schema"]
        .iter()
        .find_map(|path| introspection.pointer(path))
        .expect("an introspection");
    let root = |kind: &str| {
        let name = schema[format!("{kind}Type")]["name"].as_str()?;
        Some(format!("{kind}: {name}\n"))
    };
    let roots: String = ["query", "mutation", "subscription"]
        .into_iter()
        .filter_map(root)
        .collect();
    let mut text = format!("schema {{\n{roots}}}\n");
    for kind in list(&schema["types"]) {
        let called = name(kind);
        if called.starts_with("__") || ["String", "Int", "Float", "Boolean", "ID"].contains(&called)
        {
            continue;
        }
        let implements = match names(&kind["interfaces"], " & ").as_str() {
            "" => String::new(),
            some => format!(" implements {some}"),
        };
        text += &match kind["kind"].as_str().unwrap_or_default() {
            "OBJECT" => format!("type {called}{implements} {{\n{}\n}}\n", fields(kind)),
            "INTERFACE" => format!("interface {called}{implements} {{\n{}\n}}\n", fields(kind)),
            "INPUT_OBJECT" => {
                format!("input {called} {{\n{}\n}}\n", inputs(&kind["inputFields"]))
            }
            "ENUM" => format!("enum {called} {{ {} }}\n", names(&kind["enumValues"], " ")),
            "UNION" => format!(
                "union {called} = {}\n",
                names(&kind["possibleTypes"], " | ")
            ),
            _ => format!("scalar {called}\n"),
        };
    }
    text
}
