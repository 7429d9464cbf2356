//! A pod as the API gives it: whatever is in it, its claims keep to the limits and its words are safe to show.
#![no_main]

use std::time::Duration;

use enforcer_core::{
    index::Notice,
    k8s_events::{Call, CallOutcome, EventScheduler, MAX_NOTE, NextCall},
    model::{
        digest::Digest, name::Name, now::Now, owner::OwnerClass, port_spec::PortList, quota::Quota, source::ClaimSource,
    },
    plan::owner_record::{OwnerRecord, RecordedOwner},
    pods::{
        claims::{ClaimLimits, PodClaim, PodClaims, claims_of},
        pod::{Pod, from_api, uid_key},
        probes::{MAX_TARGETS, ProbeTarget},
    },
    reports::messages::notice_sentence,
};
use enforcer_fuzz::properties::{assert_bounded, assert_safe};
use k8s_openapi::api::core::v1 as api;
use libfuzzer_sys::{Corpus, fuzz_target};

/// Few, so that a short input meets the limit.
const LIMITS: ClaimLimits = ClaimLimits { max_ports_per_pod: 50, namespace_max_ports: 0 };
const NOW: Now = Now { wall: 1_790_000_000_000_000, boottime: Duration::from_secs(1000) };

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(object) = serde_json::from_slice::<api::Pod>(data) else {
        return Corpus::Reject;
    };
    check(&object);
    Corpus::Keep
});

fn check(object: &api::Pod) {
    let pod = from_api(object);
    let again = serde_json::to_vec(object).expect("an object is written as JSON");
    let again: api::Pod = serde_json::from_slice(&again).expect("and read");
    assert_eq!(from_api(&again), pod, "the same object makes the same pod");

    assert_eq!(pod.uid, uid_key(&pod.uid_text));
    let hex = pod.uid.map(|key| format!("{:032x}", u128::from_be_bytes(key.uid)));
    assert!(hex.is_none_or(|hex| hex == pod.uid_text.replace('-', "").to_ascii_lowercase()));
    assert_safe(&pod.display_name());
    assert!(pod.ports.iter().all(|port| port.host_port != 0));

    probed(&pod);

    let claims = claims_of(&pod, &LIMITS);
    assert_bounded(&claims, &LIMITS);
    if !pod.host_network {
        assert!(
            claims.claims.iter().all(|claim| claim.source == ClaimSource::HostPort),
            "an annotation counts for nothing"
        );
    }
    let silent = claims_of(&Pod { ports_annotation: None, ..pod.clone() }, &LIMITS);
    assert!(claims.claims.starts_with(&silent.claims), "an annotation never removes what is declared");

    remembered(&pod);
    told(&pod, &claims);
}

/// What its probes ask is bounded, in order, and a place that a socket can be at.
fn probed(pod: &Pod) {
    assert_eq!(pod.probes.is_some(), pod.host_network);
    let Some(probes) = &pod.probes else { return };
    assert!(probes.targets.len() <= MAX_TARGETS && probes.period > 0);
    assert!(probes.targets.is_sorted_by(|one, other| one < other), "in order, and each once");
    assert!(probes.address.is_none_or(|address| !address.is_unspecified()));
    for ProbeTarget { port, address, is_local } in &probes.targets {
        assert!(*port != 0 && !address.is_unspecified() && address.to_canonical() == *address);
        assert!(*is_local || !address.is_loopback());
    }
}

/// What is written down of a pod is read back.
fn remembered(pod: &Pod) {
    let Some(key) = pod.uid else { return };
    let claims = Digest::of("claims", [pod.name.as_str()]);
    let name = Name { mirror: None, ..pod.owner_name() };
    let record = OwnerRecord {
        subject: RecordedOwner::Pod { key, claims, terminal: false, ended: true, mirror: false },
        class: OwnerClass::Tenant,
        group: pod.share.as_ref().map(|share| Digest::of("group", [share.as_str()])),
        workload: pod.workload.as_ref().map(|workload| workload.key().digest()),
        terminating: pod.deletion.is_some(),
        mode: None,
        since: pod.arrival,
        name,
    };
    if let Some(bytes) = record.encode() {
        assert_eq!(OwnerRecord::decode(&bytes[..]), Ok(record));
    } else {
        assert!(pod.namespace.len() + pod.name.len() + pod.uid_text.len() > 410);
    }
}

/// What people hear of it: everything that is told of pods, with the words of this one.
fn told(pod: &Pod, claims: &PodClaims) {
    let name = pod.owner_name();
    let other = Name { name: "other".to_owned(), mirror: None, ..name.clone() };
    let list = |claim: &PodClaim| (claim.spec.protocol, claim.spec.address, claim.spec.ports);
    let ports: PortList = claims.claims.iter().map(list).collect();
    let problems =
        claims.problems.iter().map(|problem| Notice::Problem { pod: name.clone(), problem: problem.clone() });
    let source = ClaimSource::Annotation;
    let mut notices: Vec<Notice> = problems.collect();
    notices.extend([
        Notice::MoreProblems { pod: name.clone(), count: claims.more_problems },
        Notice::MirrorRejected { pod: name.clone(), why: "why" },
        Notice::SameUid { pod: other.clone(), first: name.clone() },
        Notice::QuotaExceeded { pod: name.clone(), limit: Quota::UNLIMITED.claims.limit },
        Notice::HandoverQuotaExceeded { pod: name.clone(), limit: Quota::UNLIMITED.addresses.limit },
        Notice::Conflict { loser: name.clone(), winner: other.clone(), source, ports: ports.clone() },
        Notice::Conflict { loser: other, winner: name.clone(), source, ports: ports.clone() },
        Notice::Granted { pod: name, ports },
    ]);
    let node = "node\u{1b}[2J";
    let mut events = EventScheduler::new(node);
    for notice in &notices {
        assert_safe(&notice_sentence(notice, node));
        events.notice(notice, NOW);
    }
    let mut now = NOW;
    let mut calls = 0;
    loop {
        match events.poll_call(now) {
            NextCall::Call(call) => {
                assert_call_is_safe(&call);
                calls += 1;
                events.handle_outcome(CallOutcome::Done, now);
            }
            NextCall::Wait(until) => now.boottime = until,
            NextCall::Nothing => break,
        }
        assert!(calls <= 2 * notices.len(), "a notice makes two Events at most");
    }
}

fn assert_call_is_safe(call: &Call) {
    match call {
        Call::Create(event) => {
            assert!(event.note.len() <= MAX_NOTE && event.name.len() <= 253);
            assert_safe(&event.note);
        }
        Call::Count { count, .. } => assert!(*count >= 2),
    }
}
