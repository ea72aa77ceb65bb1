//! The steps of a creation and of a recycle: looked at, and sent once.

use std::time::Duration;

use crate::api::agent_pool::KeepAwake;
use crate::api::condition::Reason;
use crate::domain::template::Template;
use crate::provider::{Facts, Inputs, Key, Outcome, ProviderError, Seen};

use super::classify::{Effect, Failure, Kind};
use super::client::Session;
use super::files::{self, CONFIG, ENV, MARKER, at};
use super::removal::{Found, find};
use super::stream::{self, End};
use super::wire::{Change, NewSprite, Sprite, UrlSettings};
use super::{
    ACCESS, CHECKPOINT, FILES, GATEWAY, MARK, RESTART, RESTORE, SETUP, SPRITE, inside, map,
    operation, rejected, services, setup, unknown_step,
};

const POLL: Duration = Duration::from_secs(1);
const FOREIGN: &str = "ForeignResource";

/// See [`crate::provider::AgentProvider::look`].
pub(super) async fn look(
    session: &Session,
    key: &Key,
    known: &Facts,
    step: &'static str,
) -> Result<Seen, ProviderError> {
    let name = key.name.as_str();
    let seen = match step {
        SPRITE => find(session, key, known).await.map(|found| match found {
            Found::Ours(sprite) => Seen::Done(map::facts(&sprite)),
            Found::Foreign(_) => Seen::Failed {
                reason: FOREIGN,
                message: foreign(key),
                retry: false,
            },
            Found::Nothing => Seen::Absent,
        }),
        SETUP => setup::look(session, name).await,
        CHECKPOINT => checkpoint_seen(session, key).await,
        RESTORE => restored(session, name).await,
        // Done by writing what is to be there: doing it again is the look.
        ACCESS | FILES | GATEWAY | RESTART | MARK => Ok(Seen::Absent),
        _ => return Err(unknown_step(step)),
    };
    seen.map_err(|f| f.into_error(Effect::Repeatable, format!("look at step {step} of {name}")))
}

/// See [`crate::provider::AgentProvider::perform`].
pub(super) async fn perform(
    session: &Session,
    key: &Key,
    known: &Facts,
    step: &'static str,
    (template, inputs): (&Template, &Inputs),
) -> Result<Outcome, ProviderError> {
    let name = key.name.as_str();
    let sprites = template.provider.sprites.as_ref();
    let keep = sprites.map_or(KeepAwake::default(), |s| s.keep_awake);
    let mut effect = Effect::Repeatable;
    let home = || home(known, name, step);
    let result = match step {
        SPRITE => {
            effect = Effect::Once;
            create(session, key).await
        }
        ACCESS => access(session, key, known).await,
        SETUP => setup::perform(session, name, home()?, template, inputs).await,
        FILES => write_files(session, name, home()?, (template, inputs)).await,
        GATEWAY => services::ensure(session, name, home()?, keep, false).await,
        RESTART => services::ensure(session, name, home()?, keep, true).await,
        CHECKPOINT => {
            effect = Effect::Once;
            take_checkpoint(session, key).await
        }
        MARK => mark(session, key, known).await,
        RESTORE => restore(session, name, known).await,
        _ => return Err(unknown_step(step)),
    };
    result.map_err(|f| f.into_error(effect, format!("step {step} of sprite {name}")))
}

fn home<'a>(known: &'a Facts, name: &str, step: &str) -> Result<&'a str, ProviderError> {
    let recorded = known.get(map::HOME).map(String::as_str);
    let doing = || format!("step {step} of sprite {name}");
    let missing = || {
        rejected(
            Reason::InternalError,
            doing(),
            "its home directory is not recorded",
        )
    };
    recorded.ok_or_else(missing)
}

fn failed(reason: &'static str, message: impl Into<String>, retry: bool) -> Outcome {
    Outcome::Failed {
        reason,
        message: message.into(),
        retry,
    }
}

fn foreign(key: &Key) -> String {
    format!(
        "a sprite named {} exists and its labels are not those of {}: it is not ours",
        key.name, key.mark
    )
}

async fn create(session: &Session, key: &Key) -> Result<Outcome, Failure> {
    let new = NewSprite {
        name: key.name.clone(),
        url_settings: UrlSettings::public(),
        labels: map::labels(&key.mark),
    };
    match operation::create(session, &new).await {
        Ok(sprite) if sprite.name == key.name => Ok(Outcome::Done(map::facts(&sprite))),
        Ok(_) => Err(Failure::unreadable("it is about another sprite")),
        // The name is taken, by an earlier try of ours or by somebody; or the request is at fault.
        Err(f) if matches!(f.kind, Kind::Conflict | Kind::Refused) => {
            match find(session, key, &Facts::new()).await? {
                Found::Ours(sprite) => Ok(Outcome::Done(map::facts(&sprite))),
                Found::Foreign(_) => Ok(failed(FOREIGN, foreign(key), false)),
                Found::Nothing => Err(f),
            }
        }
        Err(f) => Err(f),
    }
}

/// The address open, the labels in place, the home directory known.
async fn access(session: &Session, key: &Key, known: &Facts) -> Result<Outcome, Failure> {
    let sprite = match find(session, key, known).await? {
        Found::Ours(sprite) => sprite,
        Found::Foreign(_) => return Ok(failed(FOREIGN, foreign(key), false)),
        Found::Nothing => return Err(Failure::new(Kind::Missing, "there is no such sprite")),
    };
    let sprite = match change(&sprite, &key.mark) {
        Some(change) => operation::update(session, &key.name, &change).await?,
        None => sprite,
    };
    let mut facts = map::facts(&sprite);
    if !facts.contains_key(map::URL) {
        return Err(Failure::unreadable("the sprite has no address"));
    }
    let home = inside::home(session, &key.name).await?;
    facts.insert(map::HOME.to_owned(), home);
    Ok(Outcome::Done(facts))
}

/// What of a sprite's settings is not as it should be.
fn change(sprite: &Sprite, mark: &str) -> Option<Change> {
    let mut labels = sprite.labels.clone().unwrap_or_default();
    let missing: Vec<String> = map::labels(mark)
        .into_iter()
        .filter(|l| !labels.contains(l))
        .collect();
    let open = sprite.url_settings == Some(UrlSettings::public());
    let complete = missing.is_empty();
    labels.extend(missing);
    (!open || !complete).then(|| Change {
        url_settings: UrlSettings::public(),
        labels,
    })
}

async fn write_files(
    session: &Session,
    name: &str,
    home: &str,
    (template, inputs): (&Template, &Inputs),
) -> Result<Outcome, Failure> {
    let env = match files::env(template, inputs) {
        Ok(env) => env,
        Err(why) => return Ok(failed(Reason::InvalidSpec.as_str(), why, false)),
    };
    let config = files::config(template, inputs);
    for (path, content) in [(CONFIG, config), (ENV, env)] {
        operation::write_file(session, name, &at(home, path), content.as_bytes()).await?;
    }
    Ok(Outcome::Done(Facts::new()))
}

/// Takes the golden checkpoint: never of what an agent left behind.
async fn take_checkpoint(session: &Session, key: &Key) -> Result<Outcome, Failure> {
    let name = key.name.as_str();
    // Nothing is taken before these two are answered: what they meet is no unknown outcome.
    let before = async {
        let dirt = inside::dirt(session, name).await?;
        Ok((dirt, operation::checkpoints(session, name).await?))
    };
    let (dirt, taken) = before.await.map_err(not_taken)?;
    if let Some(found) = dirt {
        return Ok(failed(Reason::NotClean.as_str(), found, false));
    }
    let comment = map::next_comment(&key.id, &taken);
    let events = match operation::take_checkpoint(session, name, &comment).await? {
        End::Complete(events) => events,
        End::Failed(why) => return Ok(failed("CheckpointFailed", why, true)),
        End::Cut(_) => {
            let why = "the stream ended without saying that the checkpoint was taken";
            return Err(Failure::new(Kind::Unknown, why));
        }
    };
    // Whatever is met from here on, a look by the comment finds it.
    let checkpoint = match stream::checkpoint_id(&events) {
        Some(id) => operation::checkpoint(session, name, &id).await?,
        None => {
            let taken = operation::checkpoints(session, name).await?;
            taken.into_iter().find(|c| c.comment == comment)
        }
    };
    match checkpoint {
        Some(checkpoint) => Ok(Outcome::Done(map::checkpoint_facts(&checkpoint))),
        None => Err(Failure::new(Kind::Unknown, "the checkpoint cannot be read")),
    }
}

/// A failure before the deed: passing where it would be ambiguous after it.
fn not_taken(failure: Failure) -> Failure {
    match failure.kind {
        Kind::Unknown => Failure {
            kind: Kind::NotSent,
            ..failure
        },
        _ => failure,
    }
}

async fn checkpoint_seen(session: &Session, key: &Key) -> Result<Seen, Failure> {
    let taken = operation::checkpoints(session, &key.name).await?;
    Ok(match map::newest(&key.id, &taken) {
        Some(checkpoint) => Seen::Done(map::checkpoint_facts(checkpoint)),
        None => Seen::Absent,
    })
}

/// Before a restore: the checkpoint is the one that we took (the agent inside may have replaced it), the sprite is
/// ours, and a file is there that only the restore removes.
async fn mark(session: &Session, key: &Key, known: &Facts) -> Result<Outcome, Failure> {
    let name = key.name.as_str();
    match find(session, key, known).await? {
        Found::Ours(_) => {}
        Found::Foreign(_) => return Ok(failed(FOREIGN, foreign(key), false)),
        Found::Nothing => return Err(Failure::new(Kind::Missing, "there is no such sprite")),
    }
    let Some(id) = known.get(map::CHECKPOINT_ID) else {
        return Ok(failed("NoCheckpoint", "no checkpoint is recorded", false));
    };
    let Some(checkpoint) = operation::checkpoint(session, name, id).await? else {
        return Ok(failed(
            "NoCheckpoint",
            format!("checkpoint {id} is gone"),
            false,
        ));
    };
    let recorded = known.get(map::CHECKPOINT_TIME).map(String::as_str);
    if !same_time(recorded, &checkpoint.create_time)
        || !checkpoint
            .comment
            .starts_with(&map::comment_prefix(&key.id))
    {
        let why = format!("checkpoint {id} is not the one that was taken: it was replaced since");
        return Ok(failed("CheckpointChanged", why, false));
    }
    let home = known.get(map::HOME).map(String::as_str).unwrap_or_default();
    if home.is_empty() {
        return Ok(failed(
            "NoCheckpoint",
            "its home directory is not recorded",
            false,
        ));
    }
    operation::write_file(session, name, &at(home, MARKER), id.as_bytes()).await?;
    if !inside::is_marked(session, name).await? {
        return Err(Failure::new(
            Kind::Unknown,
            "the marker was written and is not there",
        ));
    }
    Ok(Outcome::Done(Facts::new()))
}

/// The same moment, however it is written.
fn same_time(recorded: Option<&str>, found: &str) -> bool {
    let Some(recorded) = recorded else {
        return false;
    };
    let parsed = |t: &str| t.parse::<jiff::Timestamp>().ok();
    recorded == found || parsed(recorded).is_some() && parsed(recorded) == parsed(found)
}

/// Restores, unless that has happened: the marker tells. A restore that was begun goes on without us.
async fn restore(session: &Session, name: &str, known: &Facts) -> Result<Outcome, Failure> {
    if !inside::is_marked(session, name).await? {
        return Ok(Outcome::Done(Facts::new()));
    }
    let Some(id) = known.get(map::CHECKPOINT_ID) else {
        return Ok(failed("NoCheckpoint", "no checkpoint is recorded", false));
    };
    let going_on = Outcome::Running {
        facts: Facts::new(),
        poll: POLL,
    };
    match operation::restore(session, name, id).await {
        // It was seen never to come back from that; a new one costs less than the wait for it.
        Ok(End::Failed(why)) => Ok(failed("RestoreFailed", why, false)),
        // Whether it is complete only the marker's absence says.
        Ok(End::Complete(_) | End::Cut(_)) => Ok(going_on),
        Err(f) if f.kind == Kind::Unknown => Ok(going_on),
        Err(f) if f.kind == Kind::Missing => Ok(failed("NoCheckpoint", f.message, false)),
        Err(f) => Err(f),
    }
}

/// While it is restored a sprite does not answer, or answers with the old disk.
async fn restored(session: &Session, name: &str) -> Result<Seen, Failure> {
    match inside::is_marked(session, name).await {
        Ok(false) => Ok(Seen::Done(Facts::new())),
        Ok(true) => Ok(Seen::Running),
        Err(f) if matches!(f.kind, Kind::Unknown | Kind::NotSent | Kind::NoRoute) => {
            Ok(Seen::Running)
        }
        Err(f) => Err(f),
    }
}
