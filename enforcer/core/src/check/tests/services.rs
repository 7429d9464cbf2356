//! Services as users of ports, by tables: among themselves, against pods, and where their connections arrive.

use super::{codes, host, manifests, workload};
use crate::check::{
    CheckSettings, ManifestSet, check,
    existing::read_objects,
    finding::{Code, Finding},
    reserved::KubernetesPorts,
};
use crate::{model::free_ports::AllocatedRanges, pods::claims::ClaimLimits};

fn service(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

fn node_port(name: &str, port: u16) -> String {
    service(name, &format!("type: NodePort, ports: [{{port: 80, nodePort: {port}}}]"))
}

fn daemon_set(name: &str, port: &str) -> String {
    workload("DaemonSet", name, "", "", &host(port))
}

/// A `DaemonSet` whose pods have the label `app`.
fn labelled(name: &str, app: &str, pod: &str) -> String {
    let spec = format!("template: {{metadata: {{labels: {{app: {app}}}}}, spec: {{{pod}}}}}");
    format!("{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

/// Findings on Services, without what is said of ranges alone.
fn found(documents: &[&str], settings: &CheckSettings) -> Vec<Finding> {
    let set = manifests(documents);
    assert!(set.unreadable.is_empty(), "{:?}", set.unreadable);
    check(&set, settings).findings.into_iter().filter(|finding| finding.code != Code::UnknownPorts).collect()
}

fn short(findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| format!("{} {} {}", finding.place, finding.severity.as_str(), finding.code.as_str());
    findings.iter().map(line).collect()
}

fn on_k3s() -> CheckSettings {
    CheckSettings { service_lb: true, ..CheckSettings::default() }
}

#[test]
fn node_port_shadows_listeners_and_host_ports() {
    let shop = node_port("shop", 30_021);
    let annotated = |ports: &str| {
        let annotations = format!("port-enforcer.io/ports: '{ports}'");
        workload("DaemonSet", "x", "", &annotations, "hostNetwork: true, containers: []")
    };
    let probed = "hostNetwork: true, containers: [{name: c, readinessProbe: {tcpSocket: {port: 30021}}}]";
    let forwarded = "containers: [{name: c, ports: [{containerPort: 80, hostPort: 30021}]}]";
    let none = workload("Deployment", "x", "replicas: 0,", "", &host("{containerPort: 30021}"));
    for (object, expected) in [
        (daemon_set("x", "{containerPort: 30021}"), &["1.yaml:1 warning shadowed"][..]),
        (annotated("192.0.2.1:30021"), &["1.yaml:1 warning shadowed"]),
        (annotated("[::]:30000-30050"), &["1.yaml:1 warning shadowed"]),
        (workload("DaemonSet", "x", "", "", probed), &["1.yaml:1 warning shadowed"]),
        (workload("DaemonSet", "x", "", "", forwarded), &["1.yaml:1 warning shadowed"]),
        // Another port or protocol, the loopback alone, and no pods.
        (daemon_set("x", "{containerPort: 8021}"), &[]),
        (annotated("30021/udp"), &["1.yaml:1 warning node_port_range"]),
        (annotated("127.0.0.1:30021 [::1]:30021"), &[]),
        (none, &[]),
    ] {
        let findings = found(&[&shop, &object], &CheckSettings::default());
        assert_eq!(short(&findings), expected, "{object}");
    }
    let [finding] =
        found(&[&shop, &daemon_set("x", "{containerPort: 30021}")], &CheckSettings::default()).try_into().expect("one");
    assert_eq!(
        finding.message,
        "DaemonSet default/x claims 30021/tcp (hostPort), which is a nodePort of Service default/shop (0.yaml:1): \
         30021/tcp is forwarded on every node without a socket, and so the listener gets no packet, in silence"
    );
    let other = finding.other.expect("the Service");
    assert_eq!((&*other.kind, other.name.as_str(), finding.ports), ("Service", "shop", vec!["30021/tcp".to_owned()]));
}

#[test]
fn node_port_of_the_pods_own_service_is_a_note() {
    let own = service("web", "type: NodePort, selector: {app: web}, ports: [{port: 30021, nodePort: 30021}]");
    let pods = labelled("web", "web", &host("{containerPort: 30021}"));
    assert_eq!(short(&found(&[&own, &pods], &CheckSettings::default())), ["1.yaml:1 note shadowed"]);
}

#[test]
fn health_check_node_port_and_external_addresses_take_ports_too() {
    let health = service("lb", "type: LoadBalancer, healthCheckNodePort: 31000, ports: [{port: 80}]");
    let listener = daemon_set("x", "{containerPort: 31000}");
    let findings = found(&[&health, &listener], &CheckSettings::default());
    assert_eq!(short(&findings), ["1.yaml:1 warning shadowed"]);
    assert!(findings[0].message.ends_with("kube-proxy listens on 31000/tcp on every node"), "{findings:?}");

    let external = service("in", "externalIPs: [192.0.2.7], ports: [{port: 80}]");
    for (port, expected) in [
        ("{containerPort: 80}", &["1.yaml:1 warning shadowed"][..]),
        ("{containerPort: 80, hostIP: 192.0.2.7}", &["1.yaml:1 warning shadowed"]),
        ("{containerPort: 80, hostIP: 192.0.2.8}", &[]),
        ("{containerPort: 80, hostIP: '2001:db8::1'}", &[]),
        ("{containerPort: 80, protocol: UDP}", &[]),
        ("{containerPort: 81}", &[]),
    ] {
        let findings = found(&[&external, &daemon_set("x", port)], &CheckSettings::default());
        assert_eq!(short(&findings), expected, "{port}");
    }
}

#[test]
fn node_port_is_for_one_service_only() {
    let both = service(
        "dns",
        "type: NodePort, ports: [{port: 53, nodePort: 30053}, {port: 53, protocol: UDP, nodePort: 30053}]",
    );
    let twice = service("web", "type: NodePort, ports: [{port: 80, nodePort: 30080}, {port: 81, nodePort: 30080}]");
    let udp = service("log", "type: NodePort, ports: [{port: 514, protocol: UDP, nodePort: 30021}]");
    let health = service("lb", "type: LoadBalancer, healthCheckNodePort: 30021, ports: [{port: 80}]");
    let none = service("c", "type: NodePort, ports: [{port: 80}]");
    let forbidden = service("c", "type: ClusterIP, ports: [{port: 80, nodePort: 30021}]");
    let shop = node_port("shop", 30_021);
    for (documents, expected) in [
        (&[&shop, &node_port("other", 30_021)][..], &["1.yaml:1 error node_port"][..]),
        (&[&shop, &node_port("other", 30_022)], &[]),
        // The API server counts numbers, whatever the protocol; within one Service, protocols may share a number.
        (&[&shop, &udp], &["1.yaml:1 error node_port"]),
        (&[&both], &[]),
        (&[&twice], &["0.yaml:1 error node_port"]),
        (&[&shop, &health], &["1.yaml:1 error node_port"]),
        // It gets one from the API server, or has none.
        (&[&none, &shop], &[]),
        (&[&forbidden, &shop], &[]),
        (&[&shop, &shop], &["1.yaml:1 note duplicate"]),
    ] {
        let documents: Vec<&str> = documents.iter().map(|text| text.as_str()).collect();
        assert_eq!(short(&found(&documents, &CheckSettings::default())), expected, "{documents:?}");
    }
    let findings = found(&[&shop, &node_port("other", 30_021)], &CheckSettings::default());
    assert_eq!(findings[0].remedy, "give one of them another node port, or none: the API server then finds a free one");
}

#[test]
fn node_port_on_a_port_of_the_node_is_found() {
    let apiserver = node_port("front", 6443);
    let preset = |kubernetes_ports| CheckSettings { kubernetes_ports, ..CheckSettings::default() };
    for (settings, expected) in [
        (preset(KubernetesPorts::Assumed), "0.yaml:1 warning reserved"),
        (preset(KubernetesPorts::Reserved), "0.yaml:1 error reserved"),
        // Nothing is known of the node, but the range is.
        (preset(KubernetesPorts::Ignored), "0.yaml:1 warning node_port_range"),
        (
            CheckSettings {
                node_reserved: crate::pods::annotation::parse_list("6443").expect("a list"),
                ..CheckSettings::default()
            },
            "0.yaml:1 error reserved",
        ),
    ] {
        assert_eq!(short(&found(&[&apiserver], &settings)), [expected]);
    }
    let findings = found(&[&apiserver], &preset(KubernetesPorts::Assumed));
    assert_eq!(
        findings[0].message,
        "Service default/front takes 6443/tcp on every node (nodePort), and 6443/tcp is a port of kube-apiserver, on \
         nodes of the control plane: packets for it go to the Service"
    );
    let no_range =
        CheckSettings { allocated: AllocatedRanges { node_ports: None, ephemeral: None }, ..CheckSettings::default() };
    assert_eq!(short(&found(&[&apiserver], &no_range)), [""; 0]);
}

#[test]
fn load_balancer_of_k3s_takes_host_ports() {
    let shop = service("shop", "type: LoadBalancer, ports: [{port: 443}]");
    let other = service("other", "type: LoadBalancer, ports: [{port: 443}, {port: 444}]");
    let udp = service("quic", "type: LoadBalancer, ports: [{port: 443, protocol: UDP}]");
    let ingress = daemon_set("ingress", "{containerPort: 443}");
    let probed = "hostNetwork: true, containers: [{name: c, readinessProbe: {tcpSocket: {port: 443}}}]";
    let probed = workload("DaemonSet", "x", "", "", probed);
    for (documents, expected) in [
        (&[&shop, &ingress][..], &["1.yaml:1 error conflict"][..]),
        (&[&shop, &probed], &["1.yaml:1 warning shadowed"]),
        (&[&shop, &other], &["1.yaml:1 error conflict"]),
        (&[&shop, &udp], &[]),
    ] {
        let documents: Vec<&str> = documents.iter().map(|text| text.as_str()).collect();
        assert_eq!(short(&found(&documents, &on_k3s())), expected, "{documents:?}");
        assert_eq!(short(&found(&documents, &CheckSettings::default())), [""; 0], "elsewhere: {documents:?}");
    }
}

/// New manifests against objects of a cluster.
fn against(new: &[&str], existing: &[&str], settings: &CheckSettings) -> Vec<String> {
    let json = existing.iter().map(|text| {
        let value: serde_json::Value = serde_saphyr::from_str(text).expect("a manifest");
        value.to_string()
    });
    let mut set: ManifestSet = manifests(new);
    set.add_existing(read_objects(json.collect::<Vec<_>>(), "cluster", &ClaimLimits::UNLIMITED));
    codes(&check(&set, settings))
}

#[test]
fn only_what_is_new_is_found() {
    let (shop, other) = (node_port("shop", 30_021), node_port("other", 30_021));
    let listener = daemon_set("x", "{containerPort: 30021}");
    let usual = CheckSettings::default();
    assert_eq!(against(&[], &[&shop, &other, &listener], &usual), [""; 0], "what is there is not judged");
    assert_eq!(against(&[&other], &[&shop], &usual), ["0.yaml:1: error node_port"]);
    assert_eq!(against(&[&shop], &[&shop], &usual), [""; 0], "an upgrade of itself");
    assert_eq!(against(&[&listener], &[&shop], &usual), ["0.yaml:1: warning shadowed"]);
    assert_eq!(against(&[&shop], &[&listener], &usual), ["0.yaml:1: warning shadowed"], "at the new Service");
}

#[test]
fn load_balancer_of_k3s_does_not_conflict_with_its_own_daemon_set() {
    let shop = service("shop", "type: LoadBalancer, ports: [{port: 443}]");
    let own = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: svclb-shop-1a2b3c4d, namespace: kube-system}, spec: \
               {template: {spec: {containers: [{name: c, ports: [{containerPort: 443, hostPort: 443}]}]}}}}";
    assert_eq!(against(&[&shop], &[&shop, own], &on_k3s()), [""; 0]);
    let ingress = daemon_set("ingress", "{containerPort: 443}");
    // The DaemonSet stands for the Service: one finding.
    assert_eq!(against(&[&ingress], &[&shop, own], &on_k3s()).len(), 1);
    assert_eq!(against(&[&ingress], &[&shop], &on_k3s()), ["0.yaml:1: error conflict"]);
}

#[test]
fn target_port_that_no_pod_has_is_found() {
    let web = |spec: &str| service("web", &format!("selector: {{app: web}}, {spec}"));
    let declared = host("{containerPort: 8080, name: http}");
    let probed = "hostNetwork: true, containers: [{name: c, readinessProbe: {tcpSocket: {port: 8080}}}]";
    let silent = "hostNetwork: true, containers: [{name: c}]";
    let loopback = host("{containerPort: 8080, hostIP: 127.0.0.1}");
    let own_network = "containers: [{name: c, ports: [{containerPort: 8080}]}]";
    for (spec, pod, expected) in [
        ("ports: [{port: 80, targetPort: 8080}]", declared.as_str(), &[][..]),
        ("ports: [{port: 8080}]", &declared, &[]),
        ("ports: [{port: 8080, targetPort: 0}]", &declared, &[]),
        ("ports: [{port: 80}]", &declared, &["0.yaml:1 note endpoint"]),
        ("ports: [{port: 8080, protocol: UDP}]", &declared, &["0.yaml:1 note endpoint"]),
        ("ports: [{port: 8080}]", probed, &[]),
        ("ports: [{port: 8080}]", silent, &["0.yaml:1 note endpoint"]),
        ("ports: [{port: 8080}]", &loopback, &["0.yaml:1 warning endpoint"]),
        ("ports: [{port: 80, targetPort: http}]", &declared, &[]),
        ("ports: [{port: 80, targetPort: web}]", &declared, &["0.yaml:1 warning endpoint"]),
        ("ports: [{port: 80, targetPort: http, protocol: UDP}]", &declared, &["0.yaml:1 warning endpoint"]),
        // Clients choose the port, or nobody is selected on the host network.
        ("clusterIP: None, ports: [{port: 80}]", &declared, &[]),
        ("type: ExternalName, externalName: example.com, ports: [{port: 80}]", &declared, &[]),
        ("ports: [{port: 80}]", own_network, &[]),
    ] {
        let findings = found(&[&web(spec), &labelled("web", "web", pod)], &CheckSettings::default());
        assert_eq!(short(&findings), expected, "{spec} with {pod}");
    }
    let unselected = [
        service("web", "ports: [{port: 80}]"),
        service("web", "selector: {app: other}, ports: [{port: 80}]"),
        web("ports: [{port: 80}]").replace("name: web}, spec", "name: web, namespace: other}, spec"),
    ];
    for service in &unselected {
        let pods = labelled("web", "web", &declared);
        assert_eq!(short(&found(&[service, &pods], &CheckSettings::default())), [""; 0], "{service}");
    }
}

#[test]
fn two_endpoints_of_one_address_are_found() {
    let web = service("web", "selector: {app: web}, ports: [{port: 8080}]");
    let linux = "nodeSelector: {kubernetes.io/os: linux}";
    let listener = labelled("listener", "web", &format!("{linux}, {}", host("{containerPort: 8080}")));
    let windows = format!("nodeSelector: {{kubernetes.io/os: windows}}, {}", host("{containerPort: 9090}"));
    for (other, expected) in [
        (labelled("other", "web", &host("{containerPort: 9090}")), &["0.yaml:1 warning endpoint"][..]),
        // The conflict says it already.
        (labelled("other", "web", &host("{containerPort: 8080}")), &["2.yaml:1 error conflict"]),
        // Nobody knows that it does not listen there, or they never meet.
        (labelled("other", "web", "hostNetwork: true, containers: [{name: c}]"), &[]),
        (labelled("other", "web", &windows), &[]),
        (labelled("other", "else", &host("{containerPort: 9090}")), &[]),
        (
            labelled("other", "web", &format!("{linux}, {}", host("{containerPort: 9090}"))),
            &["0.yaml:1 warning endpoint"],
        ),
    ] {
        let findings = found(&[&web, &listener, &other], &CheckSettings::default());
        assert_eq!(short(&findings), expected, "{other}");
    }
}

#[test]
fn replicas_that_share_a_port_are_one_endpoint() {
    let web = service("web", "selector: {app: web}, ports: [{port: 8080}]");
    let shared = |replicas: u32| {
        format!(
            "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: x}}, spec: {{replicas: {replicas}, template: \
             {{metadata: {{labels: {{app: web}}, annotations: {{port-enforcer.io/ports: '8080', port-enforcer.io/share: \
             web}}}}, spec: {{hostNetwork: true, containers: []}}}}}}}}"
        )
    };
    assert_eq!(short(&found(&[&web, &shared(2)], &CheckSettings::default())), ["0.yaml:1 note endpoint"]);
    assert_eq!(short(&found(&[&web, &shared(1)], &CheckSettings::default())), [""; 0]);
}

#[test]
fn service_that_cannot_be_read_is_reported_with_its_line() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    \
                nodePort: '30021'\n";
    let set = manifests(&[text, "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {selector: {app: 7}}}"]);
    let unreadable: Vec<_> = set.unreadable.iter().map(|part| format!("{} {}", part.place, part.message)).collect();
    assert_eq!(
        unreadable,
        [
            "0.yaml:8 is not a valid Service: spec.ports[0].nodePort is the text \"30021\"; leave out the quotes",
            "1.yaml:1 is not a valid Service: spec.selector.app is 7; put it in quotes",
        ]
    );
}
