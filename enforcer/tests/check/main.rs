//! `enforcer check`, the binary: manifests with the documented ports of well-known software, exit codes, all outputs.

mod against;
mod baseline;
mod cases;
mod formats;
mod inputs;
mod listing;
mod sarif_form;
mod services;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// What came of a command.
#[derive(Debug)]
struct End {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `enforcer check` where the manifests of these tests are.
fn check(arguments: &[&str], stdin: &[u8]) -> End {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    command.arg("check").args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check"));
    command.env_remove("ENFORCER_NODE_RESERVED").env_remove("ENFORCER_MAX_PORTS_PER_POD");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("running the binary");
    // Whoever does not read it closes it, and that is fine.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the end of the binary");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    End { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

const ALL: [&str; 4] = ["ingress-nginx.yaml", "monitoring.yaml", "dns.yaml", "metallb.json"];

#[test]
fn text_output_matches_snapshot() {
    let arguments = [&["--nodes", "3", "--node-reserved", "22,10254/tcp"][..], &ALL].concat();
    let End { code, stdout, stderr } = check(&arguments, b"");
    insta::assert_snapshot!("text", stdout);
    assert_eq!((code, stderr.as_str()), (Some(1), "enforcer: 7 errors, 2 warnings\n"));
}

#[test]
fn json_output_matches_snapshot() {
    let arguments = [&["-o", "json", "--node-reserved", "22,10254/tcp"][..], &ALL].concat();
    let End { code, stdout, .. } = check(&arguments, b"");
    insta::assert_snapshot!("json", stdout);
    assert_eq!(code, Some(1));
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&report["apiVersion"], &report["kind"]), (&"port-enforcer.io/v1alpha1".into(), &"CheckReport".into()));
}

/// Each alone is fine, whatever the cluster; what is wrong is that they meet.
#[test]
fn valid_input_has_no_findings() {
    let End { code, stdout, stderr } = check(&["ingress-nginx.yaml"], b"");
    let fine = "checked 1 object in 1 file, 1 of other kinds: 0 errors, 0 warnings, 0 notes\n";
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), fine, ""));
}

#[test]
fn replicas_are_compared_with_node_count() {
    let example = "../../../deploy/examples/two-replicas.yaml";
    let End { code, stdout, .. } = check(&["--nodes", "1", example], b"");
    assert_eq!(code, Some(1));
    let found = "two-replicas.yaml:19: error: Deployment default/nginx has 2 replicas, no two of which can share a node \
                 (80/tcp), and there is 1 node: the others are placed all the same, because the scheduler knows declared \
                 host ports only, and cannot bind [replicas]";
    assert!(stdout.contains(found), "{stdout}");
    let End { code, stdout, .. } = check(&["--nodes", "2", "-o", "json", example], b"");
    assert_eq!(code, Some(1), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    // With the defaults, its update waits for a third node forever.
    let [finding] = report["findings"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    let facts = ["code", "severity", "nodesNeeded"].map(|key| &finding[key]);
    assert_eq!(facts, [&Value::from("surge"), &"warning".into(), &3.into()]);
    let End { code, stdout, .. } = check(&["--nodes", "3", example], b"");
    assert_eq!(code, Some(0), "{stdout}");
    let End { code, stdout, .. } = check(&[example], b"");
    assert_eq!(code, Some(0));
    assert!(stdout.contains("note: Deployment default/nginx needs 2 nodes"), "{stdout}");
}

#[test]
fn command_line_errors_are_reported() {
    for (arguments, words) in [
        (&[][..], "<FILE>..."),
        (&["--nodes", "0", "x"], "0 is not in 1.."),
        (&["--node-reserved", "22/icmp", "x"], "the protocol is unknown"),
        (&["--ephemeral-ports", "9", "--service-node-port-range", "9-8", "x"], "write FIRST-LAST"),
        (&["-o", "yaml", "x"], "[possible values: text, json, sarif, junit, github]"),
    ] {
        let End { code, stdout, stderr } = check(arguments, b"");
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

/// An answer that nobody reads to its end is no failure of the check.
#[test]
fn closed_output_pipe_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    command.args(["check", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("running the binary");
    drop(child.stdout.take());
    // It answers only after it has read all of this.
    child.stdin.take().expect("a pipe").write_all(b"apiVersion: v1\nkind: Pod\n").expect("it reads");
    let Output { status, stderr, .. } = child.wait_with_output().expect("the end of the binary");
    assert_eq!(status.code(), Some(2));
    assert!(stderr.starts_with(b"enforcer: no manifest could be read; "), "{stderr:?}");
}
