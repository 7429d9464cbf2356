//! Thresholds that the measurements must not exceed.

use serde::Serialize;

use super::Measurements;

/// A threshold, compared with the measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ThresholdResult {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) limit: f64,
    /// The value is at most the limit.
    pub(super) ok: bool,
}

/// A name, measurements of which each must be at most the limit, and the limit.
type Threshold = (&'static str, &'static [&'static str], f64);

const THRESHOLDS: [Threshold; 21] = [
    ("bind on an unclaimed port ÷ empty program", &["hook/unclaimed/bind ÷ empty-refused"], 1.3),
    ("bind on an owned port ÷ empty program", &["hook/owned/bind ÷ empty"], 2.2),
    ("bind on a denied port, event rate-limited ÷ empty program", &["hook/denied/bind ÷ empty"], 2.5),
    (
        "bind at 65,535 claims ÷ at 1 claim",
        &["hook/owned-65535-claims/bind ÷ owned", "hook/denied-65535-claims/bind ÷ denied"],
        1.15,
    ),
    (
        "bind at 1,000 pods ÷ at 1 pod",
        &[
            "hook/unclaimed-1000-pods/bind ÷ unclaimed-1-pod",
            "hook/owned-1000-pods/bind ÷ owned",
            "hook/denied-1000-pods/bind ÷ denied",
        ],
        1.15,
    ),
    ("bind on an unclaimed port ÷ list of 128 rules", &["hook/unclaimed/bind ÷ rules-128"], 0.2),
    ("release with nothing held ÷ empty program", &["hook/unbound/release ÷ empty-unbound"], 1.6),
    ("socket, bind, close on an unclaimed port ÷ with empty programs", &["hook/bound/cycle ÷ empty"], 1.1),
    ("socket, adopting bind, close ÷ with a plain bind", &["hook/adopted/cycle ÷ bound"], 2.0),
    ("pod change to enforced, 110 pods, p99 (ms)", &["claim-latency/api-110-pods/p99"], 5.0),
    ("rebuild of the state with 5,000 pods (ms)", &["claim-latency/rebuild-5000-pods"], 250.0),
    ("RSS at 110 pods (MiB)", &["footprint/api-110-pods/rss", "footprint/folder-110-pods/rss"], 15.0),
    ("RSS at 5,000 pods (MiB)", &["footprint/api-5000-pods/rss", "footprint/folder-5000-pods/rss"], 40.0),
    ("RSS added by 5,000 Services (MiB)", &["services/5000-services/added-rss"], 16.0),
    ("idle CPU (% of a core)", &["footprint/api-110-pods/idle-cpu", "footprint/folder-110-pods/idle-cpu"], 0.1),
    ("static binary, stripped (MiB)", &["footprint/binary"], 10.0),
    ("denial storm: binds miscounted", &["denial-storm/uncounted"], 0.0),
    ("denial storm: binds let through", &["denial-storm/let-through"], 0.0),
    ("denial storm: records neither read nor counted as lost", &["denial-storm/unread"], 0.0),
    ("denial storm: agents that died", &["denial-storm/dead"], 0.0),
    ("instructions of the agent's work ÷ baseline", &["instructions/worst ÷ baseline"], 1.1),
];

/// Compares the worst of a threshold's measurements with its limit. Leaves out thresholds whose measurements are missing.
pub(super) fn check(measurements: &Measurements) -> Vec<ThresholdResult> {
    let results = THRESHOLDS.iter().filter_map(|&(name, names, limit)| {
        let values: Option<Vec<f64>> = names.iter().map(|name| measurements.get(*name).map(|it| it.median)).collect();
        let value = values?.into_iter().fold(f64::MIN, f64::max);
        Some(ThresholdResult { name, value, limit, ok: value <= limit })
    });
    results.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Measurement;
    use super::*;

    fn measurements(values: &[(&str, f64)]) -> Measurements {
        let single = |&(name, value): &(&str, f64)| (name.to_owned(), Measurement::single(name, "", value));
        values.iter().map(single).collect()
    }

    #[test]
    fn worst_measurement_counts_and_the_limit_itself_is_ok() {
        let all = measurements(&[
            ("footprint/api-110-pods/rss", 14.0),
            ("footprint/folder-110-pods/rss", 15.5),
            ("footprint/binary", 10.0),
            ("footprint/api-5000-pods/rss", 1.0),
        ]);
        let results = check(&all);
        let verdicts: Vec<_> = results.iter().map(|result| (result.value, result.ok)).collect();
        assert_eq!(verdicts, [(15.5, false), (10.0, true)], "{results:?}");
    }
}
