//! What one namespace may take of what there is only so much of.

use super::*;
use crate::arbitration::quota::Capacity;

fn settings(capacity: Capacity) -> Settings {
    Settings { capacity, ..Settings::default() }
}

const AMPLE: Capacity = Capacity { pods: 100, handovers: 100, services: 100, claims: 100, addresses: 100 };

fn of_namespace(namespace: &str, pod: Pod) -> Pod {
    Pod { namespace: namespace.to_owned(), ..pod }
}

#[test]
fn one_namespace_has_half_of_the_pods() {
    let mut rig = Rig::new(settings(Capacity { pods: 6, ..AMPLE }));
    for number in 1..=4 {
        rig.apply(pod(number, &format!("flood-{number}"), &number.to_string()));
    }
    assert!(rig.owners(4).is_empty());
    assert_eq!(
        rig.told(),
        [
            "default/flood-4 on n: namespace quota of 3 pods reached: its claims are not enforced; retried when the pod changes"
        ]
    );
    rig.apply(pod(4, "flood-4", "4"));
    assert!(rig.told().is_empty(), "it is told once");
    for number in 5..=7 {
        rig.apply(of_namespace("victim", pod(number, &format!("web-{number}"), &number.to_string())));
    }
    assert_eq!((rig.owners(7).as_slice(), rig.told().len()), (["web-7".to_owned()].as_slice(), 0));
    rig.apply(of_namespace("third", pod(8, "late", "8")));
    assert_eq!(
        rig.told(),
        ["third/late on n: node quota of 6 pods reached: its claims are not enforced; retried when the pod changes"]
    );
    rig.delete("flood-1");
    rig.apply(pod(4, "flood-4", "4"));
    assert_eq!(rig.owners(4), ["flood-4"], "there is room now");
    rig.delete("flood-4");
    rig.apply(of_namespace("kube-system", pod(9, "proxy", "9")));
    assert_eq!(rig.owners(9), ["proxy"], "node software is bound by the whole alone");
}

#[test]
fn one_namespace_has_half_of_the_claims() {
    let mut rig = Rig::new(settings(Capacity { claims: 20, ..AMPLE }));
    rig.apply(pod(1, "hoarder", "1-8"));
    rig.apply(pod(2, "more", "9-10, 11, 12-13"));
    assert_eq!((rig.owners(10).len(), rig.owners(11).len(), rig.owners(12).len()), (1, 0, 0));
    let told = rig.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[0],
        "default/more on n: 11/tcp (annotation at character 7) is refused whole: one namespace may have on a node 10 \
         claims, and there is no room for it as long as others have theirs; it counts when the pod changes and there is \
         room"
    );
    rig.apply(of_namespace("victim", pod(3, "web", "80-89")));
    assert_eq!(rig.owners(89), ["web"]);
    rig.apply(pod(1, "hoarder", "1-8"));
    rig.apply(of_namespace("victim", pod(3, "web", "80-89")));
    assert_eq!((rig.owners(8).len(), rig.owners(89).len()), (1, 1), "whoever has it keeps it");
    rig.delete("hoarder");
    rig.apply(pod(2, "more", "9-10, 11, 12-13"));
    assert_eq!((rig.owners(11).len(), rig.owners(13).len(), rig.told().len()), (1, 1, 0));
}

#[test]
fn one_namespace_has_half_of_the_addresses() {
    let mut rig = Rig::new(settings(Capacity { addresses: 4, ..AMPLE }));
    rig.apply(pod(1, "hoarder", "10.0.0.1:53, 10.0.0.2:53, 10.0.0.3:53, 0.0.0.0:54"));
    assert_eq!((rig.index.usage().exact, rig.told().len()), (2, 1));
    assert_eq!(rig.owners(54), ["hoarder"], "the rest goes on");
    rig.apply(of_namespace("victim", pod(2, "dns", "10.0.0.3:53, [fd00::1]:53")));
    assert_eq!((rig.index.usage().exact, rig.told().len()), (4, 0));
}

#[test]
fn one_namespace_has_half_of_the_handovers() {
    let mut rig = Rig::new(settings(Capacity { handovers: 4, ..AMPLE }));
    for number in 1..=3 {
        rig.apply(of_workload(pod(number, &format!("pod-{number}"), &number.to_string()), "w"));
    }
    for number in 1..=3 {
        rig.delete(&format!("pod-{number}"));
    }
    assert_eq!((rig.owners(2).len(), rig.owners(3).len()), (1, 0));
    assert_eq!(
        rig.told(),
        ["default/pod-3 on n: namespace quota of 2 handovers reached: its ports are not reserved for a successor"]
    );
    rig.pass(61);
    rig.apply(of_workload(pod(4, "pod-4", "4"), "w"));
    rig.delete("pod-4");
    assert_eq!((rig.owners(4).len(), rig.told().len()), (1, 0), "they ended");
}

#[test]
fn who_went_takes_nothing() {
    let mut rig = Rig::new(settings(AMPLE));
    for round in 0..500 {
        rig.apply(of_workload(pod(1 + round, "churn", "1-40, 10.0.0.1:99"), "w"));
        rig.made(u64::from(round) + 1000, ROOT, &cgroup_name(1 + round));
        rig.removed(u64::from(round) + 1000);
        rig.delete("churn");
        rig.pass(61);
    }
    assert!(rig.told().is_empty());
    assert_eq!((rig.index.quotas.all(), rig.index.quotas.namespaces()), Default::default());
}

#[test]
fn what_is_taken_over_counts() {
    let settings = settings(Capacity { claims: 20, ..AMPLE });
    let mut rig = Rig::new(settings.clone());
    rig.apply(pod(1, "hoarder", "1-8"));
    let mut next = rig.restart(1, settings);
    next.apply(pod(2, "more", "9-11"));
    assert!(next.owners(9).is_empty());
    next.apply(pod(1, "hoarder", "1-8"));
    assert_eq!(next.owners(8), ["hoarder"]);
}
