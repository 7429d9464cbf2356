//! The unit for nodes without Kubernetes. Without systemd-analyze what systemd thinks of it is not asked, and that is
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

pub(crate) const TESTS: &[Test] = tests![unit_has_daemonset_capabilities, binary_accepts_unit_arguments];

const WITH_SYSTEMD: &[Test] = tests![systemd_accepts_unit_as_hardened];

/// How exposed systemd may find it, of 100: less than half of what an unhardened unit is.
const EXPOSURE: u32 = 30;

fn unit() -> String {
    fs::read_to_string(deploy().join("systemd/port-enforcer.service")).expect("a unit")
}

/// Settings that stand once.
fn settings() -> BTreeMap<String, String> {
    let unit = unit();
    let lines = unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn unit_has_daemonset_capabilities() {
    let daemonset = read(&deploy().join("base/daemonset.yaml")).remove(0);
    let context = &daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let added = context["capabilities"]["add"].as_array().expect("a list");
    let expected: Vec<String> = added.iter().map(|name| format!("CAP_{}", name.as_str().expect("a name"))).collect();
    assert_eq!(settings()["CapabilityBoundingSet"], expected.join(" "));
    assert_eq!(settings()["NoNewPrivileges"], "yes");
}

/// So far, and to the first thing that the parser does not know.
fn binary_accepts_unit_arguments() {
    let start = settings()["ExecStart"].clone();
    let mut words = start.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/enforcer"));
    let output =
        Command::new(env!("CARGO_BIN_EXE_enforcer")).args(words).arg("--unknown").output().expect("the binary");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: unexpected argument '--unknown' found"), "{said}");
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
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("port-enforcer.service");
    // The program must be there.
    fs::write(&path, unit().replace("/usr/local/bin/enforcer", env!("CARGO_BIN_EXE_enforcer"))).expect("a file");
    let ask = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&path).output().expect("systemd-analyze");
        (
            output.status.success(),
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat(),
        )
    };
    let (taken, said) = ask(&["verify", "--man=no"]);
    assert!(taken && !said.contains("port-enforcer.service"), "{said}");
    let (hardened, said) = ask(&["security", "--offline=true", &format!("--threshold={EXPOSURE}")]);
    assert!(hardened, "{said}");
    fs::write(&path, unit().replace("NoNewPrivileges=", "NoNewPriviliges=")).expect("a file");
    assert!(ask(&["verify", "--man=no"]).1.contains("NoNewPriviliges"), "it is a judge");
}
