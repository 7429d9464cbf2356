//! Records of the rings, decoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Buf;
use enforcer_ebpf::wire::{
    BIND_FLAG_HELD, BIND_FLAG_REUSE_ADDR, BIND_FLAG_REUSE_PORT, BIND_FLAG_REUSE_UNKNOWN, BIND_FLAG_V6ONLY,
    BIND_FLAG_V6ONLY_UNKNOWN, BindEvent, CgroupEvent, EventKind, FAMILY_V4, FAMILY_V6, NAME_CAPACITY, Protocol, Reason,
    ReleaseEvent, UidForm, VerdictKind,
};

use enforcer_core::{
    model::attempt::{Attempt, Reuse},
    sockets::SocketBinding,
};

/// Why a record makes no sense. The programs and the agent then come from different sources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It has the wrong length.
    #[error("a record of {actual} bytes where {expected} were expected")]
    Length {
        /// Bytes that a record of this ring has.
        expected: usize,
        /// Bytes that this one has.
        actual: usize,
    },
    /// A field has a value that nobody writes.
    #[error("a record whose {field} is {value}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it held.
        value: u64,
    },
}

/// A record of the ring of binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketRecord {
    /// A bind was judged.
    Attempt(Attempt),
    /// A socket was bound.
    Bound(SocketBinding),
    /// A socket that may have held a port was released.
    Released(SocketRelease),
}

impl SocketRecord {
    /// A record of the ring of holders, whose times leave sleep out, with the sleep that there was since boot, in nanoseconds.
    #[must_use]
    pub fn with_sleep(mut self, slept: u64) -> Self {
        let time = match &mut self {
            Self::Attempt(attempt) => &mut attempt.time,
            Self::Bound(binding) => &mut binding.time,
            Self::Released(release) => &mut release.time,
        };
        *time = time.saturating_add(slept);
        self
    }
}

/// A socket that may have held a port was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRelease {
    /// When: nanoseconds since boot.
    pub time: u64,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// As [`Binding::release`].
    pub name: u64,
}

/// A record of the ring of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupChange {
    /// Whether it was made (else removed).
    pub made: bool,
    /// Cgroup id.
    pub id: u64,
    /// Id of its parent.
    pub parent: u64,
    /// Its name, or `None` if that is longer than a record holds or not UTF-8.
    pub name: Option<String>,
    /// Form of the pod UID that the programs read from the name, if they did.
    pub form: Option<UidForm>,
}

fn check_length(record: &[u8], expected: usize) -> Result<(), DecodeError> {
    let actual = record.len();
    if actual == expected { Ok(()) } else { Err(DecodeError::Length { expected, actual }) }
}

fn field<T>(field: &'static str, value: impl Into<u64> + Copy, decoded: Option<T>) -> Result<T, DecodeError> {
    decoded.ok_or(DecodeError::Field { field, value: value.into() })
}

/// Decodes a [`BindEvent`] or a [`ReleaseEvent`]. Its time is as the programs wrote it: see [`Bind::with_sleep`].
///
/// # Errors
///
/// If the record is not what the programs of this build write.
pub fn decode_bind(mut record: &[u8]) -> Result<SocketRecord, DecodeError> {
    if record.first() == Some(&(EventKind::Released as u8)) {
        return decode_release(record).map(SocketRecord::Released);
    }
    check_length(record, size_of::<BindEvent>())?;
    // In the order of the fields of `BindEvent`.
    let kind = record.get_u8();
    let family = record.get_u8();
    let protocol = record.get_u8();
    let flags = record.get_u8();
    let port = record.get_u16_ne();
    let verdict = record.get_u8();
    let reason = record.get_u8();
    let time = record.get_u64_ne();
    let cgroup = record.get_u64_ne();
    let pod_cgroup = record.get_u64_ne();
    let socket = record.get_u64_ne();
    let release = record.get_u64_ne();
    let holder = record.get_u64_ne();
    let caller = record.get_u32_ne();
    let owner = record.get_u32_ne();
    let pid = record.get_u32_ne();
    let uid = record.get_u32_ne();
    let mut address = [0; 16];
    record.copy_to_slice(&mut address);
    let mut command = [0; 16];
    record.copy_to_slice(&mut command);

    let [a, b, c, d, ..] = address;
    let address = match family {
        FAMILY_V4 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(address)),
        _ => return Err(DecodeError::Field { field: "family", value: family.into() }),
    };
    let protocol = field("protocol", protocol, Protocol::from_wire(protocol))?;
    let command = String::from_utf8_lossy(command.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let v6only = match flags {
        _ if flags & BIND_FLAG_V6ONLY_UNKNOWN != 0 => None,
        _ => Some(flags & BIND_FLAG_V6ONLY != 0),
    };
    let reuse = Reuse { port: flags & BIND_FLAG_REUSE_PORT != 0, address: flags & BIND_FLAG_REUSE_ADDR != 0 };
    let reuse = (flags & BIND_FLAG_REUSE_UNKNOWN == 0).then_some(reuse);
    match EventKind::from_wire(kind) {
        Some(EventKind::Attempt) => Ok(SocketRecord::Attempt(Attempt {
            time,
            protocol,
            address,
            port,
            v6only,
            verdict: field("verdict", verdict, VerdictKind::from_wire(verdict))?,
            reason: field("reason", reason, Reason::from_wire(reason))?,
            cgroup,
            pod_cgroup: (pod_cgroup != 0).then_some(pod_cgroup),
            socket,
            caller: (caller != 0).then_some(caller),
            owner: (owner != 0).then_some(owner),
            holder: (holder != 0).then_some(holder),
            held: flags & BIND_FLAG_HELD != 0,
            reuse,
            pid,
            uid,
            command,
        })),
        Some(EventKind::Bound) => Ok(SocketRecord::Bound(SocketBinding {
            time,
            protocol,
            address: address.to_canonical(),
            port,
            cookie: socket,
            release,
            cgroup,
            pid,
            uid,
            command,
            v6only,
            reuse,
        })),
        _ => Err(DecodeError::Field { field: "kind", value: kind.into() }),
    }
}

fn decode_release(mut record: &[u8]) -> Result<SocketRelease, DecodeError> {
    check_length(record, size_of::<ReleaseEvent>())?;
    // In the order of the fields of `ReleaseEvent`.
    let _kind = record.get_u8();
    let protocol = record.get_u8();
    let port = record.get_u16_ne();
    let _padding = record.get_u32_ne();
    let time = record.get_u64_ne();
    let name = record.get_u64_ne();
    Ok(SocketRelease { time, protocol: field("protocol", protocol, Protocol::from_wire(protocol))?, port, name })
}

/// Decodes a [`CgroupEvent`].
///
/// # Errors
///
/// If the record is not what the programs of this build write.
pub fn decode_cgroup(mut record: &[u8]) -> Result<CgroupChange, DecodeError> {
    check_length(record, size_of::<CgroupEvent>())?;
    // In the order of the fields of `CgroupEvent`.
    let kind = record.get_u8();
    let form = record.get_u8();
    let length = usize::from(record.get_u16_ne());
    let _padding = record.get_u32_ne();
    let id = record.get_u64_ne();
    let parent = record.get_u64_ne();
    let made = match EventKind::from_wire(kind) {
        Some(EventKind::CgroupMade) => true,
        Some(EventKind::CgroupRemoved) => false,
        _ => return Err(DecodeError::Field { field: "kind", value: kind.into() }),
    };
    let name = record.get(..length).ok_or(DecodeError::Field { field: "name length", value: length as u64 })?;
    let whole = length < NAME_CAPACITY - 1;
    let name = if whole { std::str::from_utf8(name).ok().map(str::to_owned) } else { None };
    Ok(CgroupChange { made, id, parent, name, form: UidForm::from_wire(form) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attempt() -> Vec<u8> {
        let mut record = Vec::new();
        let flags = BIND_FLAG_V6ONLY | BIND_FLAG_HELD | BIND_FLAG_REUSE_ADDR;
        record.extend([EventKind::Attempt as u8, FAMILY_V6, Protocol::Udp as u8, flags]);
        record.extend(53u16.to_ne_bytes());
        record.extend([VerdictKind::Deny as u8, Reason::Claimed as u8]);
        record.extend([1u64, 2, 3, 4, 9, 10].into_iter().flat_map(u64::to_ne_bytes));
        record.extend([5u32, 6, 7, 8].into_iter().flat_map(u32::to_ne_bytes));
        record.extend(Ipv6Addr::LOCALHOST.octets());
        record.extend(*b"named\0\0\0\0\0\0\0\0\0\0\0");
        record
    }

    #[test]
    fn every_field_is_where_the_programs_put_it() {
        let expected = Attempt {
            time: 1,
            protocol: Protocol::Udp,
            address: Ipv6Addr::LOCALHOST.into(),
            port: 53,
            v6only: Some(true),
            verdict: VerdictKind::Deny,
            reason: Reason::Claimed,
            cgroup: 2,
            pod_cgroup: Some(3),
            socket: 4,
            caller: Some(5),
            owner: Some(6),
            holder: Some(10),
            held: true,
            reuse: Some(Reuse { port: false, address: true }),
            pid: 7,
            uid: 8,
            command: "named".to_owned(),
        };
        assert_eq!(decode_bind(&attempt()), Ok(SocketRecord::Attempt(expected)));
        for (offset, size) in [
            (std::mem::offset_of!(BindEvent, port), 4),
            (std::mem::offset_of!(BindEvent, time), 8),
            (std::mem::offset_of!(BindEvent, release), 40),
            (std::mem::offset_of!(BindEvent, caller), 56),
            (std::mem::offset_of!(BindEvent, address), 72),
            (std::mem::offset_of!(BindEvent, command), 88),
        ] {
            assert_eq!(offset, size);
        }
    }

    fn release() -> Vec<u8> {
        let mut record = vec![EventKind::Released as u8, Protocol::Udp as u8];
        record.extend(53u16.to_ne_bytes());
        record.extend([0; 4]);
        record.extend([1u64, 7].into_iter().flat_map(u64::to_ne_bytes));
        record
    }

    #[test]
    fn a_release_record() {
        let expected = SocketRelease { time: 1, protocol: Protocol::Udp, port: 53, name: 7 };
        assert_eq!(decode_bind(&release()), Ok(SocketRecord::Released(expected)));
        assert_eq!(decode_bind(&release()[..23]), Err(DecodeError::Length { expected: 24, actual: 23 }));
        let mut record = release();
        record[1] = 99;
        assert_eq!(decode_bind(&record), Err(DecodeError::Field { field: "protocol", value: 99 }));
        for (offset, size) in [
            (std::mem::offset_of!(ReleaseEvent, port), 2),
            (std::mem::offset_of!(ReleaseEvent, time), 8),
            (std::mem::offset_of!(ReleaseEvent, release), 16),
        ] {
            assert_eq!(offset, size);
        }
    }

    #[test]
    fn sleep_is_added_to_every_kind() {
        let mut bound = attempt();
        bound[0] = EventKind::Bound as u8;
        for record in [attempt(), bound, release()] {
            let times = [0, 5, u64::MAX].map(|slept| match decode_bind(&record).unwrap().with_sleep(slept) {
                SocketRecord::Attempt(Attempt { time, .. })
                | SocketRecord::Bound(SocketBinding { time, .. })
                | SocketRecord::Released(SocketRelease { time, .. }) => time,
            });
            assert_eq!(times, [1, 6, u64::MAX], "{record:?}");
        }
    }

    #[test]
    fn a_cgroup_record() {
        let mut record = vec![EventKind::CgroupMade as u8, UidForm::Static as u8];
        record.extend(4u16.to_ne_bytes());
        record.extend([0; 4]);
        record.extend([10u64, 9].into_iter().flat_map(u64::to_ne_bytes));
        record.extend(*b"podx");
        record.resize(size_of::<CgroupEvent>(), 0);
        let expected =
            CgroupChange { made: true, id: 10, parent: 9, name: Some("podx".to_owned()), form: Some(UidForm::Static) };
        assert_eq!(decode_cgroup(&record), Ok(expected));
        record[2] = u8::try_from(NAME_CAPACITY - 1).unwrap();
        assert_eq!(decode_cgroup(&record).unwrap().name, None, "it may have been cut");
        record[3] = 1;
        assert!(matches!(decode_cgroup(&record), Err(DecodeError::Field { field: "name length", .. })));
    }

    #[test]
    fn wrong_records_are_refused() {
        assert_eq!(decode_bind(&[]), Err(DecodeError::Length { expected: 104, actual: 0 }));
        for (at, field) in [(0, "kind"), (1, "family"), (2, "protocol"), (6, "verdict"), (7, "reason")] {
            let mut record = attempt();
            record[at] = 99;
            assert_eq!(decode_bind(&record), Err(DecodeError::Field { field, value: 99 }), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_an_error_not_a_panic(record in prop::collection::vec(any::<u8>(), 0..260)) {
            let _ = decode_bind(&record);
            let _ = decode_cgroup(&record);
        }
    }
}
