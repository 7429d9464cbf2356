use enforcer_ebpf::wire::UidForm;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::pods::annotation::MAX_PROBLEMS;

const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const UID_BYTES: [u8; 16] =
    [0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8, 0xf9];

fn pod(object: Value) -> Pod {
    from_api(&serde_json::from_value(object).unwrap())
}

#[test]
fn an_empty_object() {
    let pod = from_api(&api::Pod::default());
    assert_eq!(pod.display_name(), "default/");
    assert_eq!((pod.uid, pod.uid_text.as_str(), pod.arrival), (None, "", ARRIVAL_UNKNOWN));
    assert_eq!((pod.phase, pod.host_network, pod.deletion), (Phase::Active, false, None));
    assert_eq!(pod.problems, [PodProblem::UidMissing]);
}

#[test]
fn a_whole_object() {
    let pod = pod(json!({
        "metadata": {
            "namespace": "shop", "name": "web-1", "uid": UID,
            "annotations": {
                "port-enforcer.io/ports": " 80 ",
                "port-enforcer.io/share": " web\n",
                "kubernetes.io/config.mirror": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
                "kubernetes.io/config.hash": "1a1b2c3d4e5f60718293a4b5c6d7e8f9",
            },
            "deletionTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {"nodeName": "node-1", "hostNetwork": true, "containers": []},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "side", "containerID": "cri-o://abc", "image": "", "imageID": "", "ready": true, "restartCount": 0}],
            "containerStatuses": [
                {"name": "web", "containerID": "containerd://def", "image": "", "imageID": "", "ready": true, "restartCount": 0},
                {"name": "waiting", "image": "", "imageID": "", "ready": false, "restartCount": 0},
                {"name": "odd", "containerID": "containerd://", "image": "", "imageID": "", "ready": false, "restartCount": 0},
            ],
            "ephemeralContainerStatuses": [{"name": "debug", "containerID": "ghi", "image": "", "imageID": "", "ready": true, "restartCount": 0}],
        },
    }));
    assert_eq!(pod.display_name(), "shop/web-1");
    assert_eq!((pod.uid, pod.uid_text.as_str()), (Some(UidKey::new(UID_BYTES, UidForm::Api)), UID));
    assert_eq!((pod.node_name.as_deref(), pod.host_network), (Some("node-1"), true));
    assert_eq!((pod.ports_annotation.as_deref(), pod.share.as_deref()), (Some(" 80 "), Some("web")));
    assert_eq!(pod.mirror.as_deref(), Some("0a1b2c3d4e5f60718293a4b5c6d7e8f9"));
    assert_eq!(pod.config_hash.as_deref(), Some("1a1b2c3d4e5f60718293a4b5c6d7e8f9"));
    assert_eq!(pod.deletion.map(|time| time.to_string()).as_deref(), Some("2026-01-02T03:04:05Z"));
    let containers: Vec<_> = pod.containers.iter().map(|known| (known.name.as_str(), known.id.as_str())).collect();
    assert_eq!(containers, [("side", "abc"), ("web", "def"), ("debug", "ghi")]);
    assert_eq!((pod.problems, pod.more_problems), (vec![], 0));
}

#[test]
fn names_are_safe_to_show() {
    let pod = pod(json!({"metadata": {"namespace": "a\nb", "name": "\u{202e}c"}}));
    assert_eq!(pod.display_name(), r"a\u{a}b/\u{202e}c");
}

#[test]
fn uids() {
    for (text, form) in [
        (UID, Some(UidForm::Api)),
        ("0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9", Some(UidForm::Api)),
        ("0a1b2c3d4e5f60718293a4b5c6d7e8f9", Some(UidForm::Static)),
        ("0a1b2c3d4e5f60718293a4b5c6d7e8F9", Some(UidForm::Static)),
        ("0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9", None),
        ("0a1b2c3d4-e5f-6071-8293-a4b5c6d7e8f9", None),
        ("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f", None),
        ("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f90", None),
        ("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fg", None),
        ("0a1b2c3d4e5f60718293a4b5c6d7e8f", None),
        ("my-uid", None),
    ] {
        let key = form.map(|form| UidKey::new(UID_BYTES, form));
        assert_eq!(uid_key(text), key, "{text}");
        let pod = pod(json!({"metadata": {"uid": text}}));
        assert_eq!(pod.uid, key, "{text}");
        let problems: Vec<_> =
            key.is_none().then(|| PodProblem::UidInvalid { text: escape(text) }).into_iter().collect();
        assert_eq!(pod.problems, problems, "{text}");
    }
}

#[test]
fn phases() {
    for (text, phase) in [
        (json!(null), Phase::Active),
        (json!("Pending"), Phase::Active),
        (json!("Running"), Phase::Active),
        (json!("Unknown"), Phase::Active),
        (json!("Succeeded"), Phase::Succeeded),
        (json!("Failed"), Phase::Failed),
    ] {
        assert_eq!(pod(json!({"status": {"phase": text}})).phase, phase, "{text}");
    }
}

#[test]
fn arrivals() {
    let scheduled = |kind: &str, status: &str| {
        pod(json!({
            "metadata": {"creationTimestamp": "1970-01-01T00:00:01Z"},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:03Z"},
                {"type": kind, "status": status, "lastTransitionTime": "1970-01-01T00:00:02Z"},
            ]},
        }))
        .arrival
    };
    assert_eq!(scheduled("PodScheduled", "True"), 2_000_000);
    assert_eq!(scheduled("PodScheduled", "False"), 1_000_000, "that is when it failed to be scheduled");
    assert_eq!(scheduled("Initialized", "True"), 1_000_000);
    let no_time = pod(json!({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}));
    assert_eq!(no_time.arrival, ARRIVAL_UNKNOWN);
}

/// A pod of this controller, whose template has this hash.
fn workload_of(reference: &Value, hash: Option<&str>) -> Option<Workload> {
    let labels = hash.map(|hash| json!({"pod-template-hash": hash}));
    pod(json!({"metadata": {"namespace": "shop", "ownerReferences": [reference], "labels": labels}})).workload
}

fn reference(kind: &str, name: &str, uid: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true})
}

#[test]
fn replica_sets_of_one_deployment_are_one_workload() {
    let old = workload_of(&reference("ReplicaSet", "web-7c9", "u1"), Some("7c9")).unwrap();
    let new = workload_of(&reference("ReplicaSet", "web-8d0", "u2"), Some("8d0")).unwrap();
    assert_eq!((old.kind.as_str(), old.name.as_str()), ("ReplicaSet", "web"));
    assert_eq!(old.key(), new.key());
    let other = workload_of(&reference("ReplicaSet", "api-8d0", "u3"), Some("8d0")).unwrap();
    assert_ne!(old.key(), other.key());
}

#[test]
fn other_controllers_are_known_by_their_uid() {
    for (reference, hash, name) in [
        (reference("DaemonSet", "web-7c9", "u1"), Some("7c9"), "web-7c9"),
        (reference("ReplicaSet", "web-7c9", "u1"), None, "web-7c9"),
        (reference("ReplicaSet", "web-7c9", "u1"), Some(""), "web-7c9"),
        (reference("ReplicaSet", "web-7c9", "u1"), Some("c9"), "web-7c9"),
        (reference("ReplicaSet", "web-7c9", "u1"), Some("8d0"), "web-7c9"),
        (reference("ReplicaSet", "-7c9", "u1"), Some("7c9"), "-7c9"),
    ] {
        let workload = workload_of(&reference, hash).unwrap();
        assert_eq!((workload.name.as_str(), workload.uid.as_str()), (name, "u1"));
        assert_eq!(workload.key(), WorkloadKey::Uid { namespace: "shop".to_owned(), uid: "u1".to_owned() });
    }
}

#[test]
fn a_reference_without_a_uid_is_known_by_its_name() {
    let nameless = json!({"kind": "DaemonSet", "name": "web", "controller": true});
    let key = workload_of(&nameless, None).unwrap().key();
    let [namespace, kind, name] = ["shop", "DaemonSet", "web"].map(str::to_owned);
    assert_eq!(key, WorkloadKey::Name { namespace, kind, name });
}

#[test]
fn who_is_no_controller() {
    assert_eq!(workload_of(&reference("Node", "node-1", "u1"), None), None);
    assert_eq!(workload_of(&json!({"kind": "DaemonSet", "name": "web", "uid": "u1"}), None), None);
    assert_eq!(workload_of(&json!({"kind": "DaemonSet", "name": "web", "uid": "u1", "controller": false}), None), None);
    let second = pod(json!({"metadata": {"ownerReferences": [
        {"kind": "Thing", "name": "thing", "uid": "u0"},
        reference("DaemonSet", "web", "u1"),
    ]}}));
    assert_eq!(second.workload.unwrap().uid, "u1");
}

fn ports_of(host_network: bool, ports: &Value) -> (Vec<String>, Vec<PodProblem>) {
    let pod = pod(json!({
        "metadata": {"uid": UID},
        "spec": {"hostNetwork": host_network, "containers": [{"name": "web", "ports": ports}]},
    }));
    (pod.ports.iter().map(shown).collect(), pod.problems)
}

fn shown(port: &DeclaredPort) -> String {
    format!("{} {}:{} {:?}", port.container, port.host_ip, port.host_port, port.protocol)
}

#[test]
fn declared_ports() {
    for (host_network, entry, expected) in [
        (true, json!({"containerPort": 80}), Some("web *:80 Tcp")),
        (true, json!({"containerPort": 80, "hostPort": 0}), Some("web *:80 Tcp")),
        (true, json!({"containerPort": 80, "hostPort": 81}), Some("web *:81 Tcp")),
        (true, json!({"containerPort": 80, "protocol": "UDP"}), Some("web *:80 Udp")),
        (true, json!({"containerPort": 80, "protocol": "SCTP"}), Some("web *:80 Sctp")),
        (true, json!({"containerPort": 80, "protocol": ""}), Some("web *:80 Tcp")),
        (true, json!({"containerPort": 80, "hostIP": ""}), Some("web *:80 Tcp")),
        (true, json!({"containerPort": 80, "hostIP": "0.0.0.0"}), Some("web 0.0.0.0:80 Tcp")),
        (true, json!({"containerPort": 80, "hostIP": "::"}), Some("web :::80 Tcp")),
        (true, json!({"containerPort": 80, "hostIP": "::ffff:010.0.0.1"}), Some("web 10.0.0.1:80 Tcp")),
        (true, json!({"containerPort": 65535}), Some("web *:65535 Tcp")),
        (false, json!({"containerPort": 80}), None),
        (false, json!({"containerPort": 80, "hostPort": 0}), None),
        (false, json!({"containerPort": 80, "hostPort": 81}), Some("web *:81 Tcp")),
        (false, json!({"containerPort": 80, "protocol": "ICMP", "hostIP": "bad"}), None),
    ] {
        let (ports, problems) = ports_of(host_network, &json!([entry]));
        assert_eq!(ports, expected.into_iter().collect::<Vec<_>>(), "{entry}");
        assert_eq!(problems, [], "{entry}");
    }
}

#[test]
fn bad_declared_ports_leave_the_good_ones() {
    for (entry, sentence) in [
        (json!({"containerPort": 0}), "container 'web' declares port 0; ports are 1 to 65535"),
        (json!({"containerPort": 65536}), "container 'web' declares port 65536; ports are 1 to 65535"),
        (json!({"containerPort": 80, "hostPort": -1}), "container 'web' declares port -1; ports are 1 to 65535"),
        (
            json!({"containerPort": 80, "protocol": "tcp\n"}),
            r"container 'web' declares port 80 with protocol 'tcp\u{a}'; write TCP, UDP or SCTP",
        ),
        (
            json!({"containerPort": 80, "hostIP": "node"}),
            "container 'web' declares port 80 with hostIP 'node', which is not an IP address",
        ),
        (
            json!({"containerPort": 80, "hostIP": "fe80::1%eth0"}),
            "container 'web' declares port 80 with hostIP 'fe80::1%eth0', which has a zone, which a claim cannot have",
        ),
    ] {
        let (ports, problems) = ports_of(true, &json!([entry, {"containerPort": 443}]));
        assert_eq!(ports, ["web *:443 Tcp"], "{entry}");
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [sentence], "{entry}");
    }
}

#[test]
fn which_containers_count() {
    let container = |name: &str, port: u16| json!({"name": name, "ports": [{"containerPort": port}]});
    let mut sidecar = container("sidecar", 3);
    sidecar["restartPolicy"] = json!("Always");
    let mut never = container("never", 4);
    never["restartPolicy"] = json!("Never");
    let pod = pod(json!({
        "metadata": {"uid": UID},
        "spec": {
            "hostNetwork": true,
            "containers": [container("web", 1), {"name": "bare"}],
            "initContainers": [container("init", 2), sidecar, never],
            "ephemeralContainers": [container("debug", 5)],
        },
    }));
    assert_eq!(pod.ports.iter().map(shown).collect::<Vec<_>>(), ["web *:1 Tcp", "sidecar *:3 Tcp"]);
}

#[test]
fn many_problems_are_counted() {
    let ports: Vec<Value> = (0..100).map(|_| json!({"containerPort": 0})).collect();
    let pod = pod(json!({
        "spec": {"hostNetwork": true, "containers": [{"name": "x".repeat(1000), "ports": ports}]},
    }));
    assert_eq!((pod.problems.len(), pod.more_problems), (MAX_PROBLEMS, 101 - MAX_PROBLEMS));
    assert!(pod.problems.iter().all(|problem| problem.to_string().len() < 200));
}

proptest! {
    #[test]
    fn uids_of_any_text(text in any::<String>()) {
        prop_assert_eq!(uid_key(&text), None);
    }

    #[test]
    fn replica_sets_of_any_name(name in any::<String>(), hash in any::<String>()) {
        prop_assert!(workload_of(&reference("ReplicaSet", &name, "u1"), Some(&hash)).is_some());
    }
}
