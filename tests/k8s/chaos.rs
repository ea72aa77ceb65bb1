//! Nothing lost, nothing leaked: kills, refusals, lost clusters and deletions at the worst moment.

mod kills;
mod namespace;
mod refused;
mod restore;
mod teardown;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::wait::until;
use crate::support::world::{SPEED, World};

/// Proofs of absence take half a minute each, and a killed operator begins them anew.
pub(crate) const PATIENT: Duration = Duration::from_secs(240);

/// Every write takes so many real seconds at Railway. It takes effect when it comes in; the answer comes late.
async fn slow_writes(world: &World, seconds: f64) {
    let slow = json!({"timings": {"latency_mutation": seconds * SPEED}});
    world.sim.set("railway", slow).await;
}

/// SIGKILL; the next one does not wait for the term of what is known to be dead.
pub(crate) async fn kill(world: &mut World) {
    world.operator().kill();
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    let _ = leases
        .delete("agentpool-controller", &DeleteParams::default())
        .await;
}

/// The Ready condition of an instance: reason and message.
async fn ready(world: &World, id: &str) -> Option<(String, String)> {
    let conditions = world.instance(id).await?.status?.conditions;
    let ready = conditions.into_iter().find(|c| c.type_ == "Ready")?;
    Some((ready.reason, ready.message))
}

/// Waits until an instance's Ready condition has this reason; its message.
async fn wait_reason(world: &World, id: &str, reason: &str) -> String {
    until(&format!("{id} is {reason}"), PATIENT, || async {
        let now = ready(world, id).await?;
        (now.0 == reason).then_some(now.1)
    })
    .await
}

/// Waits for a call beyond the first `before` that is in flight or answered.
async fn wait_call(world: &World, operation: &str, before: usize) {
    until(&format!("another {operation}"), PATIENT, || async {
        (world.sim.railway_calls(operation).await > before).then_some(())
    })
    .await;
}
