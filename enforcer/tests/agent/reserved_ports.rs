//! `net.ipv4.ip_local_reserved_ports` as the agent keeps it: in the tests' own network namespace.

use std::{
    env,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use enforcer::host::netns;
use enforcer_core::reserved_ports::{MAX_WRITE_BYTES, PortSet};
use libtest_mimic::{Completion, Trial};
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, enforcer, wait_until},
    agent_fixture::{AgentFixture, denied, until_bind},
    apiserver::ApiServer,
    bpffs::Bpffs,
    http::{LISTEN, request},
    pods::Pod,
    tests,
};

use crate::{
    Test,
    backend::{self, Backend as _, start_on_cluster, start_synced},
    ephemeral_sockets,
};

const TESTS: &[Test] = tests![
    reserved_ports_follow_pods,
    audit_mode_reserves_nothing,
    mode_change_releases_reserved_ports,
    persistent_claims_stay_reserved,
    reservations_stay_until_pods_are_synced,
    foreign_entries_stay,
    claims_leave_half_of_the_ephemeral_range,
    newest_claims_are_left_out,
    ephemeral_port_avoids_claimed_ports,
    removed_entries_come_back,
    unwritable_list_is_reported_and_harmless
];

const LIST: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

pub(crate) fn trials() -> Vec<Trial> {
    let trials = TESTS.iter().map(|&(name, run)| {
        Trial::ignorable_test(format!("reserved_ports::{name}"), move || {
            // Nothing is tried on the list of the machine itself.
            if backend::is_outside() || netns::cookie()?.is_none() {
                return Ok(Completion::ignored_with("the tests have no network namespace of their own"));
            }
            run();
            Ok(Completion::Completed)
        })
    });
    trials.collect()
}

/// A node with its list, which is as it was when the test ends.
struct ReservedFixture {
    fixture: AgentFixture,
    range: String,
    state: String,
}

impl ReservedFixture {
    /// With these entries of others in the list.
    fn new(others: &PortSet) -> Self {
        let fixture = AgentFixture::new();
        let folder = fixture.path_beside("state").display().to_string();
        let node = Self { fixture, range: fs::read_to_string(RANGE).expect("the range"), state: folder };
        write(others);
        node
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["--state-dir", &self.state], more].concat()
    }

    fn enforce(&self, more: &[&str]) -> Agent {
        self.fixture.enforce(&self.flags(more))
    }

    fn audit(&self, more: &[&str]) -> Agent {
        self.fixture.agent(&self.flags(more))
    }

    /// Cleans up: what it said. It may find an agent that is not of these tests, and end badly for that.
    fn clean_up(&self) -> String {
        let mut command = enforcer();
        command.args(["cleanup", "--bpffs", "/nonexistent", "--state-dir", &self.state]);
        let Output { status, stdout, stderr } = command.output().expect("running the binary");
        let said = String::from_utf8_lossy(&stderr);
        assert!([Some(0), Some(4)].contains(&status.code()), "{status}: {said}");
        String::from_utf8(stdout).expect("UTF-8")
    }
}

impl Drop for ReservedFixture {
    fn drop(&mut self) {
        fs::write(RANGE, &self.range).expect("the range as it was");
        write(&PortSet::default());
    }
}

/// As an administrator would: what does not fit into one write is added by more.
fn write(ports: &PortSet) {
    let file = fs::OpenOptions::new().write(true).open(LIST).expect("the list");
    for (number, text) in ports.texts(MAX_WRITE_BYTES).into_iter().enumerate() {
        assert_eq!(file.write_at(text.as_bytes(), u64::from(number > 0)).expect("a write"), text.len());
    }
}

/// In one read, as it must be.
fn read() -> PortSet {
    let mut text = vec![0; 1 << 20];
    let length = File::open(LIST).and_then(|mut file| file.read(&mut text)).expect("the list");
    text.truncate(length);
    set(&String::from_utf8(text).expect("text"))
}

fn set(text: &str) -> PortSet {
    PortSet::parse(text).expect("a list")
}

/// Ports that cannot be said by ranges: 3,000 entries, more than four writes.
fn many() -> PortSet {
    (10_000..16_000).step_by(2).collect()
}

fn until_list(expected: &PortSet) {
    wait_until(&format!("the list is {expected}"), || read() == *expected);
}

/// How often something was told so far.
fn count(agent: &mut Agent, event: &str) -> usize {
    let is_it = |line: &&String| serde_json::from_str::<Value>(line).is_ok_and(|line| line["event"] == event);
    agent.raw_log().iter().filter(is_it).count()
}

fn reserved_ports_follow_pods() {
    let node = ReservedFixture::new(&set("100,30000-30009"));
    let web = Pod::new("web").ports("80/tcp, 8000-8010/udp, 127.0.0.1:9099/tcp, 9000/sctp, 30005/tcp");
    node.fixture.put(&web);
    let mut agent = node.enforce(&["--node-reserved", "22/tcp"]);
    let all = set("22,80,100,8000-8010,9000,9099,30000-30009");
    until_list(&all);
    // A claim that loses is no claim in force, and one port is many's.
    let (rival, dns) = (Pod::new("rival").ports("80/tcp, 81/tcp"), Pod::new("dns").ports("53/udp, 53/tcp, 80/udp"));
    node.fixture.put(&rival);
    node.fixture.put(&dns);
    until_list(&all.or(&set("53,81")));
    node.fixture.remove(&web);
    until_list(&set("22,53,80,81,100,30000-30009"));
    node.fixture.remove(&dns);
    until_list(&set("22,80,81,100,30000-30009"));
    let changed = rival.ports("81/tcp");
    node.fixture.put(&changed);
    until_list(&set("22,81,100,30000-30009"));
    node.fixture.remove(&changed);
    until_list(&set("22,100,30000-30009"));
    assert!(agent.terminate().success());
    assert_eq!(read(), set("100,30000-30009"), "what is not enforced any more is not reserved any more");
}

fn audit_mode_reserves_nothing() {
    let node = ReservedFixture::new(&set("100"));
    let mut worker = node.fixture.start(&Pod::new("owner").ports("20080/tcp"));
    let sysctls = node.fixture.path_beside("none").display().to_string();
    // It does not even look: there is nothing to look at.
    let mut agent = node.audit(&["--proc-sys", &sysctls, "--node-reserved", "22/tcp"]);
    until_bind(&mut worker, 20080, 0);
    thread::sleep(Duration::from_secs(1));
    assert!(agent.terminate().success());
    let told: Vec<_> = agent
        .drain_log()
        .into_iter()
        .filter(|line| line["event"].as_str().is_some_and(|event| event.contains("reserved")))
        .collect();
    assert_eq!(told, [Value::Null; 0]);
    assert_eq!(read(), set("100"));
    assert!(!Path::new(&node.state).exists(), "there was nothing to remember");
}

fn mode_change_releases_reserved_ports() {
    let node = ReservedFixture::new(&set("100"));
    let bpffs = Bpffs::new();
    let folder = bpffs.folder().display().to_string();
    node.fixture.put(&Pod::new("owner").ports("20080/tcp"));
    for successor in [&[][..], &["--mode", "enforce", "--manage-reserved-ports", "false"]] {
        let mut agent = node.enforce(&[]);
        until_list(&set("100,20080"));
        agent.kill();
        assert_eq!(read(), set("100,20080"));
        let _agent = node.audit(successor);
        until_list(&set("100"));
        wait_until("nothing is remembered", || fs::read_dir(&node.state).expect("a folder").count() == 0);
    }
    // The operator's word counts while the agent runs.
    let kept = ["--bpffs", &folder];
    for (mode, word, list) in [("enforce", "audit", "100"), ("audit", "enforce", "100,20080")] {
        let set_mode = |word: &str| {
            let status = enforcer().args(["mode", word]).args(kept).output().expect("running the binary").status;
            assert!(status.success(), "{status}");
        };
        let _agent = node.audit(&[&kept[..], &["--mode", mode]].concat());
        let usual = if mode == "enforce" { "100,20080" } else { "100" };
        until_list(&set(usual));
        set_mode(word);
        until_list(&set(list));
        set_mode("--clear");
        until_list(&set(usual));
    }
}

fn persistent_claims_stay_reserved() {
    let node = ReservedFixture::new(&set("100"));
    let bpffs = Bpffs::new();
    let folder = bpffs.folder().display().to_string();
    let (owner, other) = (Pod::new("owner").ports("20080/tcp"), Pod::new("other").ports("20081/tcp"));
    node.fixture.put(&owner);
    node.fixture.put(&other);
    let mut agent = node.enforce(&["--bpffs", &folder]);
    until_list(&set("100,20080-20081"));
    assert!(agent.terminate().success());
    assert_eq!(read(), set("100,20080-20081"), "it is still enforced");
    // The next one lets go of what ended meanwhile.
    node.fixture.remove(&other);
    let mut agent = node.enforce(&["--bpffs", &folder]);
    until_list(&set("100,20080"));
    // One that keeps nothing leaves nothing.
    assert!(agent.terminate().success());
    let mut agent = node.enforce(&["--bpffs", &folder, "--persist", "false"]);
    agent.wait_for_line("it takes over", |line| line["event"] == "takeover");
    assert!(agent.terminate().success());
    assert_eq!(read(), set("100"));
}

fn reservations_stay_until_pods_are_synced() {
    let node = ReservedFixture::new(&set("100"));
    let mut server = ApiServer::start();
    let (owner, other) = (Pod::new("owner").ports("20080/tcp"), Pod::new("other").ports("20081/tcp"));
    server.put(&owner);
    server.put(&other);
    let mut agent = start_synced(&node.fixture, &server, &node.flags(&[]));
    until_list(&set("100,20080-20081"));
    agent.kill();
    server.stop();
    // It remembers nothing of the claims; what the node reserved is known all the same.
    let mut agent = start_on_cluster(&node.fixture, &server, &node.flags(&["--node-reserved", "22/tcp"]));
    agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error");
    until_list(&set("22,100,20080-20081"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(read(), set("22,100,20080-20081"));
    server.delete(&other);
    server.start_again();
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    until_list(&set("22,100,20080"));
}

fn foreign_entries_stay() {
    let node = ReservedFixture::new(&many());
    let mut agent = node.enforce(&[]);
    assert_eq!(read(), many());
    for round in 0..10_u16 {
        // Between the others' entries, beside them, and some of them.
        let mut pods = Vec::new();
        for number in 0..4 {
            let first = 9_990 + 1_500 * number + 37 * round;
            let pod = Pod::new(&format!("pod-{number}")).ports(&format!("{first}-{}/tcp", first + 700));
            node.fixture.put(&pod);
            pods.push(((first..=first + 700).collect::<PortSet>(), pod));
        }
        let wanted = pods.iter().fold(many(), |all, (ports, _)| all.or(ports));
        until_list(&wanted);
        for (_, pod) in &pods[..2] {
            node.fixture.remove(pod);
        }
        if round % 2 == 0 {
            // At any moment of the change.
            thread::sleep(Duration::from_millis(u64::from(round) * 35));
            agent.kill();
            agent = node.enforce(&[]);
        }
        until_list(&many().or(&pods[2].0).or(&pods[3].0));
        for (_, pod) in &pods[2..] {
            node.fixture.remove(pod);
        }
        if round % 2 == 0 {
            until_list(&many());
        }
    }
    node.fixture.put(&Pod::new("last").ports("9000-10100/tcp"));
    agent.kill();
    let mut agent = node.enforce(&["--max-ports-per-pod", "65535"]);
    let last: PortSet = (9_000..=10_100).collect();
    until_list(&many().or(&last));
    agent.kill();
    let said = node.clean_up();
    assert_eq!(read(), many());
    let ours = last.without(&many()).len();
    assert!(said.contains(&format!("took {ours} ports out of net.ipv4.ip_local_reserved_ports")), "{said}");
    assert_eq!(fs::read_dir(&node.state).expect("a folder").count(), 0);
    assert!(!node.clean_up().contains("reserved_ports"), "there is nothing more to take out");
}

fn claims_leave_half_of_the_ephemeral_range() {
    let node = ReservedFixture::new(&PortSet::default());
    fs::write(RANGE, "32768 60999").expect("the range");
    node.fixture.put(&Pod::new("owner").ports("32768-60999/tcp"));
    let mut agent = node.enforce(&["--max-ports-per-pod", "65535", "--listen", LISTEN]);
    let told = agent.wait_for_line("what is left out is told", |line| line["event"] == "ports_not_reserved");
    assert_eq!((&told["count"], &told["ports"]), (&14_116.into(), &"46884-60999".into()), "{told}");
    until_list(&set("32768-46883"));
    // What is wrong stays so, and was told; the rest goes on.
    node.fixture.put(&Pod::new("other").ports("80/tcp"));
    until_list(&set("80,32768-46883"));
    assert_eq!(count(&mut agent, "ports_not_reserved"), 1);
    for line in ["port_enforcer_reserved_ports 14117", "port_enforcer_unreserved_ports 14116"] {
        wait_until(line, || request("GET", "/metrics").2.lines().any(|told| told == line));
    }
    let seen = ephemeral_sockets::connections(10_000);
    assert!(seen.and(&read()).is_empty() && seen.len() > 5_000, "{} ports", seen.len());
    // And the claims that are not reserved are enforced like the others.
    let mut stranger = node.fixture.start(&Pod::new("stranger"));
    until_bind(&mut stranger, 60_000, denied());
}

fn newest_claims_are_left_out() {
    let node = ReservedFixture::new(&PortSet::default());
    fs::write(RANGE, "40000 40199").expect("the range");
    // Ports in the order that is not that of the pods.
    let (first, second) = (Pod::new("first").ports("40120-40199/tcp"), Pod::new("second").ports("40000-40119/tcp"));
    node.fixture.put(&second);
    node.fixture.put(&first);
    let agent = node.enforce(&[]);
    until_list(&set("40000-40019,40120-40199"));
    drop(agent);
    // Whoever waited gets the room.
    let _agent = node.enforce(&[]);
    until_list(&set("40000-40019,40120-40199"));
    node.fixture.remove(&first);
    until_list(&set("40000-40099"));
}

fn ephemeral_port_avoids_claimed_ports() {
    let full = env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|full| full == "1");
    let node = ReservedFixture::new(&PortSet::default());
    fs::write(RANGE, "32768 60999").expect("the range");
    // About every fifth port, in no order, some alone and some in rows.
    let claimed: PortSet =
        (32_768..=60_999_u16).filter(|port| (u32::from(*port).wrapping_mul(2_654_435_761) >> 16) % 5 == 0).collect();
    let ports: Vec<u16> = claimed.iter().collect();
    for (number, ports) in ports.chunks(1000).enumerate() {
        let items: Vec<String> =
            ports.iter().map(|port| format!("{port}/{}", ["tcp", "udp"][usize::from(port % 2)])).collect();
        node.fixture.put(&Pod::new(&format!("pod-{number}")).ports(&items.join(" ")));
    }
    // It would happen.
    let agent = node.audit(&[]);
    let seen = ephemeral_sockets::connections(2_000);
    assert!(!seen.and(&claimed).is_empty(), "of {} ports none is claimed", seen.len());
    drop(agent);

    let _agent = node.enforce(&[]);
    until_list(&claimed);
    let start = Instant::now();
    let rounds = if full { 500_000 } else { 5_000 };
    let seen = ephemeral_sockets::all_ways(rounds, |port| assert!(!claimed.contains(port), "{port} is claimed"));
    eprintln!(
        "{} ways to an ephemeral port in {:.0} s, {} ports seen, {} claimed, none of them taken",
        4 * rounds,
        start.elapsed().as_secs_f64(),
        seen.len(),
        claimed.len(),
    );
    assert_eq!(read(), claimed);
    if full {
        let free = (32_768..=60_999).collect::<PortSet>().without(&claimed);
        assert_eq!(seen, free, "and every other port was");
    }
}

/// The safety net, half a minute wide.
fn removed_entries_come_back() {
    let node = ReservedFixture::new(&PortSet::default());
    node.fixture.put(&Pod::new("owner").ports("20080/tcp"));
    let mut agent = node.enforce(&[]);
    until_list(&set("20080"));
    write(&set("400-402"));
    until_list(&set("400-402,20080"));
    assert!(agent.terminate().success());
    assert_eq!(read(), set("400-402"));
}

fn unwritable_list_is_reported_and_harmless() {
    let node = ReservedFixture::new(&set("100"));
    let sysctls = node.fixture.path_beside("none").display().to_string();
    for (sysctls, is_file, remedy) in [(sysctls.as_str(), false, "--proc-sys"), ("/proc/sys", true, "--state-dir")] {
        if is_file {
            fs::remove_dir_all(&node.state).expect("a folder");
            fs::write(&node.state, "a file where the folder should be").expect("a write");
        }
        let owner = Pod::new("owner").ports("20080/tcp");
        let mut worker = node.fixture.start(&owner);
        let mut stranger = node.fixture.start(&Pod::new("stranger"));
        let mut agent = node.enforce(&["--proc-sys", sysctls]);
        let told = agent.wait_for_line("the trouble is told", |line| line["event"] == "reserved_ports_failed");
        assert!(told["message"].as_str().is_some_and(|said| said.contains(remedy)), "{told}");
        until_bind(&mut stranger, 20080, denied());
        until_bind(&mut worker, 20080, 0);
        // Once, however often it is tried.
        node.fixture.put(&owner.ports("20080/tcp 20081/tcp"));
        until_bind(&mut stranger, 20081, denied());
        thread::sleep(Duration::from_millis(700));
        assert_eq!(count(&mut agent, "reserved_ports_failed"), 1);
        assert_eq!(read(), set("100"));
        if is_file {
            fs::remove_file(&node.state).expect("a file");
            node.fixture.put(&Pod::new("owner-2").ports("20082/tcp"));
            agent.wait_for_line("it works again", |line| line["event"] == "reserved_ports_recovered");
            until_list(&set("100,20080-20082"));
        }
    }
}
