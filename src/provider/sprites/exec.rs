//! Commands inside a sprite, over a WebSocket without a terminal: binary messages of one id byte and a payload.
//!
//! The exit frame is the only proof of an end. A close or a reset without it says nothing about the command, which may
//! have run, may be running, or may be killed ten seconds later: so every command of ours can be run again. Nothing
//! secret goes into a command: it rides in the address, which reaches logs.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::classify::{Failure, Kind, of_answer};
use super::client::Session;

/// What is kept of each stream: its end.
const TAIL: usize = 64 << 10;
/// The largest message.
const MESSAGE_MAX: usize = 1 << 20;
/// Longer addresses are refused somewhere above 40 KB.
const ADDRESS_MAX: usize = 32 << 10;

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The executable and its arguments; no shell is between.
    pub argv: &'a [&'a str],
    /// How long it goes on when the connection is gone, Go style; `None`: the interface's ten seconds.
    pub outlives: Option<&'a str>,
    /// The longest that is waited for its end.
    pub limit: Duration,
}

/// A command that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; 128 + signal where it was killed.
    pub code: u8,
    /// The end of what it printed.
    pub stdout: String,
    /// The end of its complaints.
    pub stderr: String,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Runs a command to its end.
pub async fn run(
    session: &Session,
    sprite: &str,
    command: &Command<'_>,
) -> Result<Output, Failure> {
    match follow(session, sprite, command, false).await? {
        Followed::Ended(output) => Ok(output),
        Followed::Speaks => Err(no_exit("it was left while it ran")),
    }
}

/// Starts a command and leaves it as soon as it printed something: then it runs. An end before that is one too.
pub async fn launch(session: &Session, sprite: &str, command: &Command<'_>) -> Result<(), Failure> {
    follow(session, sprite, command, true).await.map(drop)
}

enum Followed {
    Ended(Output),
    Speaks,
}

async fn follow(
    session: &Session,
    sprite: &str,
    command: &Command<'_>,
    leave: bool,
) -> Result<Followed, Failure> {
    let conversation = async {
        let mut socket = connect(session, sprite, command).await?;
        let followed = listen(session, &mut socket, leave).await;
        // The server would keep it open for five seconds more. Its answer is worth no wait.
        let farewell = tokio::time::timeout(Duration::from_millis(200), socket.close(None));
        drop(farewell.await);
        followed
    };
    let late = || no_exit("it did not end in time");
    let result = tokio::time::timeout(command.limit, conversation).await;
    let result = result.unwrap_or_else(|_| Err(late()));
    result.map_err(|f| session.redacted(f))
}

fn no_exit(why: &str) -> Failure {
    Failure::new(
        Kind::Unknown,
        format!("nobody knows how the command ended: {why}"),
    )
}

async fn connect(
    session: &Session,
    sprite: &str,
    command: &Command<'_>,
) -> Result<Socket, Failure> {
    session.admit()?;
    let mut query: Vec<(&str, &str)> = command.argv.iter().map(|a| ("cmd", *a)).collect();
    query.extend(command.argv.first().map(|a| ("path", *a)));
    query.push(("stdin", "false"));
    query.extend(command.outlives.map(|d| ("max_run_after_disconnect", d)));
    let url = session.url(&["sprites", sprite, "exec"], &query);
    let (host, port) = (
        url.host_str().unwrap_or_default(),
        url.port_or_known_default(),
    );
    let address = format!("ws{}", url.as_str().trim_start_matches("http"));
    if address.len() > ADDRESS_MAX {
        return Err(Failure::new(
            Kind::Refused,
            "the command is too long to be sent",
        ));
    }
    let unbuilt = || Failure::new(Kind::Refused, "the request could not be built");
    let mut request = address.into_client_request().map_err(|_| unbuilt())?;
    let headers = request.headers_mut();
    headers.insert("authorization", session.authorization().clone());
    let limit = session.timeouts().handshake;
    // A host in brackets is an IPv6 address.
    let host = host.trim_matches(['[', ']']).to_owned();
    let dial = TcpStream::connect((host, port.unwrap_or(443)));
    let stream = match tokio::time::timeout(limit, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Err(Failure::new(Kind::NotSent, "no connection")),
        Err(_) => return Err(Failure::new(Kind::NotSent, "no answer in time")),
    };
    // Frames are small and few; without Nagle's delay each goes out at once. Not vital.
    drop(stream.set_nodelay(true));
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let shake = client_async_tls_with_config(request, stream, Some(config), None);
    match tokio::time::timeout(limit, shake).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(answer))) => {
            let body = answer.body().as_deref().unwrap_or_default();
            let failure = of_answer(answer.status().as_u16(), answer.headers(), body);
            let odd = || Failure::new(Kind::Unknown, "a success that is no WebSocket");
            Err(session.noted(failure.unwrap_or_else(odd)))
        }
        Ok(Err(_)) => Err(no_exit("the handshake broke")),
        Err(_) => Err(no_exit("the handshake was not answered in time")),
    }
}

async fn listen(session: &Session, socket: &mut Socket, leave: bool) -> Result<Followed, Failure> {
    let timeouts = session.timeouts();
    let clock = session.clock();
    let mut heard = clock.monotonic();
    let mut output = Collected::default();
    loop {
        let message = match tokio::time::timeout(timeouts.ping, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(Error::Capacity(_)))) => return Err(no_exit("a frame is too large")),
            Ok(Some(Err(_))) => return Err(no_exit("the connection broke")),
            Ok(None) => return Err(no_exit("the connection was closed")),
            Err(_) if clock.monotonic().saturating_sub(heard) >= timeouts.silence => {
                return Err(no_exit("the connection is silent"));
            }
            Err(_) => {
                let ping = socket.send(Message::Ping(Default::default())).await;
                ping.map_err(|_| no_exit("the connection broke"))?;
                continue;
            }
        };
        heard = clock.monotonic();
        let exit = match &message {
            Message::Binary(frame) => output.binary(frame)?,
            Message::Text(text) => exit_in(text),
            Message::Close(_) => return Err(no_exit("the connection was closed")),
            _ => None,
        };
        if let Some(code) = exit {
            return Ok(Followed::Ended(output.ended(code)));
        }
        if leave && output.spoke() {
            return Ok(Followed::Speaks);
        }
    }
}

/// What a command printed so far.
#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Collected {
    /// Takes a binary message; the exit code, where it is the exit frame.
    fn binary(&mut self, frame: &[u8]) -> Result<Option<u8>, Failure> {
        match frame {
            [1, rest @ ..] => keep(&mut self.stdout, rest),
            [2, rest @ ..] => keep(&mut self.stderr, rest),
            [3, code] => return Ok(Some(*code)),
            [3, ..] => return Err(no_exit("the exit frame has not exactly one code")),
            // Ids of a later version.
            _ => {}
        }
        Ok(None)
    }

    fn spoke(&self) -> bool {
        !self.stdout.is_empty() || !self.stderr.is_empty()
    }

    fn ended(self, code: u8) -> Output {
        Output {
            code,
            stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
        }
    }
}

fn keep(tail: &mut Vec<u8>, more: &[u8]) {
    tail.extend_from_slice(more);
    // Cut seldom: each cut moves what is kept.
    if tail.len() > 2 * TAIL {
        tail.drain(..tail.len() - TAIL);
    }
}

/// The exit code in a text message; other messages of that form are notices.
fn exit_in(text: &str) -> Option<u8> {
    let message: serde_json::Value = serde_json::from_str(text).ok()?;
    if message.get("type")?.as_str()? != "exit" {
        return None;
    }
    u8::try_from(message.get("exit_code")?.as_i64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_one_id_byte_and_the_exit_one_code() {
        let mut output = Collected::default();
        for frame in [&[1, b'a'][..], &[2, b'b'], &[1, b'c'], &[9, 0], &[]] {
            assert_eq!(output.binary(frame), Ok(None));
        }
        assert_eq!(output.binary(&[3, 0]), Ok(Some(0)));
        assert_eq!(output.binary(&[3, 143]), Ok(Some(143)));
        for odd in [&[3][..], &[3, 0, 0, 0], &[3, 0, 0, 0, 1]] {
            assert!(output.binary(odd).is_err(), "{odd:?}");
        }
        let output = output.ended(0);
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("ac", "b")
        );
    }

    #[test]
    fn only_an_exit_message_is_an_exit() {
        assert_eq!(exit_in(r#"{"type":"exit","exit_code":7}"#), Some(7));
        for other in [
            r#"{"type":"session_info","session_id":"20","exit_code":0}"#,
            r#"{"type":"exit"}"#,
            r#"{"type":"exit","exit_code":-1}"#,
            "exit 0",
        ] {
            assert_eq!(exit_in(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let mut tail = Vec::new();
        for i in 0..300u32 {
            keep(&mut tail, &vec![(i % 256) as u8; 1000]);
        }
        assert!(tail.len() <= 2 * TAIL && tail.len() >= TAIL);
        assert_eq!(tail.last(), Some(&43));
    }
}
