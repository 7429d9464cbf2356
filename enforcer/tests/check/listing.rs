//! `enforcer check --list`: the claims of each object, known and likely.

use serde_json::Value;

use super::{ALL, End, check};

#[test]
fn list_matches_snapshot() {
    let End { code, stdout, stderr } = check(&["--list", "likely.yaml"], b"");
    insta::assert_snapshot!("text", stdout);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let End { code, stdout, stderr } = check(&["--list", "-o", "json", "likely.yaml"], b"");
    insta::assert_snapshot!("json", stdout);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

/// Each line has each column, so that `awk` finds it.
#[test]
fn list_has_eight_columns_on_each_line() {
    let End { stdout, .. } = check(&["--list", "likely.yaml", "cases/05-replication-controller.yaml"], b"");
    let lines: Vec<&str> = stdout.lines().collect();
    let (count, rows) = lines.split_last().expect("a line with the counts");
    assert!(rows.len() > 5 && rows.iter().all(|row| row.split_whitespace().count() == 8), "{stdout}");
    let (declared, likely) = (stdout.matches(" declared ").count(), stdout.matches(" likely ").count());
    assert_eq!((declared, likely), (3, 5), "{stdout}");
    assert!(count.starts_with("8 claims of 4 objects: 3 declared, 5 likely; 1 object on the host network"), "{count}");
}

/// Whatever the findings are, the list is a list.
#[test]
fn list_ends_with_0_despite_findings_and_with_2_if_unreadable() {
    let End { code, .. } = check(&ALL, b"");
    assert_eq!(code, Some(1));
    let End { code, stdout, .. } = check(&[&["--list"][..], &ALL].concat(), b"");
    assert_eq!(code, Some(0), "{stdout}");
    assert!(!stdout.contains("[conflict]"), "{stdout}");
    let End { code, stdout, stderr } = check(&["--list", "likely.yaml", "broken.yaml"], b"");
    assert_eq!(code, Some(2), "{stdout}");
    assert!(
        stdout.contains("DaemonSet") && stdout.contains("broken.yaml:") && stdout.contains("[unreadable]"),
        "{stdout}"
    );
    assert!(stderr.contains("could not be read, so claims may be missing from the list"), "{stderr}");
    let End { code, stdout, .. } = check(&["--list", "-o", "json", "likely.yaml", "broken.yaml"], b"");
    let list: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, list["unreadable"][0]["file"].as_str()), (Some(2), Some("broken.yaml")));
    let End { code, .. } = check(&["--list", "-"], b"apiVersion: v1\nkind: Pod\n");
    assert_eq!(code, Some(2));
}
