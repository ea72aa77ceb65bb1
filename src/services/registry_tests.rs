//! What is asked of the registry, and what its answers mean.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;

type Asked = (String, String, HeaderMap);

/// Answers in the order given; remembers what was asked.
struct Script {
    answers: Mutex<Vec<Result<Answer, Fault>>>,
    asked: Mutex<Vec<Asked>>,
}

#[async_trait]
impl Outbound for Script {
    async fn send(&self, request: Request<Bytes>, limit: Duration) -> Result<Answer, Fault> {
        assert_eq!(limit, LIMIT);
        let (parts, _) = request.into_parts();
        let asked = (
            parts.method.to_string(),
            parts.uri.to_string(),
            parts.headers,
        );
        self.asked.lock().unwrap().push(asked);
        self.answers.lock().unwrap().remove(0)
    }
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Result<Answer, Fault> {
    let headers = headers
        .iter()
        .map(|(k, v)| ((*k).parse().unwrap(), v.parse().unwrap()));
    Ok(Answer {
        status,
        headers: headers.collect(),
        body: Ok(Bytes::from(body.to_owned())),
    })
}

fn token() -> Result<Answer, Fault> {
    answer(200, &[], r#"{"token":"T","expires_in":300}"#)
}

fn image() -> Tagged {
    Tagged {
        repository: "acme/agent".into(),
        tag: "1.2".into(),
    }
}

async fn ask(
    answers: Vec<Result<Answer, Fault>>,
    credential: Option<&Credential>,
) -> (Result<String, RegistryError>, Vec<Asked>) {
    let script = Arc::new(Script {
        answers: Mutex::new(answers),
        asked: Mutex::default(),
    });
    let registry = Registry::over("https://registry.test/ghcr/", script.clone());
    let result = registry.digest(&image(), credential).await;
    let asked = script.asked.lock().unwrap().clone();
    (result, asked)
}

fn digest() -> String {
    format!("sha256:{}", "0f".repeat(32))
}

#[tokio::test]
async fn a_token_for_the_repository_then_the_head_of_the_manifest() {
    let found = answer(200, &[("docker-content-digest", &digest())], "");
    let (result, asked) = ask(vec![token(), found], None).await;
    assert_eq!(result, Ok(digest()));
    let lines: Vec<_> = asked.iter().map(|(m, u, _)| format!("{m} {u}")).collect();
    assert_eq!(
        lines,
        [
            "GET https://registry.test/ghcr/token?service=ghcr.io&scope=repository:acme/agent:pull",
            "HEAD https://registry.test/ghcr/v2/acme/agent/manifests/1.2"
        ]
    );
    assert!(!asked[0].2.contains_key(AUTHORIZATION), "anonymous");
    assert_eq!(asked[1].2[AUTHORIZATION], "Bearer T");
    for kind in [
        "oci.image.index.v1",
        "docker.distribution.manifest.list.v2",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
    ] {
        assert!(asked[1].2[ACCEPT].to_str().unwrap().contains(kind));
    }
}

#[tokio::test]
async fn a_credential_is_sent_for_the_token_only() {
    let credential = Credential {
        username: "bot".into(),
        password: "PAT".to_owned().into(),
    };
    let found = answer(200, &[("docker-content-digest", &digest())], "");
    let (result, asked) = ask(vec![token(), found], Some(&credential)).await;
    assert_eq!(result, Ok(digest()));
    assert_eq!(asked[0].2[AUTHORIZATION], "Basic Ym90OlBBVA==");
    assert_eq!(asked[1].2[AUTHORIZATION], "Bearer T");
}

#[tokio::test]
async fn answers_mean_what_the_contract_says() {
    let missing = ask(vec![token(), answer(404, &[], "")], None).await.0;
    assert_eq!(missing, Err(RegistryError::NoSuchTag(image())));
    assert!(missing.unwrap_err().refusal().missing);

    for (first, denied_at) in [(vec![], 1), (vec![token()], 2)] {
        for status in [401, 403] {
            let answers = first
                .iter()
                .map(|_| token())
                .chain([answer(status, &[], "")]);
            let (result, asked) = ask(answers.collect(), None).await;
            let error = result.unwrap_err();
            assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
            assert!(error.to_string().contains("credentialsSecretRef"));
            assert!(!error.refusal().missing);
            assert_eq!(asked.len(), denied_at);
        }
    }

    let throttled = answer(429, &[("retry-after", "17")], "");
    let error = ask(vec![token(), throttled], None).await.0.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
    assert!(!error.refusal().missing);

    for trouble in [
        vec![Err(Fault::TimedOut)],
        vec![answer(200, &[], "<html>")],
        vec![answer(404, &[], "")],
        vec![token(), Err(Fault::NotConnected { timed_out: false })],
        vec![token(), answer(500, &[], "")],
        vec![token(), answer(200, &[], "")],
        vec![
            token(),
            answer(200, &[("docker-content-digest", "sha512:ab")], ""),
        ],
    ] {
        let what = format!("{trouble:?}");
        let error = ask(trouble, None).await.0.unwrap_err();
        let unavailable = matches!(error, RegistryError::Unavailable { .. });
        assert!(unavailable && !error.refusal().missing, "{what}: {error}");
    }
}
