//! The manifests and the binary agree: what the containers are told is what the binary takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Output, Stdio},
};

use enforcer_testing::tests;

use crate::{
    Test,
    overlays::{AGENTS, container, mounts},
    rendering::OVERLAYS,
};

pub(crate) const TESTS: &[Test] = tests![
    every_environment_variable_is_a_flag,
    overlay_sets_the_mode,
    agent_namespace_is_a_system_namespace,
    binary_accepts_agent_arguments,
    binary_accepts_cleanup_arguments,
    mounts_of_flags_are_writable
];

/// The exit code, and what it wrote.
fn run<'a>(arguments: &[String], environment: impl IntoIterator<Item = (&'a String, &'a String)>) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    // Nothing that it would find a cluster by.
    command.args(arguments).env_clear().env("HOME", "/nonexistent").envs(environment).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("running the binary");
    let text = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
    (status.code().expect("an exit code"), text)
}

/// The variables that `enforcer run` heeds.
fn known() -> BTreeSet<String> {
    let (code, help) = run(&["run".to_owned(), "--help".to_owned()], []);
    assert_eq!(code, 0, "{help}");
    let names = help.lines().filter_map(|line| line.trim().strip_prefix("[env: ")?.strip_suffix("=]"));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    assert!(names.contains("ENFORCER_MODE"), "{names:?}");
    names
}

/// The container's environment as the kubelet makes it on a node: fields of the pod, and references to what stands above.
fn environment(overlay: &str) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    for variable in container(overlay).env.expect("an environment") {
        let field = variable.value_from.and_then(|source| source.field_ref).map(|field| field.field_path);
        let mut value = match (variable.value, field.as_deref()) {
            (Some(value), None) => value,
            (None, Some("spec.nodeName")) => "node-1".to_owned(),
            (None, Some("metadata.name")) => "port-enforcer-x2x4z".to_owned(),
            (None, Some("metadata.namespace")) => "port-enforcer".to_owned(),
            other => panic!("{}: {other:?}", variable.name),
        };
        for (name, above) in &environment {
            value = value.replace(&format!("$({name})"), above);
        }
        // The kubelet leaves a reference to what stands below as it is.
        assert!(!value.contains("$("), "{}: {value}", variable.name);
        assert_eq!(environment.insert(variable.name.clone(), value), None, "{} is set once", variable.name);
    }
    environment
}

fn every_environment_variable_is_a_flag() {
    let known = known();
    for overlay in AGENTS {
        let variables = container(overlay).env.expect("an environment");
        for variable in &variables {
            assert!(known.contains(&variable.name), "{overlay}: {} is no flag", variable.name);
        }
        for (name, path) in [
            ("ENFORCER_NODE_NAME", "spec.nodeName"),
            ("ENFORCER_POD_NAME", "metadata.name"),
            ("ENFORCER_POD_NAMESPACE", "metadata.namespace"),
        ] {
            let variable = variables.iter().find(|variable| variable.name == name);
            let field = variable.and_then(|variable| variable.value_from.as_ref()?.field_ref.as_ref());
            assert_eq!(field.map(|field| field.field_path.as_str()), Some(path), "{overlay}: {name}");
        }
    }
}

fn overlay_sets_the_mode() {
    for overlay in AGENTS {
        assert_eq!(environment(overlay)["ENFORCER_MODE"], overlay);
    }
}

fn agent_namespace_is_a_system_namespace() {
    for overlay in AGENTS {
        let environment = environment(overlay);
        assert_eq!(environment["ENFORCER_SYSTEM_NAMESPACES"], "kube-system,port-enforcer", "{overlay}");
    }
}

/// The parser comes first, and then the search for a cluster, of which there is none here: so far, and no further.
fn binary_accepts_agent_arguments() {
    for overlay in AGENTS {
        let arguments = container(overlay).args.expect("arguments");
        let environment = environment(overlay);
        let (code, said) = run(&arguments, &environment);
        assert_eq!(code, 2, "{overlay}: {said}");
        assert!(said.starts_with("enforcer: no cluster configuration was found: "), "{overlay}: {said}");

        // And it does read them.
        for name in ["ENFORCER_MODE", "ENFORCER_LISTEN"] {
            let mut wrong = environment.clone();
            let before = wrong.insert(name.to_owned(), "wrong".to_owned());
            assert!(before.is_some(), "{overlay}: {name} is set");
            let (code, said) = run(&arguments, &wrong);
            assert_eq!(code, 2, "{overlay}: {said}");
            assert!(said.starts_with("error: invalid value 'wrong' for '--"), "{overlay}: {name}: {said}");
        }
    }
}

/// What comes behind the container's arguments is the first thing that the parser does not know.
fn binary_accepts_cleanup_arguments() {
    let mut arguments = container("uninstall").args.expect("arguments");
    arguments.push("--unknown".to_owned());
    let (code, said) = run(&arguments, []);
    assert_eq!(code, 2, "{said}");
    assert!(said.starts_with("error: unexpected argument '--unknown' found"), "{said}");
}

/// The agent and the cleanup are told where it is, or know.
fn mounts_of_flags_are_writable() {
    let cleanup = container("uninstall").args.expect("arguments");
    for (flag, variable, host) in [
        ("--bpffs", "ENFORCER_BPFFS", "/sys/fs/bpf"),
        ("--proc-sys", "ENFORCER_PROC_SYS", "/proc/sys/net/ipv4/ip_local_reserved_ports"),
        ("--state-dir", "ENFORCER_STATE_DIR", "/run/port-enforcer"),
    ] {
        for overlay in OVERLAYS {
            let mounts = mounts(overlay);
            let (_, here, read_only) = mounts.iter().find(|(path, ..)| path == host).expect("a mount");
            assert!(!read_only, "{overlay}: {host}");
            let told = if overlay == "uninstall" {
                cleanup.iter().position(|argument| argument == flag).map(|place| cleanup[place + 1].clone())
            } else {
                environment(overlay).get(variable).cloned()
            };
            let default = (flag == "--state-dir").then(|| host.to_owned());
            let told = told.or(default).expect("it is told");
            // A folder on the mount, or a root with the mount below it.
            assert!(told.starts_with(here.as_str()) || here.starts_with(&told), "{overlay}: {flag} {told}, {here}");
        }
    }
}
