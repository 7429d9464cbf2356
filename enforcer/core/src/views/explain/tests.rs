//! The paragraph, word for word, and what it is made of.

use std::time::Duration;

use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{NodeMode, Undeclared},
};

use super::*;
use crate::{
    model::{
        attempt::{Attempt, Reuse},
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        namespace_label::NamespaceLabel,
        now::Now,
    },
    pods::{
        pod::{Pod, Workload},
        probes::{ProbeTarget, Probes},
    },
    reports::{
        failing_binds::FailingBinds,
        report::{Incumbent, Report},
    },
    sockets::{Activity, AnswerInputs, AnsweredPorts, DumpedSocket, NamedSocket, Scope, SocketPlace},
    tests::node::{NOW, Node},
};

/// Questions of `enforcer explain` on a node.
trait Ask {
    fn ask(&self, port: u16, pod: Option<(&str, &str)>) -> Explanation;
    fn message(&self, port: u16, pod: Option<(&str, &str)>) -> String;
}

impl Ask for Node {
    fn ask(&self, port: u16, pod: Option<(&str, &str)>) -> Explanation {
        explain(&ExplainQuestion { protocol: Protocol::Tcp, port, pod }, &self.scene()).unwrap()
    }

    fn message(&self, port: u16, pod: Option<(&str, &str)>) -> String {
        self.ask(port, pod).message
    }
}

const WEB: Option<(&str, &str)> = Some(("default", "web-1"));

#[test]
fn who_owns_and_holds_it_and_what_would_happen() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "80", |_| ());
    node.pod(11, "default/web-1", "80", |_| ());
    node.bound(10, "0.0.0.0", 80, "nginx", Some(Reuse::default()));
    assert_eq!(
        node.message(80, WEB),
        "80/tcp on node-1 is owned by default/web-0 (annotation). It is claimed in vain too: default/web-1 (annotation) \
         lost to default/web-0. It is held by default/web-0 (command nginx, pid 4711) on 0.0.0.0 since \
         2023-11-14T22:05:00Z. If default/web-1 binds 0.0.0.0:80 or [::]:80 now, that is denied: claimed by \
         default/web-0 (annotation); this node is in enforce mode. Apart from that, the kernel itself refuses it with \
         EADDRINUSE while default/web-0 holds the port."
    );
    let told = node.ask(80, WEB);
    assert_eq!(told.claims.iter().map(|claim| claim.standing.as_str()).collect::<Vec<_>>(), ["inForce", "lost"]);
    for bind in &told.binds {
        assert_eq!((&*bind.verdict, &*bind.reason, &*bind.kernel), ("deny", "claimed", "inUse"));
    }
    assert_eq!(told.free_ports, [81, 79]);
    let remedy = told.remedy.unwrap();
    assert!(remedy.contains("another port") && remedy.ends_with("; free near 80/tcp: 81, 79"), "{remedy}");
    let stranger = node.message(80, None);
    assert!(stranger.contains("If any other pod binds 0.0.0.0:80 or [::]:80 now, that is denied"), "{stranger}");
    let owner = node.message(80, Some(("default", "web-0")));
    assert!(owner.contains("that is allowed: it owns the port. But the kernel itself refuses it"), "{owner}");
    assert!(owner.contains("while default/web-0 itself holds the port"), "{owner}");
}

#[test]
fn answered_port_names_the_pod_and_who_answers() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "9100", |pod| {
        let address = "10.0.0.5".parse().unwrap();
        let targets = [ProbeTarget { port: 8000, address, is_local: true }];
        let address = Some(address);
        pod.probes = Some(Box::new(Probes { is_ready: true, address, period: 10, targets: targets.into() }));
    });
    node.pod(11, "default/web-1", "", |_| ());
    node.dump(&[(11, "0.0.0.0", 8000, Activity::Listening), (11, "0.0.0.0", 9100, Activity::Listening)]);
    let mut answered = AnsweredPorts::default();
    answered
        .refresh(&AnswerInputs { sockets: &node.holders, index: &node.index, shared: &[], is_own: &|_| false }, NOW);
    let ask = |answered: &AnsweredPorts, port: u16| {
        let question = ExplainQuestion { protocol: Protocol::Tcp, port, pod: None };
        explain(&question, &NodeSnapshot { answered: Some(answered), ..node.scene() }).unwrap().message
    };
    assert!(!ask(&answered, 8000).contains("Ready"), "it has not held for long enough");
    answered.take_settled(NOW.boottime + Duration::from_secs(9));
    let probed = "The probe of default/web-0 on 10.0.0.5:8000/tcp is answered by default/web-1, and the pod is Ready all the same.";
    assert!(ask(&answered, 8000).contains(probed), "{}", ask(&answered, 8000));
    let declared = "default/web-0 declares 9100/tcp and is Ready, but default/web-1 answers there.";
    assert!(ask(&answered, 9100).contains(declared), "{}", ask(&answered, 9100));
    assert!(!ask(&answered, 9101).contains("Ready"));
    let rows = super::super::status::conflicts(&NodeSnapshot { answered: Some(&answered), ..node.scene() }, None, &[]);
    let kinds: Vec<(&str, &str)> = rows.iter().map(|row| (row.kind.as_str(), row.ports.as_str())).collect();
    let both =
        [("answeredByOther", "10.0.0.5:8000/tcp"), ("answeredByOther", "9100/tcp"), ("notOwner", "0.0.0.0:9100/tcp")];
    assert_eq!(kinds, both);
}

#[test]
fn nobody_owns_or_holds_it() {
    let mut node = Node::new();
    let told = node.ask(81, None);
    assert_eq!(
        told.message,
        "Nobody owns 81/tcp on node-1. Nobody holds it. If any pod on the host network binds 0.0.0.0:81 or [::]:81 now, \
         that is allowed: nobody claims the port."
    );
    assert_eq!(told.remedy, None);
    node.policy.undeclared = Undeclared::Deny;
    let told = node.ask(81, None);
    assert_eq!(told.binds[0].reason, "undeclared");
    assert!(told.remedy.unwrap().starts_with("declare it: add 81/tcp"));
}

#[test]
fn what_becomes_of_a_socket_that_could_share() {
    let mut node = Node::new();
    node.policy.undeclared = Undeclared::Adopt;
    node.pod(10, "default/web-0", "", |_| ());
    node.pod(11, "default/web-1", "", |_| ());
    node.bound(10, "0.0.0.0", 80, "nginx", Some(Reuse { port: true, address: false }));
    let told = node.ask(80, WEB);
    let told = told.binds[0].if_shared.as_ref().expect("it is denied");
    assert_eq!((&*told.verdict, &*told.reason, told.holder.to_string()), ("deny", "held", "default/web-0".to_owned()));
    let message = node.message(80, WEB);
    assert!(
        message.ends_with(
            "a bind that could share it is denied all the same: whoever binds an undeclared port first owns it."
        ),
        "{message}"
    );
    assert_eq!(node.ask(80, Some(("default", "web-0"))).binds[0].if_shared, None, "its own");
    node.policy.enforce = false;
    assert_eq!(node.ask(80, WEB).binds[0].if_shared.as_ref().expect("it is told").verdict, "audit");
    node.policy.undeclared = Undeclared::Allow;
    assert_eq!(node.ask(80, WEB).binds[0].if_shared, None);
    // For one that does not share, the kernel has the only word.
    node.policy.undeclared = Undeclared::Adopt;
    node.bound(10, "0.0.0.0", 81, "nginx", Some(Reuse::default()));
    assert_eq!(node.ask(81, WEB).binds[0].if_shared, None);
}

#[test]
fn the_mode_says_why_nothing_is_denied() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "80", |_| ());
    node.pod(11, "default/web-1", "80", |_| ());
    node.pod(12, "kube-system/dns", "", |_| ());
    let system = Some(("kube-system", "dns"));
    let ends = |text: String, end: &str| assert!(text.contains(&format!("; {end}.")), "{text}");
    ends(node.message(80, system), "it is node software, which is never denied");
    node.index.set_namespace_label(NamespaceLabel::Mode, "default", Some("audit"));
    ends(node.message(80, WEB), "its namespace is in audit mode");
    node.index.set_namespace_label(NamespaceLabel::Mode, "default", Some("enforce"));
    ends(node.message(80, WEB), "its namespace is in enforce mode");
    node.index.set_namespace_label(NamespaceLabel::Mode, "default", None);
    node.overrule.stale = true;
    ends(node.message(80, WEB), "nothing is denied until one does");
    assert_eq!(node.ask(80, WEB).mode, "audit");
    ends(node.message(80, system), "it is node software, which is never denied");
    node.overrule = ModeOverride { local: NodeMode::Audit, stale: false };
    ends(node.message(80, WEB), "an operator set this node to audit");
    node.overrule = ModeOverride::default();
    node.policy.enforce = false;
    ends(node.message(80, WEB), "this node is in audit mode");
    ends(node.message(80, system), "this node is in audit mode");
    node.overrule.local = NodeMode::Enforce;
    ends(node.message(80, WEB), "an operator set this node to enforce");
}

#[test]
fn a_pod_with_a_network_of_its_own_is_not_judged() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "80", |_| ());
    node.pod(11, "default/own", "", |pod| pod.host_network = false);
    let told = node.ask(80, Some(("default", "own")));
    assert_eq!((told.binds, told.remedy), (vec![], None));
    assert!(told.message.contains("default/own has a network of its own, so it never binds"), "{}", told.message);
    let sctp = explain(&ExplainQuestion { protocol: Protocol::Sctp, port: 80, pod: None }, &node.scene()).unwrap();
    assert!(sctp.binds.is_empty() && sctp.message.contains("No bind of SCTP is judged"), "{}", sctp.message);
    let unknown = ExplainQuestion { protocol: Protocol::Tcp, port: 80, pod: Some(("default", "wab\u{1b}")) };
    assert_eq!(
        explain(&unknown, &node.scene()).unwrap_err().to_string(),
        r"no pod default/wab\u{1b} is known on node-1; write --pod NAMESPACE/NAME, as `kubectl get pods -A` shows them"
    );
}

#[test]
fn addresses_are_told_apart() {
    let mut node = Node::new();
    node.pod(10, "default/dns", "169.254.20.10:53/tcp", |_| ());
    node.pod(11, "default/other", "[::1]:53/tcp", |_| ());
    let message = node.message(53, None);
    assert!(
        message.starts_with(
            "53/tcp on node-1 is owned by default/dns on 169.254.20.10 (annotation) and default/other on ::1"
        ),
        "{message}"
    );
    let other = node.message(53, Some(("default", "dns")));
    assert!(other.contains("binds 0.0.0.0:53 now, that is allowed: it owns the port."), "{other}");
    assert!(other.contains("binds [::]:53 now, that is denied: claimed by default/other"), "{other}");
    assert_eq!(node.ask(22, None).binds[0].reason, "reserved");
    assert!(
        node.message(22, None).starts_with("22/tcp on node-1 is owned by the node (node-reserved). Nobody holds it.")
    );
}

#[test]
fn who_may_share_is_said_with_a_condition() {
    let mut node = Node::new();
    node.pod(10, "default/web-0", "", |_| ());
    let says = |node: &Node| node.ask(80, None).binds.iter().map(|bind| bind.kernel.clone()).collect::<Vec<_>>();
    node.bound(10, "127.0.0.1", 80, "nginx", Some(Reuse { port: true, address: false }));
    assert_eq!(says(&node), ["inUseUnlessShared"; 2]);
    assert!(node.message(80, None).contains("unless both sockets set SO_REUSEPORT as one user"));
    node.bound(11, "::1", 80, "nginx", Some(Reuse { port: false, address: true }));
    assert_eq!(says(&node), ["inUseUnlessShared"; 2], "it may not listen yet");
    let seen = DumpedSocket {
        protocol: Protocol::Tcp,
        address: "::1".parse().unwrap(),
        port: 81,
        cookie: SocketCookie::new(9),
        cgroup: Some(CgroupId::new(10)),
        uid: 0,
        inode: Some(1),
        device: None,
        activity: Activity::Listening,
        v6only: Some(true),
    };
    // Without an event nobody knows its options, nor since when.
    node.holders.begin_dump(Protocol::Tcp, BootNanos::new(600_000_000_000));
    node.holders.record_dumped(&seen, |cgroup| SocketPlace::of(cgroup, &node.index));
    node.holders.end_dump(Protocol::Tcp, Scope::Connected);
    let told = node.ask(81, None);
    assert_eq!(told.binds.iter().map(|bind| &*bind.kernel).collect::<Vec<_>>(), ["free", "inUseUnlessShared"]);
    assert!(
        told.message.contains("It is held by default/web-0 on ::1 since before 2023-11-14T22:06:40Z."),
        "{}",
        told.message
    );
    assert_eq!(
        told.remedy.as_deref(),
        Some("end what holds it (default/web-0), or use another port; free near 81/tcp: 82, 83")
    );
}

#[test]
fn siblings_are_in_force_together() {
    let mut node = Node::new();
    let of = |pod: &mut Pod| {
        pod.workload = Some(Workload {
            namespace: "default".to_owned(),
            kind: "DaemonSet".to_owned(),
            name: "web".to_owned(),
            uid: "w".to_owned(),
        });
    };
    node.pod(10, "default/web-0", "80", |pod| {
        of(pod);
        pod.deletion = Some(jiff::Timestamp::UNIX_EPOCH);
    });
    node.pod(11, "default/web-1", "80", of);
    let told = node.ask(80, WEB);
    assert_eq!(told.claims.iter().map(|claim| &*claim.standing).collect::<Vec<_>>(), ["inForce", "inForce"]);
    assert_eq!(told.binds[0].reason, "owner", "{}", told.message);
    assert_eq!(node.ask(80, Some(("default", "web-0"))).binds[0].reason, "sibling");
}

#[test]
fn a_stranger_waits_for_the_end_of_a_handover_grace() {
    let mut node = Node::new();
    let of = |pod: &mut Pod| {
        pod.workload = Some(Workload {
            namespace: "default".to_owned(),
            kind: "ReplicaSet".to_owned(),
            name: "edge".to_owned(),
            uid: String::new(),
        });
    };
    node.pod(10, "default/edge-0", "80, 81", of);
    node.pod(11, "default/web-1", "80, 81", |_| ());
    let owner = node.index.pod_named("default", "edge-0").unwrap();
    node.index.note_bound(owner, Protocol::Tcp, 80);
    node.index.delete("default", "edge-0", NOW);
    let told = node.ask(80, WEB);
    assert!(
        told.message.contains("that is denied: kept for Deployment default/edge until 22:14:20 (handover grace);"),
        "{}",
        told.message
    );
    assert_eq!(
        told.remedy.as_deref(),
        Some("wait for the end of the handover grace, or end it now: enforcer release 80/tcp")
    );
    assert_eq!(told.claims[0].owner.to_string(), "Deployment default/edge until 2023-11-14T22:14:20Z (handover grace)");
    assert_eq!(node.ask(81, WEB).binds[0].reason, "owner", "it never bound that port");
}

#[test]
fn nothing_that_a_pod_controls_is_raw() {
    let mut node = Node::new();
    node.pod(10, "de\u{1b}fault/we\u{202e}b", "80", |_| ());
    node.bound(10, "0.0.0.0", 80, "ng\u{1b}[2Jinx\n", None);
    let told = serde_json::to_string(&node.ask(80, None)).unwrap();
    assert!(!told.contains(['\u{1b}', '\u{202e}']) && !told.contains("\\u001b") && !told.contains("\\n"), "{told}");
}

/// An attempt on port 80 by the pod with this cgroup, which the programs allow.
fn attempt_of(cgroup: u64) -> Attempt {
    Attempt {
        time: BootNanos::new(1),
        protocol: Protocol::Tcp,
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        port: 80,
        v6only: None,
        verdict: VerdictKind::Allow,
        reason: Reason::Unclaimed,
        cgroup: CgroupId::new(cgroup),
        pod_cgroup: Some(CgroupId::new(cgroup)),
        socket: SocketCookie::new(9),
        caller: None,
        owner: None,
        holder: None,
        held: true,
        reuse: None,
        pid: 4711,
        uid: 0,
        command: "nginx".to_owned(),
    }
}

#[test]
fn service_is_named_with_what_it_means_for_sockets() {
    let mut node = Node::new();
    node.pod(11, "default/web-1", "", |_| ());
    node.service("shop", "30080");
    assert_eq!(
        node.message(30080, WEB),
        "30080/tcp on node-1 is owned by Service default/shop (nodePort). What arrives there goes to the Service by \
         packet rules, and reaches no socket. Nobody holds it. If default/web-1 binds 0.0.0.0:30080 or [::]:30080 now, \
         that is let through and told: claimed by Service default/shop (nodePort); the ports of Services are told and \
         never denied here (--service-ports audit)."
    );
    let told = node.ask(30080, WEB);
    assert_eq!((&*told.claims[0].owner.kind, told.claims[0].source.as_str()), ("service", "nodePort"));
    assert!(told.remedy.unwrap().contains("give the Service another nodePort"));
    assert_eq!(told.free_ports, [29_999, 29_998], "no other NodePort");
    let system = node.ask(30080, None).binds;
    assert_eq!((&*system[0].verdict, &*system[0].reason), ("audit", "claimed"));
}

/// The JSON that is documented in docs/status.md and docs/explain.md.
#[test]
fn the_json_is_as_documented() {
    use crate::views::status::{AgentView, KernelFeatures, Status, StatusInputs};
    use enforcer_ebpf::wire::KernelError;

    let mut node = Node::new();
    node.pod(10, "default/web-0", "80, 127.0.0.1:8000-8002/udp", |_| ());
    node.pod(11, "default/web-1", "80", |_| ());
    node.index.set_namespace_label(NamespaceLabel::Mode, "team-a", Some("audit"));
    node.bound(10, "0.0.0.0", 80, "nginx", Some(Reuse { port: true, address: false }));
    node.bound(11, "::1", 80, "squatter", None);
    let agent = AgentView {
        version: "0.1.0".to_owned(),
        pid: 1,
        since: time(NOW.wall - 60_000_000),
        source: "api".to_owned(),
        synced: true,
        pods: 2,
        cgroup: "/sys/fs/cgroup/kubepods.slice".to_owned(),
    };
    let mut failing = FailingBinds::default();
    for (second, now) in [(0, NOW), (40, NOW)] {
        let report = Report::new(attempt_of(11), &node.index);
        let holder = NamedSocket::new(node.holders.on(Protocol::Tcp, 80).next().unwrap(), &node.holders);
        let report = report.held_by(Incumbent { who: holder.who.clone(), socket: Some(holder), older: false });
        failing.record(&report, Now { wall: now.wall - 90_000_000 + second * 1_000_000, ..now });
    }
    let facts = StatusInputs {
        agent: Some(agent),
        features: Some(KernelFeatures { errno_choice: true, v6only: true }),
        lease_deadline: Some(BootNanos::new(4_600_000_000_000)),
        attempts: &|verdict, reason, protocol| {
            let denied = (VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);
            if (verdict, reason, protocol) == denied { 3 } else { 0 }
        },
        errors: &|error| u64::from(error == KernelError::BindEventLost),
        failing: Some(&failing),
        problems: Vec::new(),
    };
    let pretty = |json: Result<String, serde_json::Error>| json.unwrap();
    insta::assert_snapshot!("status", pretty(serde_json::to_string_pretty(&Status::of(&node.scene(), facts))));
    insta::assert_snapshot!("explanation", pretty(serde_json::to_string_pretty(&node.ask(80, WEB))));
}
