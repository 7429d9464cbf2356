use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// The good items, as they are shown.
fn good(parsed: &Parsed) -> Vec<String> {
    parsed.specs.iter().map(ToString::to_string).collect()
}

/// The bad items.
fn bad(parsed: &Parsed) -> Vec<(usize, &str, ItemProblemKind)> {
    parsed.problems.iter().map(|problem| (problem.position, problem.item.as_str(), problem.kind)).collect()
}

#[test]
fn good_items() {
    for (item, shown) in [
        ("80", "80/tcp"),
        ("80/tcp", "80/tcp"),
        ("80/TCP", "80/tcp"),
        ("53/udp", "53/udp"),
        ("1/Sctp", "1/sctp"),
        ("65535", "65535/tcp"),
        ("0080", "80/tcp"),
        ("8000-8010/tcp", "8000-8010/tcp"),
        ("8000-8000", "8000/tcp"),
        ("1-65535", "1-65535/tcp"),
        ("127.0.0.1:9099/tcp", "127.0.0.1:9099/tcp"),
        ("010.0.0.1:9099", "10.0.0.1:9099/tcp"),
        ("0.0.0.0:80-81/udp", "0.0.0.0:80-81/udp"),
        ("[::1]:53/udp", "[::1]:53/udp"),
        ("[::]:80", "[::]:80/tcp"),
        ("[0:0::1]:80-81", "[::1]:80-81/tcp"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1:80/tcp"),
        (
            "[1111:2222:3333:4444:5555:6666:255.255.255.255]:10000-20000/sctp",
            "[1111:2222:3333:4444:5555:6666:ffff:ffff]:10000-20000/sctp",
        ),
    ] {
        assert_eq!(item.parse::<PortSpec>().map(|spec| spec.to_string()).as_deref(), Ok(shown), "{item}");
    }
}

#[test]
fn bad_items() {
    use ItemProblemKind::{
        BadAddress, Malformed, MissingBrackets, MissingPort, PortTooLarge, PortZero, ReversedRange, TooLong,
        UnknownProtocol, Zone,
    };
    for (item, kind) in [
        ("", Malformed),
        ("http", Malformed),
        ("+80", Malformed),
        ("-80", Malformed),
        ("80-", Malformed),
        ("80-81-82", Malformed),
        ("80–81", Malformed),
        ("0x50", Malformed),
        ("８０", Malformed),
        ("80 ", Malformed),
        ("None", Malformed),
        ("\u{1b}[2J", Malformed),
        ("127.0.0.1:http", Malformed),
        ("127.0.0.1:80:90", Malformed),
        ("[::1", Malformed),
        ("[::1]80", Malformed),
        ("[::1]:http", Malformed),
        ("[::1]::80", Malformed),
        ("a:b:80", Malformed),
        ("::1:http", Malformed),
        ("127.0.0.1", MissingPort),
        ("127.0.0.1:", MissingPort),
        ("127.0.0.1/tcp", MissingPort),
        ("[::1]", MissingPort),
        ("[::1]:/tcp", MissingPort),
        ("0", PortZero),
        ("0/udp", PortZero),
        ("0-80", PortZero),
        ("80-0", PortZero),
        ("000", PortZero),
        ("65536", PortTooLarge),
        ("80-65536", PortTooLarge),
        ("18446744073709551696", PortTooLarge),
        ("4294967376", PortTooLarge),
        ("81-80", ReversedRange),
        ("80/", UnknownProtocol),
        ("80/icmp", UnknownProtocol),
        ("80/tcp/udp", UnknownProtocol),
        ("10.0.0.0/8:80", UnknownProtocol),
        (":80", BadAddress),
        ("*:80", BadAddress),
        ("localhost:80", BadAddress),
        ("256.0.0.1:80", BadAddress),
        ("1.2.3:80", BadAddress),
        ("[]:80", BadAddress),
        ("[127.0.0.1]:80", BadAddress),
        ("[::x]:80", BadAddress),
        ("[::1%lo]:80", Zone),
        ("[fe80::1%eth0]:53/udp", Zone),
        ("127.0.0.1%lo:80", Zone),
        ("::1:53/udp", MissingBrackets),
        ("::1", MissingBrackets),
        ("::", MissingBrackets),
        (":::80", MissingBrackets),
        ("2001:db8::1:8000-8010/tcp", MissingBrackets),
        ("::ffff:192.0.2.1:80", MissingBrackets),
        ("fe80::1%eth0:80", MissingBrackets),
        ("00000000000000000000000000000000000000000000000000000000000000080", TooLong),
    ] {
        assert_eq!(item.parse::<PortSpec>(), Err(kind), "{item}");
    }
}

#[test]
fn the_longest_item_is_the_limit() {
    assert_eq!("[1111:2222:3333:4444:5555:6666:255.255.255.255]:10000-20000/sctp".len(), MAX_ITEM);
    assert_eq!("0".repeat(MAX_ITEM).parse::<PortSpec>(), Err(ItemProblemKind::PortZero));
}

#[test]
fn lists() {
    for (text, expected) in [
        ("", vec![]),
        (" ,\t\r\n,", vec![]),
        ("none", vec![]),
        ("\n none ,", vec![]),
        ("80,81", vec!["80/tcp", "81/tcp"]),
        ("80 81\n82\t,, 83,", vec!["80/tcp", "81/tcp", "82/tcp", "83/tcp"]),
        ("80,80-81,80", vec!["80/tcp", "80-81/tcp", "80/tcp"]),
    ] {
        let parsed = parse(text);
        assert_eq!(good(&parsed), expected, "{text:?}");
        assert_eq!(bad(&parsed), [], "{text:?}");
        assert_eq!(parse_list(text), Ok(parsed.specs), "{text:?}");
    }
}

#[test]
fn bad_items_leave_the_good_ones() {
    let parsed = parse("80,ä,http\n  0/udp 443");
    assert_eq!(good(&parsed), ["80/tcp", "443/tcp"]);
    assert_eq!(
        bad(&parsed),
        [
            (4, "ä", ItemProblemKind::Malformed),
            (6, "http", ItemProblemKind::Malformed),
            (13, "0/udp", ItemProblemKind::PortZero)
        ]
    );
    assert_eq!(parse_list("80,ä,http"), Err(parsed.problems[0].clone()));
}

#[test]
fn none_stands_alone() {
    let parsed = parse("80 none,none");
    assert_eq!(good(&parsed), ["80/tcp"]);
    assert_eq!(
        bad(&parsed),
        [(4, "none", ItemProblemKind::NoneWithOthers), (9, "none", ItemProblemKind::NoneWithOthers)]
    );
}

#[test]
fn bad_items_are_safe_to_show() {
    let parsed = parse(&format!("\u{1b}[31m {}", "x".repeat(1000)));
    assert_eq!(parsed.problems[0].item, r"\u{1b}[31m");
    assert_eq!(parsed.problems[1].kind, ItemProblemKind::TooLong);
    assert_eq!(parsed.problems[1].item, format!("{}…", "x".repeat(63)));
    assert_eq!(
        parse("80,::1:53").problems[0].to_string(),
        "item '::1:53' at character 4: an IPv6 address needs brackets, as in [::1]:53/udp"
    );
}

#[test]
fn a_huge_text_keeps_few_problems() {
    let parsed = parse(&"0,".repeat(128 * 1024));
    assert_eq!((parsed.specs.len(), parsed.problems.len(), parsed.more_problems), (0, 32, 128 * 1024 - 32));
    let parsed = parse(&"none ".repeat(52_428));
    assert_eq!((parsed.problems.len(), parsed.more_problems), (32, 52_428 - 32));
    let parsed = parse(&"9".repeat(256 * 1024));
    assert_eq!(bad(&parsed), [(1, format!("{}…", "9".repeat(63)).as_str(), ItemProblemKind::TooLong)]);
}

fn spec() -> impl Strategy<Value = PortSpec> {
    let address = prop_oneof![
        Just(Address::Any),
        Just(Address::V4([0; 4].into())),
        Just(Address::V6(0.into())),
        any::<IpAddr>().prop_map(Address::new),
        // As it ends like IPv4, it is shown in the mixed form.
        any::<u32>().prop_map(|low| Address::new(IpAddr::V6(u128::from(low).into()))),
    ];
    let ports = (1u16.., 1u16..).prop_map(|(one, other)| PortRange::new(one.min(other), one.max(other)).unwrap());
    let ports = prop_oneof![ports, (1u16..).prop_map(|port| PortRange::single(port).unwrap())];
    (prop::sample::select(&Protocol::ALL), address, ports).prop_map(|(protocol, address, ports)| PortSpec {
        protocol,
        address,
        ports,
    })
}

proptest! {
    #[test]
    fn any_text_is_read(text in any::<String>()) {
        let parsed = parse(&text);
        prop_assert_eq!(parse_list(&text).ok(), parsed.problems.is_empty().then_some(parsed.specs));
    }

    #[test]
    fn nearly_good_text_is_read(text in r"[0-9a-f:./%,\[\] \-none]{0,80}") {
        let parsed = parse(&text);
        for problem in &parsed.problems {
            let at: String = text.chars().skip(problem.position - 1).take(problem.item.len()).collect();
            prop_assert!(problem.item == at || problem.kind == ItemProblemKind::TooLong);
        }
        for spec in parsed.specs {
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_shown_is_read_back(spec in spec()) {
        prop_assert_eq!(spec.to_string().parse(), Ok(spec));
    }

    #[test]
    fn a_list_is_read_back(specs in prop::collection::vec(spec(), 0..20), separator in "[, \t\n]{1,3}") {
        let text = specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(&separator);
        prop_assert_eq!(parse_list(&text), Ok(specs));
    }
}
