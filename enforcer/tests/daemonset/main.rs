//! The agent and the cleanup with no more than the container of the manifests has: their capabilities and not one
//! more, a cgroup tree that is read-only, no new privileges. These tests need root.
//!
//! Left out: seccomp and the LSMs, which are the runtime's and the node's.

#[path = "../agent/stage.rs"]
#[expect(dead_code, reason = "the tests of the agent use the rest")]
mod stage;
#[path = "../support"]
mod support {
    #[expect(dead_code, reason = "the tests of the agent use the rest")]
    pub(crate) mod agent;
    #[expect(dead_code, reason = "the tests of the kernel use the rest")]
    pub(crate) mod bpffs;
    #[expect(dead_code, reason = "the tests of the kernel use the rest")]
    pub(crate) mod device;
    pub(crate) mod network;
    #[expect(dead_code, reason = "the tests of the kernel use the rest")]
    pub(crate) mod race;
    pub(crate) mod sandbox;
    #[expect(dead_code, reason = "the tests of the kernel use the rest")]
    pub(crate) mod worker;
}

use std::{
    ffi::{CStr, CString},
    fs,
    io::{self, BufRead as _, BufReader, Lines, Read as _},
    panic::resume_unwind,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    ptr, thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Trial};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs},
};
use serde_json::Value;
use stage::{Pod, Stage, bind, denied};
use support::{
    agent::{enforcer, until},
    bpffs::{self, Bpffs},
    network, worker,
};

fn main() {
    worker::run_if_worker();
    let mut arguments = Arguments::from_args();
    // The cleanup must not meet another test's agent.
    arguments.test_threads = Some(1);
    if !arguments.list {
        bpffs::isolate();
        network::isolate();
    }
    let completed = |run: fn()| {
        move || {
            run();
            Ok(Completion::Completed)
        }
    };
    let trials = vec![
        Trial::ignorable_test("an_agent_with_the_manifests_capabilities_enforces", completed(an_agent_enforces)),
        Trial::ignorable_test("an_agent_that_lacks_one_of_them_says_so", completed(an_agent_that_lacks_one_says_so)),
        Trial::ignorable_test("what_is_kept_outlives_the_agent", completed(what_is_kept_outlives_the_agent)),
        Trial::ignorable_test("a_cleanup_with_the_manifests_capabilities_waits_for_sigterm", || Ok(a_cleanup_waits())),
        Trial::ignorable_test("a_cleanup_that_finds_an_agent_does_not_wait", completed(a_cleanup_that_finds_an_agent)),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// The capabilities that a manifest in `deploy/` adds after all were dropped.
fn capabilities(manifest: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy").join(manifest);
    let text = fs::read_to_string(path).expect("a manifest");
    let manifest: Value = serde_norway::from_str(&text).expect("one object");
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

/// A mount point of cgroup v2 in the calling thread's mount namespace, which must be its own, made read-only.
fn make_read_only(point: &str) {
    let path = CString::new(point).expect("no NUL");
    let mount = |flags: libc::c_ulong| {
        let source: *const libc::c_char = path.as_ptr();
        // SAFETY: the strings live across the call, and no type or data is passed.
        let result = unsafe { libc::mount(source, path.as_ptr(), ptr::null(), flags, ptr::null()) };
        assert_eq!(result, 0, "{point}: {}", io::Error::last_os_error());
    };
    mount(libc::MS_BIND);
    mount(libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY);
    let written = fs::create_dir(Path::new(point).join("port-enforcer-test-read-only"));
    assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::ReadOnlyFilesystem), "{point}");
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
    let kept = capability_set(names);
    let contain = || {
        unshare();
        let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
        let lines = mountinfo.lines().filter(|line| line.contains(" - cgroup2 "));
        lines.filter_map(|line| line.split(' ').nth(4)).for_each(make_read_only);
        for (_, capability) in CapabilitySet::all().difference(kept).iter_names() {
            remove_capability_from_bounding_set(capability).expect("root");
        }
        set_no_new_privs(true).expect("no more privileges");
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

fn an_agent_enforces() {
    let stage = Stage::new();
    let mut owner = stage.start(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let names = agents();
    let socket = stage.beside("admin.sock").display().to_string();
    let served = ["--listen", "127.0.0.1:9489", "--admin-socket", &socket];
    let mut agent = contained(&names, || stage.enforce(&served));
    assert_eq!(stranger.bind(&bind(20080)), denied());
    assert_eq!(owner.bind(&bind(20080)), 0);
    // A pod that comes later: the raw tracepoint works too.
    let mut later = stage.start(&Pod::new("later"));
    assert_eq!(later.bind(&bind(20080)), denied());
    let told = agent.wait("the conflict is told", |line| line["event"] == "bind" && line["pod"] == "default/stranger");
    assert_eq!(told["owner"], "default/owner");
    // As `kubectl exec` runs it.
    let mut status = enforcer();
    status.args(["status", "-o", "json", "--admin-socket", &socket]);
    let answer = contained(&names, || status.output()).expect("the binary");
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!((&answer["agent"]["synced"], &answer["claims"][0]["ports"]), (&true.into(), &"20080/tcp".into()));
    assert_eq!(agent.terminate().code(), Some(0));
}

fn what_is_kept_outlives_the_agent() {
    let (stage, bpffs) = (Stage::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    stage.put(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let names = agents();
    for resumes in [false, true] {
        let mut agent = contained(&names, || stage.enforce(&["--bpffs", &folder]));
        assert_eq!(agent.rest().iter().any(|line| line["event"] == "resumed"), resumes);
        assert_eq!(stranger.bind(&bind(20080)), denied());
        agent.kill();
        assert_eq!(stranger.bind(&bind(20080)), denied());
    }
    let mut command = enforcer();
    command.args(["cleanup", "--bpffs", &folder]);
    // It may find an agent of somebody else's, and say so.
    let (code, said) = contained(&cleanups(), || Guarded::start(&mut command)).end();
    assert!([0, 4].contains(&code), "{said}");
    assert_eq!(bpffs.list(), [""; 0], "{said}");
    until("nothing judges any more", || stranger.bind(&bind(20080)) == 0);
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
        until("it has ended by itself", || {
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

fn an_agent_that_lacks_one_says_so() {
    let names = agents();
    for (index, missing) in names.iter().enumerate() {
        let stage = Stage::new();
        let mut fewer = names.clone();
        fewer.remove(index);
        let mut command = enforcer();
        command.arg("run").arg("--source").arg(format!("dir:{}", stage.folder().display()));
        command.arg("--cgroup-root").arg(stage.root()).args(["--bpffs", "/nonexistent"]);
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
        command.args(["cleanup", "--wait", "--bpffs", "/nonexistent"]);
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

fn a_cleanup_waits() -> Completion {
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

fn a_cleanup_that_finds_an_agent() {
    let stage = Stage::new();
    let _agent = stage.enforce(&[]);
    let mut command = enforcer();
    command.args(["cleanup", "--wait", "--bpffs", "/nonexistent"]);
    let (code, said) = contained(&cleanups(), || Guarded::start(&mut command)).end();
    assert_eq!(code, 4, "{said}");
    let rest = "programs of an agent are loaded, because an agent is running; they go with it: stop it\n";
    assert!(said.ends_with(rest), "{said}");
}
