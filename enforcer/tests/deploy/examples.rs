//! The examples say what they are there to say, in the agent's own reading.

use enforcer_core::{
    model::namespace_label::NamespaceLabel,
    pods::{
        claims::{ClaimLimits, claims_of},
        pod::{Pod, from_api},
    },
};
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec},
    core::v1::{Namespace, Pod as PodObject},
};

use enforcer_testing::tests;

use crate::{
    Test,
    strict::{deploy, files, read, typed},
};

pub(crate) const TESTS: &[Test] = tests![
    check_finds_nothing_in_examples,
    example_replicas_meet_without_host_ports,
    example_annotations_claim_expected_ports
];

/// What the API server gives to a pod that is made.
const UID: &str = "3f2c9a1e-8d47-4b7c-9f0a-5e6d7c8b9a01";

/// The pods of a file, and of each Deployment one, as the API server makes them.
fn pods(file: &str) -> Vec<Pod> {
    let mut pods = Vec::new();
    for object in read(&deploy().join(file)) {
        match object["kind"].as_str() {
            Some("Pod") => {
                let mut pod: PodObject = typed(&object);
                pod.metadata.uid.get_or_insert_with(|| UID.to_owned());
                pods.push(from_api(&pod));
            }
            Some("Deployment") => {
                let Deployment { metadata, spec, .. } = typed(&object);
                let template = spec.expect("a spec").template;
                let mut pod = template.metadata.unwrap_or_default();
                (pod.name, pod.namespace, pod.uid) = (metadata.name, metadata.namespace, Some(UID.to_owned()));
                pods.push(from_api(&PodObject { metadata: pod, spec: template.spec, status: None }));
            }
            Some("Namespace") => {}
            kind => panic!("{kind:?} in {file}"),
        }
    }
    pods
}

fn claims(pod: &Pod) -> Vec<String> {
    let said = claims_of(pod, &ClaimLimits::default());
    assert_eq!(said.problems, [], "{}", pod.name);
    said.claims.iter().map(|claim| format!("{} ({})", claim.spec, claim.source)).collect()
}

fn check_finds_nothing_in_examples() {
    let folder = deploy();
    let mut seen = 0;
    for path in files() {
        let file = path.strip_prefix(&folder).expect("below deploy/");
        if file.starts_with("examples") {
            for pod in pods(file.to_str().expect("UTF-8")) {
                assert!(!claims(&pod).is_empty(), "{}: {} claims nothing", file.display(), pod.name);
                seen += 1;
            }
        }
    }
    assert!(seen >= 5, "{seen} pods");
}

fn example_replicas_meet_without_host_ports() {
    let file = "examples/two-replicas.yaml";
    let [pod] = &pods(file)[..] else { panic!("one Deployment") };
    assert_eq!(claims(pod), ["80/tcp (annotation)"]);
    assert!(pod.host_network);
    assert_eq!(pod.ports, [], "a declared port would keep the second pod Pending");
    let Deployment { spec: Some(DeploymentSpec { replicas, selector, template, .. }), .. } =
        typed(&read(&deploy().join(file))[0])
    else {
        panic!("a spec");
    };
    assert_eq!(replicas, Some(2));
    let affinity = template.spec.and_then(|spec| spec.affinity?.pod_affinity).expect("they belong together");
    let [term] = &affinity.required_during_scheduling_ignored_during_execution.expect("always")[..] else {
        panic!("one term");
    };
    assert_eq!((term.topology_key.as_str(), term.label_selector.as_ref()), ("kubernetes.io/hostname", Some(&selector)));
    assert_eq!(template.metadata.and_then(|metadata| metadata.labels), selector.match_labels);
}

fn example_annotations_claim_expected_ports() {
    let file = "examples/annotations.yaml";
    let [resolver, collector] = &pods(file)[..] else { panic!("a pod and a Deployment") };
    let annotated = ["5300/udp (annotation)", "5300/tcp (annotation)", "127.0.0.1:8181/tcp (annotation)"];
    assert_eq!(claims(resolver), annotated);
    assert_eq!(resolver.share, None);
    assert_eq!(claims(collector), ["9125/udp (annotation)"]);
    assert_eq!(collector.share.as_deref(), Some("collector"));
    let namespace: Namespace = typed(&read(&deploy().join(file))[0]);
    let labels = namespace.metadata.labels.expect("labels");
    assert_eq!(labels.get(NamespaceLabel::Mode.key()).map(String::as_str), Some("enforce"));
    let name = namespace.metadata.name.expect("a name");
    assert!([resolver, collector].iter().all(|pod| pod.namespace == name));
}
