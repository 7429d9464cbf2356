//! Decoder of the records that the kernel programs write into their rings and into the socket log.
//!
//! A record is one wire type, byte for byte ([`BindEvent`], [`BoundEvent`], [`ReleaseEvent`], [`CgroupEvent`]). Every
//! time that leaves the decoder counts sleep: the programs take the times of sockets from a clock that does not, so
//! [`decode_socket`] takes what is missing as an argument.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_ebpf::wire::{
    BIND_FLAG_HELD, BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN, BIND_FLAG_V6ONLY,
    BIND_FLAG_V6ONLY_UNKNOWN, BindEvent, BoundEvent, CgroupEvent, EventKind, FAMILY_V4, FAMILY_V6, NAME_CAPACITY,
    Protocol, Reason, ReleaseEvent, UidForm, VerdictKind,
};
use zerocopy::FromBytes;

use crate::{
    model::{
        attempt::{Attempt, Reuse},
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        owner::OwnerId,
    },
    sockets::SocketBinding,
};

/// Reason for which a record cannot be decoded. The programs and the agent then come from different sources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record has the wrong length.
    #[error("invalid length {actual} of ring record, expected {expected}")]
    Length {
        /// Bytes of a record of this kind.
        expected: usize,
        /// Bytes of this record.
        actual: usize,
    },
    /// A field has a value that no program writes.
    #[error("invalid {field} {value} in ring record")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value of the field.
        value: u64,
    },
}

/// Record of the socket ring or of the socket log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketRecord {
    /// An allowed bind to a port that somebody else holds. It is reported only if the kernel refuses it.
    Attempt(Attempt),
    /// A socket was bound.
    Bound(SocketBinding),
    /// A socket that may have held a port was released.
    Released(SocketRelease),
    /// The socket log has records.
    Wakeup,
}

/// Release of a socket that may have held a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRelease {
    /// Time of the release.
    pub time: BootNanos,
    /// Protocol of the socket.
    pub protocol: Protocol,
    /// Port of the socket.
    pub port: u16,
    /// Name of the socket, as in [`SocketBinding::release`].
    pub name: u64,
}

/// Record of the cgroup ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupChange {
    /// The cgroup was made (else removed).
    pub made: bool,
    /// Cgroup id.
    pub id: CgroupId,
    /// Cgroup id of the parent.
    pub parent: CgroupId,
    /// Name of the cgroup's directory, or `None` if it is longer than a record holds or not UTF-8.
    pub name: Option<String>,
    /// Form of the pod UID that the programs read from the name, if they read one.
    pub form: Option<UidForm>,
}

/// Decodes a record of the verdict ring: a judged bind.
///
/// # Errors
///
/// If the record is not what the programs of this build write.
pub fn decode_verdict(record: &[u8]) -> Result<Attempt, DecodeError> {
    // The programs take these times from `CLOCK_BOOTTIME`, which counts sleep.
    let (event, facts) = decode_bind(record, 0)?;
    match EventKind::from_wire(event.kind) {
        Some(EventKind::Attempt) => facts.attempt(&event),
        _ => Err(invalid("kind", event.kind)),
    }
}

/// Decodes a record of the socket ring or of the socket log. `slept` is how long the machine slept since boot, in
/// nanoseconds: the programs take these times from a clock that leaves sleep out.
///
/// # Errors
///
/// If the record is not what the programs of this build write.
pub fn decode_socket(record: &[u8], slept: u64) -> Result<SocketRecord, DecodeError> {
    match record.first().copied().and_then(EventKind::from_wire) {
        Some(EventKind::Wakeup) => read::<u64>(record).map(|_| SocketRecord::Wakeup),
        Some(EventKind::Bound) => decode_bound(record, slept).map(SocketRecord::Bound),
        Some(EventKind::Released) => decode_release(record, slept).map(SocketRecord::Released),
        _ => {
            let (event, facts) = decode_bind(record, slept)?;
            match EventKind::from_wire(event.kind) {
                Some(EventKind::Attempt) => facts.attempt(&event).map(SocketRecord::Attempt),
                _ => Err(invalid("kind", event.kind)),
            }
        }
    }
}

/// Decodes a record of the cgroup ring.
///
/// # Errors
///
/// If the record is not what the programs of this build write.
pub fn decode_cgroup(record: &[u8]) -> Result<CgroupChange, DecodeError> {
    let CgroupEvent { kind, form, name_len, padding: _, id, parent, name } = read(record)?;
    let made = match EventKind::from_wire(kind) {
        Some(EventKind::CgroupMade) => true,
        Some(EventKind::CgroupRemoved) => false,
        _ => return Err(invalid("kind", kind)),
    };
    let length = usize::from(name_len);
    let name = name.get(..length).ok_or(invalid("name length", name_len))?;
    // A name of all bytes but one may be the beginning of a longer one.
    let is_whole = length < NAME_CAPACITY - 1;
    let name = if is_whole { std::str::from_utf8(name).ok().map(str::to_owned) } else { None };
    let (id, parent) = (CgroupId::new(id), CgroupId::new(parent));
    Ok(CgroupChange { made, id, parent, name, form: UidForm::from_wire(form) })
}

fn decode_release(record: &[u8], slept: u64) -> Result<SocketRelease, DecodeError> {
    let ReleaseEvent { kind: _, protocol, port, padding: _, time, release } = read(record)?;
    let protocol = Protocol::from_wire(protocol).ok_or(invalid("protocol", protocol))?;
    Ok(SocketRelease { time: counting_sleep(time, slept), protocol, port, name: release })
}

fn decode_bound(record: &[u8], slept: u64) -> Result<SocketBinding, DecodeError> {
    let BoundEvent {
        kind: _,
        family,
        protocol,
        flags,
        port,
        padding: _,
        time,
        cgroup,
        socket,
        release,
        pid,
        uid,
        address,
        command,
    } = read(record)?;
    let facts = BindFacts::decode(family, protocol, flags, counting_sleep(time, slept), address, command)?;
    let BindFacts { time, protocol, address, v6only, reuse, command } = facts;
    Ok(SocketBinding {
        time,
        protocol,
        address: address.to_canonical(),
        port,
        cookie: SocketCookie::new(socket),
        release,
        cgroup: CgroupId::new(cgroup),
        pid,
        uid,
        command,
        v6only,
        reuse,
    })
}

/// Facts that an [`Attempt`] and a [`SocketBinding`] have in common and that are no plain field of the record.
struct BindFacts {
    time: BootNanos,
    protocol: Protocol,
    address: IpAddr,
    v6only: Option<bool>,
    reuse: Option<Reuse>,
    command: String,
}

fn decode_bind(record: &[u8], slept: u64) -> Result<(BindEvent, BindFacts), DecodeError> {
    let event: BindEvent = read(record)?;
    let BindEvent { family, protocol, flags, time, address, command, .. } = event;
    let facts = BindFacts::decode(family, protocol, flags, counting_sleep(time, slept), address, command)?;
    Ok((event, facts))
}

impl BindFacts {
    fn decode(
        family: u8,
        protocol: u8,
        flags: u8,
        time: BootNanos,
        address: [u8; 16],
        command: [u8; 16],
    ) -> Result<Self, DecodeError> {
        let [a, b, c, d, ..] = address;
        let address = match family {
            FAMILY_V4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(address)),
            _ => return Err(invalid("family", family)),
        };
        let has = |flag| flags & flag != 0;
        Ok(Self {
            time,
            protocol: Protocol::from_wire(protocol).ok_or(invalid("protocol", protocol))?,
            address,
            v6only: (!has(BIND_FLAG_V6ONLY_UNKNOWN)).then_some(has(BIND_FLAG_V6ONLY)),
            reuse: (!has(BIND_FLAG_REUSE_UNKNOWN))
                .then_some(Reuse { port: has(BIND_FLAG_REUSE_PORT), address: has(BIND_FLAG_REUSE_ADDR) }),
            command: String::from_utf8_lossy(command.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned(),
        })
    }

    fn attempt(self, event: &BindEvent) -> Result<Attempt, DecodeError> {
        let Self { time, protocol, address, v6only, reuse, command } = self;
        let BindEvent { verdict, reason, .. } = *event;
        Ok(Attempt {
            time,
            protocol,
            address,
            port: event.port,
            v6only,
            verdict: VerdictKind::from_wire(verdict).ok_or(invalid("verdict", verdict))?,
            reason: Reason::from_wire(reason).ok_or(invalid("reason", reason))?,
            cgroup: CgroupId::new(event.cgroup),
            pod_cgroup: CgroupId::from_wire(event.pod_cgroup),
            socket: SocketCookie::new(event.socket),
            caller: OwnerId::new(event.caller),
            owner: OwnerId::new(event.owner),
            holder: (event.holder != 0).then_some(event.holder),
            held: event.flags & BIND_FLAG_HELD != 0,
            reuse,
            pid: event.pid,
            uid: event.uid,
            command,
        })
    }
}

/// Returns a record's time, whose clock left out the nanoseconds that the machine `slept`.
fn counting_sleep(time: u64, slept: u64) -> BootNanos {
    BootNanos::new(time.saturating_add(slept))
}

/// Copies a wire type out of a record of exactly its length.
fn read<T: FromBytes>(record: &[u8]) -> Result<T, DecodeError> {
    T::read_from_bytes(record).map_err(|_| DecodeError::Length { expected: size_of::<T>(), actual: record.len() })
}

fn invalid(field: &'static str, value: impl Into<u64>) -> DecodeError {
    DecodeError::Field { field, value: value.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    use super::*;

    const SLEPT: u64 = 100;

    fn bind_event() -> BindEvent {
        BindEvent {
            kind: EventKind::Attempt as u8,
            family: FAMILY_V6,
            protocol: Protocol::Udp as u8,
            flags: BIND_FLAG_V6ONLY | BIND_FLAG_HELD | BIND_FLAG_REUSE_ADDR,
            port: 53,
            verdict: VerdictKind::Deny as u8,
            reason: Reason::Claimed as u8,
            time: 1,
            cgroup: 2,
            pod_cgroup: 3,
            socket: 4,
            reserved: 0,
            holder: 10,
            caller: 5,
            owner: 6,
            pid: 7,
            uid: 8,
            address: Ipv6Addr::LOCALHOST.octets(),
            command: *b"named\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn bound_event() -> BoundEvent {
        let BindEvent { family, protocol, flags, port, time, cgroup, socket, pid, uid, address, command, .. } =
            bind_event();
        BoundEvent {
            kind: EventKind::Bound as u8,
            family,
            protocol,
            flags,
            port,
            padding: 0,
            time,
            cgroup,
            socket,
            release: 9,
            pid,
            uid,
            address,
            command,
        }
    }

    fn attempt() -> Attempt {
        Attempt {
            time: BootNanos::new(1),
            protocol: Protocol::Udp,
            address: Ipv6Addr::LOCALHOST.into(),
            port: 53,
            v6only: Some(true),
            verdict: VerdictKind::Deny,
            reason: Reason::Claimed,
            cgroup: CgroupId::new(2),
            pod_cgroup: CgroupId::from_wire(3),
            socket: SocketCookie::new(4),
            caller: OwnerId::new(5),
            owner: OwnerId::new(6),
            holder: Some(10),
            held: true,
            reuse: Some(Reuse { port: false, address: true }),
            pid: 7,
            uid: 8,
            command: "named".to_owned(),
        }
    }

    fn release_event() -> ReleaseEvent {
        let (kind, protocol) = (EventKind::Released as u8, Protocol::Udp as u8);
        ReleaseEvent { kind, protocol, port: 53, padding: 0, time: 1, release: 7 }
    }

    #[test]
    fn attempt_takes_every_field_of_its_record() {
        assert_eq!(decode_verdict(bind_event().as_bytes()), Ok(attempt()));
    }

    #[test]
    fn release_takes_every_field_of_its_record() {
        let expected = SocketRelease { time: BootNanos::new(1), protocol: Protocol::Udp, port: 53, name: 7 };
        let event = release_event();
        assert_eq!(decode_socket(event.as_bytes(), 0), Ok(SocketRecord::Released(expected)));
        let cut = &event.as_bytes()[..23];
        assert_eq!(decode_socket(cut, 0), Err(DecodeError::Length { expected: 24, actual: 23 }));
        let wrong = ReleaseEvent { protocol: 99, ..event };
        assert_eq!(decode_socket(wrong.as_bytes(), 0), Err(DecodeError::Field { field: "protocol", value: 99 }));
    }

    #[test]
    fn times_of_the_socket_ring_count_sleep() {
        for record in [bind_event().as_bytes(), bound_event().as_bytes(), release_event().as_bytes()] {
            let times = [0, 5, u64::MAX].map(|slept| match decode_socket(record, slept).unwrap() {
                SocketRecord::Attempt(Attempt { time, .. })
                | SocketRecord::Bound(SocketBinding { time, .. })
                | SocketRecord::Released(SocketRelease { time, .. }) => time.get(),
                SocketRecord::Wakeup => panic!("it has no time"),
            });
            assert_eq!(times, [1, 6, u64::MAX], "{record:?}");
        }
    }

    #[test]
    fn binding_takes_every_field_of_its_record() {
        let bound = BoundEvent {
            family: FAMILY_V4,
            flags: BIND_FLAG_V6ONLY_UNKNOWN | BIND_FLAG_REUSE_UNKNOWN,
            address: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ..bound_event()
        };
        let expected = SocketBinding {
            time: BootNanos::new(1 + SLEPT),
            protocol: Protocol::Udp,
            address: Ipv4Addr::LOCALHOST.into(),
            port: 53,
            cookie: SocketCookie::new(4),
            release: 9,
            cgroup: CgroupId::new(2),
            pid: 7,
            uid: 8,
            command: "named".to_owned(),
            v6only: None,
            reuse: None,
        };
        assert_eq!(decode_socket(bound.as_bytes(), SLEPT), Ok(SocketRecord::Bound(expected)));
        let cut = &bound.as_bytes()[..79];
        assert_eq!(decode_socket(cut, SLEPT), Err(DecodeError::Length { expected: 80, actual: 79 }));
    }

    #[test]
    fn wakeup_is_eight_bytes() {
        let record = u64::from(EventKind::Wakeup as u8).to_le_bytes();
        assert_eq!(decode_socket(&record, SLEPT), Ok(SocketRecord::Wakeup));
        assert_eq!(decode_socket(&record[..7], SLEPT), Err(DecodeError::Length { expected: 8, actual: 7 }));
    }

    #[test]
    fn cgroup_change_takes_every_field_of_its_record() {
        let mut name = [0; NAME_CAPACITY];
        name[..4].copy_from_slice(b"podx");
        let event = CgroupEvent {
            kind: EventKind::CgroupMade as u8,
            form: UidForm::Static as u8,
            name_len: 4,
            padding: 0,
            id: 10,
            parent: 9,
            name,
        };
        let expected = CgroupChange {
            made: true,
            id: CgroupId::new(10),
            parent: CgroupId::new(9),
            name: Some("podx".to_owned()),
            form: Some(UidForm::Static),
        };
        assert_eq!(decode_cgroup(event.as_bytes()), Ok(expected));
        let longest = CgroupEvent { name_len: 191, ..event };
        assert_eq!(decode_cgroup(longest.as_bytes()).unwrap().name, None, "it may have been cut");
        let impossible = CgroupEvent { name_len: 193, ..event };
        let error = DecodeError::Field { field: "name length", value: 193 };
        assert_eq!(decode_cgroup(impossible.as_bytes()), Err(error));
    }

    #[test]
    fn wrong_records_are_refused() {
        assert_eq!(decode_verdict(&[]), Err(DecodeError::Length { expected: 104, actual: 0 }));
        let event = bind_event();
        for (wrong, field) in [
            (BoundEvent { family: 99, ..bound_event() }, "family"),
            (BoundEvent { protocol: 99, ..bound_event() }, "protocol"),
        ] {
            assert_eq!(decode_socket(wrong.as_bytes(), SLEPT), Err(DecodeError::Field { field, value: 99 }));
        }
        for (wrong, field) in [
            (BindEvent { kind: 99, ..event }, "kind"),
            (BindEvent { family: 99, ..event }, "family"),
            (BindEvent { protocol: 99, ..event }, "protocol"),
            (BindEvent { verdict: 99, ..event }, "verdict"),
            (BindEvent { reason: 99, ..event }, "reason"),
        ] {
            let error = DecodeError::Field { field, value: 99 };
            assert_eq!(decode_verdict(wrong.as_bytes()), Err(error.clone()));
            assert_eq!(decode_socket(wrong.as_bytes(), SLEPT), Err(error.clone()));
            assert_eq!(error.to_string(), format!("invalid {field} 99 in ring record"));
        }
    }

    #[test]
    fn verdict_ring_has_attempts_only() {
        let bound = BindEvent { kind: EventKind::Bound as u8, ..bind_event() };
        assert_eq!(decode_verdict(bound.as_bytes()), Err(DecodeError::Field { field: "kind", value: 2 }));
        assert!(matches!(decode_verdict(release_event().as_bytes()), Err(DecodeError::Length { actual: 24, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_a_panic(record in prop::collection::vec(any::<u8>(), 0..260), slept: u64) {
            let _ = decode_verdict(&record);
            let _ = decode_socket(&record, slept);
            let _ = decode_cgroup(&record);
        }
    }
}
