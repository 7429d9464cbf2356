use enforcer_ebpf::wire::{Side, UidForm, UidKey};

use super::*;
use crate::{
    model::{digest::Digest, name::Name, owner::OwnerClass},
    plan::owner_record::RecordedOwner,
};

const TCP: Protocol = Protocol::Tcp;

fn whole(first: Slot) -> Side {
    Side { first, second: 0, whole: true }
}

fn some(first: Slot, second: Slot) -> Side {
    Side { first, second, whole: false }
}

const NOBODY: Side = Side { first: 0, second: 0, whole: false };

fn claims(ports: &[(u16, Side, Side)], exact: &[(AddressKey, Slot)]) -> Vec<(Slot, Vec<String>)> {
    let ports = ports.iter().map(|&(port, v4, v6)| (TCP, port, PortWord::new(v4, v6)));
    let mut claims: Vec<_> = in_force(ports, exact.iter().copied())
        .into_iter()
        .map(|(slot, specs)| (slot, specs.iter().map(ToString::to_string).collect()))
        .collect();
    claims.sort_unstable();
    claims
}

fn says(slot: Slot, specs: &[&str]) -> (Slot, Vec<String>) {
    (slot, specs.iter().map(|spec| (*spec).to_owned()).collect())
}

#[test]
fn words_are_read_as_claims() {
    let one = |v4, v6| claims(&[(80, v4, v6)], &[]);
    assert_eq!(one(NOBODY, NOBODY), []);
    assert_eq!(one(whole(3), whole(3)), [says(3, &["80/tcp"])]);
    assert_eq!(one(whole(3), NOBODY), [says(3, &["0.0.0.0:80/tcp"])]);
    assert_eq!(one(whole(3), whole(4)), [says(3, &["0.0.0.0:80/tcp"]), says(4, &["80/tcp"])], "a share group");
    let range = [(80, whole(3), whole(3)), (82, whole(3), whole(3)), (81, whole(3), whole(3)), (90, whole(3), NOBODY)];
    assert_eq!(claims(&range, &[]), [says(3, &["80-82/tcp", "0.0.0.0:90/tcp"])]);
}

#[test]
fn an_address_counts_where_the_word_sends_a_bind_to_it() {
    let v4 = |last| AddressKey::v4(TCP, 80, [10, 0, 0, last]);
    let v6 = AddressKey::v6(TCP, 80, Ipv6Addr::LOCALHOST.octets());
    let exact = [(v4(1), 3), (v4(2), 4), (v4(3), 5), (v6, 6)];
    assert_eq!(
        claims(&[(80, some(3, 4), whole(7))], &exact),
        [
            says(3, &["10.0.0.1:80/tcp"]),
            says(4, &["10.0.0.2:80/tcp"]),
            says(5, &["10.0.0.3:80/tcp"]),
            says(7, &["80/tcp"])
        ]
    );
    assert_eq!(
        claims(&[(80, whole(3), some(6, 0))], &exact),
        [says(3, &["0.0.0.0:80/tcp"]), says(6, &["[::1]:80/tcp"])]
    );
    assert_eq!(claims(&[(80, whole(3), NOBODY)], &exact), [says(3, &["0.0.0.0:80/tcp"])]);
    assert_eq!(claims(&[(81, some(3, 4), whole(7))], &exact), [says(7, &["81/tcp"])], "another port");
    assert_eq!(claims(&[(80, NOBODY, NOBODY)], &exact), []);
    let rubbish = AddressKey { family: 5, ..v4(1) };
    let more = AddressKey { protocol: 9, ..v4(1) };
    assert_eq!(claims(&[(80, some(3, 4), NOBODY)], &[(rubbish, 3), (more, 3)]), []);
}

fn record() -> OwnerRecord {
    OwnerRecord {
        subject: RecordedOwner::Pod {
            key: UidKey::new([1; 16], UidForm::Api),
            claims: Digest::default(),
            terminal: false,
            ended: false,
            mirror: false,
        },
        class: OwnerClass::Tenant,
        name: Name {
            namespace: "default".to_owned(),
            name: "a".to_owned(),
            uid: "u".to_owned(),
            mirror: None,
            handover: None,
            service: false,
        },
        group: None,
        workload: None,
        terminating: false,
        mode: None,
        since: 0,
    }
}

fn recalled(owners: &[(Slot, wire::Owner)], bytes: Option<&[u8]>) -> RecoveredState {
    let ports = [(TCP, 80, PortWord::new(whole(3), whole(3)))];
    recover(owners.iter().copied(), |slot| bytes.filter(|_| slot < 5), ports, [])
}

#[test]
fn an_owner_needs_a_record() {
    let id = OwnerId::new(9).unwrap();
    let element = wire::Owner::new(77, 9, 0, 2, 0, 0);
    let good = record().encode().unwrap().to_vec();
    let known = recalled(&[(3, element)], Some(&good));
    let claims = vec!["80/tcp".parse().unwrap()];
    assert_eq!(
        known.owners,
        [RecoveredOwner { id, cgroup: Some((CgroupId::new(77), 2)), record: record(), claims: claims.clone() }]
    );
    assert_eq!(known.unreadable, []);

    let missing = recalled(&[(3, element)], None);
    assert_eq!(missing.owners, []);
    assert_eq!(missing.unreadable, [UnreadableOwner { id, claims: claims.clone(), why: None }]);

    let mut bad = good.clone();
    bad[100] ^= 1;
    let damaged = recalled(&[(3, element)], Some(&bad));
    assert_eq!(damaged.unreadable, [UnreadableOwner { id, claims, why: Some(OwnerRecordError::Checksum) }]);

    assert_eq!(recalled(&[(5, element)], Some(&good)).unreadable, [], "nothing is lost with it");
    let free = recalled(&[(3, wire::Owner::default())], Some(&good));
    assert_eq!((free.owners, free.unreadable), (vec![], vec![]), "the agent died before it removed the record");
}

#[test]
fn a_cgroup_is_known_with_its_level() {
    let good = record().encode().unwrap().to_vec();
    for (cgroup, level, expected) in
        [(77, 2, Some((CgroupId::new(77), 2))), (CGROUP_UNKNOWN, 0, None), (0, 0, None), (77, 0, None), (0, 2, None)]
    {
        let element = wire::Owner::new(cgroup, 9, 0, level, 0, 0);
        assert_eq!(recalled(&[(3, element)], Some(&good)).owners[0].cgroup, expected, "{cgroup} {level}");
    }
    let deep = wire::Owner { level: 256, ..wire::Owner::new(77, 9, 0, 1, 0, 0) };
    assert_eq!(recalled(&[(3, deep)], Some(&good)).owners[0].cgroup, None);
}

#[test]
fn record_of_a_newer_agent_loses_its_own_owner_only() {
    let changed = |at: usize, value: u8| {
        let mut bytes = record().encode().unwrap();
        bytes[at] = value;
        let checksum = Digest::of_bytes(&bytes[..504]).short();
        bytes[504..].copy_from_slice(&checksum);
        bytes
    };
    // Their places: the version, the kind, the flags.
    let records = [record().encode().unwrap(), changed(0, 2), changed(2, 9), changed(5, 0x40)];
    let owners = (1..5).map(|slot| (slot, wire::Owner::new(CGROUP_UNKNOWN, u32::from(slot), 0, 0, 0, 0)));
    let ports = (1..5).map(|slot| (TCP, 80 + slot, PortWord::new(whole(slot), whole(slot))));
    let state = recover(owners, |slot| records.get(usize::from(slot) - 1).map(|bytes| bytes.to_vec()), ports, []);
    let kept: Vec<_> = state.owners.iter().map(|owner| (owner.id.get(), owner.claims.len())).collect();
    assert_eq!(kept, [(1, 1)]);
    let lost: Vec<_> = state.unreadable.iter().map(|owner| (owner.id.get(), owner.why, owner.claims.len())).collect();
    assert_eq!(
        lost,
        [
            (2, Some(OwnerRecordError::Version(2)), 1),
            (3, Some(OwnerRecordError::Field("kind")), 1),
            (4, Some(OwnerRecordError::Field("flags")), 1)
        ]
    );
}
