//! Commands over WebSocket and over HTTP (sprites.md 3.2, 3.3).

use crate::clock::Ms;
use crate::sprites::answer::Answer;
use crate::sprites::ask::{Ask, Handshake, duration};
use crate::sprites::faults::number;
use crate::sprites::machine::Machine;
use crate::sprites::power::Hold;
use crate::sprites::pump;
use crate::sprites::sessions::{Event, Session};
use crate::sprites::socket::{self, Plan};
use crate::world::{Sim, World};
use axum::body::Bytes;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Between any two chunks of an HTTP exec, in real time: clients merge what comes closer.
const BETWEEN_CHUNKS: Duration = Duration::from_millis(10);

type Started = (Arc<Session>, UnboundedReceiver<Event>);

/// `GET …/exec` with a handshake.
pub async fn run_socket(sim: &Arc<Sim>, hold: Hold, mut ask: Ask) -> Answer {
    if let Some(id) = ask.query.get("id") {
        ask.item = id.to_owned();
        return attach(sim, hold, ask).await;
    }
    let Some(handshake) = ask.handshake.take() else {
        return Answer::text(400, "not a websocket handshake");
    };
    let connect = sim.world().sprites.knobs.ms("exec_connect_ms");
    sim.clock.sleep(connect).await;
    let plan = plan(sim, &ask);
    match start(sim, &hold.id, &ask) {
        Ok(started) => switch(sim, hold, handshake, (started, plan)),
        Err(refusal) => refusal,
    }
}

/// `GET …/exec/{id}` with a handshake.
pub async fn attach(sim: &Arc<Sim>, hold: Hold, mut ask: Ask) -> Answer {
    let Some(handshake) = ask.handshake.take() else {
        return Answer::text(400, "not a websocket handshake");
    };
    let session = sim
        .sessions
        .find(&hold.id, &ask.item)
        .filter(|s| s.exit().is_none());
    let Some(session) = session else {
        return Answer::text(404, &format!("session not found: {}", ask.item));
    };
    let events = session.listen();
    switch(sim, hold, handshake, ((session, events), Plan::default()))
}

fn switch(
    sim: &Arc<Sim>,
    hold: Hold,
    handshake: Handshake,
    (started, plan): (Started, Plan),
) -> Answer {
    let accept =
        tokio_tungstenite::tungstenite::handshake::derive_accept_key(handshake.key.as_bytes());
    let task_sim = sim.clone();
    started.0.attach();
    sim.spawn(async move {
        let session = started.0.clone();
        let id = hold.id.clone();
        if let Ok(connection) = handshake.on.await {
            socket::serve(&task_sim, hold, connection, started, plan).await;
        }
        leave(&task_sim, &id, &session);
    });
    Answer::Switch(accept)
}

/// One listener less; the last one's leaving begins the orphan's time.
fn leave(sim: &Arc<Sim>, sprite: &str, session: &Arc<Session>) {
    let Some(mark) = session.detach() else {
        return;
    };
    if let Some(sprite) = sim.world().sprites.all.get_mut(sprite) {
        sprite.life.last_activity = sim.clock.now();
    }
    let Some(most) = session.orphan else {
        return;
    };
    let (task_sim, session) = (sim.clone(), session.clone());
    sim.spawn(async move {
        task_sim.clock.sleep(most).await;
        if session.is_orphan(mark) {
            session.signal("KILL");
        }
    });
}

/// What faults have in store for this command's connection.
fn plan(sim: &Sim, ask: &Ask) -> Plan {
    let mut guard = sim.world();
    let World { sprites, rng, .. } = &mut *guard;
    let mut fires = |kind: &str| sprites.rules.fires(kind, (ask.operation, &ask.name), rng);
    Plan {
        cut: fires("exec_cut"),
        silent: fires("exec_silent"),
        pause: fires("pause"),
    }
}

/// Starts the command; its first listener misses nothing.
fn start(sim: &Arc<Sim>, id: &str, ask: &Ask) -> Result<Started, Answer> {
    let machine = Machine::of(sim, id).map_err(|e| Answer::text(500, &e.to_string()))?;
    let argv = ask.query.all("cmd");
    let tty = ask.query.flag("tty").unwrap_or(false);
    let first = argv.first().map(String::as_str);
    let Some(program) = ask.query.get("path").or(first).or(tty.then_some("bash")) else {
        return Err(Answer::error(400, "no command"));
    };
    let dir = ask.query.get("dir").unwrap_or("/home/sprite");
    let fault = {
        let mut guard = sim.world();
        let World { sprites, rng, .. } = &mut *guard;
        sprites
            .rules
            .fires("exec_fails", (ask.operation, &ask.name), rng)
    };
    let mut command = match fault {
        Some(fault) => failing(sim, &machine, &fault),
        None if tty => on_terminal(sim, &machine, (program, &argv), ask),
        None => {
            let mut command = machine.command(sim, program);
            command.args(argv.iter().skip(1));
            command
        }
    };
    command.current_dir(machine.directory(dir));
    for pair in ask.query.all("env") {
        if let Some((key, value)) = pair.split_once('=') {
            command.env(key, value);
        }
    }
    let orphan = ask.query.get("max_run_after_disconnect").and_then(duration);
    let orphan = match orphan {
        Some(0) => None,
        Some(ms) => Some(ms),
        None if tty => None,
        None => Some(sim.world().sprites.knobs.ms("nontty_orphan_s")),
    };
    let wants_stdin = ask.query.flag("stdin").unwrap_or(tty) || tty;
    let stdin = if wants_stdin {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let about = About {
        command: if argv.is_empty() {
            program.to_owned()
        } else {
            argv.join(" ")
        },
        dir: dir.to_owned(),
        tty,
        orphan,
    };
    Ok(spawn(sim, id, command, about))
}

struct About {
    command: String,
    dir: String,
    tty: bool,
    orphan: Option<Ms>,
}

fn failing(sim: &Sim, machine: &Machine, fault: &Value) -> Command {
    let mut command = machine.command(sim, "/bin/sh");
    let code = number(fault, "code", 1).to_string();
    let text = fault["stderr"].as_str().unwrap_or("simulated failure\n");
    command.args([
        "-c",
        "printf %s \"$2\" >&2; exit \"$1\"",
        "fault",
        &code,
        text,
    ]);
    command
}

/// A pseudo-terminal of the wanted size, by script(1).
fn on_terminal(
    sim: &Sim,
    machine: &Machine,
    (program, argv): (&str, &[String]),
    ask: &Ask,
) -> Command {
    let quote = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let words = std::iter::once(program).chain(argv.iter().skip(1).map(String::as_str));
    let words: Vec<String> = words.map(quote).collect();
    let size = |key: &str, default: u16| {
        ask.query
            .get(key)
            .and_then(|n| n.parse().ok())
            .unwrap_or(default)
    };
    let (rows, cols) = (size("rows", 24), size("cols", 80));
    let place = machine.run().join("tty.$PPID");
    let script = format!(
        "tty > {}; stty rows {rows} cols {cols}; exec {}",
        place.display(),
        words.join(" ")
    );
    let mut command = machine.command(sim, "script");
    command
        .args(["-qefc", &script, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh");
    command
}

fn spawn(sim: &Arc<Sim>, id: &str, mut command: Command, about: About) -> Started {
    let now = sim.clock.now();
    let missing = command
        .get_current_dir()
        .filter(|dir| !dir.is_dir())
        .map(Path::to_owned);
    let spawned = match missing {
        Some(dir) => Err(format!(
            "chdir {}: no such file or directory\n",
            dir.display()
        )),
        None => command
            .spawn()
            .map_err(|e| format!("exec: {:?}: {e}\n", command.get_program())),
    };
    let mut child = match spawned {
        Ok(child) => child,
        Err(why) => {
            let (session, events) =
                Session::new((0, about.command, about.dir), (about.tty, None), None, now);
            session.output(2, why.as_bytes(), now);
            session.ended(127);
            return (session, events);
        }
    };
    let stdin = child.stdin.take().map(feeder);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let who = (child.id(), about.command, about.dir);
    let (session, events) = Session::new(who, (about.tty, about.orphan), stdin, now);
    sim.sessions.add(id, session.clone());
    let readers = [
        out.map(|out| pump::pieces(out, printer(sim, id, &session, 1))),
        err.map(|err| pump::pieces(err, printer(sim, id, &session, 2))),
    ];
    let ended = session.clone();
    std::thread::spawn(move || {
        let code = pump::code(child.wait());
        // What it left in the background ends with it.
        crate::sprites::machine::send("KILL", &[format!("-{}", ended.pid)]);
        pump::join(readers.into_iter().flatten());
        ended.ended(code as u8);
    });
    (session, events)
}

/// Feeds standard input from a thread, so that a command that does not read blocks nobody.
fn feeder(mut stdin: ChildStdin) -> mpsc::Sender<Option<Vec<u8>>> {
    let (sender, pieces) = mpsc::channel::<Option<Vec<u8>>>();
    std::thread::spawn(move || {
        while let Ok(Some(piece)) = pieces.recv() {
            if stdin
                .write_all(&piece)
                .and_then(|()| stdin.flush())
                .is_err()
            {
                break;
            }
        }
    });
    sender
}

/// Hands on what is printed; printing is activity.
fn printer(
    sim: &Arc<Sim>,
    id: &str,
    session: &Arc<Session>,
    stream: u8,
) -> impl FnMut(&[u8]) + Send + 'static {
    let (sim, id, session) = (sim.clone(), id.to_owned(), session.clone());
    move |bytes| {
        let now = sim.clock.now();
        if let Some(sprite) = sim.world().sprites.all.get_mut(&id) {
            sprite.life.last_activity = sprite.life.last_activity.max(now);
        }
        session.output(stream, bytes, now);
    }
}

/// `POST …/exec`
pub async fn run_http(sim: &Arc<Sim>, hold: Hold, ask: Ask) -> Answer {
    let plan = plan(sim, &ask);
    let (session, events) = match start(sim, &hold.id, &ask) {
        Ok(started) => started,
        Err(refusal) => return refusal,
    };
    if ask.query.flag("stdin") == Some(true) {
        session.feed(Some(ask.request.body.clone()));
    }
    session.feed(None);
    session.attach();
    let (sender, pieces) = unbounded_channel();
    let task_sim = sim.clone();
    sim.spawn(async move {
        chunks(&task_sim, (&hold.id, plan), events, &sender).await;
        let id = hold.id.clone();
        drop(hold);
        leave(&task_sim, &id, &session);
    });
    Answer::Stream {
        content_type: "application/octet-stream",
        pieces,
    }
}

async fn chunks(
    sim: &Arc<Sim>,
    (id, plan): (&str, Plan),
    mut events: UnboundedReceiver<Event>,
    sender: &tokio::sync::mpsc::UnboundedSender<Bytes>,
) {
    if plan.pause.is_some() {
        crate::sprites::power::force(sim, id, crate::sprites::life::Status::Warm);
        return;
    }
    let cut_after = plan.cut.map(|f| number(&f, "frames", 0));
    let mut sent = 0;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = sender.closed() => return,
        };
        let (chunk, last) = match event {
            Some(Event::Output(stream, bytes)) => ([&[stream], bytes.as_ref()].concat(), false),
            Some(Event::Exit(code)) => (vec![3, code], true),
            Some(Event::Cut) | None => return,
        };
        if cut_after.is_some_and(|most| sent >= most || last)
            || sender.send(Bytes::from(chunk)).is_err()
            || last
        {
            return;
        }
        sent += 1;
        sim.clock.sleep_real(BETWEEN_CHUNKS).await;
    }
}
