//! The values of `settings` are flags of the agent, and take what the flags take.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use enforcer_testing::tests;
use serde_json::{Map, Value, json};

use super::{
    chart,
    equivalence::{everything, find},
    objects,
};
use crate::{Test, strict::read};

pub(super) const TESTS: &[Test] =
    tests![every_setting_is_a_flag, every_flag_has_a_value, choices_are_those_of_the_flag, agent_takes_the_settings];

/// A value for each setting, as a user would write it.
fn samples() -> Map<String, Value> {
    let samples = json!({
        "namespaceMode": "stricter", "undeclared": "deny", "handoverGrace": "2m", "lease": "0s", "persist": false,
        "scope": "pods", "sharedPorts": ["5353/udp", "67/udp"], "systemNamespaces": ["kube-system", "cni"],
        "maxPortsPerPod": 65535, "namespaceMaxPorts": 0, "denyErrno": "eperm", "onError": "deny",
        "manageReservedPorts": false, "ledger": false, "servicePorts": "off", "logFormat": "text", "logLevel": "debug",
    });
    let Value::Object(samples) = samples else { panic!("an object") };
    let values = read(&chart().join("values.yaml")).remove(0);
    let names: Vec<_> = values["settings"].as_object().expect("settings").keys().collect();
    assert_eq!(samples.keys().collect::<BTreeSet<_>>(), names.into_iter().collect(), "all of them");
    samples
}

fn environment(values: &Value) -> BTreeMap<String, String> {
    let objects = objects("port-enforcer", values);
    let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
    let variables = agent.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).expect("some");
    let pairs = variables
        .iter()
        .filter_map(|variable| Some((variable["name"].as_str()?.to_owned(), variable["value"].as_str()?.to_owned())));
    pairs.collect()
}

/// `handoverGrace` is `ENFORCER_HANDOVER_GRACE`.
fn variable(setting: &str) -> String {
    let mut name = "ENFORCER_".to_owned();
    for letter in setting.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_enforcer")).args(["run", "--help"]).output().expect("the binary");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn every_setting_is_a_flag() {
    let help = help();
    let plain = environment(&json!({}));
    let set = environment(&json!({ "settings": samples() }));
    for (setting, sample) in samples() {
        let name = variable(&setting);
        assert!(help.contains(&format!("[env: {name}=]")), "{setting}");
        let expected = match &sample {
            Value::String(text) => text.clone(),
            Value::Array(items) if setting == "systemNamespaces" => {
                let names: Vec<_> = items.iter().map(|item| item.as_str().expect("a name")).collect();
                format!("{},$(ENFORCER_POD_NAMESPACE)", names.join(","))
            }
            Value::Array(items) => items.iter().map(|item| item.as_str().expect("text")).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        assert_eq!(set.get(&name), Some(&expected), "{setting}");
        // What is not set is the agent's to choose.
        assert_eq!(plain.contains_key(&name), setting == "systemNamespaces", "{setting}");
    }
}

/// Flags for what a pod has in one place only.
const SAME_IN_EVERY_POD: [&str; 5] =
    ["ENFORCER_ADMIN_SOCKET", "ENFORCER_CGROUP_ROOT", "ENFORCER_KUBECONFIG", "ENFORCER_SOURCE", "ENFORCER_STATE_DIR"];

/// So that a new flag is not forgotten: it is a setting, or another value sets it.
fn every_flag_has_a_value() {
    let help = help();
    let flags = help.split("[env: ").skip(1).map(|rest| rest.split('=').next().expect("a name").to_owned());
    let flags: BTreeSet<String> = flags.collect();
    assert!(flags.len() > 25, "{flags:?}");
    let mut values = everything();
    values["settings"] = samples().into();
    let set = objects("port-enforcer", &values);
    let agent = find(&set, "DaemonSet", "port-enforcer");
    let variables = agent.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).expect("some");
    let set: BTreeSet<_> = variables.iter().map(|variable| variable["name"].as_str().expect("a name")).collect();
    let missing: BTreeSet<_> = flags.iter().map(String::as_str).filter(|flag| !set.contains(flag)).collect();
    assert_eq!(missing, SAME_IN_EVERY_POD.into(), "flags of `enforcer run` that no value of the chart sets");
}

/// The possible values of a flag, in the two forms in which the help has them.
fn choices(help: &str, name: &str) -> Vec<String> {
    let end = help.find(&format!("[env: {name}=]")).expect("a flag");
    let start = help[..end].rfind("\n      --").expect("its name");
    let stop = help[end..].find("\n      --").map_or(help.len(), |at| end + at);
    let text = &help[start..stop];
    if let Some((_, list)) = text.split_once("[possible values: ") {
        return list.split(']').next().expect("an end").split(", ").map(str::to_owned).collect();
    }
    let items = text.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split(':').next());
    items.map(str::to_owned).collect()
}

fn choices_are_those_of_the_flag() {
    let help = help();
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json")).expect("a schema"))
            .expect("JSON");
    let mut compared = 0;
    let settings = schema["properties"]["settings"]["properties"].as_object().expect("settings");
    let mode = ("mode".to_owned(), schema["properties"]["mode"].clone());
    for (setting, schema) in settings.clone().into_iter().chain([mode]) {
        let Some(allowed) = schema["enum"].as_array() else { continue };
        let mut allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).filter(|one| !one.is_empty()).collect();
        let mut choices = choices(&help, &variable(&setting));
        allowed.sort_unstable();
        choices.sort_unstable();
        assert_eq!(allowed, choices, "{setting}");
        compared += 1;
    }
    assert_eq!(compared, 9);
}

/// A flag that is refused ends the agent at once, with code 2; here it gets as far as to look for a cluster.
fn agent_takes_the_settings() {
    let environment = environment(&json!({ "settings": samples() }));
    let run = |more: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
        let settings = samples();
        let ours = settings.keys().map(|setting| variable(setting));
        command.arg("run").env_clear().env("HOME", "/nonexistent").env("ENFORCER_POD_NAMESPACE", "port-enforcer");
        command.envs(ours.filter_map(|name| {
            Some((name.clone(), environment.get(&name)?.replace("$(ENFORCER_POD_NAMESPACE)", "x")))
        }));
        let output = command.envs(more.iter().copied()).output().expect("the binary");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (_, said) = run(&[]);
    assert!(!said.contains("invalid value") && said.contains("cluster"), "{said}");
    let (code, said) = run(&[("ENFORCER_LEASE", "an hour")]);
    assert!(code == Some(2) && said.contains("an hour"), "{said}");
}
