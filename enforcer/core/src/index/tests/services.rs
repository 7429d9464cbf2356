//! Services as owners.

use enforcer_ebpf::{
    decide::Target,
    wire::{Reason, VerdictKind},
};

use super::{
    restore::{TCP, V4},
    *,
};
use crate::{
    arbitration::quota::Capacity,
    index::ServicePortsMode,
    model::{
        port_spec::{Address, PortRange, PortSpec},
        source::ClaimOrigin,
    },
    pods::{claims::PodClaim, service::NodePortService},
};

fn settings(service_ports: ServicePortsMode) -> Settings {
    Settings { service_ports, ..Settings::default() }
}

/// A Service made at second `created`.
pub(super) fn service(created: u32, name: &str, ports: &[u16]) -> NodePortService {
    let claim = |port: &u16| PodClaim {
        spec: PortSpec { protocol: TCP, address: Address::Any, ports: PortRange::single(*port).unwrap() },
        source: ClaimSource::NodePort,
    };
    NodePortService {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{created}"),
        created: i64::from(created) * 1_000_000,
        claims: ports.iter().map(claim).collect(),
    }
}

impl Rig {
    pub(super) fn apply_service(&mut self, service: NodePortService) {
        self.index.apply_service(service, self.now());
        self.flush();
    }

    pub(super) fn reset_services(&mut self, services: Vec<NodePortService>) {
        self.index.reset_services(services, self.now());
        self.flush();
    }

    /// The verdict on a bind by the pod with this number.
    fn verdict(&self, number: u32, port: u16) -> (VerdictKind, Reason) {
        let verdict = self.maps.verdict(u64::from(number) + CGROUP_IDS, TCP, port, V4);
        (verdict.kind, verdict.reason)
    }
}

const AUDITED: (VerdictKind, Reason) = (VerdictKind::Audit, Reason::Claimed);
const DENIED: (VerdictKind, Reason) = (VerdictKind::Deny, Reason::Claimed);
const FREE: (VerdictKind, Reason) = (VerdictKind::Allow, Reason::Unclaimed);

#[test]
fn bind_on_a_service_is_reported_and_denied_only_where_that_is_wanted() {
    for (mode, verdict) in
        [(ServicePortsMode::Off, FREE), (ServicePortsMode::Audit, AUDITED), (ServicePortsMode::Enforce, DENIED)]
    {
        let mut rig = Rig::new(settings(mode));
        rig.apply(pod(1, "a", ""));
        rig.rescan(&[1]);
        rig.apply_service(service(2, "shop", &[30080]));
        assert_eq!(rig.verdict(1, 30080), verdict, "{mode:?}");
        let known = usize::from(mode != ServicePortsMode::Off);
        assert_eq!((rig.index.service_count(), rig.index.claim_counts().0), (known, known));
        rig.index.delete_service("default", "shop", rig.now());
        rig.flush();
        assert_eq!(rig.verdict(1, 30080), FREE);
        assert_eq!((rig.index.service_count(), rig.index.claim_counts()), (0, (0, 0)));
        assert_eq!(rig.maps.owners.len(), 2, "the node and the pod");
    }
}

#[test]
fn service_takes_no_port_from_a_pod_in_force() {
    let mut rig = Rig::new(settings(ServicePortsMode::Enforce));
    rig.apply(pod(5, "a", "30080"));
    rig.rescan(&[5]);
    rig.apply_service(service(1, "older", &[30080]));
    assert_eq!(rig.verdict(5, 30080), (VerdictKind::Allow, Reason::Owner));
    assert_eq!(
        rig.told(),
        ["claim of Service default/older on 30080/tcp loses on n: in force for default/a (annotation); it is granted \
          when that one goes"]
    );
    rig.delete("a");
    assert_eq!(rig.owners(30080), ["older"]);
    rig.apply(pod(9, "later", "30080"));
    let told = rig.told().join("\n");
    assert!(
        told.contains("claim of default/later on 30080/tcp loses on n: in force for Service default/older (nodePort)")
    );
}

#[test]
fn those_that_come_together_are_ranked_by_creation() {
    let mut rig = Rig::new(settings(ServicePortsMode::Audit));
    rig.apply(pod(1, "holder", "30080, 30081"));
    rig.apply(pod(4, "a", "30080"));
    rig.apply_service(service(3, "shop", &[30080]));
    rig.apply_service(service(6, "late", &[30081]));
    rig.apply(pod(7, "b", "30081"));
    rig.delete("holder");
    assert_eq!((rig.owners(30080), rig.owners(30081)), (vec!["shop".to_owned()], vec!["late".to_owned()]));
}

#[test]
fn port_that_a_service_gets_later_counts_from_then() {
    let mut rig = Rig::new(settings(ServicePortsMode::Audit));
    rig.apply(pod(1, "holder", "30081"));
    rig.apply_service(service(1, "shop", &[30080]));
    rig.apply(pod(2, "waiting", "30081"));
    rig.pass(100);
    rig.apply_service(NodePortService { claims: service(1, "", &[30080, 30081]).claims, ..service(1, "shop", &[]) });
    rig.delete("holder");
    assert_eq!(rig.owners(30081), ["waiting"]);
    rig.apply_service(service(1, "shop", &[30082]));
    assert_eq!((rig.owners(30080), rig.owners(30082)), (vec![], vec!["shop".to_owned()]));
    rig.apply_service(service(1, "shop", &[]));
    assert_eq!((rig.index.service_count(), rig.owners(30082)), (0, vec![]), "it is a ClusterIP now");
}

#[test]
fn list_replaces_all_and_another_uid_is_another_service() {
    let mut rig = Rig::new(settings(ServicePortsMode::Audit));
    assert!(!rig.index.is_source_synced(ClaimOrigin::Services));
    rig.reset_services(vec![service(1, "a", &[30001]), service(2, "b", &[30002]), service(3, "none", &[])]);
    assert!(rig.index.is_source_synced(ClaimOrigin::Services));
    let first = rig.index.claims_in_force(TCP, 30001)[0].owner;
    rig.reset_services(vec![service(1, "a", &[30001]), service(9, "b", &[30003])]);
    assert_eq!(rig.index.claims_in_force(TCP, 30001)[0].owner, first);
    assert_eq!((rig.owners(30002), rig.owners(30003)), (vec![], vec!["b".to_owned()]));
    rig.reset_services(vec![]);
    assert_eq!((rig.index.service_count(), rig.index.claim_counts()), (0, (0, 0)));
    assert_eq!(rig.maps.owners.len(), 1);
    assert!(Rig::new(settings(ServicePortsMode::Off)).index.is_source_synced(ClaimOrigin::Services));
}

#[test]
fn node_software_serves_the_ports_of_services() {
    let mut rig = Rig::new(settings(ServicePortsMode::Enforce));
    let mut proxy = pod(1, "kube-proxy", "");
    proxy.namespace = "kube-system".to_owned();
    rig.apply(proxy);
    rig.rescan(&[1]);
    rig.apply_service(service(2, "shop", &[30080]));
    assert_eq!(rig.verdict(1, 30080), (VerdictKind::Allow, Reason::Owner));
    let owner = rig.index.claims_in_force(TCP, 30080)[0].owner;
    let proxy = rig.index.pod_named("kube-system", "kube-proxy");
    assert!(rig.index.may_hold(proxy, false, owner) && rig.index.may_hold(None, true, owner));
    rig.apply(pod(3, "tenant", ""));
    assert!(!rig.index.may_hold(rig.index.pod_named("default", "tenant"), false, owner));
}

#[test]
fn service_is_in_force_before_anybody_speaks() {
    let mut rig = Rig::new(settings(ServicePortsMode::Enforce));
    rig.apply(pod(5, "a", ""));
    rig.rescan(&[5]);
    rig.apply_service(service(1, "shop", &[30080]));
    rig.apply_service(service(2, "gone", &[30081]));
    let mut next = rig.restart(10, settings(ServicePortsMode::Enforce));
    next.rescan(&[5]);
    assert_eq!((next.verdict(5, 30080), next.verdict(5, 30081)), (DENIED, DENIED));
    next.apply(pod(6, "wants", "30080"));
    next.watch = Some(Box::new(|maps, change| {
        let verdict = maps.verdict(5 + CGROUP_IDS, TCP, 30080, V4);
        assert_eq!((verdict.kind, verdict.reason), DENIED, "after {change:?}");
    }));
    next.reset_services(vec![service(1, "shop", &[30080])]);
    assert_eq!((next.owners(30080), next.verdict(5, 30081)), (vec!["shop".to_owned()], FREE));
    let source = next.index.claims_in_force(TCP, 30080)[0].source;
    assert_eq!(source, ClaimSource::NodePort);
    // The next agent only reports, and the one after it knows no Services.
    let next = next.restart(10, settings(ServicePortsMode::Audit));
    assert_eq!(next.verdict(5, 30080), AUDITED);
    let next = next.restart(10, settings(ServicePortsMode::Off));
    assert_eq!((next.verdict(5, 30080), next.maps.owners.len()), (FREE, 3));
}

#[test]
fn services_beyond_the_room_are_left_out_and_reported() {
    let capacity = Capacity { services: 4, ..Capacity::default() };
    let mut rig = Rig::new(Settings { capacity, ..settings(ServicePortsMode::Audit) });
    for number in 1..=3 {
        rig.apply_service(service(number, &format!("s{number}"), &[30000 + u16::try_from(number).unwrap()]));
    }
    assert_eq!(rig.index.service_count(), 2, "one namespace may have half");
    assert_eq!(
        rig.told(),
        ["Service default/s3: namespace quota of 2 Services reached: a listener on its ports is not reported on n"]
    );
    rig.apply_service(NodePortService { namespace: "other".to_owned(), ..service(4, "s4", &[30004]) });
    assert_eq!(rig.index.service_count(), 3);
}

#[test]
fn ports_of_services_are_not_kept_from_outgoing_connections() {
    let mut rig = Rig::new(settings(ServicePortsMode::Enforce));
    rig.apply(pod(1, "a", "80"));
    rig.apply_service(service(2, "shop", &[40080]));
    assert_eq!(rig.index.ports_in_force(), [80]);
}

#[test]
fn listener_on_one_address_meets_a_service_too() {
    let mut rig = Rig::new(settings(ServicePortsMode::Audit));
    rig.apply(pod(1, "a", ""));
    rig.rescan(&[1]);
    rig.apply_service(service(2, "shop", &[30080]));
    for target in [Target::V4([10, 0, 0, 1]), Target::V6 { address: [0; 16], v6only: true }] {
        let verdict = rig.maps.verdict(1 + CGROUP_IDS, TCP, 30080, target);
        assert_eq!((verdict.kind, verdict.reason), AUDITED);
    }
}
