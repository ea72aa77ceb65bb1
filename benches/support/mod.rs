//! What the benchmarks of the whole system share: quantiles, the API server's own count of writes, and the tests'
//! world (binaries of this build, a real API server).

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;

#[path = "../../tests/support/mod.rs"]
mod tests_support;

#[allow(unused_imports, reason = "each benchmark uses a part of it")]
pub use tests_support::{operator, simulator, wait, world};

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

/// The API server's successful writes so far, by `resource[/subresource]`.
pub async fn writes(client: &Client) -> BTreeMap<String, u64> {
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
        let writes = ["POST", "PUT", "PATCH", "DELETE"].contains(&label("verb").as_str());
        if !writes || !label("code").starts_with('2') {
            continue;
        }
        let mut key = label("resource");
        if !label("subresource").is_empty() {
            key = format!("{key}/{}", label("subresource"));
        }
        *all.entry(key).or_default() += count.parse::<f64>().unwrap() as u64;
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
