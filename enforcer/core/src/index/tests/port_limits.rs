//! Port limits of namespaces.

use std::collections::HashMap;

use super::*;
use crate::pods::claims::ClaimLimits;

/// Most ports that a label may grant here.
const MOST: u32 = 100;

fn settings() -> Settings {
    Settings { limits: ClaimLimits { max_ports_per_pod: 5, namespace_max_ports: MOST }, ..Settings::default() }
}

/// A rig whose namespaces are known: with these limits as labels.
fn rig(labels: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::new(settings());
    say(&mut rig, labels);
    rig
}

/// The labels of all namespaces are listed.
fn say(rig: &mut Rig, labels: &[(&str, &str)]) {
    let labels: HashMap<String, String> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    rig.index.reset_namespace_labels(NamespaceLabel::MaxPorts, &labels);
    rig.flush();
}

/// Sets the label; returns whether the pods are to be listed again.
fn label(rig: &mut Rig, value: Option<&str>) -> bool {
    rig.index.set_namespace_label(NamespaceLabel::MaxPorts, "default", value);
    rig.flush();
    std::mem::take(&mut rig.relist)
}

fn in_force(rig: &Rig) -> Vec<u16> {
    (1..200).filter(|port| !rig.owners(*port).is_empty()).collect()
}

#[test]
fn label_grants_and_takes() {
    let media = || pod(1, "media", "1, 101-110");
    let mut rig = rig(&[]);
    rig.apply(media());
    assert_eq!(in_force(&rig), [1]);
    assert_eq!(
        rig.told(),
        [
            "default/media on n: 101-110/tcp (annotation at character 4) is refused whole: the pod would claim more than 5 \
             ports, the limit of --max-ports-per-pod or of the label port-enforcer.io/max-ports of its namespace"
        ]
    );
    assert!(label(&mut rig, Some("20")));
    rig.reset(vec![media()]);
    assert_eq!(in_force(&rig), [1, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110]);
    assert!(!label(&mut rig, Some("11")), "all that it claims fits still");
    assert!(!label(&mut rig, Some("900000000000")), "nothing was refused");
    assert!(label(&mut rig, None));
    rig.reset(vec![media()]);
    assert_eq!((in_force(&rig), rig.told().len()), (vec![1], 1));
    assert!(label(&mut rig, Some("0")), "a label may also take");
    rig.reset(vec![media()]);
    assert_eq!(in_force(&rig), Vec::<u16>::new());
}

#[test]
fn label_counts_in_its_namespace_and_up_to_the_cap() {
    let mut rig = rig(&[("default", "4000000"), ("other", "0")]);
    rig.apply(pod(1, "a", "1-100"));
    rig.apply(pod(2, "b", "101-201"));
    rig.apply(Pod { namespace: "third".to_owned(), ..pod(3, "c", "101-105") });
    assert_eq!(rig.owners(100), ["a"]);
    assert_eq!(rig.owners(105), ["c"]);
    assert_eq!(rig.told().len(), 1);
    assert_eq!(rig.index.port_limits().collect::<BTreeMap<_, _>>(), BTreeMap::from([("default", MOST), ("other", 0)]));
}

#[test]
fn bad_label_counts_for_nothing_and_is_told() {
    for value in ["", "many", "-1", "+20", "20k", "0x20", "2 0"] {
        let mut rig = rig(&[("default", value)]);
        assert_eq!(
            rig.told(),
            [format!(
                "namespace default: the label port-enforcer.io/max-ports is '{value}', which counts for nothing; write a \
                 number of ports"
            )]
        );
        rig.apply(pod(1, "a", "1-5, 6"));
        assert_eq!(in_force(&rig), [1, 2, 3, 4, 5], "{value}");
    }
}

#[test]
fn label_counts_for_nothing_where_it_may_grant_nothing() {
    let mut rig =
        Rig::new(Settings { limits: ClaimLimits { namespace_max_ports: 0, ..settings().limits }, ..settings() });
    rig.apply(pod(1, "a", "1-6"));
    assert_eq!(rig.told().len(), 1, "nothing is awaited");
    assert!(!label(&mut rig, Some("20")));
    rig.apply(pod(2, "b", "11-15"));
    assert!(!label(&mut rig, Some("0")));
    rig.reset(vec![pod(1, "a", "1-6"), pod(2, "b", "11-15")]);
    assert_eq!(in_force(&rig), [11, 12, 13, 14, 15]);
}

#[test]
fn what_a_label_may_grant_is_told_when_the_labels_are_known() {
    for (labels, forbidden) in [(vec![("default", "20")], false), (vec![], false), (vec![], true)] {
        let mut rig = Rig::new(settings());
        rig.apply(pod(1, "media", "1, 101-110"));
        assert_eq!((in_force(&rig), rig.told().len(), rig.relist), (vec![1], 0, false));
        if forbidden {
            rig.index.settle_port_limits();
            rig.flush();
        } else {
            say(&mut rig, &labels);
        }
        assert!(rig.relist);
        rig.reset(vec![pod(1, "media", "1, 101-110")]);
        let granted = !labels.is_empty();
        assert_eq!((rig.owners(110).len(), rig.told().len()), (usize::from(granted), usize::from(!granted)));
    }
}

#[test]
fn granted_claims_survive_a_restart() {
    let media = || pod(1, "media", "1, 101-110");
    let mut before = rig(&[("default", "20")]);
    before.apply(media());
    let all = in_force(&before);
    let mut next = before.restart(1, settings());
    for round in ["listed first", "changed since"] {
        next.reset(vec![media()]);
        assert_eq!((in_force(&next), next.told().len()), (all.clone(), 0), "{round}");
    }
    say(&mut next, &[("default", "20")]);
    next.reset(vec![media()]);
    assert_eq!((in_force(&next), next.told().len()), (all, 0));

    // Who asks for more than it had gets nothing beyond the limit before the labels are known.
    let mut next = before.restart(1, settings());
    next.reset(vec![pod(1, "media", "1, 101-111")]);
    assert_eq!((in_force(&next), next.told().len()), (vec![1], 0));
    // Labels that were taken away meanwhile take away what they granted.
    let mut next = before.restart(1, settings());
    next.reset(vec![media()]);
    say(&mut next, &[]);
    assert!(next.relist);
    next.reset(vec![media()]);
    assert_eq!((in_force(&next), next.told().len()), (vec![1], 1));
}
