//! Tests of what rows become.

use std::time::Duration;

use super::*;
use crate::domain::plan::{Facts, Repeat};
use crate::domain::resource::Liveness;

const STATES: [State; 8] = [
    State::Starting,
    State::Idle,
    State::Claiming,
    State::Claimed,
    State::Pending,
    State::Crashed,
    State::Tainted,
    State::Dead,
];

fn plan() -> Vec<StepSpec> {
    let spec = |step| StepSpec {
        step,
        repeat: Repeat::LookFirst,
        deadline: Duration::from_secs(60),
        attempts: 3,
    };
    [
        Step::Provider("service"),
        Step::Provider("deploy"),
        Step::Ready,
        Step::Clean,
    ]
    .map(spec)
    .to_vec()
}

fn given(plan: &[StepSpec]) -> Given<'_> {
    Given {
        pool: "staging",
        template: TemplateRef {
            secrets: None,
            revision: "staging-abc".to_owned(),
            hash: "abc".to_owned(),
            image: None,
        },
        provider: ProviderRef {
            kind: "Railway".to_owned(),
            token_secret_ref: None,
            token_kind: None,
            project_id: Some("p".to_owned()),
            environment_id: Some("e".to_owned()),
            workspace_id: None,
        },
        plan,
        now: "2026-03-01T00:00:00Z".parse().unwrap(),
    }
}

fn row(state: State) -> Row {
    Row {
        place: "line 2".to_owned(),
        id: "rnM8UBQ_fZCz".to_owned(),
        state,
        provider_id: "s-1".to_owned(),
        name: Some("convos-agent-rnM8UBQ_fZCz".to_owned()),
        environment_id: None,
        url: Some("https://told".to_owned()),
        agent_name: Some("Ada".to_owned()),
        instructions: Some("Be kind.".to_owned()),
        conversation_id: Some("c-1".to_owned()),
        invite_url: Some("https://dev.convos.org/v2?i=1".to_owned()),
        join_url: None,
        created_at: "2026-02-01T00:00:00Z".parse().ok(),
        claimed_at: "2026-02-02T00:00:00Z".parse().ok(),
        source_branch: Some("staging".to_owned()),
        image: Some("ghcr.io/a/b:1".to_owned()),
        services: BTreeMap::new(),
        token: Some("a-token".to_owned().into()),
    }
}

fn there() -> Resource {
    Resource {
        name: "convos-agent-renamed".to_owned(),
        id: "s-1".to_owned(),
        liveness: Liveness::Running,
        native_state: Some("SUCCESS".to_owned()),
        facts: Facts::from([("url".to_owned(), "https://seen".to_owned())]),
        created_at: None,
    }
}

fn taken(row: &Row, found: Option<&Resource>) -> Option<Import> {
    let plan = plan();
    import(row, found, &given(&plan))
}

#[test]
fn every_state_has_its_phase_and_what_may_be_somebody_s_is_kept() {
    for state in STATES {
        let import = taken(&row(state), Some(&there())).unwrap();
        let want = match state {
            State::Starting | State::Idle => Phase::Provisioning,
            State::Claimed => Phase::Claimed,
            State::Pending => Phase::PendingAcceptance,
            State::Claiming | State::Crashed => Phase::Crashed,
            State::Tainted => Phase::Tainted,
            State::Dead => Phase::Dead,
        };
        assert_eq!(import.phase, want, "{state:?}");
        let (spec, status) = (&import.instance.spec, &import.status);
        let somebody_s = !matches!(state, State::Starting | State::Idle | State::Dead);
        assert_eq!(spec.claim.is_some(), somebody_s, "{state:?}");
        assert_eq!(
            spec.restored, somebody_s,
            "what the API server asks of one with a claim"
        );
        assert_eq!(
            status.turn.is_some(),
            somebody_s,
            "never in stock unproven: {state:?}"
        );
        let text = serde_json::to_string(&(&import.instance, status)).unwrap();
        assert!(!text.contains("a-token"), "{text}");
        assert_eq!(status.token_key.as_deref(), Some(IMPORTED));
        assert_eq!(
            status.provider.as_ref().unwrap().service_id.as_deref(),
            Some("s-1")
        );
    }
}

#[test]
fn one_in_use_keeps_everything_that_its_user_has() {
    let import = taken(&row(State::Claimed), Some(&there())).unwrap();
    let (object, status) = (&import.instance, &import.status);
    let claim = object.spec.claim.as_ref().unwrap();
    assert_eq!(
        (claim.agent_name.as_str(), claim.instructions.as_deref()),
        ("Ada", Some("Be kind."))
    );
    assert_eq!(claim.holder, IMPORTED_BY);
    assert_eq!(claim.requested_at.0.to_string(), "2026-02-02T00:00:00Z");
    let bound = status.claim.as_ref().unwrap();
    assert_eq!(bound.id, claim.id);
    assert_eq!(bound.conversation_id.as_deref(), Some("c-1"));
    assert_eq!(
        bound.invite_url.as_deref(),
        Some("https://dev.convos.org/v2?i=1")
    );
    assert_eq!(
        bound.claimed_at.as_ref().unwrap().0.to_string(),
        "2026-02-02T00:00:00Z"
    );
    assert_eq!(
        status.url.as_deref(),
        Some("https://seen"),
        "the provider knows better"
    );
    assert_eq!(object.spec.provider_name, "convos-agent-renamed");
    assert_eq!(
        object.metadata.name.as_deref(),
        Some(names::object_name("rnM8UBQ_fZCz").as_str())
    );
    let annotations = object.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations[ANNOTATION_CREATED], "2026-02-01T00:00:00Z");
    assert_eq!(annotations[ANNOTATION_IMPORTING], "true");
    assert!(
        status.verdict.is_none() && status.operation.is_none() && import.instructions.is_none()
    );
    // Twice the same: whoever goes on with it writes the same.
    assert_eq!(taken(&row(State::Claimed), Some(&there())), Some(import));
}

#[test]
fn a_claim_that_nobody_finished_is_kept_for_a_person() {
    for (state, conversation) in [
        (State::Claiming, None),
        (State::Claiming, Some("c")),
        (State::Claimed, None),
    ] {
        let mut row = row(state);
        row.conversation_id = conversation.map(str::to_owned);
        row.agent_name = None;
        let import = taken(&row, Some(&there())).unwrap();
        let verdict = import.status.verdict.unwrap();
        assert_eq!(
            (verdict.state.as_str(), verdict.reason.as_str()),
            ("Crashed", "ClaimInterrupted")
        );
        assert_eq!(import.instance.spec.claim.unwrap().agent_name, NAMELESS);
        assert_eq!(import.status.claim.is_some(), conversation.is_some());
    }
}

#[test]
fn what_is_gone_is_told_where_somebody_had_it_and_left_out_where_nobody_had() {
    for state in STATES {
        let gone = taken(&row(state), None);
        if matches!(state, State::Starting | State::Idle | State::Dead) {
            assert_eq!(gone, None, "{state:?}");
            continue;
        }
        let import = gone.unwrap();
        let verdict = import.status.verdict.unwrap();
        assert_eq!(
            (import.phase, verdict.reason.as_str()),
            (Phase::Crashed, "Gone"),
            "{state:?}"
        );
        assert_eq!(import.status.url.as_deref(), Some("https://told"));
        assert_eq!(
            import.instance.spec.provider_name,
            "convos-agent-rnM8UBQ_fZCz"
        );
    }
}

#[test]
fn what_nobody_has_is_proven_before_it_is_handed_out() {
    let of = |state| {
        taken(&row(state), Some(&there()))
            .unwrap()
            .status
            .operation
            .unwrap()
    };
    let stock = of(State::Idle);
    assert_eq!((stock.kind.as_str(), stock.index), (ADOPT, 2));
    let steps: Vec<_> = stock
        .steps
        .iter()
        .map(|s| (s.name.as_str(), s.state.as_str()))
        .collect();
    assert_eq!(
        steps,
        [
            ("service", "Done"),
            ("deploy", "Done"),
            ("ready", "Intended")
        ]
    );
    let built = of(State::Starting);
    assert_eq!(
        (
            built.index,
            built.steps.len(),
            built.steps[0].state.as_str()
        ),
        (0, 1, "Intended")
    );
    assert_eq!(built.plan_hash, plan_hash(&plan()));
}

#[test]
fn long_instructions_go_into_a_secret_and_an_agent_without_a_token_says_so() {
    let mut row = row(State::Claimed);
    row.instructions = Some("ä".repeat(3000));
    row.token = None;
    let import = taken(&row, Some(&there())).unwrap();
    let claim = import.instance.spec.claim.unwrap();
    assert_eq!(claim.instructions.unwrap().len(), INSTRUCTIONS_SHOWN);
    let reference = claim.instructions_secret_ref.unwrap();
    assert_eq!(reference.name, format!("claim-{}", claim.id));
    assert_eq!(import.instructions, row.instructions);
    assert_eq!(import.status.token_key.as_deref(), Some(NO_TOKEN));
    row.instructions = Some("x".repeat(INLINE_INSTRUCTIONS));
    assert!(taken(&row, Some(&there())).unwrap().instructions.is_none());
}
