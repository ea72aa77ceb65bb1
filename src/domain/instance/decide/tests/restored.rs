//! A claimed instance without a status: from a backup, or adopted by the sweep.

use serde_json::json;

use super::super::super::fixture::*;
use super::super::super::view::Evidence;
use super::super::{Action, Change, Judgement};
use super::{assert_acts, assert_judged};
use crate::api::condition::Reason;
use crate::domain::instance::phase::Phase;
use crate::domain::instance::status::facts_of;
use crate::domain::plan::{Class, Facts};
use crate::domain::resource::{Liveness, Presence};

fn found(presence: Presence) -> Evidence {
    Evidence {
        presence: Some(presence),
        ..Evidence::default()
    }
}

fn there() -> Presence {
    let Presence::Present(mut resource) = read(Liveness::Running) else {
        unreachable!("a fixture");
    };
    resource.facts = ids();
    Presence::Present(resource)
}

fn ids() -> Facts {
    Facts::from([("serviceId", "s1"), ("url", "https://a")].map(|(k, v)| (k.into(), v.into())))
}

fn with_ids(mut case: Case) -> Case {
    let status = json!({"url": "https://a", "provider": {"id": "s1", "serviceId": "s1"}});
    case.instance.status = serde_json::from_value(status).unwrap();
    case
}

#[test]
fn what_the_sweep_adopted_is_crashed_once_its_ids_are_known() {
    assert_eq!(adopted().view().phase(), Phase::Claimed);
    assert_acts(adopted(), Action::Observe);
    let recorded = Action::Record(Change::Found(ids()));
    assert_acts(adopted().evidence(found(there())), recorded);
    for presence in [Presence::Gone, Presence::Unknown] {
        let case = adopted().evidence(found(presence));
        assert_judged(case, Judgement::Crashed, Reason::Adopted);
    }
    for listed in listings() {
        let mut case = with_ids(adopted());
        case.listed = listed;
        assert_judged(case, Judgement::Crashed, Reason::Adopted);
    }
    // What cannot be asked is waited for, not taken as not there.
    let troubled = adopted().evidence(Evidence {
        trouble: Some(trouble(Class::Transient, None)),
        ..Evidence::default()
    });
    assert_acts(troubled, Action::Wait);
    // A claim of the same holder on an instance that was not restored is an ordinary one.
    let ordinary = with_ids(adopted()).spec("restored", json!(false));
    assert_eq!(
        assert_acts(ordinary, Action::Wait).reason,
        Reason::StatusLost
    );
}

#[test]
fn what_is_found_is_recorded_with_its_address() {
    let case = adopted().evidence(found(there()));
    let given = super::super::super::status::Given {
        now: jiff::Timestamp::UNIX_EPOCH,
        operation_id: String::new(),
        token_key: None,
        image: None,
        image_digest: None,
        source_branch: None,
        secrets: None,
    };
    let status = super::super::super::status::status(&case.view(), &case.decide(), &given);
    assert_eq!(facts_of(Some(&status))["id"], "s1");
    assert_eq!(status.url.as_deref(), Some("https://a"));
    assert_eq!(status.turn, None, "nothing is proven by it");
}
