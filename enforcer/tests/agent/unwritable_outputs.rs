//! Bad days of the node: what cannot be written is told, and enforcement goes on.

use std::{
    fs::File,
    io::{Read as _, pipe},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use enforcer_testing::{
    agent::{enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    bpffs::Bpffs,
    pods::Pod,
    tests,
};

use crate::{
    Test,
    metrics::{SERVED, scrape},
};

pub(crate) const TESTS: &[Test] =
    tests![full_log_disk_stops_nothing, unread_log_stops_nothing, read_only_bpffs_is_reported];

const LOST: &str = "port_enforcer_log_lines_dropped_total";

/// An agent whose log goes somewhere else. Killed when dropped.
struct Logging(Child);

impl Logging {
    fn start(fixture: &AgentFixture, log: impl Into<Stdio>, more: &[&str]) -> Self {
        let mut command: Command = enforcer();
        let own = [&["--mode", "enforce"], &SERVED[..], more].concat();
        command.arg("run").args(fixture.arguments("json", &own)).stdin(Stdio::null()).stderr(log);
        Self(command.spawn().expect("the binary"))
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk that is full.
fn full_log_disk_stops_nothing() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    let _agent = Logging::start(&fixture, full, &[]);
    until_bind(&mut stranger, 20_080, denied());
    fixture.put(&Pod::new("later").ports("20081"));
    until_bind(&mut stranger, 20_081, denied());
    wait_until("the lost lines are counted", || scrape().sum(LOST) > 0);
}

/// A pipe whose reader has stopped, as a runtime's does that waits for its own disk.
fn unread_log_stops_nothing() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let (mut reader, writer) = pipe().expect("a pipe");
    let _agent = Logging::start(&fixture, writer, &["--log-level", "debug"]);
    until_bind(&mut stranger, 20_080, denied());
    // Each of them is a line, and far more than a pipe and the agent's memory of lines hold.
    wait_until("lines are lost", || {
        stranger.storm(&bind(20_099), 5000, 1);
        sleep(Duration::from_millis(100));
        scrape().sum(LOST) > 0
    });
    fixture.put(&Pod::new("later").ports("20081"));
    until_bind(&mut stranger, 20_081, denied());
    // It reads again, and hears of it.
    let mut log = Vec::new();
    let mut buffer = [0; 1 << 12];
    wait_until("it is told", || {
        let count = reader.read(&mut buffer).expect("the agent's log");
        log.extend_from_slice(&buffer[..count]);
        String::from_utf8_lossy(&log).contains(r#""event":"log_lines_dropped""#)
    });
}

fn read_only_bpffs_is_reported() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let bpffs = Bpffs::new();
    bpffs.make_read_only();
    let mut agent = fixture.enforce(&["--bpffs", bpffs.folder().to_str().expect("a path")]);
    let said = agent.wait_for_line("it is said", |line| line["event"] == "persistence_unavailable");
    assert!(said["message"].as_str().expect("words").contains("Read-only file system"), "{said}");
    until_bind(&mut stranger, 20_080, denied());
    assert!(agent.drain_log().iter().all(|line| line["event"] != "persistence_unavailable"), "it is said once");
}
