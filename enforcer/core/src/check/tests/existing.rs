//! New manifests against what is there: only what the new ones bring is found.

use super::{codes, host, manifests, workload};
use crate::{
    check::{CheckSettings, ManifestSet, check, existing::read_objects},
    pods::claims::ClaimLimits,
};

fn daemon_set(name: &str, port: u16) -> String {
    workload("DaemonSet", name, "", "", &host(&format!("{{containerPort: {port}}}")))
}

fn against(new: &[&str], existing: &[&str]) -> Vec<String> {
    let mut set = manifests(new);
    let context = manifests(existing);
    // Apart from the new files.
    set.files = new.iter().enumerate().map(|(place, _)| format!("new-{place}.yaml").into()).collect();
    for (object, file) in set.objects.iter_mut().zip(&set.files) {
        object.place.file = file.clone();
    }
    set.add_existing(context);
    codes(&check(&set, &CheckSettings { nodes: Some(3), ..CheckSettings::default() }))
}

#[test]
fn only_what_the_new_objects_bring_is_found() {
    let [old, other, broken] = [daemon_set("old", 9100), daemon_set("other", 9100), daemon_set("broken", 0)];
    assert_eq!(against(&[], &[&old, &other, &broken]), [""; 0], "what is there is not judged");
    assert_eq!(against(&[&daemon_set("new", 9200)], &[&old, &other]), [""; 0]);
    let found = against(&[&daemon_set("new", 9100)], &[&old, &other]);
    assert_eq!(found, ["new-0.yaml:1: error conflict", "new-0.yaml:1: error conflict"], "with each of the two");
}

#[test]
fn object_of_the_same_name_is_replaced() {
    let [old, moved] = [daemon_set("exporter", 9100), daemon_set("exporter", 9200)];
    let other = daemon_set("other", 9100);
    assert_eq!(against(&[&old], &[&moved, &other]), ["new-0.yaml:1: error conflict"]);
    assert_eq!(against(&[&moved], &[&old, &other]), [""; 0], "the conflict goes with the change");
}

#[test]
fn replicas_compete_with_those_that_are_there() {
    let port = host("{containerPort: 80}");
    let two = workload("Deployment", "two", "replicas: 2,", "", &port);
    let new = workload("Deployment", "new", "replicas: 2,", "", &port);
    let found = against(&[&new], &[&two]);
    assert!(found.contains(&"new-0.yaml:1: error conflict".to_owned()), "four pods on three nodes: {found:?}");
}

#[test]
fn objects_of_a_cluster_have_no_lines() {
    let json = |name: &str| {
        format!(
            r#"{{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{{"name":"{name}","namespace":"monitoring"}},
            "spec":{{"template":{{"spec":{{"hostNetwork":true,"containers":[{{"name":"c",
            "ports":[{{"containerPort":9100,"hostPort":9100}}],
            "readinessProbe":{{"httpGet":{{"port":9200}}}}}}]}}}}}}}}"#
        )
    };
    let cluster = read_objects([json("exporter")], "cluster", &ClaimLimits::UNLIMITED);
    let mut set: ManifestSet = manifests(&[&daemon_set("new", 9100)]);
    set.add_existing(cluster);
    let outcome = check(&set, &CheckSettings::default());
    let message = &outcome.findings[0].message;
    assert!(message.contains("DaemonSet monitoring/exporter (cluster)"), "{message}");
    let mut probed = manifests(&[&daemon_set("new", 9200)]);
    probed.add_existing(read_objects([json("exporter")], "cluster", &ClaimLimits::UNLIMITED));
    let outcome = check(&probed, &CheckSettings::default());
    assert!(outcome.findings[0].message.contains("(cluster)"), "{:?}", outcome.findings);
}
