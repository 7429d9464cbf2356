use enforcer_ebpf::wire::{UidForm, UidKey};
use proptest::prelude::*;

use super::*;
use crate::{
    model::{
        mode::NamespaceMode,
        name::{Handover, Name},
        owner::{OwnerClass, OwnerId, OwnerKind},
    },
    plan::owner_record::{OwnerRecord, RecordedOwner, tests::record},
    pods::annotation::parse_list,
};

const MINUTE: i64 = 60 * 1_000_000;

fn at(wall: i64, boottime: u64) -> Now {
    Now { wall, boottime: Duration::from_secs(boottime) }
}

const WRITTEN: i64 = 1_700_000_000_000_000;

fn state(owners: Vec<RecoveredOwner>) -> BootState {
    BootState {
        origin: Origin { node: "node-1".to_owned(), machine: Some("a1".to_owned()), boot: "first".to_owned() },
        written: WRITTEN,
        lease: Some(Duration::from_hours(1)),
        cgroup: "kubelet.slice/kubelet-kubepods.slice".to_owned(),
        policy: Policy {
            enforce: true,
            undeclared: Undeclared::Deny,
            deny_on_error: true,
            report_attempts: false,
            report_bound: true,
            node_scope: false,
            errno: 98,
        },
        shared_ports: parse_list("5353/udp").unwrap(),
        reserves_ports: true,
        settings: Settings {
            node_reserved: parse_list("22/tcp, 10.0.0.1:53/udp").unwrap(),
            namespace_mode: NamespaceMode::Stricter,
            ..Settings::default()
        },
        owners,
    }
}

/// Owners as the index has them: the node is none of them, and the kind follows the name.
fn owner() -> impl Strategy<Value = RecoveredOwner> {
    let claims = prop::collection::vec((1..=65_500u16, 0..30u16), 0..4);
    (record(), 1..u32::MAX, claims).prop_filter_map("the node is left out", |(mut record, id, claims)| {
        let kind = record.subject.kind();
        if kind == OwnerKind::Node || record.class == OwnerClass::Node || record.name.is_node() {
            return None;
        }
        if kind == OwnerKind::HandoverReservation {
            record.name.uid.clear();
            let until = WRITTEN + MINUTE;
            let workload = record.name.handover.take().and_then(|handover| handover.workload);
            record.name.handover = Some(Box::new(Handover { workload, until }));
            record.subject = RecordedOwner::HandoverReservation { until: Duration::from_secs(160) };
        }
        let text: Vec<String> =
            claims.iter().map(|(first, more)| format!("{first}-{}/udp", first.saturating_add(*more))).collect();
        let claims = parse_list(&text.join(",")).unwrap();
        Some(RecoveredOwner { id: OwnerId::new(id)?, cgroup: None, record, claims })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(owners in prop::collection::vec(owner(), 0..5)) {
        let state = state(owners);
        let bytes = state.encode(at(WRITTEN, 100)).unwrap();
        let read = BootState::decode(&bytes, at(WRITTEN, 100)).unwrap();
        prop_assert_eq!(format!("{:?}", &read), format!("{:?}", &state));
    }

    /// Wherever a bit is another one, and wherever the bytes end, they are refused.
    #[test]
    fn damage_is_refused(owners in prop::collection::vec(owner(), 1..3), place in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = state(owners).encode(at(WRITTEN, 100)).unwrap();
        let place = place.index(bytes.len());
        let mut flipped = bytes.clone();
        flipped[place] ^= 1u8 << bit;
        prop_assert!(BootState::decode(&flipped, at(WRITTEN, 100)).is_err(), "byte {} of {}", place, bytes.len());
        prop_assert!(BootState::decode(&bytes[..place], at(WRITTEN, 100)).is_err(), "{} of {}", place, bytes.len());
    }

    #[test]
    fn rubbish_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(BootState::decode(&bytes, at(WRITTEN, 100)).is_err());
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let bytes = state(Vec::new()).encode(at(WRITTEN, 100)).unwrap();
    let error = |bytes: &[u8]| BootState::decode(bytes, at(WRITTEN, 100)).unwrap_err().to_string();
    assert_eq!(error(b"\x89PNG\r\n"), "is no boot state of port-enforcer");
    assert_eq!(error(b""), "is no boot state of port-enforcer");
    let text = String::from_utf8(bytes.clone()).unwrap();
    let newer = text.replacen("boot-state 1 ", "boot-state 2 ", 1);
    assert_eq!(error(newer.as_bytes()), "has the form of version 2, and this program reads version 1");
    assert!(error(&bytes[..bytes.len() - 9]).starts_with("is damaged: it should have "));
    let flipped = text.replacen("node-1", "node-2", 1);
    assert_eq!(error(flipped.as_bytes()), "is damaged: its checksum is wrong");
    assert_eq!(error(&vec![b' '; MAX_BYTES + 1]), "is larger than 16777216 bytes, which no agent writes");
    // Behind a right checksum, every field is looked at.
    let sealed = |change: &dyn Fn(&str) -> String| {
        let json = change(text.split_once('\n').unwrap().1);
        format!("{MAGIC}{VERSION} {:?} {}\n{json}", Digest::of_bytes(json.as_bytes()), json.len())
    };
    assert!(BootState::decode(sealed(&|json| json.to_owned()).as_bytes(), at(WRITTEN, 100)).is_ok());
    for (from, to) in [
        ("\"mode\":\"enforce\"", "\"mode\":\"deny\""),
        ("\"errno\":98", "\"errno\":98,\"more\":1"),
        ("5353/udp", "0/udp"),
        ("kubelet.slice/", "../"),
        ("\"owners\":[]", "\"owners\":[{}]"),
    ] {
        let sealed = sealed(&|json| {
            assert!(json.contains(from), "{from}: {json}");
            json.replacen(from, to, 1)
        });
        assert!(error(sealed.as_bytes()).starts_with("has content that no agent writes: "), "{to}");
    }
}

#[test]
fn only_a_state_of_this_machine_and_an_earlier_boot_counts() {
    let state = state(Vec::new());
    let now = at(WRITTEN + MINUTE, 5);
    assert_eq!(state.check(Some("a1"), "second", now), Ok(()));
    assert_eq!(state.check(None, "second", now), Ok(()), "where machines have no ids");
    assert_eq!(state.check(Some("a1"), "first", now), Err(Unfit::SameBoot));
    let other = state.check(Some("b2"), "second", now).unwrap_err();
    assert_eq!(other.to_string(), "is of another machine: node node-1");
}

#[test]
fn the_lease_goes_on_while_the_node_is_off() {
    let mut state = state(Vec::new());
    let check = |state: &BootState, minutes: i64| state.check(None, "second", at(WRITTEN + minutes * MINUTE, 5));
    assert_eq!(check(&state, 59), Ok(()));
    assert_eq!(state.remaining_lease(at(WRITTEN + 59 * MINUTE, 5)), Some(Duration::from_mins(1)));
    let too_old = check(&state, 60).unwrap_err();
    assert_eq!(too_old.to_string(), "is stale: it was written 3600 s ago, and its lease was 3600 s");
    // A clock without a battery begins with the time that was saved last.
    assert_eq!(check(&state, -5), Ok(()));
    assert_eq!(state.remaining_lease(at(WRITTEN - 5 * MINUTE, 5)), Some(Duration::from_hours(1)));
    let future = check(&state, -6).unwrap_err();
    assert_eq!(future.to_string(), "is of unknown age: the clock of this node is 360 s behind its time");
    state.lease = None;
    assert_eq!(check(&state, 60 * 24 * 365), Ok(()));
    assert_eq!(state.remaining_lease(at(WRITTEN + MINUTE, 5)), None);
}

#[test]
fn times_since_boot_become_those_of_the_next_boot() {
    let record = OwnerRecord {
        subject: RecordedOwner::HandoverReservation { until: Duration::from_secs(1040) },
        class: OwnerClass::Tenant,
        name: Name { namespace: "default".to_owned(), name: "old".to_owned(), ..Name::node() },
        group: None,
        workload: Some(Digest([7; 16])),
        terminating: true,
        mode: None,
        since: 1,
    };
    let owner = RecoveredOwner { id: OwnerId::FIRST, cgroup: None, record, claims: Vec::new() };
    let bytes = state(vec![owner]).encode(at(WRITTEN, 1000)).unwrap();
    let until = |wall, boottime| {
        let read = BootState::decode(&bytes, at(wall, boottime)).unwrap();
        let RecordedOwner::HandoverReservation { until } = read.owners[0].record.subject else { panic!("{read:?}") };
        until.as_secs()
    };
    assert_eq!(until(WRITTEN + MINUTE / 2, 7), 17, "40 seconds were left, and 30 are over");
    assert_eq!(until(WRITTEN + MINUTE, 25), 5, "over");
    assert_eq!(until(WRITTEN + MINUTE, 3), 0, "over since before the boot");
}

#[test]
fn keys_have_one_form() {
    let key = UidKey::new([0xab; 16], UidForm::Static);
    let record = OwnerRecord {
        subject: RecordedOwner::Pod { key, claims: Digest::default(), terminal: false, ended: false, mirror: false },
        class: OwnerClass::Static,
        name: Name { name: "dns".to_owned(), ..Name::node() },
        group: None,
        workload: None,
        terminating: false,
        mode: None,
        since: 0,
    };
    let owner = RecoveredOwner { id: OwnerId::FIRST, cgroup: None, record, claims: parse_list("53/udp").unwrap() };
    let text = String::from_utf8(state(vec![owner]).encode(at(WRITTEN, 1)).unwrap()).unwrap();
    assert!(text.contains(&format!("\"key\":\"static:{}\"", "ab".repeat(16))), "{text}");
    assert!(text.contains("\"claims\":[\"53/udp\"]"), "{text}");
}
