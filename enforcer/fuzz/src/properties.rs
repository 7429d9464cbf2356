//! Properties that several targets assert of results.

use std::collections::HashSet;

use enforcer_core::{
    model::port_spec::{Address, PortSpec},
    pods::{
        annotation::MAX_PROBLEMS,
        claims::{ClaimLimits, PodClaims},
    },
};

/// Asserts that a text moves no cursor, starts no line of its own and turns no reading direction around.
///
/// Written down anew, not asked of the code that escapes.
///
/// # Panics
///
/// If it does.
pub fn assert_safe(text: &str) {
    let unsafe_ = text.chars().find(|&character| match character {
        ' ' => false,
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        character => character.is_control() || character.is_whitespace(),
    });
    assert_eq!(unsafe_, None, "in {text:?}");
}

/// Asserts that a spec has a canonical address and is parsed back from its text.
///
/// # Panics
///
/// If it is not.
pub fn assert_canonical(spec: &PortSpec) {
    assert!(spec.ports.first() != 0 && spec.ports.first() <= spec.ports.last(), "{spec:?}");
    if let Address::V6(address) = spec.address {
        assert_eq!(address.to_ipv4_mapped(), None, "{spec:?} is not canonical");
    }
    assert_eq!(spec.to_string().parse(), Ok(*spec), "{spec}");
}

/// Asserts what holds of the claims of every pod: the limits, and that every problem is safe to show.
///
/// # Panics
///
/// If it does not.
pub fn assert_bounded(claims: &PodClaims, limits: &ClaimLimits) {
    let ports: u64 = claims.claims.iter().map(|claim| u64::from(claim.spec.ports.len())).sum();
    assert!(ports <= u64::from(limits.max_ports_per_pod), "{ports} ports");
    let mut seen = HashSet::new();
    for claim in &claims.claims {
        assert_canonical(&claim.spec);
        assert!(seen.insert(claim.spec), "{} is there twice", claim.spec);
    }
    assert!(claims.problems.len() <= MAX_PROBLEMS);
    assert!(claims.more_problems == 0 || claims.problems.len() == MAX_PROBLEMS);
    for problem in &claims.problems {
        assert_safe(&problem.to_string());
    }
}
