use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = Name> {
    ("[a-z0-9-]{0,63}", "[a-z0-9.-]{0,253}", "[a-f0-9-]{0,36}").prop_map(|(namespace, name, uid)| Name {
        namespace,
        name,
        uid,
        mirror: None,
        handover: None,
        service: false,
    })
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 16]>().prop_map(Digest)
}

fn subject() -> impl Strategy<Value = RecordedOwner> {
    let form = prop_oneof![Just(UidForm::Api), Just(UidForm::Static)];
    prop_oneof![
        Just(RecordedOwner::Node),
        (any::<[u8; 16]>(), form, digest(), any::<[bool; 3]>()).prop_map(|(uid, form, claims, bits)| {
            RecordedOwner::Pod {
                key: UidKey::new(uid, form),
                claims,
                terminal: bits[0],
                ended: bits[1],
                mirror: bits[2],
            }
        }),
        any::<u64>().prop_map(|nanos| RecordedOwner::HandoverReservation { until: Duration::from_nanos(nanos) }),
    ]
}

prop_compose! {
    pub(crate) fn record()(
        subject in subject(),
        class in prop_oneof![Just(OwnerClass::Node), Just(OwnerClass::Static), Just(OwnerClass::System), Just(OwnerClass::Tenant)],
        name in name(),
        group in prop::option::of(digest()),
        workload in prop::option::of(digest()),
        terminating in any::<bool>(),
        mode in prop_oneof![Just(None), Just(Some(Mode::Audit)), Just(Some(Mode::Enforce))],
        since in any::<i64>(),
        controller in prop::option::of(("[A-Z][A-Za-z]{0,20}", "[a-z0-9.-]{1,40}")),
    ) -> OwnerRecord {
        let mut name = Name { mirror: subject.mirrored(), ..name };
        if let (OwnerKind::HandoverReservation, Some(controller)) = (subject.kind(), controller) {
            name.handover = Some(Box::new(Handover { workload: Some(controller), until: 0 }));
            name.uid.clear();
        }
        OwnerRecord { subject, class, name, group, workload, terminating, mode, since }
    }
}

#[test]
fn a_workload_that_does_not_fit_is_left_out() {
    let workload =
        |length| Some(Box::new(Handover { workload: Some(("DaemonSet".to_owned(), "x".repeat(length))), until: 0 }));
    let reservation = |length| OwnerRecord {
        subject: RecordedOwner::HandoverReservation { until: Duration::from_secs(9) },
        name: Name { handover: workload(length), ..pod().name },
        ..pod()
    };
    let read =
        |length| OwnerRecord::decode(&reservation(length).encode().expect("it fits")[..]).expect("it is read").name;
    assert_eq!(read(253).handover, workload(253));
    let left_out = read(400);
    assert_eq!((left_out.handover, left_out.uid), (None, pod().name.uid));
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in record()) {
        let bytes = record.encode().expect("names as Kubernetes allows them fit");
        prop_assert_eq!(OwnerRecord::decode(&bytes[..]), Ok(record));
    }

    #[test]
    fn a_changed_bit_is_seen(record in record(), bit in 0..OWNER_RECORD_BYTES * 8) {
        let mut bytes = record.encode().expect("names as Kubernetes allows them fit");
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(OwnerRecord::decode(&bytes[..]).is_err());
    }

    #[test]
    fn rubbish_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..2 * OWNER_RECORD_BYTES)) {
        prop_assert!(OwnerRecord::decode(&bytes).is_err());
    }

    /// Behind a right version and checksum, where all fields are looked at.
    #[test]
    fn sealed_rubbish_is_refused_or_read_as_it_is(fields in prop::collection::vec(any::<u8>(), CHECKSUM), near in any::<bool>()) {
        let mut bytes = [0; OWNER_RECORD_BYTES];
        bytes[..CHECKSUM].copy_from_slice(&fields);
        if near {
            // Small values, so that more of them make sense.
            bytes[2..8].iter_mut().for_each(|byte| *byte &= 3);
            bytes[88..].iter_mut().for_each(|byte| *byte &= 1);
        }
        seal(&mut bytes);
        if let Ok(record) = OwnerRecord::decode(&bytes) {
            let again = record.encode().expect("it was read");
            prop_assert_eq!(&again[..], &bytes[..]);
        }
    }
}

fn seal(bytes: &mut [u8; OWNER_RECORD_BYTES]) {
    bytes[..2].copy_from_slice(&VERSION.to_le_bytes());
    add_checksum(bytes);
}

fn add_checksum(bytes: &mut [u8; OWNER_RECORD_BYTES]) {
    let checksum = Digest::of_bytes(&bytes[..CHECKSUM]).short();
    bytes[CHECKSUM..].copy_from_slice(&checksum);
}

fn pod() -> OwnerRecord {
    OwnerRecord {
        subject: RecordedOwner::Pod {
            key: UidKey::new(*b"0123456789abcdef", UidForm::Api),
            claims: Digest([7; 16]),
            terminal: false,
            ended: true,
            mirror: false,
        },
        class: OwnerClass::Tenant,
        name: Name {
            namespace: "default".to_owned(),
            name: "web-0".to_owned(),
            uid: "u".to_owned(),
            mirror: None,
            handover: None,
            service: false,
        },
        group: None,
        workload: Some(Digest([9; 16])),
        terminating: true,
        mode: Some(Mode::Enforce),
        since: 0x0102_0304,
    }
}

#[test]
fn the_bytes_are_as_documented() {
    let bytes = pod().encode().unwrap();
    assert_eq!(bytes[..16], [1, 0, 2, 4, 2, 0b10_0101, 1, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
    assert_eq!(bytes[16..24], [0; 8]);
    assert_eq!(&bytes[24..40], b"0123456789abcdef");
    assert_eq!(bytes[40..56], [7; 16]);
    assert_eq!(bytes[56..72], [0; 16]);
    assert_eq!(bytes[72..88], [9; 16]);
    assert_eq!(bytes[88..94], [7, 0, 5, 0, 1, 0]);
    assert_eq!(&bytes[94..108], b"defaultweb-0u\0");
}

#[test]
fn a_name_that_does_not_fit_is_not_written() {
    let long = |length| OwnerRecord { name: Name { name: "x".repeat(length), ..pod().name }, ..pod() };
    assert!(long(402).encode().is_some());
    assert_eq!(long(403).encode(), None);
    assert_eq!(long(70_000).encode(), None);
}

#[test]
fn what_is_wrong_is_said() {
    let sealed = |at: usize, byte: u8| {
        let mut bytes = *pod().encode().unwrap();
        bytes[at] = byte;
        add_checksum(&mut bytes);
        OwnerRecord::decode(&bytes)
    };
    assert_eq!(OwnerRecord::decode(&[0; OWNER_RECORD_BYTES]), Err(OwnerRecordError::Version(0)));
    assert_eq!(OwnerRecord::decode(&[1, 0, 2]), Err(OwnerRecordError::Field("length")));
    assert_eq!(
        OwnerRecord::decode(&pod().encode().unwrap()[..OWNER_RECORD_BYTES - 1]),
        Err(OwnerRecordError::Field("length"))
    );
    assert_eq!(sealed(0, 2), Err(OwnerRecordError::Version(2)));
    assert_eq!(sealed(5, 0b1010_0101), Err(OwnerRecordError::Field("flags")));
    assert_eq!(sealed(2, 9), Err(OwnerRecordError::Field("kind")));
    assert_eq!(sealed(3, 0), Err(OwnerRecordError::Field("class")));
    assert_eq!(sealed(4, 3), Err(OwnerRecordError::Field("mode")));
    assert_eq!(sealed(6, 0), Err(OwnerRecordError::Field("UID")));
    assert_eq!(sealed(7, 1), Err(OwnerRecordError::Field("form")));
    assert_eq!(sealed(89, 2), Err(OwnerRecordError::Field("name")));
    assert_eq!(sealed(94, 0xff), Err(OwnerRecordError::Field("name")));
    assert_eq!(sealed(200, 1), Err(OwnerRecordError::Field("form")), "text that no length covers");
    assert!(sealed(95, b'x').is_ok(), "the test can tell what is right");
}

/// Records as the first released code wrote them, without the zeros between the text and the checksum.
const WRITTEN_BY_VERSION_1: [(&str, &str); 2] = [
    (
        "01000202011a0200feffffffffffffff000000000000000030313233343536373839616263646566\
         0707070707070707070707070707070703030303030303030303030303030303\
         00000000000000000000000000000000\
         0b000c0020006b7562652d73797374656d6b7562652d70726f78792d78\
         3031323334353637383961626364656630313233343536373839616263646566",
        "e1a6064069d7f3a3",
    ),
    (
        "0100030300210000ffffffffffffff7f887766554433221100000000000000000000000000000000\
         0000000000000000000000000000000000000000000000000000000000000000\
         09090909090909090909090909090909\
         0b000c0020006b7562652d73797374656d6b7562652d70726f78792d78\
         3031323334353637383961626364656630313233343536373839616263646566",
        "3eb89fad9511cdfe",
    ),
];

#[test]
fn record_of_version_1_decodes_to_the_same_owner_for_ever() {
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let [static_pod, reservation] = WRITTEN_BY_VERSION_1.map(|(fields, checksum)| {
        let mut bytes = unhex(fields);
        bytes.resize(504, 0);
        bytes.extend(unhex(checksum));
        OwnerRecord::decode(&bytes).unwrap()
    });
    let name = Name {
        namespace: "kube-system".to_owned(),
        name: "kube-proxy-x".to_owned(),
        uid: "0123456789abcdef0123456789abcdef".to_owned(),
        mirror: None,
        handover: None,
        service: false,
    };
    let expected = OwnerRecord {
        subject: RecordedOwner::Pod {
            key: UidKey::new(*b"0123456789abcdef", UidForm::Static),
            claims: Digest([7; 16]),
            terminal: true,
            ended: false,
            mirror: true,
        },
        class: OwnerClass::Static,
        name: Name { mirror: Some("30313233343536373839616263646566".to_owned()), ..name.clone() },
        group: Some(Digest([3; 16])),
        workload: None,
        terminating: false,
        mode: Some(Mode::Audit),
        since: -2,
    };
    assert_eq!(static_pod, expected);
    let expected = OwnerRecord {
        subject: RecordedOwner::HandoverReservation { until: Duration::from_nanos(0x1122_3344_5566_7788) },
        class: OwnerClass::System,
        name,
        group: None,
        workload: Some(Digest([9; 16])),
        terminating: true,
        mode: None,
        since: i64::MAX,
    };
    assert_eq!(reservation, expected);
}
