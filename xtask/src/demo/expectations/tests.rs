use serde_json::json;

use super::*;
use crate::demo::agent_process::AgentLog;
use crate::demo::results::{ContestedPort, SharedPort};

/// Returns the log line of a conflict.
fn conflict_line(verdict: &str, pod: &Pod, owner: &Pod) -> String {
    let (pod_name, owner) = (pod.full_name(), owner.full_name());
    let message = format!("bind 0.0.0.0:{}/tcp by {pod_name}: claimed by {owner} (annotation)", pod.port);
    let line = json!({"event": "bind", "verdict": verdict, "reason": "claimed", "pod": pod_name, "port": pod.port,
        "owner": owner, "message": message});
    line.to_string()
}

fn expected_scenario(mode: Mode, pods: &DemoPods) -> ScenarioResult {
    let enforce = mode == Mode::Enforce;
    let failed = |fails: bool| fails.then(|| "EADDRINUSE".to_owned());
    let mut attempts = vec![
        Attempt::new(&pods.squatter, failed(enforce), None),
        Attempt::new(&pods.owner, failed(!enforce), None),
        Attempt::new(&pods.exporter, None, None),
        Attempt::new(&pods.sidecar, failed(enforce), None),
    ];
    if mode != Mode::Off {
        let verdict = if enforce { "deny" } else { "audit" };
        let log = AgentLog::parse(&[
            conflict_line(verdict, &pods.squatter, &pods.owner),
            conflict_line(verdict, &pods.sidecar, &pods.exporter),
        ]);
        for attempt in &mut attempts {
            attempt.add_verdict(&log, pods.owner_of(attempt.port));
        }
    }
    let answers = if enforce { vec![(&pods.exporter, 20)] } else { vec![(&pods.exporter, 13), (&pods.sidecar, 7)] };
    let holder = if enforce { &pods.owner } else { &pods.squatter };
    ScenarioResult {
        mode,
        attempts,
        contested: ContestedPort { port: 80, answered_by: Some(holder.full_name()) },
        shared: SharedPort {
            port: 9100,
            answers: answers.into_iter().map(|(pod, count)| (pod.full_name(), count)).collect(),
        },
    }
}

fn expected_results(pods: &DemoPods) -> DemoResults {
    DemoResults { scenarios: [Mode::Off, Mode::Audit, Mode::Enforce].map(|mode| expected_scenario(mode, pods)).into() }
}

/// Returns the difference that the check reports after `change`.
fn difference(change: impl FnOnce(&mut Vec<ScenarioResult>)) -> String {
    let pods = DemoPods::without_cgroups(80, 9100);
    let mut results = expected_results(&pods);
    change(&mut results.scenarios);
    check(&results, &pods).unwrap_err()
}

#[test]
fn expected_results_pass_the_check() {
    let pods = DemoPods::without_cgroups(80, 9100);
    assert_eq!(check(&expected_results(&pods), &pods), Ok(()));
    // A kernel that does not let the program choose the error.
    let mut old_kernel = expected_results(&pods);
    old_kernel.scenarios[2].attempts[0].errno = Some("EPERM".to_owned());
    assert_eq!(check(&old_kernel, &pods), Ok(()));
}

#[test]
fn every_difference_is_reported() {
    let missing = difference(|scenarios| drop(scenarios.remove(1)));
    assert_eq!(missing, "no result for mode audit");

    let denied_in_audit = difference(|scenarios| scenarios[1].attempts[0].errno = Some("EADDRINUSE".to_owned()));
    assert!(denied_in_audit.starts_with("mode audit: the squatter should get the port"), "{denied_in_audit}");

    let unreported = difference(|scenarios| {
        let squatter = &mut scenarios[1].attempts[0];
        (squatter.verdict, squatter.reason, squatter.owner) = (Some("allow".to_owned()), None, None);
    });
    assert!(unreported.contains("a conflict should be reported"), "{unreported}");
    assert!(unreported.ends_with("verdict allow, errno none, reason none, owner none"), "{unreported}");

    let allowed = difference(|scenarios| scenarios[2].attempts[0].errno = None);
    assert!(allowed.contains("the squatter should be denied"), "{allowed}");

    let owner_denied = difference(|scenarios| scenarios[2].attempts[1].verdict = Some("deny".to_owned()));
    assert!(owner_denied.contains("an owner should be allowed"), "{owner_denied}");

    let wrong_owner =
        difference(|scenarios| scenarios[2].attempts[3].owner = Some("default/nginx-6fdf99c8b-6wwft".to_owned()));
    assert!(wrong_owner.contains("a conflict should be denied"), "{wrong_owner}");

    let unnamed = difference(|scenarios| scenarios[2].attempts[3].enforcer_message = Some("denied".to_owned()));
    assert!(unnamed.contains("name both pods"), "{unnamed}");

    let other_error = difference(|scenarios| scenarios[2].attempts[3].errno = Some("EACCES".to_owned()));
    assert!(other_error.contains("the sidecar should be denied"), "{other_error}");

    let wrong_holder = difference(|scenarios| scenarios[2].contested = scenarios[1].contested.clone());
    assert!(wrong_holder.contains("should answer, but"), "{wrong_holder}");

    let still_shared = difference(|scenarios| scenarios[2].shared = scenarios[1].shared.clone());
    assert!(still_shared.contains("should not share the port"), "{still_shared}");

    let not_shared = difference(|scenarios| scenarios[0].shared = scenarios[2].shared.clone());
    assert!(not_shared.contains("two pods should share the port"), "{not_shared}");

    let other_pod = difference(|scenarios| scenarios[2].shared.answers.extend([("default/x".to_owned(), 1)]));
    assert!(other_pod.contains("should answer all 20 requests"), "{other_pod}");
}

#[test]
fn json_has_the_documented_keys() {
    let pods = DemoPods::without_cgroups(80, 9100);
    let json = serde_json::to_value(expected_results(&pods)).unwrap();
    let off = &json["acts"][0];
    assert_eq!(off["mode"], "off");
    let attempt = off["attempts"][1].as_object().unwrap();
    for (key, value) in [
        ("pod", json!("default/nginx-6fdf99c8b-6wwft")),
        ("protocol", json!("tcp")),
        ("address", json!("0.0.0.0")),
        ("port", json!(80)),
        ("verdict", json!(null)),
        ("errno", json!("EADDRINUSE")),
        ("reason", json!(null)),
        ("owner", json!(null)),
    ] {
        assert_eq!(attempt.get(key), Some(&value), "{key}");
    }
    assert_eq!(json["acts"][2]["attempts"][0]["verdict"], "deny");
    assert_eq!(json["acts"][2]["shared"]["answers"], json!({"default/metrics-x2k8p": 20}));
}
