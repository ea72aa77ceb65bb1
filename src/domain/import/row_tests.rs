//! Tests of reading rows: one per generation of the predecessor, and what is refused.

use secrecy::ExposeSecret;

use super::super::table;
use super::*;

fn rows(files: &[&str]) -> Rows {
    read(
        files
            .iter()
            .map(|text| table::read(text).unwrap())
            .collect(),
    )
}

fn told(rows: &Rows) -> Vec<(&str, &str, &str)> {
    let all = rows.refused.iter();
    all.map(|r| (r.place.as_str(), r.id.as_str(), r.why.as_str()))
        .collect()
}

#[test]
fn a_row_of_the_generation_with_one_table() {
    let all = rows(&[
        "id,service_id,name,url,status,deploy_status,agent_name,conversation_id,invite_url,instructions,created_at,claimed_at,source_branch,runtime_image,openrouter_key_hash,agentmail_inbox_id,gateway_token\n\
        rnM8UBQ_fZCz,s-1,convos-agent-rnM8UBQ_fZCz,https://a.up.railway.app,claimed,SUCCESS,Tokyo,c-1,https://dev.convos.org/v2?i=1,Be kind.,2026-02-11 10:00:00.123+00,2026-02-11 11:00:00+01,staging,ghcr.io/a/b:1,h-1,in-1,tok-1\n",
    ]);
    assert!(all.refused.is_empty() && all.unknown.is_empty(), "{all:?}");
    let row = &all.rows[0];
    assert_eq!(
        (row.place.as_str(), row.id.as_str(), row.state),
        ("line 2", "rnM8UBQ_fZCz", State::Claimed)
    );
    assert_eq!(
        (row.provider_id.as_str(), row.name.as_deref()),
        ("s-1", Some("convos-agent-rnM8UBQ_fZCz"))
    );
    assert_eq!(row.url.as_deref(), Some("https://a.up.railway.app"));
    assert_eq!(row.agent_name.as_deref(), Some("Tokyo"));
    assert_eq!(row.conversation_id.as_deref(), Some("c-1"));
    assert_eq!(row.instructions.as_deref(), Some("Be kind."));
    assert_eq!(
        row.created_at.unwrap().to_string(),
        "2026-02-11T10:00:00.123Z"
    );
    assert_eq!(row.claimed_at.unwrap().to_string(), "2026-02-11T10:00:00Z");
    assert_eq!(row.services["openrouter"]["hash"], "h-1");
    assert_eq!(row.services["agentmail"]["inboxId"], "in-1");
    assert_eq!(row.token.as_ref().unwrap().expose_secret(), "tok-1");
    assert!(!format!("{all:?}").contains("tok-1"), "not even for a look");
}

#[test]
fn the_tables_of_the_services_fill_what_the_first_leaves_open() {
    let instances = r#"[{"id": "a", "status": "claimed", "agent_name": "Ada", "url": null, "created_at": "2026-01-01T00:00:00Z"},
        {"id": "b", "status": "sleeping", "url": "https://own"}]"#;
    let infra = "instance_id,provider,provider_service_id,provider_env_id,url,runtime_image,gateway_token,created_at,status\n\
        a,railway,s-a,e-1,https://a,img:1,tok-a,2025-01-01,x\nb,railway,s-b,e-1,https://other,,,,\nstranger,railway,s-c,e-1,,,,,\n";
    let services = "instance_id,tool_id,resource_id,resource_meta,env_key,env_value,status,created_at\n\
        a,openrouter,hash-a,{},OPENROUTER_API_KEY,sk-secret,active,2025-01-01\na,telnyx,+1555,{},X,y,active,\n";
    let all = rows(&[instances, infra, services]);
    assert!(all.refused.is_empty(), "{all:?}");
    let [a, b] = &all.rows[..] else {
        panic!("{all:?}")
    };
    assert_eq!(
        (a.state, b.state),
        (State::Claimed, State::Idle),
        "asleep, one in use and one not"
    );
    assert_eq!(
        (a.provider_id.as_str(), a.environment_id.as_deref()),
        ("s-a", Some("e-1"))
    );
    assert_eq!(
        (a.url.as_deref(), b.url.as_deref()),
        (Some("https://a"), Some("https://own"))
    );
    assert_eq!(
        a.created_at.unwrap().to_string(),
        "2026-01-01T00:00:00Z",
        "its own"
    );
    assert_eq!(a.services["openrouter"]["hash"], "hash-a");
    assert_eq!(a.services["telnyx"]["resourceId"], "+1555");
    assert!(a.token.is_some() && b.token.is_none());
    assert!(!format!("{all:?}").contains("sk-secret"));
}

#[test]
fn a_table_without_states_holds_agents_in_use_and_yields_to_one_with() {
    let metadata =
        "id,railway_service_id,agent_name,conversation_id\na,s-a,Old,c-a\nz,s-z,Zoe,c-z\n";
    let alone = rows(&[metadata]);
    assert!(alone.rows.iter().all(|r| r.state == State::Claimed));
    let beside = rows(&[
        "id,service_id,status,agent_name,conversation_id\na,s-a,crashed,New,\n",
        metadata,
    ]);
    let [a, z] = &beside.rows[..] else {
        panic!("{beside:?}")
    };
    assert_eq!(
        (a.state, a.agent_name.as_deref()),
        (State::Crashed, Some("New"))
    );
    assert_eq!(a.conversation_id.as_deref(), Some("c-a"), "filled");
    assert_eq!((z.id.as_str(), z.state), ("z", State::Claimed));
}

#[test]
fn every_state_has_its_word() {
    for (word, state) in [
        ("starting", State::Starting),
        ("provisioning", State::Starting),
        ("Idle", State::Idle),
        ("claiming", State::Claiming),
        ("claimed", State::Claimed),
        ("crashed", State::Crashed),
        ("dead", State::Dead),
        ("tainted", State::Tainted),
        ("pending_acceptance", State::Pending),
    ] {
        let all = rows(&[&format!("id,service_id,status\na,s,{word}\n")]);
        assert_eq!(all.rows[0].state, state, "{word}");
    }
}

#[test]
fn what_cannot_be_taken_says_where_and_why() {
    let long = "x".repeat(65);
    let file = format!(
        "id,service_id,status,created_at,color\n,s-1,idle,,\nb,,idle,,\nc,s-3,,,\nd,s-4,parked,,\ne,s-5,idle,yesterday,\n\
         f,s-6,idle,,red\nf,s-7,idle,,\ng,s-6,idle,,\n{long},s-8,idle,,\nh,s-9,idle,1\n"
    );
    let all = rows(&[&file]);
    let ids: Vec<&str> = all.rows.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(ids, ["f"]);
    assert_eq!(all.unknown, BTreeSet::from(["color".to_owned()]));
    let told = told(&all);
    assert_eq!(told[0], ("line 11", "", "4 fields instead of 5"));
    assert_eq!(told[1], ("line 2", "", "it has no id"));
    assert!(told[2].2.starts_with("it has no service id"), "{told:?}");
    assert_eq!(told[3], ("line 4", "c", "it has no status"));
    assert!(
        told[4].2.starts_with("its status \"parked\" is none of"),
        "{told:?}"
    );
    assert_eq!(
        told[5].2,
        "created_at is no time: write it as 2026-02-11T10:00:00Z"
    );
    assert_eq!(
        told[6],
        (
            "line 8",
            "f",
            "the same id stands in line 7: one of them is wrong"
        )
    );
    assert_eq!(
        told[7].2,
        "the same service stands in line 7: one of them is wrong"
    );
    assert_eq!(told[8].2, "id has more than 64 characters");
    assert_eq!(told.len(), 9);
}
