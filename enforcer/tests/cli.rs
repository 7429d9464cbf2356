//! The command line: exit codes, the one sentence with the remedy, and the help, which is the documentation.
//!
//! Nothing here needs root. What does is in the target `agent`.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The user `nobody`, whom nothing belongs to.
const NOBODY: u32 = 65534;

/// A command with nothing set in the environment that the binary would heed, and help of a known width.
fn command(binary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ENFORCER_")) {
        command.env_remove(name);
    }
    command.args(arguments).env("COLUMNS", "100").stdin(Stdio::null());
    command
}

/// The binary under test.
fn enforcer(arguments: &[&str]) -> Command {
    command(Path::new(env!("CARGO_BIN_EXE_enforcer")), arguments)
}

/// What came of a command.
#[derive(Debug)]
struct End {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> End {
    let Output { status, stdout, stderr } = command.output().expect("running the binary");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    End { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Runs what fails with this code, and takes the one sentence that it says.
fn sentence(command: &mut Command, code: i32) -> String {
    let End { code: actual, stdout, stderr } = run(command);
    assert_eq!((actual, stdout.as_str()), (Some(code), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
    stderr.trim_end().to_owned()
}

#[test]
fn run_without_source_fails() {
    // Whoever runs this may have a cluster.
    let alone = |command: &mut Command| {
        command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBECONFIG").env("HOME", "/nonexistent");
    };
    let mut command = enforcer(&["run"]);
    alone(&mut command);
    assert_eq!(
        sentence(&mut command, 2),
        "enforcer: no cluster configuration was found: run the agent in a cluster, name a kubeconfig with --kubeconfig, \
         or take the pods from a folder of manifests with --source dir:PATH"
    );
    let mut command = enforcer(&["run", "--kubeconfig", "/nonexistent/config"]);
    alone(&mut command);
    let said = sentence(&mut command, 2);
    assert!(said.starts_with("enforcer: cannot use the kubeconfig /nonexistent/config: "), "{said}");
    let mut command = enforcer(&["run", "--kubeconfig", "/nonexistent/config", "--source", "dir:/"]);
    let said = sentence(&mut command, 2);
    assert_eq!(said, "enforcer: --kubeconfig goes with --source api, not with a folder of manifests");
}

#[test]
fn run_on_missing_folder_fails() {
    let top = TempDir::new().unwrap();
    let file = top.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [top.path().join("missing"), file] {
        let said = sentence(&mut enforcer(&["run", "--source", &format!("dir:{}", path.display())]), 2);
        let expected = format!(
            "enforcer: the folder {} of --source is not there; create it, or name the folder that holds the Pod manifests",
            path.display()
        );
        assert_eq!(said, expected);
    }
}

#[test]
fn bad_flag_values_are_refused() {
    for (flag, value, remedy) in [
        ("--mode", "deny", "[possible values: audit, enforce]"),
        ("--source", "/etc/kubernetes/manifests", "write api, or dir:PATH"),
        ("--namespace-mode", "loose", "[possible values: any, stricter, off]"),
        ("--listen", "localhost", "write an address and a port, as 127.0.0.1:9489, or none"),
        ("--scope", "cluster", "[possible values: pods, node]"),
        ("--undeclared", "maybe", "[possible values: adopt, allow, deny]"),
        ("--node-reserved", "22/tcp,0", "port 0 cannot be claimed"),
        ("--node-reserved", "22/icmp", "the protocol is unknown; write /tcp, /udp or /sctp"),
        ("--max-ports-per-pod", "-1", "-1 is not in 0..=4294967295"),
        ("--handover-grace", "60", "write it as 60s, 2m or 1h"),
        ("--handover-grace", "-1s", "write it as 60s, 2m or 1h"),
        ("--deny-errno", "enoent", "[possible values: eaddrinuse, eperm, eacces]"),
        ("--on-error", "panic", "[possible values: allow, deny]"),
        ("--log-format", "xml", "[possible values: text, json]"),
        ("--log-level", "loud", "[possible values: error, warn, info, debug, trace]"),
    ] {
        let variable = format!("ENFORCER_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        for command in [&mut enforcer(&["run", &format!("{flag}={value}")]), enforcer(&["run"]).env(variable, value)] {
            let End { code, stdout, stderr } = run(command);
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{command:?}: {stderr}");
            assert!(stderr.contains(remedy), "{command:?}: {stderr}");
            assert!(stderr.contains(flag) && stderr.contains(value), "{command:?}: {stderr}");
        }
    }
}

#[test]
fn unknown_arguments_are_refused() {
    for arguments in [
        &["explode"][..],
        &["run", "--explode"],
        &["probe", "-o", "xml"],
        &["cleanup", "now"],
        &["status", "-o", "xml"],
        &["explain"],
        &["explain", "http"],
        &["watch", "-o", "table"],
        &["completions", "cmd"],
    ] {
        let End { code, stdout, stderr } = run(&mut enforcer(arguments));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{arguments:?}: {stderr}");
    }
    let End { code, stdout, stderr } = run(&mut enforcer(&[]));
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("Usage: enforcer <COMMAND>"), "{stderr}");
}

/// The binary in a place where everybody finds it, for a user without any privilege.
struct Unprivileged {
    top: TempDir,
}

impl Unprivileged {
    fn new() -> Self {
        let top = TempDir::new().unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let this = Self { top };
        // Not by this process: a test in another thread could fork while the copy is open for writing, and a file that
        // is cannot be executed.
        let binary = this.path("enforcer");
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_enforcer")).arg(&binary).status().unwrap();
        assert!(copied.success(), "cp: {copied}");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::DirBuilder::new().mode(0o755).create(this.path("pods")).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn enforcer(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.path("enforcer"), arguments);
        // Root gives up what it has; anybody else has nothing to give up.
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

#[test]
fn run_without_privileges_fails() {
    let place = Unprivileged::new();
    let source = format!("dir:{}", place.path("pods").display());
    let said = sentence(&mut place.enforcer(&["run", "--source", &source, "--listen", "none"]), 3);
    assert_eq!(
        said,
        "enforcer: the kernel refuses to load BPF programs: run the agent as root, or give it CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN"
    );
}

#[test]
fn probe_without_privileges_fails() {
    let place = Unprivileged::new();
    let End { code, stdout, stderr } = run(&mut place.enforcer(&["probe", "-o", "json"]));
    assert_eq!(code, Some(3), "{stderr}");
    let probe: Value = serde_json::from_str(&stdout).expect("JSON all the same");
    let hooks = &probe["features"][0];
    assert_eq!((hooks["name"].as_str(), hooks["answer"].as_str()), (Some("cgroup bind hooks"), Some("unknown")));
    assert!(hooks["why"].as_str().is_some_and(|why| !why.is_empty()), "{hooks}");
    assert!(stderr.contains("give the agent CAP_BPF and CAP_NET_ADMIN"), "{stderr}");
}

#[test]
fn cleanup_without_privileges_fails() {
    let said = sentence(&mut Unprivileged::new().enforcer(&["cleanup"]), 3);
    assert!(said.starts_with("enforcer: cannot list the kernel's BPF programs: "), "{said}");
    assert!(said.ends_with("; run this as root or with CAP_SYS_ADMIN"), "{said}");
}

#[test]
fn status_and_explain_without_privileges_fail() {
    let place = Unprivileged::new();
    let closed = place.path("closed");
    fs::DirBuilder::new().mode(0o000).create(&closed).unwrap();
    let inside = |name: &str| closed.join(name).display().to_string();
    let (socket, bpffs) = (inside("admin.sock"), inside("port-enforcer"));
    for arguments in [&["status"][..], &["explain", "80"], &["watch"]] {
        let arguments = [arguments, &["--admin-socket", &socket]].concat();
        let said = sentence(&mut place.enforcer(&arguments), 3);
        assert!(said.starts_with(&format!("enforcer: cannot connect to {socket}: ")), "{said}");
        assert!(said.ends_with("; the socket is root's alone: run this as root"), "{said}");
    }
    for arguments in [&["status"][..], &["explain", "80"]] {
        let arguments = [arguments, &["--admin-socket", "none", "--bpffs", &bpffs]].concat();
        let said = sentence(&mut place.enforcer(&arguments), 3);
        assert!(said.starts_with(&format!("enforcer: cannot read the folder {bpffs}: ")), "{said}");
        assert!(said.ends_with("; run this as root"), "{said}");
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn completions_cover_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let End { code, stdout, stderr } = run(&mut enforcer(&["completions", shell]));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["run", "check", "status", "explain", "watch", "admin-socket", "completions"] {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
    }
}

/// Where the kernel tells less to this user, the code is 3, and the answer is complete all the same.
#[test]
fn probe_prints_json() {
    let End { code, stdout, stderr } = run(&mut enforcer(&["probe", "-o", "json"]));
    assert!(matches!(code, Some(0 | 3)), "{stderr}");
    let probe: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((&probe["apiVersion"], &probe["kind"]), (&"port-enforcer.io/v1alpha1".into(), &"Probe".into()));
    assert!(probe["kernel"].as_str().is_some_and(|kernel| kernel.contains('.')), "{probe}");
    assert!(probe["podsCgroup"].is_string() != probe["podsCgroupProblem"].is_string(), "{probe}");
    let features = probe["features"].as_array().expect("a list");
    assert!(!features.is_empty());
    for feature in features {
        for key in ["name", "since", "without", "remedy"] {
            assert!(feature[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {feature}");
        }
        assert!(feature["required"].is_boolean(), "{feature}");
        assert!(["yes", "no", "unknown"].map(Value::from).contains(&feature["answer"]), "{feature}");
        assert_eq!(feature["why"].is_string(), feature["answer"] == "unknown", "{feature}");
    }
    let missing = |feature: &&Value| feature["required"] == true && feature["answer"] != "yes";
    assert_eq!(code == Some(3), features.iter().any(|feature| missing(&feature)), "{probe}");
}

#[test]
fn probe_prints_a_table() {
    let End { code, stdout, stderr } = run(&mut enforcer(&["probe"]));
    assert!(matches!(code, Some(0 | 3)), "{stderr}");
    let mut lines = stdout.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("Linux ")), "{stdout}");
    let header = lines.next().expect("a header");
    let heads: Vec<_> = header.split("  ").map(str::trim).filter(|head| !head.is_empty()).collect();
    assert_eq!(heads, ["FEATURE", "HERE", "SINCE", "NEEDED", "WHAT IT MEANS"], "{stdout}");
    assert!(stdout.lines().any(|line| line.contains("cgroup bind hooks")), "{stdout}");
    assert!(stdout.lines().last().is_some_and(|line| line.starts_with("pods' cgroup: ")), "{stdout}");
}

#[test]
fn version_is_printed() {
    let End { code, stdout, stderr } = run(&mut enforcer(&["--version"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, concat!("enforcer ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn help_matches_snapshots() {
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help_run", &["run", "--help"]),
        ("help_check", &["check", "--help"]),
        ("help_mode", &["mode", "--help"]),
        ("help_status", &["status", "--help"]),
        ("help_explain", &["explain", "--help"]),
        ("help_watch", &["watch", "--help"]),
        ("help_release", &["release", "--help"]),
        ("help_suggest", &["suggest", "--help"]),
        ("help_completions", &["completions", "--help"]),
        ("help_restore", &["restore", "--help"]),
        ("help_boot", &["boot", "--help"]),
        ("help_boot_install", &["boot", "install", "--help"]),
        ("help_probe", &["probe", "--help"]),
        ("help_cleanup", &["cleanup", "--help"]),
    ] {
        let End { code, stdout, stderr } = run(&mut enforcer(arguments));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{name}");
        insta::assert_snapshot!(name, stdout);
    }
    // The list of subcommands is complete.
    let End { stdout, .. } = run(&mut enforcer(&["--help"]));
    let list = stdout.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list");
    // What goes on in a second line is further to the right.
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    let expected = [
        "run",
        "check",
        "mode",
        "status",
        "explain",
        "watch",
        "suggest",
        "release",
        "restore",
        "boot",
        "probe",
        "cleanup",
        "completions",
        "help",
    ];
    assert_eq!(commands, expected);
}
