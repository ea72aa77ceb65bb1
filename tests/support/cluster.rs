//! A real Kubernetes control plane for tests.
//!
//! `make test` starts one for all test binaries and names it in `AGENTPOOL_TEST_KUBECONFIG`. Without that, as under
//! a plain `cargo test`, each test process starts one through `deploy/local/cluster run`, which takes it down when
//! our end of its standard input closes: at the end of the process, however it ends.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/cluster");

/// A control plane; one that we started goes away with this value.
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// Closed first, then waited for. `None` for a cluster that somebody else looks after.
    guard: Option<(Child, Option<ChildStdin>)>,
}

impl Cluster {
    /// The cluster that all tests of this process share; they keep apart by namespace.
    ///
    /// Blocks while it starts (3 s, or minutes when Kubernetes has to be built first).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var_os("AGENTPOOL_TEST_KUBECONFIG") {
            Some(path) => Self::given(path.into()),
            None => Self::start(&mut Command::new(SCRIPT), "shared"),
        })
    }

    /// A cluster of the caller's own, for tests that stop its API server. `name`: unique in the test binary.
    pub fn own(name: &str) -> Self {
        // The cluster of the current context is not ours to stop.
        Self::start(Command::new(SCRIPT).env_remove("CLUSTER"), name)
    }

    /// A cluster of the caller's own whose API server logs what service accounts ask of it: [`Self::audited`].
    pub fn with_audit(name: &str) -> Self {
        let mut script = Command::new(SCRIPT);
        script.env_remove("CLUSTER").env("AGENTPOOL_AUDIT", "1");
        Self::start(&mut script, name)
    }

    /// The audit events so far.
    pub fn audited(&self) -> Vec<serde_json::Value> {
        let path = self.kubeconfig.with_file_name("audit.log");
        let text = std::fs::read_to_string(path).expect("an audit log");
        // The last line may be half written.
        let events = text.lines().map(serde_json::from_str);
        events.filter_map(Result::ok).collect()
    }

    fn given(kubeconfig: PathBuf) -> Self {
        let out = script(&["kubectl"]);
        let kubectl = String::from_utf8(out.stdout).expect("a path in UTF-8");
        Self {
            name: String::new(),
            kubeconfig,
            kubectl: kubectl.trim_end().into(),
            guard: None,
        }
    }

    fn start(script: &mut Command, name: &str) -> Self {
        let name = format!("test-{}-{name}", std::process::id());
        let mut child = script
            .args(["run", "--name", &name, "--", "sh", "-c"])
            .arg(r#"echo "$KUBECONFIG"; command -v kubectl; exec cat"#)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("deploy/local/cluster starts");
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("a piped output");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let mut path = || lines.next().map(PathBuf::from);
        let (Some(kubeconfig), Some(kubectl)) = (path(), path()) else {
            panic!("the control plane of this test does not start; the reason stands above");
        };
        Self {
            name,
            kubeconfig,
            kubectl,
            guard: Some((child, stdin)),
        }
    }

    /// Full rights on this cluster.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A new client. Each test needs its own: a client lives in the runtime that made it.
    pub async fn client(&self) -> Client {
        Client::try_from(self.config().await).expect("a client from the kubeconfig")
    }

    /// What [`Self::client`] is made from, for clients with another identity.
    pub async fn config(&self) -> Config {
        // Err: another test of this process was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("a usable kubeconfig")
    }

    /// A namespace with a name that the API server made unique.
    pub async fn namespace(&self, prefix: &str) -> Namespace {
        let namespace = core::Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..ObjectMeta::default()
            },
            ..core::Namespace::default()
        };
        let created = Api::<core::Namespace>::all(self.client().await)
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a new namespace");
        Namespace {
            name: created.metadata.name.expect("a name"),
            kubectl: self.kubectl.clone(),
            kubeconfig: self.kubeconfig.clone(),
        }
    }

    /// Runs kubectl, of the API server's version, on this cluster.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl starts")
    }

    /// Stops the API server and returns when it is gone; only for [`Self::own`] clusters.
    pub fn stop_api_server(&self) {
        restarted().insert(self.kubeconfig.clone());
        self.own_script("stop-api");
    }

    /// Starts the API server again, with the same address and data, and returns when it is ready.
    pub fn start_api_server(&self) {
        self.own_script("start-api");
    }

    fn own_script(&self, command: &str) {
        assert!(self.guard.is_some(), "only for a cluster of the test's own");
        script(&[command, "--name", &self.name]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some((child, stdin)) = &mut self.guard {
            drop(stdin.take());
            let _ = child.wait();
        }
    }
}

/// The clusters whose API server was stopped: until its authorizer has read the rights, a new one denies what is granted.
fn restarted() -> MutexGuard<'static, HashSet<PathBuf>> {
    static ALL: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the API server of that kubeconfig was ever stopped by this process.
pub fn was_restarted(kubeconfig: &Path) -> bool {
    restarted().contains(kubeconfig)
}

fn script(args: &[&str]) -> Output {
    let out = Command::new(SCRIPT)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .expect("deploy/local/cluster starts");
    assert!(out.status.success(), "deploy/local/cluster {args:?}");
    out
}

/// A namespace of one test. Its deletion is asked for on drop and not waited for.
pub struct Namespace {
    name: String,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Namespace {
    /// The name that the API server chose.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::ops::Deref for Namespace {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A process, because drop cannot await, and because the test process may end first.
        let deletion = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["delete", "namespace", "--wait=false", &self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut child) = deletion {
            std::thread::spawn(move || child.wait());
        }
    }
}
