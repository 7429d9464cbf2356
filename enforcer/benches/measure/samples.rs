//! Numbers of several rounds, and what is told of them.

use serde::Serialize;

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// `GROUP/WHAT`.
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    /// The quartiles: half of all rounds were between them.
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) rounds: usize,
}

impl Run {
    /// Of the values of several rounds, of which there is at least one.
    pub(crate) fn of(name: impl Into<String>, unit: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| quantile(&values, part));
        Self { name: name.into(), unit, median, low, high, rounds: values.len() }
    }

    /// Of one value.
    pub(crate) fn one(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self::of(name, unit, vec![value])
    }
}

/// The value below which this part of the sorted values lies, between two of them where need be.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Round by round, one divided by the other.
pub(crate) fn ratios(these: &[f64], others: &[f64]) -> Vec<f64> {
    these.iter().zip(others).map(|(this, other)| this / other).collect()
}

/// Round by round, one minus the other.
pub(crate) fn differences(these: &[f64], others: &[f64]) -> Vec<f64> {
    these.iter().zip(others).map(|(this, other)| this - other).collect()
}
