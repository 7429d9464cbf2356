//! Every refusal is one sentence with the remedy, and an exit code.

use enforcer_testing::{
    apiserver::{Fault, Target},
    tests,
};

use crate::{
    Test,
    cluster::{Cluster, End, end, program},
};

pub(crate) const TESTS: &[Test] = tests![
    reader_with_the_role_is_refused_nothing,
    missing_right_is_named_with_the_role_that_grants_it,
    cluster_without_the_definition_is_answered_from_pods,
    what_is_not_there_is_said_to_be_missing,
    server_that_cannot_be_used_is_named,
    kubeconfig_that_cannot_be_used_is_named
];

/// The rights of the role in `deploy/`, as verbs and resources.
pub(crate) fn rights() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/components/readers/role.yaml");
    let text = std::fs::read_to_string(path).expect("the role");
    let role: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    let texts = |value: &serde_json::Value| {
        let items = value.as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let rules = role["rules"].as_array().expect("rules").iter();
    let rights = rules.flat_map(|rule| {
        let verbs = texts(&rule["verbs"]);
        let resources = texts(&rule["resources"]);
        resources
            .into_iter()
            .flat_map(move |resource| verbs.clone().into_iter().map(move |verb| (verb, resource.clone())))
    });
    rights.collect()
}

fn without(resource: &str) -> Vec<(String, String)> {
    rights().into_iter().filter(|(_, name)| *name != resource).collect()
}

/// Checks a failure: its code, nothing on standard output, and one sentence.
fn refused(end: &End, code: i32) -> &str {
    let End { code: actual, stdout, stderr } = end;
    assert_eq!((*actual, stdout.as_str()), (Some(code), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
    assert!(stderr.starts_with("kubectl host-ports: "), "{stderr}");
    stderr.trim_end()
}

fn reader_with_the_role_is_refused_nothing() {
    let cluster = Cluster::of_the_story().with_ledgers();
    for arguments in [&[][..], &["why", "-n", "kepler", "kepler-x2vbn"], &["free"], &["why", "-n", "shop", "gateway-0"]]
    {
        let End { code, stderr, .. } = cluster.run_as_reader(&rights(), arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("missing"), "{arguments:?}: {stderr}");
    }
}

fn missing_right_is_named_with_the_role_that_grants_it() {
    let cluster = Cluster::of_the_story();
    let role = "ask for the ClusterRole port-enforcer-reader";
    for (resource, arguments) in
        [("pods", &[][..]), ("nodes", &[]), ("pods", &["why", "-n", "kepler", "kepler-x2vbn"]), ("pods", &["free"])]
    {
        let end = cluster.run_as_reader(&without(resource), arguments);
        let sentence = refused(&end, 3);
        assert!(sentence.contains(&format!("get and list {resource}")) && sentence.contains(role), "{sentence}");
    }
    // What is left is still an answer, with a note.
    let cluster = cluster.with_ledgers();
    for (resource, arguments, note) in [
        ("services", &[][..], "NodePorts are missing"),
        ("nodehostports", &[], "ledgers are missing"),
        ("nodes", &[], "nodes without a ledger are missing"),
        ("events", &["why", "-n", "shop", "gateway-0"], "the agent's Events are missing"),
    ] {
        let End { code, stdout, stderr } = cluster.run_as_reader(&without(resource), arguments);
        assert_eq!(code, Some(0), "{resource}: {stderr}");
        assert!(!stdout.is_empty() && stderr.contains(note) && stderr.contains(role), "{resource}: {stderr}");
    }
}

fn cluster_without_the_definition_is_answered_from_pods() {
    let cluster = Cluster::of_the_story();
    cluster.server.set_ledger_resource(false);
    let answer = cluster.answer(&["80"]);
    assert!(answer.contains("nginx-6fdf99c8b-6wwft") && answer.contains("no node has a ledger"), "{answer}");
}

fn what_is_not_there_is_said_to_be_missing() {
    let cluster = Cluster::of_the_story();
    let end = cluster.run(&["why", "-n", "shop", "nobody"]);
    assert!(refused(&end, 2).ends_with("there is no pod shop/nobody; see kubectl get pods -n shop"), "{end:?}");
    let end = cluster.run(&["--node", "node-9"]);
    assert!(refused(&end, 2).ends_with("there is no node node-9; see kubectl get nodes"), "{end:?}");
    let end = cluster.run(&["why", "a/b/c"]);
    assert!(refused(&end, 2).contains("names no pod"), "{end:?}");
    // Nothing there is no failure.
    let End { code, stdout, stderr } = cluster.run(&["4711"]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    assert!(stderr.contains("no such host ports on 3 nodes"), "{stderr}");
}

fn server_that_cannot_be_used_is_named() {
    let mut cluster = Cluster::of_the_story();
    let outage = cluster.server.fault(Target::ALL, Fault::Unauthorized);
    assert!(refused(&cluster.run(&[]), 3).contains("does not accept the credentials"));
    drop(outage);
    let outage = cluster.server.fault(Target::ALL.verb("list"), Fault::Internal);
    assert!(refused(&cluster.run(&[]), 4).contains("cannot read services from http://127.0.0.1:"));
    drop(outage);
    cluster.server.stop();
    assert!(refused(&cluster.run(&[]), 4).contains("check the server and the network"));
    cluster.server.start_again();
    assert_eq!(cluster.run(&[]).code, Some(0));
}

fn kubeconfig_that_cannot_be_used_is_named() {
    let end_of = |arguments: &[&str]| end(program(arguments));
    assert!(refused(&end_of(&[]), 2).contains("name one with --kubeconfig"));
    assert!(refused(&end_of(&["--kubeconfig", "/nonexistent/config"]), 2).contains("/nonexistent/config"));
    let cluster = Cluster::new();
    assert!(refused(&cluster.run(&["--context", "nowhere"]), 2).contains("nowhere"));
    assert!(refused(&cluster.run(&["--as-group", "ops"]), 2).contains("--as USER"));
}
