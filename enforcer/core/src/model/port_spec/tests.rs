use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    if text == "*" { Address::Any } else { text.parse().unwrap() }
}

#[test]
fn overlap_of_addresses() {
    let all = ["*", "0.0.0.0", "192.0.2.1", "192.0.2.2", "::", "2001:db8::1", "2001:db8::2"];
    // Row and column in the order of `all`.
    let table = [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1, 0, 1],
    ];
    for (row, one) in table.iter().zip(all) {
        for (expected, other) in row.iter().zip(all) {
            assert_eq!(address(one).overlaps(address(other)), *expected == 1, "{one} and {other}");
        }
    }
}

#[test]
fn addresses_as_kubernetes_reads_them() {
    for (text, expected) in [
        ("0.0.0.0", "0.0.0.0"),
        ("010.0.0.1", "10.0.0.1"),
        ("00010.000.0.08", "10.0.0.8"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:C000:201", "192.0.2.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
        ("::ffff:010.0.0.1", "10.0.0.1"),
        ("::192.0.2.1", "::c000:201"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::", "::"),
    ] {
        let read: Address = text.parse().unwrap();
        assert_eq!(read.to_string(), expected, "{text}");
        assert_eq!(matches!(read, Address::V4(_)), expected.contains('.'), "{text}");
    }
    for text in [
        "",
        "*",
        "localhost",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "1.2.3.4294967297",
        "1.2.3.-4",
        "1.2.3.+4",
        "1.2..4",
        "0x7f.0.0.1",
        "1",
        ":",
        "1::2::3",
        "[::1]",
        "::1.2.3",
        "1.2.3.4:",
        "10.0.0.0/8",
        "１.2.3.4",
        " 1.2.3.4",
    ] {
        assert_eq!(text.parse::<Address>(), Err(AddressError::Malformed), "{text}");
    }
    assert_eq!("fe80::1%eth0".parse::<Address>(), Err(AddressError::Zone));
}

#[test]
fn every_address_is_a_star() {
    assert_eq!(format!("{:>3}", Address::Any), "  *");
}

#[test]
fn ranges() {
    assert_eq!(PortRange::new(0, 5), Err(PortRangeError::Zero));
    assert_eq!(PortRange::new(5, 0), Err(PortRangeError::Zero));
    assert_eq!(PortRange::new(5, 4), Err(PortRangeError::Reversed));
    let all = PortRange::new(1, 65535).unwrap();
    assert_eq!((all.len(), all.iter().count()), (65535, 65535));
    let some = PortRange::new(8000, 8010).unwrap();
    assert_eq!((some.first(), some.last(), some.len()), (8000, 8010, 11));
    assert_eq!(some.to_string(), "8000-8010");
    assert_eq!(PortRange::single(80).unwrap().to_string(), "80");
    for (port, inside) in [(7999, false), (8000, true), (8010, true), (8011, false)] {
        assert_eq!(some.contains(port), inside, "{port}");
        assert_eq!(some.overlaps(PortRange::single(port).unwrap()), inside, "{port}");
        assert_eq!(PortRange::single(port).unwrap().overlaps(some), inside, "{port}");
    }
}

#[test]
fn compressed_ports() {
    let shown = |ports: &[u16]| compress(ports.iter().copied()).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&[]), [""; 0]);
    assert_eq!(shown(&[0]), [""; 0]);
    assert_eq!(shown(&[443, 80, 81, 82, 80, 65535, 65535, 65534]), ["80-82", "443", "65534-65535"]);
}

#[test]
fn specs_in_the_grammar_of_the_annotation() {
    let spec = |protocol, address: &str, first, last| PortSpec {
        protocol,
        address: self::address(address),
        ports: PortRange::new(first, last).unwrap(),
    };
    for (spec, shown) in [
        (spec(Protocol::Tcp, "*", 80, 80), "80/tcp"),
        (spec(Protocol::Tcp, "127.0.0.1", 9099, 9099), "127.0.0.1:9099/tcp"),
        (spec(Protocol::Udp, "::1", 53, 53), "[::1]:53/udp"),
        (spec(Protocol::Sctp, "0.0.0.0", 8000, 8010), "0.0.0.0:8000-8010/sctp"),
    ] {
        assert_eq!(spec.to_string(), shown);
    }
}

#[test]
fn specs_overlap_in_everything_or_not_at_all() {
    let spec = |text: &str| text.parse::<PortSpec>().unwrap();
    let one = spec("192.0.2.1:80-90/tcp");
    for (other, expected) in
        [("90-99/tcp", true), ("0.0.0.0:85", true), ("85/udp", false), ("91/tcp", false), ("192.0.2.2:85/tcp", false)]
    {
        assert_eq!(one.overlaps(&spec(other)), expected, "{other}");
        assert_eq!(spec(other).overlaps(&one), expected, "{other}");
    }
}

proptest! {
    #[test]
    fn addresses_never_panic(text in any::<String>()) {
        let _ = text.parse::<Address>();
    }

    #[test]
    fn addresses_read_back(address in any::<IpAddr>()) {
        let address = Address::new(address);
        prop_assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn compressing_loses_and_adds_nothing(ports in prop::collection::btree_set(1u16.., 0..200)) {
        let ranges = compress(ports.iter().rev().copied());
        prop_assert!(ranges.windows(2).all(|pair| u32::from(pair[0].last) + 1 < u32::from(pair[1].first)));
        let back: Vec<u16> = ranges.into_iter().flatten().collect();
        prop_assert_eq!(back, ports.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn who_covers_whom() {
    let all = ["*", "0.0.0.0", "192.0.2.1", "::", "2001:db8::1"];
    let covered = [
        ("*", vec!["*", "0.0.0.0", "192.0.2.1", "::", "2001:db8::1"]),
        ("0.0.0.0", vec!["0.0.0.0", "192.0.2.1"]),
        ("192.0.2.1", vec!["192.0.2.1"]),
        ("::", vec!["*", "0.0.0.0", "192.0.2.1", "::", "2001:db8::1"]),
        ("2001:db8::1", vec!["2001:db8::1"]),
    ];
    for (one, expected) in covered {
        let found: Vec<&str> = all.into_iter().filter(|other| address(one).covers(address(other))).collect();
        assert_eq!(found, expected, "{one}");
    }
}
