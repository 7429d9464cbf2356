//! What goes wrong with a control plane is told, and nothing of it is left behind.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::{ControlPlane, Failure, signing_key};
use enforcer_testing::agent::wait_until;
use enforcer_testing::tests;

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    missing_program_is_refused,
    stderr_of_failed_program_is_reported,
    start_has_a_timeout,
    leftover_processes_are_ended,
    death_of_etcd_is_reported,
    control_plane_ends_with_the_tests,
    each_key_is_new_and_well_formed
];

/// How long a program is waited for that will never be ready.
const IN_VAIN: Duration = Duration::from_millis(300);
/// Longer than any test needs.
const LONG: Duration = Duration::from_secs(30);

/// Says that this process is one of those that the tests start: what it does.
const MARK: &str = "PORT_ENFORCER_TEST_PLANE";

/// Plays an etcd, or tests that are killed, if this process was started for that.
pub(crate) fn run_if_marked() {
    let Some(part) = env::var_os(MARK) else { return };
    let code = if part == "etcd" {
        play_etcd();
        0
    } else {
        let failure = ControlPlane::start(Path::new(&part), LONG).err();
        eprintln!("nobody killed it: {failure:?}");
        1
    };
    process::exit(code);
}

/// Answers everything on the port for clients with a good answer, which is all that a start asks of it.
fn play_etcd() {
    let flags: Vec<_> = env::args().collect();
    let mut urls = flags.iter().filter_map(|flag| flag.strip_prefix("--listen-client-urls=http://"));
    let listener = TcpListener::bind(urls.next().expect("where to listen")).expect("a free port");
    for stream in listener.incoming() {
        thread::spawn(move || {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 4096];
            while stream.read(&mut request).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"health\":\"true\"}");
            }
        });
    }
}

/// Writes its pid, is healthy, and stays.
fn healthy() -> String {
    let this = env::current_exe().expect("this binary");
    // The program's environment is empty.
    format!("echo $$ > pid-of-etcd\nexec /usr/bin/env {MARK}=etcd '{}' \"$@\"", this.display())
}

/// Writes its pid beside itself, says something, and stays.
const IDLE: &str = "echo $$ > \"$0.pid\"\necho says something\nexec sleep 3600";

fn program(folder: &TempDir, name: &str, script: &str) {
    let path = folder.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writing a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
}

fn folder(etcd: &str, server: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    program(&folder, "etcd", etcd);
    program(&folder, "kube-apiserver", server);
    folder
}

fn failure(folder: &Path, timeout: Duration) -> Failure {
    ControlPlane::start(folder, timeout).err().expect("it cannot start")
}

/// The process whose id is in a file, once it is there.
fn pid(file: &Path) -> u32 {
    let mut pid = None;
    wait_until("a program has written its pid", || {
        pid = fs::read_to_string(file).ok().and_then(|text| text.trim_end().parse().ok());
        pid.is_some()
    });
    pid.expect("it was waited for")
}

/// Whether a process runs: not one that ended and that nobody has asked how.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

fn missing_program_is_refused() {
    let folder = folder(IDLE, IDLE);
    for name in ["kube-apiserver", "etcd"] {
        let path = folder.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a file");
        let told = failure(folder.path(), IN_VAIN).to_string();
        let start = format!("KUBEBUILDER_ASSETS names a folder, but its {name} cannot be run ({}): ", path.display());
        assert!(told.starts_with(&start) && told.contains("ermission denied"), "{told}");
        fs::remove_file(&path).expect("a file");
        let told = failure(folder.path(), IN_VAIN).to_string();
        assert!(told.starts_with(&start) && told.contains("No such file"), "{told}");
        assert!(!folder.path().join("etcd.pid").exists(), "nothing was started");
    }
    let nothing = folder.path().join("nothing");
    assert!(matches!(failure(&nothing, IN_VAIN), Failure::Incomplete { program: "etcd", .. }));
    // What a look at the file does not tell.
    program(&folder, "kube-apiserver", IDLE);
    program(&folder, "etcd", IDLE);
    fs::write(folder.path().join("etcd"), "#!/nonexistent/interpreter").expect("writing a script");
    let told = failure(folder.path(), IN_VAIN).to_string();
    assert!(told.contains("its etcd cannot be run") && told.contains("No such file"), "{told}");
}

fn stderr_of_failed_program_is_reported() {
    let folder = folder("echo 'Error: unknown flag' >&2\nexit 3", IDLE);
    let told = failure(folder.path(), LONG).to_string();
    assert!(told.starts_with("etcd ended (exit status: 3) before it was ready."), "{told}");
    assert!(told.contains("/etcd --data-dir=") && told.ends_with("\nError: unknown flag\n"), "{told}");
    assert!(!folder.path().join("kube-apiserver.pid").exists(), "the next was not started");
}

fn start_has_a_timeout() {
    let folder = folder(IDLE, IDLE);
    let told = failure(folder.path(), IN_VAIN).to_string();
    assert!(told.starts_with("etcd was not ready within 300ms ("), "{told}");
    assert!(told.ends_with("\nsays something\n"), "{told}");
    assert!(!runs(pid(&folder.path().join("etcd.pid"))));
}

fn leftover_processes_are_ended() {
    // Where the programs run is in the flags; there the etcd has written its pid.
    let report = "cp pid-of-etcd \"$0.pid\"\nprintf '%s\\n' \"$@\"\nls -l tokens key >&2\nexit 1";
    let folder = folder(&healthy(), report);
    let told = failure(folder.path(), LONG).to_string();
    assert!(told.starts_with("kube-apiserver ended (exit status: 1) before it was ready."), "{told}");
    for flag in ["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--bind-address=127.0.0.1"]
    {
        assert!(told.lines().any(|line| line == flag), "{flag}: {told}");
    }
    let secrets: Vec<_> = told.lines().filter(|line| line.starts_with("-rw------- ")).collect();
    assert_eq!(secrets.len(), 2, "tokens and key are nobody else's: {told}");
    assert!(!runs(pid(&folder.path().join("kube-apiserver.pid"))));
}

fn death_of_etcd_is_reported() {
    // Killed by the other one, which stays.
    let folder = folder(&healthy(), "kill -KILL $(cat pid-of-etcd)\necho $$ > \"$0.pid\"\nexec sleep 3600");
    let told = failure(folder.path(), LONG).to_string();
    assert!(told.starts_with("etcd ended (signal: 9 (SIGKILL)) before it was ready."), "{told}");
    assert!(!runs(pid(&folder.path().join("kube-apiserver.pid"))));
}

fn control_plane_ends_with_the_tests() {
    let folder = folder(IDLE, IDLE);
    let mut tests = Command::new(env::current_exe().expect("this binary"))
        .env(MARK, folder.path())
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("starting this binary");
    let etcd = pid(&folder.path().join("etcd.pid"));
    assert!(runs(etcd));
    tests.kill().expect("it runs");
    tests.wait().expect("it ends");
    wait_until("etcd has ended too", || !runs(etcd));
}

fn each_key_is_new_and_well_formed() {
    let [one, other] = [signing_key(), signing_key()];
    assert_ne!(one, other);
    let lines: Vec<_> = one.lines().collect();
    let [first, text, rest, last] = lines[..] else { panic!("{one}") };
    assert_eq!((first, last), ("-----BEGIN EC PRIVATE KEY-----", "-----END EC PRIVATE KEY-----"));
    assert_eq!((text.len(), rest.len()), (64, 4));
    // What every such key begins and ends with.
    assert!(text.starts_with("MDECAQEEI") && format!("{text}{rest}").ends_with("oAoGCCqGSM49AwEH"), "{one}");
}
