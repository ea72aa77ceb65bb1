//! Imports point one way: every `crate::` path of every source file is held against the table of the house style.
//!
//! api ← domain ← {provider, runtime, services} ← k8s ← {claim, operations} ← controllers ← http ← app ← main;
//! `clock` and `telemetry` are leaves that all but `api` and `domain` may use, `outbound` is one for the clients of
//! the outside world and the only file that names reqwest; the simulator shares nothing with the
//! library.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
const SIMULATOR: &str = "bin/agentpool-simulator/";

/// What each module may use beside itself. A module that is not here fails the test.
const TABLE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("clock", &[]),
    ("outbound", &[]),
    ("telemetry", &[]),
    ("domain", &["api"]),
    (
        "provider",
        &["api", "domain", "clock", "outbound", "telemetry"],
    ),
    (
        "runtime",
        &["api", "domain", "clock", "outbound", "telemetry"],
    ),
    (
        "services",
        &["api", "domain", "clock", "outbound", "telemetry"],
    ),
    ("k8s", &["api", "clock", "telemetry"]),
    (
        "claim",
        &[
            "api",
            "domain",
            "k8s",
            "runtime",
            "provider",
            "clock",
            "telemetry",
        ],
    ),
    (
        "operations",
        &["api", "domain", "k8s", "clock", "telemetry"],
    ),
    (
        "controllers",
        &[
            "api",
            "domain",
            "provider",
            "runtime",
            "services",
            "k8s",
            "claim",
            "operations",
            "clock",
            "telemetry",
        ],
    ),
    (
        "http",
        &["api", "domain", "claim", "operations", "clock", "telemetry"],
    ),
    // Composition: these put the parts together, and nothing below imports them.
    ("config", EVERYTHING),
    ("app", EVERYTHING),
    ("main", EVERYTHING),
    ("lib", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "api",
    "app",
    "claim",
    "clock",
    "config",
    "controllers",
    "domain",
    "http",
    "k8s",
    "operations",
    "outbound",
    "provider",
    "runtime",
    "services",
    "telemetry",
];

/// Single paths that the table forbids and that stand nevertheless, each with its reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "k8s/secret.rs",
        "crate::domain::token::RootKey",
        "the root key is a value and no decision: the type that keeps its bytes from being printed is made where they are read",
    ),
    (
        "k8s/secret.rs",
        "crate::domain::token::Purpose",
        "what a token is for goes with the key: tokens that were brought along are asked for where the key is",
    ),
    (
        "k8s/secret.rs",
        "crate::domain::token::IMPORTED",
        "the name of the key under which tokens that were brought along are recorded",
    ),
];

/// Paths that a module may not use although the table allows their module.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    (
        "claim",
        "crate::provider::railway",
        "a claim knows no concrete provider",
    ),
    (
        "claim",
        "crate::provider::sprites",
        "a claim knows no concrete provider",
    ),
    (
        "controllers",
        "crate::provider::railway",
        "only app knows which providers there are",
    ),
    (
        "controllers",
        "crate::provider::sprites",
        "only app knows which providers there are",
    ),
    (
        "provider",
        "crate::domain::instance",
        "a provider uses the words of requests and observations, no decision",
    ),
    (
        "provider",
        "crate::domain::pool",
        "a provider uses the words of requests and observations, no decision",
    ),
    (
        "runtime",
        "crate::domain::instance",
        "the runtime client uses the words of observations, no decision",
    ),
    (
        "runtime",
        "crate::domain::pool",
        "the runtime client uses the words of observations, no decision",
    ),
];

/// What makes a module impure.
const IMPURE: &[&str] = &[
    "tokio::",
    "tokio_util::",
    "futures::",
    "async_trait::",
    "reqwest::",
    "hyper::",
    "axum::",
    "tower::",
    "tracing::",
    "rand::",
    "kube_runtime::",
    "kube::Api",
    "kube::Client",
    "kube::api::",
    "kube::client::",
    "kube::runtime",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::sync::Mutex",
    "Timestamp::now",
    "Zoned::now",
    "Instant::now",
    "SystemTime",
    "async fn",
    ".await",
    "println!",
];

/// One forbidden line.
fn offence(path: &str, number: usize, line: &str, why: &str) -> String {
    format!("src/{path}:{number}: `{}`: {why}", line.trim())
}

/// The module that a file belongs to: the first part of its path.
fn module_of(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// How deep a file's module is below the crate's root.
fn depth_of(path: &str) -> usize {
    let parts = path.split('/').count();
    if path.ends_with("/mod.rs") {
        parts - 1
    } else {
        parts
    }
}

/// The text without comments and documentation; every line stays where it is.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| match line.find("//") {
            // Not the one in an address.
            Some(at) if !line[..at].ends_with(':') => &line[..at],
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn ident(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The paths that begin at `text`, groups resolved: `{a::B, c}` is `a::B` and `c`.
fn paths(text: &str) -> Vec<String> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut start, mut all) = (0, 0, vec![]);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    all.extend(paths(&group[start..at]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    all.extend(paths(&group[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
        return all;
    }
    let head = ident(text);
    let Some(rest) = text[head.len()..].strip_prefix("::") else {
        return vec![head.to_owned()];
    };
    let tails = paths(rest);
    tails.iter().map(|tail| format!("{head}::{tail}")).collect()
}

/// Every path to a module of ours, with its line: `crate::x::Y`, and `super::…` where it climbs to the root.
fn uses(path: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = vec![];
    let line_of = |at: usize| text[..at].matches('\n').count() + 1;
    for root in ["crate::", "agentpool::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '$') {
                for p in paths(&text[at + root.len()..]) {
                    found.push((line_of(at), format!("crate::{p}")));
                }
            }
        }
    }
    let climb = "super::".repeat(depth_of(path));
    for (at, _) in text.match_indices(&climb) {
        for p in paths(&text[at + climb.len()..]) {
            if EVERYTHING.contains(&ident(&p)) {
                found.push((line_of(at), format!("crate::{p}")));
            }
        }
    }
    found
}

/// Whether `path` is `prefix` or below it.
fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What one file of the library does that it may not.
fn check(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    let Some((_, allowed)) = TABLE.iter().find(|(m, _)| *m == module) else {
        return vec![format!("src/{path}: module {module} is not in the table")];
    };
    let text = without_comments(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut offences = vec![];
    for (number, used) in uses(path, &text) {
        let target = used.split("::").nth(1).unwrap_or_default();
        let excepted = EXCEPTIONS
            .iter()
            .any(|(file, p, _)| *file == path && *p == used);
        let line = lines.get(number - 1).copied().unwrap_or_default();
        // What is not a module is an item of the crate's root: there are none.
        if EVERYTHING.contains(&target)
            && target != module
            && !allowed.contains(&target)
            && !excepted
        {
            let why = format!("{module} may not use {used}");
            offences.push(offence(path, number, line, &why));
        }
        for (_, p, why) in FORBIDDEN.iter().filter(|(m, _, _)| *m == module) {
            if below(&used, p) {
                offences.push(offence(path, number, line, why));
            }
        }
    }
    if module != "outbound" {
        for (number, line) in lines.iter().enumerate() {
            if line.contains("reqwest::") {
                let why = "only outbound speaks HTTP: the simulation has no sockets";
                offences.push(offence(path, number + 1, line, why));
            }
        }
    }
    if matches!(module, "api" | "domain") {
        for (number, line) in lines.iter().enumerate() {
            for word in IMPURE.iter().filter(|w| line.contains(**w)) {
                let why = format!("{module} is pure: no {word}");
                offences.push(offence(path, number + 1, line, &why));
            }
        }
    }
    offences
}

/// What one file of the simulator does that it may not: use the library.
fn check_simulator(path: &str, text: &str) -> Vec<String> {
    let text = without_comments(text);
    let is_use = |line: &str| {
        line.match_indices("agentpool::").any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
        }) || line.trim_start().starts_with("use agentpool")
            || line.contains("extern crate")
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| is_use(line))
        .map(|(at, line)| {
            let why = "the simulator is the other side of the contract: it shares nothing";
            offence(path, at + 1, line, why)
        })
        .collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
    all.sort();
    all
}

#[test]
fn imports_point_one_way() {
    let mut offences = vec![];
    let mut seen = 0;
    for file in files(Path::new(ROOT)) {
        let path = file.strip_prefix(ROOT).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        seen += 1;
        offences.extend(if path.starts_with(SIMULATOR) {
            check_simulator(path, &text)
        } else {
            check(path, &text)
        });
    }
    assert!(seen > 50, "only {seen} files found below {ROOT}");
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn every_exception_is_still_needed() {
    for (path, used, why) in EXCEPTIONS {
        let text = without_comments(&fs::read_to_string(format!("{ROOT}/{path}")).unwrap());
        assert!(
            uses(path, &text).iter().any(|(_, p)| p == used),
            "src/{path} no longer uses {used} ({why}): drop the exception"
        );
    }
}

#[test]
fn the_scanner_finds_what_is_forbidden() {
    let bad: &[(&str, &str)] = &[
        ("domain/x.rs", "use crate::k8s::patch;"),
        ("domain/x.rs", "use tokio::time::sleep;"),
        ("domain/x.rs", "let t = jiff::Timestamp::now();"),
        ("domain/x.rs", "use crate::clock::Clock;"),
        ("api/x.rs", "use crate::domain::plan::Facts;"),
        ("provider/railway/x.rs", "use crate::runtime::wire;"),
        ("provider/x.rs", "use crate::domain::instance::decide;"),
        ("runtime/x.rs", "let a = crate::provider::Caps {};"),
        ("k8s/patch.rs", "use crate::domain::token::RootKey;"),
        (
            "k8s/secret.rs",
            "use crate::domain::instance::phase::Phase;",
        ),
        (
            "claim/x.rs",
            "use crate::provider::railway::RailwayProvider;",
        ),
        (
            "claim/x.rs",
            "use crate::{\n    api,\n    operations::{self, drain},\n};",
        ),
        ("operations/x.rs", "use crate::claim::Reservations;"),
        ("controllers/x.rs", "use crate::http::AppState;"),
        (
            "controllers/instance/x.rs",
            "use super::super::super::http::AppState;",
        ),
        ("http/x.rs", "use crate::controllers::Ctx;"),
        ("http/x.rs", "use crate::app::run;"),
        ("telemetry/x.rs", "use crate::api::AgentPool;"),
        ("runtime/client.rs", "let client = reqwest::Client::new();"),
        ("controllers/x.rs", "use crate::outbound::Outbound;"),
        ("novel/x.rs", ""),
    ];
    for (path, text) in bad {
        assert!(!check(path, text).is_empty(), "not found: {path}: {text}");
    }
    let line = &check("http/x.rs", "\n\nuse crate::controllers::Ctx;")[0];
    assert!(
        line.starts_with("src/http/x.rs:3: `use crate::controllers::Ctx;`"),
        "{line}"
    );
    for text in ["use agentpool::api;", "let x = agentpool::domain::plan();"] {
        assert!(!check_simulator("bin/agentpool-simulator/x.rs", text).is_empty());
    }
}

#[test]
fn the_scanner_lets_the_rest_be() {
    let good: &[(&str, &str)] = &[
        ("domain/x.rs", "use crate::api::AgentPool;"),
        (
            "domain/x.rs",
            "// use crate::k8s::patch; and tokio::time::sleep",
        ),
        ("domain/instance/x.rs", "use super::super::plan::Facts;"),
        ("k8s/secret.rs", "use crate::domain::token::RootKey;"),
        ("claim/x.rs", "use crate::provider::AgentProvider;"),
        ("app.rs", "use crate::provider::railway::RailwayProvider;"),
        ("main.rs", "use agentpool::config::Config;"),
        ("telemetry/x.rs", "crate::telemetry::Metrics::new()"),
    ];
    for (path, text) in good {
        assert_eq!(check(path, text), Vec::<String>::new(), "{path}: {text}");
    }
    assert!(check_simulator("x.rs", "name = \"agentpool-simulator\"").is_empty());
}
