//! The units: the agent on nodes without Kubernetes, and the restore at boot. Without systemd-analyze what systemd thinks of it is not asked, and that is
//! said.

use std::{
    collections::BTreeMap,
    fs, io,
    process::{Command, Stdio},
};

use libtest_mimic::{Completion, Trial};
use tempfile::TempDir;

use enforcer_testing::tests;

use crate::{
    Test,
    strict::{deploy, read},
};

pub(crate) const TESTS: &[Test] =
    tests![unit_has_daemonset_capabilities, restore_is_ordered_before_every_usual_unit, binary_accepts_unit_arguments];

const WITH_SYSTEMD: &[Test] = tests![systemd_accepts_unit_as_hardened];

/// How exposed systemd may find it, of 100: less than half of what an unhardened unit is.
const EXPOSURE: u32 = 30;

/// The units, and the program that each runs.
const UNITS: [(&str, &str); 2] = [
    ("port-enforcer.service", "/usr/local/bin/enforcer"),
    ("port-enforcer-restore.service", "/usr/local/libexec/port-enforcer/enforcer"),
];

fn unit(name: &str) -> String {
    fs::read_to_string(deploy().join("systemd").join(name)).expect("a unit")
}

/// Settings that stand once.
fn settings(name: &str) -> BTreeMap<String, String> {
    let unit = unit(name);
    let lines = unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn unit_has_daemonset_capabilities() {
    let daemonset = read(&deploy().join("base/daemonset.yaml")).remove(0);
    let context = &daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let added = context["capabilities"]["add"].as_array().expect("a list");
    let expected: Vec<String> = added.iter().map(|name| format!("CAP_{}", name.as_str().expect("a name"))).collect();
    let [agent, restore] = UNITS.map(|(name, _)| settings(name));
    assert_eq!(agent["CapabilityBoundingSet"], expected.join(" "));
    assert_eq!(restore["CapabilityBoundingSet"], [expected, vec!["CAP_SYS_RESOURCE".to_owned()]].concat().join(" "));
    assert_eq!((&*agent["NoNewPrivileges"], &*restore["NoNewPrivileges"]), ("yes", "yes"));
}

/// Whatever the kubelet's unit is called, it has the default dependencies, and so starts after `basic.target`
/// (systemd.service(5)).
fn restore_is_ordered_before_every_usual_unit() {
    let restore = settings("port-enforcer-restore.service");
    assert_eq!(restore["DefaultDependencies"], "no");
    assert!(restore["Before"].split(' ').any(|unit| unit == "basic.target"));
    assert_eq!((&*restore["WantedBy"], &*restore["Type"]), ("basic.target", "oneshot"));
    let agent = settings("port-enforcer.service");
    assert_eq!(agent["StateDirectory"], "port-enforcer");
    assert!(
        agent["Environment"].ends_with("=/var/lib/port-enforcer") && agent["Environment"] == restore["Environment"]
    );
}

/// So far, and to the first thing that the parser does not know.
fn binary_accepts_unit_arguments() {
    for (name, program) in UNITS {
        let start = settings(name)["ExecStart"].clone();
        let mut words = start.split(' ');
        assert_eq!(words.next(), Some(program));
        let output =
            Command::new(env!("CARGO_BIN_EXE_enforcer")).args(words).arg("--unknown").output().expect("the binary");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("error: unexpected argument '--unknown' found"), "{said}");
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let result = Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status();
    let missing = matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let trials = WITH_SYSTEMD.iter().map(|&(name, run)| {
        Trial::ignorable_test(format!("systemd::{name}"), move || {
            if missing {
                return Ok(Completion::ignored_with("systemd-analyze is not installed"));
            }
            run();
            Ok(Completion::Completed)
        })
    });
    trials.collect()
}

fn systemd_accepts_unit_as_hardened() {
    for (name, program) in UNITS {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join(name);
        // The program must be there.
        fs::write(&path, unit(name).replace(program, env!("CARGO_BIN_EXE_enforcer"))).expect("a file");
        let ask = |arguments: &[&str]| {
            let output = Command::new("systemd-analyze").args(arguments).arg(&path).output().expect("systemd-analyze");
            (
                output.status.success(),
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat(),
            )
        };
        let (taken, said) = ask(&["verify", "--man=no"]);
        assert!(taken && !said.contains(name), "{said}");
        let (hardened, said) = ask(&["security", "--offline=true", &format!("--threshold={EXPOSURE}")]);
        assert!(hardened, "{said}");
        fs::write(&path, unit(name).replace("NoNewPrivileges=", "NoNewPriviliges=")).expect("a file");
        assert!(ask(&["verify", "--man=no"]).1.contains("NoNewPriviliges"), "it is a judge");
    }
}
