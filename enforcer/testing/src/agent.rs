//! The real binary, run as an agent, and what it writes to its log.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap, Map, MapData, MapInfo, PerCpuArray},
    programs::loaded_programs,
};
use enforcer::kernel::{CounterMap, Counters};
use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};
use serde_json::Value;

/// Time that anything is waited for. In an emulated machine the kernel takes seconds to verify the programs.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Path of the binary, as `cargo xtask` sets it for the tests, also in a virtual machine.
const BINARY: &str = "CARGO_BIN_EXE_enforcer";

/// Waits until a condition holds.
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_until_within(TIMEOUT, what, is_so);
}

/// Waits until a condition holds, for this time at most.
pub fn wait_until_within(timeout: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {timeout:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the binary as cargo builds it for integration tests and benchmarks: beside the folder of the test
/// executables.
fn built() -> PathBuf {
    let test = env::current_exe().expect("a path");
    test.ancestors().nth(2).expect("target/PROFILE/deps").join("enforcer")
}

/// Returns a command of the binary under test, without any of its variables in the environment but one that keeps it from
/// the machine's own boot state.
pub fn enforcer() -> Command {
    command_of(&env::var_os(BINARY).map_or_else(built, PathBuf::from))
}

fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ENFORCER_")) {
        command.env_remove(name);
    }
    // What a real agent of this machine keeps is not the tests' to change.
    command.env("ENFORCER_BOOT_STATE", "none");
    command
}

/// A running agent. Killed when dropped.
pub struct Agent {
    child: Child,
    lines: Receiver<String>,
    /// Every line so far, as it came.
    raw: Vec<String>,
    /// Lines that nobody waited for yet: JSON objects, or strings where a line is none.
    unclaimed: Vec<Value>,
}

impl Agent {
    /// Starts `enforcer run` with these arguments and waits until it is ready. Returns the agent and its `ready` line.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> (Self, Value) {
        Self::spawn(arguments).until_ready()
    }

    /// Starts `enforcer run` of another version with these arguments and waits until it is ready.
    pub fn start_program<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> (Self, Value) {
        Self::spawn_command(command_of(program), arguments).until_ready()
    }

    fn until_ready(mut self) -> (Self, Value) {
        let ready = self.wait_for_line("the agent is ready", |line| {
            line["event"] == "ready" || line.as_str().is_some_and(|line| line.contains(" ready in mode "))
        });
        (self, ready)
    }

    /// Starts `enforcer run` with these arguments.
    pub fn spawn<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::spawn_command(enforcer(), arguments)
    }

    /// Starts `enforcer run` with these arguments in a cgroup, as the process of a pod.
    pub fn spawn_in<A: AsRef<OsStr>>(cgroup: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        let processes = cgroup.join("cgroup.procs");
        let mut command = enforcer();
        let enter = move || fs::write(&processes, "0");
        // SAFETY: between fork and exec the closure opens and writes one file; the path is made before.
        unsafe { command.pre_exec(enter) };
        Self::spawn_command(command, arguments)
    }

    fn spawn_command<A: AsRef<OsStr>>(mut command: Command, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut child =
            command.arg("run").args(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawn");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.split(b'\n') {
                let line = String::from_utf8(line.expect("reading the agent's log")).expect("the log is UTF-8");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, raw: Vec::new(), unclaimed: Vec::new() }
    }

    fn take_line(&mut self, line: String) {
        self.unclaimed.push(serde_json::from_str(&line).unwrap_or_else(|_| line.clone().into()));
        self.raw.push(line);
    }

    /// Waits for a line, and takes it.
    pub fn wait_for_line(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = 0;
        loop {
            if let Some(place) = self.unclaimed[seen..].iter().position(&is_it) {
                return self.unclaimed.remove(seen + place);
            }
            seen = self.unclaimed.len();
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.take_line(line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("waited {TIMEOUT:?} in vain until {what}; the log:\n{}", self.raw.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the agent ended before {what}; the log:\n{}", self.raw.join("\n"))
                }
            }
        }
    }

    /// Waits for a line of this event about this pod, and takes it.
    pub fn wait_for_event(&mut self, event: &str, pod: &str) -> Value {
        self.wait_for_line(&format!("{event} is logged about {pod}"), |line| {
            line["event"] == event && line["pod"] == pod
        })
    }

    /// Takes the lines that have come and that nobody waited for.
    pub fn drain_log(&mut self) -> Vec<Value> {
        while let Ok(line) = self.lines.try_recv() {
            self.take_line(line);
        }
        std::mem::take(&mut self.unclaimed)
    }

    /// Returns every line that has come, as it came.
    pub fn raw_log(&mut self) -> &[String] {
        let told = self.drain_log();
        self.unclaimed = told;
        &self.raw
    }

    /// Returns the ids of the programs that the agent has in the kernel.
    pub fn programs(&self) -> BTreeSet<u32> {
        let folder = format!("/proc/{}/fdinfo", self.child.id());
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(folder).expect("the agent lives") {
            let text = fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default();
            let lines = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
            ids.extend(lines.map(|id| id.trim().parse::<u32>().expect("an id")));
        }
        ids
    }

    /// Returns how many sockets the agent has open.
    pub fn sockets(&self) -> usize {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the agent lives");
        let targets = entries.filter_map(|entry| fs::read_link(entry.expect("an entry").path()).ok());
        targets.filter(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")).count()
    }

    /// Returns the agent's map of this name, from the kernel.
    pub fn map(&self, name: &str) -> MapData {
        // Of maps that it has in its memory it keeps no descriptors; its programs know all of them.
        let own = self.programs();
        let programs = loaded_programs().map(|program| program.expect("listing programs needs root"));
        let mut ids = programs
            .filter(|program| own.contains(&program.id()))
            .flat_map(|program| program.map_ids().expect("the kernel tells of the maps").expect("since 4.15"));
        let found = ids.find(|id| {
            let info = MapInfo::from_id(*id).expect("the agent's map");
            // A map that is kept for the programs of every agent is not made with theirs, and has aya's name.
            let own = info.name_as_str() == Some(name);
            own || (name == "COUNTERS" && info.name_as_str() == Some("standalone_perc"))
        });
        MapData::from_id(found.expect("a program uses the map")).expect("the agent's map")
    }

    /// Returns the agent's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns how many entries a hash map of the agent has in the kernel.
    pub fn entries(&self, name: &str) -> u32 {
        let map = self.map(name);
        let count = match map.info().expect("the agent's map").key_size() {
            8 => HashMap::<_, u64, u64>::try_from(Map::HashMap(map)).expect("a hash").keys().count(),
            _ => HashMap::<_, [u8; 24], u64>::try_from(Map::HashMap(map)).expect("a hash").keys().count(),
        };
        u32::try_from(count).expect("few")
    }

    /// Reads the counters of the kernel programs.
    pub fn counters(&self) -> Counters {
        let map = PerCpuArray::try_from(Map::PerCpuArray(self.map("COUNTERS"))).expect("counters");
        CounterMap::new(map).read().expect("counters")
    }

    /// Returns the kernel programs' count of attempts.
    pub fn count(&self, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
        self.counters().attempts(verdict, reason, protocol)
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill has no memory effects; the process is this one's own child and not yet waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the agent lives");
    }

    fn end(&mut self, signal: libc::c_int) -> ExitStatus {
        self.signal(signal);
        let mut status = None;
        wait_until("the agent has ended", || {
            status = self.child.try_wait().expect("waiting for the agent");
            status.is_some()
        });
        status.expect("it ended")
    }

    /// Runs something while the agent is stopped by SIGSTOP.
    pub fn while_stopped(&self, something: impl FnOnce()) {
        self.signal(libc::SIGSTOP);
        something();
        self.signal(libc::SIGCONT);
    }

    /// Ends it by SIGTERM. Returns its exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.end(libc::SIGTERM)
    }

    /// Kills it by SIGKILL. Returns its exit status.
    pub fn kill(&mut self) -> ExitStatus {
        self.end(libc::SIGKILL)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
