//! Commands: frames, exit codes, standard input, sessions, and what is over HTTP.

use super::*;

#[tokio::test]
async fn a_command_runs_in_its_own_home_and_tells_how_it_ended() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let ran = sim
        .bash(
            "a-1",
            "echo out; echo err >&2; pwd; echo $HOME $USER; exit 7",
        )
        .await;
    assert_eq!(ran.exit, Some(7), "{ran:?}");
    assert_eq!(ran.stderr, "err\n");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        (lines[0], lines[2]),
        ("out", format!("{} sprite", lines[1]).as_str())
    );
    assert!(lines[1].ends_with("/home/sprite"));
    assert!(ran.info["session_id"].is_string(), "{}", ran.info);
    assert_eq!(
        sim.bash("a-1", "kill -TERM $$").await.exit,
        Some(143),
        "128 + signal"
    );
    let host = sim.bash("a-1", "env").await.stdout;
    assert!(
        !host.contains("CARGO"),
        "nothing of the host leaks in: {host}"
    );
    let socket = sim
        .socket("sprites/a-1/exec?cmd=no-such-program")
        .await
        .expect("a handshake");
    assert_eq!(listen(socket).await.exit, Some(127));
    let none = sim
        .socket("sprites/a-1/exec")
        .await
        .expect_err("no command");
    assert!(matches!(*none, Error::Http(answer) if answer.status() == 400));
}

#[tokio::test]
async fn large_output_arrives_whole_and_the_exit_frame_comes_last() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let ran = sim
        .bash("a-1", "head -c 3000000 /dev/zero | tr '\\0' x")
        .await;
    assert_eq!((ran.stdout.len(), ran.exit), (3_000_000, Some(0)));
}

#[tokio::test]
async fn standard_input_is_fed_and_ended_by_frames() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let mut socket = sim
        .socket("sprites/a-1/exec?cmd=cat&stdin=true")
        .await
        .expect("a handshake");
    for frame in [b"\0one ".to_vec(), b"\0two".to_vec(), vec![4]] {
        socket
            .send(Message::Binary(frame.into()))
            .await
            .expect("sent");
    }
    let ran = listen(socket).await;
    assert_eq!((ran.stdout.as_str(), ran.exit), ("one two", Some(0)));
    let mut none = sim
        .socket("sprites/a-1/exec?cmd=cat")
        .await
        .expect("a handshake");
    none.send(Message::Binary(vec![4].into()))
        .await
        .expect("ignored");
    assert_eq!(
        listen(none).await.exit,
        Some(0),
        "without stdin it reads the end at once"
    );
}

#[tokio::test]
async fn a_terminal_has_a_size_and_raw_frames() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let path = exec_path(
        "a-1",
        "stty size; test -t 0 && echo tty; exit 5",
        "&tty=true&rows=31&cols=99",
    );
    let ran = listen(sim.socket(&path).await.expect("a handshake")).await;
    assert!(
        ran.stdout.contains("31 99") && ran.stdout.contains("tty"),
        "{ran:?}"
    );
    assert_eq!(ran.exit, Some(5));
}

#[tokio::test]
async fn a_detached_command_outlives_its_connection_as_long_as_it_may() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let long = exec_path(
        "a-1",
        "trap 'echo got it >signal; exit 9' TERM; echo begun; while :; do /bin/sleep 0.02; done",
        "&max_run_after_disconnect=24h0m0s",
    );
    let mut socket = sim.socket(&long).await.expect("a handshake");
    let info = socket
        .next()
        .await
        .expect("a message")
        .expect("session_info");
    let info: Value = serde_json::from_str(info.to_text().unwrap()).unwrap();
    let id = text(&info["session_id"]);
    drop(socket);
    let sessions = || async { sim.sprites("GET", "sprites/a-1/exec", "").await.json() };
    until("it runs on", || async {
        sessions().await["sessions"][0]["id"] == json!(id)
    })
    .await;
    let again = sim
        .socket(&format!("sprites/a-1/exec/{id}"))
        .await
        .expect("attached again");
    let kill = sim
        .sprites(
            "POST",
            &format!("sprites/a-1/exec/{id}/kill?signal=SIGTERM&timeout=60m"),
            "",
        )
        .await;
    assert_eq!(kill.types(), ["signal", "exited", "complete"], "{kill:?}");
    assert_eq!(kill.lines()[2]["exit_code"], 9);
    let ran = listen(again).await;
    assert_eq!(
        (ran.stdout.as_str(), ran.exit),
        ("begun\n", Some(9)),
        "what it printed before is replayed"
    );
    assert_eq!(
        sim.sprites("POST", &format!("sprites/a-1/exec/{id}/kill"), "")
            .await
            .status,
        410
    );
    assert_eq!(sessions().await["count"], 0);
    // Without that, ten seconds after its connection is gone (a tenth of a real one here).
    let short = exec_path("a-1", "echo $$ >pid; exec /bin/sleep 600", "");
    let socket = sim.socket(&short).await.expect("a handshake");
    until("it runs", || async { sessions().await["count"] == 1 }).await;
    drop(socket);
    until("it is ended", || async { sessions().await["count"] == 0 }).await;
    assert_eq!(sim.bash("a-1", "kill -0 $(cat pid)").await.exit, Some(1));
}

#[tokio::test]
async fn over_http_every_chunk_is_a_frame_and_the_exit_comes_last() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let path = exec_path("a-1", "cat; echo err >&2; exit 4", "&stdin=true");
    let url = format!("http://{}/v1/{path}", sim.peers);
    let request = reqwest::Client::new()
        .post(url)
        .bearer_auth(SPRITES_TOKEN)
        .body("in");
    let body = request
        .send()
        .await
        .expect("an answer")
        .bytes()
        .await
        .expect("a body");
    // Two pipes: which of them is read first is nobody's promise.
    let orders: [&[u8]; 2] = [b"\x01in\x02err\n\x03\x04", b"\x02err\n\x01in\x03\x04"];
    assert!(orders.contains(&&body[..]), "{body:?}");
}
