//! The run of all tests (run) and its acceptance count (acceptance.sh): only what passed in the run counts, mistakes in
//! ids are errors, and what is run again is told.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A small repository of its own, with rows A01 to A04.
struct Repo(PathBuf);

impl Repo {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("acceptance-{number}"));
        let _ = fs::remove_dir_all(&root);
        let repo = Self(root);
        repo.write("docs/acceptance.md", "| ID | Feature | Shown by |\n|---|---|---|\n| A01 | One | x |\n| A02 | Two | x |\n| A03 | Three | x |\n| A04 | Four | x |\n");
        let awk = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/acceptance.awk"));
        repo.write("tests/acceptance.awk", &awk.unwrap());
        repo.write("tests/k8s/main.rs", "mod pool;\n");
        repo.write("results/run.txt", "run of today\n");
        repo
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Output of cargo test for the given lines of the binary k8s.
    fn results(&self, lines: &str) {
        let text = format!(
            "     Running tests/k8s/main.rs (target/debug/deps/k8s-1)\n\nrunning 9 tests\n{lines}"
        );
        self.write("results/results.txt", &text);
    }

    fn count(&self, args: &[&str]) -> Output {
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/acceptance.sh"))
            .arg("--root")
            .arg(&self.0)
            .arg("--results")
            .arg(self.0.join("results"))
            .args(args)
            .output()
            .unwrap()
    }

    /// The line of a row.
    fn row(&self, id: &str) -> String {
        let out = self.count(&[]);
        assert!(out.status.success(), "{}", stderr(&out));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines()
            .find(|line| line.starts_with(id))
            .unwrap()
            .to_owned()
    }
}

impl Drop for Repo {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

const TWO_IDS: &str =
    "/// Fills.\n/// acceptance: A01, A02\n#[tokio::test]\nasync fn fills() {\n}\n";

#[test]
fn a_passed_test_shows_its_rows() {
    let repo = Repo::new();
    repo.write("tests/k8s/pool.rs", TWO_IDS);
    repo.results("test pool::fills ... ok\ntest other ... ok\n");
    assert!(repo.row("A01").ends_with(" pool::fills"));
    assert!(repo.row("A02").ends_with(" pool::fills"));
    assert!(repo.row("A03").ends_with("not shown (no test)"));
    let out = String::from_utf8(repo.count(&[]).stdout).unwrap();
    assert!(out.starts_with("run of today\n"), "{out}");
    assert!(
        out.ends_with("2 of 4 rows shown; 2 tests passed in this run\n"),
        "{out}"
    );
}

/// The steps of the node's suite: of the same commit only, since they are another run.
#[test]
fn steps_of_the_cluster_count_where_they_are_of_the_same_commit() {
    let repo = Repo::new();
    repo.write("tests/k8s/pool.rs", TWO_IDS);
    let steps =
        "# acceptance: A03\n# Runs.\ninstalled() {\n  true\n}\n# acceptance: A01\nremoved() {\n}\n";
    repo.write("tests/cluster/inside", steps);
    repo.results("test pool::fills ... ok\n");
    repo.write("results/run.txt", "run of today at commit abc\n");
    let ran = |commit: &str, last: &str| {
        repo.write(
            "cluster/run.txt",
            &format!("run of later at commit {commit}\n"),
        );
        let text = format!(
            "     Running tests/cluster/inside\ntest cluster::installed ... ok\ntest cluster::removed ... {last}\n"
        );
        repo.write("cluster/results.txt", &text);
    };
    assert!(repo.row("A01").ends_with(" pool::fills"));
    assert!(repo.row("A03").ends_with("not shown (no test)"));
    ran("abc", "ok");
    assert!(repo.row("A01").ends_with(" pool::fills cluster::removed"));
    assert!(repo.row("A03").ends_with(" cluster::installed"));
    ran("abc", "FAILED");
    assert!(
        repo.row("A01")
            .ends_with("not shown (FAILED: cluster::removed)")
    );
    ran("abd", "ok");
    assert!(repo.row("A01").ends_with(" pool::fills"));
    assert!(repo.row("A03").ends_with("not shown (no test)"));
}

#[test]
fn modules_follow_from_files() {
    let repo = Repo::new();
    repo.write(
        "tests/k8s/main.rs",
        "/// acceptance: A01\n#[test]\nfn top() {\n}\n",
    );
    repo.write(
        "tests/k8s/claim/mod.rs",
        "/// acceptance: A02\n#[test]\nfn one() {\n}\n",
    );
    repo.write(
        "tests/k8s/claim/race.rs",
        "/// acceptance: A03\n#[test]\nfn two() {\n}\n",
    );
    repo.results("test top ... ok\ntest claim::one ... ok\ntest claim::race::two ... ok\n");
    for id in ["A01", "A02", "A03"] {
        assert!(!repo.row(id).contains("not shown"), "{id}");
    }
}

#[test]
fn only_ok_counts() {
    for (line, why) in [
        ("test pool::fills ... FAILED", "FAILED"),
        ("test pool::fills ... ignored, too slow", "ignored"),
        ("test pool::fills ... output of the test", "output"),
        ("test pool::fills_too ... ok", "not run"),
        ("test fills ... ok", "not run"),
        (
            "test pool::fills ... FAILED\ntest pool::fills ... ok",
            "unclear",
        ),
        (
            "     Running tests/wire.rs (x)\ntest pool::fills ... ok",
            "not run",
        ),
        (
            "     Running unittests src/lib.rs (x)\ntest pool::fills ... ok",
            "not run",
        ),
        ("   Doc-tests agentpool\ntest pool::fills ... ok", "not run"),
    ] {
        let repo = Repo::new();
        repo.write("tests/k8s/pool.rs", TWO_IDS);
        repo.results(&format!("{line}\n"));
        let expected = format!("not shown ({why}: pool::fills)");
        assert!(
            repo.row("A01").ends_with(&expected),
            "{line}: {}",
            repo.row("A01")
        );
    }
}

#[test]
fn of_a_test_that_was_run_again_the_later_outcome_counts() {
    for (later, shown) in [("ok", true), ("FAILED", false)] {
        let repo = Repo::new();
        repo.write("tests/k8s/pool.rs", TWO_IDS);
        repo.results(&format!(
            "test pool::fills ... FAILED\nrun again, alone: pool::fills\n     Running tests/k8s/main.rs (x)\n\
             test pool::fills ... {later}\n"
        ));
        assert_eq!(!repo.row("A01").contains("not shown"), shown, "{later}");
    }
}

/// What tests/run does in the control plane, with a cargo that prints `first`, and `again` when asked for one test.
struct Run {
    ok: bool,
    output: String,
    summary: String,
    results: String,
}

fn run(first: &str, again: &str) -> Run {
    let repo = Repo::new();
    for file in ["run", "failed.awk"] {
        let text = fs::read_to_string(format!("{}/tests/{file}", env!("CARGO_MANIFEST_DIR")));
        repo.write(&format!("tests/{file}"), &text.unwrap());
    }
    repo.write("bin/first", first);
    repo.write("bin/again", again);
    let cargo = "here=${0%/*}\ncase \" $* \" in\n*' --doc '*) exit 0 ;;\n*' --exact '*) file=$here/again ;;\n\
        *) file=$here/first ;;\nesac\ncat \"$file\"\n! grep -q FAILED \"$file\"\n";
    repo.write("bin/cargo", &format!("#!/bin/sh\n{cargo}"));
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(repo.0.join("bin/cargo"), executable).unwrap();
    let path = format!(
        "{}:{}",
        repo.0.join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let out = Command::new("bash")
        .arg(repo.0.join("tests/run"))
        .arg("--inside")
        .env("PATH", path)
        .env("KUBECONFIG", "none")
        .env("results", repo.0.join("results"))
        .output()
        .unwrap();
    let read = |file: &str| fs::read_to_string(repo.0.join(file)).unwrap_or_default();
    Run {
        ok: out.status.success(),
        output: String::from_utf8_lossy(&out.stdout).into_owned() + &stderr(&out),
        summary: read("results/summary.txt"),
        results: read("results/results.part"),
    }
}

/// The output of a test binary of which these fail.
fn output_of(binary: &str, failed: &[&str]) -> String {
    let line = |name: &&str| format!("test {name} ... FAILED\n");
    let told = |name: &&str| {
        format!(
            "---- {name} stdout ----\nrace: seed 7\n\nthread '{name}' (12) panicked at tests/k8s/x.rs:1:2:\n\
             waited for {name}\nnote: run with `RUST_BACKTRACE=1`\n--- the operator's last lines ---\n    a line\n\n"
        )
    };
    let named = |name: &&str| format!("    {name}\n");
    let all = |of: &dyn Fn(&&str) -> String| failed.iter().map(of).collect::<String>();
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    format!(
        "     Running {binary} (target/debug/deps/x-1)\n\nrunning 9 tests\ntest fine ... ok\n{}\nfailures:\n\n{}\nfailures:\n\
         {}\ntest result: {result}. 5 passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n\n",
        all(&line),
        all(&told),
        all(&named),
        failed.len()
    )
}

const K8S: &str = "tests/k8s/main.rs";

#[test]
fn a_test_of_k8s_that_passes_when_run_alone_is_told_as_flaky_and_does_not_fail_the_run() {
    let run = run(&output_of(K8S, &["pool::fills"]), &output_of(K8S, &[]));
    assert!(run.ok, "{}", run.output);
    let told = "FLAKY pool::fills: passed when run alone; before, it failed:\n    thread 'pool::fills' (12) panicked at \
                tests/k8s/x.rs:1:2:\n    waited for pool::fills\n";
    assert_eq!(run.summary, told);
    assert!(run.results.contains("\nrun again, alone: pool::fills\n"));
}

#[test]
fn a_test_that_fails_again_fails_the_run() {
    let both = output_of(K8S, &["pool::fills"]);
    let run = run(&both, &both);
    assert!(!run.ok);
    assert!(run.summary.starts_with("FAILED pool::fills\n    thread"));
    assert!(
        run.summary
            .contains("FAILED pool::fills: and again, alone:\n    thread")
    );
}

#[test]
fn nine_that_failed_fail_the_run_and_eight_do_not() {
    let nine = [
        "a::a", "a::b", "a::c", "a::d", "a::e", "a::f", "a::g", "a::h", "a::i",
    ];
    let failed = run(&output_of(K8S, &nine), &output_of(K8S, &[]));
    assert!(
        !failed.ok && !failed.results.contains("run again"),
        "{}",
        failed.results
    );
    assert_eq!(failed.summary.matches("FAILED ").count(), 9);
    let flaky = run(&output_of(K8S, &nine[..8]), &output_of(K8S, &[]));
    assert!(flaky.ok, "{}", flaky.output);
    assert_eq!(flaky.summary.matches("FLAKY ").count(), 8);
}

#[test]
fn what_fails_elsewhere_is_never_run_again() {
    for (first, told) in [
        (
            output_of("tests/http.rs", &["reads"]),
            "FAILED reads\n    thread",
        ),
        (
            output_of("unittests src/lib.rs", &["decide"]),
            "FAILED decide\n    thread",
        ),
        (
            "     Running tests/k8s/main.rs (x)\ntest a ... FAILED\n".to_owned(),
            "FAILED tests/k8s/main.rs (it did not come to its end)\n",
        ),
        (
            "error[E0308]: FAILED\n".to_owned(),
            "FAILED cargo test itself: it ended with 1\n",
        ),
    ] {
        let run = run(&first, &output_of(K8S, &[]));
        assert!(!run.ok && !run.results.contains("run again"), "{first}");
        assert!(run.summary.starts_with(told), "{}", run.summary);
    }
}

#[test]
fn every_test_of_a_row_must_pass() {
    let repo = Repo::new();
    let again = "/// acceptance: A01\n#[tokio::test]\nasync fn again() {\n}\n";
    repo.write("tests/k8s/pool.rs", &format!("{TWO_IDS}{again}"));
    repo.results("test pool::fills ... ok\ntest pool::again ... FAILED\n");
    assert!(repo.row("A01").contains("not shown (FAILED: pool::again)"));
    assert!(!repo.row("A02").contains("not shown"));
}

#[test]
fn should_panic_is_a_pass() {
    let repo = Repo::new();
    repo.write("tests/k8s/pool.rs", TWO_IDS);
    repo.results("test pool::fills - should panic ... ok\n");
    assert!(!repo.row("A01").contains("not shown"));
}

#[test]
fn mistakes_in_ids_are_errors() {
    for (path, text, error) in [
        (
            "tests/k8s/pool.rs",
            "/// acceptance: A09\n#[test]\nfn x() {\n}\n",
            "no row 'A09'",
        ),
        (
            "tests/k8s/pool.rs",
            "/// acceptance: A01\nconst X: u8 = 1;\nfn x() {\n}\n",
            "pool.rs:1: acceptance ids without a test",
        ),
        (
            "tests/k8s/pool.rs",
            "/// acceptance: A01\n",
            "pool.rs:1: acceptance ids without a test",
        ),
        (
            "src/lib.rs",
            "/// acceptance: A01\n#[test]\nfn x() {\n}\n",
            "outside tests/k8s",
        ),
        (
            "tests/wire.rs",
            "    /// acceptance: A01\n#[test]\nfn x() {\n}\n",
            "outside tests/k8s",
        ),
        (
            "docs/acceptance.md",
            "| A01 | One | x |\n| A01 | Again | x |\n",
            "row A01 stands twice",
        ),
        ("docs/acceptance.md", "nothing\n", "no rows"),
    ] {
        let repo = Repo::new();
        repo.results("test x ... ok\n");
        repo.write(path, text);
        let out = repo.count(&[]);
        assert!(!out.status.success(), "{error}");
        assert!(stderr(&out).contains(error), "{error}: {}", stderr(&out));
    }
}

#[test]
fn required_rows_must_be_shown() {
    let repo = Repo::new();
    repo.write("tests/k8s/pool.rs", TWO_IDS);
    repo.results("test pool::fills ... ok\n");
    let list = repo.0.join("required");
    let list = list.to_str().unwrap();
    repo.write("required", "# shown since the beginning\nA01 A02\n");
    assert!(repo.count(&["--require", list]).status.success());
    repo.write("required", "A01\nA03 # lost\n");
    let out = repo.count(&["--require", list]);
    assert!(!out.status.success());
    assert!(
        stderr(&out).contains("required but not shown: A03"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn a_run_without_tests_is_noticed() {
    let repo = Repo::new();
    repo.results("");
    let out = repo.count(&["--at-least", "1"]);
    assert!(!out.status.success());
    assert!(
        stderr(&out).contains("only 0 tests passed"),
        "{}",
        stderr(&out)
    );
    fs::remove_file(repo.0.join("results/results.txt")).unwrap();
    let out = repo.count(&[]);
    assert!(!out.status.success());
    assert!(
        stderr(&out).contains("run 'make test' first"),
        "{}",
        stderr(&out)
    );
}

/// The ids in the tests of this repository exist, stand where they may, and above test functions.
#[test]
fn ids_of_this_repository_are_right() {
    let repo = Repo::new();
    repo.results("test x ... ok\n");
    let out = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/acceptance.sh"))
        .arg("--results")
        .arg(repo.0.join("results"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
}
