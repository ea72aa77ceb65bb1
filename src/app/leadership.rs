//! The one place where this process becomes the leader, stays it, and lets go.
//!
//! The controllers run inside the term: when it is lost their futures are dropped where they stand, all that was
//! remembered goes with them, and the process is a candidate again. It does not end: with the API server away for a
//! while there would be a crash loop for nothing, and `agentpool run` answers HTTP beside. What was in hand is found
//! by whoever leads next.

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::reflector::ObjectRef;

use super::Process;
use crate::controllers::Ctx;
use crate::k8s::error::chain;
use crate::k8s::lease::Candidate;

pub(super) fn candidate(process: &Process) -> Candidate {
    let config = &process.config;
    let api: Api<Lease> = Api::namespaced(process.client.clone(), &config.release_namespace);
    Candidate::new(
        api,
        &format!("{}-controller", config.release),
        &process.holder,
        config.lease_term,
        process.leadership.clone(),
    )
}

/// Waits until this process leads; false where it is told to stop before.
pub(super) async fn lead(process: &Process, candidate: &mut Candidate) -> bool {
    let mut told = None;
    while !process.shutdown.is_cancelled() {
        let step = tokio::select! {
            step = candidate.step() => step,
            () = process.shutdown.cancelled() => return false,
        };
        let waiting = match step {
            Ok(true) => {
                tracing::info!(holder = %process.holder, "leading");
                return true;
            }
            Ok(false) => match candidate.holder() {
                Some(holder) => format!("{holder} leads; this replica takes over when it stops"),
                None => "the lease is contested".to_owned(),
            },
            Err(error) => chain(&error),
        };
        if told.as_ref() != Some(&waiting) {
            tracing::info!("not leading: {waiting}");
            told = Some(waiting);
        }
        tokio::select! {
            () = process.clock.sleep(candidate.every()) => {}
            () = process.shutdown.cancelled() => return false,
        }
    }
    false
}

/// Renews until the term is lost.
pub(super) async fn keep(process: &Process, candidate: &mut Candidate) {
    let mut last = String::new();
    loop {
        process.clock.sleep(candidate.every()).await;
        match candidate.step().await {
            Ok(true) => last.clear(),
            Ok(false) => last = "another process took the lease".to_owned(),
            Err(error) => {
                last = chain(&error);
                tracing::warn!(error = %last, "lease not renewed; trying again");
            }
        }
        if !process.leadership.holds() {
            tracing::warn!(
                reason = %last,
                "leadership is lost: the reconcilers stop, this replica is a candidate again"
            );
            return;
        }
    }
}

/// Asks for everything to be reconciled, as the watches' first lists do.
pub(super) fn touch_all(ctx: &Ctx) {
    for pool in ctx.pools.state() {
        ctx.pool_queue.push(ObjectRef::from_obj(pool.as_ref()));
    }
    for instance in ctx.instances.state() {
        ctx.instance_queue
            .push(ObjectRef::from_obj(instance.as_ref()));
    }
}
