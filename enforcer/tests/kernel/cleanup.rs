//! Removing all that agents left, layouts that are not ours, and the right to change what is kept.

use std::{
    env, fs,
    process::{Command, Output},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, Map, MapData, MapInfo},
    programs::{links::PinnedLink, loaded_programs},
};
use enforcer::kernel::{
    BpfError,
    pins::{CleanupSummary, PinError, Pins, clean_up, node_mode, set_node_mode},
};
use enforcer_ebpf::wire::NodeMode;

use enforcer_testing::{
    mini_agent::{MiniNode, expected_pins, inode, only_owner_may_bind, shared_bind},
    reconciler_fixture::{denied, features},
    tests,
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    cleanup_removes_everything_and_can_repeat,
    cleanup_leaves_running_agent_alone,
    cleanup_removes_unknown_pins,
    cleanup_detaches_links_held_elsewhere,
    cleanup_command_reports_its_work,
    foreign_layout_version_is_refused,
    foreign_layout_in_map_is_refused,
    lock_has_one_holder,
    lock_survives_removal_of_its_folder
];

const PORT: u16 = 20080;

fn node() -> MiniNode {
    MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099")])
}

/// Programs in the kernel that count in these counters, whoever holds them.
pub(super) fn programs_counting_in(counters: u32) -> usize {
    let programs = loaded_programs().filter_map(Result::ok);
    let uses = |ids: Option<Vec<u32>>| ids.is_some_and(|ids| ids.contains(&counters));
    programs.filter(|program| program.map_ids().is_ok_and(uses)).count()
}

/// How many an agent has. Where a port is taken before it is bound, two more do that.
pub(super) fn programs_of_an_agent() -> usize {
    if features().takes_before_bind() { 9 } else { 7 }
}

/// Id of the map with the counters.
pub(super) fn counters(node: &MiniNode) -> u32 {
    MapInfo::from_pin(node.bpffs.folder().join("v3/shared/COUNTERS")).expect("the counters").id()
}

fn cleanup_removes_everything_and_can_repeat() -> Outcome {
    let node = node();
    let folder = node.bpffs.folder();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    drop(node.start());
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    let counters = counters(&node);
    assert_eq!(programs_counting_in(counters), programs_of_an_agent());
    let cleaned = clean_up(&folder).expect("a cleanup").expect("no agent runs");
    assert_eq!(cleaned, CleanupSummary { links: 7, pins: 28, held: 0, left_alone: Vec::new() });
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    assert_eq!(programs_counting_in(counters), 0, "the kernel has let go of the programs");
    assert!(!folder.exists());
    assert_eq!(clean_up(&folder).expect("a cleanup"), Some(CleanupSummary::default()), "and again");
    // An agent can begin anew.
    drop(node.start());
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    assert_eq!(node.bpffs.list(), expected_pins("g1"));
    DONE
}

fn cleanup_leaves_running_agent_alone() -> Outcome {
    let node = node();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    for persist in [false, true] {
        let agent = node.start_with(persist, |_| ());
        let before = node.bpffs.list();
        assert_eq!(clean_up(&node.bpffs.folder()).expect("a cleanup"), None);
        assert_eq!(node.bpffs.list(), before);
        assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
        drop(agent);
    }
    assert_eq!(stranger.bind(&shared_bind(PORT)), denied());
    assert!(clean_up(&node.bpffs.folder()).expect("a cleanup").is_some());
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    DONE
}

fn cleanup_removes_unknown_pins() -> Outcome {
    let node = node();
    let folder = node.bpffs.folder();
    drop(node.start());
    // A future version's layout that holds pins of ours, and somebody else's folder.
    fs::create_dir_all(folder.join("v4/strange/deep")).expect("folders");
    fs::rename(folder.join("v3/links/bind4"), folder.join("v4/strange/deep/gate")).expect("a pin");
    fs::create_dir_all(folder.join("v4/empty")).expect("folders");
    fs::create_dir(folder.join("vendor")).expect("a folder");
    let cleaned = clean_up(&folder).expect("a cleanup").expect("no agent runs");
    assert_eq!((cleaned.links, cleaned.pins, cleaned.held), (7, 28, 0));
    assert_eq!(cleaned.left_alone, [folder.join("vendor")]);
    assert_eq!(node.bpffs.list(), ["vendor"]);
    assert_eq!(node.worker("stranger").bind(&shared_bind(PORT)), 0);
    DONE
}

fn cleanup_detaches_links_held_elsewhere() -> Outcome {
    let node = node();
    let mut stranger = node.worker("stranger");
    drop(node.start());
    assert_eq!(stranger.bind(&shared_bind(PORT)), denied());
    let held = PinnedLink::from_pin(node.bpffs.folder().join("v3/links/bind4")).expect("a link");
    let cleaned = clean_up(&node.bpffs.folder()).expect("a cleanup").expect("no agent runs");
    assert_eq!((cleaned.links, cleaned.held), (7, 1), "and it says so");
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    drop(held);
    DONE
}

/// The command's exit code, and what it said. It also tells of agents elsewhere on this machine.
fn command(node: &MiniNode) -> (Option<i32>, String, String) {
    // In a virtual machine it is elsewhere than where it was built.
    let enforcer = env::var_os("CARGO_BIN_EXE_enforcer").unwrap_or_else(|| env!("CARGO_BIN_EXE_enforcer").into());
    let mut command = Command::new(enforcer);
    command.arg("cleanup").arg("--bpffs").arg(node.bpffs.folder()).args(["--state-dir", "/nonexistent"]);
    let Output { status, stdout, stderr } = command.output().expect("the command");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

fn cleanup_command_reports_its_work() -> Outcome {
    let node = node();
    let agent = node.start();
    let (code, said, why) = command(&node);
    assert_eq!((code, said.as_str()), (Some(4), ""));
    assert!(why.contains("an agent is running that keeps its state in "), "{why}");
    drop(agent);
    assert_eq!(node.bpffs.list(), expected_pins("g1"));

    let folder = node.bpffs.folder();
    let removed = format!(
        "removed 7 links and 28 other pins below {}: nothing of them judges binds any more\n",
        folder.display()
    );
    for expected in [removed.as_str(), ""] {
        let (code, said, why) = command(&node);
        let elsewhere = why.contains("programs of an agent are loaded, because an agent is running");
        let nothing = if expected.is_empty() && !elsewhere { "nothing of an agent is in the kernel\n" } else { "" };
        assert_eq!(said, format!("{expected}{nothing}"), "{why}");
        assert_eq!(code, Some(if elsewhere { 4 } else { 0 }), "{why}");
    }
    assert!(!folder.exists());
    DONE
}

fn foreign_layout_version_is_refused() -> Outcome {
    let node = node();
    let folder = node.bpffs.folder();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    drop(node.start());
    for other in ["v0", "v1", "v10"] {
        fs::create_dir(folder.join(other)).expect("a folder");
        let before = node.bpffs.list();
        for persist in [true, false] {
            let error = node.try_load(persist, |_| ()).err().expect("it is refused");
            assert!(matches!(&error, BpfError::Pin(PinError::Unknown(path)) if *path == folder.join(other)), "{error}");
            for words in [other, "layout v3", "enforcer cleanup"] {
                assert!(error.to_string().contains(words), "{error}");
            }
        }
        assert!(matches!(set_node_mode(&folder, NodeMode::Audit), Err(PinError::Unknown(_))));
        assert!(matches!(node_mode(&folder), Err(PinError::Unknown(_))));
        assert_eq!(node.bpffs.list(), before, "nothing was touched");
        assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
        fs::remove_dir(folder.join(other)).expect("a folder");
    }
    drop(node.start());
    DONE
}

fn foreign_layout_in_map_is_refused() -> Outcome {
    let node = node();
    drop(node.start());
    let config = MapData::from_pin(node.bpffs.folder().join("v3/g1/maps/CONFIG")).expect("the configuration");
    let mut config: Array<_, [u64; 8]> = Map::Array(config).try_into().expect("an array");
    let mut words = config.get(&0, 0).expect("an element");
    words[0] += 1;
    config.set(0, words, 0).expect("an element");
    let before = node.bpffs.list();
    let error = node.try_load(true, |_| ()).err().expect("it is refused");
    assert!(matches!(error, BpfError::Pin(PinError::Unknown(_))), "{error}");
    assert_eq!(node.bpffs.list(), before);
    assert!(clean_up(&node.bpffs.folder()).expect("a cleanup").is_some());
    drop(node.start());
    DONE
}

fn lock_has_one_holder() -> Outcome {
    let node = node();
    let agent = node.start();
    let pins = Pins::at(&node.bpffs.folder()).unwrap_or_else(|error| panic!("{error}"));
    assert!(pins.try_lock().expect("a lock").is_none());
    let (told, hears) = mpsc::channel();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let guard = pins.lock(|| told.send("it waits").expect("a listener")).expect("a lock");
            told.send("it has it").expect("a listener");
            drop(guard);
        });
        assert_eq!(hears.recv(), Ok("it waits"));
        assert!(hears.try_recv().is_err(), "the agent still has it");
        drop(agent);
        assert_eq!(hears.recv(), Ok("it has it"));
        waiting.join().expect("no panic");
    });
    let guard = pins.lock(|| panic!("nobody has it")).expect("a lock");
    assert_eq!(guard.pins(), &pins);
    DONE
}

/// Until somebody waits for the lock on this file, as /proc/locks has it: `1: -> FLOCK ADVISORY WRITE 4711 00:2a:17 0
/// EOF`.
fn await_waiter(inode: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_waiter = |line: &str| line.contains(" -> FLOCK ") && line.contains(&format!(":{inode} "));
    while !fs::read_to_string("/proc/locks").expect("the locks").lines().any(is_waiter) {
        assert!(Instant::now() < deadline, "nobody waits for it");
        thread::yield_now();
    }
}

/// What was locked is not what a later agent would lock.
fn lock_survives_removal_of_its_folder() -> Outcome {
    let node = node();
    let pins = Pins::at(&node.bpffs.folder()).unwrap_or_else(|error| panic!("{error}"));
    let first = pins.try_lock().expect("a lock").expect("nobody has it");
    let (told, hears) = mpsc::channel();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pins.lock(|| told.send(()).expect("a listener")).expect("a lock"));
        hears.recv().expect("it waits");
        await_waiter(inode(pins.folder()));
        fs::remove_dir(pins.folder()).expect("a cleanup removes it");
        drop(first);
        let guard = waiting.join().expect("no panic");
        assert!(pins.folder().exists(), "it was made anew");
        assert!(pins.try_lock().expect("a lock").is_none(), "and the lock is on the new one");
        drop(guard);
    });
    assert!(pins.try_lock().expect("a lock").is_some());
    DONE
}
