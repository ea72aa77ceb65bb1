//! The set-up: the built-in script or a ConfigMap's, in slices that run on when nobody listens.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::*;
use crate::chaos::kill;

/// The script that the operator brings along.
pub const BUILT_IN: &str = include_str!("../../../src/provider/sprites/setup.sh");

/// A pool whose script is that of the ConfigMap `own`: the built-in one with further slices.
pub async fn own_script(world: &World, slices: &str) -> Value {
    let script = format!("{BUILT_IN}\n{slices}\n");
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &world.namespace);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own"}, "data": {"setup.sh": script}});
    let parameters = PatchParams::apply("test").force();
    maps.patch("own", &parameters, &Patch::Apply(map))
        .await
        .unwrap();
    json!({"provider": {"sprites": {"setup": {"scriptConfigMapRef": {"name": "own"}}}}})
}

/// What ran, one word for each time.
async fn ran(world: &World) -> Option<String> {
    let all = world.list().await;
    file(world, all.first()?, "ran").await
}

/// A slice that failed twice is run again; the connection that started it breaks, and so does the operator: each slice
/// that succeeded ran once.
/// acceptance: J02
#[tokio::test(flavor = "multi_thread")]
async fn a_set_up_outlives_its_connection_the_operator_and_a_slice_that_fails() {
    let mut world = start("sprites-cuts").await;
    let slices = r#"# agentpool:slice one
echo "one $OPENCLAW_GIT_REF" >>"$HOME/ran"
sleep 60
# agentpool:slice two
echo two >>"$HOME/ran"
[ "$(grep -c two "$HOME/ran")" = 3 ] || { echo "no route to host" >&2; exit 1; }
# agentpool:slice three
echo three >>"$HOME/ran""#;
    let own = own_script(&world, slices).await;
    // The third command is the one that starts the runner: its connection ends before it said a word.
    fault(
        &world,
        json!({"operation": "exec", "nth": 3}),
        json!({"kind": "exec_cut", "frames": 0}),
    )
    .await;
    pool(&world, own).await;
    until("the first slice runs", PATIENT, || async {
        ran(&world).await
    })
    .await;
    // Nobody's looks keep it awake.
    let building = world.list().await.remove(0);
    let tasks = sprite(&world, &building).await["tasks"].clone();
    assert_eq!(tasks, json!(["agentpool-setup"]));
    kill(&mut world).await;
    world.start_operator(&[]);
    let idle = wait_idle(&world, 1).await.remove(0);
    let ran = file(&world, &idle, "ran").await.unwrap();
    assert_eq!(ran, "one staging\ntwo\ntwo\ntwo\nthree\n");
    assert_eq!(sprites_ever(&world).await.len(), 1);
    // What a slice printed stays where a person can look.
    let log = file(&world, &idle, ".agentpool/setup/3.log").await.unwrap();
    assert!(log.contains("Cloning into"), "{log}");
    until("it is no longer held awake for it", PATIENT, || async {
        let tasks = sprite(&world, &idle).await["tasks"].clone();
        let held = tasks.as_array()?.contains(&json!("agentpool-setup"));
        (!held).then_some(())
    })
    .await;
    finish(world).await;
}

/// The runner is killed with its connection: begun again, what was through stays. And what is recorded of the
/// checkpoint is what the provider says: here it is not the sprite's first.
/// acceptance: B09, J07
#[tokio::test(flavor = "multi_thread")]
async fn a_set_up_that_is_interrupted_is_gone_on_with_and_its_checkpoint_is_the_one_we_took() {
    let world = start("sprites-killed").await;
    let slices = r#"# agentpool:slice one
echo one >>"$HOME/ran"
sprite-env curl -X POST /v1/checkpoint -d '{"comment":"golden"}'
# agentpool:slice two
sleep 40
echo two >>"$HOME/ran""#;
    let own = own_script(&world, slices).await;
    pool(&world, own).await;
    // The seventh, after those of the built-in script.
    until("the first slice ran", PATIENT, || async {
        let all = world.list().await;
        let code = file(&world, all.first()?, ".agentpool/setup/7.exit").await?;
        (code.trim() == "0").then_some(())
    })
    .await;
    let name = world.list().await.remove(0).spec.provider_name;
    force(&world, &name, json!({"state": "cold"})).await;
    let idle = wait_idle(&world, 1).await.remove(0);
    assert_eq!(file(&world, &idle, "ran").await.unwrap(), "one\ntwo\n");
    assert_eq!(sprites_ever(&world).await.len(), 1, "not another one");
    let provider = idle.status.clone().unwrap().provider.unwrap();
    let made = sprite(&world, &idle).await;
    let taken = made["checkpoints"].as_array().unwrap();
    let ours = taken.iter().find(|c| {
        let comment = c["comment"].as_str().unwrap();
        comment.starts_with(&format!("golden/{}/", idle.spec.id))
    });
    let ours = ours.expect("a checkpoint of ours");
    assert_eq!((taken.len(), &ours["id"]), (2, &json!("v2")));
    assert_eq!(provider.checkpoint_id.as_deref(), Some("v2"));
    assert_eq!(
        provider.checkpoint_time.as_deref(),
        ours["create_time"].as_str()
    );
    finish(world).await;
}
