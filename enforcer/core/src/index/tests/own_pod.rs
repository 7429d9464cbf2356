//! Ports of the node that the agent's own pod declares for the scheduler.

use super::*;
use crate::model::port_spec::{PortRange, PortSpec};

const AGENT: &str = "port-enforcer";

fn settings() -> Settings {
    Settings {
        node_reserved: annotation::parse_list("22/tcp, 10250-10256/tcp, 127.0.0.1:9099/tcp").unwrap(),
        own_pod: Some((AGENT.to_owned(), "agent-a".to_owned())),
        ..Settings::default()
    }
}

/// A pod that declares these ports.
fn declaring(number: u32, name: &str, ports: &str) -> Pod {
    let declared = annotation::parse_list(ports).unwrap().into_iter().map(|spec| DeclaredPort {
        host_port: spec.ports.first(),
        host_ip: spec.address,
        protocol: spec.protocol,
        container: "enforcer".to_owned(),
    });
    Pod { ports: declared.collect(), ports_annotation: None, namespace: AGENT.to_owned(), ..pod(number, name, "") }
}

/// Each claim as `port owner source`.
fn claims(rig: &Rig) -> Vec<String> {
    let show = |claim: ClaimView| {
        let owner = rig.index.owner(claim.owner).unwrap();
        let name = if owner.kind == OwnerKind::Node { "node" } else { &*owner.name.name };
        let spec = PortSpec {
            protocol: claim.protocol,
            address: claim.address,
            ports: PortRange::single(claim.port).unwrap(),
        };
        format!("{spec} {name} {} {}", claim.source, claim.stand.as_str())
    };
    let mut claims: Vec<_> =
        rig.index.claims().filter(|claim| !(10251..=10256).contains(&claim.port)).map(show).collect();
    claims.sort_unstable();
    claims
}

const NODE: [&str; 3] = [
    "10250/tcp node node-reserved inForce",
    "127.0.0.1:9099/tcp node node-reserved inForce",
    "22/tcp node node-reserved inForce",
];

#[test]
fn declared_node_ports_of_own_pod_are_the_nodes() {
    let mut rig = Rig::new(settings());
    rig.apply(declaring(1, "agent-a", "22/tcp, 10250/tcp, 127.0.0.1:9099/tcp, 127.0.0.1:9489/tcp"));
    assert_eq!(claims(&rig), [NODE[0], NODE[1], "127.0.0.1:9489/tcp agent-a hostPort inForce", NODE[2]]);
    assert!(rig.told().is_empty(), "the agent's pod has lost nothing");
    let flags = rig.maps.owners[&rig.maps.ports[&(Protocol::Tcp, 22)].v4().first].flags();
    assert_eq!(flags, OWNER_NODE);
    let now = rig.now();
    rig.index.delete(AGENT, "agent-a", now);
    rig.flush();
    assert_eq!(claims(&rig), NODE, "what the node reserves does not go with the agent's pod");
    assert!(rig.told().is_empty());
}

/// The agent that comes next finds the same, and loses no claim either.
#[test]
fn declared_node_ports_of_own_pod_survive_restart() {
    let mut rig = Rig::new(settings());
    rig.apply(declaring(1, "agent-a", "22/tcp, 127.0.0.1:9489/tcp"));
    let mut next = rig.restart(1, settings());
    next.reset(vec![declaring(1, "agent-a", "22/tcp, 127.0.0.1:9489/tcp")]);
    assert_eq!(claims(&next), [NODE[0], NODE[1], "127.0.0.1:9489/tcp agent-a hostPort inForce", NODE[2]]);
    assert!(next.told().is_empty());
}

#[test]
fn other_pods_do_not_get_node_ports_by_declaring_them() {
    let lost = |rig: &mut Rig| rig.told().iter().filter(|line| line.contains("node-reserved")).count();
    // Of the same namespace, of the same name elsewhere, and where the agent runs in no pod.
    for (own, namespace, name) in
        [(settings().own_pod, AGENT, "agent-b"), (settings().own_pod, "default", "agent-a"), (None, AGENT, "agent-a")]
    {
        let mut rig = Rig::new(Settings { own_pod: own, ..settings() });
        rig.apply(Pod { namespace: namespace.to_owned(), ..declaring(1, name, "22/tcp") });
        assert_eq!(lost(&mut rig), 1, "{namespace}/{name}");
    }
}

#[test]
fn own_pod_claims_what_node_does_not_reserve() {
    // Another protocol, an address wider than the node's, and an item of the annotation, which no scheduler counts.
    for (ports, annotation) in [("22/udp", None), ("9099/tcp", None), ("9100/tcp", None), ("9100/tcp", Some("22"))] {
        let mut rig = Rig::new(settings());
        let own = declaring(1, "agent-a", ports);
        rig.apply(Pod { ports_annotation: annotation.map(str::to_owned), ..own });
        let own = claims(&rig).iter().filter(|claim| claim.contains("agent-a")).count();
        assert_eq!(own, 1 + usize::from(annotation.is_some()), "{ports} {annotation:?}");
    }
}
