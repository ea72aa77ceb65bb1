//! The commands that do one thing and end: what the chart's Jobs run, and people by hand.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::Request;
use hyper::body::Bytes;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::{Api, Client};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::prerequisites::crds_installed;
use crate::api::{AgentPool, MANAGER_CHART};
use crate::clock::Clock;
use crate::config::{ClaimOrder, PoolFile};
use crate::k8s::error::{chain, within};
use crate::outbound::{Answer, Connections, Fault, Http, Outbound};

/// How long is waited for what is just being installed: definitions, rights, pods.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// One call to the API server.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// One call to the API: more than a pool's default deadline for a claim with its wait.
const CLAIM_LIMIT: Duration = Duration::from_secs(200);
/// The largest answer of the API that is read.
const BODY_MAX: usize = 256 * 1024;

/// Applies the AgentPools of a file, in their order. What the file does not name is left alone.
pub async fn apply(file: PoolFile) -> Result<()> {
    let text = std::fs::read_to_string(&file.path)
        .with_context(|| format!("cannot read {}", file.path.display()))?;
    let pools = pools_of(&text).with_context(|| format!("{}", file.path.display()))?;
    let client = Client::try_default()
        .await
        .context("no cluster: set KUBECONFIG, or run in a pod with a service account")?;
    let clock = Clock::system();
    for pool in &pools {
        let end = clock.monotonic() + PATIENCE;
        while let Err(failed) = apply_one(&client, pool).await {
            if failed.last || clock.monotonic() >= end {
                bail!(failed.text);
            }
            clock.sleep(AGAIN).await;
        }
        println!("agentpool {} applied", title(pool));
    }
    Ok(())
}

fn title(pool: &Value) -> String {
    let word = |key: &str| pool["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", word("namespace"), word("name"))
}

/// The documents of a file. All of them are AgentPools that name their namespace, or none is applied.
fn pools_of(text: &str) -> Result<Vec<Value>> {
    let mut pools = vec![];
    for document in serde_yaml::Deserializer::from_str(text) {
        let pool = Value::deserialize(document).context("it is not YAML")?;
        if pool.is_null() {
            continue;
        }
        let has = |key: &str| {
            pool["metadata"][key]
                .as_str()
                .is_some_and(|t| !t.is_empty())
        };
        if pool["kind"] != "AgentPool" || !has("name") || !has("namespace") {
            bail!("only AgentPools with metadata.name and metadata.namespace may stand in it");
        }
        pools.push(pool);
    }
    Ok(pools)
}

/// Why a pool could not be applied, and whether trying again would change nothing.
struct Failed {
    text: String,
    last: bool,
}

async fn apply_one(client: &Client, pool: &Value) -> Result<(), Failed> {
    let word = |key: &str| pool["metadata"][key].as_str().unwrap_or_default();
    let wait = |text| Failed { text, last: false };
    crds_installed(client).await.map_err(wait)?;
    let api: Api<AgentPool> = Api::namespaced(client.clone(), word("namespace"));
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(MANAGER_CHART).force()
    };
    let doing = || format!("apply pool {}", title(pool));
    let patch = Patch::Apply(pool);
    let applied = api.patch(word("name"), &params, &patch);
    match within(CALL_LIMIT, doing, applied).await {
        Ok(_) => Ok(()),
        // Rights, definitions and the namespace may be on their way.
        Err(error) => Err(Failed {
            last: !(error.is_transient()
                || error.is_forbidden()
                || error.is_gone()
                || error.is_conflict()),
            text: chain(&error),
        }),
    }
}

/// Claims an agent over HTTP, prints the answer, and destroys the agent where that is asked for.
pub async fn claim(order: ClaimOrder) -> Result<()> {
    let http = Http::new(Connections {
        connect: Duration::from_secs(5),
        idle: (0, Duration::ZERO),
        http1_only: true,
        direct: true,
        body_max: BODY_MAX,
    })?;
    let clock = Clock::system();
    let mut body = json!({"agentName": order.agent_name, "instructions": order.instructions, "source": "command"});
    if let Some(pool) = &order.pool {
        body["pool"] = json!(pool);
    }
    let end = clock.monotonic() + PATIENCE;
    let answer = loop {
        let request = request("POST", &order, "/api/pool/claim", &body)?;
        match http.send(request, CLAIM_LIMIT).await {
            // Nothing was sent: the pods are just starting.
            Err(Fault::NotConnected { .. }) if clock.monotonic() < end => {
                clock.sleep(AGAIN).await;
            }
            other => break other,
        }
    };
    let claimed = read(answer, "POST /api/pool/claim")?;
    println!("{}", without_token(claimed.clone()));
    if order.destroy {
        let id = claimed["instanceId"].as_str().unwrap_or_default();
        let path = format!("/api/pool/instances/{id}");
        let request = request("DELETE", &order, &path, &Value::Null)?;
        let gone = http.send(request, CLAIM_LIMIT).await;
        println!("{}", read(gone, &format!("DELETE {path}"))?);
    }
    Ok(())
}

/// What is printed ends in a pod's log.
fn without_token(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("gatewayToken");
    }
    answer
}

fn request(method: &str, order: &ClaimOrder, path: &str, body: &Value) -> Result<Request<Bytes>> {
    let key: &SecretString = &order.key;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", order.api_url))
        .header("authorization", format!("Bearer {}", key.expose_secret()));
    let mut content = Bytes::new();
    if !body.is_null() {
        request = request
            .header("content-type", "application/json")
            .header("prefer", format!("wait={}", order.wait_seconds));
        content = body.to_string().into();
    }
    request.body(content).context("the request cannot be built")
}

/// The answer's JSON; an error where it is none of success.
fn read(answer: Result<Answer, Fault>, doing: &str) -> Result<Value> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => bail!("{doing}: {}", words(fault)),
    };
    let text = match &answer.body {
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(fault) => bail!("{doing}: {}", words(*fault)),
    };
    if !(200..300).contains(&answer.status) {
        let text: String = text.chars().take(500).collect();
        bail!("{doing}: {} {text}", answer.status);
    }
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::NotBuilt => "the request cannot be sent",
        Fault::NotConnected { .. } => "the API does not answer: is --api-url right, and is it up?",
        Fault::TimedOut => "no answer in time",
        Fault::Broken => "the connection broke",
        Fault::TooLarge => "the answer is too large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_printed() {
        let answer = json!({"instanceId": "a", "inviteUrl": "u", "gatewayToken": "secret"});
        let shown = without_token(answer);
        assert_eq!(shown, json!({"instanceId": "a", "inviteUrl": "u"}));
    }

    #[test]
    fn a_file_holds_pools_and_nothing_else() {
        let pool = |name: &str, more: &str| {
            format!(
                "apiVersion: pool.convos.org/v1alpha1\nkind: AgentPool\nmetadata: {{name: {name}{more}}}\nspec: {{}}\n"
            )
        };
        let two = format!(
            "{}---\n{}---\n",
            pool("a", ", namespace: n"),
            pool("b", ", namespace: m")
        );
        let found = pools_of(&two).unwrap();
        let titles: Vec<_> = found.iter().map(title).collect();
        assert_eq!(titles, ["n/a", "m/b"]);
        assert!(pools_of("").unwrap().is_empty());
        for wrong in [
            &pool("a", ""),
            "kind: Secret\nmetadata: {name: a, namespace: n}\n",
            "kind: [",
        ] {
            assert!(pools_of(wrong).is_err(), "{wrong}");
        }
    }
}
