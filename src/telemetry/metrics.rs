//! The process's metrics: one registry, typed methods, no globals.
//!
//! Label values come from enums or from route tables, so that their number is bounded. Gauges are computed when they
//! are scraped, by sources that the application registers; nothing is kept with inc and dec.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Content type of what [`Metrics::encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Claims take from milliseconds to minutes.
const CLAIM_BUCKETS: [f64; 13] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 45.0, 90.0, 150.0,
];
/// Calls to a provider.
const CALL_BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Requests to a provider in an instance's life.
const LIFE_BUCKETS: [f64; 8] = [4.0, 6.0, 7.0, 8.0, 10.0, 15.0, 25.0, 50.0];
/// Requests to us.
const HTTP_BUCKETS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 150.0,
];

/// Reconciles: most do nothing, some wait for a provider.
const RECONCILE_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 90.0];

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// An agent in a conversation.
    Claimed,
    /// An agent that waits for a person to accept it.
    PendingAcceptance,
    /// None was idle.
    NoIdle,
    /// The pool serves no claims now.
    Paused,
    /// The agents refused or failed.
    ProvisionFailed,
    /// The agent refused the request as such.
    Invalid,
    /// The same conversation is being joined already.
    Duplicate,
    /// The key came before with another request.
    KeyReused,
    /// The cluster could not be read or written.
    ClusterError,
    /// The claim's task ended without an answer.
    Lost,
}

impl ClaimResult {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::PendingAcceptance => "pending_acceptance",
            Self::NoIdle => "no_idle",
            Self::Paused => "paused",
            Self::ProvisionFailed => "provision_failed",
            Self::Invalid => "invalid",
            Self::Duplicate => "duplicate",
            Self::KeyReused => "key_reused",
            Self::ClusterError => "cluster_error",
            Self::Lost => "lost",
        }
    }
}

/// One pool's numbers at the time of a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSample {
    /// The pool's namespace.
    pub namespace: String,
    /// The pool's name.
    pub pool: String,
    /// `spec.minIdle`; `None` where only instances are left of the pool.
    pub min_idle: Option<i64>,
    /// `spec.maxTotal`, where there is one.
    pub max_total: Option<i64>,
    /// Instances by phase, every phase once, in the words of `status.phase`.
    pub instances: Vec<(&'static str, i64)>,
    /// Idle instances that are not what the pool would build now.
    pub drifted: i64,
}

/// How many resources of a kind the latest sweep of a pool's scope found and left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StraySample {
    /// The pool's namespace.
    pub namespace: String,
    /// The pool's name.
    pub pool: String,
    /// `foreign`, `unmarked` or `ours`.
    pub kind: &'static str,
    /// How many.
    pub count: i64,
}

type StraySource = Arc<dyn Fn() -> Vec<StraySample> + Send + Sync>;
type PoolSource = Arc<dyn Fn() -> Vec<PoolSample> + Send + Sync>;
type LeaderSource = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClaimLabels {
    namespace: String,
    pool: String,
    source: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    namespace: String,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    provider: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallTimeLabels {
    provider: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SentLabels {
    provider: &'static str,
    purpose: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    controller: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpTimeLabels {
    method: &'static str,
    route: String,
}

type Times<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of a process. Cheap to clone; clones share their numbers.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    pools: Arc<Pools>,
    claims: Family<ClaimLabels, Counter>,
    claim_seconds: Times<PoolLabels>,
    calls: Family<CallLabels, Counter>,
    call_seconds: Times<CallTimeLabels>,
    sent: Family<SentLabels, Counter>,
    sent_in_life: Histogram,
    reconcile_errors: Family<ErrorLabels, Counter>,
    reconcile_seconds: Times<ControllerLabels>,
    requests: Family<HttpLabels, Counter>,
    request_seconds: Times<HttpTimeLabels>,
}

impl Metrics {
    /// A new registry with the prefix `agentpool`.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("agentpool");
        let claims = Family::default();
        registry.register("claims", "Claims by what came of them", claims.clone());
        let claim_seconds: Times<PoolLabels> =
            Family::new_with_constructor(|| Histogram::new(CLAIM_BUCKETS));
        registry.register(
            "claim_duration_seconds",
            "Time from a claim's arrival to its answer",
            claim_seconds.clone(),
        );
        let calls = Family::default();
        registry.register(
            "provider_calls",
            "Calls to providers by operation and outcome",
            calls.clone(),
        );
        let call_seconds: Times<CallTimeLabels> =
            Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS));
        registry.register(
            "provider_call_duration_seconds",
            "Time of calls to providers",
            call_seconds.clone(),
        );
        let sent = Family::default();
        registry.register(
            "provider_requests",
            "Requests to providers by what they were for",
            sent.clone(),
        );
        let sent_in_life = Histogram::new(LIFE_BUCKETS);
        registry.register(
            "instance_provider_requests",
            "Requests to the provider in an instance's whole life, the shared listings not counted; of those that this \
             process created and saw removed",
            sent_in_life.clone(),
        );
        let reconcile_errors = Family::default();
        registry.register(
            "reconcile_errors",
            "Failed reconciles by controller and class",
            reconcile_errors.clone(),
        );
        let reconcile_seconds: Times<ControllerLabels> =
            Family::new_with_constructor(|| Histogram::new(RECONCILE_BUCKETS));
        registry.register(
            "reconcile_duration_seconds",
            "Time of reconciles by controller",
            reconcile_seconds.clone(),
        );
        let requests = Family::default();
        registry.register(
            "http_requests",
            "Requests to the API by route and status",
            requests.clone(),
        );
        let request_seconds: Times<HttpTimeLabels> =
            Family::new_with_constructor(|| Histogram::new(HTTP_BUCKETS));
        registry.register(
            "http_request_duration_seconds",
            "Time of requests to the API",
            request_seconds.clone(),
        );
        let pools = Arc::new(Pools::default());
        registry.register_collector(Box::new(pools.clone()));
        let inner = Inner {
            registry,
            pools,
            claims,
            claim_seconds,
            calls,
            call_seconds,
            sent,
            sent_in_life,
            reconcile_errors,
            reconcile_seconds,
            requests,
            request_seconds,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Sets where the pools' gauges come from at each scrape; replaces an earlier source.
    pub fn set_pool_source(&self, source: impl Fn() -> Vec<PoolSample> + Send + Sync + 'static) {
        *self
            .inner
            .pools
            .source
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(source));
    }

    /// Sets where the gauge `agentpool_leader` comes from at each scrape. Without one there is no such gauge: the API
    /// alone is never a candidate.
    pub fn set_leader_source(&self, source: impl Fn() -> bool + Send + Sync + 'static) {
        *self
            .inner
            .pools
            .leads
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(source));
    }

    /// Sets where the gauge of strays comes from at each scrape; replaces an earlier source.
    pub fn set_stray_source(&self, source: impl Fn() -> Vec<StraySample> + Send + Sync + 'static) {
        *self
            .inner
            .pools
            .strays
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(source));
    }

    /// Counts one claim. Sources other than the documented ones count as `other`.
    pub fn claim(
        &self,
        namespace: &str,
        pool: &str,
        source: &str,
        outcome: ClaimResult,
        took: Duration,
    ) {
        let (namespace, pool) = (namespace.to_owned(), pool.to_owned());
        let times = PoolLabels {
            namespace: namespace.clone(),
            pool: pool.clone(),
        };
        let labels = ClaimLabels {
            namespace,
            pool,
            source: source_label(source),
            outcome: outcome.as_str(),
        };
        self.inner.claims.get_or_create(&labels).inc();
        self.inner
            .claim_seconds
            .get_or_create(&times)
            .observe(took.as_secs_f64());
    }

    /// Counts one call to a provider; `outcome` is `ok` or the error's class.
    pub fn provider_call(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        self.inner
            .calls
            .get_or_create(&CallLabels {
                provider,
                operation,
                outcome,
            })
            .inc();
        self.inner
            .call_seconds
            .get_or_create(&CallTimeLabels {
                provider,
                operation,
            })
            .observe(took.as_secs_f64());
    }

    /// Counts requests to a provider.
    pub fn provider_requests(&self, provider: &'static str, purpose: &'static str, requests: u32) {
        let labels = SentLabels { provider, purpose };
        self.inner
            .sent
            .get_or_create(&labels)
            .inc_by(u64::from(requests));
    }

    /// An instance is gone that cost its provider so many requests.
    pub fn instance_requests(&self, requests: u32) {
        self.inner.sent_in_life.observe(f64::from(requests));
    }

    /// Counts one failed reconcile.
    pub fn reconcile_error(&self, controller: &'static str, class: &'static str) {
        self.inner
            .reconcile_errors
            .get_or_create(&ErrorLabels { controller, class })
            .inc();
    }

    /// Counts one reconcile, whatever came of it.
    pub fn reconcile(&self, controller: &'static str, took: Duration) {
        self.inner
            .reconcile_seconds
            .get_or_create(&ControllerLabels { controller })
            .observe(took.as_secs_f64());
    }

    /// Counts one request; `route` is the pattern that matched, never the path.
    pub fn http_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let (method, route) = (method_label(method), route.to_owned());
        self.inner
            .requests
            .get_or_create(&HttpLabels {
                method,
                route: route.clone(),
                status,
            })
            .inc();
        self.inner
            .request_seconds
            .get_or_create(&HttpTimeLabels { method, route })
            .observe(took.as_secs_f64());
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.inner.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn source_label(source: &str) -> &'static str {
    ["api", "admin", "landing", "lite", "manifest"]
        .into_iter()
        .find(|known| *known == source)
        .unwrap_or("other")
}

fn method_label(method: &str) -> &'static str {
    ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}

/// The gauges that are computed at a scrape.
#[derive(Default)]
struct Pools {
    source: RwLock<Option<PoolSource>>,
    leads: RwLock<Option<LeaderSource>>,
    strays: RwLock<Option<StraySource>>,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pools")
    }
}

impl Pools {
    fn encode_strays(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let source = self
            .strays
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(samples) = source.map(|source| source()) else {
            return Ok(());
        };
        let text =
            "Resources at the provider, called as the pool's are, that no agent of ours is about";
        let mut gauge =
            encoder.encode_descriptor("stray_resources", text, None, MetricType::Gauge)?;
        for s in samples {
            let kind = ("kind", s.kind.to_owned());
            gauge
                .encode_family(&[("namespace", s.namespace), ("pool", s.pool), kind])?
                .encode_gauge(&s.count)?;
        }
        Ok(())
    }
}

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let leads = self
            .leads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(leads) = leads {
            let text = "1 where this process runs the reconcilers";
            encoder
                .encode_descriptor("leader", text, None, MetricType::Gauge)?
                .encode_gauge(&i64::from(leads()))?;
        }
        let source = self
            .source
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.encode_strays(&mut encoder)?;
        let Some(samples) = source.map(|source| source()) else {
            return Ok(());
        };
        let labels =
            |s: &PoolSample| [("namespace", s.namespace.clone()), ("pool", s.pool.clone())];
        let mut gauge =
            encoder.encode_descriptor("instances", "Agents by phase", None, MetricType::Gauge)?;
        for sample in &samples {
            for (phase, count) in &sample.instances {
                let [namespace, pool] = labels(sample);
                gauge
                    .encode_family(&[namespace, pool, ("phase", (*phase).to_owned())])?
                    .encode_gauge(count)?;
            }
        }
        let text = "Idle agents that are not what the pool would build now";
        let mut gauge =
            encoder.encode_descriptor("drifted_instances", text, None, MetricType::Gauge)?;
        for s in &samples {
            gauge.encode_family(&labels(s))?.encode_gauge(&s.drifted)?;
        }
        let mut gauge = encoder.encode_descriptor(
            "pool_min_idle",
            "Agents that should stand ready",
            None,
            MetricType::Gauge,
        )?;
        for sample in &samples {
            if let Some(min) = sample.min_idle {
                gauge.encode_family(&labels(sample))?.encode_gauge(&min)?;
            }
        }
        let mut gauge = encoder.encode_descriptor(
            "pool_max_total",
            "The most agents at one time",
            None,
            MetricType::Gauge,
        )?;
        for sample in &samples {
            if let Some(max) = sample.max_total {
                gauge.encode_family(&labels(sample))?.encode_gauge(&max)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_the_prefix_and_bounded_labels() {
        let metrics = Metrics::new();
        metrics.set_pool_source(|| {
            vec![PoolSample {
                namespace: "agents".into(),
                pool: "staging".into(),
                min_idle: Some(3),
                max_total: None,
                instances: vec![("Idle", 2)],
                drifted: 1,
            }]
        });
        metrics.set_leader_source(|| true);
        metrics.set_stray_source(|| {
            vec![StraySample {
                namespace: "agents".into(),
                pool: "staging".into(),
                kind: "foreign",
                count: 4,
            }]
        });
        metrics.claim(
            "agents",
            "staging",
            "somebody's own word",
            ClaimResult::NoIdle,
            Duration::from_millis(3),
        );
        metrics.provider_call("railway", "list", "ok", Duration::from_millis(30));
        metrics.reconcile_error("instance", "transient");
        metrics.reconcile("instance", Duration::from_millis(2));
        metrics.http_request("BREW", "/api/pool/counts", 200, Duration::from_millis(1));
        let text = metrics.encode().unwrap();
        for line in [
            "agentpool_leader 1",
            "agentpool_instances{namespace=\"agents\",pool=\"staging\",phase=\"Idle\"} 2",
            "agentpool_stray_resources{namespace=\"agents\",pool=\"staging\",kind=\"foreign\"} 4",
            "agentpool_drifted_instances{namespace=\"agents\",pool=\"staging\"} 1",
            "agentpool_pool_min_idle{namespace=\"agents\",pool=\"staging\"} 3",
            "agentpool_claims_total{namespace=\"agents\",pool=\"staging\",source=\"other\",outcome=\"no_idle\"} 1",
            "agentpool_provider_calls_total{provider=\"railway\",operation=\"list\",outcome=\"ok\"} 1",
            "agentpool_reconcile_errors_total{controller=\"instance\",class=\"transient\"} 1",
            "agentpool_reconcile_duration_seconds_count{controller=\"instance\"} 1",
            "agentpool_http_requests_total{method=\"other\",route=\"/api/pool/counts\",status=\"200\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(
            text.lines()
                .filter(|l| !l.starts_with('#'))
                .all(|l| l.starts_with("agentpool_")),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
