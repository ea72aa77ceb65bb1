//! Tests of the settings. The environment of the test process is not read: clap's `env` is left to the tests of the binary.

use secrecy::ExposeSecret;

use clap::Parser;

use super::*;
use crate::http::{AgentsShape, PublicReads};

fn parse(args: &[&str], key: Option<&str>) -> Result<Invocation, ConfigError> {
    let cli = Cli::try_parse_from(std::iter::once(&"agentpool").chain(args)).unwrap();
    cli.validate(|name| key.filter(|_| name == API_KEY_VARIABLE).map(str::to_owned))
}

fn serve(args: &[&str], key: Option<&str>) -> Result<Config, String> {
    match parse(args, key) {
        Ok(Invocation::Serve(config)) => Ok(*config),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

/// About: E01
#[test]
fn defaults_by_role() {
    let api = serve(&["api"], Some("k\n")).unwrap();
    let http = api.api.unwrap();
    assert_eq!(
        (http.port, api.operations_port, api.role),
        (3001, 9102, Role::Api)
    );
    assert_eq!(
        (
            api.namespace,
            api.release_namespace.as_str(),
            api.root_key_secret.as_str()
        ),
        (None, "default", "agentpool-root-key")
    );
    assert!(matches!(http.key, ApiKeySource::Value(key) if key.expose_secret() == "k"));
    assert_eq!(http.settings, Settings::default());
    let controller = serve(
        &["controller", "--namespace", "agents", "--release", "mine"],
        None,
    )
    .unwrap();
    assert_eq!(
        (controller.operations_port, controller.api.is_none()),
        (9101, true)
    );
    assert_eq!(
        (
            controller.release_namespace.as_str(),
            controller.root_key_secret.as_str()
        ),
        ("agents", "mine-root-key")
    );
    assert_eq!(
        serve(&["run", "--insecure-no-auth"], None)
            .unwrap()
            .operations_port,
        9102
    );
    assert!(
        matches!(parse(&["crds", "--kind", "AgentPool"], None), Ok(Invocation::Crds { kind: Some(kind) }) if kind == "AgentPool")
    );
}

#[test]
fn without_exactly_one_key_it_refuses_to_start() {
    for (args, key) in [
        (&["api"][..], None),
        (&["api"], Some("  ")),
        (&["api", "--api-key-file", "f"], Some("k")),
        (
            &["api", "--api-key-file", "f", "--api-key-secret", "s"],
            None,
        ),
        (&["api", "--insecure-no-auth"], Some("k")),
    ] {
        let text = serve(args, key).unwrap_err();
        assert!(
            text.contains("--api-key-secret")
                && text.contains("--insecure-no-auth")
                && !text.contains('\n'),
            "{text}"
        );
    }
    let file = serve(&["api", "--api-key-file", "f"], None).unwrap();
    assert!(matches!(file.api.unwrap().key, ApiKeySource::File(f) if f.as_os_str() == "f"));
    let secret = serve(&["api", "--api-key-secret", "s"], Some("")).unwrap();
    assert!(matches!(secret.api.unwrap().key, ApiKeySource::Secret(s) if s == "s"));
}

#[test]
fn every_rejected_value_names_its_flag() {
    for (flag, value) in [
        ("--namespace", "Agents"),
        ("--release", "-x"),
        ("--release-namespace", "a/b"),
        ("--root-key-secret", "a b"),
        ("--cluster-id", "a/b"),
        ("--railway-url", "backboard"),
        ("--railway-url", "https://u:p@x.org"),
        ("--sprites-url", "api.sprites.dev"),
        ("--sprites-url", "https://x.org/v1"),
        ("--agent-connect-to", "localhost"),
        ("--agent-connect-to", "localhost:0"),
        ("--public-url", "ftp://x"),
        ("--log-level", "agentpool=loud"),
        ("--default-pool", "staging"),
        ("--default-pool", "a/b/c"),
        ("--cors-origins", "https://x.org/path"),
        ("--api-key-secret", "A"),
        ("--operations-port", "3001"),
    ] {
        let text = serve(&["api", &format!("{flag}={value}")], Some("k")).unwrap_err();
        assert!(text.starts_with(flag), "{flag} {value}: {text}");
    }
}

#[test]
fn values_are_read() {
    let args = "api --port 0 --operations-port 0 --listen 127.0.0.1 --default-pool agents/staging --agents-shape List \
        --public-reads Redacted --cors-origins https://a.org/,http://LOCALHOST:3000 --public-url https://pool.org/ \
        --agent-connect-to localhost:9400 --log-format json --environment staging --namespace= --ports-file p.json";
    let config = serve(&args.split_whitespace().collect::<Vec<_>>(), Some("k")).unwrap();
    let api = config.api.unwrap();
    assert_eq!(
        (api.port, config.operations_port, config.namespace),
        (0, 0, None)
    );
    assert_eq!(config.public_url.as_deref(), Some("https://pool.org"));
    assert_eq!(
        api.settings.cors_origins,
        ["https://a.org", "http://localhost:3000"]
    );
    assert_eq!(
        api.settings.default_pool,
        Some(PoolKey {
            namespace: "agents".into(),
            name: "staging".into()
        })
    );
    assert_eq!(
        (api.settings.agents_shape, api.settings.public_reads),
        (AgentsShape::List, PublicReads::Redacted)
    );
    assert_eq!(
        (config.log_format, api.settings.environment.as_deref()),
        (LogFormat::Json, Some("staging"))
    );
}

#[test]
fn an_orphan_is_left_alone_for_ten_minutes_unless_told_otherwise() {
    let grace = |args: &[&str]| serve(args, None).unwrap().sweep_grace;
    let default = crate::domain::sweep::GRACE;
    assert_eq!(grace(&["controller"]), default);
    assert_eq!(default, Duration::from_secs(600));
    let flag = "--sweep-grace-seconds";
    assert_eq!(grace(&["controller", flag, "1"]), Duration::from_secs(1));
    for refused in ["0", "86401", "x"] {
        let parsed = Cli::try_parse_from(["agentpool", "controller", flag, refused]);
        assert!(parsed.is_err(), "{refused}");
    }
}

#[test]
fn a_claim_needs_the_key_and_an_address() {
    let order = |args: &[&str], key| match parse(&[&["claim"], args].concat(), key) {
        Ok(Invocation::Claim(order)) => Ok(*order),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.flag),
    };
    let made = order(
        &["--api-url", "http://pool:80/", "--pool", "a/b"],
        Some("k"),
    )
    .unwrap();
    assert_eq!(
        (made.api_url.as_str(), made.pool.as_deref(), made.destroy),
        ("http://pool:80", Some("a/b"), false)
    );
    assert_eq!(order(&[], None).unwrap_err(), API_KEY_VARIABLE);
    assert_eq!(order(&["--pool", "b"], Some("k")).unwrap_err(), "--pool");
    assert_eq!(
        order(&["--api-url", "pool:80"], Some("k")).unwrap_err(),
        "--api-url"
    );
}
