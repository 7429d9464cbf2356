//! `cargo xtask e2e`: the whole story on a real cluster, as tests, through kubectl.
//!
//! It installs the enforcer as the manifests of `deploy/` do, runs workloads on one node, and looks at what became of
//! their binds, at Events and at the agent's status. At the end it removes all that it made, also after a failure.

mod cluster;
mod story;
mod workload;

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use self::{
    cluster::Cluster,
    story::{Completion, STEPS, Step, Story},
};
use crate::process::{self, workspace_root};

/// Arguments of `e2e`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig of the cluster; its pods on the host network will have their binds judged [default: as kubectl]
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Image of the workloads, with python3
    #[arg(long, value_name = "REFERENCE", default_value = "python:3-alpine")]
    workload_image: String,
    /// Archive of the image, e.g. of `cargo xtask image`, that --load-command puts on the nodes
    #[arg(long, value_name = "FILE", requires = "load_command")]
    image_archive: Option<PathBuf>,
    /// Shell command that puts the archive on the nodes; $ARCHIVE is its path
    #[arg(long, value_name = "COMMAND", requires = "image_archive")]
    load_command: Option<String>,
    /// File for the results, as XML that CI systems read
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Only remove what an earlier run left
    #[arg(long)]
    clean_up: bool,
}

/// Options that the steps read.
#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// Image under test: NAME:TAG or NAME@DIGEST
    #[arg(long, value_name = "REFERENCE", default_value = concat!("port-enforcer:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Shell command that stops the API server for a moment; without it that step is skipped
    #[arg(long, value_name = "COMMAND", requires = "start_api")]
    stop_api: Option<String>,
    /// Shell command that starts it again
    #[arg(long, value_name = "COMMAND", requires = "stop_api")]
    start_api: Option<String>,
}

impl Options {
    /// Returns the image as kustomize wants it.
    fn image(&self) -> Value {
        let name = "port-enforcer";
        if let Some((new_name, digest)) = self.image.split_once('@') {
            return json!({"name": name, "newName": new_name, "digest": digest});
        }
        // A colon before a slash is of a port of a registry.
        match self.image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((new_name, tag)) => json!({"name": name, "newName": new_name, "newTag": tag}),
            None => json!({"name": name, "newName": self.image}),
        }
    }
}

/// End of a step.
#[derive(Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { kubeconfig, options, workload_image, image_archive, load_command, junit, clean_up } = args;
    let cluster = Cluster::connect(kubeconfig, workload_image).context(
        "no cluster to test on: name one with --kubeconfig or KUBECONFIG, and see that `kubectl get nodes` shows a ready node",
    )?;
    eprintln!("e2e: cluster {}, Kubernetes 1.{}, node {}", cluster.context(), cluster.minor, cluster.node);
    let folder = workspace_root().join("target/e2e");
    let story = Story { cluster, options, folder };
    if clean_up {
        story.clean_up().context("cannot remove what an earlier run left")?;
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(archive), Some(command)) = (image_archive, load_command) {
        process::run(process::shell().arg(command).env("ARCHIVE", archive))?;
    }
    let results = run_steps(&story, STEPS);
    // An installation of somebody else was refused in the first step, and stays.
    let installed = results.first().is_some_and(|(_, outcome, _)| matches!(outcome, Outcome::Passed));
    if installed {
        eprintln!("e2e: cleaning up");
        if let Err(error) = story.clean_up() {
            eprintln!("e2e: not all was removed ({error:#}); try `cargo xtask e2e --clean-up`");
        }
    }
    if let Some(file) = junit {
        let xml = report(&results).to_string().context("write JUnit XML")?;
        fs::write(&file, xml).with_context(|| format!("write {}", file.display()))?;
    }
    let count = |is: fn(&Outcome) -> bool| results.iter().filter(|(_, outcome, _)| is(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    println!("{passed} passed, {failed} failed, {} skipped", results.len() - passed - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the steps in their order. If the first one fails, the others are skipped.
fn run_steps(story: &Story, steps: &[Step]) -> Vec<(&'static str, Outcome, Duration)> {
    let mut results: Vec<(&'static str, Outcome, Duration)> = Vec::new();
    for (number, (name, step)) in steps.iter().enumerate() {
        if io::stderr().is_terminal() {
            eprint!("\r{}/{} {name} …", number + 1, steps.len());
            drop(io::stderr().flush());
        }
        let start = Instant::now();
        let outcome = match results.first() {
            Some((_, Outcome::Failed(_), _)) => Outcome::Skipped("nothing is installed".to_owned()),
            _ => match step(story) {
                Ok(Completion::Passed) => Outcome::Passed,
                Ok(Completion::Skipped(reason)) => Outcome::Skipped(reason),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            },
        };
        if io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        let seconds = start.elapsed().as_secs();
        match &outcome {
            Outcome::Passed => println!("test {name} ... ok ({seconds} s)"),
            Outcome::Failed(error) => println!("test {name} ... FAILED ({seconds} s)\n    {error}"),
            Outcome::Skipped(reason) => println!("test {name} ... skipped ({reason})"),
        }
        results.push((name, outcome, start.elapsed()));
    }
    results
}

fn report(results: &[(&'static str, Outcome, Duration)]) -> Report {
    let mut suite = TestSuite::new("e2e");
    for (name, outcome, time) in results {
        let status = match outcome {
            Outcome::Passed => TestCaseStatus::success(),
            Outcome::Failed(error) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(error.as_str());
                status
            }
            Outcome::Skipped(reason) => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(reason.as_str());
                status
            }
        };
        let mut case = TestCase::new(*name, status);
        case.set_time(*time);
        suite.add_test_case(case);
    }
    let mut report = Report::new("port-enforcer");
    report.add_test_suite(suite);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(reference: &str) -> Value {
        Options { image: reference.to_owned(), stop_api: None, start_api: None }.image()
    }

    #[test]
    fn image_is_taken_apart() {
        for (reference, expected) in [
            ("port-enforcer:0.1.0", json!({"name": "port-enforcer", "newName": "port-enforcer", "newTag": "0.1.0"})),
            ("host:5000/a/b:c", json!({"name": "port-enforcer", "newName": "host:5000/a/b", "newTag": "c"})),
            ("host:5000/a/b", json!({"name": "port-enforcer", "newName": "host:5000/a/b"})),
            ("a/b@sha256:0f", json!({"name": "port-enforcer", "newName": "a/b", "digest": "sha256:0f"})),
        ] {
            assert_eq!(image(reference), expected, "{reference}");
        }
    }

    #[test]
    fn report_has_every_step() {
        let second = Duration::from_secs(1);
        let results = [
            ("passes", Outcome::Passed, second),
            ("fails", Outcome::Failed("1 < 2 & \"so on\"".to_owned()), second),
            ("waits", Outcome::Skipped("no command".to_owned()), second),
        ];
        let xml = report(&results).to_string().expect("XML");
        for part in [
            r#"<testsuite name="e2e" tests="3" skipped="1" errors="0" failures="1""#,
            r#"<testcase name="passes" time="1.000"/>"#,
            r#"<failure message="1 &lt; 2 &amp; &quot;so on&quot;""#,
            r#"<skipped message="no command""#,
        ] {
            assert!(xml.contains(part), "{part} is not in\n{xml}");
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the type of a step")]
    fn passes(_: &Story) -> anyhow::Result<Completion> {
        Ok(Completion::Passed)
    }

    fn fails(_: &Story) -> anyhow::Result<Completion> {
        anyhow::bail!("no")
    }

    #[test]
    fn steps_after_a_failed_installation_are_skipped() {
        let story = Story::for_tests();
        let outcomes = |steps: &[Step]| -> Vec<String> {
            run_steps(&story, steps).into_iter().map(|(_, outcome, _)| format!("{outcome:?}")).collect()
        };
        assert_eq!(
            outcomes(&[("first", fails), ("second", passes)]),
            [r#"Failed("no")"#, r#"Skipped("nothing is installed")"#]
        );
        assert_eq!(outcomes(&[("first", passes), ("second", fails), ("third", passes)])[2], "Passed");
    }
}
