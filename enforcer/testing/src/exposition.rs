//! `OpenMetrics` text, read strictly: what a scraper could stumble over panics.

use std::collections::{BTreeMap, BTreeSet};

/// Labels of a series, by name.
pub type Labels = BTreeMap<String, String>;

/// A metric with its series.
#[derive(Clone, Debug, Default)]
pub struct Family {
    pub kind: String,
    pub help: String,
    /// Samples by their name, without the family's, and their labels.
    pub samples: BTreeMap<(String, Labels), String>,
}

impl Family {
    /// Returns the name under which people know the metric: what follows the family's name is part of it where there is
    /// one.
    pub fn known_as(&self, name: &str) -> String {
        match self.kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        }
    }

    /// Returns the names of all labels, `le` of a histogram's buckets aside.
    pub fn labels(&self) -> BTreeSet<String> {
        self.samples.keys().flat_map(|(_, labels)| labels.keys()).filter(|name| *name != "le").cloned().collect()
    }

    fn suffixes(&self) -> &'static [&'static str] {
        match self.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("no type of ours: {other}"),
        }
    }
}

/// A whole scrape, by the families' names.
#[derive(Clone, Debug)]
pub struct Exposition(pub BTreeMap<String, Family>);

impl Exposition {
    /// Reads a scrape.
    pub fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next(), words.next().expect("a name"), words.next().expect("a text"));
                if name != current {
                    assert!(!families.contains_key(name), "{name} comes in two places");
                    name.clone_into(&mut current);
                }
                let family = families.entry(name.to_owned()).or_default();
                assert!(family.samples.is_empty(), "what describes {name} comes before its samples");
                match what {
                    Some("HELP") => rest.clone_into(&mut family.help),
                    Some("TYPE") => rest.clone_into(&mut family.kind),
                    Some("UNIT") => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("neither help, type nor unit: {line}"),
                }
            } else {
                let family = families.get_mut(&current).unwrap_or_else(|| panic!("no description before {line}"));
                let (name, labels, value) = sample(line);
                let suffix =
                    name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} is not of {current}"));
                assert!(family.suffixes().contains(&suffix), "{line} is no sample of a {}", family.kind);
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
                assert!(
                    family.samples.insert((suffix.to_owned(), labels), value.to_owned()).is_none(),
                    "twice: {line}"
                );
            }
        }
        for (name, family) in &families {
            assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name} is not described");
            if family.kind == "histogram" {
                check_buckets(name, family);
            }
        }
        Self(families)
    }

    /// Returns the value of a series by the name that people know, with `_total`, `_info`, `_count` and so on; `None`
    /// if there is no such series.
    fn text(&self, name: &str, labels: &[(&str, &str)]) -> Option<&str> {
        let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.0.iter().find_map(|(family, found)| {
            let suffix = name.strip_prefix(family.as_str())?;
            found.samples.get(&(suffix.to_owned(), labels.clone())).map(String::as_str)
        })
    }

    /// Returns the value of a series that counts something.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.text(name, labels).map(|value| value.parse().expect("a whole number"))
    }

    /// Returns the value of a series that measures something.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.text(name, labels).map(|value| value.parse().expect("a number"))
    }

    /// Sums all series of a name, which count something.
    pub fn sum(&self, name: &str) -> u64 {
        let samples = self.0.iter().flat_map(|(family, found)| {
            found.samples.iter().filter(move |((suffix, _), _)| name == format!("{family}{suffix}"))
        });
        samples.map(|(_, value)| value.parse::<u64>().expect("a whole number")).sum()
    }
}

fn check_buckets(name: &str, family: &Family) {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for ((suffix, labels), value) in &family.samples {
        if suffix == "_bucket" {
            assert_eq!(labels.len(), 1, "no histogram of ours has labels");
            buckets.push((labels["le"].parse().expect("a bound"), value.parse().expect("a count")));
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.is_sorted_by_key(|(_, count)| *count), "the buckets of {name} are cumulative: {buckets:?}");
    let (bound, all) = *buckets.last().expect("a bucket");
    assert!(bound.is_infinite(), "the last bucket of {name} holds all");
    assert_eq!(family.samples.get(&("_count".to_owned(), Labels::new())), Some(&all.to_string()));
}

/// Splits a line into a sample's name, labels and value. No value of a label of ours holds a quote or a comma.
fn sample(line: &str) -> (&str, Labels, &str) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let Some((name, labels)) = series.split_once('{') else {
        return (series, Labels::new(), value);
    };
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("labels without end: {line}"));
    let labels = labels.split(',').map(|label| {
        let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (name.to_owned(), value.unwrap_or_else(|| panic!("no quotes: {line}")).to_owned())
    });
    (name, labels.collect(), value)
}
