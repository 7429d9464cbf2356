//! This binary as the first process of a virtual machine (`cargo xtask kernels`): it prepares the machine, starts itself
//! again to run the tests, says on the console how that ended, and switches the machine off.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
};

use rustix::{
    mount::{MountFlags, mount},
    process::{WaitOptions, wait},
    system::{RebootCommand, init_module, reboot},
};

use enforcer_testing::{network, own_machine};

/// Where the machine's first process is; anywhere else this binary is none, whatever its process id.
const INIT: &str = "/init";
/// Where the agent is.
const ENFORCER: &str = "/bin/enforcer";
/// Where modules are.
const MODULES: &str = "/modules";
/// Begins the lines that `cargo xtask kernels` reads.
const SAYS: &str = "port-enforcer-guest:";

/// What is mounted, in this order: type and place.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"),
    ("securityfs", "/sys/kernel/security"),
];

/// Turns this process into the machine's first one if it was started as that.
pub(crate) fn run_if_init() {
    if process::id() != 1 || env::args().next().as_deref() != Some(INIT) {
        return;
    }
    if let Err(why) = prepare() {
        println!("{SAYS} not ready: {why}");
    } else {
        println!("{SAYS} kernel {}", rustix::system::uname().release().to_string_lossy());
        probe();
        match run_all() {
            Ok(()) => println!("{SAYS} ended well"),
            Err(why) => println!("{SAYS} ended badly: {why}"),
        }
    }
    let error = reboot(RebootCommand::PowerOff);
    panic!("the machine goes on: {error:?}");
}

fn prepare() -> Result<(), String> {
    for (kind, place) in MOUNTS {
        // What a kernel was built without stays empty, and the tests say what they miss.
        let known =
            || fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.lines().any(|line| line.ends_with(kind)));
        mount(kind, place, kind, MountFlags::empty(), None)
            .or_else(|error| if place == "/proc" || known() { Err(error) } else { Ok(()) })
            .map_err(|error| format!("cannot mount {kind} on {place}: {error}"))?;
    }
    network::raise_loopback();
    load_modules()
}

/// Loads what the tests need of what the kernel was built with as modules, in the order of their names.
fn load_modules() -> Result<(), String> {
    let entries = fs::read_dir(MODULES).map_err(|error| format!("{MODULES}: {error}"))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let module = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        init_module(&module, c"").map_err(|error| format!("cannot load {}: {error}", path.display()))?;
    }
    Ok(())
}

/// What the agent says of this kernel, in one line.
fn probe() {
    let answer = Command::new(ENFORCER).args(["probe", "-o", "json"]).output();
    let answer = answer.map_err(|error| error.to_string()).and_then(|output| {
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    });
    match answer {
        Ok(answer) => println!("{SAYS} probe {answer}"),
        Err(why) => println!("{SAYS} no probe: {why}"),
    }
}

/// Runs what stands behind ` -- ` on the kernel's command line, parted by `,`: programs, this one or others of the
/// initramfs, and their arguments. (The arguments of this process also hold words that were meant for the kernel, and
/// that this one does not know.)
fn run_all() -> Result<(), String> {
    let line = fs::read_to_string("/proc/cmdline").map_err(|error| format!("/proc/cmdline: {error}"))?;
    let (_, ours) = line.split_once(" -- ").ok_or("the kernel's command line names no program")?;
    let words: Vec<&str> = ours.split_whitespace().collect();
    let mut bad = Vec::new();
    for command in words.split(|word| *word == ",") {
        let [program, arguments @ ..] = command else {
            return Err("a program without a name".to_owned());
        };
        let end = run(program, arguments)?;
        if end != WELL {
            bad.push(format!("{program} {end}"));
        }
    }
    if bad.is_empty() { Ok(()) } else { Err(bad.join(", ")) }
}

/// How a program ends whose tests passed.
const WELL: &str = "with code 0";

/// Runs the tests to their end: how they ended. Orphans of theirs are buried meanwhile.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut child = Command::new(program);
    child.args(arguments).env(own_machine::MARK, "1").env("RUST_BACKTRACE", "1");
    child.env("CARGO_BIN_EXE_enforcer", ENFORCER);
    let child = child.spawn().map_err(|error| format!("{program}: {error}"))?.id();
    loop {
        let (pid, status) = wait(WaitOptions::empty())
            .map_err(|error| format!("waiting for {program}: {error}"))?
            .ok_or_else(|| format!("nothing to wait for after {program}"))?;
        if u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|pid| pid == child) {
            return Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("with code {code}"),
                (None, Some(signal)) => format!("by signal {signal}"),
                (None, None) => format!("{status:?}"),
            });
        }
    }
}
