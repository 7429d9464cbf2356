//! Keys, removals, and the schedule of the startup taint.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::{
    AttemptOutcome, NextAttempt, NodeRead, TaintEffect, TaintKey, TaintRemoval, TaintSchedule, schedule::LOOK_INTERVAL,
};

const KEY: &str = "port-enforcer.io/agent-not-ready";

fn key() -> TaintKey {
    KEY.parse().expect("a key")
}

fn node(taints: &Value) -> Node {
    let node = json!({ "metadata": { "name": "node-1", "uid": "u-1" }, "spec": { "taints": taints } });
    serde_json::from_value(node).expect("a Node")
}

#[test]
fn keys_are_those_of_the_api_server() {
    let long = "a".repeat(63);
    for good in [KEY, "agent-not-ready", "a", "A.b_c-1", "startup-taint.cluster-autoscaler.kubernetes.io/x", &long] {
        assert_eq!(good.parse::<TaintKey>().as_ref().map(TaintKey::as_str), Ok(good));
    }
    let long = "a".repeat(64);
    for bad in ["", "/", "a/", "/a", "a/b/c", "-a", "a-", "a b", "a\n", "A.io/a", "a..b/c", "ä", &long] {
        assert!(bad.parse::<TaintKey>().is_err(), "{bad:?}");
    }
}

#[test]
fn removal_names_the_taint_alone() {
    let taints = json!([
        { "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" },
        { "key": KEY, "effect": "NoExecute", "value": "true" },
        { "key": KEY, "effect": "PreferNoSchedule" },
        { "key": "gpu", "effect": "NoSchedule" },
        { "key": KEY, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z" },
    ]);
    let removal = TaintRemoval::of(&node(&taints), &key()).expect("a removal");
    assert_eq!(removal.effects, [TaintEffect::NoExecute, TaintEffect::NoSchedule]);
    let expected = json!([
        { "op": "test", "path": "/metadata/uid", "value": "u-1" },
        { "op": "test", "path": "/spec/taints/4/key", "value": KEY },
        { "op": "test", "path": "/spec/taints/4/effect", "value": "NoSchedule" },
        { "op": "remove", "path": "/spec/taints/4" },
        { "op": "test", "path": "/spec/taints/1/key", "value": KEY },
        { "op": "test", "path": "/spec/taints/1/effect", "value": "NoExecute" },
        { "op": "remove", "path": "/spec/taints/1" },
    ]);
    assert_eq!(removal.patch, expected);
    for none in [json!(null), json!([]), json!([{ "key": "gpu", "effect": "NoSchedule" }])] {
        assert_eq!(TaintRemoval::of(&node(&none), &key()), None, "{none}");
    }
    assert_eq!(TaintRemoval::of(&Node::default(), &key()), None);
}

#[test]
fn nothing_is_attempted_while_binds_are_not_judged() {
    let mut schedule = TaintSchedule::new(1);
    let at = Duration::from_secs;
    assert_eq!(schedule.poll(at(100)), NextAttempt::Nothing);
    assert!(schedule.set_judges(true) && !schedule.set_judges(true) && schedule.judges());
    assert_eq!(schedule.poll(at(100)), NextAttempt::Attempt(NodeRead::Fresh), "at once, and from no cache");
    assert!(schedule.set_judges(false));
    assert_eq!(schedule.poll(at(100)), NextAttempt::Nothing);
}

#[test]
fn looks_go_on_twice_a_minute_from_the_cache() {
    let mut schedule = TaintSchedule::new(1);
    schedule.set_judges(true);
    let mut now = Duration::from_secs(5);
    for outcome in [AttemptOutcome::Removed, AttemptOutcome::Absent, AttemptOutcome::Absent] {
        assert!(!schedule.handle_outcome(outcome, now));
        let NextAttempt::Wait(next) = schedule.poll(now) else { panic!("a look is due at once") };
        assert!((LOOK_INTERVAL..=LOOK_INTERVAL * 5 / 4).contains(&next.saturating_sub(now)), "{next:?} after {now:?}");
        now = next;
        assert_eq!(schedule.poll(now), NextAttempt::Attempt(NodeRead::Cached));
    }
}

/// Returns the pauses after outcomes in a row, and how many of them were to be reported.
fn pauses(outcome: AttemptOutcome, count: usize) -> (Vec<Duration>, usize) {
    let mut schedule = TaintSchedule::new(7);
    schedule.set_judges(true);
    let mut now = Duration::ZERO;
    let mut reports = 0;
    let mut pauses = Vec::new();
    for _ in 0..count {
        reports += usize::from(schedule.handle_outcome(outcome, now));
        let NextAttempt::Wait(next) = schedule.poll(now) else { panic!("{outcome:?}: no pause") };
        pauses.push(next.saturating_sub(now));
        now = next;
        assert_eq!(schedule.poll(now), NextAttempt::Attempt(NodeRead::Fresh), "{outcome:?}");
    }
    assert!(pauses.iter().all(|pause| *pause <= LOOK_INTERVAL * 5 / 4), "{outcome:?}: {pauses:?}");
    (pauses, reports)
}

#[test]
fn errors_back_off_up_to_the_time_between_looks() {
    let (failed, reports) = pauses(AttemptOutcome::Failed { retry_after: None }, 40);
    assert!(failed[0] < Duration::from_secs(2) && failed[1] >= Duration::from_secs(2), "{failed:?}");
    assert!(failed[39] >= LOOK_INTERVAL && reports == 40, "{failed:?}");
    let (conflicts, reports) = pauses(AttemptOutcome::Conflict, 40);
    assert!(conflicts[3] < Duration::from_secs(2) && conflicts[39] >= LOOK_INTERVAL, "{conflicts:?}");
    assert_eq!(reports, 36, "the first four conflicts are nothing to report");
    let (unavailable, reports) = pauses(AttemptOutcome::Unavailable, 3);
    assert!(unavailable[0] >= LOOK_INTERVAL && reports == 3, "{unavailable:?}");
    let asked = Duration::from_secs(20);
    let (throttled, _) = pauses(AttemptOutcome::Failed { retry_after: Some(asked) }, 2);
    assert!(throttled[0] >= asked, "{throttled:?}");
}

#[test]
fn success_ends_the_backoff() {
    let mut schedule = TaintSchedule::new(3);
    schedule.set_judges(true);
    for _ in 0..10 {
        schedule.handle_outcome(AttemptOutcome::Conflict, Duration::ZERO);
    }
    assert!(!schedule.handle_outcome(AttemptOutcome::Removed, Duration::ZERO));
    assert!(!schedule.handle_outcome(AttemptOutcome::Conflict, Duration::from_mins(2)), "the first conflict again");
    let NextAttempt::Wait(next) = schedule.poll(Duration::from_mins(2)) else { panic!("no pause") };
    assert!(next < Duration::from_mins(2) + Duration::from_secs(1), "{next:?}");
}
