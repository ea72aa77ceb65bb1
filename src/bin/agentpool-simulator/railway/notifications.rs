//! Notification rules: what is told to whom (railway.md 5). `deliveries` tells it.

use crate::clock::{Clock, Ms};
use crate::railway::context::Cx;
use crate::railway::deliveries::Delivery;
use crate::railway::errors::{Answer, bad_input, not_authorized, not_found};
use crate::railway::queries::text;
use crate::rng::Random;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Header names that a rule may not set, lower case; and those that begin like the last two.
const REFUSED: [&str; 7] = [
    "host",
    "content-type",
    "content-length",
    "connection",
    "transfer-encoding",
    "proxy-",
    "x-railway-",
];
const SEVERITIES: [&str; 4] = ["INFO", "NOTICE", "WARNING", "CRITICAL"];

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: String,
    pub workspace: String,
    /// None: every project of the workspace.
    pub project: Option<String>,
    pub events: Vec<String>,
    pub severities: Vec<String>,
    pub ephemeral: bool,
    /// Id and configuration, the values of headers included.
    pub channels: Vec<(String, Map<String, Value>)>,
    pub created: Ms,
    pub updated: Ms,
}

/// All rules, and what comes of them.
#[derive(Default)]
pub struct Notifications {
    /// In order of creation.
    pub rules: Vec<Rule>,
    /// Deliveries that wait until another one has overtaken them, or until then.
    pub held: Vec<(Ms, Delivery)>,
    /// What was delivered and what came of it, newest last.
    pub log: VecDeque<Value>,
    /// Failed deliveries by address.
    pub failures: BTreeMap<String, VecDeque<Ms>>,
    /// Addresses that get nothing until then.
    pub suspended: BTreeMap<String, Ms>,
}

impl Notifications {
    /// As the control port shows it: header values are nobody's to read.
    pub fn to_json(&self, clock: &Clock) -> Value {
        let rules: Vec<Value> = self.rules.iter().map(|r| shown(r, clock)).collect();
        json!({"rules": rules, "deliveries": self.log, "suspended": self.suspended.keys().collect::<Vec<_>>()})
    }

    /// Puts a rule there as if a person had made it: a webhook, and beside it what else is given.
    pub fn put(
        &mut self,
        rng: &mut Random,
        (workspace, project): (String, Option<String>),
        configs: Vec<Value>,
        now: Ms,
    ) {
        let channels = configs.into_iter().filter_map(|c| c.as_object().cloned());
        let channels = channels.map(|c| (rng.uuid(), c)).collect();
        self.rules.push(Rule {
            id: rng.uuid(),
            workspace,
            project,
            events: vec!["Deployment.failed".to_owned()],
            severities: SEVERITIES.map(str::to_owned).to_vec(),
            ephemeral: false,
            channels,
            created: now,
            updated: now,
        });
    }
}

/// `NotificationRule`; the values of headers are null.
fn shown(rule: &Rule, clock: &Clock) -> Value {
    let channels: Vec<Value> = rule
        .channels
        .iter()
        .map(|(id, config)| {
            let mut config = config.clone();
            if let Some(Value::Object(headers)) = config.get_mut("headers") {
                headers.values_mut().for_each(|v| *v = Value::Null);
            }
            json!({"id": id, "config": config})
        })
        .collect();
    json!({
        "id": rule.id, "projectId": rule.project, "eventTypes": rule.events, "severities": rule.severities,
        "ephemeralEnvironments": rule.ephemeral, "channels": channels,
        "createdAt": clock.stamp(rule.created), "updatedAt": clock.stamp(rule.updated),
    })
}

/// `notificationRules`: of a project, or all of the workspace.
pub fn list(cx: &Cx, args: &Value) -> Answer {
    cx.unconfined()?;
    let workspace = text(args, "workspaceId");
    if !cx.sees_workspace(workspace) {
        return Err(not_authorized());
    }
    let project = args["projectId"].as_str();
    let world = cx.world.borrow();
    let rules = world.railway.notifications.rules.iter();
    let wanted = rules.filter(|r| {
        r.workspace == workspace && project.is_none_or(|p| r.project.as_deref() == Some(p))
    });
    Ok(wanted.map(|r| shown(r, cx.clock)).collect())
}

/// `notificationRuleCreate`: a second one like the first is a second one.
pub fn create(cx: &Cx, args: &Value) -> Answer {
    cx.unconfined()?;
    let input = &args["input"];
    let workspace = text(input, "workspaceId");
    if !cx.sees_workspace(workspace) {
        return Err(not_authorized());
    }
    let project = input["projectId"].as_str().map(str::to_owned);
    if let Some(project) = &project {
        cx.project(project)?;
    }
    let channels = channels(cx, &input["channelConfigs"], &[])?;
    let id = cx.world.borrow_mut().rng.uuid();
    let rule = Rule {
        id,
        workspace: workspace.to_owned(),
        project,
        events: strings(&input["eventTypes"]),
        severities: severities(&input["severities"]),
        ephemeral: input["ephemeralEnvironments"].as_bool().unwrap_or(false),
        channels,
        created: cx.now,
        updated: cx.now,
    };
    let answer = shown(&rule, cx.clock);
    cx.world.borrow_mut().railway.notifications.rules.push(rule);
    Ok(answer)
}

fn found(cx: &Cx, id: &str) -> Answer<Rule> {
    cx.unconfined()?;
    let world = cx.world.borrow();
    let mut rules = world.railway.notifications.rules.iter();
    let rule = rules.find(|r| r.id == id && cx.sees_workspace(&r.workspace));
    rule.cloned().ok_or_else(|| not_found("NotificationRule"))
}

/// `notificationRuleUpdate`: what is left out stays, a header whose value is null too.
pub fn update(cx: &Cx, args: &Value) -> Answer {
    let mut rule = found(cx, text(args, "id"))?;
    let input = &args["input"];
    if !input["channelConfigs"].is_null() {
        rule.channels = channels(cx, &input["channelConfigs"], &rule.channels)?;
    }
    if !input["eventTypes"].is_null() {
        rule.events = strings(&input["eventTypes"]);
    }
    if !input["severities"].is_null() {
        rule.severities = severities(&input["severities"]);
    }
    rule.ephemeral = input["ephemeralEnvironments"]
        .as_bool()
        .unwrap_or(rule.ephemeral);
    rule.updated = cx.now;
    let answer = shown(&rule, cx.clock);
    let mut world = cx.world.borrow_mut();
    let rules = world.railway.notifications.rules.iter_mut();
    for old in rules.filter(|r| r.id == rule.id) {
        *old = rule.clone();
    }
    Ok(answer)
}

/// `notificationRuleDelete`
pub fn delete(cx: &Cx, args: &Value) -> Answer {
    let rule = found(cx, text(args, "id"))?;
    let mut world = cx.world.borrow_mut();
    world
        .railway
        .notifications
        .rules
        .retain(|r| r.id != rule.id);
    Ok(true.into())
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn severities(value: &Value) -> Vec<String> {
    let given = strings(value);
    if given.is_empty() {
        return SEVERITIES.map(str::to_owned).to_vec();
    }
    given
}

fn channels(
    cx: &Cx,
    given: &Value,
    old: &[(String, Map<String, Value>)],
) -> Answer<Vec<(String, Map<String, Value>)>> {
    let mut all = vec![];
    for config in given.as_array().into_iter().flatten() {
        let mut config = config.as_object().cloned().unwrap_or_default();
        let before = old.iter().find(|(_, o)| o.get("url") == config.get("url"));
        check(&mut config, before.map(|(_, o)| o))?;
        let id = before.map(|(id, _)| id.clone());
        let id = id.unwrap_or_else(|| cx.world.borrow_mut().rng.uuid());
        all.push((id, config));
    }
    Ok(all)
}

/// A webhook's type is lower case and its address is called `url`; headers have their limits.
fn check(config: &mut Map<String, Value>, before: Option<&Map<String, Value>>) -> Answer<()> {
    let refuse = || bad_input("Error in channelConfigs - Invalid input");
    let kind = config
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if kind.is_empty() || (kind != "webhook" && kind.eq_ignore_ascii_case("webhook")) {
        return Err(refuse());
    }
    if kind != "webhook" {
        return Ok(());
    }
    let url = config
        .get("url")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        return Err(refuse());
    }
    let kept = before
        .and_then(|b| b.get("headers"))
        .cloned()
        .unwrap_or_default();
    let Some(Value::Object(headers)) = config.get_mut("headers") else {
        return Ok(());
    };
    if headers.len() > 20 {
        return Err(refuse());
    }
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let refused = REFUSED
            .iter()
            .any(|r| lower == *r || (r.ends_with('-') && lower.starts_with(r)));
        if refused || name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
            return Err(refuse());
        }
        if value.is_null() {
            *value = kept.get(name.as_str()).cloned().unwrap_or_default();
        }
        let fits = |v: &str| v.len() <= 4096 && !v.contains(['\r', '\n']);
        if !value.as_str().is_some_and(fits) {
            return Err(refuse());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::{Map, Value, json};

    fn of(config: Value) -> Map<String, Value> {
        config.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn a_webhook_has_its_form_and_keeps_what_is_null() {
        let good = json!({"type": "webhook", "url": "https://a/b", "headers": {"X-Secret": "1"}});
        assert!(check(&mut of(good.clone()), None).is_ok());
        let mut kept =
            of(json!({"type": "webhook", "url": "https://a/b", "headers": {"X-Secret": null}}));
        assert!(check(&mut kept, Some(&of(good))).is_ok());
        assert_eq!(kept["headers"]["X-Secret"], "1");
        for bad in [
            json!({"type": "WEBHOOK", "url": "https://a/b"}),
            json!({"type": "webhook", "webhookUrl": "https://a/b"}),
            json!({"type": "webhook", "url": "https://a/b", "headers": {"Host": "x"}}),
            json!({"type": "webhook", "url": "https://a/b", "headers": {"X-Railway-A": "x"}}),
            json!({"type": "webhook", "url": "https://a/b", "headers": {"X": "a\nb"}}),
            json!({"type": "webhook", "url": "https://a/b", "headers": {"X Y": "a"}}),
        ] {
            assert!(check(&mut of(bad.clone()), None).is_err(), "{bad}");
        }
    }
}
