//! One operator process as the outside sees it: everything that leaves it goes through here, where it is counted,
//! lost, delayed, answered in somebody's place, or the last thing that the process ever did.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use agentpool::clock::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

/// To whom a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// The API server.
    Kubernetes,
    /// Railway.
    Railway,
    /// An agent.
    Agent,
}

/// One call that leaves a process.
#[derive(Clone, Debug)]
pub struct Call {
    /// To whom.
    pub peer: Peer,
    /// Method and path, or the GraphQL operation.
    pub what: String,
    /// Whether it changes anything.
    pub write: bool,
    /// Whether it is a watch, which is never lost as a call.
    pub watch: bool,
}

/// At which point of a call a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before it is sent.
    Before,
    /// After its effect, before the answer.
    AfterEffect,
    /// As soon as it has the answer.
    AfterAnswer,
}

/// At which call a process dies.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Death {
    Call(u64),
    First(String),
}

/// What happens to a call instead of an ordinary answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It never arrives, and no answer comes.
    Swallowed,
    /// It takes effect, and no answer comes.
    Unanswered,
    /// It is answered with this status, and nothing happens.
    Refused(u16),
    /// It takes effect and is answered with this status.
    Denied(u16),
}

/// How often each kind of loss happens to calls to the API server, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Calls swallowed.
    pub swallowed: u16,
    /// Calls that take effect and are not answered.
    pub unanswered: u16,
    /// Writes answered 409.
    pub conflicts: u16,
    /// Calls answered 429, 500 or 503.
    pub errors: u16,
}

#[derive(Default)]
struct State {
    calls: u64,
    dies: Option<(Death, At)>,
    paused_until: Option<Instant>,
    weather: Weather,
    counts: BTreeMap<(Peer, bool), u64>,
    log: Option<Vec<String>>,
    between: Option<(u64, Between)>,
    failed: bool,
}

/// What somebody else does right before a call arrives.
type Between = Box<dyn FnOnce(&Call) + Send>;

/// A process. Cheap to clone; clones are the same process.
#[derive(Clone)]
pub struct Process {
    /// Its name, as holder and reporter.
    pub name: String,
    state: Arc<Mutex<State>>,
    dead: Arc<(AtomicBool, Notify)>,
    rng: Rng,
    trace: Trace,
}

/// What happened, as a running hash and, on request, as text.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Traced>>);

#[derive(Default)]
struct Traced {
    hash: u64,
    lines: Vec<String>,
    keeps: bool,
    tells: bool,
}

impl Trace {
    /// One that keeps its lines.
    pub fn kept() -> Self {
        let trace = Self::default();
        trace.with(|t| t.keeps = true);
        trace
    }

    /// One that prints its lines as they come.
    pub fn told() -> Self {
        let trace = Self::default();
        trace.with(|t| t.tells = true);
        trace
    }

    fn with<T>(&self, work: impl FnOnce(&mut Traced) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a line.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let line = line();
        self.with(|t| {
            // FNV-1a: the same everywhere.
            for byte in line.bytes() {
                t.hash = (t.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            if t.tells {
                println!("{line}");
            }
            if t.keeps {
                t.lines.push(line);
            }
        });
    }

    /// The hash of everything so far.
    pub fn digest(&self) -> u64 {
        self.with(|t| t.hash)
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.with(|t| t.lines.clone())
    }
}

impl Process {
    /// A process that lives.
    pub fn new(name: &str, rng: Rng, trace: Trace) -> Self {
        Self {
            name: name.to_owned(),
            state: Arc::default(),
            dead: Arc::default(),
            rng,
            trace,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: nothing leaves it any more, and its tasks are dropped where they stand.
    pub fn kill(&self) {
        self.dead.0.store(true, Ordering::SeqCst);
        self.dead.1.notify_waiters();
    }

    /// It broke a rule of its own.
    pub fn fail(&self) {
        self.state().failed = true;
    }

    /// Whether it broke a rule of its own.
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        self.dead.0.load(Ordering::SeqCst)
    }

    /// Ends when the process does.
    pub async fn ended(&self) {
        let told = self.dead.1.notified();
        if !self.is_dead() {
            told.await;
        }
    }

    /// It dies at its `n`-th call, counted from one.
    pub fn dies_at(&self, n: u64, at: At) {
        self.state().dies = Some((Death::Call(n), at));
    }

    /// It dies at its first call of that name.
    pub fn dies_on(&self, what: &str, at: At) {
        self.state().dies = Some((Death::First(what.to_owned()), at));
    }

    /// It stands still so long: nothing in it moves, and then everything goes on where it was.
    pub fn pause_until(&self, until: Instant) {
        self.state().paused_until = Some(until);
    }

    /// Right before its `n`-th call arrives, somebody else does this.
    pub fn between(&self, n: u64, work: impl FnOnce(&Call) + Send + 'static) {
        self.state().between = Some((n, Box::new(work)));
    }

    /// How its calls to the API server fare.
    pub fn weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Calls so far to a peer, reads or writes.
    pub fn count(&self, peer: Peer, write: bool) -> u64 {
        self.state()
            .counts
            .get(&(peer, write))
            .copied()
            .unwrap_or(0)
    }

    /// Keeps the calls as text from now on.
    pub fn keep_log(&self) {
        self.state().log = Some(vec![]);
    }

    /// The calls kept.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone().unwrap_or_default()
    }

    /// While it lives and is not paused; never for the dead.
    async fn alive(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let until = self.state().paused_until;
            #[allow(
                clippy::disallowed_methods,
                reason = "virtual time is the subject here"
            )]
            match until {
                Some(until) if Instant::now() < until => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    fn died_at(&self, n: u64, what: &str, at: At) -> bool {
        let dies = match &self.state().dies {
            Some((Death::Call(call), when)) => *call == n && *when == at,
            Some((Death::First(call), when)) => call == what && *when == at,
            None => false,
        };
        if dies {
            self.trace
                .note(|| format!("{} dies at call {n} {at:?}", self.name));
            self.kill();
        }
        dies
    }

    fn loss(&self, call: &Call) -> Option<Loss> {
        let weather = self.state().weather;
        if call.peer != Peer::Kubernetes || call.watch {
            return None;
        }
        let total = weather.swallowed + weather.unanswered + weather.conflicts + weather.errors;
        if total == 0 {
            return None;
        }
        let drawn = u16::try_from(self.rng.below(1000)).unwrap_or(1000);
        let conflicts = weather.swallowed + weather.unanswered + weather.conflicts;
        match drawn {
            d if d < weather.swallowed => Some(Loss::Swallowed),
            d if d < weather.swallowed + weather.unanswered => Some(Loss::Unanswered),
            d if d < conflicts => call.write.then_some(Loss::Refused(409)),
            d if d < total => {
                let code = [429, 500, 503][self.rng.below(3)];
                // An error after the effect is what a proxy makes of a server that is slow to answer.
                Some(if self.rng.below(3) == 0 {
                    Loss::Denied(code)
                } else {
                    Loss::Refused(code)
                })
            }
            _ => None,
        }
    }

    /// Carries one call: `send` makes its effect, `status` an answer in its place.
    pub async fn carry<T>(
        &self,
        call: Call,
        send: impl Future<Output = T>,
        status: impl FnOnce(u16) -> T,
    ) -> T {
        self.alive().await;
        let n = {
            let mut state = self.state();
            state.calls += 1;
            *state.counts.entry((call.peer, call.write)).or_default() += 1;
            let n = state.calls;
            if let Some(log) = &mut state.log {
                log.push(format!("{n} {:?} {}", call.peer, call.what));
            }
            n
        };
        self.trace
            .note(|| format!("{} {n} {:?} {}", self.name, call.peer, call.what));
        if self.died_at(n, &call.what, At::Before) {
            std::future::pending::<()>().await;
        }
        let loss = self.loss(&call);
        if let Some(loss) = loss {
            self.trace.note(|| format!("{} {n} {loss:?}", self.name));
        }
        if call.peer == Peer::Kubernetes {
            self.travel().await;
        }
        match loss {
            Some(Loss::Swallowed) => std::future::pending::<()>().await,
            Some(Loss::Refused(code)) => return status(code),
            _ => {}
        }
        let between = self.state().between.take_if(|(at, _)| *at == n);
        if let Some((_, work)) = between {
            work(&call);
        }
        let answer = send.await;
        if self.died_at(n, &call.what, At::AfterEffect) || loss == Some(Loss::Unanswered) {
            std::future::pending::<()>().await;
        }
        if call.peer == Peer::Kubernetes {
            self.travel().await;
        }
        self.alive().await;
        self.died_at(n, &call.what, At::AfterAnswer);
        match loss {
            Some(Loss::Denied(code)) => status(code),
            _ => answer,
        }
    }

    /// A few milliseconds on the way, so that others come in between.
    async fn travel(&self) {
        let ms = 1 + self.rng.below(4) as u64;
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Work of the process: dropped when it dies, not polled while it is paused.
    pub fn run<F: Future<Output = ()>>(&self, work: F) -> impl Future<Output = ()> + use<F> {
        let (process, ended) = (self.clone(), self.clone());
        Mortal {
            process,
            ended: Box::pin(async move { ended.ended().await }),
            awake: None,
            work: Box::pin(work),
        }
    }
}

struct Mortal<F> {
    process: Process,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    awake: Option<Pin<Box<tokio::time::Sleep>>>,
    work: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Mortal<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "virtual time is the subject here"
        )]
        let now = Instant::now();
        let until = self.process.state().paused_until.filter(|u| *u > now);
        if let Some(until) = until {
            let mut awake = Box::pin(tokio::time::sleep_until(until));
            let polled = awake.as_mut().poll(cx);
            self.awake = Some(awake);
            if polled.is_pending() {
                return Poll::Pending;
            }
        }
        let done = self.work.as_mut().poll(cx);
        // It may have died by its own call just now.
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        done
    }
}
