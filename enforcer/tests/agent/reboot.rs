//! A real machine loses its power while the agent enforces, and boots again: with `enforcer restore` before the first
//! pod, and, for comparison, without a boot state. Each boot is a run of this test in a virtual machine with a disk, which
//! `cargo xtask kernels --reboot` starts and cuts off (`xtask/src/kernels/reboot.rs`).

use std::{
    env, fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use libtest_mimic::{Completion, Trial};
use rustix::mount::{MountFlags, mount};

use enforcer_testing::{
    agent::{Agent, enforcer, wait_until},
    own_machine,
    pods::{Pod, SYSTEMD_BESTEFFORT, cgroup_for},
    tests,
    worker::{Bind, Worker},
};

use crate::bind_load::{DENY_EACCES, Load, assert_never_denied, no_access};

/// Which boot this is: `cut`, `restore` or `gap`.
const BOOT: &str = "PORT_ENFORCER_TEST_BOOT";
/// Begins the lines that `cargo xtask kernels` reads.
const SAYS: &str = "port-enforcer-guest:";

/// The disk. `NVMe` and ext4 are built into every kernel of the matrix.
const DEVICE: &str = "/dev/nvme0n1";
const DISK: &str = "/tmp/disk";
const STATE: &str = "/tmp/disk/port-enforcer/boot-state";
/// The cgroup of the pods. The kubelet of this story finds it made.
const ROOT: &str = "/sys/fs/cgroup/kubepods.slice";

const OWNER: &str = "0a1b2c3d-0000-4000-8000-000000000001";
/// A pod that the agent knew before the power went.
const KNOWN: &str = "0a1b2c3d-0000-4000-8000-000000000002";
/// Pods that are new since then.
const UNKNOWN: [&str; 3] = [
    "0a1b2c3d-0000-4000-8000-000000000003",
    "0a1b2c3d-0000-4000-8000-000000000004",
    "0a1b2c3d-0000-4000-8000-000000000005",
];
const PORT: u16 = 20080;
/// Attempts of foreign pods before the agent comes, and as many after it.
const ATTEMPTS: u64 = 20_000;

/// Name and function of a test.
type Test = (&'static str, fn() -> Completion);

const TESTS: &[Test] = tests![power_cut_opens_no_gap];

pub(crate) fn trials() -> Vec<Trial> {
    TESTS.iter().map(|&(name, run)| Trial::ignorable_test(format!("reboot::{name}"), move || Ok(run()))).collect()
}

fn power_cut_opens_no_gap() -> Completion {
    let Ok(boot) = env::var(BOOT) else {
        let why = "it needs a machine with a disk that is cut off; cargo xtask kernels --reboot runs it";
        return Completion::ignored_with(why);
    };
    fs::create_dir_all(DISK).expect("a folder");
    mount(DEVICE, DISK, "ext4", MountFlags::empty(), None).expect("the machine's disk");
    match boot.as_str() {
        "cut" => until_the_power_goes(),
        "restore" => after_a_restore(),
        "gap" => without_a_state(),
        _ => panic!("{BOOT}={boot}"),
    }
    Completion::Completed
}

/// What the host reads.
fn figure(name: &str, value: impl std::fmt::Display) {
    // Whoever runs the tests may have begun a line.
    println!("\n{SAYS} figure {name} {value}");
}

fn flags() -> Vec<String> {
    let words = [
        "--source",
        "dir:/tmp/disk/pods",
        "--mode",
        "enforce",
        "--bpffs",
        "/sys/fs/bpf/port-enforcer",
        "--boot-state",
        "/tmp/disk/port-enforcer",
        "--state-dir",
        "/tmp/run",
        "--node-name",
        "node-1",
        "--listen",
        "none",
        "--admin-socket",
        "none",
        "--log-format",
        "json",
    ];
    words.iter().chain(&DENY_EACCES).map(ToString::to_string).collect()
}

/// A process of the pod with this UID, whose cgroup the kubelet makes.
fn start(uid: &str) -> Worker {
    let path = Path::new(ROOT).join(cgroup_for(uid, SYSTEMD_BESTEFFORT));
    fs::create_dir_all(&path).expect("a cgroup");
    let worker = Worker::start(&path);
    own_machine::give_way(worker.pid());
    worker
}

/// A bind on an address of its own, so that what the kernel itself refuses is nobody's verdict.
fn bind(address: &str) -> Vec<Bind> {
    vec![Bind::tcp(address, PORT)]
}

fn until_the_power_goes() {
    fs::create_dir_all("/tmp/disk/pods").expect("a folder");
    for pod in [Pod::new("owner").uid(OWNER).ports("20080"), Pod::new("known").uid(KNOWN)] {
        fs::write(format!("/tmp/disk/pods/{}.yaml", pod.name()), pod.object.to_string()).expect("a manifest");
    }
    // Only what the agent writes is to prove that it outlives the cut.
    rustix::fs::sync();
    fs::create_dir_all(ROOT).expect("a cgroup");
    let _agent = Agent::start(flags()).0;
    let rightful = Load::storm(start(OWNER), bind("127.0.0.2"));
    let foreign = Load::storm(start(KNOWN), bind("127.0.0.3"));
    wait_until("the state is on the disk", || {
        fs::read_to_string(STATE).is_ok_and(|state| state.contains("\"20080/tcp\""))
    });
    rightful.wait_for_progress();
    foreign.wait_for_progress();
    println!("\n{SAYS} cut");
    sleep(Duration::from_mins(1));
    panic!("the power was not cut");
}

/// What `enforcer restore` says, and its exit code.
fn restore() -> (Option<i32>, String) {
    let mut command = enforcer();
    command.args(["restore", "--bpffs", "/sys/fs/bpf/port-enforcer", "--boot-state", "/tmp/disk/port-enforcer"]);
    let output = command.args(["--state-dir", "/tmp/run"]).output().expect("the binary");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), said)
}

fn after_a_restore() {
    assert!(!Path::new(ROOT).exists(), "nothing has been started");
    let began = Instant::now();
    let (code, said) = restore();
    figure("restoreMillis", began.elapsed().as_millis());
    assert!(code == Some(0) && said.starts_with("restored 1 claims of 2 pods"), "{code:?} {said}");
    let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").expect("the list");
    assert_eq!(reserved.trim_end(), "20080", "no outgoing connection gets it");
    // The strangers come first, and try from their first instant.
    let foreign: Vec<Load> =
        UNKNOWN.iter().chain([&KNOWN]).map(|uid| Load::storm(start(uid), bind("127.0.0.3"))).collect();
    let rightful = Load::storm(start(OWNER), bind("127.0.0.2"));
    let attempts = || foreign.iter().map(Load::attempts).sum::<u64>();
    wait_until_many("before an agent comes", ATTEMPTS, attempts);
    figure("attemptsBeforeAgent", attempts());
    let mut agent = Agent::start(flags()).0;
    let taken = agent.wait_for_line("it takes over", |line| line["event"] == "takeover");
    assert_eq!(taken["from"], "bootRestore", "{taken}");
    wait_until_many("after it came", attempts() + ATTEMPTS, attempts);
    let (_, owners) = rightful.stop();
    let mut denied = 0;
    for load in foreign {
        let (_, counts) = load.stop();
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [no_access()], "nobody got through: {counts:?}");
        denied += counts.values().sum::<u64>();
    }
    assert_never_denied(&owners);
    figure("denied", denied);
    figure("through", 0);
    figure("bindsOfOwner", owners.values().sum::<u64>());
    figure("ownerRefused", 0);
}

fn wait_until_many(what: &str, many: u64, attempts: impl Fn() -> u64) {
    let deadline = Instant::now() + Duration::from_mins(5);
    while attempts() < many {
        assert!(Instant::now() < deadline, "{} attempts {what}", attempts());
        sleep(Duration::from_millis(20));
    }
}

/// Damaged states deny nothing, and no state is the gap of before.
fn without_a_state() {
    let whole = fs::read(STATE).expect("the state of the first boot");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (what, bytes) in
        [("truncated", whole[..whole.len() / 3].to_vec()), ("flipped", flipped), ("foreign", vec![7; 99])]
    {
        fs::write(STATE, bytes).expect("a file");
        let (code, said) = restore();
        assert_eq!(code, Some(4), "{what}: {said}");
        assert!(said.lines().count() == 1 && said.contains("nothing is enforced"), "{what}: {said}");
    }
    fs::remove_file(STATE).expect("a file");
    let (code, said) = restore();
    assert!(code == Some(0) && said.starts_with("there is no boot state"), "{code:?} {said}");
    fs::create_dir_all(ROOT).expect("a cgroup");
    let mut foreign = start(UNKNOWN[0]);
    let (began, mut through) = (Instant::now(), 0_u64);
    // As long as the kubelet needs to start the agent's pod, or longer, is not in this.
    let _agent = Agent::spawn(flags());
    while foreign.bind(&bind("127.0.0.3")[0]) == 0 {
        through += 1;
        assert!(began.elapsed() < Duration::from_mins(2), "the agent comes");
    }
    figure("gapMillis", began.elapsed().as_millis());
    figure("throughInGap", through);
    assert!(through > 0, "there is a gap without a state");
}
