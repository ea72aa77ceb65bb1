//! Who waits for a listing and who does not, in virtual time, with a provider that takes long.
#![allow(
    clippy::disallowed_methods,
    reason = "a test waits for what it spawned"
)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::clock::Monotonic;
use crate::domain::plan::{Operation, Outcome, Seen, StepSpec};
use crate::domain::resource::{Listing, Owner, Presence, Resource};
use crate::provider::{Caps, Inputs, Key, ProviderError, Report};
use std::time::Duration;

const TICK: Duration = Duration::from_secs(3);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What all connections of a test share.
struct Peer {
    takes: Mutex<Duration>,
    fails: AtomicBool,
    listings: AtomicUsize,
}

/// A provider that can be listed.
struct Slow(Arc<Peer>);

#[async_trait]
impl AgentProvider for Slow {
    fn capabilities(&self) -> Caps {
        unreachable!("not asked here")
    }
    fn plan(&self, _: Operation, _: &Template) -> Vec<StepSpec> {
        unreachable!("not asked here")
    }
    async fn resolve(&self) -> Result<Facts, ProviderError> {
        Ok(Facts::new())
    }
    fn progress(&self, _: &'static str, _: &Facts, _: &Resource) -> Seen {
        unreachable!("not asked here")
    }
    async fn look(&self, _: &Key, _: &Facts, _: &'static str) -> Result<Seen, ProviderError> {
        unreachable!("not asked here")
    }
    async fn perform(
        &self,
        _: &Key,
        _: &Facts,
        _: &'static str,
        _: &Template,
        _: &Inputs,
    ) -> Result<Outcome, ProviderError> {
        unreachable!("not asked here")
    }
    async fn list(&self) -> Result<Listing, ProviderError> {
        self.0.listings.fetch_add(1, Ordering::Relaxed);
        let takes = *self.0.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        if self.0.fails.load(Ordering::Relaxed) {
            return Err(ProviderError {
                class: Class::Transient,
                doing: "list".to_owned(),
                reason: Reason::ProviderUnavailable,
                message: "no".to_owned(),
                retry_after: None,
            });
        }
        Ok(Listing { resources: vec![] })
    }
    async fn observe(&self, _: &Key, _: &Facts) -> Result<Presence, ProviderError> {
        unreachable!("not asked here")
    }
    async fn owner(&self, _: &Resource) -> Result<Owner, ProviderError> {
        unreachable!("not asked here")
    }
    async fn destroy(&self, _: &Key, _: &Facts) -> Result<Presence, ProviderError> {
        unreachable!("not asked here")
    }
    async fn prepare_claim(&self, _: &Key, _: &Facts, _: &str) -> Result<(), ProviderError> {
        unreachable!("not asked here")
    }
    async fn after_claim(&self, _: &Key, _: &Facts, _: &str) -> Result<(), ProviderError> {
        unreachable!("not asked here")
    }
    async fn diagnose(&self, _: &Key, _: &Facts) -> Report {
        unreachable!("not asked here")
    }
}

struct Peers(Arc<Peer>);

impl Connect for Peers {
    fn connect(&self, _: &Scope, _: SecretString) -> Result<Arc<dyn AgentProvider>, Trouble> {
        Ok(Arc::new(Slow(self.0.clone())))
    }
    fn unsupported(&self, _: &Template) -> Option<String> {
        None
    }
}

struct Place {
    fleet: Arc<Fleet>,
    peer: Arc<Peer>,
    scope: Scope,
    clock: Clock,
    token: Arc<Mutex<&'static str>>,
    /// How often its Secret was read.
    reads: Arc<AtomicUsize>,
}

/// A fleet whose listings take so long, and an API server that has its Secret.
fn place(takes: Duration) -> Place {
    let token = Arc::new(Mutex::new("b25l"));
    let (served, reads) = (token.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = reads.clone();
    let service = tower::service_fn(move |_: http::Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "railway"},
            "data": {"token": *served.lock().unwrap()}});
        async move {
            Ok::<_, kube::Error>(http::Response::new(Body::from(
                secret.to_string().into_bytes(),
            )))
        }
    });
    let peer = Arc::new(Peer {
        takes: Mutex::new(takes),
        fails: AtomicBool::new(false),
        listings: AtomicUsize::new(0),
    });
    let clock = Clock::system();
    let connect = Arc::new(Peers(peer.clone()));
    let scope = Scope {
        namespace: "agents".to_owned(),
        kind: "railway".to_owned(),
        secret: SecretKeyRef {
            name: "railway".to_owned(),
            key: "token".to_owned(),
        },
        token_kind: TokenKind::default(),
        project_id: "p".to_owned(),
        environment: Environment::Id("e".to_owned()),
    };
    Place {
        fleet: Arc::new(Fleet::new(
            Client::new(service, "agents"),
            clock.clone(),
            connect,
        )),
        peer,
        scope,
        clock,
        token,
        reads,
    }
}

impl Place {
    fn listings(&self) -> usize {
        self.peer.listings.load(Ordering::Relaxed)
    }

    /// Somebody of the many asks, beside us.
    fn recent(&self) -> tokio::task::JoinHandle<Result<Monotonic, Trouble>> {
        let (fleet, scope) = (self.fleet.clone(), self.scope.clone());
        tokio::spawn(async move { fleet.recent(&scope, TICK).await.map(|s| s.begun) })
    }

    /// The same, who must have it.
    fn strict(&self) -> tokio::task::JoinHandle<Result<Monotonic, Trouble>> {
        let (fleet, scope) = (self.fleet.clone(), self.scope.clone());
        tokio::spawn(async move { fleet.snapshot(&scope, TICK).await.map(|s| s.begun) })
    }
}

#[tokio::test(start_paused = true)]
async fn while_one_lists_the_others_go_on_with_the_latest_listing() {
    let place = place(seconds(20));
    // There is none yet: all wait for the first.
    let first: Vec<_> = (0..5).map(|_| place.recent()).collect();
    for one in first {
        assert_eq!(one.await.unwrap().unwrap(), Duration::ZERO);
    }
    assert_eq!(
        (place.listings(), place.clock.monotonic()),
        (1, seconds(20))
    );
    place.fleet.resolve(&place.scope).await.unwrap();

    tokio::time::sleep(seconds(60)).await;
    let asking = place.recent();
    tokio::time::sleep(seconds(1)).await;
    let began = place.clock.monotonic();
    assert_eq!(place.listings(), 2, "one is on its way");
    for _ in 0..5 {
        assert_eq!(place.recent().await.unwrap().unwrap(), Duration::ZERO);
    }
    // Nor does anybody who only wants to know.
    assert!(place.fleet.latest(&place.scope).is_some());
    place.fleet.provider(&place.scope).await.unwrap();
    place.fleet.resolve(&place.scope).await.unwrap();
    place.fleet.ask_again(&place.scope);
    assert_eq!(place.clock.monotonic(), began, "nobody waited");
    assert_eq!(asking.await.unwrap().unwrap(), seconds(80));
    assert_eq!(place.listings(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_takes_longer_than_its_greatest_age_is_fresh_for_all_who_waited_for_it() {
    let place = place(seconds(20));
    let all: Vec<_> = (0..10).map(|_| place.strict()).collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), Duration::ZERO);
    }
    assert_eq!(place.listings(), 1);
    // Whoever asks when it is over has one begun since.
    let late = place.strict().await.unwrap().unwrap();
    assert_eq!((late, place.listings()), (seconds(20), 2));
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_is_listed_a_third_of_the_time_at_most() {
    let place = place(seconds(20));
    while place.clock.monotonic() < seconds(600) {
        place.recent().await.unwrap().unwrap();
        tokio::time::sleep(seconds(1)).await;
    }
    assert_eq!(place.listings(), 10);
    // What takes a moment is listed as often as it is asked for.
    *place.peer.takes.lock().unwrap() = Duration::from_millis(100);
    tokio::time::sleep(seconds(60)).await;
    place.recent().await.unwrap().unwrap();
    let before = place.listings();
    for _ in 0..10 {
        tokio::time::sleep(TICK).await;
        place.recent().await.unwrap().unwrap();
    }
    assert_eq!(place.listings(), before + 10);
}

#[tokio::test(start_paused = true)]
async fn a_trouble_stands_until_a_listing_works_again() {
    let place = place(seconds(2));
    place.recent().await.unwrap().unwrap();
    place.peer.fails.store(true, Ordering::Relaxed);
    tokio::time::sleep(seconds(10)).await;
    place.recent().await.unwrap().unwrap_err();
    // Its time is over and one tries again: the others have no better word than before.
    tokio::time::sleep(seconds(60)).await;
    place.peer.fails.store(false, Ordering::Relaxed);
    let trying = place.recent();
    tokio::time::sleep(seconds(1)).await;
    place.recent().await.unwrap().unwrap_err();
    trying.await.unwrap().unwrap();
    place.recent().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_old_credential_met_is_not_held_against_the_new_one() {
    let place = place(seconds(5));
    place.peer.fails.store(true, Ordering::Relaxed);
    let refused = place.recent();
    tokio::time::sleep(seconds(1)).await;
    *place.token.lock().unwrap() = "dHdv";
    let cell = place.fleet.cell(&place.scope);
    place
        .fleet
        .connection(&place.scope, &cell, true)
        .await
        .unwrap();
    refused.await.unwrap().unwrap_err();
    place.peer.fails.store(false, Ordering::Relaxed);
    place.recent().await.unwrap().expect("asked at once");
}

/// Every instance of a scope asks, again and again.
#[tokio::test(start_paused = true)]
async fn a_secret_that_is_of_no_use_is_read_for_all_and_seldom() {
    let place = place(seconds(1));
    *place.token.lock().unwrap() = "";
    for _ in 0..100 {
        let trouble = place.fleet.provider(&place.scope).await.map(drop);
        assert_eq!(trouble.unwrap_err().reason, Reason::CredentialsMissing);
        place.recent().await.unwrap().unwrap_err();
    }
    assert_eq!(place.reads.load(Ordering::Relaxed), 1);
    *place.token.lock().unwrap() = "b25l";
    tokio::time::sleep(SECRET_LOOK).await;
    place.fleet.provider(&place.scope).await.map(drop).unwrap();
    assert_eq!(place.reads.load(Ordering::Relaxed), 2);
    // Nor is it waited for where a person has changed something.
    let place = self::place(seconds(1));
    *place.token.lock().unwrap() = "";
    place
        .fleet
        .provider(&place.scope)
        .await
        .map(drop)
        .unwrap_err();
    *place.token.lock().unwrap() = "b25l";
    place.fleet.ask_again(&place.scope);
    place.fleet.provider(&place.scope).await.map(drop).unwrap();
}
