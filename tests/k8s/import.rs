//! `agentpool import`: the agents of the predecessor, taken over by the built binary while the operator runs.

mod kills;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use agentpool::api::{AgentInstance, names};
use agentpool::domain::instance::phase::{Phase, phase_of};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use reqwest::Method;
use serde_json::{Value, json};

use crate::http_calls::text;
use crate::lifecycle::{host, service_id, ticks};
use crate::support::simulator::{ENVIRONMENT, PROJECT};
use crate::support::wait::{LONG, until};
use crate::support::world::{POOL, World};

const IMAGE: &str = "ghcr.io/xmtplabs/convos-runtime:0.3.4";
/// An id as only the predecessor made them.
pub const ODD: &str = "rnM8UBQ_fZCz";

/// An agent of the predecessor: its service, as that one made it.
pub struct Old {
    pub id: String,
    pub service: String,
    pub token: String,
    pub host: String,
}

/// Makes services as the predecessor left them, with agents in them; `bound` ones are in a conversation.
pub async fn predecessor(world: &World, agents: &[(&str, Option<&str>)]) -> Vec<Old> {
    let mut all = vec![];
    for (index, (id, _)) in agents.iter().enumerate() {
        let token = format!("{:064x}", 0xabcd_0000 + index);
        let service = format!("0000{index:04}-{:0>4}-4000-8000-000000000000", id.len());
        let service = format!(
            "{}{}",
            &service[..24],
            &names::sha256_hex(id.as_bytes())[..12]
        );
        let mut variables = json!({"GATEWAY_TOKEN": token, "OPENCLAW_GATEWAY_TOKEN": token, "INSTANCE_ID": id,
            "PORT": "8080", "XMTP_ENV": "dev", "OPENROUTER_API_KEY": "sk-simulated"});
        if id.starts_with("foreign") {
            variables["AGENTPOOL_OWNER"] = json!(format!("other-cluster/n/{id}"));
        }
        let name = format!("convos-agent-{id}");
        let new = json!({"id": service, "name": name, "image": IMAGE, "variables": variables, "deploy": true, "domain": true});
        world.sim.set("railway", json!({"services": [new]})).await;
        let made = world.sim.service(&name).await.unwrap();
        let host = made["domains"][0].as_str().unwrap().to_owned();
        all.push(Old {
            id: (*id).to_owned(),
            service,
            token,
            host,
        });
    }
    for (old, (_, conversation)) in all.iter().zip(agents) {
        until("the old agent is up", LONG, || async {
            let state = world.sim.state("agents").await;
            (state["instances"][&old.host]["ready"] == true).then_some(())
        })
        .await;
        if let Some(conversation) = conversation {
            let bound = json!({"instances": {&old.host: {"bound": conversation}}});
            world.sim.set("agents", bound).await;
        }
    }
    all
}

/// Writes a file of this test.
pub fn file(world: &World, name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{}-{name}", world.namespace.name()));
    std::fs::write(&path, text).unwrap();
    path
}

/// `agentpool import` with these arguments, by the test's own kubeconfig.
pub fn command(world: &World, arguments: &[&str]) -> Command {
    let wanted = ["KUBECONFIG", "AGENTPOOL_RAILWAY_URL"];
    let environment: BTreeMap<String, String> = world.environment(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentpool"));
    command
        .arg("import")
        .args(arguments)
        .env_clear()
        .envs(
            environment
                .into_iter()
                .filter(|(k, _)| wanted.contains(&k.as_str())),
        )
        .stdin(Stdio::null());
    command
}

fn run(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(world, arguments).output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

pub fn pool_of(world: &World) -> String {
    format!("{}/{POOL}", &*world.namespace)
}

async fn of_id(world: &World, id: &str) -> AgentInstance {
    world
        .instance(id)
        .await
        .unwrap_or_else(|| panic!("{id} is not there"))
}

async fn deployments(world: &World, service: &str) -> usize {
    let state = world.sim.state("railway").await;
    let mut all = state["services"].as_array().unwrap().iter();
    let found = all.find(|s| s["id"] == service).unwrap();
    found["deployments"].as_array().unwrap().len()
}

async fn variables_of(world: &World, service: &str) -> Value {
    let state = world.sim.state("railway").await;
    let mut all = state["services"].as_array().unwrap().iter();
    let found = all.find(|s| s["id"] == service).unwrap();
    found["variables"].clone()
}

async fn mark_of(world: &World, service: &str) -> Option<String> {
    let variables = variables_of(world, service).await;
    variables["AGENTPOOL_OWNER"].as_str().map(str::to_owned)
}

/// Everything of the predecessor at once: what each row becomes, and that nobody who uses an agent notices.
///
/// acceptance: G17, N19
#[tokio::test(flavor = "multi_thread")]
async fn rows_become_instances_with_all_that_their_users_have() {
    let world = World::start("import").await;
    world
        .create_pool(
            POOL,
            json!({"minIdle": 0, "tickIntervalSeconds": 1, "reconcileIntervalSeconds": 10}),
        )
        .await;
    world.wait_ready().await;
    let conversation = "0123456789abcdef0123456789abcdef";
    let agents = [
        (ODD, Some(conversation)),
        ("idle00000000", None),
        ("crash0000000", Some("00000000000000000000000000000001")),
        ("claiming0000", None),
        ("foreign00000", None),
    ];
    let old = predecessor(&world, &agents).await;
    let [used, idle, crashed, claiming, foreign] = &old[..] else {
        unreachable!()
    };
    let long = "Be kind. ".repeat(800);
    let row = |old: &Old, status: &str, more: Value| {
        let mut row = json!({"id": old.id, "service_id": old.service, "name": format!("convos-agent-{}", old.id),
            "url": format!("https://{}", old.host), "status": status, "gateway_token": old.token, "created_at": "2026-02-01T10:00:00Z"});
        crate::support::world::merge(&mut row, &more);
        row
    };
    let claimed = json!({"agent_name": "Tokyo Trip", "conversation_id": conversation, "invite_url": "https://dev.convos.org/v2?i=old",
        "instructions": long, "claimed_at": "2026-02-02 11:30:00+00", "source_branch": "staging", "runtime_image": IMAGE,
        "openrouter_key_hash": "hash-1", "agentmail_inbox_id": "inbox-1", "color": "red"});
    let lost = "99999999-0000-4000-8000-000000000001";
    let gone = json!({"id": "gone00000000", "service_id": lost, "status": "idle"});
    let gone_in_use = json!({"id": "goneinuse000", "service_id": "99999999-0000-4000-8000-000000000002", "status": "claimed",
        "agent_name": "Lost", "conversation_id": "c", "gateway_token": "f".repeat(64)});
    let rows = [
        row(used, "claimed", claimed),
        row(idle, "idle", json!({})),
        row(
            crashed,
            "crashed",
            json!({"agent_name": "Fallen", "conversation_id": "00000000000000000000000000000002"}),
        ),
        row(claiming, "claiming", json!({"agent_name": "Halfway"})),
        row(foreign, "idle", json!({})),
        gone,
        gone_in_use,
        json!({"id": "parked000000", "service_id": "x", "status": "parked"}),
        json!({"id": "homeless0000", "status": "idle"}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let path = file(
        &world,
        "rows.ndjson",
        &(lines.join("\n") + "\n{\"id\": broken\n"),
    );
    let (path, pool) = (path.to_str().unwrap(), pool_of(&world));
    let arguments = ["--file", path, "--pool", &pool];

    // What would be done, and nothing is.
    let before = world.sim.calls("railway").await.len();
    let (code, said) = run(&world, &[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("would import 10 rows") && said.contains("nothing is written"),
        "{said}"
    );
    assert!(
        said.contains(&format!("line 1 {ODD} would be imported: Claimed")),
        "{said}"
    );
    assert!(world.list().await.is_empty());
    let calls = world.sim.calls("railway").await.split_off(before);
    assert!(
        calls
            .iter()
            .all(|c| c["operation"].as_str().unwrap() != "RwVariablesUpsert"),
        "{calls:#?}"
    );
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    assert!(
        secrets
            .get_opt("agentpool-imported-tokens")
            .await
            .unwrap()
            .is_none()
    );

    let (code, said) = run(&world, &arguments);
    assert_eq!(code, Some(3), "{said}");
    for words in [
        format!("line 1 {ODD} imported: Claimed"),
        "line 2 idle00000000 imported: Provisioning".to_owned(),
        "line 3 crash0000000 imported: Crashed".to_owned(),
        "line 4 claiming0000 imported: Crashed".to_owned(),
        "line 5 foreign00000 REFUSED: its service carries the owner mark other-cluster/n/foreign00000".to_owned(),
        "line 6 gone00000000 left out: the provider no longer has it, and nobody had it".to_owned(),
        "line 7 goneinuse000 imported: Crashed".to_owned(),
        "line 8 parked000000 REFUSED: its status \"parked\" is none of".to_owned(),
        "line 9 homeless0000 REFUSED: it has no service id".to_owned(),
        "line 10 - REFUSED: no JSON object from column".to_owned(),
        "columns color".to_owned(),
        "5 imported, 0 there already, 1 left out, 4 refused, 0 failed".to_owned(),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    let ids: std::collections::BTreeSet<String> =
        world.list().await.into_iter().map(|i| i.spec.id).collect();
    let want = [
        ODD,
        "idle00000000",
        "crash0000000",
        "claiming0000",
        "goneinuse000",
    ];
    assert_eq!(ids, want.map(str::to_owned).into());

    // The one in use: all of it, and it stays so.
    ticks(&world, 4).await;
    let it = of_id(&world, ODD).await;
    assert_eq!(
        (it.name_any(), phase_of(&it)),
        (names::object_name(ODD), Phase::Claimed)
    );
    let claim = it.spec.claim.as_ref().unwrap();
    assert_eq!(claim.agent_name, "Tokyo Trip");
    let reference = claim.instructions_secret_ref.as_ref().unwrap();
    let kept = secrets.get(&reference.name).await.unwrap().data.unwrap();
    assert_eq!(kept[&reference.key].0, long.as_bytes());
    let services = it.status.as_ref().unwrap().services.as_ref().unwrap();
    assert_eq!(
        (
            services["openrouter"]["hash"].as_str(),
            services["agentmail"]["inboxId"].as_str()
        ),
        ("hash-1", "inbox-1")
    );
    let rows = world.get("/api/pool/status?include=secrets").await.body["instances"].clone();
    let shown = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["id"] == ODD)
        .unwrap()
        .clone();
    let page = format!(
        "https://railway.com/project/{PROJECT}/service/{}?environmentId={ENVIRONMENT}",
        used.service
    );
    for (key, value) in [
        ("status", json!("claimed")),
        ("agentName", json!("Tokyo Trip")),
        ("conversationId", json!(conversation)),
        ("inviteUrl", json!("https://dev.convos.org/v2?i=old")),
        ("createdAt", json!("2026-02-01T10:00:00Z")),
        ("claimedAt", json!("2026-02-02T11:30:00Z")),
        ("sourceBranch", json!("staging")),
        ("serviceId", json!(used.service)),
        ("name", json!(format!("convos-agent-{ODD}"))),
        ("url", json!(format!("https://{}", used.host))),
        ("gatewayToken", json!(used.token)),
        ("openrouterKeyHash", json!("hash-1")),
        ("providerUrl", json!(page)),
    ] {
        assert_eq!(shown[key], value, "{key}: {shown}");
    }

    // The others, with why.
    let reason = |i: &AgentInstance| {
        let verdict = i.status.as_ref().unwrap().verdict.clone();
        verdict.map(|v| (v.state, v.reason))
    };
    for (id, why) in [
        ("crash0000000", "Imported"),
        ("claiming0000", "ClaimInterrupted"),
        ("goneinuse000", "Gone"),
    ] {
        let it = of_id(&world, id).await;
        let told = reason(&it).map(|(state, reason)| state + "/" + &reason);
        // It shows another conversation than the table has: a person must look.
        let wants = [
            format!("Crashed/{why}"),
            "Crashed/UnknownConversation".to_owned(),
        ];
        assert!(wants.contains(&told.clone().unwrap()), "{id}: {told:?}");
    }
    let proven = until("the one in stock is proven", LONG, || async {
        let it = of_id(&world, "idle00000000").await;
        (phase_of(&it) == Phase::Idle).then_some(it)
    })
    .await;
    assert_eq!(service_id(&proven), idle.service);

    // Nobody noticed: nothing was deployed, called, or renamed.
    for old in &old {
        assert_eq!(deployments(&world, &old.service).await, 1, "{}", old.id);
        assert!(
            world
                .sim
                .service(&format!("convos-agent-{}", old.id))
                .await
                .is_some()
        );
    }
    assert!(
        world
            .sim
            .calls("agents")
            .await
            .iter()
            .all(|c| c["method"] == "GET")
    );
    let own = mark_of(&world, &used.service).await.unwrap();
    assert!(
        own.ends_with(&format!("/{}/{ODD}", &*world.namespace)),
        "{own}"
    );
    // Beside what was there: without it the agent would not start again.
    let variables = variables_of(&world, &used.service).await;
    assert_eq!(variables.as_object().unwrap().len(), 7, "{variables}");
    for (name, value) in [
        ("GATEWAY_TOKEN", used.token.as_str()),
        ("INSTANCE_ID", ODD),
        ("OPENROUTER_API_KEY", "sk-simulated"),
    ] {
        assert_eq!(variables[name], value);
    }
    assert_eq!(
        mark_of(&world, &foreign.service).await.as_deref(),
        Some("other-cluster/n/foreign00000")
    );

    // The tokens are in their Secret and nowhere else.
    let kept = secrets
        .get("agentpool-imported-tokens")
        .await
        .unwrap()
        .data
        .unwrap();
    assert_eq!(kept[&names::object_name(ODD)].0, used.token.as_bytes());
    let all = world.kubectl(&[
        "get",
        "ai,ac,ap,controllerrevisions,events",
        "-o",
        "json",
        "--show-managed-fields",
    ]);
    let told = world.operator.as_ref().unwrap().log();
    for old in &old {
        for place in [&all, &told, &said] {
            assert!(!place.contains(&old.token), "the token of {}", old.id);
        }
    }

    // From now on they are like any other: claimed with the token that they brought, and removed when they are killed.
    let answer = world.claim("New user").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(text(&answer.body, "instanceId"), "idle00000000");
    assert_eq!(text(&answer.body, "gatewayToken"), idle.token);
    let bound = world.sim.state("agents").await["instances"][&host(&proven)]["bound"].clone();
    assert_eq!(answer.body["conversationId"], bound);
    let kill = world
        .call(
            Method::DELETE,
            &format!("/api/pool/instances/{ODD}/destroy"),
            json!({}),
        )
        .await;
    assert_eq!(kill.status, 200, "{}", kill.text);
    world.wait_gone(ODD).await;
    let live = world.sim.live_services().await;
    assert!(
        live.iter().all(|s| s["id"] != used.service)
            && live.iter().any(|s| s["id"] == foreign.service)
    );
    world
        .sim
        .force(json!({"service": foreign.service, "delete": true}))
        .await;
    world.finish().await;
}

/// A second run changes nothing; one with a new row takes that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_finds_what_is_there() {
    let world = World::start("import-twice").await;
    world
        .create_pool(POOL, json!({"minIdle": 0, "tickIntervalSeconds": 1}))
        .await;
    world.wait_ready().await;
    let conversation = "0123456789abcdef0123456789abcdef";
    let old = predecessor(
        &world,
        &[("used00000000", Some(conversation)), ("late00000000", None)],
    )
    .await;
    let header = "id,service_id,status,agent_name,conversation_id,gateway_token\n";
    let used = format!(
        "used00000000,{},claimed,Ada,{conversation},{}\n",
        old[0].service, old[0].token
    );
    let late = format!(
        "late00000000,{},provisioning,,,{}\n",
        old[1].service, old[1].token
    );
    let (pool, one) = (
        pool_of(&world),
        file(&world, "one.csv", &format!("{header}{used}")),
    );
    let run = |path: &PathBuf| run(&world, &["--file", path.to_str().unwrap(), "--pool", &pool]);
    // The answer to the mark's write is lost: it is looked at before it is written again.
    let lost = json!({"kind": "reset", "applied": true});
    let rule = json!({"match": {"field": "variableCollectionUpsert"}, "count": 1, "fault": lost});
    world.sim.fault("railway", rule).await;
    let (code, said) = run(&one);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("waiting 2 s: "), "{said}");
    ticks(&world, 3).await;
    let first = of_id(&world, "used00000000").await;
    let writes = world.sim.railway_calls("RwVariablesUpsert").await;
    assert_eq!(writes, 1);

    let (code, said) = run(&one);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("is there already") && said.contains("0 imported, 1 there already"),
        "{said}"
    );
    // The controller's own status apart, which may follow any time.
    let written = |i: AgentInstance| (i.spec, i.metadata.generation, i.metadata.annotations);
    assert_eq!(
        written(of_id(&world, "used00000000").await),
        written(first.clone()),
        "not even touched"
    );
    assert_eq!(world.sim.railway_calls("RwVariablesUpsert").await, writes);
    assert_eq!(world.list().await.len(), 1);

    let both = file(&world, "both.csv", &format!("{header}{used}{late}"));
    let (code, said) = run(&both);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 imported, 1 there already"), "{said}");
    // What was being built: the steps that are done are found, and none is sent again.
    until("the late one is in stock", LONG, || async {
        let it = of_id(&world, "late00000000").await;
        (phase_of(&it) == Phase::Idle).then_some(())
    })
    .await;
    assert_eq!(world.sim.services_ever().await.len(), 2);
    assert_eq!(
        of_id(&world, "used00000000").await.metadata.uid,
        first.metadata.uid
    );

    // And back: the objects go, the agents stay; later they are taken again.
    world
        .patch_pool(json!({"paused": ["Refill", "Claims"]}))
        .await;
    let ours = format!("pool.convos.org/pool={POOL}");
    world.kubectl(&[
        "annotate",
        "agentinstances",
        "-l",
        &ours,
        "pool.convos.org/abandon=true",
    ]);
    world.kubectl(&["delete", "agentinstances", "-l", &ours, "--timeout=60s"]);
    assert!(world.list().await.is_empty());
    assert_eq!(world.sim.live_services().await.len(), 2);
    let (code, said) = run(&both);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 imported, 0 there already"), "{said}");
    let again = of_id(&world, "used00000000").await;
    assert_eq!(phase_of(&again), Phase::Claimed);
    assert_eq!(
        world.sim.railway_calls("RwVariablesUpsert").await,
        2,
        "the mark is known"
    );
    world.finish().await;
}

/// Names that are wrong: what there is instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_says_what_there_is() {
    let mut world = World::bare("import-names").await;
    let path = file(
        &world,
        "rows.csv",
        "id,service_id,status,provider_env_id\na,s,claimed,elsewhere\n",
    );
    let path = path.to_str().unwrap();
    let nothing = format!("{}/nothing", &*world.namespace);
    let (code, said) = run(&world, &["--file", path, "--pool", &nothing]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("there is no AgentPool {nothing}"))
            && said.contains("there are: none"),
        "{said}"
    );

    // Without an operator nobody would read the tokens.
    world
        .create_pool(POOL, json!({"minIdle": 0, "tickIntervalSeconds": 1}))
        .await;
    let pool = pool_of(&world);
    let (code, said) = run(&world, &["--file", path, "--pool", &pool]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("--release-namespace: there is no Secret agentpool-root-key"),
        "{said}"
    );
    world.start_operator(&[]);
    world.wait_ready().await;
    let (code, said) = run(&world, &["--file", path, "--pool", &nothing]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("there are: {pool} (staging)")),
        "{said}"
    );
    let (code, said) = run(
        &world,
        &["--file", path, "--pool", &pool, "--release", "another"],
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("belongs to release agentpool, not another"),
        "{said}"
    );
    let (code, said) = run(&world, &["--file", path, "--pool", &pool]);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains(&format!(
            "it lives in environment elsewhere, and the pool's is {ENVIRONMENT}"
        )),
        "{said}"
    );

    // An environment that the project does not have lists those that it has.
    let place = json!({"projectId": PROJECT, "environmentId": null, "environmentName": "stageing"});
    world
        .create_pool(
            "typo",
            json!({"minIdle": 0, "provider": {"railway": {"project": place}}}),
        )
        .await;
    let typo = format!("{}/typo", &*world.namespace);
    let (code, said) = run(&world, &["--file", path, "--pool", &typo]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("stageing") && said.contains("staging") && said.contains(ENVIRONMENT),
        "{said}"
    );

    let (code, said) = run(&world, &["--file", "/nowhere/rows.csv", "--pool", &pool]);
    assert_eq!(
        (code, said.contains("cannot read /nowhere/rows.csv")),
        (Some(1), true),
        "{said}"
    );
    assert_eq!(run(&world, &["--pool", &pool]).0, Some(2), "clap's own");
    assert!(world.list().await.is_empty());
    world.finish().await;
}
