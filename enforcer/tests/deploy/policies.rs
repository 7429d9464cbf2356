//! The validating admission policies, by evaluating their expressions.

use cel::Value as Cel;
use k8s_openapi::api::{
    admissionregistration::v1::{
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
    },
    core::v1::{NodeConfigSource, NodeSpec},
};
use serde_json::{Value, json};

use enforcer_core::{model::namespace_label::NamespaceLabel, startup_taint::TaintRemoval};
use enforcer_testing::tests;

use crate::{
    Test,
    admission_review::Review,
    strict::{deploy, read, typed},
};

pub(crate) const TESTS: &[Test] = tests![
    only_kubelets_create_mirror_pods,
    namespace_claims_listed_ports_only,
    unchanged_claims_may_stay,
    mode_label_needs_its_own_permission,
    port_limit_label_needs_its_own_permission,
    agent_events_carry_its_own_name,
    agent_writes_the_ledger_of_its_own_node,
    agent_removes_the_startup_taint_of_its_own_node,
    agent_changes_nothing_else_of_a_node,
    every_policy_is_bound_and_denies
];

/// Every policy, and the component that it is in.
const FILES: [(&str, &str); 7] = [
    ("mirror-pods", "policies"),
    ("claims", "policies"),
    ("mode-label", "policies"),
    ("port-limit-label", "policies"),
    ("own-events", "policies"),
    ("own-ledger", "policies"),
    ("policy", "startup-taint"),
];

fn objects(file: &str) -> Vec<Value> {
    let (_, component) = FILES.into_iter().find(|(known, _)| *known == file).expect("a policy");
    read(&deploy().join(format!("components/{component}/{file}.yaml")))
}

fn spec(file: &str) -> ValidatingAdmissionPolicySpec {
    let found = objects(file).into_iter().find(|object| object["kind"] == "ValidatingAdmissionPolicy");
    typed::<ValidatingAdmissionPolicy>(&found.expect("a policy")).spec.expect("a spec")
}

impl Review {
    /// Why the policy denies it, `None` if it does not.
    pub(crate) fn denied_by(&self, file: &str) -> Option<String> {
        let spec = spec(file);
        if !spec.match_conditions.iter().flatten().all(|condition| self.holds(&condition.expression, &[])) {
            return None;
        }
        let mut variables = Vec::new();
        for variable in spec.variables.into_iter().flatten() {
            self.add_variable(&mut variables, variable.name, &variable.expression);
        }
        let broken = spec.validations.into_iter().flatten().find(|rule| !self.holds(&rule.expression, &variables))?;
        Some(match broken.message_expression {
            Some(expression) => match self.value(&expression, &variables) {
                Cel::String(message) => message.to_string(),
                other => panic!("{expression} is {other:?}"),
            },
            None => broken.message.expect("a message"),
        })
    }
}

fn mirror(hash: &str) -> Value {
    json!({ "metadata": { "name": "etcd", "annotations": { "kubernetes.io/config.mirror": hash } } })
}

fn only_kubelets_create_mirror_pods() {
    let tenant = Review::new(mirror("a"));
    assert!(tenant.denied_by("mirror-pods").is_some_and(|why| why.contains("kubelet")));
    let mut kubelet = tenant.clone();
    kubelet.request["userInfo"]["groups"] = json!(["system:nodes", "system:authenticated"]);
    assert_eq!(kubelet.denied_by("mirror-pods"), None);
    // What a mirror pod carries already may stay when somebody labels it, and may not change.
    assert_eq!(tenant.clone().instead_of(mirror("a")).denied_by("mirror-pods"), None);
    assert!(tenant.clone().instead_of(mirror("b")).denied_by("mirror-pods").is_some());
    assert!(tenant.instead_of(json!({ "metadata": { "name": "etcd" } })).denied_by("mirror-pods").is_some());
    for object in [json!({ "metadata": { "name": "a" } }), json!({ "metadata": { "annotations": { "a": "b" } } })] {
        assert_eq!(Review::new(object).denied_by("mirror-pods"), None);
    }
}

fn pod(annotation: Option<&str>, ports: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "name": "pod" },
        "spec": { "containers": [{ "name": "one" }, { "name": "two", "ports": ports }] },
    });
    if let Some(annotation) = annotation {
        pod["metadata"]["annotations"] = json!({ "port-enforcer.io/ports": annotation });
    }
    pod
}

fn claims(lists: &Value, pod: Value) -> Option<String> {
    let mut request = Review::new(pod);
    request.params = json!({ "data": lists });
    request.denied_by("claims")
}

fn namespace_claims_listed_ports_only() {
    let lists = json!({ "_default": "", "shop": "80/tcp 443, 8000-8010/udp\n127.0.0.1:9099/tcp" });
    let annotated = |text| claims(&lists, pod(Some(text), &json!([])));
    for fine in ["80", "80/tcp,443/tcp", "  443\t80\r\n", "8000-8010/udp", "127.0.0.1:9099", "none", ""] {
        assert_eq!(annotated(fine), None, "{fine:?}");
    }
    for bad in ["81", "80/udp", "8000-8009/udp", "8000/udp", "80 22", "127.0.0.1:80", "any", "any/tcp", "80/TCP"] {
        assert!(annotated(bad).is_some_and(|why| why.contains("pods of shop may not claim")), "{bad:?}");
    }
    let declared = |ports: &Value| claims(&lists, pod(None, ports));
    assert_eq!(declared(&json!([{ "containerPort": 8080 }, { "containerPort": 1, "hostPort": 80 }])), None);
    assert_eq!(declared(&json!([{ "hostPort": 443, "protocol": "TCP" }])), None);
    for bad in [
        json!([{ "hostPort": 22 }]),
        json!([{ "hostPort": 80, "protocol": "UDP" }]),
        json!([{ "hostPort": 443, "protocol": "SCTP" }]),
    ] {
        assert!(declared(&bad).is_some(), "{bad}");
    }
    let mut sidecar = pod(None, &json!([]));
    sidecar["spec"]["initContainers"] = json!([{ "name": "sidecar", "ports": [{ "hostPort": 22 }] }]);
    assert!(claims(&lists, sidecar).is_some());
    // Who is not listed has the default, which is all to begin with.
    let committed = objects("claims").into_iter().find(|object| object["kind"] == "ConfigMap").expect("a list");
    assert_eq!(claims(&committed["data"], pod(Some("22 1-65535/udp"), &json!([{ "hostPort": 22 }]))), None);
    assert!(claims(&json!({ "_default": "" }), pod(Some("80"), &json!([]))).is_some());
    assert!(claims(&json!({}), pod(Some("80"), &json!([]))).is_some());
    assert!(claims(&json!({ "_default": "any", "shop": "443" }), pod(Some("80"), &json!([]))).is_some());
}

/// The controllers of a pod must be able to change it, whatever its list has become.
fn unchanged_claims_may_stay() {
    let update = |new: Option<&str>, old: Option<&str>| {
        let ports = json!([{ "hostPort": 22 }]);
        let mut request = Review::new(pod(new, &ports)).instead_of(pod(old, &ports));
        request.params = json!({ "data": { "shop": "22" } });
        request.denied_by("claims")
    };
    assert_eq!(update(Some("80"), Some("80")), None);
    assert_eq!(update(None, Some("80")), None);
    assert_eq!(update(None, None), None);
    assert_eq!(update(Some("22"), Some("80")), None);
    assert!(update(Some("80 81"), Some("80")).is_some());
    assert!(update(Some("80"), None).is_some());
}

fn mode_label_needs_its_own_permission() {
    check_label("mode-label", NamespaceLabel::Mode, ["audit", "enforce", "x"]);
}

fn port_limit_label_needs_its_own_permission() {
    check_label("port-limit-label", NamespaceLabel::MaxPorts, ["20000", "0", "20k"]);
}

/// Checks the policy of a label: two values that it may have, and one that it may not.
fn check_label(policy: &str, label: NamespaceLabel, [one, other, bad]: [&str; 3]) {
    let namespace = |value: Option<&str>| {
        let mut namespace = json!({ "metadata": { "name": "shop", "labels": { "a": "b" } } });
        if let Some(value) = value {
            namespace["metadata"]["labels"][label.key()] = value.into();
        }
        namespace
    };
    let request = |new, old: Option<Option<&str>>, authorized| {
        let mut request = Review::new(namespace(new)).instead_of(old.map_or(Value::Null, namespace));
        request.authorized = authorized;
        request.permission = match label {
            NamespaceLabel::Mode => "modes",
            NamespaceLabel::MaxPorts => "portlimits",
        };
        request.denied_by(policy)
    };
    for (new, old) in [(None, None), (None, Some(None)), (Some(one), Some(Some(one))), (Some(bad), Some(Some(bad)))] {
        assert_eq!(request(new, old, false), None, "{new:?} {old:?} is no change");
    }
    for (new, old) in
        [(Some(one), None), (Some(other), Some(None)), (Some(one), Some(Some(other))), (None, Some(Some(other)))]
    {
        assert!(request(new, old, false).is_some_and(|why| why.contains("the verb set")), "{new:?} {old:?}");
        assert_eq!(request(new, old, true), None, "{new:?} {old:?}");
    }
    assert!(request(Some(bad), Some(None), true).is_some_and(|why| why.contains(label.values())));
    assert_eq!(Review::new(json!({ "metadata": { "name": "shop" } })).denied_by(policy), None, "no labels at all");
}

fn event(kind: &str, name: &str, instance: &str) -> Value {
    json!({
        "reportingController": "port-enforcer.io/agent", "reportingInstance": instance,
        "regarding": { "kind": kind, "name": name, "namespace": "shop" },
    })
}

fn agent_events_carry_its_own_name() {
    let by_agent = |object: Value| {
        let mut request = Review::new(object);
        request.request = json!({
            "namespace": "shop", "resource": { "group": "events.k8s.io" },
            "userInfo": {
                "username": "system:serviceaccount:port-enforcer:port-enforcer", "groups": [],
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["agent-1"],
                    "authentication.kubernetes.io/node-name": ["node-1"],
                },
            },
        });
        request
    };
    let denied = |request: Review| request.denied_by("own-events");
    let own = || by_agent(event("Pod", "nginx", "agent-1"));
    assert_eq!(denied(own()), None);
    assert_eq!(denied(own().instead_of(event("Pod", "nginx", "agent-1"))), None);
    assert_eq!(denied(by_agent(event("Node", "node-1", "agent-1"))), None);
    assert_eq!(denied(by_agent(event("Service", "shop", "agent-1"))), None);
    assert!(denied(by_agent(event("Node", "node-2", "agent-1"))).is_some());
    assert!(denied(by_agent(event("Deployment", "nginx", "agent-1"))).is_some());
    assert!(denied(by_agent(event("Pod", "nginx", "agent-2"))).is_some());
    assert!(denied(own().instead_of(event("Pod", "nginx", "agent-2"))).is_some(), "somebody else's");
    assert!(denied(own().instead_of(json!({}))).is_some(), "somebody else's");
    let mut forged = event("Pod", "nginx", "agent-1");
    forged["reportingController"] = "kubelet".into();
    assert!(denied(by_agent(forged)).is_some());
    let mut older = own();
    older.request["resource"]["group"] = "".into();
    assert!(denied(older).is_some(), "by the older name");
    let mut bare = own();
    bare.request["userInfo"].as_object_mut().expect("an object").remove("extra");
    assert!(denied(bare).is_some(), "a token of no pod");
    // Others are none of its business.
    let mut other = own();
    other.request["userInfo"]["username"] = "system:serviceaccount:kube-system:job-controller".into();
    other.object = json!({});
    assert_eq!(denied(other), None);
}

fn agent_writes_the_ledger_of_its_own_node() {
    let ledger = |name: &str, owner: &str| {
        json!({ "metadata": { "name": name, "ownerReferences": [
            { "apiVersion": "v1", "kind": "Node", "name": owner, "uid": "u" },
        ] } })
    };
    let by = |user: &str, object: Value| {
        let mut request = Review::new(object);
        request.request = json!({
            "resource": { "group": "port-enforcer.io" },
            "userInfo": {
                "username": user, "groups": [],
                "extra": { "authentication.kubernetes.io/node-name": ["node-1"] },
            },
        });
        request
    };
    let by_agent = |object: Value| by("system:serviceaccount:port-enforcer:port-enforcer", object);
    let denied = |request: Review| request.denied_by("own-ledger");
    assert_eq!(denied(by_agent(ledger("node-1", "node-1"))), None);
    assert!(denied(by_agent(ledger("node-2", "node-2"))).is_some_and(|why| why.contains("its own node only")));
    let belongs = |why: Option<String>| why.is_some_and(|why| why.contains("belongs to the Node of its name"));
    assert!(belongs(denied(by_agent(ledger("node-1", "node-2")))), "another owner");
    assert!(belongs(denied(by_agent(json!({ "metadata": { "name": "node-1" } })))), "no owner: it would stay for ever");
    let mut two = ledger("node-1", "node-1");
    two["metadata"]["ownerReferences"].as_array_mut().expect("a list").push(json!({ "kind": "Pod" }));
    assert!(belongs(denied(by_agent(two))), "a second owner");
    let mut bare = by_agent(ledger("node-1", "node-1"));
    bare.request["userInfo"].as_object_mut().expect("an object").remove("extra");
    assert!(denied(bare).is_some(), "a token of no node");
    // Others may, if RBAC lets them.
    assert_eq!(denied(by("kubernetes-admin", ledger("node-2", "node-2"))), None);
}

const STARTUP_TAINT: &str = "port-enforcer.io/agent-not-ready";

fn taint(key: &str, effect: &str) -> Value {
    json!({ "key": key, "effect": effect, "timeAdded": "2026-01-01T00:00:00Z" })
}

fn tainted(name: &str, taints: &[Value]) -> Value {
    json!({ "metadata": { "name": name, "resourceVersion": "7" }, "spec": { "podCIDR": "10.0.0.0/24", "taints": taints } })
}

/// Why the agent of `node-1` may not make this of that Node.
fn node_update(new: Value, old: Value) -> Option<String> {
    let mut request = Review::new(new).instead_of(old);
    request.request = json!({
        "resource": { "group": "" },
        "userInfo": {
            "username": "system:serviceaccount:port-enforcer:port-enforcer", "groups": [],
            "extra": { "authentication.kubernetes.io/node-name": ["node-1"] },
        },
    });
    request.denied_by("policy")
}

fn agent_removes_the_startup_taint_of_its_own_node() {
    let (execute, schedule) = (taint(STARTUP_TAINT, "NoExecute"), taint(STARTUP_TAINT, "NoSchedule"));
    let (prefer, gpu, cold) =
        (taint(STARTUP_TAINT, "PreferNoSchedule"), taint("gpu", "NoSchedule"), taint("cold", "NoExecute"));
    let update = |new: &[&Value], old: &[&Value]| {
        let [new, old] = [new, old].map(|taints| taints.iter().map(|taint| (*taint).clone()).collect::<Vec<_>>());
        node_update(tainted("node-1", &new), tainted("node-1", &old))
    };
    assert_eq!(update(&[], &[&execute]), None);
    assert_eq!(update(&[&gpu, &cold], &[&gpu, &execute, &cold, &schedule]), None);
    assert_eq!(update(&[&schedule], &[&execute, &schedule]), None);
    let bare = json!({ "metadata": { "name": "node-1" }, "spec": {} });
    let bare_before = json!({ "metadata": { "name": "node-1" }, "spec": { "taints": [execute] } });
    assert_eq!(node_update(bare, bare_before), None, "the last taint takes the list with it");
    let taints_only = |why: Option<String>| why.is_some_and(|why| why.contains("agent-not-ready only"));
    assert!(taints_only(update(&[], &[&execute, &gpu])), "another taint is removed");
    assert!(taints_only(update(&[], &[&prefer])), "another effect");
    assert!(taints_only(update(&[&execute], &[])), "the taint is added");
    assert!(taints_only(update(&[&cold], &[&execute])), "another is put in its place");
    let mut changed = gpu.clone();
    changed["value"] = "other".into();
    assert!(taints_only(update(&[&changed], &[&gpu])), "a taint is changed");
    let other = |name: &str| tainted(name, std::slice::from_ref(&execute));
    assert!(node_update(tainted("node-2", &[]), other("node-2")).is_some_and(|why| why.contains("its own Node only")));
    let mut without_token = Review::new(tainted("node-1", &[])).instead_of(other("node-1"));
    without_token.request["userInfo"]["username"] = "system:serviceaccount:port-enforcer:port-enforcer".into();
    assert!(without_token.denied_by("policy").is_some(), "a token of no node");
    // Others may, if RBAC lets them.
    assert_eq!(Review::new(tainted("node-2", &[])).instead_of(other("node-2")).denied_by("policy"), None);
    // The agent removes what the policy lets it remove.
    let key = STARTUP_TAINT.parse().expect("a key");
    for effect in ["NoExecute", "NoSchedule", "PreferNoSchedule"] {
        let before = tainted("node-1", &[taint(STARTUP_TAINT, effect)]);
        let node = serde_json::from_value(before.clone()).expect("a Node");
        let is_allowed = node_update(tainted("node-1", &[]), before).is_none();
        assert_eq!(TaintRemoval::of(&node, &key).is_some(), is_allowed, "{effect}");
    }
}

fn agent_changes_nothing_else_of_a_node() {
    let before = tainted("node-1", &[taint(STARTUP_TAINT, "NoExecute")]);
    // Every field by name, so that a new one is not forgotten.
    let full = NodeSpec {
        config_source: Some(NodeConfigSource::default()),
        external_id: Some("e".to_owned()),
        pod_cidr: Some("10.1.0.0/24".to_owned()),
        pod_cidrs: Some(vec!["10.1.0.0/24".to_owned()]),
        provider_id: Some("p".to_owned()),
        taints: None,
        unschedulable: Some(true),
    };
    let fields = serde_json::to_value(full).expect("JSON");
    let fields = fields.as_object().expect("fields");
    assert_eq!(fields.len(), 6);
    let changed = |part: &str, field: &str, value: &Value| {
        let mut new = before.clone();
        new["spec"]["taints"] = json!([]);
        new[part][field] = value.clone();
        new
    };
    for (field, value) in fields {
        let new = changed("spec", field, value);
        let why = node_update(new.clone(), before.clone());
        assert!(why.is_some_and(|why| why.contains("taints only")), "{field}");
        assert!(node_update(before.clone(), new.clone()).is_some(), "{field} is removed");
        let mut old = new.clone();
        old["spec"]["taints"] = before["spec"]["taints"].clone();
        assert_eq!(node_update(new, old), None, "{field} stays");
    }
    for (field, value) in [
        ("labels", json!({ "a": "b" })),
        ("annotations", json!({ "a": "b" })),
        ("finalizers", json!(["a/b"])),
        ("ownerReferences", json!([{ "kind": "Pod" }])),
    ] {
        let new = changed("metadata", field, &value);
        let why = node_update(new.clone(), before.clone());
        assert!(why.is_some_and(|why| why.contains("no label, annotation")), "{field}");
        assert!(node_update(before.clone(), new).is_some(), "{field} is removed");
    }
}

fn every_policy_is_bound_and_denies() {
    for (file, _) in FILES {
        let objects = objects(file);
        let bound =
            objects.iter().find(|object| object["kind"] == "ValidatingAdmissionPolicyBinding").expect("a binding");
        let policy = objects.iter().find(|object| object["kind"] == "ValidatingAdmissionPolicy").expect("a policy");
        let binding = typed::<ValidatingAdmissionPolicyBinding>(bound).spec.expect("a spec");
        assert_eq!(binding.policy_name.as_deref(), policy["metadata"]["name"].as_str(), "{file}");
        assert_eq!(binding.validation_actions, Some(vec!["Deny".to_owned()]), "{file}");
        let spec = spec(file);
        assert_eq!(spec.failure_policy.as_deref(), Some("Fail"), "{file}");
        assert_eq!(spec.param_kind.is_some(), binding.param_ref.is_some(), "{file}");
    }
}
