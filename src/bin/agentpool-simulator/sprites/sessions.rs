//! Running commands: what they print, who listens, what ends them.

use crate::clock::Ms;
use crate::sprites::answer::Answer;
use crate::sprites::ask::{Ask, duration};
use crate::sprites::machine::send;
use crate::sprites::stream::Lines;
use crate::world::Sim;
use axum::body::Bytes;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Who attaches late sees the last bytes only.
const REPLAYED: usize = 64 * 1024;
/// Ended sessions are remembered so long as they are among the last.
const REMEMBERED: usize = 64;

/// What listeners hear.
#[derive(Clone, Debug)]
pub enum Event {
    /// 1 or 2, and what was printed there.
    Output(u8, Bytes),
    /// The exit code, last.
    Exit(u8),
    /// The connection is dropped: the sprite pauses or restores.
    Cut,
}

/// One command.
pub struct Session {
    /// The process id in decimal.
    pub id: String,
    /// The process, leader of its group.
    pub pid: u32,
    /// argv, for people.
    pub command: String,
    /// Where it runs.
    pub dir: String,
    /// On a terminal.
    pub tty: bool,
    /// When it began.
    pub created: Ms,
    /// How long it may run with nobody attached; none: for ever.
    pub orphan: Option<Ms>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ring: VecDeque<(u8, Bytes)>,
    kept: usize,
    printed: u64,
    last_output: Ms,
    listeners: Vec<UnboundedSender<Event>>,
    exit: Option<u8>,
    attached: u32,
    attachments: u64,
    stdin: Option<std::sync::mpsc::Sender<Option<Vec<u8>>>>,
}

impl Session {
    /// A session and its first listener.
    pub fn new(
        (pid, command, dir): (u32, String, String),
        (tty, orphan): (bool, Option<Ms>),
        stdin: Option<std::sync::mpsc::Sender<Option<Vec<u8>>>>,
        now: Ms,
    ) -> (Arc<Self>, UnboundedReceiver<Event>) {
        let session = Arc::new(Self {
            id: pid.to_string(),
            pid,
            command,
            dir,
            tty,
            created: now,
            orphan,
            state: Mutex::new(State {
                stdin,
                last_output: now,
                ..State::default()
            }),
        });
        let events = session.listen();
        (session, events)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens: what is remembered comes first.
    pub fn listen(&self) -> UnboundedReceiver<Event> {
        let (sender, events) = unbounded_channel();
        let mut state = self.state();
        for (stream, bytes) in &state.ring {
            let _ = sender.send(Event::Output(*stream, bytes.clone()));
        }
        match state.exit {
            Some(code) => {
                let _ = sender.send(Event::Exit(code));
            }
            None => state.listeners.push(sender),
        }
        events
    }

    /// The process printed something.
    pub fn output(&self, stream: u8, bytes: &[u8], now: Ms) {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut state = self.state();
        state.printed += bytes.len() as u64;
        state.kept += bytes.len();
        state.last_output = now;
        state.ring.push_back((stream, bytes.clone()));
        while state.kept > REPLAYED && state.ring.len() > 1 {
            let gone = state.ring.pop_front().map_or(0, |(_, b)| b.len());
            state.kept -= gone;
        }
        state
            .listeners
            .retain(|l| l.send(Event::Output(stream, bytes.clone())).is_ok());
    }

    /// The process has ended, and all it printed was read.
    pub fn ended(&self, code: u8) {
        let mut state = self.state();
        state.exit.get_or_insert(code);
        state.stdin = None;
        for listener in state.listeners.drain(..) {
            let _ = listener.send(Event::Exit(code));
        }
    }

    /// Drops all listeners' connections.
    pub fn cut(&self) {
        for listener in self.state().listeners.drain(..) {
            let _ = listener.send(Event::Cut);
        }
    }

    /// The exit code, once there is one.
    pub fn exit(&self) -> Option<u8> {
        self.state().exit
    }

    /// Feeds its standard input; none ends it.
    pub fn feed(&self, bytes: Option<Vec<u8>>) {
        let mut state = self.state();
        let ends = bytes.is_none();
        if let Some(stdin) = &state.stdin {
            let _ = stdin.send(bytes);
        }
        if ends {
            state.stdin = None;
        }
    }

    /// Sends a signal to its group.
    pub fn signal(&self, signal: &str) {
        if self.exit().is_none() {
            send(signal, &[format!("-{}", self.pid)]);
        }
    }

    /// Somebody attaches.
    pub fn attach(&self) {
        let mut state = self.state();
        state.attached += 1;
        state.attachments += 1;
    }

    /// Somebody has gone; the number of attachments there were, if nobody is left.
    pub fn detach(&self) -> Option<u64> {
        let mut state = self.state();
        state.attached = state.attached.saturating_sub(1);
        (state.attached == 0 && state.exit.is_none()).then_some(state.attachments)
    }

    /// Whether nobody has attached since [`Session::detach`] gave that number.
    pub fn is_orphan(&self, attachments: u64) -> bool {
        let state = self.state();
        state.attached == 0 && state.attachments == attachments && state.exit.is_none()
    }

    fn to_json(&self, sim: &Sim) -> Value {
        let now = sim.clock.now();
        let state = self.state();
        let seconds = ((now - self.created).max(1) as f64) / 1000.0;
        json!({
            "id": self.id, "command": self.command, "workdir": self.dir, "created": sim.clock.stamp(self.created),
            "tty": self.tty, "bytes_per_second": state.printed as f64 / seconds, "is_active": now - state.last_output < 5000,
            "last_activity": sim.clock.stamp(state.last_output),
        })
    }
}

/// All sessions, by sprite.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Vec<Arc<Session>>>>);

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Session>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new one in.
    pub fn add(&self, sprite: &str, session: Arc<Session>) {
        let mut all = self.all();
        let own = all.entry(sprite.to_owned()).or_default();
        let ended = own.iter().filter(|s| s.exit().is_some()).count();
        if ended > REMEMBERED
            && let Some(oldest) = own.iter().position(|s| s.exit().is_some())
        {
            own.remove(oldest);
        }
        own.push(session);
    }

    /// The newest session of that id, ended or not: process ids come again.
    pub fn find(&self, sprite: &str, id: &str) -> Option<Arc<Session>> {
        let all = self.all();
        all.get(sprite)?.iter().rev().find(|s| s.id == id).cloned()
    }

    /// Those that run.
    pub fn running(&self, sprite: &str) -> Vec<Arc<Session>> {
        let all = self.all();
        let own = all.get(sprite).map(Vec::as_slice).unwrap_or_default();
        own.iter().filter(|s| s.exit().is_none()).cloned().collect()
    }

    /// Drops the connections of a sprite's sessions.
    pub fn cut(&self, sprite: &str) {
        for session in self.running(sprite) {
            session.cut();
        }
    }

    /// The same, and the sessions are no more.
    pub fn forget(&self, sprite: &str) {
        self.cut(sprite);
        self.all().remove(sprite);
    }
}

/// `GET …/exec`
pub fn list(sim: &Sim, id: &str) -> Answer {
    let sessions: Vec<Value> = sim
        .sessions
        .running(id)
        .iter()
        .map(|s| s.to_json(sim))
        .collect();
    Answer::json(200, &json!({"count": sessions.len(), "sessions": sessions}))
}

/// A signal's name without `SIG`, if it is one that may be sent.
pub fn signal_name(text: &str) -> Option<&'static str> {
    const KNOWN: &[&str] = &["INT", "TERM", "HUP", "KILL", "QUIT", "USR1", "USR2"];
    let bare = text.strip_prefix("SIG").unwrap_or(text);
    KNOWN.iter().find(|known| **known == bare).copied()
}

/// `POST …/exec/{id}/kill`
pub fn kill(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Answer {
    let Some(session) = sim.sessions.find(id, &ask.item) else {
        return Answer::text(404, &format!("session not found: {}", ask.item));
    };
    if session.exit().is_some() {
        return Answer::text(410, "session already exited");
    }
    let body = ask.json();
    let given = |key: &str| {
        ask.query
            .get(key)
            .or_else(|| body[key].as_str())
            .map(str::to_owned)
    };
    let signal = given("signal").unwrap_or_else(|| "SIGTERM".to_owned());
    let Some(signal) = signal_name(&signal) else {
        return Answer::text(400, "unknown signal");
    };
    let timeout = given("timeout")
        .and_then(|t| duration(&t))
        .unwrap_or(10_000);
    let (lines, answer) = Lines::new(sim, ask);
    let task_sim = sim.clone();
    sim.spawn(async move { kill_work(&task_sim, &session, (signal, timeout), lines).await });
    answer
}

async fn kill_work(sim: &Sim, session: &Session, (signal, timeout): (&str, Ms), mut lines: Lines) {
    let mut events = session.listen();
    session.signal(signal);
    let named = format!("SIG{signal}");
    lines.send(&json!({"type": "signal", "message": format!("sent {named}"), "signal": named, "pid": session.pid}));
    if timeout == 0 {
        // Only the signal was wanted.
        lines.send(&json!({"type": "complete"}));
        return;
    }
    let ends = async {
        loop {
            match events.recv().await {
                Some(Event::Exit(code)) => return Some(code),
                Some(_) => {}
                None => return session.exit(),
            }
        }
    };
    tokio::pin!(ends);
    let code = match sim.clock.timeout(timeout, &mut ends).await {
        Some(code) => {
            lines.send(&json!({"type": "exited", "message": "process exited", "pid": session.pid}));
            code
        }
        None => {
            lines.send(
                &json!({"type": "timeout", "message": "escalating to SIGKILL", "pid": session.pid}),
            );
            session.signal("KILL");
            let code = ends.await;
            lines.send(&json!({"type": "killed", "message": "process killed", "signal": "SIGKILL", "pid": session.pid}));
            code
        }
    };
    lines.send(&json!({"type": "complete", "exit_code": code}));
}

#[cfg(test)]
mod tests {
    use super::{Event, Session, signal_name};

    fn session() -> (
        std::sync::Arc<Session>,
        tokio::sync::mpsc::UnboundedReceiver<Event>,
    ) {
        Session::new((20, "x".to_owned(), "/".to_owned()), (false, None), None, 0)
    }

    fn heard(events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>) -> (usize, Option<u8>) {
        let (mut bytes, mut exit) = (0, None);
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Output(_, data) => bytes += data.len(),
                Event::Exit(code) => exit = Some(code),
                Event::Cut => {}
            }
        }
        (bytes, exit)
    }

    #[test]
    fn the_first_listener_hears_all_and_a_late_one_the_last_64_kib() {
        let (session, mut first) = session();
        for _ in 0..20 {
            session.output(1, &[0; 8192], 1);
        }
        session.ended(7);
        assert_eq!(heard(&mut first), (20 * 8192, Some(7)));
        assert_eq!(heard(&mut session.listen()), (64 * 1024, Some(7)));
    }

    #[test]
    fn a_session_is_an_orphan_until_somebody_attaches_again() {
        let (session, _events) = session();
        session.attach();
        let mark = session.detach().expect("nobody is left");
        assert!(session.is_orphan(mark));
        session.attach();
        assert!(!session.is_orphan(mark));
        session.detach();
        assert!(!session.is_orphan(mark), "that was another attachment");
    }

    #[test]
    fn signals_go_by_name() {
        assert_eq!(signal_name("SIGTERM"), Some("TERM"));
        assert_eq!(signal_name("USR1"), Some("USR1"));
        assert_eq!(signal_name("STOP"), None);
    }
}
