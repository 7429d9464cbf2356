//! Bad days of the node: what cannot be written is told, and enforcement goes on.

use std::{
    fs::File,
    io::{Read as _, pipe},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use enforcer_testing::{
    agent::{enforcer, until},
    agent_fixture::{Pod, Stage, bind, denied, until_bind},
    bpffs::Bpffs,
};

use crate::{
    Test,
    metrics::{SERVED, scrape},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_log_without_room_stops_nothing", a_log_without_room_stops_nothing),
    ("a_log_that_nobody_reads_stops_nothing", a_log_that_nobody_reads_stops_nothing),
    ("a_bpf_file_system_without_writing_is_told", a_bpf_file_system_without_writing_is_told),
];

const LOST: &str = "port_enforcer_log_lines_dropped_total";

/// An agent whose log goes somewhere else. Killed when dropped.
struct Logging(Child);

impl Logging {
    fn start(stage: &Stage, log: impl Into<Stdio>, more: &[&str]) -> Self {
        let mut command: Command = enforcer();
        let own = [&["--mode", "enforce"], &SERVED[..], more].concat();
        command.arg("run").args(stage.arguments("json", &own)).stdin(Stdio::null()).stderr(log);
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
fn a_log_without_room_stops_nothing() {
    let stage = Stage::new();
    stage.put(&Pod::new("owner").ports("20080"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    let _agent = Logging::start(&stage, full, &[]);
    until_bind(&mut stranger, 20_080, denied());
    stage.put(&Pod::new("later").ports("20081"));
    until_bind(&mut stranger, 20_081, denied());
    until("the lost lines are counted", || scrape().sum(LOST) > 0);
}

/// A pipe whose reader has stopped, as a runtime's does that waits for its own disk.
fn a_log_that_nobody_reads_stops_nothing() {
    let stage = Stage::new();
    stage.put(&Pod::new("owner").ports("20080"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let (mut reader, writer) = pipe().expect("a pipe");
    let _agent = Logging::start(&stage, writer, &["--log-level", "debug"]);
    until_bind(&mut stranger, 20_080, denied());
    // Each of them is a line, and far more than a pipe and the agent's memory of lines hold.
    until("lines are lost", || {
        stranger.storm(&bind(20_099), 5000, 1);
        sleep(Duration::from_millis(100));
        scrape().sum(LOST) > 0
    });
    stage.put(&Pod::new("later").ports("20081"));
    until_bind(&mut stranger, 20_081, denied());
    // It reads again, and hears of it.
    let mut log = Vec::new();
    let mut buffer = [0; 1 << 12];
    until("it is told", || {
        let count = reader.read(&mut buffer).expect("the agent's log");
        log.extend_from_slice(&buffer[..count]);
        String::from_utf8_lossy(&log).contains(r#""event":"log_lines_dropped""#)
    });
}

fn a_bpf_file_system_without_writing_is_told() {
    let stage = Stage::new();
    stage.put(&Pod::new("owner").ports("20080"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let bpffs = Bpffs::new();
    bpffs.make_read_only();
    let mut agent = stage.enforce(&["--bpffs", bpffs.folder().to_str().expect("a path")]);
    let said = agent.wait("it is said", |line| line["event"] == "persistence_unavailable");
    assert!(said["message"].as_str().expect("words").contains("Read-only file system"), "{said}");
    until_bind(&mut stranger, 20_080, denied());
    assert!(agent.rest().iter().all(|line| line["event"] != "persistence_unavailable"), "it is said once");
}
