//! Completions: what kubectl asks for while somebody types, and scripts.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use enforcer_testing::tests;
use tempfile::TempDir;

use crate::{
    Test,
    cluster::{End, end, program},
};

pub(crate) const TESTS: &[Test] = tests![
    candidates_are_in_the_form_of_cobra,
    program_for_kubectl_asks_the_plugin,
    scripts_are_made_without_a_cluster
];

/// What can follow these words: candidates without descriptions, and the directive.
fn candidates(words: &[&str]) -> (Vec<String>, String) {
    let End { code, stdout, stderr } = end(program(&[&["__complete"], words].concat()));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{words:?}");
    let mut lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
    let directive = lines.pop().expect("a directive");
    (lines.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect(), directive)
}

fn candidates_are_in_the_form_of_cobra() {
    let no_files = ":4".to_owned();
    assert_eq!(
        candidates(&["policy-reports", "--report-api", "w"]),
        (vec!["wgpolicyk8s.io".to_owned()], no_files.clone())
    );
    assert_eq!(candidates(&["free", "--cou"]), (vec!["--count".to_owned()], no_files.clone()));
    assert_eq!(candidates(&["-o", ""]).0, ["table", "wide", "json", "yaml", "html"]);
    let (commands, _) = candidates(&[""]);
    for command in ["why", "free", "suggest", "check", "policy-reports"] {
        assert!(commands.iter().any(|one| one == command), "{commands:?}");
    }
    assert!(!commands.iter().any(|one| one.starts_with("__")), "{commands:?}");
    // Folders can be gone on into.
    let folder = TempDir::new().expect("a folder");
    fs::create_dir(folder.path().join("deploy")).expect("a folder");
    let mut command = program(&["__complete", "check", "d"]);
    command.current_dir(folder.path());
    assert_eq!(end(command).stdout, "deploy/\n:6\n");
    // Nonsense has no candidates and no message.
    assert_eq!(candidates(&["nothing", "--of", "the", "kind"]), (Vec::new(), no_files));
    let described = end(program(&["__complete", "wh"])).stdout;
    assert_eq!(described, "why\tShow why a pod is Pending, denied, or fails on a port\n:4\n");
}

/// As kubectl does it: by the name of the program in `PATH`.
fn program_for_kubectl_asks_the_plugin() {
    let folder = TempDir::new().expect("a folder");
    let script = folder.path().join("kubectl_complete-host_ports");
    fs::write(&script, end(program(&["completions", "kubectl"])).stdout).expect("writing the program");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it can be run");
    let plugin = Path::new(env!("CARGO_BIN_EXE_kubectl-host_ports")).parent().expect("a folder");
    let mut command = Command::new(&script);
    command.args(["free", "--cou"]).env("PATH", format!("{}:/usr/bin:/bin", plugin.display()));
    let End { code, stdout, stderr } = end(command);
    assert_eq!((code, stdout.as_str()), (Some(0), "--count\tMost ports to show\n:4\n"), "{stderr}");
}

fn scripts_are_made_without_a_cluster() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let End { code, stdout, stderr } = end(program(&["completions", shell]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(stdout.contains("policy-reports") && stdout.contains("kubectl-host_ports"), "{shell}");
    }
    assert_eq!(end(program(&["completions", "tcsh"])).code, Some(2));
}
