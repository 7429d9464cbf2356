//! One small file for each thing that was found wrong with the check on real manifests, and what is expected of it.
//!
//! A case says which fault it shows in its first lines. Files are never changed to suit the check.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use serde_json::Value;

use super::{End, check};

/// A file or folder of `cases`, and the expectation.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    code: i32,
    /// Words of the output, each of which is on one line: of a finding the place, the severity and the code.
    found: &'static [&'static [&'static str]],
    /// Words that the output does not have.
    absent: &'static [&'static str],
}

const NODES: &[&str] = &["--nodes", "3"];
const ONE_NODE: &[&str] = &["--nodes", "1"];

const fn case(name: &'static str, code: i32, found: &'static [&'static [&'static str]]) -> Case {
    Case { name, arguments: NODES, code, found, absent: &[] }
}

const fn fine(name: &'static str) -> Case {
    Case { name, arguments: NODES, code: 0, found: &[&["0 errors, 0 warnings, 0 notes"]], absent: &[] }
}

const CASES: &[Case] = &[
    fine("01-os-windows.yaml"),
    case("02-same-port-twice-in-one-pod.yaml", 1, &[&["yaml:9: error: ", "Duplicate value", "[port]"]]),
    case("03-hostport-differs-from-containerport.yaml", 1, &[&["yaml:12: error: ", "hostPort is 80", "[port]"]]),
    case(
        "04-undeclared-port-in-probe.yaml",
        1,
        &[
            &["yaml:30: warning: ", "both are probed on 7004/tcp", "[conflict]"],
            &["remedy: ", "ports: [{containerPort: 7004}] to container right of DaemonSet demo/right"],
        ],
    ),
    case("05-replication-controller.yaml", 1, &[&["yaml:12: error: ReplicationController demo/old", "[replicas]"]]),
    case("06-removed-api-version.yaml", 1, &[&["yaml:2: warning: ", "no API server serves it; write apps/v1"]]),
    case(
        "07-custom-kind-with-template.yaml",
        1,
        &[
            &["yaml:2: note: 1 object of kind Rollout (argoproj.io/v1alpha1)", "[other_kind]"],
            &["yaml:15: note: 1 object of kind DaemonSet (apps.kruise.io/v1alpha1)", "[other_kind]"],
            &["yaml:24: warning: DaemonSet demo/advanced", "Rollout demo/canary", "[shadowed]"],
        ],
    ),
    case(
        "08-folder-with-kustomization",
        0,
        &[
            &["kustomization.yaml:2: note: is a kustomization", "[not_read]"],
            &["remedy: kubectl kustomize cases/08-folder-with-kustomization | enforcer check -"],
            &["checked 1 object in 2 files", "0 errors, 0 warnings, 1 note"],
        ],
    ),
    case("09-tolerates-everything.yaml", 1, &[&[": error: ", "[conflict]"]]),
    fine("10-affinity-in-disjoint.yaml"),
    fine("11-exists-and-doesnotexist.yaml"),
    fine("12-selector-against-affinity.yaml"),
    Case {
        absent: &["the scheduler keeps them apart"],
        ..case("13-same-node-name.yaml", 1, &[&[": error: ", "[conflict]"]])
    },
    case("14-hostname-selector-replicas.yaml", 1, &[&[": error: ", "[replicas]"]]),
    case("15-hostname-selector-pair.yaml", 1, &[&[": error: ", "[conflict]"]]),
    Case {
        arguments: ONE_NODE,
        ..case("16-default-rollout-on-one-node.yaml", 1, &[&[": warning: ", "it never ends", "[surge]"]])
    },
    case("17-hostname-selector-rollout.yaml", 1, &[&[": error: ", "[surge]"]]),
    case(
        "18-quoted-port.yaml",
        2,
        &[&["yaml:19: error: ", "containers[1].ports[0].hostPort is the text \"7018\"; leave out the quotes"]],
    ),
    case(
        "19-unrendered-template.yaml",
        2,
        &[
            &["yaml:4: error: looks like a template that was not rendered", "[unreadable]"],
            &["remedy: ", "helm template ", " | enforcer check -"],
        ],
    ),
    fine("20-suspended-jobs.yaml"),
    case("21-nodeport-against-hostport.yaml", 1, &[&[": warning: ", "[shadowed]"]]),
    Case {
        arguments: &["--nodes", "3", "--service-lb"],
        ..case("22-load-balancer-on-k3s.yaml", 1, &[&[": error: ", "[conflict]"]])
    },
    fine("23-two-names-of-one-label.yaml"),
    case("24-pod-anti-affinity-keeps-apart.yaml", 0, &[&["0 errors, 0 warnings, "]]),
    Case { absent: &["placed all the same"], ..case("25-anti-affinity-undeclared.yaml", 1, &[&["[replicas]"]]) },
    Case {
        absent: &["the scheduler keeps them apart"],
        ..case("26-static-pods.yaml", 1, &[&[": warning: ", "[conflict]"]])
    },
    Case {
        absent: &["the API server refuses"],
        ..case(
            "27-host-ip-is-a-name.yaml",
            1,
            &[&[
                "yaml:7: error: ",
                "hostIP is 'localhost'",
                "the API server accepts it, but the container runtime does not",
            ]],
        )
    },
    case(
        "28-other-documents.yaml",
        0,
        &[
            &["yaml:2: note: 1 object of kind Template (template.openshift.io/v1)", "not looked at"],
            &["yaml:17: note: 1 object of kind DeploymentConfig (apps.openshift.io/v1)", "ports are compared"],
        ],
    ),
    case(
        "29-nothing-declared.yaml",
        0,
        &[
            &["yaml:10: note: DaemonSet demo/silent is on the host network", "[unknown_ports]"],
            &["remedy: ", "ports: [{containerPort: PORT}]", "port-enforcer.io/ports: PORT/tcp"],
        ],
    ),
    case("30-control-plane-only.yaml", 1, &[&[": warning: ", "[conflict]"], &["0 errors, "]]),
    case("31-deployment-tolerates-more.yaml", 1, &[&[": warning: ", "[conflict]"], &["0 errors, "]]),
    case("33-comments.yaml", 0, &[&["checked 1 object in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("34-nodes-of-a-pool.yaml", 0, &[&[": note: ", "[replicas]"]]),
    case("35-byte-order-mark-inside.yaml", 0, &[&["checked 2 objects in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("36-static-pods-of-kops", 0, &[&["checked 1 object in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("37-static-pods-with-merge-keys", 0, &[&["checked 1 object in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("38-static-pods-yes", 0, &[&["checked 1 object in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("39-wrong-group.yaml", 1, &[&["yaml:2: warning: ", "no API server serves it; write apps/v1"]]),
    case("40-linux-by-affinity.yaml", 1, &[&[": error: ", "[conflict]"]]),
    case("41-exporters-tolerations.yaml", 1, &[&[": error: ", "[conflict]"]]),
    case("42-both-zero.yaml", 1, &[&["yaml:7: error: ", "maxUnavailable may not be 0", "[surge]"]]),
    case("43-octal-looking.yaml", 0, &[&["checked 1 object in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("44-tabs-in-flow-style.yaml", 0, &[&["checked 1 object in 1 file", "0 errors, 0 warnings, 0 notes"]]),
    case("45-scheduler-wildcard-v6.yaml", 1, &[&["Pending"]]),
];

/// The case whose file is made here: it is long.
const MANY: &str = "32-many-findings";

/// Returns why the outcome is not as expected.
fn problem(case: &Case, End { code, stdout, stderr }: &End) -> Option<String> {
    let has = |words: &[&str]| stdout.lines().any(|line| words.iter().all(|word| line.contains(word)));
    let missing: Vec<_> = case.found.iter().filter(|words| !has(words)).collect();
    let present: Vec<_> = case.absent.iter().filter(|word| stdout.contains(**word)).collect();
    let differs = *code != Some(case.code) || !missing.is_empty() || !present.is_empty();
    differs.then(|| {
        format!("{}: exit code {code:?}, missing {missing:?}, present {present:?}\n{stdout}{stderr}\n", case.name)
    })
}

/// 10,001 copies of one Pod, and two `DaemonSets` on one port: the error is shown, and a note is left out.
fn many() -> Option<String> {
    let mut text = String::new();
    for _ in 0..10_001 {
        text += "---\napiVersion: v1\nkind: Pod\nmetadata: {name: same}\nspec: {containers: [{name: c}]}\n";
    }
    for name in ["one", "two"] {
        write!(
            text,
            "---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {name}}}\nspec:\n  template:\n    spec:\n      \
             hostNetwork: true\n      containers: [{{name: c, ports: [{{containerPort: 7032}}]}}]\n"
        )
        .expect("writing to a string never fails");
    }
    let case = case(MANY, 1, &[&[": error: ", "[conflict]"], &["1 error, 0 warnings, 10000 notes"]]);
    let end = check(&["-"], text.as_bytes());
    problem(&case, &end).map(|problem| problem.lines().take(1).collect())
}

#[test]
fn every_case_is_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check/cases");
    let files: BTreeSet<String> = fs::read_dir(&folder)
        .expect("the cases")
        .map(|entry| entry.expect("a case").file_name().into_string().expect("UTF-8"))
        .collect();
    let names: BTreeSet<String> = CASES.iter().map(|case| case.name.to_owned()).collect();
    assert_eq!(files, names, "each file has one expectation");

    let outcome = |case: &Case| {
        let path = format!("cases/{}", case.name);
        let end = check(&[case.arguments, &[&path]].concat(), b"");
        (case.name, problem(case, &end))
    };
    let outcomes = CASES.iter().map(outcome).chain([(MANY, many())]);
    let unexpected: String = outcomes.filter_map(|(_, problem)| problem).collect();
    assert!(unexpected.is_empty(), "{unexpected}");
}

#[test]
fn report_names_other_kinds() {
    let End { stdout, .. } =
        check(&["-o", "json", "cases/07-custom-kind-with-template.yaml", "ingress-nginx.yaml"], b"");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    let kinds = report["ignoredKinds"].as_array().expect("a list");
    assert_eq!(kinds.len(), 3, "{report}");
    let rollout = serde_json::json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "count": 1, "podTemplates": 1, "compared": 1,
    });
    assert!(kinds.contains(&rollout), "{report}");
}
