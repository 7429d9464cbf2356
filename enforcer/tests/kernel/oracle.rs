//! Random pods and binds: the kernel says what `decide` says in user space, and both say what a slow oracle says that
//! was written from the product's rules alone.

mod case;
mod model;
mod user_space_decision;

use std::{cell::RefCell, collections::BTreeMap, env, time::Duration};

use enforcer::host::clock::now;
use enforcer_core::{
    index::ServicePortsMode,
    model::{
        port_spec::{Address, PortRange, PortSpec},
        source::ClaimSource,
    },
    pods::{annotation::parse_list, claims::PodClaim, service::NodePortService},
};
use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use enforcer_testing::{
    pods::{SYSTEMD_BESTEFFORT, cgroup_for},
    reconciler_fixture::{KernelFixture, denied},
    tests,
    worker::Worker,
};

use crate::{DONE, Outcome, Test};
use case::{CALLERS, Case, MEMBERS, NODE_RESERVED, SERVICE_CLAIM, UIDS, UNRESOLVED};

pub(crate) const TESTS: &[Test] = tests![kernel_and_explain_agree_with_the_model];

const CASES: u32 = 300;
/// How often each verdict came for each reason.
type Tally = BTreeMap<(VerdictKind, Reason), u32>;

/// What must have come, or the cases show nothing.
const ANSWERS: [(VerdictKind, Reason); 12] = [
    (VerdictKind::Allow, Reason::Owner),
    (VerdictKind::Allow, Reason::Unclaimed),
    (VerdictKind::Allow, Reason::Share),
    (VerdictKind::Allow, Reason::Handover),
    (VerdictKind::Allow, Reason::Error),
    (VerdictKind::Audit, Reason::Claimed),
    (VerdictKind::Audit, Reason::Reserved),
    (VerdictKind::Audit, Reason::Undeclared),
    (VerdictKind::Deny, Reason::Claimed),
    (VerdictKind::Deny, Reason::Reserved),
    (VerdictKind::Deny, Reason::Undeclared),
    (VerdictKind::Deny, Reason::Error),
];
/// A number that chooses other cases.
const SEED: &str = "PORT_ENFORCER_TEST_SEED";

fn kernel_and_explain_agree_with_the_model() -> Outcome {
    let mut fixture = KernelFixture::with(|start| {
        start.settings.node_reserved = parse_list(NODE_RESERVED).expect("a list");
        // A case begins with nothing left of the one before.
        start.settings.handover_grace = Duration::ZERO;
        start.settings.service_ports = ServicePortsMode::Audit;
    });
    fixture.reconciler.reset_services(vec![service()], now());
    let mut workers: Vec<Worker> =
        UIDS.iter().map(|uid| Worker::start(&fixture.make_cgroup(&cgroup_for(uid, SYSTEMD_BESTEFFORT)))).collect();
    assert_eq!((workers.len(), UNRESOLVED), (MEMBERS, MEMBERS));
    workers.push(Worker::start(&fixture.make_cgroup("something/else")));
    assert_eq!(workers.len(), CALLERS);
    fixture.drain_reports();

    let seed: u64 = env::var(SEED).map_or(0, |seed| seed.parse().expect("a number"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let state = RefCell::new((fixture, workers, Tally::new()));
    let result = runner.run(&case::any_case(), |case| {
        let (fixture, workers, tally) = &mut *state.borrow_mut();
        try_case(fixture, workers, &case, tally)
    });
    if let Err(error) = result {
        panic!("with {SEED}={seed}: {error}");
    }
    let (_, _, tally) = state.into_inner();
    for answer in ANSWERS {
        assert!(tally.get(&answer).is_some_and(|count| *count >= 10), "{answer:?} is too rare: {tally:?}");
    }
    DONE
}

/// The Service of [`SERVICE_CLAIM`].
fn service() -> NodePortService {
    let (port, udp, _) = SERVICE_CLAIM;
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    let spec = PortSpec { protocol, address: Address::Any, ports: PortRange::single(port).expect("a port") };
    NodePortService {
        namespace: "default".to_owned(),
        name: "shop".to_owned(),
        uid: "s".to_owned(),
        created: 0,
        claims: vec![PodClaim { spec, source: ClaimSource::NodePort }],
    }
}

fn try_case(
    fixture: &mut KernelFixture,
    workers: &mut [Worker],
    case: &Case,
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    let fail = |text: String| Err(TestCaseError::fail(text));
    fixture.reconciler.reset(Vec::new(), now());
    fixture.reconciler.set_policy(case.policy());
    let members: Vec<_> = case.members.iter().flatten().collect();
    fixture.reconciler.reset(members.iter().map(|member| member.manifest().parsed()).collect(), now());
    let world = model::World::of(case);
    for attempt in &case.attempts {
        let told = fixture.attempt(&mut workers[attempt.caller], &attempt.bind());
        let (errno, verdict, reason) = told.result();
        *tally.entry((verdict, reason)).or_default() += 1;

        let by_decide = user_space_decision::decide_in_user_space(case, &world, attempt);
        if (verdict, reason) != by_decide {
            return fail(format!("kernel {:?}, user space {by_decide:?}: {attempt:?}", (verdict, reason)));
        }
        let rule = world.judge(case, attempt);
        if !rule.holds(verdict, reason) {
            return fail(format!("kernel {:?}, rules {rule:?}: {attempt:?}", (verdict, reason)));
        }
        let expected = if verdict == VerdictKind::Deny { denied() } else { 0 };
        if errno != expected {
            return fail(format!("errno {errno} for {verdict:?}: {attempt:?}"));
        }
    }
    Ok(())
}
