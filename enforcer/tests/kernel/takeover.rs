//! What outlives an agent, and how the next one takes over.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use aya::programs::links::PinnedLink;
use enforcer::kernel::pins::{PersistenceError, Pins};
use enforcer_ebpf::wire::{Reason, VerdictKind};

use enforcer_testing::{
    bpffs::Bpffs,
    mini_agent::{
        MiniAgent, MiniNode, PROTOCOL, expected_pins, expected_shared_pins, only_owner_may_bind, shared_bind,
        shared_bind6,
    },
    own_machine,
    reconciler_fixture::denied,
    tests,
    worker::{Bind, Worker},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    pinned_programs_judge_without_an_agent,
    pod_started_without_an_agent_is_recognised,
    takeover_under_load_leaves_no_gap,
    previous_claims_are_recovered,
    agent_that_never_attached_changes_nothing,
    non_persistent_agent_takes_over_and_leaves_nothing,
    recreated_root_cgroup_is_attached,
    changed_root_cgroup_is_attached,
    missing_persistence_is_reported
];

const PORT: u16 = 20080;

fn node() -> (MiniNode, Worker, Worker) {
    let node = MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099")]);
    let (owner, stranger) = (node.worker("owner"), node.worker("stranger"));
    (node, owner, stranger)
}

fn pinned_programs_judge_without_an_agent() -> Outcome {
    let (node, mut owner, mut stranger) = node();
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0, "nobody judges yet");
    let agent = node.start();
    assert!(agent.kernel.is_persistent());
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    let before = agent.count(VerdictKind::Deny, Reason::Claimed);
    drop(agent);
    assert_eq!(node.bpffs.list(), expected_pins("g1"));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT), "nobody is there, and the claims are enforced");

    // The next one goes on counting, and hears what nobody heard.
    let mut agent = node.start();
    assert_eq!(node.bpffs.list(), expected_pins("g2"));
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed), before + 2);
    let told = agent.take_attempts();
    assert_eq!(told.len(), 4, "two before it went, two while it was away: {told:?}");
    assert!(told.iter().all(|attempt| (attempt.verdict, attempt.port) == (VerdictKind::Deny, PORT)));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed), before + 4, "each is counted once");
    assert_eq!(agent.take_attempts().len(), 2);
    DONE
}

fn pod_started_without_an_agent_is_recognised() -> Outcome {
    let node = MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099")]);
    drop(node.start());
    // Neither has a cgroup yet.
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    let nobody =
        node.root.join("kubepods-besteffort.slice/kubepods-besteffort-pod0a0a0a0a_0000_4000_8000_000000000001.slice");
    fs::create_dir_all(&nobody).expect("a cgroup");
    assert_eq!(Worker::start(&nobody).bind(&shared_bind(PORT)), denied(), "a pod that nobody has told the kernel of");

    let mut agent = node.load();
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    let made = agent.previous.as_mut().map(|previous| {
        let mut made = 0;
        while previous.cgroup_events.next().is_some() {
            made += 1;
        }
        made
    });
    assert_eq!(made, Some(6), "the slice, and for two pods the pod and its container, and the last one");
    agent.take_over();
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    DONE
}

/// What the storm saw, by who and errno.
fn storm(workers: Vec<(&'static str, Worker, Bind)>, end: &AtomicBool) -> HashMap<(&'static str, i32), u64> {
    const CHUNK: u32 = 500;
    let seen = thread::scope(|scope| {
        let storms: Vec<_> = workers
            .into_iter()
            .map(|(who, mut worker, bind)| {
                scope.spawn(move || {
                    let mut seen = HashMap::new();
                    while !end.load(Ordering::Relaxed) {
                        for (errno, count) in worker.storm(&bind, CHUNK, 1) {
                            *seen.entry((who, errno)).or_insert(0) += u64::from(count);
                        }
                    }
                    seen
                })
            })
            .collect();
        storms.into_iter().flat_map(|storm| storm.join().expect("a storm")).collect::<Vec<_>>()
    });
    let mut sum = HashMap::new();
    for (what, count) in seen {
        *sum.entry(what).or_insert(0) += count;
    }
    sum
}

/// A storm of both families while `swap` is done so many times: what it saw.
fn storm_while(node: &MiniNode, swaps: u32, mut swap: impl FnMut(u32)) -> HashMap<(&'static str, i32), u64> {
    let workers = vec![
        ("owner", node.worker("owner"), shared_bind(PORT)),
        ("owner", node.worker("owner"), shared_bind6(PORT)),
        ("stranger", node.worker("stranger"), shared_bind(PORT)),
        ("stranger", node.worker("other"), shared_bind6(PORT)),
    ];
    for (_, worker, _) in &workers {
        own_machine::give_way(worker.pid());
    }
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let storm = scope.spawn(|| storm(workers, &end));
        for number in 0..swaps {
            swap(number);
        }
        end.store(true, Ordering::Relaxed);
        storm.join().expect("the storm")
    })
}

/// Every swap is a whole new start over the one before, as an upgrade is.
fn takeover_under_load_leaves_no_gap() -> Outcome {
    let swaps = own_machine::times(10);
    let node = MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099"), ("other", "")]);
    let mut told = 0;
    let mut agent = Some(node.start());
    let seen = storm_while(&node, swaps, |number| {
        let mut old = agent.take().expect("an agent");
        // Every other agent reads its ring before it goes; the others leave that to the next one.
        told += if number % 2 == 0 { old.take_attempts() } else { old.take_previous_attempts() }.len();
        drop(old);
        agent = Some(node.start());
    });
    let mut agent = agent.expect("an agent");
    let (denials, binds) = (seen[&("stranger", denied())], seen[&("owner", 0)]);
    assert_eq!(seen.len(), 2, "no stranger got through and no owner was denied: {seen:?}");
    assert_eq!(agent.counters().attempts(VerdictKind::Deny, Reason::Claimed, PROTOCOL), denials);
    assert_eq!(agent.counters().attempts(VerdictKind::Allow, Reason::Owner, PROTOCOL), binds);
    let counted: u64 =
        VerdictKind::ALL.iter().flat_map(|kind| Reason::ALL.map(|reason| agent.count(*kind, reason))).sum();
    assert_eq!(counted, denials + binds, "nothing else was counted");
    told += agent.take_attempts().len();
    let lost = agent.lost_records();
    assert_eq!(told as u64 + lost, denials, "each denial was told or counted as lost");
    assert!(told > 0);
    assert_eq!(node.bpffs.list(), expected_pins(&format!("g{}", swaps + 1)));
    println!("{swaps} swaps, {denials} denials ({told} told, {lost} counted as lost), {binds} binds of the owner");
    DONE
}

fn previous_claims_are_recovered() -> Outcome {
    let node = MiniNode::new(&[
        ("owner", "20080-20082 20080/udp"),
        ("narrow", "192.0.2.1:20090 [::1]:20090"),
        ("other", "192.0.2.2:20090"),
        ("idle", ""),
    ]);
    let worker = node.worker("owner");
    let agent = node.start();
    assert!(agent.previous.is_none());
    drop(agent);

    let agent = node.load();
    let held = agent.previous.as_ref().expect("an agent before this one").recover().expect("its maps");
    assert_eq!(held.unreadable, []);
    let pods = held.owners.iter().filter(|owner| !owner.record.name.is_node());
    let mut claims: Vec<(&str, Vec<String>)> = pods
        .map(|owner| (owner.record.name.name.as_str(), owner.claims.iter().map(ToString::to_string).collect()))
        .collect();
    claims.sort();
    let says = |name, claims: &[&str]| (name, claims.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(
        claims,
        [
            says("idle", &[]),
            says("narrow", &["192.0.2.1:20090/tcp", "[::1]:20090/tcp"]),
            says("other", &["192.0.2.2:20090/tcp"]),
            says("owner", &["20080-20082/tcp", "20080/udp"]),
        ]
    );
    let cgroups = held.owners.iter().filter_map(|owner| owner.cgroup);
    assert_eq!(cgroups.count(), 1, "one has a cgroup: {held:?}");
    drop(worker);
    DONE
}

fn agent_that_never_attached_changes_nothing() -> Outcome {
    let (node, mut owner, mut stranger) = node();
    drop(node.load());
    assert_eq!(node.bpffs.list(), expected_shared_pins(), "it took its generation away");
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    drop(node.start());
    let agent = node.load();
    assert!(agent.previous.is_some());
    drop(agent);
    assert_eq!(node.bpffs.list(), expected_pins("g1"));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    DONE
}

fn non_persistent_agent_takes_over_and_leaves_nothing() -> Outcome {
    let node = MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099"), ("other", "")]);
    drop(node.start());
    let mut guest: Option<MiniAgent> = None;
    let mut before = 0;
    let seen = storm_while(&node, 1, |_| {
        let agent = node.start_with(false, |_| ());
        assert!(!agent.kernel.is_persistent());
        before = agent.count(VerdictKind::Deny, Reason::Claimed);
        guest = Some(agent);
    });
    let agent = guest.expect("an agent");
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(before > 0, "the storm was on");
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed), seen[&("stranger", denied())], "the count went on");
    assert_eq!(node.bpffs.list(), ["v3/shared/MODE"], "an operator can still set a mode");
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    drop(agent);
    assert!(!node.bpffs.folder().exists(), "{:?}", node.bpffs.list());
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0, "nobody judges any more");

    // And where nothing was kept before.
    let agent = node.start_with(false, |_| ());
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    drop(agent);
    assert!(!node.bpffs.folder().exists());
    DONE
}

fn recreated_root_cgroup_is_attached() -> Outcome {
    let (node, owner, stranger) = node();
    drop(node.start());
    drop((owner, stranger));
    enforcer_testing::cgroup_sandbox::remove(&node.root).expect("the pods' cgroup goes");
    fs::create_dir(&node.root).expect("and comes back");
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0, "the links went with the cgroup");
    let agent = node.load();
    let held = agent.previous.as_ref().expect("an agent before this one").recover().expect("its maps");
    let claims = held.owners.iter().map(|owner| owner.claims.len());
    assert_eq!(claims.sum::<usize>(), 2, "what was in force is known all the same");
    drop(agent);
    let agent = node.start();
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    drop(agent);
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    assert_eq!(node.bpffs.list(), expected_pins("g2"));
    DONE
}

fn changed_root_cgroup_is_attached() -> Outcome {
    let (mut node, mut owner, mut stranger) = node();
    drop(node.start());
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    // Somebody who looks at the links must not keep them attached.
    let looked_at = PinnedLink::from_pin(node.bpffs.folder().join("v3/links/bind4")).expect("a link");
    node.root = node.root.join("../kubelet.slice");
    fs::create_dir(&node.root).expect("a cgroup");
    let (mut new_owner, mut new_stranger) = (node.worker("owner"), node.worker("stranger"));
    let agent = node.start();
    assert!(only_owner_may_bind(&mut new_owner, &mut new_stranger, PORT));
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0, "the link to the other one was detached");
    drop(looked_at);
    drop(agent);
    assert!(only_owner_may_bind(&mut new_owner, &mut new_stranger, PORT));
    assert_eq!(node.bpffs.list(), expected_pins("g2"));
    DONE
}

fn missing_persistence_is_reported() -> Outcome {
    let error = Pins::at(Path::new("/tmp/port-enforcer")).expect_err("not a BPF file system");
    assert!(matches!(error, PersistenceError::NotBpffs(_)), "{error}");
    assert!(!Path::new("/tmp/port-enforcer").exists());
    assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
    let bpffs = Bpffs::new();
    fs::create_dir(bpffs.folder()).expect("a folder");
    bpffs.make_read_only();
    for folder in [bpffs.folder(), bpffs.path().join("other")] {
        let error = Pins::at(&folder).expect_err("it is read-only");
        assert!(matches!(error, PersistenceError::Refused { .. }), "{error}");
    }
    DONE
}
