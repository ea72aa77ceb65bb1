//! What a direct list proves, with an API server that gives pages.

use http::Response;
use kube::client::Body;
use kube::runtime::reflector;
use serde_json::{Value, json};

use super::*;

/// A page as the API server gives it: at most `limit`, and a token where there are more.
fn page(all: &[Value], query: &str) -> Value {
    let number = |name: &str| {
        let value = query.split('&').find_map(|p| p.strip_prefix(name))?;
        value.parse::<usize>().ok()
    };
    let from = number("continue=").unwrap_or(0);
    let to = all.len().min(from + number("limit=").unwrap());
    let next = (to < all.len()).then(|| to.to_string());
    json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstanceList",
        "metadata": {"continue": next.unwrap_or_default()}, "items": all[from..to]})
}

/// In stock by its word; proven for its present turn or put back, of a kind.
fn instance(n: usize, is_proven: bool, kind: &str) -> Value {
    json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentInstance",
        "metadata": {"name": format!("a{n:03}"), "namespace": "n", "uid": format!("uid-{n}"), "resourceVersion": "7"},
        "spec": {"id": format!("a{n:03}"), "poolRef": {"name": "p"}, "providerName": "x", "turn": 2,
            "template": {"revision": "r", "hash": "h"}},
        "status": {"phase": "Idle", "turn": if is_proven { 2 } else { 1 }, "runtime": {"kind": kind}}})
}

struct Place {
    candidates: Candidates,
    lists: Arc<Mutex<Vec<String>>>,
    clock: Clock,
}

fn place(all: Vec<Value>) -> Place {
    let lists: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = lists.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let query = request.uri().query().unwrap().to_owned();
        let answer = page(&all, &query).to_string().into_bytes();
        seen.lock().unwrap().push(query);
        async move { Ok::<_, kube::Error>(Response::new(Body::from(answer))) }
    });
    let clock = Clock::system();
    let replicas = Arc::new(Replicas::new("me".to_owned(), clock.clone()));
    let candidates = Candidates::new(
        Client::new(service, "n"),
        reflector::store().0,
        (Arc::default(), replicas),
        clock.clone(),
        Rng::seeded(7),
    );
    Place {
        candidates,
        lists,
        clock,
    }
}

fn pool() -> AgentPool {
    let object = json!({"apiVersion": "pool.convos.org/v1alpha1", "kind": "AgentPool",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"environment": "staging", "provider": {"railway": {"tokenSecretRef": {"name": "r", "key": "t"}}},
            "runtime": {"envProfile": "Minimal"}}});
    serde_json::from_value(object).unwrap()
}

impl Place {
    async fn names(&self, runtime: Option<&str>) -> Vec<String> {
        let now = self.clock.monotonic();
        let found = self.candidates.list(&pool(), runtime, now).await.unwrap();
        found.iter().map(|i| i.name_any()).collect()
    }

    fn asked(&self) -> usize {
        self.lists.lock().unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_what_was_put_back_hide_no_stock() {
    let mut all: Vec<Value> = (0..300).map(|n| instance(n, false, "x")).collect();
    all.push(instance(300, true, "x"));
    let place = place(all);
    assert_eq!(place.names(None).await, ["a300"]);
    assert_eq!(place.asked(), 3, "10, 250 and the rest");
}

#[tokio::test(start_paused = true)]
async fn none_is_said_after_the_last_page_only_and_the_first_is_enough_where_it_has_one() {
    let none = place((0..300).map(|n| instance(n, false, "x")).collect());
    assert!(none.names(None).await.is_empty());
    assert_eq!(none.asked(), 3);
    let stock = place((0..300).map(|n| instance(n, true, "x")).collect());
    assert_eq!(stock.names(None).await.len(), 10);
    assert_eq!(stock.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_kind_on_the_first_page_hides_none_of_the_wanted_kind() {
    let kind = |n| if n < 20 { "openclaw" } else { "hermes" };
    let place = place((0..30).map(|n| instance(n, true, kind(n))).collect());
    assert_eq!(place.names(Some("hermes")).await.len(), 10);
    // Of two who ask at the same time the other gets what this one's list has, and only if it proves something.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let arrived = place.clock.monotonic();
    let pool = pool();
    let (any, wanted) = tokio::join!(
        place.candidates.list(&pool, None, arrived),
        place.candidates.list(&pool, Some("hermes"), arrived),
    );
    assert_eq!((any.unwrap().len(), wanted.unwrap().len()), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn those_in_use_here_do_not_hide_what_is_behind_them() {
    let place = place((0..30).map(|n| instance(n, true, "x")).collect());
    let first = place.candidates.list(&pool(), None, Duration::ZERO).await;
    let first = first.unwrap();
    for _ in 0..10 {
        place.candidates.take_from(&first).unwrap();
    }
    assert!(place.candidates.take_from(&first).is_none());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = place.clock.monotonic();
    let more = place.candidates.list(&pool(), None, now).await.unwrap();
    assert!(place.candidates.take_from(&more).is_some());
}
