//! Likely claims measured on a corpus of pod templates with a truth made by hand.
//!
//! How it counts: a claim is a pair of a fragment and (protocol, address, port). It is right if the truth of the fragment
//! has exactly these, and wrong else: a right port on a wrong address is a wrong claim *and* a port that was missed.
//! Precision is the part of all claims that is right; recall is the part of all ports of the truth that is found. The
//! fragments declare no ports and have no probes, which need no guess.
//!
//! The rules were written on one part. The other part was written before them, and its figures alone say how good they are.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use crate::{
    check::object::read,
    model::port_spec::PortSpec,
    pods::{annotation::parse_list, claims::ClaimLimits},
    yaml::spanned::{Node, Value},
};

const WRITTEN_ON: [&str; 3] = [
    include_str!("corpus/written_on_1.yaml"),
    include_str!("corpus/written_on_2.yaml"),
    include_str!("corpus/written_on_3.yaml"),
];
const HELD_OUT: [&str; 2] = [include_str!("corpus/held_out_1.yaml"), include_str!("corpus/held_out_2.yaml")];

struct Fragment {
    name: String,
    listens: BTreeSet<PortSpec>,
    found: BTreeSet<PortSpec>,
    /// It has something that looks like a port of its own and is none.
    tempts: bool,
}

fn texts<'a>(node: &'a Node, key: &str) -> Vec<&'a str> {
    let items = node.get(key).map(Node::items).unwrap_or_default();
    items.iter().map(|item| item.text().unwrap_or_else(|| panic!("line {}: no text", item.line))).collect()
}

fn entry(key: &str, value: Value) -> (String, Node) {
    (key.to_owned(), Node { line: 1, value })
}

/// Reads a fragment as the pod that it is part of.
fn fragment(node: &Node) -> Fragment {
    let name = node.get("name").and_then(Node::text).expect("a name").to_owned();
    let part = |keys: &[&str]| -> Vec<(String, Node)> {
        let taken = keys.iter().filter_map(|key| Some(((*key).to_owned(), node.get(key)?.clone())));
        taken.collect()
    };
    let mut spec = part(&["containers", "initContainers"]);
    let tempting = texts(node, "not");
    let shown = format!("{spec:?}{:?}", node.get("annotations"));
    for word in &tempting {
        assert!(shown.contains(&format!("{word:?}")[1..=word.len()]), "{name} has no {word}");
    }
    spec.push(entry("hostNetwork", Value::Bool(true)));
    let mut metadata = part(&["annotations"]);
    metadata.push(entry("name", Value::Text(name.clone())));
    let pod = Value::Map(vec![
        entry("apiVersion", Value::Text("v1".to_owned())),
        entry("kind", Value::Text("Pod".to_owned())),
        entry("metadata", Value::Map(metadata)),
        entry("spec", Value::Map(spec)),
    ]);
    let file: Arc<str> = "corpus".into();
    let contents = read(&Node { line: 1, value: pod }, &file, 0, &ClaimLimits::default());
    assert!(contents.unreadable.is_empty(), "{name}: {:?}", contents.unreadable);
    let [object] = contents.objects.as_slice() else { panic!("{name} is no pod") };
    assert!(object.claims.iter().all(|claim| claim.source.is_guessed()), "{name} declares a port, or is probed");
    let listens = parse_list(&texts(node, "listens").join(",")).unwrap_or_else(|error| panic!("{name}: {error}"));
    Fragment {
        name,
        listens: listens.into_iter().collect(),
        found: object.claims.iter().map(|claim| claim.spec).collect(),
        tempts: !tempting.is_empty(),
    }
}

fn fragments(texts: &[&str]) -> Vec<Fragment> {
    let parse = |text: &&str| serde_saphyr::from_str::<Node>(text).expect("YAML");
    texts.iter().map(parse).flat_map(|root| root.items().iter().map(fragment).collect::<Vec<_>>()).collect()
}

/// Counts of a part.
#[derive(Debug)]
struct Score {
    right: usize,
    claims: usize,
    truth: usize,
}

impl Score {
    fn of(fragments: &[Fragment]) -> Self {
        let sum = |count: fn(&Fragment) -> usize| fragments.iter().map(count).sum();
        Self {
            right: sum(|fragment| fragment.found.intersection(&fragment.listens).count()),
            claims: sum(|fragment| fragment.found.len()),
            truth: sum(|fragment| fragment.listens.len()),
        }
    }

    /// Per mille.
    fn precision(&self) -> usize {
        self.right * 1000 / self.claims.max(1)
    }

    /// Precision and recall, as docs/check.md has them.
    fn percentages(&self) -> [String; 2] {
        [self.precision(), self.recall()].map(|mille| format!("{}.{} %", mille / 10, mille % 10))
    }

    /// Per mille.
    fn recall(&self) -> usize {
        self.right * 1000 / self.truth.max(1)
    }
}

#[test]
fn corpus_reaches_the_bars_of_precision_and_recall() {
    let parts = [("written on", fragments(&WRITTEN_ON)), ("held out", fragments(&HELD_OUT))];
    let count: usize = parts.iter().map(|(_, fragments)| fragments.len()).sum();
    let tempting = parts.iter().flat_map(|(_, fragments)| fragments).filter(|fragment| fragment.tempts).count();
    println!("{count} fragments, {tempting} of them with something that looks like a listener and is none");
    for (part, fragments) in &parts {
        let score = Score::of(fragments);
        let [precision, recall] = score.percentages();
        let Score { right, claims, truth } = score;
        println!("{part}: {right} right of {claims} claims, of {truth} ports: precision {precision}, recall {recall}");
    }
    // Of the part that the rules were written on, each difference is worth a look.
    for Fragment { name, listens, found, .. } in &parts[0].1 {
        let shown = |one: &BTreeSet<PortSpec>, other| {
            one.difference(other).map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        if listens != found {
            println!("    {name}: missed {}; wrong {}", shown(listens, found), shown(found, listens));
        }
    }
    let names: BTreeSet<&str> =
        parts.iter().flat_map(|(_, fragments)| fragments).map(|one| one.name.as_str()).collect();
    assert_eq!(names.len(), count, "each fragment has a name of its own");
    assert!(count >= 150 && parts[1].1.len() * 3 >= count, "{count} fragments");
    assert!(tempting * 10 >= count * 4, "{tempting} of {count} tempt");
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/check.md")).expect("docs/check.md");
    for (part, fragments) in &parts {
        let score = Score::of(fragments);
        let [precision, recall] = score.percentages();
        let row = format!("| {} | {} | {precision} | {recall} |", fragments.len(), score.truth);
        assert!(page.contains(&row), "docs/check.md has other figures of the part {part} than {row}");
        assert!(score.precision() >= 950 && score.recall() >= 700, "{part}: {score:?}");
    }
}
