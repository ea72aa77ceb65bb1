//! The agent inside: a set-up script, the gateway as a service, the sprite's URL, a recycle.

use super::*;
use crate::simulator::process::TOKEN;

/// Set-up in the steps of the runtime's contract, as the operator's script has them.
const SET_UP: &str = r#"set -euo pipefail
export PATH="$(npm config get prefix)/bin:$HOME/.bun/bin:$PATH"
sudo apt-get update
sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y git ca-certificates curl python3 make g++
curl -fsSL https://deb.nodesource.com/setup_22.x | sudo -E bash -
[ "$(printf '22.12.0\n%s\n' "$(node --version | sed s/^v//)" | sort -V | head -n 1)" = 22.12.0 ]
npm install -g pnpm@10.23.0 bun
root="$HOME/openclaw"
rm -rf "$root"
git clone --depth 1 --branch "$OPENCLAW_GIT_REF" https://github.com/xmtplabs/openclaw "$root"
git -C "$root" rev-parse HEAD | grep -Eq '^[0-9a-f]{40}$'
sed -i -E 's/"openclaw": *"(>=|workspace:)[^"]*"/"openclaw": "*"/' "$root"/extensions/*/package.json
cd "$root"
pnpm install --no-frozen-lockfile
pnpm build
mkdir -p "$HOME/.local/bin" "$HOME/.openclaw/workspace"
printf '#!/bin/bash\nexec node "$HOME/openclaw/dist/entry.js" "$@"\n' >"$HOME/.local/bin/openclaw"
chmod 0755 "$HOME/.local/bin/openclaw"
"#;

const GATEWAY: &str =
    r#"set -a; . "$HOME/.openclaw/.env"; exec "$HOME/.local/bin/openclaw" gateway run --port 8080"#;

async fn configure(sim: &Simulator, name: &str, token: &str) {
    let config = json!({"channels": {"convos": {"enabled": true, "env": "dev", "poolApiKey": token}},
        "gateway": {"mode": "local", "port": 8080, "auth": {"token": token}, "reload": {"mode": "off"}}});
    for (file, content) in [
        ("openclaw.json", config.to_string()),
        (".env", "ANTHROPIC_API_KEY=k\n".to_owned()),
    ] {
        let path = format!("sprites/{name}/fs/write?path=/home/sprite/.openclaw/{file}&mode=0600");
        assert_eq!(sim.sprites("PUT", &path, content).await.status, 200);
    }
}

async fn put_gateway(sim: &Simulator, name: &str) {
    let body = json!({"cmd": "/bin/bash", "args": ["-c", GATEWAY], "env": {"OPENCLAW_HIDE_BANNER": "1"}, "http_port": 8080});
    let put = sim
        .sprites(
            "PUT",
            &format!("sprites/{name}/services/gateway?duration=0"),
            body.to_string(),
        )
        .await;
    assert_eq!(put.status, 200);
}

/// A sprite with a running gateway: its host.
async fn ready(sim: &Simulator, name: &str) -> String {
    let host = text(&sim.sprite(name).await["url"])
        .trim_start_matches("https://")
        .to_owned();
    let ran = sim
        .bash(name, &format!("export OPENCLAW_GIT_REF=staging\n{SET_UP}"))
        .await;
    assert_eq!(ran.exit, Some(0), "{ran:?}");
    configure(sim, name, TOKEN).await;
    put_gateway(sim, name).await;
    until("the gateway is ready", || async {
        sim.get(&host, "/convos/status").await.1["ready"] == true
    })
    .await;
    host
}

#[tokio::test]
async fn a_set_up_sprite_serves_its_gateway_and_a_recycle_forgets() {
    let sim = Simulator::start(100).await;
    let host = ready(&sim, "a-1").await;
    let clean =
        r#"test ! -e "$HOME/.convos" && test ! -e "$HOME/.openclaw/workspace/INSTRUCTIONS.md""#;
    assert_eq!(sim.bash("a-1", clean).await.exit, Some(0));
    let inside = sim.bash("a-1", "curl -fsS -H \"Authorization: Bearer $(grep -o '[0-9a-f]\\{64\\}' .openclaw/openclaw.json | head -n 1)\" localhost:8080/convos/status; ss -ltnp; ps").await;
    assert!(
        inside.stdout.contains("\"ready\":true")
            && inside.stdout.contains(":8080")
            && inside.stdout.contains("openclaw-gateway"),
        "{inside:?}"
    );
    let golden = sim
        .sprites("POST", "sprites/a-1/checkpoint", r#"{"comment":"golden"}"#)
        .await;
    assert_eq!(golden.types().last().map(String::as_str), Some("complete"));
    let written = sim
        .sprites(
            "PUT",
            "sprites/a-1/fs/write?path=/home/sprite/.openclaw/workspace/INSTRUCTIONS.md",
            "be kind",
        )
        .await;
    assert_eq!(written.status, 200);
    let (status, claim) = sim
        .post(&host, "/convos/conversation", json!({"name": "Ada"}))
        .await;
    assert_eq!(status, 200, "{claim}");
    assert_eq!(
        sim.post(&host, "/convos/conversation", json!({})).await.0,
        409,
        "bound"
    );
    assert_eq!(
        sim.bash(
            "a-1",
            "test -d .convos && grep -o ownerConversationId .openclaw/openclaw.json"
        )
        .await
        .exit,
        Some(0)
    );
    let id = text(&sim.sprites("GET", "sprites/a-1", "").await.json()["id"]);
    let account = sim.account(&id).await;
    assert_eq!(
        (
            &account["conversationsMade"],
            &account["conversations"][0]["instructions"]
        ),
        (&json!(1), &json!("be kind"))
    );
    // A gateway that dies comes back bound: its configuration says so.
    sim.put(
        "sprites",
        json!({"force": [{"sprite": "a-1", "killGateway": true}]}),
    )
    .await;
    until("it is bound again", || async {
        sim.get(&host, "/convos/status").await.1["conversation"]["id"] == claim["conversationId"]
    })
    .await;
    let restored = sim
        .sprites("POST", "sprites/a-1/checkpoints/v1/restore", "")
        .await;
    assert_eq!(
        restored.types().last().map(String::as_str),
        Some("complete")
    );
    until("it answers", || async {
        sim.sprites("GET", "sprites/a-1/exec", "").await.status == 200
    })
    .await;
    let fresh = TOKEN.replace('0', "a");
    configure(&sim, "a-1", &fresh).await;
    until("the old token is refused", || async {
        sim.get(&host, "/convos/status").await.0 == 401
    })
    .await;
    configure(&sim, "a-1", TOKEN).await;
    assert_eq!(
        sim.get(&host, "/convos/status").await.1["conversation"],
        Value::Null
    );
    assert_eq!(sim.bash("a-1", clean).await.exit, Some(0));
    let second = sim.account(&format!("{id}/restore-1")).await;
    assert_eq!(
        second["conversationsMade"], 0,
        "a restore begins another life in the ledger"
    );
}

#[tokio::test]
async fn a_set_up_that_leaves_a_step_out_does_not_build() {
    let sim = Simulator::start(100).await;
    sim.sprite("a-1").await;
    let no_fix: String = SET_UP
        .lines()
        .filter(|l| !l.starts_with("sed"))
        .collect::<Vec<_>>()
        .join("\n");
    let ran = sim
        .bash("a-1", &format!("export OPENCLAW_GIT_REF=staging\n{no_fix}"))
        .await;
    assert_eq!(ran.exit, Some(1));
    assert!(
        ran.stderr.contains("ERR_PNPM_NO_MATCHING_VERSION"),
        "{ran:?}"
    );
    let missing = sim
        .bash("a-1", &format!("export OPENCLAW_GIT_REF=missing\n{SET_UP}"))
        .await;
    assert_eq!(missing.exit, Some(128));
    assert!(
        missing.stderr.contains("Remote branch missing not found"),
        "{missing:?}"
    );
    let no_program = sim
        .bash("a-1", "node openclaw/dist/entry.js gateway run --port 8080")
        .await;
    assert!(
        no_program.stderr.contains("Cannot find module"),
        "{no_program:?}"
    );
}

#[tokio::test]
async fn the_url_wakes_asks_for_a_token_unless_public_and_hangs_without_a_gateway() {
    let sim = Simulator::start(100).await;
    sim.put("sprites", json!({"knobs": {"url_hang_s": 2000}}))
        .await;
    let host = ready(&sim, "a-1").await;
    sim.put(
        "sprites",
        json!({"force": [{"sprite": "a-1", "state": "cold"}]}),
    )
    .await;
    assert_eq!(
        sim.get(&host, "/convos/status").await.0,
        200,
        "it waits for wake and boot"
    );
    let id = text(&sim.sprites("GET", "sprites/a-1", "").await.json()["id"]);
    let wakes = sim.ledger().await["sprites"][id]["wakeUpsByCause"].clone();
    assert_eq!(
        (&wakes["url"], &wakes["exec"]),
        (&json!(1), &json!(1)),
        "{wakes}"
    );
    sim.sprites(
        "PUT",
        "sprites/a-1",
        r#"{"url_settings":{"auth":"sprite"}}"#,
    )
    .await;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let url = format!("http://{}/convos/status", sim.peers);
    let get = |token: &'static str| {
        client
            .get(&url)
            .header("host", &host)
            .bearer_auth(token)
            .send()
    };
    let refused = get("x").await.expect("an answer");
    assert_eq!(refused.status(), 302);
    assert!(
        refused.headers()["location"]
            .to_str()
            .unwrap()
            .starts_with("https://sprites.dev/auth/sprite?return_url=")
    );
    assert_ne!(get(SPRITES_TOKEN).await.expect("an answer").status(), 302);
    sim.put("sprites", json!({"knobs": {"url_hang_s": 25}}))
        .await;
    sim.sprite("empty").await;
    let empty = sim.host_of("empty").await;
    assert_eq!(
        sim.get(&empty, "/convos/status").await.0,
        502,
        "after a long wait"
    );
}

#[tokio::test]
async fn faults_of_agents_reach_the_gateway_and_its_process() {
    let sim = Simulator::start(100).await;
    let host = ready(&sim, "a-1").await;
    sim.arm(
        "agents",
        json!({"match": {"host": host}, "when": {"first": 1}, "fault": {"kind": "create500After"}}),
    )
    .await;
    assert_eq!(
        sim.post(&host, "/convos/conversation", json!({})).await.0,
        500
    );
    assert_eq!(
        sim.get(&host, "/convos/status").await.1["conversation"]["id"]
            .as_str()
            .map(str::len),
        Some(32)
    );
    let pid = sim.bash("a-1", "cat $SIM_RUN/gateway.pid").await.stdout;
    sim.arm(
        "agents",
        json!({"match": {"host": host}, "when": {"first": 1}, "fault": {"kind": "dieClaimed"}}),
    )
    .await;
    until("another process serves", || async {
        let now = sim.bash("a-1", "cat $SIM_RUN/gateway.pid").await.stdout;
        now != pid && sim.get(&host, "/convos/status").await.0 == 200
    })
    .await;
    let services = sim.sprites("GET", "sprites/a-1/services", "").await.json();
    assert_eq!(services[0]["state"]["restart_count"], 1, "{services}");
}
