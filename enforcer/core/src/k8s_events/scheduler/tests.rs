mod answered_ports;

use std::net::{IpAddr, Ipv4Addr};

use enforcer_ebpf::wire::{Protocol, Reason, UidForm, VerdictKind};
use proptest::prelude::*;

use super::*;
use crate::{
    index::Settings,
    k8s_events::{
        Event, MAX_NOTE, NAME_WAIT, OBJECT_LIMIT,
        unnamed::{MAX_PODS, MAX_REPORTS},
    },
    model::{
        attempt::Attempt,
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        namespace_label::NamespaceLabel,
        owner::OwnerId,
        port_spec::{Address, PortList, PortRange},
        quota::{QuotaLimit, Resource},
        source::ClaimSource,
    },
    pods::{claims::ClaimLimits, pod::from_api},
};

const ROOT: CgroupId = CgroupId::new(1);
const POD_CGROUP: CgroupId = CgroupId::new(6);
const WALL: i64 = 1_790_000_000_000_000;

fn at(seconds: u64) -> Now {
    Now { wall: WALL + i64::try_from(seconds).unwrap() * 1_000_000, boottime: Duration::from_secs(seconds) }
}

fn pod(name: &str) -> Name {
    Name {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        mirror: None,
        handover: None,
        service: false,
    }
}

/// A bind of a pod on a port that another one owns.
fn denied(offender: &str, owner: &str, port: u16) -> Report {
    Report {
        attempt: Attempt {
            time: BootNanos::default(),
            protocol: Protocol::Tcp,
            address: Ipv4Addr::UNSPECIFIED.into(),
            port,
            v6only: Some(false),
            verdict: VerdictKind::Deny,
            reason: Reason::Claimed,
            cgroup: CgroupId::new(7),
            pod_cgroup: Some(POD_CGROUP),
            socket: SocketCookie::new(1),
            caller: OwnerId::new(1),
            owner: OwnerId::new(2),
            holder: None,
            held: false,
            reuse: None,
            pid: 4711,
            uid: 0,
            command: "secret".to_owned(),
        },
        caller: Actor::Known(pod(offender)),
        container: Some("server".to_owned()),
        owner: Some(pod(owner)),
        source: Some(ClaimSource::Annotation),
        holder: None,
    }
}

fn conflict(loser: &str, winner: &str) -> Notice {
    let ports: PortList = vec![(Protocol::Tcp, Address::Any, PortRange::new(80, 80).unwrap())];
    Notice::Conflict { loser: pod(loser), winner: pod(winner), source: ClaimSource::HostPort, ports }
}

/// Makes calls, all with this outcome, until nothing more is to be called before a moment: the calls, each with its time.
fn run(events: &mut EventScheduler, from: Duration, until: Duration, outcome: CallOutcome) -> Vec<(Duration, Call)> {
    let mut calls = Vec::new();
    let mut now = from;
    loop {
        let wall = WALL + i64::try_from(now.as_micros()).unwrap();
        match events.poll_call(Now { wall, boottime: now }) {
            NextCall::Call(call) => {
                calls.push((now, call));
                events.handle_outcome(outcome, Now { wall, boottime: now });
            }
            NextCall::Wait(at) if at < until => now = at,
            NextCall::Wait(_) | NextCall::Nothing => return calls,
        }
    }
}

fn created(calls: &[(Duration, Call)]) -> Vec<&Event> {
    calls.iter().filter_map(|(_, call)| if let Call::Create(event) = call { Some(&**event) } else { None }).collect()
}

fn of<'a>(events: &[&'a Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.regarding.name() == name).copied().collect()
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn both_pods_hear_of_a_denial_at_once() {
    let mut events = EventScheduler::new("node-1");
    events.report(&denied("web-2", "web-1", 80), at(5));
    let calls = run(&mut events, at(5).boottime, HOUR, CallOutcome::Done);
    let created = created(&calls);
    assert_eq!(calls.len(), 2, "{calls:#?}");
    assert!(calls.iter().all(|(when, _)| *when <= at(6).boottime));
    let [offender, owner] = [of(&created, "web-2")[0], of(&created, "web-1")[0]];
    assert_eq!(
        offender.note,
        "bind 0.0.0.0:80/tcp by default/web-2 (container server, command secret, pid 4711) denied on node-1: claimed by \
         default/web-1 (annotation)"
    );
    assert_eq!(
        owner.note,
        "bind by default/web-2 (0.0.0.0:80/tcp) denied on node-1 (mode enforce): claimed by this pod"
    );
    assert_eq!(offender.related, Some(EventObject::Pod(pod("web-1"))));
    assert_eq!(owner.related, Some(EventObject::Pod(pod("web-2"))));
    for event in created {
        assert_eq!(event.reason, EventReason::PortBindDenied);
        assert_eq!(event.time, at(5).wall);
        assert_eq!(event.regarding.event_namespace(), "default");
    }
}

#[test]
fn what_happens_again_is_counted_less_and_less_often() {
    let mut events = EventScheduler::new("node-1");
    let mut calls = Vec::new();
    for tick in 0..3600 * 10_u32 {
        let now = Duration::from_millis(100) * tick;
        let wall = WALL + i64::try_from(now.as_micros()).unwrap();
        events.report(&denied("web-2", "web-1", 80), Now { wall, boottime: now });
        calls.extend(run(&mut events, now, now + Duration::from_millis(100), CallOutcome::Done));
    }
    let offender: Vec<(u64, i32)> = calls
        .iter()
        .filter_map(|(at, call)| match call {
            Call::Create(event) => (event.regarding.name() == "web-2").then_some((at.as_secs(), 1)),
            Call::Count { name, count, .. } => name.starts_with("web-2.").then_some((at.as_secs(), *count)),
        })
        .collect();
    let times: Vec<u64> = offender.iter().map(|(at, _)| *at).take(8).collect();
    assert_eq!(times, [0, 10, 30, 70, 150, 310, 610, 910]);
    assert_eq!(offender[1].1, 101);
    assert!(offender.len() < 20, "{offender:?}");
    assert_eq!(created(&calls).len(), 2, "one Event each");
}

#[test]
fn an_event_that_expired_is_created_again() {
    let mut events = EventScheduler::new("node-1");
    events.notice(&conflict("web-2", "web-1"), at(0));
    let first = run(&mut events, at(0).boottime, HOUR, CallOutcome::Done);
    events.notice(&conflict("web-2", "web-1"), at(60));
    let NextCall::Call(Call::Count { name, count: 2, last, .. }) = events.poll_call(at(60)) else {
        panic!("a count of 2")
    };
    assert_eq!(last, at(60).wall);
    assert!(created(&first).iter().any(|event| event.name == name));
    events.handle_outcome(CallOutcome::NotFound, at(60));
    let again = run(&mut events, at(60).boottime, at(70).boottime, CallOutcome::Done);
    let again = created(&again);
    assert_eq!(again.len(), 1, "{again:#?}");
    assert_ne!(again[0].name, name);
    assert_eq!(again[0].time, at(60).wall);
    assert!(!again[0].note.is_empty());
}

#[test]
fn a_winner_hears_of_a_thousand_losers_in_one_event() {
    let mut events = EventScheduler::new("node-1");
    for loser in 0..999 {
        events.notice(&conflict(&format!("web-{loser}"), "winner"), at(0));
    }
    let calls = run(&mut events, at(0).boottime, HOUR, CallOutcome::Done);
    let created = created(&calls);
    let told = of(&created, "winner");
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].note,
        "claims of default/web-0 (80/tcp) and 998 others lose on node-1: in force for this pod, and granted when it goes"
    );
    assert_eq!(told[0].related, None);
    assert_eq!(created.len(), 1000, "each loser and the winner");
    assert_eq!(calls.len(), 1001, "and the winner's count");
    for pair in calls.windows(2) {
        assert!(pair[1].0 >= pair[0].0 + CALL_LIMIT.interval, "five a second at most");
    }
}

#[test]
fn somebody_new_is_named_by_a_new_event() {
    let mut events = EventScheduler::new("node-1");
    let mut calls = Vec::new();
    for (second, offender) in [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (40, "a"), (41, "d")] {
        events.report(&denied(offender, "owner", 80), at(second));
        calls.extend(run(&mut events, at(second).boottime, at(second + 1).boottime, CallOutcome::Done));
    }
    calls.extend(run(&mut events, at(42).boottime, HOUR, CallOutcome::Done));
    let created = created(&calls);
    let notes: Vec<&str> = of(&created, "owner").iter().map(|event| event.note.as_str()).collect();
    assert_eq!(
        notes,
        [
            "bind by default/a (0.0.0.0:80/tcp) denied on node-1 (mode enforce): claimed by this pod",
            "binds by default/a (0.0.0.0:80/tcp) and 3 others denied on node-1 (mode enforce): claimed by this pod",
        ]
    );
    let counts: Vec<i32> = calls
        .iter()
        .filter_map(|(_, call)| match call {
            Call::Count { name, count, .. } if name.starts_with("owner.") => Some(*count),
            _ => None,
        })
        .collect();
    assert_eq!(counts.last(), Some(&5), "b, c and d in the new Event, and the two that came later");
}

#[test]
fn somebody_new_during_a_call_is_named_by_the_next_event() {
    let mut events = EventScheduler::new("node-1");
    events.notice(&conflict("a", "owner"), at(0));
    let NextCall::Call(Call::Create(_)) = events.poll_call(at(1)) else { panic!("the loser's") };
    events.handle_outcome(CallOutcome::Done, at(1));
    let NextCall::Call(Call::Create(_)) = events.poll_call(at(2)) else { panic!("the winner's") };
    events.notice(&conflict("b", "owner"), at(2));
    events.handle_outcome(CallOutcome::Done, at(2));
    let calls = run(&mut events, at(3).boottime, HOUR, CallOutcome::Done);
    let created = created(&calls);
    let told = of(&created, "owner");
    assert_eq!(told.len(), 1, "{calls:#?}");
    assert!(told[0].note.starts_with("claims of default/a (80/tcp) and default/b (80/tcp) lose"), "{}", told[0].note);
}

#[test]
fn an_object_has_a_budget_of_its_own() {
    let mut events = EventScheduler::new("node-1");
    for port in 1..=2000 {
        events.report(&denied("flood", "owner", port), at(0));
    }
    events.report(&denied("other", "bystander", 80), at(1));
    let calls = run(&mut events, at(1).boottime, at(200).boottime, CallOutcome::Done);
    let created = created(&calls);
    assert_eq!(of(&created, "flood").len(), OBJECT_LIMIT.burst as usize);
    assert_eq!(of(&created, "owner").len(), 1, "all of its ports in one");
    assert!(of(&created, "owner")[0].note.contains("and 1999 others"), "{:?}", of(&created, "owner")[0].note);
    assert_eq!((of(&created, "other").len(), of(&created, "bystander").len()), (1, 1));
    assert_eq!(
        events.dropped(DropReason::Full),
        2000 - u64::from(OBJECT_LIMIT.burst),
        "counted, since there is no room for them"
    );
    // Then one in five minutes.
    events.report(&denied("flood", "owner", 1), at(201));
    let later = run(&mut events, at(201).boottime, at(3600).boottime, CallOutcome::Done);
    let flood = |(_, call): &&(Duration, Call)| matches!(call, Call::Count { name, .. } if name.starts_with("flood."));
    let when: Vec<u64> = later.iter().filter(flood).map(|(at, _)| at.as_secs()).collect();
    assert_eq!(when.len(), 1);
    assert!(when[0] >= 300, "{when:?}");
}

#[test]
fn failures_cost_no_budget_and_lose_nothing() {
    let mut events = EventScheduler::new("node-1");
    events.report(&denied("web-2", "web-1", 80), at(0));
    for second in 0..200 {
        let NextCall::Call(Call::Create(_)) = events.poll_call(at(second)) else { panic!("it is tried again") };
        assert_eq!(events.poll_call(at(second)), NextCall::Nothing, "one call at a time");
        events.handle_outcome(CallOutcome::Failed, at(second));
    }
    let calls = run(&mut events, at(200).boottime, HOUR, CallOutcome::Done);
    assert_eq!(created(&calls).len(), 2);
    assert_eq!(created(&calls)[0].time, at(0).wall, "when it happened, not when it was told");
}

#[test]
fn what_the_server_never_takes_is_given_up() {
    let mut events = EventScheduler::new("node-1");
    events.notice(&conflict("web-2", "web-1"), at(0));
    let calls = run(&mut events, at(0).boottime, HOUR, CallOutcome::Refused);
    assert_eq!(calls.len(), 2);
    assert_eq!(events.dropped(DropReason::Refused), 2);
    assert!(events.series.is_empty() && events.keys.is_empty() && events.due.is_empty());
}

#[test]
fn what_comes_during_a_call_is_not_forgotten() {
    let mut events = EventScheduler::new("node-1");
    events.report(&denied("a", "node", 80), at(0));
    let mut report = denied("b", "owner", 80);
    report.caller = Actor::Host;
    let NextCall::Call(_) = events.poll_call(at(0)) else { panic!("a call") };
    events.report(&denied("a", "node", 80), at(0));
    events.report(&report, at(0));
    events.handle_outcome(CallOutcome::Done, at(0));
    let calls = run(&mut events, at(0).boottime, HOUR, CallOutcome::Done);
    let counts = calls.iter().filter(|(_, call)| matches!(call, Call::Count { count: 2, .. })).count();
    assert_eq!(counts, 2, "{calls:#?}");
    assert!(created(&calls).iter().any(|event| event.regarding == EventObject::Node("node-1".to_owned())));
}

fn index_with(uid: &str) -> Index {
    let settings = Settings { limits: ClaimLimits::default(), ..Settings::default() };
    let mut index = Index::new(settings, ROOT);
    let object = serde_json::json!({
        "metadata": {"namespace": "default", "name": "late", "uid": uid},
        "spec": {"hostNetwork": true, "containers": []},
    });
    index.apply(from_api(&serde_json::from_value(object).unwrap()), at(0));
    index.cgroup_created(POD_CGROUP, ROOT, &format!("kubepods-pod{}.slice", uid.replace('-', "_")), at(0));
    index
}

fn unknown() -> Report {
    let mut report = denied("", "web-1", 80);
    report.caller = Actor::UnknownPod { uid: "0a1b2c3d4e5f40718293a4b5c6d7e8f9".to_owned(), form: UidForm::Api };
    report.container = None;
    report
}

#[test]
fn the_event_of_an_unknown_caller_waits_for_its_name() {
    let mut events = EventScheduler::new("node-1");
    events.report(&unknown(), at(0));
    events.retry_unnamed(&Index::new(Settings::default(), ROOT), at(1));
    assert_eq!(events.poll_call(at(1)), NextCall::Nothing);
    events.retry_unnamed(&index_with("0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9"), at(2));
    let calls = run(&mut events, at(2).boottime, HOUR, CallOutcome::Done);
    let created = created(&calls);
    assert_eq!(of(&created, "late").len(), 1, "{created:#?}");
    assert!(of(&created, "late")[0].note.contains("by default/late ("));
    assert!(of(&created, "web-1")[0].note.contains("bind by default/late "));
    assert_eq!(created[0].time, at(0).wall);
    assert!(!events.waits_for_names());
}

#[test]
fn a_name_that_never_comes_is_not_waited_for_for_ever() {
    let mut events = EventScheduler::new("node-1");
    let index = Index::new(Settings::default(), ROOT);
    for second in 0..20 {
        events.report(&unknown(), at(second));
    }
    events.retry_unnamed(&index, Now { boottime: NAME_WAIT, ..at(60) });
    let calls = run(&mut events, NAME_WAIT, HOUR, CallOutcome::Done);
    let created = created(&calls);
    assert_eq!(created.len(), 1, "there is nobody to tell but the owner");
    assert_eq!(
        created[0].note,
        "bind by an unknown pod (UID 0a1b2c3d4e5f40718293a4b5c6d7e8f9) (0.0.0.0:80/tcp) denied on node-1 (mode enforce): \
         claimed by this pod"
    );
    assert_eq!(events.dropped(DropReason::Full), 20 - MAX_REPORTS as u64);
}

#[test]
fn many_who_wait_are_bounded() {
    let mut events = EventScheduler::new("node-1");
    for cgroup in 0..2 * MAX_PODS as u64 {
        let mut report = unknown();
        report.attempt.pod_cgroup = Some(CgroupId::new(cgroup));
        events.report(&report, at(0));
    }
    assert_eq!(events.unnamed.len(), MAX_PODS);
}

#[test]
fn mirror_pods_and_the_node_are_found_where_people_look() {
    let mirror = Name { mirror: Some("0123456789abcdef0123456789abcdef".to_owned()), ..pod("static") };
    assert_eq!(EventObject::Pod(mirror).uid(), "0123456789abcdef0123456789abcdef");
    let mut events = EventScheduler::new("node-1");
    let mut report = denied("web-2", "", 22);
    report.owner = Some(Name::node());
    report.source = Some(ClaimSource::Reserved);
    report.attempt.reason = Reason::Reserved;
    events.report(&report, at(0));
    let calls = run(&mut events, at(0).boottime, HOUR, CallOutcome::Done);
    let node = of(&created(&calls), "node-1")[0].clone();
    assert_eq!((node.regarding.event_namespace(), node.regarding.uid()), ("default", "node-1"));
    assert!(node.note.ends_with("claimed by the node"), "{}", node.note);
}

const LIMIT: QuotaLimit = QuotaLimit { what: Resource::Pods, of_namespace: true, most: 2 };

#[test]
fn each_notice_has_its_reason() {
    let cases = [
        (Notice::MoreProblems { pod: pod("a"), count: 3 }, EventReason::PortClaimInvalid),
        (Notice::QuotaExceeded { pod: pod("a"), limit: LIMIT }, EventReason::PortClaimInvalid),
        (Notice::MirrorRejected { pod: pod("a"), why: "why" }, EventReason::PortIdentityRejected),
        (Notice::SameUid { pod: pod("a"), first: pod("b") }, EventReason::PortIdentityRejected),
        (Notice::Granted { pod: pod("a"), ports: Vec::new() }, EventReason::PortClaimGranted),
        (conflict("a", "b"), EventReason::PortClaimConflict),
    ];
    for (notice, reason) in cases {
        let mut events = EventScheduler::new("node-1");
        events.notice(&notice, at(0));
        let calls = run(&mut events, at(0).boottime, HOUR, CallOutcome::Done);
        let created = created(&calls);
        assert_eq!(of(&created, "a")[0].reason, reason);
        assert_eq!(reason.action(), "Claim");
        assert_eq!(reason.is_normal(), reason == EventReason::PortClaimGranted);
    }
    let mut events = EventScheduler::new("node-1");
    events.notice(
        &Notice::LabelInvalid { label: NamespaceLabel::Mode, namespace: "a".to_owned(), value: "x".to_owned() },
        at(0),
    );
    assert_eq!(events.poll_call(at(0)), NextCall::Nothing);
}

#[test]
fn verdicts_have_their_reasons() {
    for (verdict, cause, reason) in [
        (VerdictKind::Deny, Reason::Claimed, Some(EventReason::PortBindDenied)),
        (VerdictKind::Audit, Reason::Claimed, Some(EventReason::PortBindAudited)),
        (VerdictKind::Audit, Reason::Stale, Some(EventReason::PortBindAudited)),
        (VerdictKind::Deny, Reason::Held, Some(EventReason::PortInUse)),
        (VerdictKind::Audit, Reason::Held, Some(EventReason::PortInUse)),
        (VerdictKind::Allow, Reason::Owner, None),
    ] {
        let mut events = EventScheduler::new("node-1");
        let mut report = denied("a", "b", 80);
        (report.attempt.verdict, report.attempt.reason) = (verdict, cause);
        events.report(&report, at(0));
        let calls = run(&mut events, at(0).boottime, HOUR, CallOutcome::Done);
        assert_eq!(created(&calls).first().map(|event| event.reason), reason);
    }
}

#[test]
fn memory_is_bounded_and_given_back() {
    let mut events = EventScheduler::new("node-1");
    for pod in 0..2 * MAX_SERIES {
        events.notice(&Notice::MoreProblems { pod: self::pod(&format!("pod-{pod}")), count: 1 }, at(0));
    }
    assert_eq!(events.series.len(), MAX_SERIES);
    assert_eq!(events.dropped(DropReason::Full), MAX_SERIES as u64);
    let calls = run(&mut events, at(0).boottime, HOUR * 2, CallOutcome::Done);
    assert_eq!(calls.len(), MAX_SERIES);
    events.notice(&conflict("a", "b"), at(3 * 3600));
    assert_eq!((events.series.len(), events.keys.len(), events.due.len()), (2, 2, 2));
    assert_eq!(events.budgets.len(), 2);
}

proptest! {
    #[test]
    fn notes_are_safe_and_short(names in prop::collection::vec("\\PC{0,300}|[\\x00-\\x1f]{1,5}", 1..6), address: u32, port: u16) {
        let mut events = EventScheduler::new("node-1");
        for name in &names {
            let mut report = denied(name, "owner", port);
            report.attempt.address = IpAddr::V4(address.into());
            report.attempt.command.clone_from(name);
            events.report(&report, at(0));
        }
        for event in created(&run(&mut events, Duration::ZERO, HOUR, CallOutcome::Done)) {
            prop_assert!(event.note.len() <= MAX_NOTE);
            prop_assert!(!event.note.chars().any(char::is_control));
            prop_assert!(event.name.len() <= 253);
        }
    }
}
