//! The annotation `port-enforcer.io/ports`: every item of a text is read as if it stood alone, and nothing is widened.
#![no_main]

use enforcer_core::{
    model::{
        port_spec::{PortSpec, protocol_from_name},
        text::escape_bounded,
    },
    pods::annotation::{ItemProblemKind, MAX_ITEM, MAX_PROBLEMS, parse, parse_list},
};
use enforcer_ebpf::wire::Protocol;
use enforcer_fuzz::properties::{assert_canonical, assert_safe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| check(text));

fn is_separator(character: char) -> bool {
    matches!(character, ',' | ' ' | '\t' | '\n' | '\r' | '\u{c}')
}

fn check(text: &str) {
    let parsed = parse(text);
    assert_eq!(
        parse_list(text).map_err(|problem| problem.position),
        parsed.problems.first().map_or_else(|| Ok(parsed.specs.clone()), |first| Err(first.position)),
        "both readers agree"
    );

    let alone = text.split(is_separator).filter(|item| !item.is_empty()).collect::<Vec<_>>();
    if alone == ["none"] {
        assert!(parsed.specs.is_empty() && parsed.problems.is_empty());
        return;
    }
    let mut specs = parsed.specs.iter();
    let mut bad = 0;
    for item in alone {
        match item.parse::<PortSpec>() {
            Ok(spec) => {
                assert_eq!(specs.next(), Some(&spec), "'{item}' means the same whatever stands beside it");
                assert_same_numbers(item, &spec);
            }
            Err(kind) => {
                let kind = if item == "none" { ItemProblemKind::NoneWithOthers } else { kind };
                if let Some(problem) = parsed.problems.get(bad) {
                    assert_eq!((problem.kind, &problem.item), (kind, &escape_bounded(item, MAX_ITEM)));
                    assert!(text.chars().skip(problem.position - 1).collect::<String>().starts_with(item));
                    assert!(problem.item.chars().count() <= MAX_ITEM);
                    assert_safe(&problem.to_string());
                }
                bad += 1;
            }
        }
    }
    assert_eq!(specs.next(), None, "an item makes one spec");
    assert!(parsed.problems.len() <= MAX_PROBLEMS);
    assert_eq!(parsed.problems.len() + parsed.more_problems, bad, "every bad item counts once");

    let shown = parsed.specs.iter().map(PortSpec::to_string).collect::<Vec<_>>().join(", ");
    assert_eq!(parse(&shown).specs, parsed.specs, "what is shown is read back");
}

/// The numbers and the protocol of a spec are those that are written.
fn assert_same_numbers(item: &str, spec: &PortSpec) {
    assert_canonical(spec);
    assert!(spec.to_string().chars().count() <= MAX_ITEM);
    let (place, protocol) = item.split_once('/').map_or((item, Some(Protocol::Tcp)), |(place, name)| {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic()));
        (place, protocol_from_name(name))
    });
    assert_eq!(protocol, Some(spec.protocol));
    let ports = place.rsplit(':').next().unwrap_or(place);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    assert_eq!((first.parse(), last.parse()), (Ok(spec.ports.first()), Ok(spec.ports.last())), "{item}");
}
