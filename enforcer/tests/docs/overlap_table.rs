//! The table of overlaps in docs/semantics.md, cell by cell against the function that decides.

use std::fs;

use enforcer_core::model::port_spec::Address;

use crate::root;

/// Addresses that a head stands for: two different ones where it is "a specific" one.
fn addresses(head: &str) -> Vec<Address> {
    let texts: &[&str] = match head {
        "`0.0.0.0`" => &["0.0.0.0"],
        "`::`" => &["::"],
        "v4 `a`" | "a specific v4" => &["192.0.2.1", "192.0.2.2"],
        "v6 `a`" | "a specific v6" => &["2001:db8::1", "2001:db8::2"],
        "a claim without address" => return vec![Address::Any],
        other => panic!("nobody knows what {other} is"),
    };
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn overlap_table_matches_code() {
    let text = fs::read_to_string(root().join("docs/semantics.md")).expect("semantics.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("## Overlap"))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let [heads, _, rows @ ..] = &rows[..] else { panic!("a table: {rows:?}") };
    assert_eq!((heads.len(), rows.len()), (6, 4));
    for row in rows {
        for (head, cell) in heads.iter().zip(row).skip(1) {
            let (ones, others) = (addresses(row[0]), addresses(head));
            let place = format!("{} and {head}", row[0]);
            for (index, one) in ones.iter().enumerate() {
                for (other_index, other) in others.iter().enumerate() {
                    let expected = match *cell {
                        "yes" | "yes (not if V6ONLY)" => true,
                        "no" => false,
                        "if equal" => index == other_index,
                        other => panic!("{place}: {other} is no cell"),
                    };
                    assert_eq!(one.overlaps(*other), expected, "{place}");
                }
            }
            // Only `::` can be V6ONLY, and only what is IPv4 is apart from it then.
            let v4 = |head: &str| head.contains("v4") || head == "`0.0.0.0`";
            let pair = (row[0] == "`::`" && v4(head)) || (*head == "`::`" && v4(row[0]));
            assert_eq!(cell.contains("V6ONLY"), pair, "{place}");
        }
    }
}
