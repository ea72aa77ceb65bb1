//! `agentpool-simulator inside`: what the played programs of a sprite run to reach the sprite's API
//! (`sprites::inside`). Blocking, without the runtime: it lives for milliseconds.

use anyhow::{Context, bail};
use clap::Args;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// `inside`
#[derive(Args)]
pub struct InsideArgs {
    /// `curl`, then its options and an address or a path of the API inside
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The part of curl's command line that is understood.
#[derive(Default, PartialEq, Debug)]
struct Curl {
    method: Option<String>,
    body: Option<String>,
    headers: Vec<String>,
    target: String,
    fail: bool,
    output: Option<String>,
    write_out: Option<String>,
}

/// Options that take a value and change nothing here.
const IGNORED: &[&str] = &[
    "-m",
    "--max-time",
    "--connect-timeout",
    "--retry",
    "--retry-delay",
    "--unix-socket",
];

fn parse(words: &[String]) -> anyhow::Result<Curl> {
    let mut curl = Curl::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .cloned()
                .with_context(|| format!("curl: {word} needs a value"))
        };
        match word.as_str() {
            "-X" | "--request" => curl.method = Some(value()?),
            "-d" | "--data" | "--data-raw" | "--json" => curl.body = Some(value()?),
            "-H" | "--header" => curl.headers.push(value()?),
            "-o" | "--output" => curl.output = Some(value()?),
            "-w" | "--write-out" => curl.write_out = Some(value()?),
            ignored if IGNORED.contains(&ignored) => drop(value()?),
            "--fail" => curl.fail = true,
            flag if flag.starts_with("--") => {}
            flags if flags.starts_with('-') => {
                curl.fail |= flags.contains('f');
                if flags.ends_with('o') {
                    curl.output = Some(value()?);
                }
            }
            target => target.clone_into(&mut curl.target),
        }
    }
    if curl.target.is_empty() {
        bail!("curl: no address");
    }
    Ok(curl)
}

/// The path on the sprite's socket: its API, or below `/__8080` what listens there.
fn path(target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let bare = target.strip_prefix("http://").unwrap_or(target);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    if host.ends_with(":8080") {
        format!("/__8080/{path}")
    } else {
        format!("/{path}")
    }
}

/// A header as given, or those in a file: `@-` is standard input.
fn lines_of(header: &str) -> anyhow::Result<Vec<String>> {
    let text = match header.strip_prefix('@') {
        None => header.to_owned(),
        Some("-") => std::io::read_to_string(std::io::stdin())?,
        Some(file) => std::fs::read_to_string(file)?,
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Runs it; the code is curl's: 7 refused, 22 an error status with `-f`.
pub fn run(args: InsideArgs) -> anyhow::Result<u8> {
    let Some(("curl", words)) = args
        .words
        .split_first()
        .map(|(tool, rest)| (tool.as_str(), rest))
    else {
        bail!("only curl is known inside");
    };
    let curl = parse(words)?;
    let run = std::env::var("SIM_RUN").context("not inside a simulated sprite")?;
    let Ok(mut socket) = UnixStream::connect(format!("{run}/api.sock")) else {
        eprintln!("curl: (7) Failed to connect");
        return Ok(7);
    };
    let body = curl.body.clone().unwrap_or_default();
    let method = curl
        .method
        .clone()
        .unwrap_or_else(|| if curl.body.is_some() { "POST" } else { "GET" }.to_owned());
    let mut request = format!(
        "{method} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n",
        path(&curl.target),
        body.len()
    );
    for header in &curl.headers {
        for line in lines_of(header)? {
            request.push_str(&format!("{line}\r\n"));
        }
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes())?;
    socket.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    report(&curl, &answer)
}

fn report(curl: &Curl, answer: &[u8]) -> anyhow::Result<u8> {
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("no answer")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status: u16 = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("no status")?;
    if status == 599 {
        eprintln!("curl: (7) Failed to connect to localhost port 8080: Connection refused");
        return Ok(7);
    }
    if curl.fail && status >= 400 {
        eprintln!("curl: (22) The requested URL returned error: {status}");
        return Ok(22);
    }
    let body = &answer[end + 4..];
    match &curl.output {
        Some(file) => std::fs::write(file, body)?,
        None => std::io::stdout().write_all(body)?,
    }
    if let Some(format) = &curl.write_out {
        print!(
            "{}",
            format
                .replace("%{http_code}", &status.to_string())
                .replace("\\n", "\n")
        );
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{parse, path};

    #[test]
    fn the_usual_options_are_understood() {
        let words = [
            "-fsS",
            "-X",
            "PUT",
            "/v1/tasks/agentpool",
            "-d",
            "{\"expire\":\"5m\"}",
            "-m",
            "5",
        ];
        let curl = parse(&words.map(str::to_owned)).expect("parsed");
        assert!(curl.fail);
        assert_eq!(curl.method.as_deref(), Some("PUT"));
        assert_eq!(
            (curl.target.as_str(), curl.body.as_deref()),
            ("/v1/tasks/agentpool", Some("{\"expire\":\"5m\"}"))
        );
        assert!(parse(&["-s".to_owned()]).is_err(), "no address");
    }

    #[test]
    fn port_8080_and_the_api_are_told_apart() {
        assert_eq!(path("/v1/tasks"), "/v1/tasks");
        assert_eq!(
            path("http://localhost:8080/convos/status"),
            "/__8080/convos/status"
        );
        assert_eq!(path("localhost:8080"), "/__8080/");
        assert_eq!(path("http://sprite/info"), "/info");
    }
}
