//! The one place where this process becomes the leader, stays it, and lets go.
//!
//! The controllers run inside the term: when it is lost their futures are dropped where they stand, and the process
//! ends and starts anew as a candidate. Starting anew is simpler than going back: nothing of what was remembered as a
//! leader can be used by mistake. What was in hand is found by whoever leads next.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::reflector::{ObjectRef, Store};

use super::Process;
use super::controllers::Touched;
use crate::api::{AgentInstance, AgentPool};
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
    loop {
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
            tracing::error!(
                reason = %last,
                "leadership is lost: the process stops and starts anew as a candidate"
            );
            return;
        }
    }
}

/// Takes from the queues what nobody works on yet: a candidate that waits for days must not collect it.
pub(super) async fn drop_touched(
    pools: &mut Touched<AgentPool>,
    instances: &mut Touched<AgentInstance>,
) {
    loop {
        tokio::select! {
            Some(_) = pools.recv() => {}
            Some(_) = instances.recv() => {}
            else => return std::future::pending().await,
        }
    }
}

/// Asks for everything to be reconciled, as the watches' first lists do.
pub(super) fn touch_all(
    process: &Arc<Process>,
    pools: &Store<AgentPool>,
    instances: &Store<AgentInstance>,
) {
    for pool in pools.state() {
        process.pool_queue.push(ObjectRef::from_obj(pool.as_ref()));
    }
    for instance in instances.state() {
        process
            .instance_queue
            .push(ObjectRef::from_obj(instance.as_ref()));
    }
}
