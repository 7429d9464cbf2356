//! The table of codes in docs/check.md against the codes that `enforcer check` reports.

use std::{collections::BTreeSet, fs};

use enforcer_core::check::finding::Code;

use crate::root;

/// Codes in the first column of the table of docs/check.md, in order.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/check.md")).expect("check.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| code |")).skip(2);
    let cells = rows.take_while(|line| line.starts_with('|')).map(|line| line.split('`').nth(1));
    cells.map(|cell| cell.expect("a code in backticks").to_owned()).collect()
}

#[test]
fn table_of_codes_matches_check() {
    let documented = documented();
    let expected: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(documented.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    assert_eq!(documented.len(), Code::ALL.len(), "no code has two rows: {documented:?}");
}
