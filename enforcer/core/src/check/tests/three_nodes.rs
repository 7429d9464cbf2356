//! Objects as people have them in their clusters, on three nodes.

use super::{found, host, workload};

/// An object that declares port 80 on the host network. `pod` goes before that in its spec.
fn daemon(name: &str, pod: &str) -> String {
    workload("DaemonSet", name, "", "", &format!("{pod}{}", host("{containerPort: 80}")))
}

fn recreated(name: &str, replicas: u32, pod: &str) -> String {
    let spec = format!("replicas: {replicas}, strategy: {{type: Recreate}},");
    workload("Deployment", name, &spec, "", &format!("{pod}{}", host("{containerPort: 80}")))
}

fn affinity(requirement: &str) -> String {
    format!(
        "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: \
         [{{matchExpressions: [{requirement}]}}]}}}}}}, "
    )
}

fn single_pod(namespace: &str, name: &str, pod: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{pod}{}}}}}",
        host("{containerPort: 80}")
    )
}

/// Two objects that meet: the finding on three nodes, if any.
#[test]
fn two_objects_on_three_nodes() {
    let everywhere = "tolerations: [{operator: Exists}], ";
    let control = "node-role.kubernetes.io/control-plane";
    let masters = format!("nodeSelector: {{{control}: ''}}, ");
    let workers = affinity(&format!("{{key: {control}, operator: DoesNotExist}}"));
    let arch = |name: &str| affinity(&format!("{{key: kubernetes.io/arch, operator: In, values: [{name}]}}"));
    let tolerated = format!("tolerations: [{{key: {control}, operator: Exists, effect: NoSchedule}}], {masters}");
    let one_host = "nodeSelector: {kubernetes.io/hostname: node-1}, ";
    for (name, one, other, expected) in [
        (
            "Linux and Windows",
            daemon("l", "nodeSelector: {kubernetes.io/os: linux}, "),
            daemon("w", "nodeSelector: {kubernetes.io/os: windows}, "),
            "",
        ),
        (
            "one tolerates everything",
            daemon("a", everywhere),
            daemon("b", "tolerations: [{key: example.test/taint, operator: Exists, effect: NoSchedule}], "),
            "error conflict",
        ),
        (
            "two exporters",
            daemon("a", everywhere),
            daemon("b", "tolerations: [{effect: NoSchedule, operator: Exists}], "),
            "error conflict",
        ),
        ("workers and control plane", daemon("a", ""), daemon("b", &tolerated), "warning conflict"),
        ("the Deployment tolerates more", daemon("a", ""), recreated("b", 1, everywhere), "warning conflict"),
        ("two architectures", daemon("a", &arch("amd64")), daemon("b", &arch("arm64")), ""),
        ("a label and its absence", daemon("a", &masters), daemon("b", &workers), ""),
        (
            "a value and all others",
            daemon("a", "nodeSelector: {pool: edge}, "),
            daemon("b", &affinity("{key: pool, operator: NotIn, values: [edge]}")),
            "",
        ),
        (
            "an old and a new name",
            daemon("a", "nodeSelector: {beta.kubernetes.io/arch: amd64}, "),
            daemon("b", "nodeSelector: {kubernetes.io/arch: arm64}, "),
            "",
        ),
        (
            "Linux by affinity and by selector",
            daemon("a", &affinity("{key: kubernetes.io/os, operator: In, values: [linux]}")),
            recreated("b", 1, "nodeSelector: {kubernetes.io/os: linux}, "),
            "error conflict",
        ),
        (
            "one nodeName",
            single_pod("demo", "a", "nodeName: node-1, "),
            single_pod("demo", "b", "nodeName: node-1, "),
            "error conflict",
        ),
        ("one host name", recreated("a", 1, one_host), recreated("b", 1, one_host), "error conflict"),
        ("two single pods", recreated("a", 1, ""), recreated("b", 1, ""), "note conflict"),
        ("two Pods", single_pod("demo", "a", ""), single_pod("demo", "b", ""), "note conflict"),
        (
            "two Pods that may be static",
            single_pod("kube-system", "a", ""),
            single_pod("kube-system", "b", ""),
            "warning conflict",
        ),
    ] {
        let expected: Vec<String> = Some(expected)
            .filter(|text| !text.is_empty())
            .map(|text| format!("1.yaml:1: {text}"))
            .into_iter()
            .collect();
        assert_eq!(found(&[&one, &other], Some(3)), expected, "{name}");
    }
}

#[test]
fn declared_wildcard_keeps_ipv6_away() {
    let port =
        |ip: &str| format!("containers: [{{name: c, ports: [{{containerPort: 80, hostPort: 80, hostIP: '{ip}'}}]}}]");
    let [four, six, single] = [("f", "0.0.0.0"), ("s", "::1"), ("t", "10.0.0.1")]
        .map(|(name, ip)| workload("DaemonSet", name, "", "", &port(ip)));
    assert_eq!(found(&[&four, &six], Some(3)), ["1.yaml:1: error conflict"]);
    assert_eq!(found(&[&six, &single], Some(3)), [""; 0]);
}

#[test]
fn suspended_jobs_have_no_pods() {
    let pod = host("{containerPort: 80}");
    let job = |suspend: bool| workload("Job", "j", &format!("suspend: {suspend}, parallelism: 9,"), "", &pod);
    let cron = |outer: bool, inner: bool| {
        format!(
            "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: c}}, spec: {{suspend: {outer}, jobTemplate: {{spec: \
             {{suspend: {inner}, template: {{spec: {{{pod}}}}}}}}}}}}}"
        )
    };
    assert_eq!(found(&[&job(true), &cron(true, false)], Some(3)), [""; 0]);
    assert_eq!(found(&[&job(true), &cron(false, true)], Some(3)), [""; 0]);
    assert_eq!(found(&[&job(true), &cron(false, false)], Some(3)), [""; 0]);
    assert_eq!(found(&[&job(false), &cron(true, false)], Some(3)), ["0.yaml:1: error replicas"]);
}

/// Pods that keep apart by themselves stay Pending, whatever the scheduler knows of their ports.
#[test]
fn anti_affinity_leaves_pods_pending() {
    let rule = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: \
                kubernetes.io/hostname, labelSelector: {matchLabels: {app: x}}}]}}, ";
    let object = |pod: &str| {
        let annotated = workload("StatefulSet", "s", "replicas: 4,", "port-enforcer.io/ports: '80'", pod);
        annotated.replace("metadata: {annotations", "metadata: {labels: {app: x}, annotations")
    };
    let messages = |pod: &str| {
        let settings = crate::check::CheckSettings { nodes: Some(3), ..Default::default() };
        let outcome = crate::check::check(&super::manifests(&[&object(pod)]), &settings);
        outcome.findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("; ")
    };
    let pod = "hostNetwork: true, containers: []";
    assert!(messages(&format!("{rule}{pod}")).ends_with("the others stay Pending"));
    assert!(messages(pod).contains("are placed all the same"));
}
