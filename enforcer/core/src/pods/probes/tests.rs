use serde_json::{Value, json};

use super::*;

fn read(object: &Value) -> Option<Probes> {
    Probes::of(&serde_json::from_value(object.clone()).unwrap())
}

/// A pod on the host network of 10.0.0.5, Running and Ready, with these containers.
#[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
fn pod(containers: Value) -> Value {
    json!({
        "spec": { "hostNetwork": true, "containers": containers },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.5",
            "podIPs": [{ "ip": "10.0.0.5" }, { "ip": "fd00::5" }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn targets(containers: Value) -> Vec<(u16, String, bool)> {
    let probes = read(&pod(containers)).unwrap();
    probes.targets.iter().map(|target| (target.port, target.address.to_string(), target.is_local)).collect()
}

fn target(port: u16, address: &str, is_local: bool) -> (u16, String, bool) {
    (port, address.to_owned(), is_local)
}

#[test]
fn every_handler_of_every_probe_counts_once() {
    let containers = json!([
        {
            "name": "a",
            "ports": [{ "name": "http", "containerPort": 8080 }],
            "readinessProbe": { "httpGet": { "port": "http" } },
            "livenessProbe": { "httpGet": { "port": 8080 } },
            "startupProbe": { "grpc": { "port": 9000 } },
        },
        { "name": "b", "livenessProbe": { "tcpSocket": { "port": "8081" } } },
        { "name": "c", "livenessProbe": { "exec": { "command": ["true"] } } },
    ]);
    let expected = [target(8080, "10.0.0.5", true), target(8081, "10.0.0.5", true), target(9000, "10.0.0.5", true)];
    assert_eq!(targets(containers), expected);
}

#[test]
fn host_of_a_probe_is_its_address() {
    let probe = |host: &str| json!({ "name": "a", "livenessProbe": { "tcpSocket": { "port": 80, "host": host } } });
    for (host, expected) in [
        ("", Some(("10.0.0.5", true))),
        ("localhost", Some(("127.0.0.1", true))),
        ("127.0.0.53", Some(("127.0.0.53", true))),
        ("0.0.0.0", Some(("127.0.0.1", true))),
        ("[::]", Some(("::1", true))),
        ("::ffff:10.0.0.5", Some(("10.0.0.5", true))),
        ("fd00::5", Some(("fd00::5", true))),
        ("169.254.20.10", Some(("169.254.20.10", false))),
        ("api.example.com", None),
        ("10.0.0.5%eth0", None),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|(address, local)| target(80, address, local)).collect();
        assert_eq!(targets(json!([probe(host)])), expected, "{host}");
    }
}

#[test]
fn sidecars_count_and_other_init_containers_do_not() {
    let mut object = pod(json!([{ "name": "a" }]));
    let probe = |port: u16| json!({ "tcpSocket": { "port": port } });
    object["spec"]["initContainers"] = json!([
        { "name": "sidecar", "restartPolicy": "Always", "startupProbe": probe(81) },
        { "name": "init", "startupProbe": probe(82) },
    ]);
    let ports: Vec<u16> = read(&object).unwrap().targets.iter().map(|target| target.port).collect();
    assert_eq!(ports, [81]);
}

#[test]
fn rubbish_is_left_out() {
    let probe = |port: Value| json!({ "name": "a", "livenessProbe": { "tcpSocket": { "port": port } } });
    for port in [json!(0), json!(-1), json!(65_536), json!("no-such-port"), json!(""), json!("99999999999")] {
        assert_eq!(targets(json!([probe(port.clone())])), [], "{port}");
    }
    let mut object = pod(json!([probe(json!(80))]));
    object["status"]["podIP"] = json!("rubbish");
    object["status"]["podIPs"] = json!([{ "ip": "0.0.0.0" }]);
    assert_eq!(read(&object).unwrap().targets.len(), 0, "nobody knows where it connects to");
    object["status"]["hostIP"] = json!("10.0.0.9");
    assert_eq!(read(&object).unwrap().address, Some("10.0.0.9".parse().unwrap()));
}

#[test]
fn targets_are_bounded() {
    let container = |port: u16| json!({ "name": "a", "livenessProbe": { "tcpSocket": { "port": port } } });
    let containers: Vec<Value> = (1..=500).rev().map(container).collect();
    let ports: Vec<u16> = targets(containers.into()).into_iter().map(|(port, ..)| port).collect();
    assert_eq!(ports, (1..=u16::try_from(MAX_TARGETS).unwrap()).collect::<Vec<u16>>());
}

#[test]
fn shortest_period_counts() {
    let probe = |period: i32| json!({ "tcpSocket": { "port": 80 }, "periodSeconds": period });
    for (periods, expected) in [(vec![], 10), (vec![0], 10), (vec![-5], 10), (vec![30, 4], 4), (vec![1_000_000], 10)] {
        let containers: Vec<Value> =
            periods.iter().map(|period| json!({ "name": "a", "livenessProbe": probe(*period) })).collect();
        assert_eq!(read(&pod(containers.into())).unwrap().period, expected, "{periods:?}");
    }
}

#[test]
fn pod_is_ready_if_it_runs_and_says_so_or_cannot_say_otherwise() {
    let ready = |phase: &str, condition: Option<&str>, has_probe: bool| {
        let probe = has_probe.then(|| json!({ "tcpSocket": { "port": 80 } }));
        let mut object = pod(json!([{ "name": "a", "readinessProbe": probe }]));
        object["status"]["phase"] = json!(phase);
        let conditions: Vec<Value> =
            condition.map(|status| json!({ "type": "Ready", "status": status })).into_iter().collect();
        object["status"]["conditions"] = conditions.into();
        read(&object).unwrap().is_ready
    };
    assert!(ready("Running", Some("True"), true));
    assert!(ready("Running", None, false));
    assert!(!ready("Running", None, true), "nobody has probed it yet");
    assert!(!ready("Running", Some("False"), false), "its container is down");
    assert!(!ready("Running", Some("Unknown"), false));
    assert!(!ready("Pending", Some("True"), false));
    assert!(!ready("Succeeded", None, false));
}

#[test]
fn pod_with_its_own_network_has_none() {
    let mut object = pod(json!([{ "name": "a", "livenessProbe": { "tcpSocket": { "port": 80 } } }]));
    assert!(read(&object).is_some());
    object["spec"]["hostNetwork"] = json!(false);
    assert_eq!(read(&object), None);
    assert_eq!(read(&json!({})), None);
}
