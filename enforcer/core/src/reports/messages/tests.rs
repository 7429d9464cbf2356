use std::net::Ipv4Addr;

use enforcer_ebpf::wire::Protocol;

use super::*;
use crate::model::owner::OwnerId;
use crate::model::{
    actor::Actor,
    attempt::Attempt,
    kernel_ids::{BootNanos, CgroupId, SocketCookie},
    port_spec::{Address, PortRange},
};

fn name(name: &str) -> Name {
    Name {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: "u".to_owned(),
        mirror: None,
        handover: None,
        service: false,
    }
}

pub(crate) fn report(reason: Reason, verdict: VerdictKind) -> Report {
    Report {
        attempt: Attempt {
            time: BootNanos::default(),
            protocol: Protocol::Tcp,
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 80,
            v6only: Some(false),
            verdict,
            reason,
            cgroup: CgroupId::new(1),
            pod_cgroup: Some(CgroupId::new(1)),
            socket: SocketCookie::new(1),
            caller: OwnerId::new(1),
            owner: OwnerId::new(2),
            holder: None,
            held: false,
            reuse: None,
            pid: 4711,
            uid: 0,
            command: "nginx".to_owned(),
        },
        caller: Actor::Known(name("nginx-6fdf99c8b-rglm7")),
        container: Some("nginx".to_owned()),
        owner: Some(name("nginx-6fdf99c8b-6wwft")),
        source: Some(ClaimSource::Annotation),
        holder: None,
    }
}

#[test]
fn sentence_names_both_pods() {
    assert_eq!(
        report(Reason::Claimed, VerdictKind::Deny).sentence("node-1", Audience::Tenants),
        "bind 0.0.0.0:80/tcp by default/nginx-6fdf99c8b-rglm7 (container nginx, command nginx, pid 4711) denied \
         on node-1: claimed by default/nginx-6fdf99c8b-6wwft (annotation)"
    );
}

#[test]
fn text_that_a_pod_controls_is_escaped() {
    let mut report = report(Reason::Claimed, VerdictKind::Audit);
    report.attempt.command = "\u{1b}[31mx\n".to_owned();
    report.caller = Actor::Known(name("a\u{1b}b"));
    report.owner = Some(name("c\nd"));
    let sentence = report.sentence("node\u{7}", Audience::Operators);
    assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
    assert!(sentence.contains("audited"), "{sentence}");
}

#[test]
fn long_port_lists_are_cut() {
    let ports =
        (1..=20).map(|port| (Protocol::Tcp, Address::Any, PortRange::new(port * 2, port * 2).unwrap())).collect();
    let text = port_list(&ports, 2);
    assert_eq!(text, "2/tcp, 4/tcp and 18 more");
}
