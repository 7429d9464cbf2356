//! Conflicts that are there already.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::{
    index::{Index, Settings},
    model::{
        actor::Audience,
        kernel_ids::{BootNanos, CgroupId},
        now::Now,
    },
    pods::{
        annotation,
        pod::{Phase, Pod, Workload, uid_key},
    },
    sockets::{BoundSockets, ReportedConflicts, SocketBinding, SocketLimits, SocketPlace},
};
use enforcer_ebpf::wire::Protocol;

use super::binding;
use jiff::Timestamp;

const ROOT: CgroupId = CgroupId::new(1);
const NOW: Now = Now { wall: 0, boottime: Duration::ZERO };

pub(super) struct Node {
    pub(super) index: Index,
    pub(super) holders: BoundSockets,
    reported: ReportedConflicts,
    last: u64,
}

fn uid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

impl Node {
    pub(super) fn new() -> Self {
        let settings = Settings {
            node_reserved: annotation::parse_list("22/tcp").unwrap(),
            system_namespaces: BTreeSet::from(["kube-system".to_owned()]),
            ..Settings::default()
        };
        let holders = BoundSockets::new(SocketLimits::default(), true);
        Self { index: Index::new(settings, ROOT), holders, reported: ReportedConflicts::default(), last: 0 }
    }

    /// A pod and its cgroup, which has the number as its id.
    pub(super) fn pod(&mut self, number: u64, name: &str, ports: &str, change: impl FnOnce(&mut Pod)) {
        let mut pod = Pod {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: uid_key(&uid(number)),
            uid_text: uid(number),
            host_network: true,
            node_name: None,
            workload: None,
            share: None,
            ports_annotation: Some(ports.to_owned()),
            ports: Vec::new(),
            phase: Phase::Active,
            deletion: None,
            arrival: i64::try_from(number).unwrap(),
            mirror: None,
            revision: String::new(),
            config_hash: None,
            containers: Vec::new(),
            problems: Vec::new(),
            more_problems: 0,
            probes: None,
        };
        change(&mut pod);
        self.index.cgroup_created(CgroupId::new(number), ROOT, &format!("pod{}", uid(number)), NOW);
        self.index.apply(pod, NOW);
        self.holders.resolve(|cgroup| SocketPlace::of(cgroup, &self.index));
    }

    pub(super) fn hold(&mut self, cgroup: u64, protocol: Protocol, address: &str, port: u16) -> u64 {
        self.hold_as(cgroup, protocol, address, port, |_| ())
    }

    pub(super) fn hold_as(
        &mut self,
        cgroup: u64,
        protocol: Protocol,
        address: &str,
        port: u16,
        change: impl FnOnce(&mut SocketBinding),
    ) -> u64 {
        self.last += 1;
        let address: IpAddr = address.parse().unwrap();
        let mut binding =
            SocketBinding { address, cgroup: CgroupId::new(cgroup), ..binding(protocol, self.last, port, 1) };
        change(&mut binding);
        self.holders.bound(binding, |cgroup| SocketPlace::of(cgroup, &self.index));
        self.last
    }

    fn look(&mut self) -> Vec<String> {
        let shared = annotation::parse_list("5353/udp").unwrap();
        let found = self.reported.new_conflicts(&self.holders, &self.index, &shared);
        found.iter().map(|existing| existing.sentence("node-1", Audience::Operators)).collect()
    }
}

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

#[test]
fn two_pods_on_one_port_are_told_once() {
    let mut node = Node::new();
    node.pod(100, "a", "", |_| ());
    node.pod(101, "b", "", |_| ());
    node.hold(100, TCP, "0.0.0.0", 80);
    let second = node.hold(101, TCP, "0.0.0.0", 80);
    // Another worker of the same server.
    node.hold(101, TCP, "0.0.0.0", 80);
    assert_eq!(
        node.look(),
        [
            "0.0.0.0:80/tcp on node-1 is held by default/a (command nginx, pid 4711) and, as 0.0.0.0:80/tcp, by default/b \
          (command nginx, pid 4711) at once; sockets that exist are left alone: stop one of the two"
        ]
    );
    assert_eq!(node.look(), [""; 0]);
    // It is over when both of b's sockets are, and is told anew if it comes back.
    node.holders.released(second, BootNanos::new(2));
    assert_eq!(node.look(), [""; 0]);
    node.holders.released(second + 1, BootNanos::new(2));
    assert_eq!(node.look(), [""; 0]);
    node.hold(101, TCP, "0.0.0.0", 80);
    assert_eq!(node.look().len(), 1);
}

#[test]
fn what_overlaps_and_what_does_not() {
    for (one, other, protocol, told) in [
        ("0.0.0.0", "127.0.0.1", TCP, true),
        ("127.0.0.1", "0.0.0.0", UDP, true),
        ("127.0.0.1", "127.0.0.2", TCP, false),
        ("127.0.0.1", "127.0.0.1", TCP, true),
        ("::", "127.0.0.1", TCP, true),
        ("0.0.0.0", "::", TCP, true),
        ("::", "::1", UDP, true),
        ("::1", "::2", UDP, false),
        ("0.0.0.0", "::1", TCP, false),
        ("224.0.0.251", "224.0.0.251", UDP, false),
    ] {
        let mut node = Node::new();
        node.pod(100, "a", "", |_| ());
        node.pod(101, "b", "", |_| ());
        node.hold(100, protocol, one, 80);
        node.hold(101, protocol, other, 80);
        assert_eq!(node.look().len(), usize::from(told), "{one} {other}");
    }
}

#[test]
fn ipv6_only_and_devices_keep_apart() {
    let mut node = Node::new();
    node.pod(100, "a", "", |_| ());
    node.pod(101, "b", "", |_| ());
    node.hold_as(100, TCP, "::", 80, |binding| binding.v6only = Some(true));
    node.hold(101, TCP, "0.0.0.0", 80);
    assert_eq!(node.look(), [""; 0]);
    let mut holders = node.holders.iter().cloned();
    let (mut one, other) = (holders.next().unwrap(), holders.next().unwrap());
    one.v6only = Some(false);
    assert!(one.overlaps(&other) && other.overlaps(&one));
    let on = |device, holder: &super::BoundSocket| super::BoundSocket { device, ..holder.clone() };
    assert!(!on(Some(1), &one).overlaps(&on(Some(2), &other)));
    assert!(on(Some(1), &one).overlaps(&on(Some(1), &other)));
    assert!(on(Some(1), &one).overlaps(&on(None, &other)));
}

#[test]
fn who_belongs_together_may_share() {
    let workload = |pod: &mut Pod| {
        pod.workload = Some(Workload {
            namespace: "default".to_owned(),
            kind: "StatefulSet".to_owned(),
            name: "w".to_owned(),
            uid: "w".to_owned(),
        });
    };
    let mut node = Node::new();
    // A share group, and a port that is meant to be shared.
    for (number, name) in [(100, "a"), (101, "b")] {
        node.pod(number, name, "", |pod| pod.share = Some("g".to_owned()));
        node.hold(number, TCP, "0.0.0.0", 80);
        node.hold(number, UDP, "0.0.0.0", 5353);
    }
    node.pod(102, "c", "", |_| ());
    node.hold(102, UDP, "0.0.0.0", 5353);
    // A rollout: the old one is going.
    node.pod(103, "old", "", |pod| {
        workload(pod);
        pod.deletion = Some(Timestamp::UNIX_EPOCH);
    });
    node.pod(104, "new", "", workload);
    node.hold(103, TCP, "0.0.0.0", 81);
    node.hold(104, TCP, "0.0.0.0", 81);
    // Two pods of one workload, neither of which is going.
    node.pod(105, "third", "", workload);
    node.hold(104, TCP, "0.0.0.0", 82);
    node.hold(105, TCP, "0.0.0.0", 82);
    // Two pods of different revisions, and two of a DaemonSet.
    for (number, name, revision) in [(106, "d", "1"), (107, "e", "2")] {
        node.pod(number, name, "", |pod| {
            workload(pod);
            pod.revision = revision.to_owned();
        });
        node.hold(number, TCP, "0.0.0.0", 84);
    }
    for (number, name) in [(108, "f"), (109, "g")] {
        node.pod(number, name, "", |pod| {
            workload(pod);
            pod.workload.iter_mut().for_each(|workload| {
                "DaemonSet".clone_into(&mut workload.kind);
                "d".clone_into(&mut workload.uid);
            });
        });
        node.hold(number, TCP, "0.0.0.0", 85);
    }
    // Two host processes.
    node.hold(7, TCP, "0.0.0.0", 83);
    node.hold(8, TCP, "0.0.0.0", 83);
    let told = node.look();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("0.0.0.0:82/tcp"), "{told:?}");
}

#[test]
fn a_holder_that_is_not_the_owner_is_told() {
    let mut node = Node::new();
    node.pod(100, "owner", "80/tcp 127.0.0.1:90/tcp", |_| ());
    node.pod(101, "squatter", "", |_| ());
    node.pod(102, "dns", "", |pod| pod.namespace = "kube-system".to_owned());
    node.hold(100, TCP, "0.0.0.0", 80);
    node.hold(100, TCP, "0.0.0.0", 91);
    assert_eq!(node.look(), [""; 0]);
    node.hold(101, TCP, "127.0.0.1", 80);
    node.hold(7, TCP, "127.0.0.1", 90);
    node.hold(101, TCP, "127.0.0.2", 90);
    node.hold_as(101, TCP, "::", 90, |binding| binding.v6only = Some(true));
    // The node's own.
    node.hold(7, TCP, "0.0.0.0", 22);
    node.hold(102, TCP, "127.0.0.1", 22);
    node.hold_as(101, TCP, "127.0.0.9", 22, |binding| binding.command = "a\nb".to_owned());
    let told = node.look();
    let claimed = |target: &str, who: &str, owner: &str, source: &str| {
        format!(
            "{target} on node-1 is held by {who}, but claimed by {owner} ({source}); sockets that exist are left alone: \
             stop the holder, or change the claim"
        )
    };
    let squatter = "default/squatter (command nginx, pid 4711)";
    assert!(told.contains(&claimed("127.0.0.1:80/tcp", squatter, "default/owner", "annotation")), "{told:#?}");
    let host = "a host process (command nginx, pid 4711)";
    assert!(told.contains(&claimed("127.0.0.1:90/tcp", host, "default/owner", "annotation")), "{told:#?}");
    let squatter = r"default/squatter (command a\u{a}b, pid 4711)";
    assert!(told.contains(&claimed("127.0.0.9:22/tcp", squatter, "the node", "node-reserved")), "{told:#?}");
    assert_eq!(told.iter().filter(|told| told.contains("claimed by")).count(), 3, "{told:#?}");
    assert_eq!(node.look(), [""; 0]);
}
