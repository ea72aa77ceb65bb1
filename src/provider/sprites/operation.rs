//! One function per request of the interface.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::classify::{Effect, Failure, Kind};
use super::client::{Call, Payload, Session};
use super::stream::{self, End};
use super::wire::{Change, Checkpoint, Definition, NewSprite, Page, Service, Services, Sprite};

/// The most that a page holds.
pub const PAGE_SIZE: &str = "50";
const READ_TRIES: u32 = 3;
/// A file call on a cold sprite may stall.
const FILE_TRIES: u32 = 4;
/// On top of what a service's stream takes.
const STREAM_SLACK: Duration = Duration::from_secs(25);

fn read<'a>(session: &Session, path: &'a [&'a str], query: &'a [(&'a str, &'a str)]) -> Call<'a> {
    Call {
        method: Method::GET,
        path,
        query,
        body: Payload::None,
        effect: Effect::Repeatable,
        limit: session.timeouts().call,
        tries: READ_TRIES,
    }
}

fn write<'a>(
    session: &Session,
    method: Method,
    path: &'a [&'a str],
    body: Payload<'a>,
) -> Call<'a> {
    Call {
        method,
        path,
        query: &[],
        body,
        effect: Effect::Repeatable,
        limit: session.timeouts().call,
        tries: 1,
    }
}

/// Absence is an answer.
fn or_none<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(f) if f.kind == Kind::Missing => Ok(None),
        Err(f) => Err(f),
    }
}

fn body_of(value: &impl serde::Serialize) -> Payload<'static> {
    Payload::Json(serde_json::to_value(value).unwrap_or(Value::Null))
}

/// Makes a sprite. Sent once: whether a lost one happened, only its name tells.
pub async fn create(session: &Session, new: &NewSprite) -> Result<Sprite, Failure> {
    let call = Call {
        effect: Effect::Once,
        limit: session.timeouts().create,
        ..write(session, Method::POST, &["sprites"], body_of(new))
    };
    session.json(&call).await
}

/// One sprite; `None`: there is none of that name. Wakes nothing.
pub async fn get(session: &Session, name: &str) -> Result<Option<Sprite>, Failure> {
    or_none(session.json(&read(session, &["sprites", name], &[])).await)
}

/// One page of the organisation's sprites, by the beginning of their names. Wakes nothing.
pub async fn page(
    session: &Session,
    prefix: &str,
    size: &str,
    after: Option<&str>,
) -> Result<Page, Failure> {
    let mut query = vec![("max_results", size), ("bulk_load", "true")];
    if !prefix.is_empty() {
        query.push(("prefix", prefix));
    }
    query.extend(after.map(|token| ("continuation_token", token)));
    session.json(&read(session, &["sprites"], &query)).await
}

/// Sets who may call a sprite, and its labels.
pub async fn update(session: &Session, name: &str, change: &Change) -> Result<Sprite, Failure> {
    let path = ["sprites", name];
    let call = write(session, Method::PUT, &path, body_of(change));
    session.json(&call).await
}

/// Removes a sprite; one that is not there is removed.
pub async fn delete(session: &Session, name: &str) -> Result<(), Failure> {
    let path = ["sprites", name];
    let call = write(session, Method::DELETE, &path, Payload::None);
    or_none(session.send(&call).await).map(drop)
}

/// Writes a file that only its owner can read, with the directories above it.
pub async fn write_file(
    session: &Session,
    name: &str,
    path: &str,
    content: &[u8],
) -> Result<(), Failure> {
    let query = [
        ("path", path),
        ("workingDir", "/"),
        ("mode", "0600"),
        ("mkdirParents", "true"),
    ];
    let segments = ["sprites", name, "fs", "write"];
    let call = Call {
        query: &query,
        limit: session.timeouts().file,
        tries: FILE_TRIES,
        ..write(session, Method::PUT, &segments, Payload::Raw(content))
    };
    // The content is secret and may be quoted: of the answer only what it means is told.
    let told = |f: Failure| Failure {
        message: f.message.split(": ").next().unwrap_or_default().to_owned(),
        ..f
    };
    session.send(&call).await.map(drop).map_err(told)
}

/// Reads a file; `None`: there is none.
pub async fn read_file(
    session: &Session,
    name: &str,
    path: &str,
) -> Result<Option<Bytes>, Failure> {
    let query = [("path", path), ("workingDir", "/")];
    let segments = ["sprites", name, "fs", "read"];
    let call = Call {
        limit: session.timeouts().file,
        ..read(session, &segments, &query)
    };
    or_none(session.send(&call).await)
}

/// Removes a file; one that is not there is removed.
pub async fn delete_file(session: &Session, name: &str, path: &str) -> Result<(), Failure> {
    let query = [("path", path), ("workingDir", "/")];
    let segments = ["sprites", name, "fs", "delete"];
    let call = Call {
        query: &query,
        limit: session.timeouts().file,
        tries: FILE_TRIES,
        ..write(session, Method::DELETE, &segments, Payload::None)
    };
    or_none(session.send(&call).await).map(drop)
}

/// One service; `None`: it is not defined. The state of a paused sprite is the one it was paused in.
pub async fn service(
    session: &Session,
    name: &str,
    service: &str,
) -> Result<Option<Service>, Failure> {
    let path = ["sprites", name, "services", service];
    or_none(session.json(&read(session, &path, &[])).await)
}

/// All services. Asking wakes no sprite.
pub async fn services(session: &Session, name: &str) -> Result<Vec<Service>, Failure> {
    let path = ["sprites", name, "services"];
    let all: Services = session.json(&read(session, &path, &[])).await?;
    Ok(match all {
        Services::Bare(all) | Services::Wrapped { services: all } => all,
    })
}

/// Defines a service and starts it; what it did in its first second. The same definition again changes nothing.
pub async fn put_service(
    session: &Session,
    name: &str,
    service: &str,
    definition: &Definition,
) -> Result<End, Failure> {
    let path = ["sprites", name, "services", service];
    let call = Call {
        query: &[("duration", "1s")],
        limit: session.timeouts().call + STREAM_SLACK,
        ..write(session, Method::PUT, &path, body_of(definition))
    };
    Ok(stream::read(&session.send(&call).await?))
}

/// Stops a service and removes its definition; one that is not there is removed.
pub async fn delete_service(session: &Session, name: &str, service: &str) -> Result<(), Failure> {
    let path = ["sprites", name, "services", service];
    let call = write(session, Method::DELETE, &path, Payload::None);
    or_none(session.send(&call).await).map(drop)
}

/// Does `start`, `stop` or `restart` to a service.
pub async fn act_on_service(
    session: &Session,
    name: &str,
    service: &str,
    action: &str,
) -> Result<End, Failure> {
    let path = ["sprites", name, "services", service, action];
    let stop = [("timeout", "10s")];
    let start = [("duration", "1s")];
    let call = Call {
        query: if action == "stop" { &stop } else { &start },
        limit: session.timeouts().call + STREAM_SLACK,
        ..write(session, Method::POST, &path, Payload::None)
    };
    Ok(stream::read(&session.send(&call).await?))
}

/// The last lines that a service printed, as the interface tells them.
pub async fn service_log(
    session: &Session,
    name: &str,
    service: &str,
) -> Result<Vec<String>, Failure> {
    let path = ["sprites", name, "services", service, "logs"];
    let query = [("lines", "200"), ("duration", "0")];
    let body = session.send(&read(session, &path, &query)).await?;
    let events = match stream::read(&body) {
        End::Complete(events) | End::Cut(events) => events,
        End::Failed(why) => return Err(Failure::new(Kind::Unknown, why)),
    };
    let lines = events.into_iter().map(|e| e.data);
    Ok(lines.filter(|l| !l.is_empty()).collect())
}

/// Takes a checkpoint. Two in a row are two.
pub async fn take_checkpoint(session: &Session, name: &str, comment: &str) -> Result<End, Failure> {
    let path = ["sprites", name, "checkpoint"];
    let call = Call {
        effect: Effect::Once,
        limit: session.timeouts().checkpoint,
        ..write(
            session,
            Method::POST,
            &path,
            Payload::Json(json!({ "comment": comment })),
        )
    };
    Ok(stream::read(&session.send(&call).await?))
}

/// A sprite's checkpoints, ours and others.
pub async fn checkpoints(session: &Session, name: &str) -> Result<Vec<Checkpoint>, Failure> {
    let path = ["sprites", name, "checkpoints"];
    session.json(&read(session, &path, &[])).await
}

/// One checkpoint; `None`: there is none.
pub async fn checkpoint(
    session: &Session,
    name: &str,
    id: &str,
) -> Result<Option<Checkpoint>, Failure> {
    let path = ["sprites", name, "checkpoints", id];
    or_none(session.json(&read(session, &path, &[])).await)
}

/// Restores a checkpoint: everything since is lost, and every process dies. It goes on when nobody listens.
pub async fn restore(session: &Session, name: &str, id: &str) -> Result<End, Failure> {
    let path = ["sprites", name, "checkpoints", id, "restore"];
    let call = Call {
        effect: Effect::Once,
        limit: session.timeouts().restore,
        ..write(session, Method::POST, &path, Payload::None)
    };
    Ok(stream::read(&session.send(&call).await?))
}
