//! From documents to objects: kinds, templates, numbers of pods, placement.

use super::{manifests, object};
use crate::{
    check::{
        CheckSettings, ManifestSet, check,
        object::{ManifestObject, Unreadable, WorkloadKind},
        replica_count::{ReplicaCount, RollingUpdate},
    },
    pods::claims::ClaimLimits,
    yaml::spanned::Node,
};

fn claims(object: &ManifestObject) -> Vec<String> {
    object.claims.iter().map(|claim| format!("{} {} {}", claim.spec, claim.source, object.place_of(claim))).collect()
}

const POD: &str = "\
spec:
  hostNetwork: true
  initContainers:
  - {name: plain, ports: [{containerPort: 1}]}
  - name: sidecar
    restartPolicy: Always
    ports:
    - {containerPort: 2}
  containers:
  - name: main
    ports:
    - containerPort: 80
    - containerPort: 8053
      hostPort: 53
      hostIP: 169.254.20.10
      protocol: UDP
    volumeMounts: 7
  securityContext: {fsGroup: many}
";

/// The same pod in the template of every kind: what it claims, and on which lines.
#[test]
fn templates_of_all_kinds() {
    let annotations = "metadata:\n  annotations:\n    port-enforcer.io/ports: 9100/tcp\n    other: 1\n";
    let indented = |text: &str, depth: usize| -> String {
        text.split_inclusive('\n').flat_map(|line| [" ".repeat(depth), line.to_owned()]).collect()
    };
    let template = format!("{annotations}{POD}");
    for (kind, version, before, depth) in [
        (WorkloadKind::Deployment, "apps/v1", "spec:\n  template:\n", 4),
        (WorkloadKind::DaemonSet, "apps/v1", "spec:\n  template:\n", 4),
        (WorkloadKind::StatefulSet, "apps/v1beta2", "spec:\n  template:\n", 4),
        (WorkloadKind::ReplicaSet, "apps/v1", "spec:\n  template:\n", 4),
        (WorkloadKind::ReplicationController, "v1", "spec:\n  template:\n", 4),
        (WorkloadKind::Job, "batch/v1", "spec:\n  template:\n", 4),
        (WorkloadKind::CronJob, "batch/v1", "spec:\n  jobTemplate:\n    spec:\n      template:\n", 8),
    ] {
        let text = format!(
            "apiVersion: {version}\nkind: {}\nmetadata: {{name: x}}\n{before}{}",
            kind.as_str(),
            indented(&template, depth)
        );
        let object = object(&text);
        let first = 4 + u32::try_from(before.lines().count()).unwrap();
        assert_eq!((object.kind, object.to_string()), (kind, format!("{} default/x", kind.as_str())));
        assert_eq!(
            claims(&object),
            [
                format!("80/tcp hostPort 0.yaml:{}", first + 15),
                format!("169.254.20.10:53/udp hostPort 0.yaml:{}", first + 16),
                format!("2/tcp hostPort 0.yaml:{}", first + 11),
                format!("9100/tcp annotation 0.yaml:{}", first + 2),
            ],
            "{text}"
        );
        assert!(object.problems.is_empty() && object.host_network, "{object:?}");
    }
    let pod = object(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{generateName: x-, namespace: far}}\n{POD}"));
    assert_eq!((pod.to_string().as_str(), claims(&pod).len()), ("Pod far/x-*", 3));
}

#[test]
fn lists_and_what_is_not_read() {
    let item = "{metadata: {name: a}, spec: {containers: [{name: c, ports: [{containerPort: 1, hostPort: 80}]}]}}";
    let found = manifests(&[
        &format!("apiVersion: v1\nkind: PodList\nitems:\n- {item}\n"),
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {containers: []}}\n- \
         {apiVersion: v1, kind: ConfigMap}\n- {kind: Pod}\n",
        "apiVersion: v1\nkind: List\nitems: []\n",
        "apiVersion: argoproj.io/v1alpha1\nkind: Deployment\n",
        "- a list\n",
        "text\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
        "apiVersion: v1\nkind: Pod\nspec: {}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: 7}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: two}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 2}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {}}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\nspec: {}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: true}\nspec: {}\n",
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {}\n",
    ]);
    let names: Vec<_> = found.objects.iter().map(|object| format!("{object} {}", object.place)).collect();
    assert_eq!(names, ["Pod default/a 0.yaml:4", "Pod default/b 1.yaml:4"]);
    assert_eq!(found.ignored, 2);
    let unreadable: Vec<_> =
        found.unreadable.iter().map(|Unreadable { place, message, .. }| format!("{place} {message}")).collect();
    let expected = [
        "1.yaml:6 is no manifest: it has no apiVersion or no kind",
        "4.yaml:1 is no manifest: it has no apiVersion or no kind",
        "5.yaml:1 is no manifest: it has no apiVersion or no kind",
        "6.yaml:1 is not a valid Pod: it has no metadata.name",
        "7.yaml:1 is not a valid Pod: it has no spec",
        "8.yaml:1 is not a valid Pod: it has no metadata",
        "9.yaml:4 is not a valid Pod: spec.hostNetwork is 7; write true or false",
        "10.yaml:4 is not a valid Deployment: spec.replicas is the text \"two\"; write a whole number from 0 on",
        "11.yaml:1 is not a valid Deployment: it has no pod template",
        "12.yaml:1 is not a valid Deployment: its pod template has no spec",
        "13.yaml:3 is not a valid Pod: metadata.name is 7; put it in quotes",
        "14.yaml:3 is not a valid Pod: metadata.namespace is true; put it in quotes",
        "15.yaml:1 is not a valid CronJob: it has no jobTemplate.spec",
    ];
    assert_eq!(unreadable, expected);
}

/// Every field that counts, with a value of another type: the path, the line and the way out.
#[test]
fn wrong_type_names_field_and_line() {
    let template = |spec: &str| {
        format!("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: x}}\nspec:\n  template:\n    spec:\n{spec}")
    };
    let port = |entry: &str| {
        template(&format!(
            "      containers:\n      - {{name: a}}\n      - name: b\n        ports:\n        - {entry}\n"
        ))
    };
    for (text, line, field, problem) in [
        (
            port("{containerPort: 80, hostPort: '7018'}"),
            11,
            "containers[1].ports[0].hostPort",
            r#"the text "7018"; leave out the quotes"#,
        ),
        (
            port("{containerPort: http}"),
            11,
            "containers[1].ports[0].containerPort",
            r#"the text "http"; write a whole number"#,
        ),
        (port("{containerPort: 80.5}"), 11, "containers[1].ports[0].containerPort", "80.5; write a whole number"),
        (port("{containerPort: 80, hostIP: 10}"), 11, "containers[1].ports[0].hostIP", "10; put it in quotes"),
        (
            port("{containerPort: '{{ .Values.port }}'}"),
            11,
            "containers[1].ports[0].containerPort",
            r#"the text "{{ .Values.port }}"; it looks like a template that was not rendered"#,
        ),
        (
            port("{containerPort: [[ .port ]]}"),
            11,
            "containers[1].ports[0].containerPort",
            "a list; it looks like a template that was not rendered",
        ),
        (
            port("{containerPort: '${PORT}'}"),
            11,
            "containers[1].ports[0].containerPort",
            r#"the text "${PORT}"; it looks like a template that was not rendered"#,
        ),
        (port("7018"), 11, "containers[1].ports[0]", "7018; write a mapping"),
        (template("      containers: {name: a}\n"), 7, "containers", "a mapping; write a list"),
        (
            template("      containers: []\n      initContainers:\n      - restartPolicy: true\n"),
            9,
            "initContainers[0].restartPolicy",
            "true; put it in quotes",
        ),
        (template("      hostNetwork: \"true\"\n"), 7, "hostNetwork", r#"the text "true"; leave out the quotes"#),
        (
            template("      containers:\n      - livenessProbe: {httpGet: {port: {number: 80}}}\n"),
            8,
            "containers[0].livenessProbe.httpGet.port",
            "a mapping; write a port or its name",
        ),
        (
            template("      containers:\n      - startupProbe: {grpc: {port: \"80\"}}\n"),
            8,
            "containers[0].startupProbe.grpc.port",
            r#"the text "80"; leave out the quotes"#,
        ),
    ] {
        let found = manifests(&[&text]);
        let expected = format!("is not a valid DaemonSet: spec.template.spec.{field} is {problem}");
        let unreadable: Vec<_> = found.unreadable.iter().map(|part| (part.place.line, part.message.clone())).collect();
        assert_eq!(unreadable, [(Some(line), expected)], "{text}");
    }
    for (text, line, problem) in [
        ("replicas: '2'", 5, r#"spec.replicas is the text "2"; leave out the quotes"#),
        ("replicas: -1", 5, "spec.replicas is -1; write a whole number from 0 on"),
        (
            "strategy:\n    rollingUpdate:\n      maxSurge: '1'",
            7,
            r#"spec.strategy.rollingUpdate.maxSurge is the text "1"; leave out the quotes"#,
        ),
    ] {
        let text = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\nspec:\n  {text}\n  template: {{spec: {{containers: []}}}}\n"
        );
        let found = manifests(&[&text]);
        let unreadable: Vec<_> = found.unreadable.iter().map(|part| (part.place.line, part.message.clone())).collect();
        assert_eq!(unreadable, [(Some(line), format!("is not a valid Deployment: {problem}"))], "{text}");
    }
}

fn node(text: &str) -> Node {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn how_many_pods() {
    let count = |replicas, update: Option<(u32, u32, bool)>| ReplicaCount::Count {
        replicas,
        update: update.map(|(surge, unavailable, stated)| RollingUpdate { surge, unavailable, stated }),
    };
    let rolling = |rest: &str| format!("{{replicas: 5, strategy: {{rollingUpdate: {{{rest}}}}}}}");
    for (text, expected) in [
        ("{}", count(1, Some((1, 0, false)))),
        ("{replicas: 0}", count(0, None)),
        ("{replicas: 3}", count(3, Some((1, 0, false)))),
        ("{replicas: 4}", count(4, Some((1, 1, false)))),
        ("{replicas: 5}", count(5, Some((2, 1, false)))),
        ("{replicas: 9, strategy: {type: Recreate}}", count(9, None)),
        (&rolling("maxSurge: 0"), count(5, Some((0, 1, true)))),
        (&rolling("maxSurge: 0, maxUnavailable: 10%"), count(5, Some((0, 1, true)))),
        (&rolling("maxSurge: 21%, maxUnavailable: 0"), count(5, Some((2, 0, true)))),
        (&rolling("maxSurge: 200%, maxUnavailable: 39%"), count(5, Some((10, 1, true)))),
        (&rolling("maxSurge: 3, maxUnavailable: 2"), count(5, Some((3, 2, true)))),
        (&rolling("maxUnavailable: 40%"), count(5, Some((2, 2, false)))),
    ] {
        assert_eq!(ReplicaCount::of_deployment(&node(text)), Ok(expected), "{text}");
    }
    for text in ["{replicas: -1}", "{replicas: 2147483648}", "{replicas: 1.5}", "{replicas: '1'}"] {
        assert!(ReplicaCount::of_deployment(&node(text)).is_err(), "{text}");
    }
    for bad in ["maxSurge: x", "maxSurge: '%'", "maxSurge: -1", "maxSurge: +5%", "maxUnavailable: '2'"] {
        assert!(ReplicaCount::of_deployment(&node(&rolling(bad))).is_err(), "{bad}");
    }
    for (text, surge) in [
        ("{}", false),
        ("{updateStrategy: {rollingUpdate: {maxSurge: 0}}}", false),
        ("{updateStrategy: {rollingUpdate: {maxSurge: 0%}}}", false),
        ("{updateStrategy: {rollingUpdate: {maxSurge: 1}}}", true),
        ("{updateStrategy: {rollingUpdate: {maxSurge: 1%}}}", true),
        ("{updateStrategy: {type: OnDelete, rollingUpdate: {maxSurge: 1}}}", false),
    ] {
        assert_eq!(ReplicaCount::of_daemon_set(&node(text)), Ok(ReplicaCount::EveryNode { surge }), "{text}");
    }
    for (text, replicas) in [
        ("{}", 1),
        ("{parallelism: 3}", 3),
        ("{parallelism: 3, completions: 2}", 2),
        ("{parallelism: 3, suspend: false}", 3),
        ("{parallelism: 3, suspend: true}", 0),
    ] {
        assert_eq!(ReplicaCount::of_job(&node(text)), Ok(count(replicas, None)), "{text}");
        let runs = format!("{{jobTemplate: {{spec: {text}}}}}");
        assert_eq!(ReplicaCount::of_cron_job(&node(&runs)), Ok(count(replicas, None)), "{runs}");
        let suspended = format!("{{suspend: true, jobTemplate: {{spec: {text}}}}}");
        assert_eq!(ReplicaCount::of_cron_job(&node(&suspended)), Ok(count(0, None)), "{suspended}");
    }
    assert_eq!(ReplicaCount::of_set(&node("{replicas: 2}")), Ok(count(2, None)));
}

/// A pod of a namespace, and the label of the namespace behind it.
fn media(label: &str) -> ManifestSet {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: media, namespace: tenant, annotations: \
               {port-enforcer.io/ports: '80, 30000-39999/udp'}}, spec: {hostNetwork: true, containers: []}}";
    let namespace = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: tenant, labels: {{port-enforcer.io/max-ports: {label}}}}}}}"
    );
    let mut manifests = manifests(&[pod, &namespace]);
    manifests.apply_port_limits(&ClaimLimits { namespace_max_ports: 20_000, ..ClaimLimits::default() });
    manifests
}

#[test]
fn label_of_a_namespace_limits_its_pods() {
    for (label, claims, problems) in
        [("'10001'", 2, 0), ("'10000'", 1, 1), ("'4000000000000'", 2, 0), ("'0'", 0, 2), ("20000", 1, 1)]
    {
        let manifests = media(label);
        let object = &manifests.objects[0];
        assert_eq!((object.claims.len(), object.problems.len()), (claims, problems), "{label}");
        let remarks = usize::from(label == "20000");
        assert_eq!(manifests.remarks.len(), remarks, "{label}");
    }
    let outcome = check(&media("many"), &CheckSettings::default());
    let remark = outcome.findings.iter().find(|finding| finding.message.starts_with("Namespace")).expect("a note");
    assert_eq!(
        (remark.place.to_string().as_str(), &*remark.message, remark.remedy.as_str()),
        (
            "1.yaml:1",
            "Namespace tenant: the label port-enforcer.io/max-ports is no text of digits, and counts for nothing",
            "write a number of ports in quotes"
        )
    );
}

#[test]
fn granted_claims_leave_no_problems_and_no_likely_claims() {
    let pod = |ports: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: media, namespace: tenant, annotations: \
             {{port-enforcer.io/ports: '{ports}'}}}}, spec: {{hostNetwork: true, containers: [{{name: c, livenessProbe: \
             {{tcpSocket: {{port: 5200}}}}}}]}}}}"
        )
    };
    // More ranges than problems are kept one by one, each of them beyond the limit.
    let ports: Vec<String> =
        (0..40).map(|number| format!("{}-{}", 5000 + number * 1100, 6099 + number * 1100)).collect();
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: tenant, labels: \
                     {port-enforcer.io/max-ports: '65535'}}}";
    let mut manifests = manifests(&[&pod(&ports.join(" ")), namespace]);
    let before = &manifests.objects[0];
    assert!(before.more_problems > 0 && before.likely.len() == 1, "{before:?}");
    manifests.apply_port_limits(&ClaimLimits { namespace_max_ports: 65_535, ..ClaimLimits::default() });
    let after = &manifests.objects[0];
    assert_eq!((after.claims.len(), after.problems.len(), after.more_problems, after.likely.len()), (40, 0, 0, 0));
}
