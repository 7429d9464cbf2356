//! The agent and the cleanup with no more than the container of the manifests has: their capabilities and not one
//! more, a cgroup tree and sysctls that are read-only, no new privileges. These tests need root.
//!
//! Left out: seccomp and the LSMs, which are the runtime's and the node's.

mod container_root;

use std::{
    ffi::{CStr, CString},
    fs,
    io::{self, BufRead as _, BufReader, Lines, Read as _},
    os::unix::ffi::OsStrExt as _,
    panic::resume_unwind,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    ptr, thread,
    time::{Duration, Instant},
};

use enforcer::host::netns;
use enforcer_core::yaml::documents::documents;
use enforcer_testing::{
    agent::{enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied},
    bpffs::{self, Bpffs},
    cgroup_sandbox, network,
    pods::Pod,
    tests, worker,
};
use libtest_mimic::{Arguments, Completion, Trial};
use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    process::{Pid, Signal, kill_process},
    thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs},
};
use serde_json::Value;

/// Name and function of a test. It panics to fail, and returns the reason where it cannot run.
type Test = (&'static str, fn() -> Completion);

const TESTS: &[Test] = tests![
    completed => agent_enforces_with_manifest_capabilities,
    missing_capability_is_named,
    claims_survive_agent_exit,
    cleanup_refuses_while_agent_runs,
    boot_state_is_written_with_manifest_capabilities,
    boot_unit_is_installed_without_capabilities,
];

const SKIPPABLE: &[Test] = tests![ports_are_reserved_through_mounted_file, cleanup_waits_for_sigterm];

fn completed(test: fn()) -> Completion {
    test();
    Completion::Completed
}

fn main() {
    worker::run_if_worker();
    let mut arguments = Arguments::from_args();
    // The cleanup must not meet another test's agent.
    arguments.test_threads = Some(1);
    if !arguments.list {
        bpffs::isolate();
        network::isolate();
    }
    let tests = TESTS.iter().chain(SKIPPABLE);
    let trials = tests.map(|&(name, run)| Trial::ignorable_test(name, move || Ok(run()))).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// The capabilities that a manifest in `deploy/` adds after all were dropped.
fn capabilities(manifest: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy").join(manifest);
    let text = fs::read_to_string(path).expect("a manifest");
    let manifest = documents(&text).next().expect("one object").expect("YAML").root.to_json();
    let added = &manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
    let names = added.as_array().expect("capabilities").iter().map(|name| name.as_str().expect("a name").to_owned());
    names.collect()
}

fn agents() -> Vec<String> {
    capabilities("base/daemonset.yaml")
}

fn cleanups() -> Vec<String> {
    capabilities("overlays/uninstall/cleanup.yaml")
}

/// Mounts one place at another, in the calling thread's mount namespace, which must be its own.
fn bind_mount(from: &Path, to: &Path, flags: libc::c_ulong) {
    let [source, target] = [from, to].map(|path| CString::new(path.as_os_str().as_bytes()).expect("no NUL"));
    // SAFETY: the strings live across the call, and no type or data is passed.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), libc::MS_BIND | flags, ptr::null()) };
    assert_eq!(result, 0, "{}: {}", to.display(), io::Error::last_os_error());
}

/// A folder in the calling thread's mount namespace, which must be its own, made read-only.
fn make_read_only(path: &Path) {
    bind_mount(path, path, 0);
    bind_mount(path, path, libc::MS_REMOUNT | libc::MS_RDONLY);
    let flags = statvfs(path).expect("a mount").f_flag;
    assert!(flags.contains(StatVfsMountFlags::RDONLY), "{}: {flags:?}", path.display());
}

/// A mount namespace and a view of the cgroups of the calling thread's own.
fn unshare() {
    // SAFETY: no memory effects; what is no longer shared is the thread's own.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) };
    assert_eq!(result, 0, "the tests need root: {}", io::Error::last_os_error());
    let root: &CStr = c"/";
    // SAFETY: the string lives across the call, and nothing else is passed.
    let result =
        unsafe { libc::mount(ptr::null(), root.as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()) };
    assert_eq!(result, 0, "private mounts: {}", io::Error::last_os_error());
}

/// Starts something from a thread that is contained like the manifests' container, and whose children therefore are.
fn contained<T: Send>(names: &[String], start: impl FnOnce() -> T + Send) -> T {
    contained_with(names, || {}, start)
}

/// The same, with mounts of its own that are made before anything is read-only.
fn contained_with<T: Send>(names: &[String], mounts: impl FnOnce() + Send, start: impl FnOnce() -> T + Send) -> T {
    let kept = capability_set(names);
    let contain = || {
        unshare();
        for point in cgroup_sandbox::mount_points() {
            make_read_only(&point);
        }
        mounts();
        make_read_only(Path::new("/proc/sys"));
        for (_, capability) in CapabilitySet::all().difference(kept).iter_names() {
            remove_capability_from_bounding_set(capability).expect("root");
        }
        set_no_new_privs(true).expect("no more privileges");
        container_root::enter();
        start()
    };
    thread::scope(|scope| scope.spawn(contain).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

fn capability_set(names: &[String]) -> CapabilitySet {
    let one = |name: &String| CapabilitySet::from_name(name).unwrap_or_else(|| panic!("{name} is a capability"));
    names.iter().map(one).collect()
}

/// The capabilities that a process has.
fn effective(pid: u32) -> CapabilitySet {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    CapabilitySet::from_bits_retain(u64::from_str_radix(bits.trim(), 16).expect("a number"))
}

fn agent_enforces_with_manifest_capabilities() {
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let names = agents();
    let socket = fixture.path_beside("admin.sock").display().to_string();
    let served = ["--listen", "127.0.0.1:9489", "--admin-socket", &socket];
    let mut agent = contained(&names, || fixture.enforce(&served));
    assert_eq!(stranger.bind(&bind(20080)), denied());
    assert_eq!(owner.bind(&bind(20080)), 0);
    // A pod that comes later: the raw tracepoint works too.
    let mut later = fixture.start(&Pod::new("later"));
    assert_eq!(later.bind(&bind(20080)), denied());
    let told = agent
        .wait_for_line("the conflict is told", |line| line["event"] == "bind" && line["pod"] == "default/stranger");
    assert_eq!(told["owner"], "default/owner");
    // As `kubectl exec` runs it.
    let mut status = enforcer();
    status.args(["status", "-o", "json", "--admin-socket", &socket]);
    let answer = contained(&names, || status.output()).expect("the binary");
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!((&answer["agent"]["synced"], &answer["claims"][0]["ports"]), (&true.into(), &"20080/tcp".into()));
    assert_eq!(agent.terminate().code(), Some(0));
}

fn claims_survive_agent_exit() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    fixture.put(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let names = agents();
    for resumes in [false, true] {
        let mut agent = contained(&names, || fixture.enforce(&["--bpffs", &folder]));
        assert_eq!(agent.drain_log().iter().any(|line| line["event"] == "takeover"), resumes);
        assert_eq!(stranger.bind(&bind(20080)), denied());
        agent.kill();
        assert_eq!(stranger.bind(&bind(20080)), denied());
    }
    let mut command = enforcer();
    command.args(["cleanup", "--bpffs", &folder, "--state-dir", "/nonexistent"]);
    // It may find an agent of somebody else's, and say so.
    let (code, said) = contained(&cleanups(), || Guarded::start(&mut command)).end();
    assert!([0, 4].contains(&code), "{said}");
    assert_eq!(bpffs.list(), [""; 0], "{said}");
    wait_until("nothing judges any more", || stranger.bind(&bind(20080)) == 0);
}

const LIST: &str = "net/ipv4/ip_local_reserved_ports";

/// The list, by the path that everybody has.
fn reserved() -> String {
    fs::read_to_string(Path::new("/proc/sys").join(LIST)).expect("the list").trim_end().to_owned()
}

/// With the sysctl mounted where the manifests have it: it is found below that, and no other is.
fn ports_are_reserved_through_mounted_file() -> Completion {
    if netns::cookie().expect("a socket").is_none() {
        return Completion::ignored_with("the tests have no network namespace of their own");
    }
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let (memory, sysctls) = (fixture.path_beside("state").display().to_string(), fixture.path_beside("sys"));
    let mounted = sysctls.join(LIST);
    fs::create_dir_all(mounted.parent().expect("a folder")).expect("making a folder");
    fs::write(&mounted, "").expect("an empty file");
    let sysctls = sysctls.display().to_string();
    let flags = ["--state-dir", &memory, "--proc-sys", &sysctls];
    let list = Path::new("/proc/sys").join(LIST);

    let start = || fixture.enforce(&flags[..2]);
    let mut agent = contained(&agents(), start);
    let told = agent.wait_for_line("it cannot write", |line| line["event"] == "reserved_ports_failed");
    let said = told["message"].as_str().expect("a sentence");
    assert!(said.contains("Read-only file system") && said.contains("--proc-sys"), "{said}");
    assert_eq!((stranger.bind(&bind(20080)), reserved().as_str()), (denied(), ""), "it enforces all the same");
    assert_eq!(agent.terminate().code(), Some(0));

    let mut agent = contained_with(&agents(), || bind_mount(&list, &mounted, 0), || fixture.enforce(&flags));
    wait_until("the port is reserved", || reserved() == "20080");
    agent.kill();
    let mut command = enforcer();
    command.args(["cleanup", "--bpffs", "/nonexistent"]).args(flags);
    let cleanup = contained_with(&cleanups(), || bind_mount(&list, &mounted, 0), || Guarded::start(&mut command));
    // It may find an agent of somebody else's, and say so.
    let (code, said) = cleanup.end();
    assert!([0, 4].contains(&code), "{said}");
    assert_eq!(reserved(), "", "{said}");
    Completion::Completed
}

/// A process that does not outlive its test.
struct Guarded(Child);

impl Guarded {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary"))
    }

    /// Its exit code, if it has ended.
    fn code(&mut self) -> Option<i32> {
        self.0.try_wait().expect("a child").map(|status| status.code().unwrap_or_else(|| panic!("{status}")))
    }

    /// Waits for its end: its exit code, and what it said on standard error.
    fn end(mut self) -> (i32, String) {
        let mut code = None;
        wait_until("it has ended by itself", || {
            code = self.code();
            code.is_some()
        });
        let mut said = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
        (code.expect("it has ended"), said)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn missing_capability_is_named() {
    let names = agents();
    for (index, missing) in names.iter().enumerate() {
        let fixture = AgentFixture::new();
        let mut fewer = names.clone();
        fewer.remove(index);
        let mut command = enforcer();
        command.arg("run").arg("--source").arg(format!("dir:{}", fixture.folder().display()));
        command.arg("--cgroup-root").arg(fixture.root()).args([
            "--bpffs",
            "/nonexistent",
            "--state-dir",
            "/nonexistent",
        ]);
        let (code, said) = contained(&fewer, || Guarded::start(&mut command)).end();
        assert_eq!(code, 3, "without {missing}: {said}");
        assert!(said.contains(&format!("CAP_{missing}")), "without {missing}: {said}");
    }
}

/// Starts the cleanup of the manifests, again and again while it finds an agent: what it is, the line that it began with,
/// and what else it says. `None` if there is always one.
///
/// The kernel frees what an earlier test's agent had a moment after that has ended. An agent that is not of these tests
/// may stay.
fn clean_up() -> Option<(Guarded, String, Lines<BufReader<ChildStdout>>)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let mut command = enforcer();
        command.args(["cleanup", "--wait", "--bpffs", "/nonexistent", "--state-dir", "/nonexistent"]);
        let mut cleanup = contained(&cleanups(), || Guarded::start(&mut command));
        let mut lines = BufReader::new(cleanup.0.stdout.take().expect("piped")).lines();
        if let Some(line) = lines.next() {
            return Some((cleanup, line.expect("UTF-8"), lines));
        }
        let (code, said) = cleanup.end();
        assert_eq!(code, 4, "{said}");
    }
    None
}

fn cleanup_waits_for_sigterm() -> Completion {
    let Some((mut cleanup, first, mut said)) = clean_up() else {
        return Completion::ignored_with("an agent that is not of these tests runs on this machine");
    };
    assert_eq!(first, "nothing of an agent is in the kernel");
    assert_eq!(said.next().expect("a line").expect("UTF-8"), "done; waiting for SIGTERM");
    let capabilities = capability_set(&cleanups());
    assert_eq!(effective(cleanup.0.id()), capabilities, "it has the manifest's and no more");
    assert_eq!(cleanup.code(), None, "it stays");
    kill_process(Pid::from_child(&cleanup.0), Signal::TERM).expect("it lives");
    // By itself, not by the signal: as the first process of a container it would not end by that.
    assert_eq!(cleanup.end(), (0, String::new()));
    assert!(said.next().is_none());
    Completion::Completed
}

fn cleanup_refuses_while_agent_runs() {
    let fixture = AgentFixture::new();
    let _agent = contained(&agents(), || fixture.enforce(&[]));
    let mut command = enforcer();
    command.args(["cleanup", "--wait", "--bpffs", "/nonexistent", "--state-dir", "/nonexistent"]);
    let (code, said) = contained(&cleanups(), || Guarded::start(&mut command)).end();
    assert_eq!(code, 4, "{said}");
    let rest = "programs of an agent are loaded, because an agent is running; they go with it: stop it\n";
    assert!(said.ends_with(rest), "{said}");
}

fn boot_state_is_written_with_manifest_capabilities() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let (folder, disk) = (bpffs.folder().display().to_string(), fixture.path_beside("disk"));
    fixture.put(&Pod::new("owner").ports("20080/tcp"));
    let flags = ["--bpffs", &folder, "--boot-state", &disk.display().to_string()];
    let mut agent = contained(&agents(), || fixture.enforce(&flags));
    assert_eq!(agent.terminate().code(), Some(0));
    let kept = fs::read_to_string(disk.join("boot-state")).expect("a boot state");
    assert!(kept.contains("\"20080/tcp\""), "{kept}");
    // In the next boot it is restored with the capabilities of the unit.
    let (id, next_boot) = (fixture.path_beside("boot_id"), Bpffs::new());
    fs::write(&id, "00000000-0000-4000-8000-00000000b007").expect("a file");
    drop(bpffs);
    let mut restore = enforcer();
    restore.arg("restore").arg("--bpffs").arg(next_boot.folder()).arg("--boot-state").arg(&disk);
    restore.arg("--state-dir").arg(fixture.path_beside("run"));
    let start = || {
        // The thread itself still has all capabilities.
        bind_mount(&id, Path::new("/proc/sys/kernel/random/boot_id"), 0);
        restore.output()
    };
    let output = contained(&unit_capabilities(), start).expect("the binary");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fixture.worker(&Pod::new("stranger")).bind(&bind(20080)), denied(), "{output:?}");
}

/// The capabilities of the unit that restores at boot.
fn unit_capabilities() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/port-enforcer-restore.service");
    let text = fs::read_to_string(path).expect("a unit");
    let line = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("capabilities");
    line.split(' ').map(|name| name.strip_prefix("CAP_").expect("a capability").to_owned()).collect()
}

/// As the component's init container: it writes to two folders of root's, which takes no capability.
fn boot_unit_is_installed_without_capabilities() {
    let fixture = AgentFixture::new();
    let root = fixture.path_beside("host");
    fs::create_dir(&root).expect("a folder");
    let boot = |action: &str| {
        let mut command = enforcer();
        command.args(["boot", action, "--root"]).arg(&root);
        let output = contained(&[], || command.output()).expect("the binary");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, said) = boot("install");
    assert!(code == Some(3) && said.contains("this node does not run systemd"), "{code:?} {said}");
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&units).expect("a folder");
    let (program, unit, link) = (
        root.join("usr/local/libexec/port-enforcer/enforcer"),
        units.join("port-enforcer-restore.service"),
        units.join("basic.target.wants/port-enforcer-restore.service"),
    );
    for (words, times) in [("wrote ", 3), ("unchanged: ", 3)] {
        let (code, said, errors) = boot("install");
        assert_eq!((code, said.matches(words).count()), (Some(0), times), "{said}{errors}");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/port-enforcer-restore.service");
    assert_eq!(fs::read(&unit).expect("a unit"), fs::read(source).expect("a unit"));
    assert_eq!(fs::canonicalize(&link).expect("it leads to the unit"), fs::canonicalize(&unit).expect("a path"));
    let version = Command::new(&program).arg("--version").output().expect("it runs");
    assert!(version.stdout.starts_with(b"enforcer "));
    // A new version replaces the program, also while the old one runs.
    fs::write(&unit, "another").expect("a file");
    fs::write(program.with_extension("next"), "left by a crash").expect("a file");
    let (code, said, errors) = boot("install");
    assert_eq!((code, said.matches("wrote ").count()), (Some(0), 1), "{said}{errors}");
    let (code, said, errors) = boot("remove");
    assert_eq!((code, said.matches("removed ").count()), (Some(0), 3), "{said}{errors}");
    assert!(!program.exists() && !unit.exists() && fs::symlink_metadata(&link).is_err());
    let (code, said, _) = boot("remove");
    assert!(code == Some(0) && said.starts_with("the unit is not installed below "), "{said}");
}
