//! A node with pods and bound sockets, for the tests of views.

use std::{collections::BTreeSet, time::Duration};

use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{Policy, Protocol},
};

use crate::{
    index::{Index, ServicePortsMode, Settings},
    model::{
        attempt::Reuse,
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        now::Now,
        source::ClaimSource,
    },
    pods::{
        annotation,
        claims::PodClaim,
        pod::{Phase, Pod, uid_key},
        service::NodePortService,
    },
    sockets::{Activity, BoundSockets, DumpedSocket, Scope, SocketBinding, SocketLimits, SocketPlace},
    views::node_snapshot::NodeSnapshot,
};

pub(crate) const ROOT: CgroupId = CgroupId::new(1);
pub(crate) const NOW: Now = Now { wall: 1_700_000_000_000_000, boottime: Duration::from_secs(1000) };
pub(crate) const ENFORCE: Policy = Policy { enforce: true, ..Policy::from_word(98 << 16) };

pub(crate) struct Node {
    pub(crate) index: Index,
    pub(crate) holders: BoundSockets,
    pub(crate) policy: Policy,
    pub(crate) overrule: ModeOverride,
}

pub(crate) fn uid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

impl Node {
    pub(crate) fn new() -> Self {
        let settings = Settings {
            node_reserved: annotation::parse_list("22/tcp").unwrap(),
            system_namespaces: BTreeSet::from(["kube-system".to_owned()]),
            service_ports: ServicePortsMode::Audit,
            ..Settings::default()
        };
        Self {
            index: Index::new(settings, ROOT),
            holders: BoundSockets::new(SocketLimits::default(), true),
            policy: ENFORCE,
            overrule: ModeOverride::default(),
        }
    }

    /// A pod, and its cgroup of that number.
    pub(crate) fn pod(&mut self, number: u64, name: &str, ports: &str, change: impl FnOnce(&mut Pod)) {
        let (namespace, name) = name.split_once('/').unwrap();
        let mut pod = Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid_key(&uid(number)),
            uid_text: uid(number),
            host_network: true,
            node_name: None,
            workload: None,
            share: None,
            ports_annotation: Some(ports.to_owned()),
            ports: Vec::new(),
            probes: None,
            phase: Phase::Active,
            deletion: None,
            arrival: i64::try_from(number).unwrap(),
            mirror: None,
            revision: String::new(),
            config_hash: None,
            containers: Vec::new(),
            problems: Vec::new(),
            more_problems: 0,
        };
        change(&mut pod);
        self.index.cgroup_created(CgroupId::new(number), ROOT, &format!("pod{}", uid(number)), NOW);
        self.index.apply(pod, NOW);
    }

    /// A Service in the namespace `default` with these node ports.
    pub(crate) fn service(&mut self, name: &str, ports: &str) {
        let specs = annotation::parse_list(ports).unwrap();
        self.index.apply_service(
            NodePortService {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                uid: "uid-of-the-service".to_owned(),
                created: 1,
                claims: specs.into_iter().map(|spec| PodClaim { spec, source: ClaimSource::NodePort }).collect(),
            },
            NOW,
        );
    }

    pub(crate) fn bound(&mut self, cgroup: u64, address: &str, port: u16, command: &str, reuse: Option<Reuse>) {
        let binding = SocketBinding {
            time: BootNanos::new(500_000_000_000),
            protocol: Protocol::Tcp,
            address: address.parse().unwrap(),
            port,
            cookie: SocketCookie::new(cgroup * 100_000 + u64::from(port)),
            release: cgroup * 100_000 + u64::from(port),
            cgroup: CgroupId::new(cgroup),
            pid: 4711,
            uid: 0,
            command: command.to_owned(),
            v6only: None,
            reuse,
        };
        self.holders.bound(binding, |cgroup| SocketPlace::of(cgroup, &self.index));
    }

    /// Dumps the TCP sockets of the node: these.
    pub(crate) fn dump(&mut self, sockets: &[(u64, &str, u16, Activity)]) {
        self.holders.begin_dump(Protocol::Tcp, BootNanos::new(600_000_000_000));
        for &(cgroup, address, port, activity) in sockets {
            let socket = DumpedSocket {
                protocol: Protocol::Tcp,
                address: address.parse().unwrap(),
                port,
                cookie: SocketCookie::new(cgroup * 100_000 + u64::from(port)),
                cgroup: Some(CgroupId::new(cgroup)),
                uid: 0,
                inode: None,
                device: None,
                activity,
                v6only: None,
            };
            self.holders.record_dumped(&socket, |cgroup| SocketPlace::of(cgroup, &self.index));
        }
        self.holders.end_dump(Protocol::Tcp, Scope::Connected);
    }

    pub(crate) fn scene(&self) -> NodeSnapshot<'_> {
        NodeSnapshot {
            node: "node-1",
            index: &self.index,
            holders: &self.holders,
            policy: self.policy,
            overrule: self.overrule,
            shared: &[],
            answered: None,
            now: NOW,
        }
    }
}
