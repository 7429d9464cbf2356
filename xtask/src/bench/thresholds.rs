//! What must be reached.

use serde::Serialize;

use super::Runs;

/// One demand, and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Bar {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) limit: f64,
    pub(super) ok: bool,
}

/// What is demanded: its name, the runs of which each must be no more than the limit, and the limit.
type Demand = (&'static str, &'static [&'static str], f64);

const DEMANDS: [Demand; 20] = [
    ("bind on an unclaimed port ÷ empty program", &["hook/unclaimed/bind ÷ empty-refused"], 1.3),
    ("bind on an owned port ÷ empty program", &["hook/owned/bind ÷ empty"], 2.2),
    ("bind on a denied port, event limited away ÷ empty program", &["hook/denied/bind ÷ empty"], 2.5),
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
    ("pod change to enforced, 110 pods, p99 (ms)", &["way-in/api-110-pods/p99"], 5.0),
    ("everything anew with 5,000 pods (ms)", &["way-in/rebuild-5000-pods"], 250.0),
    ("RSS at 110 pods (MiB)", &["footprint/api-110-pods/rss", "footprint/folder-110-pods/rss"], 15.0),
    ("RSS at 5,000 pods (MiB)", &["footprint/api-5000-pods/rss", "footprint/folder-5000-pods/rss"], 40.0),
    ("idle CPU (% of a core)", &["footprint/api-110-pods/idle-cpu", "footprint/folder-110-pods/idle-cpu"], 0.1),
    ("static binary, stripped (MiB)", &["footprint/binary"], 10.0),
    ("denial storm: binds counted wrongly", &["way-out/uncounted"], 0.0),
    ("denial storm: binds let through", &["way-out/let-through"], 0.0),
    ("denial storm: records neither told nor counted as lost", &["way-out/unread"], 0.0),
    ("denial storm: agents that died", &["way-out/dead"], 0.0),
    ("instructions of the agent's work ÷ baseline", &["instructions/worst ÷ baseline"], 1.1),
];

/// Judges what was measured; of what was not, nothing is demanded.
pub(super) fn judge(runs: &Runs) -> Vec<Bar> {
    let judged = DEMANDS.iter().filter_map(|&(name, demanded, limit)| {
        let values: Option<Vec<f64>> = demanded.iter().map(|run| runs.get(*run).map(|run| run.median)).collect();
        let value = values?.into_iter().fold(f64::MIN, f64::max);
        Some(Bar { name, value, limit, ok: value <= limit })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Run;
    use super::*;

    fn runs(values: &[(&str, f64)]) -> Runs {
        let run = |&(name, value): &(&str, f64)| (name.to_owned(), Run::one(name, "", value));
        values.iter().map(run).collect()
    }

    #[test]
    fn the_worst_of_several_is_judged_and_the_limit_itself_is_fine() {
        let all = runs(&[
            ("footprint/api-110-pods/rss", 14.0),
            ("footprint/folder-110-pods/rss", 15.5),
            ("footprint/binary", 10.0),
            ("footprint/api-5000-pods/rss", 1.0),
        ]);
        let judged = judge(&all);
        let told: Vec<_> = judged.iter().map(|bar| (bar.value, bar.ok)).collect();
        assert_eq!(told, [(15.5, false), (10.0, true)], "{judged:?}");
    }
}
