//! What overrules the mode of a node: the lease that ran out, and the operator on the node.

use std::time::{Duration, Instant};

use enforcer::{
    host::clock::now,
    kernel::pins::{PinError, node_mode, set_node_mode},
};
use enforcer_core::model::kernel_ids::BootNanos;
use enforcer_ebpf::wire::{NodeMode, Policy, Reason, VerdictKind};

use enforcer_testing::{
    mini_agent::{MiniNode, QUIET, only_owner_may_bind, shared_bind},
    reconciler_fixture::denied,
    tests,
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    expired_lease_denies_nothing,
    lease_expires_after_agent_death,
    operator_audit_override_stops_denials,
    operator_enforce_override_denies,
    override_survives_non_persistent_agent,
    override_without_bpffs_is_refused
];

const PORT: u16 = 20080;
/// A deadline that has passed.
const PAST: Option<BootNanos> = Some(BootNanos::new(1));
const AUDIT: Policy = Policy { enforce: false, ..QUIET };

fn node() -> MiniNode {
    MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099")])
}

/// So long from now, as the kernel counts.
fn in_time(wait: Duration) -> BootNanos {
    BootNanos::after_boot(now().boottime + wait)
}

fn expired_lease_denies_nothing() -> Outcome {
    let node = node();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    let mut agent = node.start_with(true, |options| options.lease_deadline = PAST);
    assert_eq!((owner.bind(&shared_bind(PORT)), stranger.bind(&shared_bind(PORT))), (0, 0));
    assert_eq!(agent.count(VerdictKind::Audit, Reason::Stale), 1);
    assert_eq!(agent.count(VerdictKind::Allow, Reason::Owner), 1);
    let told: Vec<_> =
        agent.take_attempts().iter().map(|told| (told.verdict, told.reason, told.owner.is_some())).collect();
    assert_eq!(told, [(VerdictKind::Audit, Reason::Stale, true)], "and whose port it is is told");
    for deadline in [Some(in_time(Duration::from_hours(1))), None] {
        agent.kernel.renew(deadline);
        assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    }
    agent.kernel.renew(PAST);
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    // Where nothing would be denied, nothing lapses.
    agent.kernel.set_policy(AUDIT);
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    assert_eq!(agent.count(VerdictKind::Audit, Reason::Claimed), 1);
    DONE
}

fn lease_expires_after_agent_death() -> Outcome {
    let node = node();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    let agent = node.start_with(true, |options| options.lease_deadline = Some(in_time(Duration::from_hours(1))));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    agent.kernel.renew(Some(in_time(Duration::from_millis(300))));
    drop(agent);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut denials = 2;
    while stranger.bind(&shared_bind(PORT)) == denied() {
        denials += 1;
        assert!(Instant::now() < deadline, "the lease does not run out");
    }
    assert_eq!(stranger.storm(&shared_bind(PORT), 100, 2).get(&0), Some(&100), "it has lapsed for good");
    let agent = node.start();
    assert_eq!(agent.count(VerdictKind::Audit, Reason::Stale), 101);
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed), denials);
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT), "a returning agent enforces again");
    DONE
}

fn operator_audit_override_stops_denials() -> Outcome {
    let node = node();
    let folder = node.bpffs.folder();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    let set = |mode| set_node_mode(&folder, mode).unwrap_or_else(|error| panic!("{error}"));
    let get = || node_mode(&folder).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(get(), NodeMode::Unset);
    set(NodeMode::Unset);
    assert!(!folder.exists(), "nothing is made to say that nothing is set");

    // With no agent, and none before.
    set(NodeMode::Audit);
    assert_eq!(get(), NodeMode::Audit);
    let agent = node.start();
    assert_eq!(agent.kernel.node_mode(), NodeMode::Audit);
    assert_eq!((owner.bind(&shared_bind(PORT)), stranger.bind(&shared_bind(PORT))), (0, 0));
    assert_eq!(agent.count(VerdictKind::Audit, Reason::Claimed), 1);
    // Under an agent.
    set(NodeMode::Unset);
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    set(NodeMode::Audit);
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    // Across agents, and after one.
    drop(agent);
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    let agent = node.start();
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    drop(agent);
    set(NodeMode::Unset);
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    set(NodeMode::Audit);
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    DONE
}

fn operator_enforce_override_denies() -> Outcome {
    let node = node();
    let (mut owner, mut stranger) = (node.worker("owner"), node.worker("stranger"));
    let agent = node.start_with(true, |options| options.policy = AUDIT);
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    set_node_mode(&node.bpffs.folder(), NodeMode::Enforce).unwrap_or_else(|error| panic!("{error}"));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, PORT));
    agent.kernel.renew(PAST);
    assert_eq!(
        stranger.bind(&shared_bind(PORT)),
        0,
        "an operator does not vouch for the claims of an agent that is dead"
    );
    assert_eq!(agent.count(VerdictKind::Audit, Reason::Stale), 1);
    DONE
}

fn override_survives_non_persistent_agent() -> Outcome {
    let node = node();
    let folder = node.bpffs.folder();
    let mut stranger = node.worker("stranger");
    let agent = node.start_with(false, |_| ());
    assert_eq!(stranger.bind(&shared_bind(PORT)), denied());
    set_node_mode(&folder, NodeMode::Audit).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    drop(agent);
    assert_eq!(node.bpffs.list(), ["v3/shared/MODE"]);
    let agent = node.start_with(false, |_| ());
    assert_eq!(stranger.bind(&shared_bind(PORT)), 0);
    set_node_mode(&folder, NodeMode::Unset).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(stranger.bind(&shared_bind(PORT)), denied());
    drop(agent);
    assert!(!folder.exists());
    DONE
}

fn override_without_bpffs_is_refused() -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let error = set_node_mode(folder.path(), NodeMode::Audit).expect_err("not a BPF file system");
    assert!(matches!(error, PinError::Io { action: "keep the mode in", .. }), "{error}");
    assert_eq!(node_mode(folder.path()).expect("nothing is set"), NodeMode::Unset);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    DONE
}
