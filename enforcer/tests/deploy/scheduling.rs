//! The policy of the component `scheduling`, by evaluating its expressions and applying the patch that they make.
//!
//! The truth about the annotation is the agent's parser: what the policy writes is what that one reads. What needs an API
//! server is not tested here: the cost of the expressions, the check of their types, the defaults that the server sets after
//! the patch, and the order among other admission plugins. `cargo xtask e2e` asks a server for it.

use std::sync::LazyLock;

use enforcer_core::{
    model::{
        port_spec::{Address, PortSpec},
        source::ClaimSource,
    },
    pods::{
        annotation::{self, parse_list},
        claims::{ClaimLimits, claims_of},
        pod::{Pod, from_api},
    },
};
use enforcer_testing::{apiserver::ApiServer, tests};
use k8s_openapi::api::{
    admissionregistration::v1beta1::{
        MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingAdmissionPolicySpec,
    },
    core::v1::Pod as PodObject,
};
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, prop_oneof},
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::{
    Test,
    admission_review::{Review, to_json},
    strict::{as_v1beta1, deploy, read, typed},
};

pub(crate) const TESTS: &[Test] = tests![
    items_of_annotation_become_ports,
    addresses_and_ranges_stay_in_annotation,
    bad_items_cost_no_good_ones,
    declared_ports_are_not_written_again,
    policy_writes_what_agent_reads,
    written_ports_are_bounded,
    policy_applied_again_changes_nothing,
    pods_that_are_left_alone,
    policy_is_about_new_pods_only,
    failing_policy_refuses_no_pod,
    namespaces_and_pods_can_be_left_out,
    claims_policy_judges_as_before
];

/// Most items that are written.
const MOST: usize = 64;

fn object(kind: &str) -> Value {
    let objects = read(&deploy().join("components/scheduling/policy.yaml"));
    as_v1beta1(objects.iter().find(|object| object["kind"] == kind).expect("one of this kind"))
}

fn spec() -> MutatingAdmissionPolicySpec {
    static SPEC: LazyLock<MutatingAdmissionPolicySpec> =
        LazyLock::new(|| typed::<MutatingAdmissionPolicy>(&object("MutatingAdmissionPolicy")).spec.expect("a spec"));
    SPEC.clone()
}

/// The operations of the patch, `None` where the policy does not look at the pod.
fn patch(pod: &Value) -> Option<Vec<Value>> {
    let spec = spec();
    let review = Review::new(pod.clone());
    if !spec.match_conditions.iter().flatten().all(|condition| review.holds(&condition.expression, &[])) {
        return None;
    }
    let mut variables = Vec::new();
    for variable in spec.variables.into_iter().flatten() {
        review.add_variable(&mut variables, variable.name, &variable.expression);
    }
    let mutations = spec.mutations.expect("mutations");
    let [mutation] = &mutations[..] else { panic!("one mutation: {mutations:?}") };
    assert_eq!(mutation.patch_type, "JSONPatch");
    let expression = mutation.json_patch.as_ref().and_then(|patch| patch.expression.as_ref()).expect("an expression");
    let operations = to_json(&review.value(expression, &variables));
    Some(operations.as_array().expect("a list").clone())
}

/// The pod after the policy.
fn mutated(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for operation in patch(&pod).unwrap_or_default() {
        assert_eq!(operation["op"], "add", "{operation}");
        let (parent, last) = operation["path"].as_str().and_then(|path| path.rsplit_once('/')).expect("a path");
        match pod.pointer_mut(parent) {
            Some(Value::Array(ports)) if last == "-" => ports.push(operation["value"].clone()),
            Some(Value::Object(parent)) => {
                assert_eq!(parent.insert(last.to_owned(), operation["value"].clone()), None, "something is replaced");
            }
            parent => panic!("{operation} on {parent:?}"),
        }
    }
    pod
}

/// A pod on the host network that claims this.
fn pod(annotation: &str) -> Value {
    json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "3f2c9a1e-8d47-4b7c-9f0a-5e6d7c8b9a01",
            "annotations": { "port-enforcer.io/ports": annotation },
        },
        "spec": { "hostNetwork": true, "containers": [{ "name": "one" }, { "name": "two" }] },
    })
}

fn with_ports(annotation: &str, container: usize, ports: &Value) -> Value {
    let mut pod = pod(annotation);
    pod["spec"]["containers"][container]["ports"] = ports.clone();
    pod
}

/// The ports of the first container that the policy wrote, in the words of the annotation.
fn written(pod: &Value) -> Vec<String> {
    written_between(pod, &mutated(pod))
}

fn written_between(before: &Value, after: &Value) -> Vec<String> {
    let ports = |pod: &Value| pod["spec"]["containers"][0]["ports"].as_array().cloned().unwrap_or_default();
    let (before, after) = (ports(before), ports(after));
    assert_eq!(after[..before.len()], before, "what was there stays");
    let show = |port: &Value| {
        let number = &port["containerPort"];
        let protocol = port["protocol"].as_str().expect("a protocol");
        let expected = json!({ "containerPort": number, "hostPort": number, "protocol": protocol });
        assert_eq!(*port, expected, "both numbers, and no address and no name");
        format!("{number}/{}", protocol.to_lowercase())
    };
    after[before.len()..].iter().map(show).collect()
}

fn facts(pod: &Value) -> Pod {
    from_api(&serde_json::from_value::<PodObject>(pod.clone()).expect("a pod"))
}

/// What the agent reads of the pod: each claim once, in order.
fn claims(pod: &Value) -> Vec<(PortSpec, ClaimSource)> {
    let mut claims: Vec<_> =
        claims_of(&facts(pod), &ClaimLimits::UNLIMITED).claims.iter().map(|claim| (claim.spec, claim.source)).collect();
    claims.sort_unstable();
    claims
}

/// The claims of the annotation that the agent's parser finds to be a port without an address and a range, and that the pod
/// declares nowhere.
fn expected(pod: &Value) -> Vec<String> {
    let text = pod["metadata"]["annotations"]["port-enforcer.io/ports"].as_str().expect("a text");
    let is_range = |position: usize| {
        let item = text.chars().skip(position - 1);
        item.take_while(|letter| *letter != ',' && !letter.is_ascii_whitespace()).any(|letter| letter == '-')
    };
    let items = annotation::items(text).filter(|(position, _)| !is_range(*position)).filter_map(|(_, item)| item.ok());
    let mut writable: Vec<PortSpec> = items.filter(|spec| spec.address == Address::Any).collect();
    writable.truncate(MOST);
    let declared: Vec<_> = facts(pod).ports.iter().map(|port| (port.protocol, port.host_port)).collect();
    let mut written: Vec<String> = Vec::new();
    for spec in writable.iter().filter(|spec| !declared.contains(&(spec.protocol, spec.ports.first()))) {
        let item = spec.to_string();
        if !written.contains(&item) {
            written.push(item);
        }
    }
    written
}

fn items_of_annotation_become_ports() {
    for (text, ports) in [
        ("80", &["80/tcp"][..]),
        ("80/tcp, 53/udp 9/sctp", &["80/tcp", "53/udp", "9/sctp"]),
        ("80\t81,\n,\r\n82\u{c}83 ", &["80/tcp", "81/tcp", "82/tcp", "83/tcp"]),
        ("53/UDP 53/Tcp", &["53/udp", "53/tcp"]),
        ("0080/tcp 65535", &["80/tcp", "65535/tcp"]),
        ("80 80/tcp 080", &["80/tcp"]),
        ("none", &[]),
        ("", &[]),
    ] {
        assert_eq!(written(&pod(text)), ports, "{text:?}");
        assert_eq!(expected(&pod(text)), ports, "{text:?}");
    }
    // The list of ports is added where it is missing, and only where something comes into it.
    assert_eq!(mutated(&pod("none")), pod("none"));
    assert_eq!(written(&with_ports("80", 0, &json!([]))), ["80/tcp"]);
}

/// `ports` has one element per number and protocol: two addresses of one port are two claims that it cannot say. A range
/// would be as many elements as it has ports.
fn addresses_and_ranges_stay_in_annotation() {
    let text = "127.0.0.1:53 169.254.20.10:53/udp [::1]:53/udp [::]:54 0.0.0.0:55 8000-8010/tcp 8000-8000 81";
    assert_eq!(written(&pod(text)), ["81/tcp"]);
    let annotated: Vec<_> =
        claims(&mutated(&pod(text))).into_iter().filter(|(_, source)| *source == ClaimSource::Annotation).collect();
    assert_eq!(annotated.len(), 7, "the agent has them as before: {annotated:?}");
}

fn bad_items_cost_no_good_ones() {
    let long = format!("{}80", "0".repeat(annotation::MAX_ITEM - 1));
    let huge = "9".repeat(40);
    for bad in [
        "0",
        "00000",
        "65536",
        "99999",
        "100000",
        &huge,
        &long,
        "80/",
        "/tcp",
        "80/icmp",
        "80/tcp/udp",
        "80//tcp",
        "+80",
        "-80",
        "8O",
        "80.0",
        "0x50",
        "８０",
        "80/ſctp",
        "80\u{a0}",
        "80;81",
        "null",
        "none",
        "tcp",
        "[80]",
        "{80}",
        "'",
        "\\",
        "\u{b}80",
        "80-",
        "a:80",
        "8010-8000",
    ] {
        for text in [format!("{bad} 443"), format!("443,{bad}"), format!("22 {bad} 443")] {
            assert!(written(&pod(&text)).contains(&"443/tcp".to_owned()), "{text:?}");
            assert_eq!(written(&pod(&text)), expected(&pod(&text)), "{text:?}");
        }
    }
    // As many characters as an item may have.
    assert_eq!(written(&pod(&long[1..])), ["80/tcp"]);
}

fn declared_ports_are_not_written_again() {
    for (declared, left) in [
        (json!({ "containerPort": 80 }), &["81/tcp", "80/udp"][..]),
        (json!({ "containerPort": 80, "hostPort": 80, "protocol": "TCP" }), &["81/tcp", "80/udp"]),
        (json!({ "containerPort": 80, "hostPort": 80, "protocol": "UDP" }), &["80/tcp", "81/tcp"]),
        // One element per number and protocol, whatever the address.
        (json!({ "containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1" }), &["81/tcp", "80/udp"]),
        (json!({ "containerPort": 8080, "protocol": "" }), &["80/tcp", "81/tcp", "80/udp"]),
    ] {
        for container in [0, 1] {
            let pod = with_ports("80 81 80/udp", container, &json!([declared]));
            assert_eq!(written(&pod), left, "{declared} in container {container}");
            assert_eq!(expected(&pod), left, "{declared} in container {container}");
        }
    }
    // A sidecar runs beside the containers. An init container that ends before them does not.
    let both = &["80/tcp", "81/tcp"][..];
    for (policy, left) in [(Some("Always"), &["81/tcp"][..]), (Some("Never"), both), (None, both)] {
        let mut pod = pod("80 81");
        pod["spec"]["initContainers"] =
            json!([{ "name": "init", "ports": [{ "containerPort": 80 }] }, { "name": "other" }]);
        if let Some(policy) = policy {
            pod["spec"]["initContainers"][0]["restartPolicy"] = policy.into();
        }
        assert_eq!(written(&pod), left, "{policy:?}");
        assert_eq!(expected(&pod), left, "{policy:?}");
    }
}

/// Good items, bad ones, and what lies between.
fn texts() -> impl Strategy<Value = String> {
    let port = prop_oneof![
        select(vec!["0", "1", "53", "80", "0080", "443", "65535", "65536", "99999", "123456", ""])
            .prop_map(str::to_owned),
        (1u16..=90).prop_map(|port| port.to_string()),
    ];
    let protocol = select(vec!["", "", "/tcp", "/udp", "/sctp", "/TCP", "/Udp", "/icmp", "/", "/tcp/", "/ſctp"]);
    let address = select(vec!["", "", "", "", "127.0.0.1:", "[::1]:", "0.0.0.0:", "::", "[", "x"]);
    let last = select(vec!["", "", "", "-90", "-80", "-"]);
    let item = (address, port, last, protocol)
        .prop_map(|(address, port, last, protocol)| format!("{address}{port}{last}{protocol}"));
    let item = prop_oneof![9 => item, 1 => Just("none".to_owned())];
    let separator = select(vec![",", " ", ", ", "\t", "\n", "\r\n", "\u{c}", ",,", "\u{b}", ";"]);
    vec((item, separator), 0..90)
        .prop_map(|items| items.into_iter().flat_map(|(item, separator)| [item, separator.to_owned()]).collect())
}

fn policy_writes_what_agent_reads() {
    let declared = vec(
        (1u16..=90, select(vec!["TCP", "UDP", "SCTP"]), select(vec![None, Some("127.0.0.1")])).prop_map(
            |(port, protocol, address)| {
                let port = json!({ "containerPort": port, "hostPort": port, "protocol": protocol });
                address.map_or_else(
                    || port.clone(),
                    |address| {
                        let mut port = port.clone();
                        port["hostIP"] = address.into();
                        port
                    },
                )
            },
        ),
        0..6,
    );
    let server = ApiServer::start();
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(texts(), declared, 0usize..2), |(text, mut ports, container)| {
        ports.sort_by_key(Value::to_string);
        ports.dedup();
        let pod = with_ports(&text, container, &Value::from(ports));
        let after = mutated(&pod);
        let written = written_between(&pod, &after);
        assert_eq!(written, expected(&pod), "{text:?}");
        let specs = |pod: &Value| claims(pod).into_iter().map(|(spec, _)| spec).collect::<Vec<_>>();
        assert_eq!(specs(&after), specs(&pod), "the pod claims the same: {text:?}");
        let said: Vec<_> = written.iter().flat_map(|item| parse_list(item).expect("an item")).collect();
        let by_port = claims(&after).into_iter().filter(|(spec, _)| said.contains(spec));
        assert!(by_port.clone().all(|(_, source)| source == ClaimSource::HostPort), "{text:?}");
        assert_eq!(by_port.count(), said.len(), "{text:?}");
        assert_eq!(mutated(&after), after, "applied twice: {text:?}");
        // Panics if a server would refuse it.
        server.put_pod(serde_json::from_value(after).expect("a pod"));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// The API server limits what an expression may cost.
fn written_ports_are_bounded() {
    let list = |ports: std::ops::Range<usize>| ports.map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    for count in [MOST, MOST + 1, 10 * MOST] {
        let pod = pod(&list(1000..1000 + count));
        assert_eq!(written(&pod).len(), MOST, "{count}");
        assert_eq!(written(&pod), expected(&pod), "the first ones");
        assert_eq!(claims(&mutated(&pod)).len(), count, "the agent knows all");
    }
    let text = |length: usize| format!("80{}", " ".repeat(length - 2));
    assert_eq!(written(&pod(&text(4096))), ["80/tcp"]);
    assert_eq!(patch(&pod(&text(4097))), None, "a longer text is the agent's alone");
}

/// The order of admission plugins is the server's: what comes later may start the policy again.
fn policy_applied_again_changes_nothing() {
    assert_eq!(spec().reinvocation_policy.as_deref(), Some("IfNeeded"));
    let mut after = mutated(&pod("80 53/udp 127.0.0.1:9099 8000-8010"));
    assert_eq!(patch(&after), Some(Vec::new()));
    // Somebody puts a container before the others.
    after["spec"]["containers"].as_array_mut().expect("a list").insert(0, json!({ "name": "injected" }));
    assert_eq!(patch(&after), Some(Vec::new()));
    assert_eq!(claims(&after), claims(&mutated(&pod("80 53/udp 127.0.0.1:9099 8000-8010"))));
}

fn pods_that_are_left_alone() {
    let change = |path: &str, value: Value| {
        let mut pod = pod("80");
        let (parent, key) = path.rsplit_once('/').expect("a path");
        pod.pointer_mut(parent).expect("it is there")[key] = value;
        pod
    };
    let mut bare = change("/spec/hostNetwork", true.into());
    bare["metadata"].as_object_mut().expect("metadata").remove("annotations");
    for (why, pod) in [
        ("it is on a network of its own", change("/spec/hostNetwork", false.into())),
        ("it has no annotations", bare),
        ("it claims nothing", change("/metadata/annotations", json!({ "a": "b" }))),
        ("it shares its ports", change("/metadata/annotations/port-enforcer.io~1share", "pair".into())),
        ("it mirrors a static pod", change("/metadata/annotations/kubernetes.io~1config.mirror", "hash".into())),
        ("it has its node already", change("/spec/nodeName", "node-1".into())),
    ] {
        let pod = serde_json::from_str(&pod.to_string().replace("~1", "/")).expect("JSON");
        assert_eq!(patch(&pod), None, "{why}");
    }
    assert_eq!(written(&change("/spec/nodeName", "".into())), ["80/tcp"], "it has no node yet");
    // A condition that fails for a pod without annotations would decide by the failure policy.
    let review = Review::new(json!({ "metadata": {}, "spec": { "containers": [] } }));
    for condition in spec().match_conditions.iter().flatten() {
        review.holds(&condition.expression, &[]);
    }
}

/// Ports cannot be edited, and templates are merged by tools that damage such lists.
fn policy_is_about_new_pods_only() {
    let rules = spec().match_constraints.and_then(|constraints| constraints.resource_rules).expect("rules");
    let expected =
        json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }]);
    assert_eq!(serde_json::to_value(rules).expect("JSON"), expected);
}

fn failing_policy_refuses_no_pod() {
    let spec = spec();
    assert_eq!(spec.failure_policy.as_deref(), Some("Ignore"));
    assert_eq!(spec.param_kind, None, "nothing else must be there");
}

fn namespaces_and_pods_can_be_left_out() {
    let binding: MutatingAdmissionPolicyBinding = typed(&object("MutatingAdmissionPolicyBinding"));
    let binding = binding.spec.expect("a spec");
    assert_eq!(binding.policy_name.as_deref(), object("MutatingAdmissionPolicy")["metadata"]["name"].as_str());
    let MatchResources { namespace_selector, object_selector, .. } = binding.match_resources.expect("resources");
    let off = json!({ "key": "port-enforcer.io/scheduling", "operator": "NotIn", "values": ["off"] });
    let system = json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "port-enforcer"] });
    let namespaces = serde_json::to_value(namespace_selector).expect("JSON");
    assert_eq!(namespaces, json!({ "matchExpressions": [off, system] }));
    assert_eq!(serde_json::to_value(object_selector).expect("JSON"), json!({ "matchExpressions": [off] }));
}

/// Which claims a namespace may make does not depend on where they are written.
fn claims_policy_judges_as_before() {
    for (listed, text) in [("80/tcp", "80"), ("80 53/udp", "80 53/udp"), ("443", "80"), ("", "80"), ("any", "80 81")] {
        let denied = |object: Value| {
            let mut review = Review::new(object);
            review.params = json!({ "data": { "shop": listed } });
            review.denied_by("claims").is_some()
        };
        assert_eq!(denied(mutated(&pod(text))), denied(pod(text)), "{listed:?} {text:?}");
    }
}
