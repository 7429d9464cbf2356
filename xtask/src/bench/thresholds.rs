//! Thresholds that the measurements must not exceed.

use serde::Serialize;

use super::Measurements;

/// A threshold, compared with the measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ThresholdResult {
    pub(super) name: &'static str,
    /// `None` if it was skipped, as the limit.
    pub(super) value: Option<f64>,
    pub(super) limit: Option<f64>,
    pub(super) verdict: Verdict,
}

/// What came of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// The value is at most the limit.
    Ok,
    Exceeded,
    /// Its part was measured and its value was not, for this reason.
    Skipped(&'static str),
}

/// A name, measurements of which each must be at most the limit, and the limit.
type Threshold = (&'static str, &'static [&'static str], Limit);

/// Greatest value that a measurement may have.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Fixed(f64),
    /// Nanoseconds, by the time of an empty program at the bind hook of the same machine and run.
    ByEmptyProgram(LimitByEmptyProgram),
}

/// Limit that depends on the processor: where it has mitigations that make each call of a helper dear, an empty program
/// takes longer by about as much as one of ours does.
///
/// Up to [`Self::FAST_EMPTY_NS`] it is `fast`, from [`Self::SLOW_EMPTY_NS`] on it is `slow`, and linear between.
#[derive(Clone, Copy, Debug)]
struct LimitByEmptyProgram {
    fast: f64,
    slow: f64,
}

impl LimitByEmptyProgram {
    const MEASUREMENT: &'static str = "hook/empty/bind";
    const FAST_EMPTY_NS: f64 = 33.0;
    const SLOW_EMPTY_NS: f64 = 60.0;

    fn at(self, empty_ns: f64) -> f64 {
        let Self { fast, slow } = self;
        let part = (empty_ns - Self::FAST_EMPTY_NS) / (Self::SLOW_EMPTY_NS - Self::FAST_EMPTY_NS);
        fast + (slow - fast) * part.clamp(0.0, 1.0)
    }
}

impl Limit {
    /// Returns the limit on the machine of these measurements; `None` if what it depends on was not measured.
    fn value(self, measurements: &Measurements) -> Option<f64> {
        match self {
            Self::Fixed(limit) => Some(limit),
            Self::ByEmptyProgram(limit) => {
                measurements.get(LimitByEmptyProgram::MEASUREMENT).map(|empty| limit.at(empty.median))
            }
        }
    }
}

const fn fixed(limit: f64) -> Limit {
    Limit::Fixed(limit)
}

const fn by_empty_program(fast: f64, slow: f64) -> Limit {
    Limit::ByEmptyProgram(LimitByEmptyProgram { fast, slow })
}

const THRESHOLDS: [Threshold; 29] = [
    (
        "unclaimed port: kernel time above empty programs, socket to close (ns)",
        &["hook/unclaimed/net"],
        by_empty_program(130.0, 250.0),
    ),
    (
        "owned port: kernel time above empty programs, socket to close (ns)",
        &["hook/owned/net"],
        by_empty_program(160.0, 310.0),
    ),
    ("bind on an unclaimed port ÷ its twin in C", &["hook/unclaimed/bind ÷ twin-unclaimed"], fixed(1.1)),
    ("bind on an owned port ÷ its twin in C", &["hook/owned/bind ÷ twin-owned"], fixed(1.1)),
    ("bind on a denied port, event rate-limited ÷ its twin in C", &["hook/denied/bind ÷ twin-denied"], fixed(1.1)),
    ("bind denied and reported, agent asleep on another processor (ns)", &["hook/denied-paced/bind"], fixed(800.0)),
    ("bind on an unclaimed port ÷ empty program", &["hook/unclaimed/bind ÷ empty"], fixed(1.3)),
    ("bind on an owned port ÷ empty program", &["hook/owned/bind ÷ empty-owned"], fixed(2.2)),
    ("bind on a denied port, event rate-limited ÷ empty program", &["hook/denied/bind ÷ empty-again"], fixed(2.5)),
    (
        "bind at 65,535 claims ÷ at 1 claim",
        &["hook/owned-65535-claims/bind ÷ owned-1-claim", "hook/denied-65535-claims/bind ÷ denied"],
        fixed(1.15),
    ),
    (
        "bind at 1,000 pods ÷ at 1 pod",
        &[
            "hook/unclaimed-1000-pods/bind ÷ unclaimed-1-pod",
            "hook/owned-1000-pods/bind ÷ owned-1-claim",
            "hook/denied-1000-pods/bind ÷ denied",
        ],
        fixed(1.15),
    ),
    ("bind on an unclaimed port ÷ list of 128 rules", &["hook/unclaimed/bind ÷ rules-128"], fixed(0.2)),
    ("release of an unbound socket above the empty program (ns)", &["hook/unbound/net"], fixed(20.0)),
    ("socket, bind, close on an unclaimed port ÷ with empty programs", &["hook/unclaimed/cycle ÷ empty"], fixed(1.1)),
    ("socket, adopting bind, close ÷ with empty programs", &["hook/adopted/cycle ÷ empty-reuse"], fixed(1.12)),
    ("pod change to enforced, 110 pods, p99 (ms)", &["claim-latency/api-110-pods/p99"], fixed(1.5)),
    ("rebuild of the state with 5,000 pods (ms)", &["claim-latency/rebuild-5000-pods"], fixed(250.0)),
    ("CPU time of the agent's start, 5,000 pods (ms)", &["footprint/api-5000-pods/start-agent"], fixed(500.0)),
    (
        "peak RSS at the start, up to 110 pods (MiB)",
        &[
            "footprint/api-0-pods/peak",
            "footprint/api-110-pods/peak",
            "footprint/folder-0-pods/peak",
            "footprint/folder-110-pods/peak",
        ],
        fixed(24.0),
    ),
    ("RSS at 110 pods (MiB)", &["footprint/api-110-pods/rss", "footprint/folder-110-pods/rss"], fixed(15.0)),
    ("RSS at 5,000 pods (MiB)", &["footprint/api-5000-pods/rss", "footprint/folder-5000-pods/rss"], fixed(40.0)),
    ("RSS added by 5,000 Services (MiB)", &["services/5000-services/added-rss"], fixed(16.0)),
    ("idle CPU (% of a core)", &["footprint/api-110-pods/idle-cpu", "footprint/folder-110-pods/idle-cpu"], fixed(0.1)),
    ("static binary, stripped (MiB)", &["footprint/binary"], fixed(10.0)),
    ("denial storm: binds miscounted", &["denial-storm/uncounted"], fixed(0.0)),
    ("denial storm: binds let through", &["denial-storm/let-through"], fixed(0.0)),
    ("denial storm: records neither read nor counted as lost", &["denial-storm/unread"], fixed(0.0)),
    ("denial storm: agents that died", &["denial-storm/dead"], fixed(0.0)),
    ("instructions of the agent's work ÷ baseline", &["instructions/worst ÷ baseline"], fixed(1.1)),
];

/// Compares the worst of a threshold's measurements with its limit. Leaves out thresholds whose part was not measured;
/// where only their own measurements are missing, they are skipped by name.
pub(super) fn check(measurements: &Measurements) -> Vec<ThresholdResult> {
    THRESHOLDS.iter().filter_map(|threshold| check_one(threshold, measurements)).collect()
}

fn check_one(&(name, names, limit): &Threshold, measurements: &Measurements) -> Option<ThresholdResult> {
    let values: Option<Vec<f64>> = names.iter().map(|name| measurements.get(*name).map(|it| it.median)).collect();
    if let (Some(values), Some(limit)) = (values, limit.value(measurements)) {
        let value = values.into_iter().fold(f64::MIN, f64::max);
        let verdict = if value <= limit { Verdict::Ok } else { Verdict::Exceeded };
        return Some(ThresholdResult { name, value: Some(value), limit: Some(limit), verdict });
    }
    let (part, _) = names[0].split_once('/')?;
    let is_measured = measurements.keys().any(|name| name.strip_prefix(part).is_some_and(|rest| rest.starts_with('/')));
    let reason = if names[0].contains("twin-") { "no clang" } else { "not measured" };
    is_measured.then_some(ThresholdResult { name, value: None, limit: None, verdict: Verdict::Skipped(reason) })
}

#[cfg(test)]
mod tests {
    use super::super::Measurement;
    use super::*;

    fn measurements(values: &[(&str, f64)]) -> Measurements {
        let single = |&(name, value): &(&str, f64)| (name.to_owned(), Measurement::single(name, "", value));
        values.iter().map(single).collect()
    }

    /// Returns the results that were not skipped.
    fn judged(measurements: &Measurements) -> Vec<(Option<f64>, Verdict)> {
        let results = check(measurements).into_iter().filter(|result| !matches!(result.verdict, Verdict::Skipped(_)));
        results.map(|result| (result.value, result.verdict)).collect()
    }

    #[test]
    fn worst_measurement_counts_and_the_limit_itself_is_ok() {
        let all = measurements(&[
            ("footprint/api-110-pods/rss", 14.0),
            ("footprint/folder-110-pods/rss", 15.5),
            ("footprint/binary", 10.0),
            ("footprint/api-5000-pods/rss", 1.0),
        ]);
        assert_eq!(judged(&all), [(Some(15.5), Verdict::Exceeded), (Some(10.0), Verdict::Ok)]);
    }

    #[test]
    fn limit_follows_the_empty_program() {
        let limit = LimitByEmptyProgram { fast: 130.0, slow: 250.0 };
        let at = [20.0, 33.0, 46.5, 60.0, 80.0].map(|empty| super::super::round(limit.at(empty)));
        assert_eq!(at, ["130", "130", "190", "250", "250"]);

        for (empty, verdict) in [(33.0, Verdict::Exceeded), (60.0, Verdict::Ok)] {
            let all = measurements(&[("hook/empty/bind", empty), ("hook/unclaimed/net", 200.0)]);
            assert_eq!(judged(&all), [(Some(200.0), verdict)], "{empty}");
        }
        assert_eq!(judged(&measurements(&[("hook/unclaimed/net", 200.0)])), [], "no limit without an empty program");
    }

    #[test]
    fn missing_twin_is_a_named_skip_and_no_pass() {
        let twins = |all: &Measurements| -> Vec<Verdict> {
            let results = check(all).into_iter().filter(|result| result.name.ends_with("its twin in C"));
            results.map(|result| result.verdict).collect()
        };
        assert_eq!(twins(&measurements(&[("hook/empty/bind", 33.0)])), [Verdict::Skipped("no clang"); 3]);
        assert_eq!(twins(&measurements(&[("footprint/binary", 9.0)])), [], "another part was measured");
    }
}
