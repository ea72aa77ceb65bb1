//! The files and services of an agent inside its sprite. Pure: secrets go in and into the files, and nowhere else.

use std::collections::BTreeMap;

use serde_json::json;

use crate::api::agent_pool::KeepAwake;
use crate::domain::template::Template;
use crate::provider::Inputs;

use super::AGENT_PORT;
use super::wire::Definition;

/// The service that is the agent.
pub const GATEWAY: &str = "gateway";
/// The service that keeps a claimed agent awake.
pub const HOLD: &str = "hold";
/// The task by which it does.
pub const TASK: &str = "agentpool";

/// The gateway's token where the pool wants none: the predecessor's word.
const NO_TOKEN: &str = "pool-managed";

/// A file below the home directory.
pub fn at(home: &str, path: &str) -> String {
    format!("{}/{path}", home.trim_end_matches('/'))
}

/// The instructions of a claim, below the home directory.
pub const INSTRUCTIONS: &str = ".openclaw/workspace/INSTRUCTIONS.md";
/// The gateway's configuration.
pub const CONFIG: &str = ".openclaw/openclaw.json";
/// The gateway's variables.
pub const ENV: &str = ".openclaw/.env";
/// Written after the checkpoint and before a restore: its absence proves the restore.
pub const MARKER: &str = ".agentpool/recycling";

/// `openclaw.json`. Reloading is off: a creation writes this file, and a gateway that reloads dies in the middle.
pub fn config(template: &Template, inputs: &Inputs) -> String {
    let variable = |name: &str| inputs.variables.get(name).map(String::as_str);
    let network = match variable("XMTP_ENV") {
        Some(given) => given.to_owned(),
        None => template.xmtp_env(),
    };
    let token = variable("GATEWAY_TOKEN");
    let mut convos = json!({ "enabled": true, "env": network });
    if let Some(token) = token {
        convos["poolApiKey"] = token.into();
    }
    json!({
        "auth": {"profiles": {"anthropic:default": {"provider": "anthropic", "mode": "token"}}},
        "channels": {"convos": convos},
        "plugins": {"entries": {"convos": {"enabled": true}}},
        "gateway": {
            "mode": "local", "port": AGENT_PORT, "bind": "lan",
            "auth": {"token": token.unwrap_or(NO_TOKEN)}, "reload": {"mode": "off"},
        },
    })
    .to_string()
}

/// `.env`: what the pool's `runtime.env` gives the agent. Err: a value that the shell would not read as it is.
pub fn env(template: &Template, inputs: &Inputs) -> Result<String, String> {
    let mut lines = BTreeMap::new();
    for name in template.runtime.env.iter().map(|e| e.name.as_str()) {
        // The network is in the configuration.
        let Some(value) = inputs.variables.get(name).filter(|_| name != "XMTP_ENV") else {
            continue;
        };
        lines.insert(name, format!("{name}={}\n", quoted(name, value)?));
    }
    Ok(lines.into_values().collect())
}

fn quoted(name: &str, value: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,=-".contains(c);
    if value.chars().all(plain) {
        return Ok(value.to_owned());
    }
    if value.contains(['\'', '\n', '\r', '\0']) {
        return Err(format!(
            "runtime.env {name}: the value has a single quote or a line break, which the agent's .env file cannot hold: remove it"
        ));
    }
    Ok(format!("'{value}'"))
}

/// The gateway as a service. It is what comes back by itself after a crash, a cold wake and a restore.
pub fn gateway(home: &str) -> Definition {
    let command = format!(
        "set -a; . \"$HOME/{ENV}\"; exec \"$HOME/.local/bin/openclaw\" gateway run --port {AGENT_PORT}"
    );
    Definition {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-c".to_owned(), command],
        env: environment(home),
        dir: home.to_owned(),
        needs: vec![],
        http_port: Some(AGENT_PORT),
    }
}

/// What keeps a claimed agent awake without us, as a service; `None`: the pool wants none held.
pub fn hold(home: &str, keep: KeepAwake) -> Option<Definition> {
    if keep == KeepAwake::Never {
        return None;
    }
    let task = hold_command("5m");
    let command = format!(
        "while :; do if [ -e \"$HOME/{INSTRUCTIONS}\" ]; then {task} >/dev/null 2>&1; fi; sleep 10; done"
    );
    Some(Definition {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-c".to_owned(), command],
        env: environment(home),
        dir: home.to_owned(),
        needs: vec![],
        http_port: None,
    })
}

/// The command that keeps a sprite awake for that long, from inside.
pub fn hold_command(expire: &str) -> String {
    format!("sprite-env curl -X PUT /v1/tasks/{TASK} -d '{{\"expire\":\"{expire}\"}}'")
}

fn environment(home: &str) -> BTreeMap<String, String> {
    [("HOME", home), ("OPENCLAW_HIDE_BANNER", "1")]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// The branch or tag that the set-up builds: the pool's word, else main in production and staging elsewhere.
pub fn git_ref(template: &Template) -> &str {
    let sprites = template.provider.sprites.as_ref();
    match sprites.and_then(|s| s.source.as_ref()) {
        Some(source) => &source.git.reference,
        None if crate::domain::template::is_production(&template.environment) => "main",
        None => "staging",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(environment: &str, sprites: serde_json::Value, env: serde_json::Value) -> Template {
        let mut all = json!({"tokenSecretRef": {"name": "t"}});
        all.as_object_mut()
            .unwrap()
            .extend(sprites.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "environment": environment, "environmentCode": "stg", "namePrefix": "convos-agent",
            "provider": {"sprites": all}, "runtime": {"env": env},
        }))
        .unwrap()
    }

    fn inputs(pairs: &[(&str, &str)]) -> Inputs {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Inputs {
            variables: pairs.collect(),
            ..Inputs::default()
        }
    }

    #[test]
    fn the_configuration_has_the_token_twice_and_does_not_reload() {
        let template = template("staging", json!({}), json!([]));
        let text = config(
            &template,
            &inputs(&[("GATEWAY_TOKEN", "tok"), ("XMTP_ENV", "dev")]),
        );
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let want = json!({
            "auth": {"profiles": {"anthropic:default": {"provider": "anthropic", "mode": "token"}}},
            "channels": {"convos": {"enabled": true, "env": "dev", "poolApiKey": "tok"}},
            "plugins": {"entries": {"convos": {"enabled": true}}},
            "gateway": {"mode": "local", "port": 8080, "bind": "lan", "auth": {"token": "tok"}, "reload": {"mode": "off"}},
        });
        assert_eq!(read, want);
        let open = config(&template, &inputs(&[]));
        assert!(open.contains("pool-managed") && !open.contains("poolApiKey"));
    }

    #[test]
    fn the_network_follows_the_environment_and_an_override() {
        let of = |environment: &str, pairs: &[(&str, &str)]| {
            let text = config(&template(environment, json!({}), json!([])), &inputs(pairs));
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            read["channels"]["convos"]["env"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(of("production", &[]), "production");
        assert_eq!(of("staging", &[]), "dev");
        assert_eq!(of("staging", &[("XMTP_ENV", "production")]), "production");
    }

    #[test]
    fn the_env_file_holds_the_pool_s_variables_and_nothing_else() {
        let env_of = |value: &str| {
            let names = json!([{"name": "ANTHROPIC_API_KEY", "value": "x"}, {"name": "XMTP_ENV", "value": "dev"}]);
            let template = template("staging", json!({}), names);
            let given = inputs(&[
                ("ANTHROPIC_API_KEY", value),
                ("XMTP_ENV", "dev"),
                ("GATEWAY_TOKEN", "tok"),
            ]);
            env(&template, &given)
        };
        assert_eq!(env_of("sk-ant-1").unwrap(), "ANTHROPIC_API_KEY=sk-ant-1\n");
        assert_eq!(
            env_of("a $b `c` \"d\"").unwrap(),
            "ANTHROPIC_API_KEY='a $b `c` \"d\"'\n"
        );
        for refused in ["it's", "two\nlines"] {
            let why = env_of(refused).unwrap_err();
            assert!(
                why.contains("ANTHROPIC_API_KEY") && !why.contains(refused),
                "{why}"
            );
        }
    }

    #[test]
    fn the_git_ref_follows_the_environment_and_an_override() {
        let of =
            |environment, sprites| git_ref(&template(environment, sprites, json!([]))).to_owned();
        assert_eq!(of("production", json!({})), "main");
        assert_eq!(of("staging", json!({})), "staging");
        assert_eq!(of("dev", json!({})), "staging");
        assert_eq!(
            of("production", json!({"source": {"git": {"ref": "v1.2"}}})),
            "v1.2"
        );
    }

    #[test]
    fn nobody_is_held_where_the_pool_says_never() {
        assert!(hold("/home/sprite", KeepAwake::Never).is_none());
        let held = hold("/home/sprite", KeepAwake::Claimed).unwrap();
        assert!(
            held.args[1].contains("INSTRUCTIONS.md")
                && held.args[1].contains("/v1/tasks/agentpool")
        );
        assert_eq!(held.http_port, None);
    }
}
