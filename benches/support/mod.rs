//! What the benchmarks of the whole system share: quantiles, the API server's own count of writes, and the tests'
//! world (binaries of this build, a real API server).

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;

pub mod process;
pub mod seed;

#[path = "../../tests/support/mod.rs"]
mod tests_support;

#[allow(unused_imports, reason = "each benchmark uses a part of it")]
pub use tests_support::{operator, simulator, wait, world};

/// How long a state may take on a loaded machine.
pub const LONG: Duration = Duration::from_secs(600);

/// Durations in order, to be asked for quantiles.
pub struct Quantiles(Vec<Duration>);

impl Quantiles {
    /// Sorts.
    pub fn of(mut all: Vec<Duration>) -> Self {
        assert!(!all.is_empty(), "nothing was measured");
        all.sort();
        Self(all)
    }

    /// The duration that `percent` of all do not exceed, in milliseconds.
    pub fn at(&self, percent: f64) -> f64 {
        let last = self.0.len() - 1;
        let index = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0[index.saturating_sub(1).min(last)].as_secs_f64() * 1000.0
    }

    /// p50, p90, p99 and the longest, as a line.
    pub fn line(&self) -> String {
        format!(
            "p50 {:.1} ms   p90 {:.1} ms   p99 {:.1} ms   max {:.1} ms   n {}",
            self.at(50.0),
            self.at(90.0),
            self.at(99.0),
            self.at(100.0),
            self.0.len()
        )
    }
}

/// The API server's requests so far, by verb, code and `resource[/subresource]`.
#[derive(Default)]
pub struct Requests(BTreeMap<(String, String, String), u64>);

const WRITES: [&str; 4] = ["POST", "PUT", "PATCH", "DELETE"];

impl Requests {
    /// As its own metrics tell.
    pub async fn so_far(client: &Client) -> Self {
        let request = http::Request::get("/metrics")
            .body(vec![])
            .expect("a request");
        let text = client.request_text(request).await.unwrap();
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("apiserver_request_total{") else {
                continue;
            };
            let (labels, count) = rest.rsplit_once("} ").unwrap();
            let label = |name: &str| {
                let start = labels.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
                labels[start..].split('"').next().unwrap().to_owned()
            };
            let mut key = label("resource");
            if !label("subresource").is_empty() {
                key = format!("{key}/{}", label("subresource"));
            }
            *all.entry((label("verb"), label("code"), key)).or_default() +=
                count.parse::<f64>().unwrap() as u64;
        }
        Self(all)
    }

    /// What came since.
    pub fn since(&self, before: &Self) -> Self {
        let of = |key| before.0.get(key).copied().unwrap_or_default();
        let grown = self.0.iter().map(|(key, n)| (key.clone(), n - of(key)));
        Self(grown.filter(|(_, n)| *n > 0).collect())
    }

    fn count(&self, is: impl Fn(&str, &str, &str) -> bool) -> u64 {
        let counted = self.0.iter().filter(|((v, c, k), _)| is(v, c, k));
        counted.map(|(_, n)| n).sum()
    }

    /// Successful writes of one kind of thing.
    pub fn writes(&self, what: &str) -> u64 {
        self.count(|verb, code, key| WRITES.contains(&verb) && code.starts_with('2') && key == what)
    }

    /// All successful writes, leases apart.
    pub fn all_writes(&self) -> u64 {
        self.count(|verb, code, key| {
            WRITES.contains(&verb) && code.starts_with('2') && key != "leases"
        })
    }

    /// Writes that came too late.
    pub fn conflicts(&self) -> u64 {
        self.count(|_, code, _| code == "409")
    }

    /// Reads and lists of one kind of thing.
    pub fn reads(&self, what: &str) -> u64 {
        self.count(|verb, _, key| ["GET", "LIST"].contains(&verb) && key == what)
    }
}

/// The API server's successful writes so far, by `resource[/subresource]`.
pub async fn writes(client: &Client) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for ((verb, code, key), count) in Requests::so_far(client).await.0 {
        if WRITES.contains(&verb.as_str()) && code.starts_with('2') {
            *all.entry(key).or_default() += count;
        }
    }
    all
}

/// What was written between two counts.
pub fn written(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let of = |key: &String| before.get(key).copied().unwrap_or_default();
    let grown = after.iter().map(|(key, n)| (key.clone(), n - of(key)));
    grown.filter(|(_, n)| *n > 0).collect()
}

/// One metric of an operator's own port, summed over its labels that contain `labels`.
pub async fn metric(operations: &str, name: &str, labels: &str) -> f64 {
    let text = reqwest::get(format!("{operations}/metrics")).await.unwrap();
    let text = text.text().await.unwrap();
    let lines = text
        .lines()
        .filter(|l| l.starts_with(name) && l.contains(labels));
    lines
        .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
