//! Random histories.

use enforcer_ebpf::{decide::Target, wire::Protocol};

use super::{services::service, *};
use crate::index::ServicePortsMode;

/// One step of a random history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Apply { who: u32, ports: usize, share: bool, workload: Option<u8>, terminating: bool, done: bool },
    Delete { who: u32 },
    Made { who: u32 },
    Removed { who: u32 },
    Pass { seconds: u64 },
}

pub(super) const PORTS: [&str; 8] =
    ["80", "127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "80-81", "127.0.0.1:80, 127.0.0.2:80"];

const SERVICE_PORTS: [&[u16]; 3] = [&[80], &[81], &[80, 81]];

pub(super) fn step() -> impl Strategy<Value = Step> {
    let who = 1u32..7;
    prop_oneof![
        5 => (who.clone(), 0..PORTS.len(), any::<bool>(), prop::option::of(0u8..2), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(who, ports, share, workload, terminating, done)| Step::Apply {
                who, ports, share: share && who % 2 == 0, workload, terminating: terminating && workload.is_some(), done,
            }),
        2 => who.clone().prop_map(|who| Step::Delete { who }),
        2 => who.clone().prop_map(|who| Step::Made { who }),
        1 => who.prop_map(|who| Step::Removed { who }),
        1 => (1u64..70).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

pub(super) fn pod_of(who: u32, ports: usize, share: bool, workload: Option<u8>, terminating: bool, done: bool) -> Pod {
    let mut pod = pod(who, &format!("p{who}"), PORTS[ports]);
    // All pods of a workload are of the share group, or none is: a template says so.
    let share = workload.map_or(share, |workload| workload == 1);
    pod.share = share.then(|| "g".to_owned());
    if let Some(workload) = workload {
        pod = of_workload(pod, &format!("w{workload}"));
    }
    pod.deletion = terminating.then_some(jiff::Timestamp::UNIX_EPOCH);
    pod.phase = if done { Phase::Failed } else { Phase::Active };
    pod
}

proptest! {
    /// Whatever happens: nothing ever points at a free slot (the model checks that at every change), whoever wants a
    /// port meets somebody's claim or has it, and nothing is left behind at the end.
    #[test]
    fn random_histories(
        steps in prop::collection::vec(step(), 1..60),
        services in prop::collection::vec((0usize..60, 1u32..4, prop::option::of(0..SERVICE_PORTS.len())), 0..20),
    ) {
        let mut rig = Rig::new(Settings { service_ports: ServicePortsMode::Enforce, ..Settings::default() });
        let mut present: BTreeMap<u32, usize> = BTreeMap::new();
        for (place, step) in steps.into_iter().enumerate() {
            for (_, who, ports) in services.iter().filter(|(at, ..)| *at == place) {
                let ports = ports.map(|ports| SERVICE_PORTS[ports]).unwrap_or_default();
                rig.apply_service(service(*who, &format!("s{who}"), ports));
            }
            match step {
                Step::Apply { who, ports, share, workload, terminating, done } => {
                    let pod = pod_of(who, ports, share, workload, terminating, done);
                    if done {
                        present.remove(&who);
                    } else {
                        present.insert(who, ports);
                    }
                    rig.apply(pod);
                }
                Step::Delete { who } => {
                    present.remove(&who);
                    rig.delete(&format!("p{who}"));
                }
                Step::Made { who } => rig.made(u64::from(who) + CGROUP_IDS, ROOT, &cgroup_name(who)),
                Step::Removed { who } => rig.removed(u64::from(who) + CGROUP_IDS),
                Step::Pass { seconds } => rig.pass(seconds),
            }
            let wanted_by_all = present.iter().any(|(who, ports)| {
                let over = rig.index.owners.values().any(|owner| owner.name.uid == uid(*who) && owner.cgroup_ended);
                !over && PORTS[*ports].starts_with("80")
            });
            // A dual-stack bind meets any claim there is; the wanted one may have lost to one on a single address.
            let met = rig.maps.met(Protocol::Tcp, 80, Target::V6 { address: [0; 16], v6only: false });
            prop_assert!(!wanted_by_all || !met.is_empty(), "a claim is missing");
            let Maps { ports, owners, exact, uids, cgroups, .. } = &rig.maps;
            let (ports, owners, exact) = (ports.len(), owners.len(), exact.len());
            let usage = MapUsage { ports, owners, exact, uids: uids.len(), cgroups: cgroups.len() };
            prop_assert_eq!(rig.index.usage(), usage);
            let is_service = |id| rig.index.is_service(id);
            prop_assert_eq!(rig.index.port_table.tally(), rig.index.port_table.recount(is_service));
            check_judgements(&rig)?;
        }
        rig.reset_services(Vec::new());
        for who in 1u32..7 {
            rig.delete(&format!("p{who}"));
            rig.removed(u64::from(who) + CGROUP_IDS);
        }
        rig.pass(60);
        prop_assert_eq!(rig.maps.owners.len(), 1, "only the node is left");
        prop_assert!(rig.maps.ports.is_empty());
        prop_assert!(rig.maps.exact.is_empty());
        prop_assert_eq!(rig.maps.records.len(), 1);
        prop_assert!(rig.maps.uids.is_empty());
        prop_assert!(rig.maps.cgroups.is_empty());
        prop_assert!(rig.index.reservations.is_empty());
        prop_assert_eq!(rig.index.claim_counts(), (0, 0));
    }
}

/// Whoever asks is told what the kernel, which has the maps alone, would answer.
fn check_judgements(rig: &Rig) -> Result<(), TestCaseError> {
    let targets = [
        Target::V4([0; 4]),
        Target::V4([127, 0, 0, 1]),
        Target::V4([10, 0, 0, 9]),
        Target::V6 { address: [0; 16], v6only: false },
        Target::V6 { address: [0; 16], v6only: true },
        Target::V6 { address: std::net::Ipv6Addr::LOCALHOST.octets(), v6only: false },
    ];
    for policy in [map_model::ENFORCE, map_model::DECLARED_ONLY] {
        let maps = Maps { policy, ..rig.maps.clone() };
        for (who, port) in (1u32..7).flat_map(|who| [80, 81].map(|port| (who, port))) {
            let cgroup = u64::from(who) + CGROUP_IDS;
            let id = rig.index.pod_named("default", &format!("p{who}"));
            if !maps.cgroups.contains_key(&cgroup) {
                continue;
            }
            for target in targets {
                let kernel = maps.verdict(cgroup, Protocol::Tcp, port, target);
                let overrule = enforcer_ebpf::decide::ModeOverride::default();
                let (told, owner) = rig.index.judge(id, (Protocol::Tcp, port), &target, &policy, overrule);
                prop_assert_eq!(told, kernel, "p{} on {:?}:{}", who, target, port);
                prop_assert!(owner.is_none_or(|owner| maps.met(Protocol::Tcp, port, target).contains(&owner)));
                prop_assert_eq!(owner.is_some(), kernel.by < enforcer_ebpf::decide::NO_CLAIM);
            }
        }
    }
    Ok(())
}
