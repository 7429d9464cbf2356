//! Fingerprints: what a finding is called from one run to the next.
//!
//! A fingerprint says which fault of which objects it is. Lines, the order of the input and other findings have no part in
//! it, and neither have severity and message: they may change while the fault stays.

use std::{cmp::Reverse, collections::HashMap, fmt, str::FromStr};

use super::finding::{Code, Finding};
use crate::model::digest::Digest;

/// Version of the rules by which fingerprints are made. Another one makes other fingerprints of all findings.
const VERSION: &str = "1";

/// Name of a finding that stays the same from one run to the next.
///
/// Findings that nothing sets apart, such as those of two copies of one object, are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    digest: Digest,
    /// Place among the findings with this digest, counted from 1.
    number: u32,
}

/// 32 hexadecimal digits, a colon and the number.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, number } = self;
        write!(f, "{digest:?}:{number}")
    }
}

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has 32 hexadecimal digits, a colon and a number")]
pub struct NoFingerprint;

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digest, number) = text.split_once(':').ok_or(NoFingerprint)?;
        let is_hex = digest.len() == 32 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let digest = u128::from_str_radix(digest, 16).ok().filter(|_| is_hex).ok_or(NoFingerprint)?;
        let is_number = !number.starts_with(['0', '+']);
        let number = number.parse().ok().filter(|_| is_number).ok_or(NoFingerprint)?;
        Ok(Self { digest: Digest(digest.to_be_bytes()), number })
    }
}

/// Returns the fingerprints of findings, in their order. `file_name` makes the name of a file the same wherever the check
/// runs; it counts for findings without an object.
#[must_use]
pub fn fingerprints(findings: &[Finding], file_name: impl Fn(&str) -> String) -> Vec<Fingerprint> {
    let digests: Vec<Digest> = findings.iter().map(|finding| digest(finding, &file_name)).collect();
    // Of those with one digest, the worst one is the first, wherever it stands.
    let mut order: Vec<usize> = (0..findings.len()).collect();
    order.sort_by_key(|&place| {
        let Finding { severity, nodes_needed, .. } = &findings[place];
        (digests[place], *severity, Reverse(*nodes_needed))
    });
    let mut numbers: HashMap<Digest, u32> = HashMap::new();
    let mut fingerprints: Vec<Fingerprint> =
        digests.into_iter().map(|digest| Fingerprint { digest, number: 0 }).collect();
    for place in order {
        let fingerprint = &mut fingerprints[place];
        let number = numbers.entry(fingerprint.digest).or_default();
        *number = number.saturating_add(1);
        fingerprint.number = *number;
    }
    fingerprints
}

fn digest(finding: &Finding, file_name: impl Fn(&str) -> String) -> Digest {
    let Finding { code, place, object, other, ports, subject, .. } = finding;
    // Which of two objects has the finding depends on the order of the input.
    let mut names: Vec<[&str; 3]> = [object, other]
        .into_iter()
        .flatten()
        .map(|named| [&*named.kind, named.namespace.as_str(), named.name.as_str()])
        .collect();
    names.sort_unstable();
    let of_file = object.is_none() && !matches!(code, Code::OtherKind | Code::Incomplete);
    let file = if of_file { file_name(&place.file) } else { String::new() };
    let subject = match subject {
        Some(subject) => *subject,
        None => Digest::of("ports of a finding", ports.iter().map(String::as_str)),
    };
    let (count, subject) = (names.len().to_string(), format!("{subject:?}"));
    let texts = [VERSION, code.as_str(), &file, &subject, &count];
    Digest::of("finding", texts.into_iter().chain(names.into_iter().flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_read_back() {
        let fingerprint = Fingerprint { digest: Digest::of("x", ["y"]), number: 12 };
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        let digits = "0123456789abcdef".repeat(2);
        assert!(format!("{digits}:1").parse::<Fingerprint>().is_ok());
        for wrong in ["", ":1", &digits, &format!("{digits}:0"), &format!("{digits}:x"), &format!("{digits}0:1")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
        for wrong in [format!("{}:1", digits.to_uppercase()), format!("+{}:1", &digits[1..]), format!("{digits}:+1")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
    }
}
