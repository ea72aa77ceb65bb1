//! From the interface's objects to ours, and the owner mark as labels. Pure.
//!
//! A mark is three labels: cluster, namespace, id. Cluster and id alone prove whose a sprite is; the namespace keeps
//! two namespaces of one cluster, which may share an organisation, from taking each other's sprites for strays.

use crate::provider::{Facts, Liveness, Owner, Resource};

use super::wire::{Checkpoint, Sprite};

/// The sprite's id.
pub const SPRITE_ID: &str = "spriteId";
/// The same, as it is recorded of an instance.
pub const RECORDED_ID: &str = "id";
/// Its public address.
pub const URL: &str = "url";
/// The home directory inside.
pub const HOME: &str = "home";
/// The golden checkpoint's id.
pub const CHECKPOINT_ID: &str = "checkpointId";
/// When it was taken.
pub const CHECKPOINT_TIME: &str = "checkpointTime";

const CLUSTER: &str = "agentpool-cluster-";
const NAMESPACE: &str = "agentpool-namespace-";
const OWNER: &str = "agentpool-owner-";

/// The labels of a mark `<cluster id>/<namespace>/<id>`.
pub fn labels(mark: &str) -> Vec<String> {
    let (cluster, namespace, id) = parts(mark);
    vec![
        format!("{CLUSTER}{cluster}"),
        format!("{NAMESPACE}{namespace}"),
        format!("{OWNER}{id}"),
    ]
}

fn parts(mark: &str) -> (&str, &str, &str) {
    let mut parts = mark.splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

/// Whose a sprite is, by its labels. They must be there: a listing's short form has none.
pub fn owner(labels: &[String]) -> Owner {
    let find = |prefix| labels.iter().find_map(|l| l.strip_prefix(prefix));
    match (find(CLUSTER), find(OWNER)) {
        (Some(cluster), Some(id)) => {
            let namespace = find(NAMESPACE).unwrap_or_default();
            Owner::Marked(format!("{cluster}/{namespace}/{id}"))
        }
        (None, None) => Owner::Unmarked,
        // Half a mark is somebody's, and not ours.
        (cluster, id) => Owner::Marked(format!(
            "{}//{}",
            cluster.unwrap_or_default(),
            id.unwrap_or_default()
        )),
    }
}

/// Whether labels are a mark's. One without a namespace is: it was set by hand, as the contract has it.
pub fn is_ours(labels: &[String], mark: &str) -> bool {
    let (cluster, _, id) = parts(mark);
    match owner(labels) {
        Owner::Marked(found) => found == mark || found == format!("{cluster}//{id}"),
        _ => false,
    }
}

/// The recorded id of an instance's sprite.
pub fn sprite_id(known: &Facts) -> Option<&String> {
    known.get(SPRITE_ID).or_else(|| known.get(RECORDED_ID))
}

/// A sprite as a resource. `None`: a listing's short form, without an id.
pub fn resource(sprite: &Sprite) -> Option<Resource> {
    let id = sprite.id.clone().filter(|id| !id.is_empty())?;
    let liveness = match sprite.status.as_deref().unwrap_or_default() {
        "running" => Liveness::Running,
        "warm" => Liveness::Warm,
        "cold" => Liveness::Cold,
        // A word of a later version.
        _ => Liveness::Starting,
    };
    Some(Resource {
        name: sprite.name.clone(),
        liveness,
        native_state: None,
        facts: facts(sprite),
        created_at: sprite.created_at.as_deref().and_then(|t| t.parse().ok()),
        id,
    })
}

/// What a sprite's creation made.
pub fn facts(sprite: &Sprite) -> Facts {
    let url = sprite.url.as_deref().map(|u| u.trim_end_matches('/'));
    let pairs = [(SPRITE_ID, sprite.id.as_deref()), (URL, url)];
    let known = pairs.into_iter().filter_map(|(k, v)| Some((k, v?)));
    let known = known.filter(|(_, v)| !v.is_empty());
    known.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The beginning of the comments of an instance's checkpoints.
pub fn comment_prefix(id: &str) -> String {
    format!("golden/{id}/")
}

/// The comment of the next checkpoint of an instance.
pub fn next_comment(id: &str, taken: &[Checkpoint]) -> String {
    let prefix = comment_prefix(id);
    let numbers = taken
        .iter()
        .filter_map(|c| c.comment.strip_prefix(&prefix)?.parse::<u32>().ok());
    format!("{prefix}{}", numbers.max().unwrap_or(0).saturating_add(1))
}

/// The newest checkpoint that we took of an instance.
pub fn newest<'a>(id: &str, taken: &'a [Checkpoint]) -> Option<&'a Checkpoint> {
    let prefix = comment_prefix(id);
    let real = |c: &&Checkpoint| {
        !c.is_auto && c.id != "Current" && c.id != "v0" && !c.id.starts_with("auto-")
    };
    let ours = taken
        .iter()
        .filter(real)
        .filter(|c| c.comment.starts_with(&prefix));
    ours.max_by_key(|c| (c.create_time.parse::<jiff::Timestamp>().ok(), number(&c.id)))
}

fn number(id: &str) -> u64 {
    id.trim_start_matches('v').parse().unwrap_or_default()
}

/// What is recorded of a checkpoint.
pub fn checkpoint_facts(checkpoint: &Checkpoint) -> Facts {
    Facts::from([
        (CHECKPOINT_ID.to_owned(), checkpoint.id.clone()),
        (CHECKPOINT_TIME.to_owned(), checkpoint.create_time.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "c-1/agents/7f3a9c21k4mz";

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_mark_goes_through_labels_and_back() {
        let labels = labels(MARK);
        let want = [
            "agentpool-cluster-c-1",
            "agentpool-namespace-agents",
            "agentpool-owner-7f3a9c21k4mz",
        ];
        assert_eq!(labels, strings(&want));
        assert_eq!(owner(&labels), Owner::Marked(MARK.to_owned()));
        assert!(is_ours(&labels, MARK));
    }

    #[test]
    fn other_labels_are_not_ours() {
        for other in [
            &[][..],
            &["team-a"],
            &["agentpool-cluster-c-1"],
            &["agentpool-owner-7f3a9c21k4mz"],
            &["agentpool-cluster-c-2", "agentpool-owner-7f3a9c21k4mz"],
            &["agentpool-cluster-c-1", "agentpool-owner-other"],
            &[
                "agentpool-cluster-c-1",
                "agentpool-namespace-b",
                "agentpool-owner-7f3a9c21k4mz",
            ],
        ] {
            assert!(!is_ours(&strings(other), MARK), "{other:?}");
        }
        assert!(is_ours(
            &strings(&["x", "agentpool-owner-7f3a9c21k4mz", "agentpool-cluster-c-1"]),
            MARK
        ));
        assert_eq!(owner(&strings(&["team-a"])), Owner::Unmarked);
        assert_ne!(owner(&strings(&["agentpool-owner-x"])), Owner::Unmarked);
    }

    #[test]
    fn a_sprite_s_status_is_its_liveness() {
        let of = |status: Option<&str>| {
            let sprite = Sprite {
                id: Some("sprite-1".to_owned()),
                status: status.map(str::to_owned),
                created_at: Some("2026-09-01T10:00:00Z".to_owned()),
                ..Sprite::default()
            };
            resource(&sprite).unwrap().liveness
        };
        assert_eq!(of(Some("running")), Liveness::Running);
        assert_eq!(of(Some("warm")), Liveness::Warm);
        assert_eq!(of(Some("cold")), Liveness::Cold);
        assert_eq!(of(Some("hibernated")), Liveness::Starting);
        assert_eq!(of(None), Liveness::Starting);
        assert!(resource(&Sprite::default()).is_none());
    }

    #[test]
    fn the_newest_checkpoint_of_ours_is_found_by_its_comment() {
        let of = |id: &str, time: &str, comment: &str, is_auto| Checkpoint {
            id: id.to_owned(),
            create_time: time.to_owned(),
            comment: comment.to_owned(),
            is_auto,
        };
        let taken = [
            of("Current", "2026-09-01T12:00:00Z", "golden/x/9", false),
            of("v2", "2026-09-01T10:00:02Z", "golden/x/2", false),
            of("v10", "2026-09-01T10:00:10Z", "golden/x/3", false),
            of("v11", "2026-09-01T10:00:11Z", "golden/y/1", false),
            of("v12", "2026-09-01T10:00:12Z", "golden", false),
            of("auto-17", "2026-09-01T11:00:00Z", "golden/x/4", true),
        ];
        assert_eq!(newest("x", &taken).unwrap().id, "v10");
        assert_eq!(newest("z", &taken), None);
        assert_eq!(next_comment("x", &taken[1..3]), "golden/x/4");
        assert_eq!(next_comment("z", &taken), "golden/z/1");
    }
}
