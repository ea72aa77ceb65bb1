//! The agent as a service of its sprite, and the service that holds it awake.

use crate::api::agent_pool::KeepAwake;
use crate::provider::{Facts, Outcome};

use super::classify::{Failure, Kind};
use super::client::Session;
use super::files::{self, GATEWAY, HOLD};
use super::operation;
use super::stream::End;
use super::wire::{Definition, Event};

/// Defines and starts what belongs in a sprite; with `restart` the gateway begins anew.
pub(super) async fn ensure(
    session: &Session,
    sprite: &str,
    home: &str,
    keep: KeepAwake,
    restart: bool,
) -> Result<Outcome, Failure> {
    if let Some(why) = ensure_one(session, sprite, GATEWAY, &files::gateway(home)).await? {
        return Ok(failed(GATEWAY, &why));
    }
    match files::hold(home, keep) {
        Some(definition) => {
            if let Some(why) = ensure_one(session, sprite, HOLD, &definition).await? {
                return Ok(failed(HOLD, &why));
            }
        }
        None => operation::delete_service(session, sprite, HOLD).await?,
    }
    if restart && let Some(why) = begin_anew(session, sprite, GATEWAY).await? {
        return Ok(failed(GATEWAY, &why));
    }
    Ok(Outcome::Done(Facts::new()))
}

fn failed(service: &str, why: &str) -> Outcome {
    Outcome::Failed {
        reason: "ServiceFailed",
        message: format!("service {service}: {why}"),
        retry: true,
    }
}

/// What went wrong with it, if something did. What a definition does to one that runs with another is nowhere said:
/// that one goes first.
async fn ensure_one(
    session: &Session,
    sprite: &str,
    service: &str,
    definition: &Definition,
) -> Result<Option<String>, Failure> {
    let found = operation::service(session, sprite, service).await?;
    if found.is_some_and(|s| s.definition != *definition) {
        operation::delete_service(session, sprite, service).await?;
    }
    match operation::put_service(session, sprite, service, definition).await {
        Ok(End::Failed(why)) => Ok(Some(why)),
        Ok(End::Complete(events) | End::Cut(events)) => match ended(&events) {
            Some(why) => Ok(Some(why)),
            None => state(session, sprite, service).await,
        },
        Err(f) if f.kind == Kind::Conflict => Ok(Some(f.message)),
        Err(f) => Err(f),
    }
}

/// What went wrong when it was stopped and started, if something did.
pub(super) async fn begin_anew(
    session: &Session,
    sprite: &str,
    service: &str,
) -> Result<Option<String>, Failure> {
    let missing = |f: &Failure| matches!(f.kind, Kind::Missing | Kind::NoRoute | Kind::Conflict);
    let acted = match operation::act_on_service(session, sprite, service, "restart").await {
        // Old runtimes cannot; and what does not run is only started.
        Err(f) if missing(&f) => {
            match operation::act_on_service(session, sprite, service, "stop").await {
                Err(f) if !missing(&f) => return Err(f),
                _ => {}
            }
            operation::act_on_service(session, sprite, service, "start").await
        }
        other => other,
    };
    match acted {
        Ok(End::Failed(why)) => Ok(Some(why)),
        Ok(End::Complete(events) | End::Cut(events)) => match ended(&events) {
            Some(why) => Ok(Some(why)),
            None => state(session, sprite, service).await,
        },
        Err(f) if missing(&f) => Ok(Some(f.message)),
        Err(f) => Err(f),
    }
}

/// It ended while it was watched, though it was to stay: the stop before a restart is none of that.
fn ended(events: &[Event]) -> Option<String> {
    let begun = events.iter().rposition(|e| e.kind == "started");
    let since = &events[begun.unwrap_or(0)..];
    let exit = since.iter().find(|e| e.kind == "exit")?;
    let code = exit.exit_code.map_or("?".to_owned(), |c| c.to_string());
    Some(format!("it ended at once with code {code}"))
}

/// A stream that was complete, or a definition that was there, says nothing about how it fares.
async fn state(session: &Session, sprite: &str, service: &str) -> Result<Option<String>, Failure> {
    let Some(found) = operation::service(session, sprite, service).await? else {
        return Ok(Some("it is not there although it was defined".to_owned()));
    };
    Ok(match found.state.status.as_str() {
        "failed" | "stopped" | "stopping" => Some(format!(
            "it is {}: {}",
            found.state.status, found.state.error
        )),
        _ => None,
    })
}
