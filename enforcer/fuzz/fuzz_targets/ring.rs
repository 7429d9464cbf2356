//! Records of the rings: what is decoded is what the programs' own type says, and what is told of it is safe to show.
#![no_main]

use std::net::IpAddr;

use enforcer_core::{
    index::{Index, Settings},
    model::{actor::Audience, kernel_ids::CgroupId},
    reports::{
        report::Report,
        ring_records::{CgroupChange, DecodeError, SocketRecord, decode_cgroup, decode_socket, decode_verdict},
    },
    views::watch::WatchLine,
};
use enforcer_ebpf::wire::{
    BIND_FLAG_HELD, BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN, BIND_FLAG_V6ONLY,
    BIND_FLAG_V6ONLY_UNKNOWN, BindEvent, BoundEvent, CgroupEvent, EventKind, FAMILY_V4, FAMILY_V6, NAME_CAPACITY,
    Protocol, ReleaseEvent, UidForm,
};
use enforcer_fuzz::properties::assert_safe;
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

thread_local! {
    /// Of a node where nothing is.
    static INDEX: Index = Index::new(Settings::default(), CgroupId::new(1));
}

/// How long the machine slept.
const SLEPT: u64 = 1 << 40;

fuzz_target!(|data: &[u8]| {
    // Of any length; only one length is right for each kind.
    let wrong = |record: &[u8], right: usize| record.len() != right;
    let is_length = |error: Option<DecodeError>| matches!(error, Some(DecodeError::Length { .. }));
    let kind = data.first().copied().and_then(EventKind::from_wire);
    let right = match kind {
        Some(EventKind::Bound) => size_of::<BoundEvent>(),
        Some(EventKind::Released) => size_of::<ReleaseEvent>(),
        Some(EventKind::Wakeup) => size_of::<u64>(),
        _ => size_of::<BindEvent>(),
    };
    assert_eq!(is_length(decode_socket(data, SLEPT).err()), wrong(data, right));
    assert_eq!(is_length(decode_verdict(data).err()), wrong(data, size_of::<BindEvent>()));
    assert_eq!(is_length(decode_cgroup(data).err()), wrong(data, size_of::<CgroupEvent>()));

    match kind {
        Some(EventKind::Bound) => {
            let record: [u8; size_of::<BoundEvent>()] = fit(data);
            bound(&record, &BoundEvent::read_from_bytes(&record).expect("so many bytes"));
        }
        Some(EventKind::Released) => {
            let record: [u8; size_of::<ReleaseEvent>()] = fit(data);
            release(&record, &ReleaseEvent::read_from_bytes(&record).expect("so many bytes"));
        }
        Some(EventKind::Wakeup) => {
            assert_eq!(decode_socket(&fit::<{ size_of::<u64>() }>(data), SLEPT), Ok(SocketRecord::Wakeup));
        }
        _ => {
            let record: [u8; size_of::<BindEvent>()] = fit(data);
            bind(&record, &BindEvent::read_from_bytes(&record).expect("so many bytes"));
        }
    }
    let record: [u8; size_of::<CgroupEvent>()] = fit(data);
    cgroup(&record, &CgroupEvent::read_from_bytes(&record).expect("so many bytes"));
});

/// The data, cut or with zeros behind it.
fn fit<const LENGTH: usize>(data: &[u8]) -> [u8; LENGTH] {
    let mut record = [0; LENGTH];
    let length = data.len().min(LENGTH);
    record[..length].copy_from_slice(&data[..length]);
    record
}

fn bind(record: &[u8], event: &BindEvent) {
    let known = Protocol::from_wire(event.protocol).is_some() && matches!(event.family, FAMILY_V4 | FAMILY_V6);
    let flag = |bit| event.flags & bit != 0;
    let v6only = (!flag(BIND_FLAG_V6ONLY_UNKNOWN)).then_some(flag(BIND_FLAG_V6ONLY));
    let reuse = (!flag(BIND_FLAG_REUSE_UNKNOWN)).then_some((flag(BIND_FLAG_REUSE_PORT), flag(BIND_FLAG_REUSE_ADDR)));
    let some = enforcer_core::model::owner::OwnerId::new;
    // The verdict ring has attempts only, and their times count sleep already.
    match (decode_verdict(record), decode_socket(record, 0)) {
        (Ok(attempt), socket) => assert_eq!(socket, Ok(SocketRecord::Attempt(attempt))),
        (Err(error), Err(other)) => assert_eq!(error, other),
        (Err(_), Ok(record)) => panic!("{record:?}"),
    }
    let time = event.time.saturating_add(SLEPT);
    match decode_socket(record, SLEPT) {
        Err(DecodeError::Field { value, .. }) => {
            let fields = [event.kind, event.family, event.protocol, event.verdict, event.reason];
            assert!(fields.iter().any(|field| u64::from(*field) == value));
        }
        Err(DecodeError::Length { .. }) => panic!("the length is right"),
        Ok(SocketRecord::Attempt(attempt)) => {
            assert!(known && event.kind == EventKind::Attempt as u8);
            assert_eq!((attempt.verdict as u8, attempt.reason as u8), (event.verdict, event.reason));
            assert_eq!(
                (attempt.time.get(), attempt.cgroup.get(), attempt.socket.get()),
                (time, event.cgroup, event.socket)
            );
            assert_eq!((attempt.protocol as u8, attempt.port), (event.protocol, event.port));
            assert_eq!((attempt.caller, attempt.owner), (some(event.caller), some(event.owner)));
            assert_eq!((attempt.pid, attempt.uid), (event.pid, event.uid));
            assert_eq!(attempt.pod_cgroup.map_or(0, CgroupId::get), event.pod_cgroup);
            assert_eq!(attempt.holder.unwrap_or(0), event.holder);
            assert_eq!((attempt.v6only, attempt.held), (v6only, flag(BIND_FLAG_HELD)));
            assert_eq!(attempt.reuse.map(|reuse| (reuse.port, reuse.address)), reuse);
            assert!(is_address(attempt.address, event));
            is_command(&attempt.command, &event.command);
            INDEX.with(|index| told(&Report::new(attempt, index)));
        }
        Ok(other) => panic!("it is of another kind: {other:?}"),
    }
}

fn bound(record: &[u8], event: &BoundEvent) {
    let known = Protocol::from_wire(event.protocol).is_some() && matches!(event.family, FAMILY_V4 | FAMILY_V6);
    let flag = |bit| event.flags & bit != 0;
    match decode_socket(record, SLEPT) {
        Err(DecodeError::Field { value, .. }) => {
            assert!(!known && [event.family, event.protocol].iter().any(|field| u64::from(*field) == value));
        }
        Ok(SocketRecord::Bound(binding)) => {
            assert!(known);
            assert_eq!(
                (binding.time.get(), binding.cgroup.get(), binding.cookie.get()),
                (event.time.saturating_add(SLEPT), event.cgroup, event.socket)
            );
            assert_eq!((binding.protocol as u8, binding.port), (event.protocol, event.port));
            assert_eq!((binding.release, binding.pid, binding.uid), (event.release, event.pid, event.uid));
            assert_eq!(binding.v6only, (!flag(BIND_FLAG_V6ONLY_UNKNOWN)).then_some(flag(BIND_FLAG_V6ONLY)));
            let reuse = (flag(BIND_FLAG_REUSE_PORT), flag(BIND_FLAG_REUSE_ADDR));
            let expected = (!flag(BIND_FLAG_REUSE_UNKNOWN)).then_some(reuse);
            assert_eq!(binding.reuse.map(|reuse| (reuse.port, reuse.address)), expected);
            assert_eq!(binding.address, binding.address.to_canonical());
            is_command(&binding.command, &event.command);
        }
        other => panic!("{other:?}"),
    }
}

fn release(record: &[u8], event: &ReleaseEvent) {
    match decode_socket(record, SLEPT) {
        Err(DecodeError::Field { field: "protocol", value }) => {
            assert!(value == u64::from(event.protocol) && Protocol::from_wire(event.protocol).is_none());
        }
        Ok(SocketRecord::Released(release)) => {
            assert_eq!((release.time.get(), release.name), (event.time.saturating_add(SLEPT), event.release));
            assert_eq!((release.protocol as u8, release.port), (event.protocol, event.port));
        }
        other => panic!("{other:?}"),
    }
}

fn is_address(address: IpAddr, event: &BindEvent) -> bool {
    match address {
        IpAddr::V4(address) => event.family == FAMILY_V4 && address.octets() == event.address[..4],
        IpAddr::V6(address) => event.family == FAMILY_V6 && address.octets() == event.address,
    }
}

fn is_command(command: &str, bytes: &[u8; 16]) {
    assert!(!command.contains('\0') && command.chars().count() <= bytes.len());
    assert!(bytes.starts_with(command.split('\u{fffd}').next().unwrap_or(command).as_bytes()));
}

/// All that is made of an attempt.
fn told(report: &Report) {
    let node = "node\u{1b}]0;\u{7}";
    assert_safe(&report.command());
    assert_safe(&report.target());
    for audience in [Audience::Operators, Audience::Tenants] {
        assert_safe(&report.sentence(node, audience));
    }
    let line = WatchLine::attempt(report, node, "2026-01-01T00:00:00Z".to_owned());
    assert_safe(&line.text());
    let json = serde_json::to_string(&line).expect("a line is written as JSON");
    assert_safe(&json);
    assert_eq!(serde_json::from_str::<WatchLine>(&json).ok(), Some(line), "and read");
}

fn cgroup(record: &[u8], event: &CgroupEvent) {
    let length = usize::from(event.name_len);
    match decode_cgroup(record) {
        Err(DecodeError::Field { field: "name length", value }) => {
            assert!(length > NAME_CAPACITY && value == u64::from(event.name_len));
        }
        Err(DecodeError::Field { value, .. }) => {
            let kinds = [EventKind::CgroupMade as u8, EventKind::CgroupRemoved as u8];
            assert!(value == u64::from(event.kind) && !kinds.contains(&event.kind));
        }
        Err(DecodeError::Length { .. }) => panic!("the length is right"),
        Ok(CgroupChange { made, id, parent, name, form }) => {
            let kind = if made { EventKind::CgroupMade } else { EventKind::CgroupRemoved };
            assert_eq!((kind as u8, id.get(), parent.get()), (event.kind, event.id, event.parent));
            assert_eq!(form, UidForm::from_wire(event.form));
            match name {
                Some(name) => assert_eq!(name.as_bytes(), &event.name[..length]),
                None => assert!(length >= NAME_CAPACITY - 1 || std::str::from_utf8(&event.name[..length]).is_err()),
            }
        }
    }
}
