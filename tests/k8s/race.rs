//! Claims against everything at once: three API processes and two controllers of the built binary, killed and paused
//! at random, agents with every fault of a claim at random, 64 callers. Each seed is printed and replays its choices.
//!
//! `AGENTPOOL_RACE_CLAIMS` (300), `AGENTPOOL_RACE_SEED` (by chance), `AGENTPOOL_RACE_PAUSE_SECONDS` (6) and
//! `AGENTPOOL_RACE_ROUNDS` (1), each with the next seed and a pool of its own, because thousands of agents in one starve
//! two cores: `make soak-race` runs it long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentpool::domain::instance::phase::{Phase, phase_of};
use futures::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};

use super::http_calls::{bearer, host, service_id, text};
use crate::support::operator::Operator;
use crate::support::wait::progress;
use crate::support::world::{POOL, World, standing};

const CALLERS: usize = 64;
const APIS: usize = 3;
const CONTROLLERS: usize = 2;
/// `claim.deadlineSeconds` of the pool.
const DEADLINE: Duration = Duration::from_secs(20);
/// A claim's answer may be this late: a busy machine, and the last write.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a caller asks again for want of stock.
const PATIENCE: Duration = Duration::from_secs(300);
const SETTLED: Duration = Duration::from_secs(180);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// One claim, from its caller's side.
struct Told {
    body: Value,
    /// With a key it was asked for again when the call broke.
    key: Option<String>,
    join_url: Option<String>,
    /// Of a 200.
    instance: Option<String>,
    conversation: Option<String>,
    waiting: bool,
    took: Duration,
    /// Status and code of the last answer, for the print.
    word: String,
}

/// Callers that know what they were told.
#[derive(Clone)]
struct Callers {
    apis: Arc<Mutex<Vec<String>>>,
    next: Arc<AtomicUsize>,
    answers: Arc<AtomicUsize>,
    total: usize,
    longest: Duration,
    began: Instant,
    seed: u64,
}

impl Callers {
    async fn run(self) -> Vec<Told> {
        let http = Client::new();
        let mut told = vec![];
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.total {
                return told;
            }
            let joins = n.is_multiple_of(3);
            let join_url =
                joins.then(|| format!("https://dev.convos.org/v2?i=race{}x{n:020}", self.seed));
            let body = match &join_url {
                Some(url) => json!({"joinUrl": url}),
                None => json!({"agentName": format!("Agent {n}"), "instructions": "Be kind."}),
            };
            let keyed = join_url.is_none() && n.is_multiple_of(2);
            let key = keyed.then(|| format!("race-{}-{n}", self.seed));
            told.push(self.one(&http, n, (key, join_url), body).await);
            let answered = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
            if answered.is_multiple_of(100) {
                let took = self.began.elapsed().as_secs();
                println!(
                    "race: {answered} of {} have an answer after {took} s",
                    self.total
                );
            }
        }
    }

    /// One claim, asked for again while there is no stock. A call that broke is only where it has a key: else nobody
    /// could tell what it did.
    async fn one(
        &self,
        http: &Client,
        n: usize,
        (key, join_url): (Option<String>, Option<String>),
        sent: Value,
    ) -> Told {
        let patience = Instant::now() + PATIENCE;
        loop {
            let api = self.apis.lock().unwrap()[n % APIS].clone();
            let began = Instant::now();
            let answer = ask(http, &api, key.as_deref(), &sent, self.longest).await;
            let took = began.elapsed();
            let (status, body): (u16, Value) = match answer {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    (status, answer.json().await.unwrap_or_default())
                }
                // Nobody listens there: nothing was asked.
                Err(e) if e.is_connect() => (503, Value::Null),
                Err(_) => (0, Value::Null),
            };
            let unknown = key.is_some()
                && (status == 0 || body["code"] == "still_running" || body["code"] == "upstream");
            if (status == 503 || unknown) && Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(300)).await;
                continue;
            }
            let word = format!("{status} {}", body["code"].as_str().unwrap_or_default());
            let body = if status == 200 { body } else { Value::Null };
            let field = |key: &str| body[key].as_str().map(str::to_owned);
            return Told {
                body: sent,
                key,
                join_url,
                instance: field("instanceId"),
                conversation: field("conversationId"),
                waiting: body["waitingForAcceptance"] == true,
                took,
                word,
            };
        }
    }
}

async fn ask(
    http: &Client,
    api: &str,
    key: Option<&str>,
    body: &Value,
    limit: Duration,
) -> reqwest::Result<reqwest::Response> {
    let request = http.post(format!("{api}/api/pool/claim"));
    let mut request = request.header("authorization", bearer()).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.timeout(limit).send().await
}

/// The faults of agents that claims meet. Not those that bind an agent anew after it has answered (a request doubled on
/// its way, an attempt that the wrapper gave up), nor those that end an agent in use: they are in `settlement`, `states`
/// and `callbacks`.
fn faults() -> Vec<Value> {
    let route = "/pool/provision";
    let on = |kind: &str| json!({"fault": {"kind": kind, "route": route}});
    let edge = |kind: &str, applied: bool| json!({"fault": {"kind": kind, "route": route, "applied": applied}});
    let cut = |at: &str| json!({"fault": {"kind": "reset", "route": route, "at": at}});
    let any = |fault: Value| json!({"fault": fault});
    // Of an agent in use they would be another story.
    let idle = |kind: &str| json!({"match": {"phase": "idle"}, "fault": {"kind": kind}});
    vec![
        any(json!({"kind": "create500Before"})),
        any(json!({"kind": "create500After"})),
        any(json!({"kind": "join500"})),
        any(json!({"kind": "joinBadInvite"})),
        any(json!({"kind": "boundInBetween"})),
        any(json!({"kind": "dieClaiming", "at": "before"})),
        any(json!({"kind": "dieClaiming", "at": "after"})),
        any(json!({"kind": "flappingHealth"})),
        any(json!({"kind": "htmlStatus"})),
        any(json!({"kind": "badJson", "route": "/convos/status"})),
        any(json!({"kind": "gateway502", "route": "/convos/status"})),
        on("halfAnswer"),
        on("badJson"),
        on("emptyBody"),
        on("missingFields"),
        on("hang"),
        cut("before"),
        cut("middle"),
        cut("after"),
        edge("gateway502", true),
        edge("gateway502", false),
        edge("504", true),
        edge("504", false),
        idle("alreadyBound"),
        idle("unauthorized"),
        idle("dieIdle"),
    ]
}

/// Most of the faults, each with a share of its own: by the seed.
async fn arm(world: &World, rng: &mut fastrand::Rng) {
    for mut rule in faults() {
        if rng.u8(..4) > 0 {
            let share = 0.004 + 0.02 * rng.f64();
            rule["when"] = json!({"probability": share});
            world.sim.fault("agents", rule).await;
        }
    }
}

/// The processes, which are killed and paused until the callers are done.
struct Chaos {
    processes: Vec<(&'static str, Operator)>,
    apis: Arc<Mutex<Vec<String>>>,
    rng: fastrand::Rng,
    longest: Duration,
    killed: usize,
    paused: usize,
}

impl Chaos {
    fn start(
        world: &World,
        apis: &Arc<Mutex<Vec<String>>>,
        rng: fastrand::Rng,
        longest: Duration,
    ) -> Self {
        let roles = [vec!["api"; APIS], vec!["controller"; CONTROLLERS]].concat();
        let start = |role| (role, Operator::start(role, &world.environment(&[])));
        let processes: Vec<_> = roles.into_iter().map(start).collect();
        *apis.lock().unwrap() = processes[..APIS]
            .iter()
            .map(|(_, o)| o.api.clone())
            .collect();
        Self {
            processes,
            apis: apis.clone(),
            rng,
            longest,
            killed: 0,
            paused: 0,
        }
    }

    /// A blow for every so many answers: a slow machine is not hit more often for it.
    async fn run(mut self, world: &World, answers: &AtomicUsize, over: &AtomicBool) -> Self {
        let mut next = 0;
        loop {
            next += self.rng.usize(15..30);
            while answers.load(Ordering::Relaxed) < next {
                if over.load(Ordering::Relaxed) {
                    return self;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Without a leader nothing is refilled: the controllers less often.
            let among = if self.rng.u8(..4) == 0 {
                APIS..APIS + CONTROLLERS
            } else {
                0..APIS
            };
            let n = self.rng.usize(among);
            if self.rng.u8(..3) == 0 {
                self.pause(n, over).await;
            } else {
                self.kill(n, world);
            }
        }
    }

    fn kill(&mut self, n: usize, world: &World) {
        let (role, operator) = &mut self.processes[n];
        operator.kill();
        *operator = Operator::start(role, &world.environment(&[]));
        if n < APIS {
            self.apis.lock().unwrap()[n] = operator.api.clone();
        }
        self.killed += 1;
    }

    /// Stands still, longer than a term: a paused leader wakes as a stale one.
    async fn pause(&mut self, n: usize, over: &AtomicBool) {
        let until = Instant::now() + self.longest.mul_f64(self.rng.f64());
        self.processes[n].1.pause();
        while Instant::now() < until && !over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.processes[n].1.resume();
        self.paused += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_while_everything_dies_stalls_and_fails() {
    let seed = setting("AGENTPOOL_RACE_SEED", fastrand::u64(..1_000_000));
    let total = usize::try_from(setting("AGENTPOOL_RACE_CLAIMS", 300)).unwrap();
    let pause = Duration::from_secs(setting("AGENTPOOL_RACE_PAUSE_SECONDS", 6));
    let rounds = setting("AGENTPOOL_RACE_ROUNDS", 1);
    for seed in seed..seed + rounds {
        println!(
            "race: seed {seed}, {total} claims, pauses of up to {} s; again: AGENTPOOL_RACE_SEED={seed}",
            pause.as_secs()
        );
        let began = Instant::now();
        round(seed, total, pause).await;
        println!(
            "race: seed {seed} took {:.0} s",
            began.elapsed().as_secs_f64()
        );
    }
}

/// One pool, one set of processes, so many claims.
async fn round(seed: u64, total: usize, pause: Duration) {
    let world = World::seeded("race", seed).await;
    let mut rng = fastrand::Rng::with_seed(seed);
    let apis = Arc::new(Mutex::new(vec![]));
    let chaos = Chaos::start(&world, &apis, rng.fork(), pause);
    let claims = json!({"deadlineSeconds": DEADLINE.as_secs(), "renameOnClaim": false});
    let spec = json!({"minIdle": 30, "maxTotal": total * 4 + 100, "circuitBreaker": {"failures": 100},
        "cleanupAfterSeconds": 60, "claim": claims});
    world.create_pool(POOL, spec).await;
    world.wait_idle(30).await;
    let fast = json!({"defaults": {"create": [100, 3000], "join": [100, 5000]}});
    world.sim.set("agents", fast).await;
    arm(&world, &mut rng).await;

    let answers: Arc<AtomicUsize> = Arc::default();
    let callers = Callers {
        apis,
        next: Arc::default(),
        answers: answers.clone(),
        total,
        longest: DEADLINE + pause + MARGIN,
        began: Instant::now(),
        seed,
    };
    let over = AtomicBool::new(false);
    let claiming = async {
        let told = join_all((0..CALLERS).map(|_| callers.clone().run())).await;
        over.store(true, Ordering::Relaxed);
        told.into_iter().flatten().collect::<Vec<Told>>()
    };
    let (told, chaos) = tokio::join!(claiming, chaos.run(&world, &answers, &over));
    let mut words: BTreeMap<&str, usize> = BTreeMap::new();
    for t in &told {
        *words.entry(&t.word).or_default() += 1;
    }
    println!("race: answers {words:?}");
    let answered = told.iter().filter(|t| t.instance.is_some()).count();
    println!(
        "race: {answered} of {} answered 200, {} kills, {} pauses",
        told.len(),
        chaos.killed,
        chaos.paused
    );
    assert_eq!(told.len(), total);
    assert!(
        answered * 4 > total,
        "so little came through that this shows nothing: {answered}"
    );

    for kind in ["agents", "railway"] {
        world.sim.heal(kind).await;
    }
    progress("no claim is left in flight", || async {
        let mut all = world.list().await;
        all.retain(|i| phase_of(i) == Phase::Claiming);
        if all.is_empty() {
            Ok(())
        } else {
            Err(standing(&all))
        }
    })
    .await;
    nobody_was_shared(&told);
    let api = chaos.processes[0].1.api.clone();
    every_key_answers_the_same(&api, &told).await;
    let late = told.iter().map(|t| t.took).max().unwrap_or_default();
    assert!(
        late <= DEADLINE + pause + MARGIN,
        "an answer after {late:?}"
    );
    every_answer_stands(&world, &told).await;
    one_agent_per_link(&world, &told).await;
    idle_is_clean(&world).await;
    world.sim.check_calls().await;
    world.finish().await;
}

/// No agent and no conversation of a create was handed out twice.
fn nobody_was_shared(told: &[Told]) {
    let mut agents = BTreeSet::new();
    let mut conversations = BTreeSet::new();
    for t in told.iter().filter(|t| t.instance.is_some()) {
        assert!(
            agents.insert(t.instance.clone()),
            "{:?} was handed out twice",
            t.instance
        );
        assert!(
            t.conversation.is_some() || t.waiting,
            "{:?} without a conversation",
            t.instance
        );
        if t.join_url.is_none() {
            assert!(
                conversations.insert(t.conversation.clone()),
                "{:?}",
                t.conversation
            );
        }
    }
}

/// Whoever served it, and whatever became of that process.
async fn every_key_answers_the_same(api: &str, told: &[Told]) {
    let http = Client::new();
    let keyed = told
        .iter()
        .filter(|t| t.key.is_some() && t.instance.is_some());
    let mut count = 0;
    for t in keyed {
        let answer = ask(&http, api, t.key.as_deref(), &t.body, SETTLED)
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{:?}", t.key);
        let again: Value = answer.json().await.unwrap();
        assert_eq!(
            again["instanceId"].as_str(),
            t.instance.as_deref(),
            "{:?}",
            t.key
        );
        assert_eq!(
            again["conversationId"].as_str(),
            t.conversation.as_deref(),
            "{:?}",
            t.key
        );
        count += 1;
    }
    println!("race: {count} keys answer as before");
}

/// Who was told of an agent has it: recorded, and bound as was told.
async fn every_answer_stands(world: &World, told: &[Told]) {
    let (all, ledger) = (world.list().await, world.sim.ledger().await);
    let agents = world.sim.state("agents").await["instances"].clone();
    let by_id: HashMap<&str, _> = all.iter().map(|i| (i.spec.id.as_str(), i)).collect();
    for t in told {
        let Some(id) = &t.instance else { continue };
        let instance = by_id
            .get(id.as_str())
            .unwrap_or_else(|| panic!("{id} was answered, and is gone"));
        let account = &ledger["instances"][service_id(instance)];
        assert_eq!(
            phase_of(instance),
            Phase::Claimed,
            "{id}: {:?}; at the simulator {account}",
            instance.status
        );
        let recorded = instance.status.as_ref().unwrap().claim.as_ref().unwrap();
        assert_eq!(recorded.conversation_id, t.conversation, "{id}");
        assert_eq!(
            agents[host(instance)]["bound"],
            json!(t.conversation),
            "{id}"
        );
        if t.join_url.is_none() {
            let made = account["conversations"].as_array().unwrap();
            assert!(
                made.iter().any(|c| c["id"] == json!(t.conversation)),
                "{id}: {account}"
            );
        }
    }
}

/// Of the agents that ever joined a link's conversation no two were there at the same time.
async fn one_agent_per_link(world: &World, told: &[Told]) {
    let ledger = world.sim.ledger().await;
    let links: usize = told.iter().filter(|t| t.join_url.is_some()).count();
    let gone: BTreeMap<String, bool> = ledger["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["kind"] == "service")
        .map(|r| (text(r, "id"), r["exists"] == false))
        .collect();
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (service, account) in ledger["instances"].as_object().unwrap() {
        for bind in account["binds"].as_array().unwrap() {
            let there = !gone.get(service).copied().unwrap_or(true);
            if bind["by"] == "join" && there {
                members
                    .entry(text(bind, "id"))
                    .or_default()
                    .push(service.clone());
            }
        }
    }
    assert!(members.len() <= links);
    for (conversation, services) in members {
        assert_eq!(services.len(), 1, "{conversation} has several agents");
    }
}

/// What is in stock is bound to nothing.
async fn idle_is_clean(world: &World) {
    let agents = world.sim.state("agents").await["instances"].clone();
    for instance in world.in_phase(Phase::Idle).await {
        let agent = &agents[host(&instance)];
        assert!(
            agent["bound"].is_null(),
            "{} is in stock: {agent}",
            instance.spec.id
        );
    }
}
