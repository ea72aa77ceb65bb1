//! Listing, reading and removing sprites. Nothing is removed whose owner was not read just before.

use crate::api::condition::Reason;
use crate::provider::{Facts, Key, Listing, Owner, Presence, ProviderError, Resource};

use super::classify::{Effect, Failure, Kind};
use super::client::Session;
use super::wire::Sprite;
use super::{map, operation, rejected};

/// More pages than an organisation has sprites.
const PAGES: usize = 1000;

/// What has the name of an instance.
pub(super) enum Found {
    /// Its sprite: by both labels of its mark, or by the recorded id where there are no labels of anybody's.
    Ours(Sprite),
    /// Somebody else's.
    Foreign(Sprite),
    /// There is none.
    Nothing,
}

/// Looks by name, and says whose it is.
pub(super) async fn find(session: &Session, key: &Key, known: &Facts) -> Result<Found, Failure> {
    let Some(sprite) = operation::get(session, &key.name).await? else {
        return Ok(Found::Nothing);
    };
    let labels = sprite.labels.as_deref().unwrap_or_default();
    let recorded = map::sprite_id(known);
    let unmarked = map::owner(labels) == Owner::Unmarked;
    let by_id = recorded.is_some() && recorded == sprite.id.as_ref() && unmarked;
    if map::is_ours(labels, &key.mark) || by_id {
        Ok(Found::Ours(sprite))
    } else {
        Ok(Found::Foreign(sprite))
    }
}

/// Every sprite of the organisation: all pages, or an error. Wakes nothing.
///
/// Without a prefix: the pools of an organisation, which share this listing, may have different ones, and imported
/// agents have older names.
pub(super) async fn list(session: &Session) -> Result<Listing, ProviderError> {
    let failed = |f: Failure| f.into_error(Effect::Repeatable, "list the organisation's sprites");
    let sprites = all(session).await.map_err(failed)?;
    let mut resources = Vec::with_capacity(sprites.len());
    for sprite in sprites {
        let whole = match map::resource(&sprite) {
            Some(resource) => Some(resource),
            // A short form: the rest is in the sprite itself, unless it went meanwhile.
            None => {
                let whole = operation::get(session, &sprite.name)
                    .await
                    .map_err(failed)?;
                whole.as_ref().and_then(map::resource)
            }
        };
        resources.extend(whole);
    }
    Ok(Listing { resources })
}

async fn all(session: &Session) -> Result<Vec<Sprite>, Failure> {
    let mut sprites = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..PAGES {
        let page = operation::page(session, "", operation::PAGE_SIZE, after.as_deref()).await?;
        sprites.extend(page.sprites);
        let next = page.next_continuation_token.filter(|t| !t.is_empty());
        match (page.has_more, next) {
            (false, _) => return Ok(sprites),
            (true, next @ Some(_)) if next != after => after = next,
            // It says that there is more and not how to get there.
            (true, _) => break,
        }
    }
    Err(Failure::unreadable("the pages of the listing do not end"))
}

/// See [`crate::provider::AgentProvider::observe`].
pub(super) async fn observe(
    session: &Session,
    key: &Key,
    known: &Facts,
) -> Result<Presence, ProviderError> {
    let doing = || format!("read sprite {}", key.name);
    let found = operation::get(session, &key.name).await;
    let found = found.map_err(|f| f.into_error(Effect::Repeatable, doing()))?;
    let recorded = map::sprite_id(known);
    let Some(sprite) = found else {
        return Ok(match recorded {
            Some(_) => Presence::Gone,
            None => Presence::Unknown,
        });
    };
    let ours = map::is_ours(sprite.labels.as_deref().unwrap_or_default(), &key.mark);
    Ok(match (map::resource(&sprite), recorded) {
        // A name that was taken again: the sprite that we knew is gone.
        (Some(resource), Some(id)) if resource.id != *id => Presence::Gone,
        (Some(resource), recorded) if recorded.is_some() || ours => {
            Presence::Present(Box::new(resource))
        }
        _ => Presence::Unknown,
    })
}

/// See [`crate::provider::AgentProvider::owner`].
pub(super) async fn owner(session: &Session, resource: &Resource) -> Result<Owner, ProviderError> {
    let doing = || format!("read the labels of sprite {}", resource.name);
    let found = operation::get(session, &resource.name).await;
    let found = found.map_err(|f| f.into_error(Effect::Repeatable, doing()))?;
    Ok(match found {
        Some(sprite) if sprite.id.as_ref() == Some(&resource.id) => {
            map::owner(sprite.labels.as_deref().unwrap_or_default())
        }
        _ => Owner::Gone,
    })
}

/// See [`crate::provider::AgentProvider::destroy`].
pub(super) async fn destroy(
    session: &Session,
    key: &Key,
    known: &Facts,
) -> Result<Presence, ProviderError> {
    let doing = || format!("delete sprite {}", key.name);
    let read = |f: Failure| f.into_error(Effect::Repeatable, doing());
    match find(session, key, known).await.map_err(read)? {
        Found::Nothing => return Ok(Presence::Gone),
        Found::Foreign(sprite)
            if sprite.id.is_some() && sprite.id.as_ref() == map::sprite_id(known) =>
        {
            let why = format!(
                "its labels are not those of {}: it is not ours and stays",
                key.mark
            );
            return Err(rejected(Reason::Rejected, doing(), why));
        }
        // Only the name led here, and it is somebody else's: ours never came to exist, or is gone.
        Found::Foreign(_) => return Ok(Presence::Gone),
        Found::Ours(_) => {}
    }
    match operation::delete(session, &key.name).await {
        Ok(()) => {}
        // The direct read below decides.
        Err(f) if f.kind == Kind::Conflict => {}
        Err(f) => return Err(f.into_error(Effect::Once, doing())),
    }
    let left = operation::get(session, &key.name).await.map_err(read)?;
    Ok(match left.as_ref().and_then(map::resource) {
        Some(resource) => Presence::Present(Box::new(resource)),
        None if left.is_some() => Presence::Unknown,
        None => Presence::Gone,
    })
}
