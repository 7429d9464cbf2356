//! Kinds and versions beyond those that are served, and documents of other tools.

use std::sync::Arc;

use super::{found, manifests, messages, workload};
use crate::{
    check::{CheckSettings, check, finding::Code, object::read},
    yaml::spanned::Node,
};

const HOST_PORT: &str = "containers: [{name: c, ports: [{containerPort: 80, hostPort: 7007}]}]";

/// An object with a pod template at the usual place.
fn object(version: &str, kind: &str, name: &str) -> String {
    workload("DaemonSet", name, "replicas: 4,", "", HOST_PORT)
        .replace("apiVersion: apps/v1, kind: DaemonSet", &format!("apiVersion: {version}, kind: {kind}"))
}

#[test]
fn versions_that_nothing_serves_are_warnings() {
    for (version, kind, expected) in [
        ("apps/v1", "DaemonSet", ""),
        ("v1", "ReplicationController", ""),
        (
            "extensions/v1beta1",
            "DaemonSet",
            "is extensions/v1beta1 DaemonSet, and no API server serves it; write apps/v1",
        ),
        ("apps/v1beta1", "StatefulSet", "is apps/v1beta1 StatefulSet, and no API server serves it; write apps/v1"),
        ("apps/v1beta2", "ReplicaSet", "is apps/v1beta2 ReplicaSet, and no API server serves it; write apps/v1"),
        ("v1", "Deployment", "is v1 Deployment, and no API server serves it; write apps/v1"),
        ("apps/v1", "ReplicationController", "is apps/v1 ReplicationController, and no API server serves it; write v1"),
        ("apps/v1", "Job", "is apps/v1 Job, and no API server serves it; write batch/v1"),
        (
            "apps/v1",
            "deployment",
            "is apps/v1 deployment, and no API server serves it; write kind: Deployment with apps/v1",
        ),
    ] {
        let found = messages(&[&object(version, kind, "x")], &[Code::ApiVersion]);
        let object = object(version, kind, "x");
        let kind = manifests(&[&object]).objects[0].kind.as_str();
        let expected: Vec<_> = Some(expected).filter(|words| !words.is_empty()).into_iter().collect();
        let expected: Vec<_> =
            expected.iter().map(|words| format!("0.yaml:1: warning: {kind} default/x: {words}")).collect();
        assert_eq!(found, expected, "{version}");
    }
    let cron = "{apiVersion: batch/v1beta1, kind: CronJob, metadata: {name: x}, spec: {jobTemplate: {spec: {template: {spec: \
                {containers: []}}}}}}";
    let expected =
        "0.yaml:1: warning: CronJob default/x: is batch/v1beta1 CronJob, and no API server serves it; write batch/v1";
    assert_eq!(messages(&[cron], &[Code::ApiVersion]), [expected]);
    // They count all the same, and are the object of the version that is served.
    let removed = object("extensions/v1beta1", "DaemonSet", "x");
    let served = object("apps/v1", "DaemonSet", "z");
    assert_eq!(found(&[&removed, &served], None), ["0.yaml:1: warning api_version", "1.yaml:1: error conflict"]);
    let same = object("apps/v1", "DaemonSet", "x");
    assert_eq!(found(&[&removed, &same], None), ["0.yaml:1: warning api_version", "1.yaml:1: note duplicate"]);
    let controller = object("v1", "ReplicationController", "x");
    assert_eq!(found(&[&controller], Some(3)), ["0.yaml:1: error replicas"]);
}

#[test]
fn pod_templates_of_other_kinds_are_compared() {
    let rollout = object("argoproj.io/v1alpha1", "Rollout", "a");
    let other = object("argoproj.io/v1alpha1", "Rollout", "b");
    let kruise = object("apps.kruise.io/v1alpha1", "DaemonSet", "a");
    // Their controllers alone know how many pods there are.
    assert_eq!(found(&[&rollout], Some(1)), ["0.yaml:1: note other_kind"]);
    let conflict = ["0.yaml:1: note other_kind", "1.yaml:1: warning conflict"];
    assert_eq!(found(&[&rollout, &other], Some(9)), conflict);
    // And so their pods take no nodes from others that are counted.
    let [one, two] =
        ["b", "c"].map(|name| object("apps/v1", "StatefulSet", name).replace("replicas: 4", "replicas: 1"));
    let counted = [&conflict[..], &["2.yaml:1: warning conflict", "2.yaml:1: note conflict"]].concat();
    assert_eq!(found(&[&rollout, &one, &two], Some(3)), counted);
    let notes = ["0.yaml:1: note other_kind", "1.yaml:1: warning conflict", "1.yaml:1: note other_kind"];
    assert_eq!(found(&[&rollout, &kruise], None), notes);
    // One name, two groups or kinds: two objects.
    let served = object("apps/v1", "DaemonSet", "a");
    assert_eq!(found(&[&served, &kruise], None), ["1.yaml:1: warning conflict", "1.yaml:1: note other_kind"]);
    assert_eq!(found(&[&rollout, &rollout], None), ["0.yaml:1: note other_kind", "1.yaml:1: note duplicate"]);
    let none = rollout.replace("replicas: 4", "replicas: 0");
    assert_eq!(found(&[&none, &other], None), ["0.yaml:1: note other_kind"]);
    let expected = "0.yaml:1: note: 2 objects of kind Rollout (argoproj.io/v1alpha1) with pod templates of which the ports \
                    are compared; replicas and updates are not looked at, because the kind is not of Kubernetes";
    assert_eq!(messages(&[&rollout, &other], &[Code::OtherKind]), [expected]);
}

#[test]
fn other_kinds_are_counted() {
    let rollout = object("argoproj.io/v1alpha1", "Rollout", "a");
    let broken = rollout.replace("hostPort: 7007", "hostPort: x");
    let template = format!(
        "{{apiVersion: template.openshift.io/v1, kind: Template, objects: [{}]}}",
        object("apps/v1", "DaemonSet", "a")
    );
    let config = "{apiVersion: v1, kind: ConfigMap, data: {port: '80'}}";
    let unused = "{apiVersion: v1, kind: PodTemplate, template: {spec: {containers: [{name: c}]}}}";
    let schema =
        "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, spec: {containers: {type: array}}}";
    let reference = "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, spec: {workloadRef: {name: x}}}";
    let found = manifests(&[config, &template, reference, &rollout, &broken, config, unused, schema]);
    let kinds: Vec<_> = found
        .other_kinds
        .kinds
        .iter()
        .map(|((version, kind), other)| {
            let line = format!("{version} {kind} {} {} {}", other.count, other.with_template, other.compared);
            (line, other.place.file.to_string())
        })
        .collect();
    let expected = [
        ("apiextensions.k8s.io/v1 CustomResourceDefinition 1 0 0", "7.yaml"),
        ("argoproj.io/v1alpha1 Rollout 3 2 1", "3.yaml"),
        ("template.openshift.io/v1 Template 1 1 0", "1.yaml"),
        ("v1 ConfigMap 2 0 0", "0.yaml"),
        ("v1 PodTemplate 1 0 0", "6.yaml"),
    ];
    assert_eq!(kinds, expected.map(|(line, file)| (line.to_owned(), file.to_owned())));
    assert_eq!((found.objects.len(), found.ignored, found.unreadable.len()), (1, 7, 0));
    let found = messages(&[&template], &[Code::OtherKind]);
    let expected = "0.yaml:1: note: 1 object of kind Template (template.openshift.io/v1) with pod templates that are not \
                    looked at";
    assert_eq!(found, [expected]);
}

#[test]
fn templates_that_are_valid_yaml_are_recognized() {
    for text in [
        "text {{ .x }}",
        "{apiVersion: '{{ .Values.version }}', kind: Pod}",
        "{apiVersion: v1, kind: \"${KIND}\"}",
        "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {hostNetwork: '{{ .Values.hostNetwork }}'}}",
    ] {
        let manifests = manifests(&[text]);
        let [part] = manifests.unreadable.as_slice() else { panic!("{text}: {:?}", manifests.unreadable) };
        assert!(part.message.contains("looks like a template that was not rendered"), "{part:?}");
        let finding = &check(&manifests, &CheckSettings::default()).findings[0];
        assert_eq!(finding.remedy, "render it first, such as with helm template CHART | enforcer check -");
    }
}

/// By name, or by what only such a file has; the file itself decides, whatever it is called.
#[test]
fn files_of_other_tools_are_notes() {
    for (file, text, what, remedy) in [
        ("a/kustomization.yaml", "namespace: demo", "is a kustomization", "kubectl kustomize a | enforcer check -"),
        ("Kustomization", "nameSuffix: x", "is a kustomization", "kubectl kustomize . | enforcer check -"),
        ("/k.yml", "{patches: []}", "is a kustomization", "kubectl kustomize / | enforcer check -"),
        (
            "a/k.yml",
            "{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization}",
            "is a kustomization",
            "kubectl kustomize a | enforcer check -",
        ),
        ("p.json", r#"[{"op": "add", "path": "/spec/x", "value": 1}]"#, "is a JSON patch", "kubectl kustomize . | "),
        ("c/values.yaml", "replicas: 1", "is a file of Helm values", "helm template c | enforcer check -"),
        ("c/values-prod.yaml", "replicas: 1", "is a file of Helm values", "helm template c | enforcer check -"),
        ("c/prod.values.yaml", "replicas: 1", "is a file of Helm values", "helm template c | enforcer check -"),
        (
            "c/Chart.yaml",
            "{apiVersion: v2, name: x, version: 1.0.0}",
            "is the description of a Helm chart",
            "helm template c",
        ),
    ] {
        let root: Node = serde_saphyr::from_str(text).unwrap();
        let contents = read(&root, &Arc::from(file), 0, &CheckSettings::default().limits);
        assert!(contents.unreadable.is_empty(), "{file}: {:?}", contents.unreadable);
        let [remark] = contents.remarks.as_slice() else { panic!("{file}: {:?}", contents.remarks) };
        assert!(remark.message.starts_with(what) && remark.remedy.starts_with(remedy), "{remark:?}");
    }
    for (file, text, foreign) in [
        ("docker-compose.yaml", "services: {}", true),
        ("list.yaml", "- a", true),
        ("half.yaml", "apiVersion: v1", false),
        ("half.yaml", "kind: Pod", false),
        ("text.yaml", "Error", false),
        ("values.yaml", "{kind: Pod, metadata: {name: x}}", false),
    ] {
        let root: Node = serde_saphyr::from_str(text).unwrap();
        let contents = read(&root, &Arc::from(file), 0, &CheckSettings::default().limits);
        assert!(contents.remarks.is_empty(), "{file}: {:?}", contents.remarks);
        assert_eq!(contents.unreadable.iter().map(|part| part.is_foreign).collect::<Vec<_>>(), [foreign], "{file}");
    }
}
