//! Policy reports, from the ledgers of nodes.

use super::*;
use crate::{
    cluster::host_ports::ServicePorts,
    ledger::node_host_ports::{LedgerCounts, NodeHostPortsStatus},
};

const NOW: ResultTime = ResultTime { seconds: 1_800_000_000, nanos: 0 };

fn pod(namespace: &str, name: &str) -> LedgerActor {
    LedgerActor {
        kind: "pod".to_owned(),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..LedgerActor::default()
    }
}

fn unit(name: &str) -> LedgerActor {
    LedgerActor { kind: "host".to_owned(), unit: Some(name.to_owned()), ..LedgerActor::default() }
}

fn conflict(kind: &str, ports: &str, who: LedgerActor, other: LedgerActor) -> LedgerConflict {
    LedgerConflict { kind: kind.to_owned(), ports: ports.to_owned(), who, other, since: None }
}

fn node(name: &str, conflicts: Vec<LedgerConflict>) -> NodePorts {
    let ledger = NodeHostPortsStatus { conflicts, ..NodeHostPortsStatus::default() };
    NodePorts::of(name, NodeKnowledge::Ledger, ledger, &ServicePorts::default())
}

fn reports_of(nodes: &[NodePorts], only: Option<&str>) -> Vec<PolicyReport> {
    let mut builder = ReportBuilder::new(only.map(str::to_owned));
    for node in nodes {
        builder.add(node);
    }
    builder.finish()
}

/// A report in lines: its place, its counts, and its results.
fn lines(reports: &[PolicyReport]) -> Vec<String> {
    let mut lines = Vec::new();
    for PolicyReport { namespace, content } in reports {
        let ReportSummary { fail, warn, error, .. } = content.summary;
        lines.push(format!("{} {fail}/{warn}/{error}", namespace.as_deref().unwrap_or("*")));
        for result in &content.results {
            let subject = result.resources.first().map_or("-", |subject| subject.name.as_str());
            let holder = result.properties.get("holder").map_or("-", String::as_str);
            lines.push(format!("  {:?} {:?} {} {subject} {holder}", result.result, result.severity, result.rule));
        }
    }
    lines
}

#[test]
fn each_party_has_a_result_in_the_report_of_its_place() {
    let nodes = [
        node(
            "node-1",
            vec![
                conflict("claimLost", "9100/tcp", pod("shop", "probe"), pod("monitoring", "exporter")),
                conflict("inUse", "0.0.0.0:80/tcp", pod("shop", "web"), unit("nginx.service")),
            ],
        ),
        node(
            "node-2",
            vec![conflict(
                "notOwner",
                "53/udp",
                pod("shop", "dns"),
                LedgerActor { kind: "node".to_owned(), ..LedgerActor::default() },
            )],
        ),
    ];
    let reports = reports_of(&nodes, None);
    let expected = [
        "* 1/1/0",
        "  Fail High notOwner node-2 shop/dns",
        "  Warn Low inUse node-1 the host's nginx.service",
        "monitoring 0/1/0",
        "  Warn Low claimLost exporter monitoring/exporter",
        "shop 3/0/0",
        "  Fail High notOwner dns shop/dns",
        "  Fail High inUse web the host's nginx.service",
        "  Fail Medium claimLost probe monitoring/exporter",
    ];
    assert_eq!(lines(&reports), expected);
    let dns = &reports[2].content.results[0];
    assert_eq!(dns.message, "shop/dns holds 53/udp, which the node owns (on node-2)");
    let property = |name: &str| dns.properties.get(name).map(String::as_str);
    assert_eq!((property("port"), property("protocol"), property("node")), (Some("53"), Some("udp"), Some("node-2")));
    assert_eq!(property("other"), Some("the node"));
    assert_eq!(reports[2].content.scope, Some(ReportSubject::new("Namespace", None, "shop")));
    // One namespace alone.
    assert_eq!(lines(&reports_of(&nodes, Some("monitoring"))), expected[3..5]);
}

#[test]
fn handover_reservation_and_names_of_no_object_are_no_subject() {
    let kept = LedgerActor {
        kind: "remnant".to_owned(),
        kept_for: Some("DaemonSet shop/edge".to_owned()),
        until: Some("2026-11-29T09:00:00Z".to_owned()),
        ..pod("shop", "edge-1")
    };
    let nodes = [node(
        "node-1",
        vec![
            conflict("inUse", "80/tcp", pod("shop", "web"), kept),
            conflict("claimLost", "81/tcp", pod("../../api/v1", "x"), pod("shop", "a/b?c")),
            conflict(
                "claimLost",
                "82/tcp",
                pod("", "x"),
                LedgerActor { kind: "mystery".to_owned(), ..LedgerActor::default() },
            ),
        ],
    )];
    let reports = reports_of(&nodes, None);
    let subjects: Vec<(&str, Option<&str>)> = reports
        .iter()
        .flat_map(|report| &report.content.results)
        .map(|result| (result.resources[0].kind.as_str(), result.resources[0].namespace.as_deref()))
        .collect();
    assert_eq!(subjects, [("Node", None), ("Node", None), ("Node", None), ("Node", None), ("Pod", Some("shop"))]);
    // A node of a forged name has no report at all.
    assert_eq!(reports_of(&[node("../x", vec![conflict("inUse", "80/tcp", unit("a"), unit("b"))])], None), []);
}

#[test]
fn report_is_cut_with_the_worst_results_kept_and_all_counted() {
    let mut nodes = Vec::new();
    for number in 0..MAX_RESULTS {
        let web = |place: usize| pod("shop", &format!("web-{number}-{place}"));
        nodes.push(node(
            &format!("node-{number}"),
            vec![conflict("claimLost", "80/tcp", web(0), web(1)), conflict("inUse", "81/tcp", web(2), unit("x"))],
        ));
    }
    let reports = reports_of(&nodes, None);
    let [cluster, shop] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!(cluster.content.results.len(), MAX_RESULTS);
    let ReportContent { summary, results, .. } = &shop.content;
    let count = MAX_RESULTS as u64;
    assert_eq!((summary.fail, summary.warn, summary.error), (2 * count, count, 1));
    // Those of high severity fill it.
    assert!(results.len() <= MAX_RESULTS + 1 && results[0].severity == ResultSeverity::High);
    assert!(results[..results.len() - 1].iter().all(|result| result.rule == "inUse"));
    let last = results.last().expect("a result");
    assert_eq!((last.rule.as_str(), last.result), (RULE_LEFT_OUT, ResultOutcome::Error));
    let left_out = 3 * MAX_RESULTS - (results.len() - 1);
    assert!(last.message.starts_with(&format!("{left_out} more results")), "{}", last.message);
    assert!(last.message.ends_with("kubectl host-ports --conflicts -n shop"), "{}", last.message);
}

#[test]
fn longest_texts_fit_into_a_request() {
    let long = |letter: &str| letter.repeat(512);
    let conflicts = (0..200).map(|number| {
        let who = LedgerActor { unit: Some(format!("{number}{}", long("\u{6f22}"))), ..unit("") };
        conflict("shared", &long("8"), who, unit(&long("\u{6f22}")))
    });
    let one = node("node-1", conflicts.collect());
    let nodes: Vec<NodePorts> = (0..5)
        .map(|number| NodePorts {
            conflicts: one
                .conflicts
                .iter()
                .map(|conflict| ClusterConflict { node: format!("n{number}"), ..conflict.clone() })
                .collect(),
            ..one.clone()
        })
        .collect();
    let reports = reports_of(&nodes, None);
    let [cluster] = reports.as_slice() else { panic!("{} reports", reports.len()) };
    let bytes = serde_json::to_vec(&cluster.content).unwrap().len();
    assert!((MAX_BYTES / 2..MAX_BYTES + 4096).contains(&bytes), "{bytes}");
    assert_eq!(cluster.content.summary.fail, 2_000);
    assert_eq!(cluster.content.results.last().map(|last| last.rule.as_str()), Some(RULE_LEFT_OUT));
}

#[test]
fn ledger_without_room_for_its_conflicts_is_an_error_of_its_node() {
    let with = |left_out, conflicts| {
        let ledger = NodeHostPortsStatus {
            left_out,
            counts: LedgerCounts { conflicts, ..LedgerCounts::default() },
            conflicts: vec![conflict("shared", "80/tcp", pod("shop", "a"), pod("shop", "b"))],
            ..NodeHostPortsStatus::default()
        };
        let ports = NodePorts::of("node-1", NodeKnowledge::Ledger, ledger, &ServicePorts::default());
        reports_of(&[ports], None).into_iter().find(|report| report.namespace.is_none())
    };
    let cluster = with(7, 3).expect("a report");
    assert_eq!(
        cluster.content.results[0].message,
        "on node-1, 1 of 3 conflicts are known: its ledger had no room for 7 rows and conflicts"
    );
    assert_eq!(lines(&[cluster])[1], "  Error Medium ledgerIncomplete node-1 -");
    assert_eq!(with(7, 1), None, "only rows are missing");
}

#[test]
fn namespaces_of_forged_ledgers_are_bounded() {
    let mut builder = ReportBuilder::default();
    for number in 0..=MAX_NAMESPACES / 100 {
        let conflicts = (0..100).map(|place| {
            conflict("claimLost", "80/tcp", pod(&format!("ns-{number}-{place}"), "x"), pod("shop", "web"))
        });
        builder.add(&node(&format!("node-{number}"), conflicts.collect()));
    }
    let reports = builder.finish();
    assert_eq!(reports.len(), MAX_NAMESPACES + 1, "and the cluster");
    assert_eq!(reports[0].content.results.last().map(|last| last.rule.as_str()), Some(RULE_LEFT_OUT));
}

#[test]
fn steps_write_what_differs_and_delete_what_has_ended() {
    let web = || conflict("inUse", "80/tcp", pod("shop", "web"), unit("x"));
    let wanted = || reports_of(&[node("node-1", vec![web()])], None);
    let first = steps(wanted(), Vec::new(), REPORT_NAME, NOW);
    let created: Vec<PolicyReport> = first
        .into_iter()
        .map(|step| match step {
            ReportStep::Create(report) => report,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(created.len(), 2);
    assert!(created.iter().all(|report| report.content.results[0].timestamp == Some(NOW)));
    let existing = |uid: &str| -> Vec<ExistingReport> {
        let reports = created.iter().map(|report| ExistingReport {
            namespace: report.namespace.clone(),
            name: REPORT_NAME.to_owned(),
            uid: uid.to_owned(),
            content: Some(report.content.clone()),
        });
        reports.collect()
    };
    // Later, the times of the first report stay: nothing is written.
    let later = ResultTime { seconds: NOW.seconds + 600, nanos: 0 };
    assert_eq!(steps(wanted(), existing("u"), REPORT_NAME, later), []);
    // Somebody has edited one, and another one has no content of ours.
    let mut edited = existing("u");
    edited[0].content = None;
    edited[1].content.as_mut().unwrap().summary.fail = 0;
    let changed = steps(wanted(), edited, REPORT_NAME, later);
    assert!(
        matches!(&changed[..], [ReportStep::Update(_, one), ReportStep::Update(_, two)] if one == "u" && two == "u"),
        "{changed:?}"
    );
    // The conflict has ended; and a report has an older name.
    let mut old = existing("u");
    old[0].name = "old".to_owned();
    let ended = steps(Vec::new(), old, REPORT_NAME, later);
    assert!(matches!(&ended[..], [ReportStep::Delete(one), ReportStep::Delete(_)] if one.name == "old"), "{ended:?}");
}

#[test]
fn known_time_of_a_conflict_is_that_of_its_result() {
    let mut failing = conflict("inUse", "80/tcp", pod("shop", "web"), unit("x"));
    failing.since = Some("2026-11-29T08:00:00Z".to_owned());
    let reports = reports_of(&[node("node-1", vec![failing])], Some("shop"));
    let expected = "2026-11-29T08:00:00Z".parse::<Timestamp>().unwrap().as_second();
    assert_eq!(reports[0].content.results[0].timestamp, Some(ResultTime { seconds: expected, nanos: 0 }));
}
