//! The node loses its power: what was in force is in force again before any agent comes.
//!
//! A reboot is played: the agent is killed, all pins and with them all programs go, the pods' cgroups go, and the kernel
//! shows the id of another boot. `cargo xtask kernels` does it with a real machine (`enforcer/tests/kernel/reboot.rs`).

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use enforcer_core::model::digest::Digest;
use enforcer_ebpf::wire::{NodeMode, Protocol, Reason, VerdictKind};

use enforcer_testing::{
    agent::{Agent, enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::ApiServer,
    bpffs::Bpffs,
    cgroup_sandbox,
    http::{LISTEN, get},
    pods::{Pod, static_uid},
    tests,
};

use crate::{
    Test,
    backend::{Backend as _, start_on_cluster, start_synced},
};

pub(crate) const TESTS: &[Test] = tests![
    claims_are_in_force_before_any_agent,
    node_software_stays_exempt,
    damaged_and_foreign_states_deny_nothing,
    stale_state_denies_nothing,
    lease_goes_on_after_a_restore,
    break_glass_outlives_a_reboot,
    audit_stays_audit,
    running_agent_is_left_alone,
    agent_restores_what_nobody_restored,
    last_change_is_kept_by_sigterm,
    binds_write_nothing,
    unwritable_folder_is_reported_and_harmless,
    cleanup_forgets_the_state
];

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Another boot's id, in this process's mounts only.
struct OtherBoot(tempfile::TempDir);

impl OtherBoot {
    fn new() -> Self {
        let folder = tempfile::TempDir::new().expect("a folder");
        let file = folder.path().join("boot_id");
        fs::write(&file, "00000000-0000-4000-8000-00000000b007\n").expect("a file");
        let mounted = Command::new("mount").arg("--bind").arg(&file).arg(BOOT_ID).status();
        assert!(mounted.expect("mount").success());
        Self(folder)
    }
}

impl Drop for OtherBoot {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(BOOT_ID).status();
        assert!(unmounted.is_ok_and(|status| status.success()) && self.0.path().exists());
    }
}

/// A node with a disk.
struct Node {
    fixture: AgentFixture,
    disk: PathBuf,
    bpffs: Option<Bpffs>,
    rebooted: Option<OtherBoot>,
}

impl Node {
    fn new() -> Self {
        let fixture = AgentFixture::new();
        let disk = fixture.path_beside("disk");
        Self { fixture, disk, bpffs: Some(Bpffs::new()), rebooted: None }
    }

    fn bpffs(&self) -> String {
        self.bpffs.as_ref().expect("it is mounted").folder().display().to_string()
    }

    fn state(&self) -> PathBuf {
        self.disk.join("boot-state")
    }

    /// The flags of an agent here, and `more`.
    fn flags<T>(&self, more: &[&str], use_flags: impl FnOnce(&[&str]) -> T) -> T {
        let (bpffs, disk) = (self.bpffs(), self.disk.display().to_string());
        use_flags(&[&["--bpffs", &bpffs, "--boot-state", &disk], more].concat())
    }

    fn enforce(&self, more: &[&str]) -> Agent {
        self.flags(more, |flags| self.fixture.enforce(flags))
    }

    /// Waits until the state on the disk has this text.
    fn until_kept(&self, text: &str) {
        wait_until(&format!("{text} is on the disk"), || {
            fs::read_to_string(self.state()).is_ok_and(|state| state.contains(text))
        });
    }

    /// The power is cut, and comes back.
    fn reboot(&mut self, agent: Agent) {
        drop(agent);
        self.lose_programs();
        self.rebooted.get_or_insert_with(OtherBoot::new);
    }

    fn lose_programs(&mut self) {
        self.bpffs = None;
        cgroup_sandbox::remove(&self.fixture.root()).expect("the pods' cgroups go");
        self.bpffs = Some(Bpffs::new());
    }

    /// What `enforcer restore` does and says.
    fn restore(&self) -> Output {
        self.command(&["restore"])
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = enforcer();
        command.args(words).args(["--bpffs", &self.bpffs()]).arg("--boot-state").arg(&self.disk);
        // The list of the tests' own namespace has nothing of any agent's.
        command.env("ENFORCER_STATE_DIR", self.fixture.path_beside("run")).output().expect("running the binary")
    }

    /// Restores, and returns the sentence.
    fn restored(&self) -> String {
        let output = self.restore();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
        stdout(&output)
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8").trim_end().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8").trim_end().to_owned()
}

fn claims_are_in_force_before_any_agent() {
    let mut node = Node::new();
    let (owner, known, unknown) = (Pod::new("owner").ports("20080"), Pod::new("known"), Pod::new("unknown"));
    node.fixture.put(&owner);
    node.fixture.put(&known);
    let agent = node.enforce(&[]);
    node.until_kept("20080/tcp");
    node.reboot(agent);
    let said = node.restored();
    assert!(
        said.starts_with("restored 1 claims of 2 pods, as they were in force at ") && said.contains("enforce"),
        "{said}"
    );
    // The kubelet makes the cgroups of the pods; nobody has told anybody whose they are.
    let (mut stranger, mut other) = (node.fixture.worker(&unknown), node.fixture.worker(&known));
    let mut rightful = node.fixture.worker(&owner);
    for _ in 0..50 {
        assert_eq!((stranger.bind(&bind(20080)), other.bind(&bind(20080))), (denied(), denied()));
        assert_eq!(rightful.bind(&bind(20080)), 0);
        assert_eq!((stranger.bind(&bind(20081)), other.bind(&bind(20082))), (0, 0), "nobody claims these");
    }
    // The agent takes over as from any other, and says what the programs saw.
    node.fixture.put(&unknown);
    let mut agent = node.enforce(&["--listen", LISTEN]);
    let taken = agent.wait_for_line("it takes over", |line| line["event"] == "takeover");
    assert_eq!((&taken["from"], &taken["pods"]), (&"bootRestore".into(), &2.into()), "{taken}");
    assert_eq!(taken["conflicts"], 100, "{taken}");
    assert_eq!(agent.wait_for_event("bind", "default/known")["owner"], "default/owner");
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp), 100);
    assert_eq!((rightful.bind(&bind(20080)), stranger.bind(&bind(20080))), (0, denied()));
    let metrics = get("/metrics").1;
    let value = |name: &str| {
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.trim().parse::<f64>().expect("a number")
    };
    assert!(value("port_enforcer_boot_restored_seconds") > 0.0);
    assert!(value("port_enforcer_unenforced_seconds_total{cause=\"boot\"}") > 0.0, "until the restore nothing was");
    assert!(value("port_enforcer_unenforced_seconds_total{cause=\"unsynced\"}") == 0.0);
    // The next agent has nothing to do with it any more.
    agent.kill();
    let mut agent = node.enforce(&[]);
    assert_eq!(agent.wait_for_line("it takes over", |line| line["event"] == "takeover")["from"], "agent");
}

fn node_software_stays_exempt() {
    let mut node = Node::new();
    let uid = static_uid();
    let fixed = Pod::new("dns").uid(&uid).ports("20083");
    let system = Pod::new("proxy").namespace("kube-system").ports("20084");
    let tenant = Pod::new("tenant").ports("20080");
    for pod in [&fixed, &system, &tenant] {
        node.fixture.put(pod);
    }
    let agent = node.enforce(&[]);
    node.until_kept("20084/tcp");
    node.reboot(agent);
    node.restored();
    let (mut fixed, mut system, mut tenant) =
        (node.fixture.worker(&fixed), node.fixture.worker(&system), node.fixture.worker(&tenant));
    let mut replaced = node.fixture.worker(&Pod::new("proxy-of-today").namespace("kube-system"));
    let mut other_static = node.fixture.worker_with_uid(&static_uid());
    // Static pods and pods of the system's namespaces that are known: never denied.
    assert_eq!((fixed.bind(&bind(20080)), system.bind(&bind(20080))), (0, 0));
    assert_eq!(other_static.bind(&bind(20080)), 0);
    // One that was replaced while the node was off is not known, and gets the port of its predecessor.
    assert_eq!(replaced.bind(&bind(20084)), 0);
    assert_eq!(tenant.bind(&bind(20083)), denied(), "a static pod is known by its cgroup, whoever else is not");
    assert_eq!(tenant.bind(&bind(20080)), 0);
}

fn damaged_and_foreign_states_deny_nothing() {
    let mut node = Node::new();
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let agent = node.enforce(&[]);
    node.until_kept("20080/tcp");
    node.reboot(agent);
    let whole = fs::read(node.state()).expect("a state");
    let text = String::from_utf8(whole.clone()).expect("UTF-8");
    let sealed = |json: &str| {
        let digest = Digest::of_bytes(json.as_bytes());
        format!("port-enforcer boot-state 1 {digest:?} {}\n{json}", json.len()).into_bytes()
    };
    let json = text.split_once('\n').expect("two lines").1;
    let own = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let of_other_machine = json.replace(&format!("\"machineId\":\"{}\"", own.trim()), "\"machineId\":\"0b\"");
    let mut cases: Vec<(&str, Vec<u8>, i32, &str)> = vec![
        ("truncated", whole[..whole.len() / 2].to_vec(), 4, "is damaged"),
        ("its first line", whole[..20].to_vec(), 4, "is no boot state"),
        ("empty", Vec::new(), 4, "is no boot state"),
        ("foreign", b"{\"kind\": \"Secret\"}".to_vec(), 4, "is no boot state"),
        ("longer", [&whole[..], b"x"].concat(), 4, "is damaged"),
        ("of another version", text.replacen("boot-state 1", "boot-state 7", 1).into_bytes(), 4, "version 7"),
        ("with another field", sealed(&json.replacen('{', "{\"more\":1,", 1)), 4, "content that no agent writes"),
        ("of no owner", sealed(&json.replacen("20080/tcp", "20080/icmp", 1)), 4, "content that no agent writes"),
    ];
    if !own.is_empty() {
        assert_ne!(of_other_machine, json);
        cases.push(("of another machine", sealed(&of_other_machine), 0, "is of another machine: node node-1"));
    }
    // Each bit of some bytes, wherever they are.
    for place in (0..whole.len()).step_by(whole.len() / 12) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        cases.push(("bit-flipped", flipped, 4, "; nothing"));
    }
    let mut stranger = node.fixture.worker(&Pod::new("stranger"));
    for (what, bytes, code, words) in cases {
        fs::write(node.state(), bytes).expect("a file");
        let output = node.restore();
        assert_eq!(output.status.code(), Some(code), "{what}: {}", stderr(&output));
        let said = [stdout(&output), stderr(&output)].concat();
        assert!(said.contains(words) && said.lines().count() == 1, "{what}: {said}");
        assert!(said.ends_with("nothing is enforced until an agent comes"), "{what}: {said}");
        assert_eq!(stranger.bind(&bind(20080)), 0, "{what}");
        assert_eq!(node.bpffs.as_ref().expect("mounted").list(), ["v3/", "v3/shared/"][..0].to_vec(), "{what}");
    }
    // Whoever else could write to it chose what is in it.
    fs::write(node.state(), &whole).expect("a file");
    fs::set_permissions(node.state(), fs::Permissions::from_mode(0o666)).expect("a mode");
    let output = node.restore();
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("others may write to it"), "{}", stderr(&output));
    fs::remove_file(node.state()).expect("a file");
    assert!(node.restored().starts_with("there is no boot state in "));
    assert_eq!(stranger.bind(&bind(20080)), 0);
    // It was the state that was wrong, not the way: the whole one is restored.
    fs::write(node.state(), &whole).expect("a file");
    fs::set_permissions(node.state(), fs::Permissions::from_mode(0o600)).expect("a mode");
    node.restored();
    assert_eq!(stranger.bind(&bind(20080)), denied());
}

fn stale_state_denies_nothing() {
    let mut node = Node::new();
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let agent = node.enforce(&["--lease", "1s"]);
    node.until_kept("20080/tcp");
    node.reboot(agent);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let said = node.restored();
    assert!(said.contains(" is stale: it was written ") && said.contains("its lease was 1 s"), "{said}");
    assert_eq!(node.fixture.worker(&Pod::new("stranger")).bind(&bind(20080)), 0);
    // One that was written since the node started is not of before a reboot: somebody removed the rest by hand.
    let agent = node.enforce(&[]);
    node.until_kept("00000000b007");
    drop(agent);
    node.lose_programs();
    let said = node.restored();
    assert!(said.contains(" was written since this node started; nothing is enforced"), "{said}");
}

fn lease_goes_on_after_a_restore() {
    let mut node = Node::new();
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let agent = node.enforce(&["--lease", "20s"]);
    node.until_kept("20080/tcp");
    node.reboot(agent);
    node.restored();
    let mut stranger = node.fixture.worker(&Pod::new("stranger"));
    assert_eq!(stranger.bind(&bind(20080)), denied());
    wait_until("no agent comes and the lease ends", || stranger.bind(&bind(20080)) == 0);
}

fn break_glass_outlives_a_reboot() {
    let mut node = Node::new();
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let mut agent = node.enforce(&[]);
    node.until_kept("20080/tcp");
    // With and without an agent.
    agent.kill();
    assert!(node.command(&["mode", "audit"]).status.success());
    node.reboot(agent);
    let said = node.restored();
    assert!(said.contains("in mode audit"), "{said}");
    let mut stranger = node.fixture.worker(&Pod::new("stranger"));
    assert_eq!(stranger.bind(&bind(20080)), 0);
    assert!(stdout(&node.command(&["mode"])).starts_with("this node is set to audit"));
    // An agent that comes without a restore knows it too.
    node.lose_programs();
    let mut stranger = node.fixture.worker(&Pod::new("stranger"));
    let agent = node.enforce(&[]);
    until_bind(&mut stranger, 20080, 0);
    assert!(node.command(&["mode", "--clear"]).status.success());
    until_bind(&mut stranger, 20080, denied());
    assert!(!node.disk.join("node-mode").exists());
    // In doubt it is audit.
    fs::write(node.disk.join("node-mode"), "enforc").expect("a file");
    fs::set_permissions(node.disk.join("node-mode"), fs::Permissions::from_mode(0o600)).expect("a mode");
    node.reboot(agent);
    let output = node.restore();
    assert!(stderr(&output).contains("it counts as audit"), "{}", stderr(&output));
    assert_eq!(node.fixture.worker(&Pod::new("stranger")).bind(&bind(20080)), 0);
    assert_eq!(enforcer::kernel::pins::node_mode(Path::new(&node.bpffs())).expect("a mode"), NodeMode::Audit);
}

fn audit_stays_audit() {
    let mut node = Node::new();
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let agent = node.flags(&["--mode", "audit"], |flags| node.fixture.agent(flags));
    node.until_kept("20080/tcp");
    node.reboot(agent);
    assert!(node.restored().contains("in mode audit"));
    let stranger = Pod::new("stranger");
    assert_eq!(node.fixture.start(&stranger).bind(&bind(20080)), 0);
    let mut agent = node.flags(&["--mode", "audit"], |flags| node.fixture.agent(flags));
    assert_eq!(agent.wait_for_event("bind", "default/stranger")["verdict"], "audit", "it was seen");
}

fn running_agent_is_left_alone() {
    let node = Node::new();
    let owner = Pod::new("owner").ports("20080");
    node.fixture.put(&owner);
    let mut agent = node.enforce(&[]);
    node.until_kept("20080/tcp");
    assert_eq!(node.restored(), "an agent is running, so that nothing is to be restored");
    agent.kill();
    assert_eq!(node.restored(), "an agent left its claims in force, so that nothing is to be restored");
    assert_eq!(node.fixture.worker(&Pod::new("stranger")).bind(&bind(20080)), denied());
    assert_eq!(node.fixture.worker(&owner).bind(&bind(20080)), 0);
}

/// On a node without the unit, the agent itself restores, which counts while the API server does not answer.
fn agent_restores_what_nobody_restored() {
    let mut node = Node::new();
    let mut server = ApiServer::start();
    let owner = server.put(&Pod::new("owner").ports("20080"));
    let stranger = server.put(&Pod::new("stranger"));
    let agent = node.flags(&[], |flags| start_synced(&node.fixture, &server, flags));
    node.until_kept("20080/tcp");
    node.reboot(agent);
    server.stop();
    let (mut rightful, mut other) = (node.fixture.worker(&owner), node.fixture.worker(&stranger));
    assert_eq!(other.bind(&bind(20080)), 0, "until then nothing is");
    let mut agent = node.flags(&[], |flags| start_on_cluster(&node.fixture, &server, flags));
    let taken = agent.wait_for_line("it restores", |line| line["event"] == "takeover");
    assert_eq!((&taken["from"], &taken["pods"]), (&"bootState".into(), &2.into()), "{taken}");
    assert_eq!((rightful.bind(&bind(20080)), other.bind(&bind(20080))), (0, denied()));
    server.start_again();
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    server.delete(&owner);
    until_bind(&mut other, 20080, 0);
}

fn last_change_is_kept_by_sigterm() {
    let node = Node::new();
    let mut agent = node.enforce(&[]);
    node.until_kept("\"owners\":[]");
    let mut stranger = node.fixture.start(&Pod::new("stranger"));
    for port in 20080..20086 {
        node.fixture.put(&Pod::new(&format!("owner-{port}")).ports(&port.to_string()));
        until_bind(&mut stranger, port, denied());
    }
    assert!(agent.terminate().success());
    let state = fs::read_to_string(node.state()).expect("a state");
    for port in 20080..20086 {
        assert!(state.contains(&format!("{port}/tcp")), "{port}: {state}");
    }
    // Enforcement that ends with its agent must not come back after a reboot.
    let mut agent = node.enforce(&["--persist", "false"]);
    wait_until("the state is gone", || !node.state().exists());
    assert!(agent.terminate().success());
    assert!(!node.state().exists());
}

/// Only changes of what is in force are written, whatever pods bind meanwhile.
fn binds_write_nothing() {
    let node = Node::new();
    let owner = Pod::new("owner").ports("20080");
    let (mut rightful, mut stranger) = (node.fixture.start(&owner), node.fixture.start(&Pod::new("stranger")));
    let mut agent = node.enforce(&[]);
    node.until_kept("20080/tcp");
    let file = || fs::metadata(node.state()).expect("a state").ino();
    let pause = || std::thread::sleep(std::time::Duration::from_millis(1500));
    // Longer than the pause between two writes: nothing is left to be written.
    pause();
    let before = file();
    for port in 20080..20100 {
        assert_eq!(rightful.bind(&bind(port)), 0);
        stranger.bind(&bind(port));
    }
    agent.wait_for_event("bind", "default/stranger");
    pause();
    assert_eq!(file(), before, "a new file is written for each state");
    node.fixture.put(&Pod::new("late").ports("20200"));
    node.until_kept("20200/tcp");
    assert_ne!(file(), before);
}

fn unwritable_folder_is_reported_and_harmless() {
    let node = Node::new();
    fs::write(&node.disk, "a file where the folder should be").expect("a file");
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let mut agent = node.enforce(&[]);
    let told = agent.wait_for_line("it is told", |line| line["event"] == "boot_state_failed");
    assert!(
        told["message"].as_str().expect("a sentence").contains("nothing is enforced until an agent comes"),
        "{told}"
    );
    until_bind(&mut node.fixture.worker(&Pod::new("stranger")), 20080, denied());
    // Longer than the pause between two writes: nothing changes any more, but that the disk can be written to.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    fs::remove_file(&node.disk).expect("a file");
    node.until_kept("20080/tcp");
    let told = agent.drain_log();
    assert!(!told.iter().any(|line| line["event"] == "boot_state_failed"), "it is told once: {told:?}");
}

fn cleanup_forgets_the_state() {
    let mut node = Node::new();
    node.fixture.put(&Pod::new("owner").ports("20080"));
    let mut agent = node.enforce(&[]);
    node.until_kept("20080/tcp");
    assert!(agent.terminate().success());
    let output = node.command(&["cleanup"]);
    assert!(stdout(&output).contains("nothing is restored after a reboot"), "{output:?}");
    assert!(!node.disk.exists());
    node.reboot(agent);
    assert!(node.restored().starts_with("there is no boot state in "));
}
