//! The cluster is lost and comes back from YAML: docs/recovery.md, command by command.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use agentpool::api::AgentInstance;
use agentpool::domain::instance::phase::{Phase, phase_of};
use serde_json::{Value, json};

use super::{PATIENT, kill, slow_writes, wait_reason};
use crate::lifecycle::{host, ids, replenish_one, service_id};
use crate::railway::made_once;
use crate::support::wait::{LONG, holds, until};
use crate::support::world::World;

/// What docs/recovery.md makes of a saved list: new objects, each instance marked as restored.
const SED: &str =
    r"/^ *resourceVersion: /d; /^  spec:/,/^  status:/s/^    turn: /    restored: true\n&/";

/// `kubectl get <kinds> -o yaml | sed …` into a file.
fn save(world: &World, kinds: &str) -> PathBuf {
    let yaml = world.kubectl(&["get", kinds, "-o", "yaml"]);
    let file = std::env::temp_dir().join(format!("{}-{kinds}.yaml", &*world.namespace));
    let out = std::fs::File::create(&file).unwrap();
    let mut sed = Command::new("sed")
        .arg(SED)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .unwrap();
    sed.stdin
        .take()
        .unwrap()
        .write_all(yaml.as_bytes())
        .unwrap();
    assert!(sed.wait().unwrap().success());
    file
}

/// Everything is gone as with a lost cluster: nobody runs, and no finalizer is honoured.
fn lose_everything(world: &World) {
    for kind in ["agentpools", "agentinstances"] {
        let all = world.kubectl(&["get", kind, "-o", "name"]);
        for name in all.lines() {
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            world.kubectl(&["patch", name, "--type=merge", "-p", patch]);
        }
    }
    let kinds = "agentpools,agentinstances,secrets,controllerrevisions,leases";
    world.kubectl(&["delete", kinds, "--all"]);
}

/// Requests that an agent ever saw.
fn requests(ledger: &Value, instance: &AgentInstance) -> Value {
    ledger["instances"][service_id(instance)]["requests"].clone()
}

struct Before {
    idle: AgentInstance,
    taken: AgentInstance,
    claimed: AgentInstance,
    crashed: AgentInstance,
    half: AgentInstance,
}

/// One of each kind, with refill paused and the operator killed.
async fn one_of_each(world: &mut World) -> Before {
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    for agent in ["Ada", "Bob"] {
        assert_eq!(world.claim(agent).await.status, 200);
    }
    let mut claimed = until("both are renamed", LONG, || async {
        let names = world.sim.state("railway").await["services"].to_string();
        let renamed = names.contains("stg-ada-") && names.contains("stg-bob-");
        renamed.then_some(world.in_phase(Phase::Claimed).await)
    })
    .await;
    let crashed = claimed.pop().unwrap().spec.id;
    let service = service_id(&world.instance(&crashed).await.unwrap());
    let crash = json!({"service": service, "deployment": {"status": "CRASHED"}});
    world.sim.force(crash).await;
    let crashed = until("it is crashed", LONG, || async {
        world.in_phase(Phase::Crashed).await.pop()
    })
    .await;
    let mut idle = world.wait_idle(2).await;
    slow_writes(world, 1.0).await;
    let half = replenish_one(world).await;
    let half = until("half of it is made", LONG, || async {
        let now = world.instance(&half).await?;
        let known = now.status.as_ref()?.provider.as_ref()?.id.is_some();
        known.then_some(now)
    })
    .await;
    kill(world).await;
    slow_writes(world, 0.0).await;
    Before {
        taken: idle.pop().unwrap(),
        idle: idle.pop().unwrap(),
        claimed: claimed.pop().unwrap(),
        crashed,
        half,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_from_yaml_every_agent_is_found_again_and_none_is_made_lost_or_called() {
    let mut world = World::bare("restore").await;
    let cluster_id = [("AGENTPOOL_CLUSTER_ID", "the-old-one")];
    world.start_operator(&cluster_id);
    let spec = json!({"minIdle": 4, "tickIntervalSeconds": 1});
    world.create_pool("pool", spec).await;
    world.wait_idle(4).await;
    let before = one_of_each(&mut world).await;
    let files: Vec<PathBuf> = [
        "secrets",
        "controllerrevisions",
        "agentinstances",
        "agentpools",
    ]
    .into_iter()
    .map(|kinds| save(&world, kinds))
    .collect();
    // Claimed between the backup and the loss: the backup does not know.
    let bound = json!({"instances": {host(&before.taken): {"bound": "a".repeat(32)}}});
    world.sim.set("agents", bound).await;
    lose_everything(&world);
    let ledger = world.sim.ledger().await;
    for file in &files {
        world.kubectl(&["create", "-f", file.to_str().unwrap()]);
        std::fs::remove_file(file).unwrap();
    }
    let restored = world.list().await;
    assert_eq!(restored.len(), 5);
    assert!(
        restored.iter().all(|i| i.status.is_none()),
        "status is lost"
    );
    world.start_operator(&cluster_id);

    // The claimed one: known again, and left alone.
    let id = &before.claimed.spec.id;
    let found = until("the claimed agent is found again", PATIENT, || async {
        let now = world.instance(id).await?;
        let known = now.status.as_ref()?.provider.as_ref()?.id.is_some();
        known.then_some(now)
    })
    .await;
    assert_eq!(service_id(&found), service_id(&before.claimed));
    assert_eq!(host(&found), host(&before.claimed));
    assert_eq!(phase_of(&found), Phase::Claimed);
    assert_eq!(found.spec.claim, before.claimed.spec.claim);
    wait_reason(&world, id, "StatusLost").await;
    // The crashed one is crashed again, by what the provider says.
    wait_reason(&world, &before.crashed.spec.id, "DeploymentCrashed").await;
    // What was idle and what was half made are proven again, in the services that they have.
    let idle = until("two idle", PATIENT, || async {
        let idle = world.in_phase(Phase::Idle).await;
        (idle.len() == 2).then_some(idle)
    })
    .await;
    let expected = [before.idle.clone(), before.half.clone()];
    assert_eq!(ids(&idle), ids(&expected));
    for old in &expected {
        let new = idle.iter().find(|i| i.spec.id == old.spec.id).unwrap();
        assert_eq!(service_id(new), service_id(old));
    }
    // What somebody took meanwhile is kept for a person, and never in stock.
    let id = &before.taken.spec.id;
    wait_reason(&world, id, "UnknownConversation").await;
    assert_eq!(phase_of(&world.instance(id).await.unwrap()), Phase::Crashed);

    let now = world.sim.ledger().await;
    for left_alone in [&before.claimed, &before.crashed] {
        assert_eq!(requests(&now, left_alone), requests(&ledger, left_alone));
    }
    let old = ids(&restored);
    holds("nothing comes or goes", LONG / 20, || async {
        ids(&world.list().await) == old
    })
    .await;
    made_once(&world, 5).await;
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);

    // In stock means in stock; and the claimed one goes, with what it has, when a person says so.
    let answer = world.claim("Cleo").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let id = &before.claimed.spec.id;
    world.delete(id).await;
    world.wait_gone(id).await;
    assert_eq!(world.sim.live_services().await.len(), 4);
    world.finish().await;
}

/// Under another cluster id nothing is ours: nothing is removed, nothing made under a name that is taken, and the
/// conditions say it.
#[tokio::test(flavor = "multi_thread")]
async fn under_another_cluster_id_a_restored_fleet_is_left_alone() {
    let mut world = World::bare("stranger").await;
    world.start_operator(&[("AGENTPOOL_CLUSTER_ID", "the-old-one")]);
    let spec = json!({"minIdle": 2, "tickIntervalSeconds": 1, "circuitBreaker": {"failures": 1}});
    world.create_pool("pool", spec).await;
    world.wait_idle(2).await;
    world.patch_pool(json!({"paused": ["Refill"]})).await;
    assert_eq!(world.claim("Ada").await.status, 200);
    let claimed = world.in_phase(Phase::Claimed).await.remove(0);
    let idle = world.wait_idle(1).await.remove(0);
    kill(&mut world).await;
    let files: Vec<PathBuf> = [
        "secrets",
        "controllerrevisions",
        "agentinstances",
        "agentpools",
    ]
    .into_iter()
    .map(|kinds| save(&world, kinds))
    .collect();
    lose_everything(&world);
    for file in &files {
        world.kubectl(&["create", "-f", file.to_str().unwrap()]);
        std::fs::remove_file(file).unwrap();
    }
    world.start_operator(&[("AGENTPOOL_CLUSTER_ID", "a-new-one")]);
    let message = wait_reason(&world, &claimed.spec.id, "StatusLost").await;
    assert!(message.contains("cluster id"), "{message}");
    // The verdict stays; the condition soon tells of the deletion that follows.
    let verdict = until("it is judged", PATIENT, || async {
        let status = world.instance(&idle.spec.id).await?.status?;
        status.verdict
    })
    .await;
    assert_eq!(verdict.reason, "CreateFailed");
    assert!(verdict.message.contains("not ours"), "{}", verdict.message);
    world.wait_gone(&idle.spec.id).await;
    assert_eq!(
        phase_of(&world.instance(&claimed.spec.id).await.unwrap()),
        Phase::Claimed
    );
    made_once(&world, 2).await;
    assert_eq!(world.sim.railway_calls("RwServiceDelete").await, 0);
    // With the right one the claimed agent is found, and goes with what it has.
    kill(&mut world).await;
    world.start_operator(&[("AGENTPOOL_CLUSTER_ID", "the-old-one")]);
    until("it is found", PATIENT, || async {
        let now = world.instance(&claimed.spec.id).await?;
        now.status?.provider?.id
    })
    .await;
    // Whatever is left of the other one nobody's record explains: here it is removed by hand.
    world
        .sim
        .force(json!({"service": service_id(&idle), "delete": true}))
        .await;
    world.finish().await;
}
