//! What a record says of an agent, in the columns of every generation of the predecessor. Pure.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;

use super::Refused;
use super::table::{Record, Table};

/// Where an agent was in its life, by the predecessor's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being built.
    Starting,
    /// In stock.
    Idle,
    /// Reserved by a claim that nobody will finish.
    Claiming,
    /// In use.
    Claimed,
    /// In use, as a join that a person has to accept.
    Pending,
    /// It was in use and died.
    Crashed,
    /// Bound or dirty without a claim.
    Tainted,
    /// Unusable, and never used.
    Dead,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it stands.
    pub place: String,
    /// Its id, kept as it is.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// The provider's id of its resource.
    pub provider_id: String,
    /// What its resource was called.
    pub name: Option<String>,
    /// The environment at the provider, where the table tells it.
    pub environment_id: Option<String>,
    /// Its address.
    pub url: Option<String>,
    /// The name that its user gave it.
    pub agent_name: Option<String>,
    /// What it was told to be.
    pub instructions: Option<String>,
    /// Its conversation.
    pub conversation_id: Option<String>,
    /// The conversation's invite.
    pub invite_url: Option<String>,
    /// The link that it joined by.
    pub join_url: Option<String>,
    /// When it was made.
    pub created_at: Option<jiff::Timestamp>,
    /// When it was claimed.
    pub claimed_at: Option<jiff::Timestamp>,
    /// The branch of its code.
    pub source_branch: Option<String>,
    /// The image it runs.
    pub image: Option<String>,
    /// Ids of what it owns elsewhere, by service; never a secret.
    pub services: BTreeMap<String, BTreeMap<String, String>>,
    /// Its own token. Not shown by `Debug`.
    pub token: Option<SecretString>,
}

/// What the files hold, all of them together.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The agents, in the order of the files.
    pub rows: Vec<Row>,
    /// Those that cannot be taken.
    pub refused: Vec<Refused>,
    /// Columns that nothing is known about, each once.
    pub unknown: BTreeSet<String>,
}

/// Column names of the same thing over the generations, the first that has a value counts.
const PROVIDER_ID: &[&str] = &["service_id", "railway_service_id", "provider_service_id"];
const NAME: &[&str] = &["name", "sprite_name"];
const ENVIRONMENT: &[&str] = &["provider_env_id"];
const URL: &[&str] = &["url", "railway_url", "sprite_url"];
const AGENT: &[&str] = &["agent_name", "claimed_by"];
/// Known, and of no use here: what they say is found out anew, or is a secret that is not taken.
const UNUSED: &[&str] = &[
    "checkpoint_id",
    "deploy_status",
    "env_key",
    "env_value",
    "health_check_failures",
    "provider",
    "provider_project_id",
    "resource_meta",
    "runtime_type",
    "runtime_version",
    "setup_password",
    "updated_at",
    "volume_id",
    "wallet_key",
];
const KNOWN: &[&str] = &[
    "id",
    "instance_id",
    "status",
    "tool_id",
    "resource_id",
    "instructions",
    "conversation_id",
    "invite_url",
    "join_url",
    "created_at",
    "claimed_at",
    "source_branch",
    "runtime_image",
    "openrouter_key_hash",
    "agentmail_inbox_id",
    "gateway_token",
];

/// Reads the tables of a predecessor, in the order in which they count: what a later one says of an agent fills what
/// an earlier one leaves open. A table without a column `id` (`instance_infra`, `instance_services`) only fills.
pub fn read(tables: Vec<Table>) -> Rows {
    let mut rows = Rows::default();
    let mut records: Vec<(Record, bool)> = vec![];
    let mut more: Vec<Record> = vec![];
    for table in tables {
        rows.refused.extend(table.refused);
        let known = [PROVIDER_ID, NAME, ENVIRONMENT, URL, AGENT, UNUSED, KNOWN];
        let unknown = table
            .columns
            .iter()
            .filter(|c| !known.iter().any(|k| k.contains(&c.as_str())));
        rows.unknown.extend(unknown.cloned());
        // `agent_metadata` has no states: what is in it is in use.
        let states = table.columns.contains("status");
        if table.columns.contains("id") && !table.columns.contains("instance_id") {
            let earlier: BTreeSet<String> = records
                .iter()
                .filter_map(|(r, _)| r.columns.get("id").cloned())
                .collect();
            for record in table.records {
                match record.columns.get("id") {
                    Some(id) if earlier.contains(id) => more.push(record),
                    _ => records.push((record, states)),
                }
            }
        } else {
            more.extend(table.records);
        }
    }
    let mut fill: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for record in more {
        let id = record
            .columns
            .get("instance_id")
            .or(record.columns.get("id"));
        if let Some(id) = id.cloned() {
            fill.entry(id).or_default().push(record);
        }
    }
    let mut seen = Seen::default();
    for (record, states) in records {
        let id = record.columns.get("id").cloned().unwrap_or_default();
        let place = record.place.clone();
        let others = fill.get(&id).map(Vec::as_slice).unwrap_or_default();
        match seen.check(row(record, states, others)) {
            Ok(row) => rows.rows.push(row),
            Err(why) => rows.refused.push(Refused { place, id, why }),
        }
    }
    rows
}

/// What came before, by id and by resource.
#[derive(Default)]
struct Seen {
    ids: BTreeMap<String, String>,
    resources: BTreeMap<String, String>,
}

impl Seen {
    fn check(&mut self, row: Result<Row, String>) -> Result<Row, String> {
        let row = row?;
        if let Some(place) = self.ids.get(&row.id) {
            return Err(format!(
                "the same id stands in {place}: one of them is wrong"
            ));
        }
        if let Some(place) = self.resources.get(&row.provider_id) {
            return Err(format!(
                "the same service stands in {place}: one of them is wrong"
            ));
        }
        self.ids.insert(row.id.clone(), row.place.clone());
        self.resources
            .insert(row.provider_id.clone(), row.place.clone());
        Ok(row)
    }
}

fn row(mut record: Record, states: bool, others: &[Record]) -> Result<Row, String> {
    let mut services = BTreeMap::new();
    for other in others {
        match other.columns.get("tool_id") {
            Some(tool) => service(&mut services, tool, other),
            None => {
                for (column, text) in &other.columns {
                    // Their own times and states are those of other rows.
                    if !matches!(column.as_str(), "status" | "created_at" | "updated_at") {
                        record
                            .columns
                            .entry(column.clone())
                            .or_insert_with(|| text.clone());
                    }
                }
            }
        }
    }
    let text = |names: &[&str]| {
        let mut found = names.iter().filter_map(|name| record.columns.get(*name));
        found
            .next()
            .map(|t| t.trim().to_owned())
            .filter(|t| !t.is_empty())
    };
    let bounded = |names: &[&str], most: usize| match text(names) {
        Some(text) if text.chars().count() > most => {
            Err(format!("{} has more than {most} characters", names[0]))
        }
        text => Ok(text),
    };
    let id = bounded(&["id"], 64)?.ok_or("it has no id")?;
    let agent_name = bounded(AGENT, 800)?;
    let state = match (text(&["status"]), states) {
        (Some(word), _) => state(&word, agent_name.is_some())?,
        (None, false) => State::Claimed,
        (None, true) => return Err("it has no status".to_owned()),
    };
    for (name, column) in [
        ("openrouter", "openrouter_key_hash"),
        ("agentmail", "agentmail_inbox_id"),
    ] {
        let key = if name == "openrouter" {
            "hash"
        } else {
            "inboxId"
        };
        if let Some(value) = bounded(&[column], 256)? {
            services.insert(name.to_owned(), BTreeMap::from([(key.to_owned(), value)]));
        }
    }
    Ok(Row {
        state,
        provider_id: bounded(PROVIDER_ID, 64)?.ok_or(
            "it has no service id: with a database of the services beside it, give its instance_infra as a further --file",
        )?,
        name: bounded(NAME, 128)?,
        environment_id: bounded(ENVIRONMENT, 64)?,
        url: bounded(URL, 512)?,
        instructions: record.columns.get("instructions").cloned(),
        conversation_id: bounded(&["conversation_id"], 128)?,
        invite_url: bounded(&["invite_url"], 4096)?,
        join_url: bounded(&["join_url"], 4096)?,
        created_at: time("created_at", text(&["created_at"]))?,
        claimed_at: time("claimed_at", text(&["claimed_at"]))?,
        source_branch: bounded(&["source_branch"], 255)?,
        image: bounded(&["runtime_image"], 512)?,
        token: text(&["gateway_token"]).map(SecretString::from),
        place: record.place.clone(),
        agent_name,
        services,
        id,
    })
}

/// What it owns at a service, by the id that removes it.
fn service(into: &mut BTreeMap<String, BTreeMap<String, String>>, tool: &str, record: &Record) {
    let key = match tool {
        "openrouter" => "hash",
        "agentmail" => "inboxId",
        _ => "resourceId",
    };
    let Some(resource) = record.columns.get("resource_id") else {
        return;
    };
    // As much as a status holds.
    if into.len() < 16 && tool.len() <= 64 && resource.len() <= 256 {
        into.insert(
            tool.to_owned(),
            BTreeMap::from([(key.to_owned(), resource.clone())]),
        );
    }
}

fn state(word: &str, named: bool) -> Result<State, String> {
    Ok(match word.to_ascii_lowercase().as_str() {
        "starting" | "provisioning" => State::Starting,
        "idle" => State::Idle,
        "claiming" => State::Claiming,
        "claimed" => State::Claimed,
        "pending_acceptance" => State::Pending,
        "crashed" => State::Crashed,
        "tainted" => State::Tainted,
        "dead" => State::Dead,
        "sleeping" if named => State::Claimed,
        "sleeping" => State::Idle,
        _ => {
            return Err(format!(
                "its status {:?} is none of starting, provisioning, idle, claiming, claimed, crashed, dead, tainted, \
                 pending_acceptance, sleeping",
                word.chars().take(32).collect::<String>()
            ));
        }
    })
}

/// A time as PostgreSQL prints it, or in RFC 3339; without a zone it is UTC.
fn time(column: &str, text: Option<String>) -> Result<Option<jiff::Timestamp>, String> {
    let Some(text) = text else { return Ok(None) };
    let civil = || {
        let plain: jiff::civil::DateTime = text.parse().ok()?;
        Some(plain.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    };
    let read = text.parse().ok().or_else(civil);
    let refused = || format!("{column} is no time: write it as 2026-02-11T10:00:00Z");
    read.map(Some).ok_or_else(refused)
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
