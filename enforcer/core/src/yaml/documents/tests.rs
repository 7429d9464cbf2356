use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    check::{CheckSettings, ManifestSet, check, object::read},
    pods::claims::ClaimLimits,
};

/// What each document says its `a` is, with the line on which it says so; of a broken one the line and the message.
fn read_a(text: &str) -> Vec<Result<(u32, String), (u32, String)>> {
    documents(text)
        .map(|document| match document {
            Ok(Document { lines_before, root }) => {
                let node = root.get("a").unwrap_or(&root);
                Ok((lines_before + node.line, node.to_json().to_string()))
            }
            Err(UnreadableDocument { line, message }) => Err((line, message)),
        })
        .collect()
}

fn good(text: &str) -> Vec<(u32, String)> {
    read_a(text).into_iter().map(|document| document.unwrap_or_else(|error| panic!("{text:?}: {error:?}"))).collect()
}

#[test]
fn documents_and_their_lines() {
    for (text, expected) in [
        ("", &[][..]),
        ("\n# nothing\n---\n---\n# Source: chart/templates/empty.yaml\n", &[]),
        ("%YAML 1.1\n---\na: 1\n", &[(3, "1")]),
        ("a: 1", &[(1, "1")]),
        ("---\n# Source: chart/templates/x.yaml\na: 1\n---\n# Source: y\n\na: 2\n", &[(3, "1"), (7, "2")]),
        ("a: 1\n--- # comment\na: 2\n...\n# after\n---\na: 3\n...\n", &[(1, "1"), (3, "2"), (7, "3")]),
        ("a: 1\n...\na: 2\n", &[(1, "1"), (3, "2")]),
        ("a: 1\r\n---\r\na: 2\r\n", &[(1, "1"), (3, "2")]),
        ("a: 1\r---\ra: 2\r\n---\n\ra: 3", &[(1, "1"), (3, "2"), (6, "3")]),
        ("{\"a\": 1}\r{\"a\":\r2}\r\n{\"a\": 3}", &[(1, "1"), (3, "2"), (4, "3")]),
        ("\u{feff}a: 1\n---\na: 2\n", &[(1, "1"), (3, "2")]),
        ("a: 1\n---\n\u{feff}a: 2\n--- # comment\r\n\u{feff}# comment\n\na: 3\n", &[(1, "1"), (3, "2"), (7, "3")]),
        ("a: 1\n\u{feff}---\na: 2\n\u{feff}--- {a: 3}\n", &[(1, "1"), (3, "2"), (4, "3")]),
        ("a: 1\n---\n# Source: x.yaml\n\u{feff}a: 2\nb: 3\n---\n\u{feff}\n", &[(1, "1"), (4, "2")]),
        ("---\n{\"a\": 1}\n{\"a\": 2}\n", &[(2, "1"), (3, "2")]),
        ("--- {a: 1}\n--- {a: 2}", &[(1, "1"), (2, "2")]),
        ("a: |\n  ---\n  text\n---\na: 2\n", &[(2, r#""---\ntext\n""#), (5, "2")]),
        ("----: 1\na: 2\n", &[(2, "2")]),
        ("{\"a\": 1}\n{\n\t\"a\": \"\\/\"\n}{\"a\": 3}\n\n", &[(1, "1"), (3, r#""/""#), (4, "3")]),
        ("{a: 1, b: [2,\n3]}\n---\na: 4\n", &[(1, "1"), (4, "4")]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(line, value)| (*line, (*value).to_owned())).collect();
        assert_eq!(good(text), expected, "{text:?}");
    }
}

#[test]
fn values_as_the_api_server_reads_them() {
    for (text, value) in [
        ("a: yes", "true"),
        ("a: Off", "false"),
        ("a: 'yes'", r#""yes""#),
        ("a: y", "true"),
        ("a: n", "false"),
        ("a: 0644", "420"),
        ("a: 0o644", "420"),
        ("a: 0943", "943"),
        ("a: 08", "8"),
        ("a: +80", "80"),
        ("a: -0", "0"),
        ("a: 0b101", "5"),
        ("a: 80.0", "80"),
        ("a: 8e1", "80"),
        ("a: 1_000", "1000"),
        ("a: 0x1F", "31"),
        ("a: ~", "null"),
        ("a:", "null"),
        ("a: 1.5", "1.5"),
        ("a: .nan", r#"".nan""#),
        ("a: 340282366920938463463374607431768211455", "3.402823669209385e+38"),
        ("a: 18446744073709551616", "1.8446744073709552e+19"),
        ("a: !Ref x", r#""x""#),
        ("a: 1\na: 2", "2"),
        ("b: &x {port: 1, other: 2}\na: {<<: *x, port: 3}", r#"{"other":2,"port":3}"#),
        ("b: &x [1]\na: *x", "[1]"),
        ("80: x\ntrue: y\na: 1", "1"),
    ] {
        let found = good(text).into_iter().map(|(_, found)| found).collect::<Vec<_>>();
        // A null is as good as nothing, and then the whole document is shown.
        let expected = if value == "null" { r#"{"a":null}"# } else { value };
        assert_eq!(found, [expected], "{text:?}");
    }
}

#[test]
fn what_is_broken_is_told_with_its_line_and_hides_nothing() {
    let found = read_a("a: 1\n---\na: [\n---\na: 3\n---\nb: 1\na: {{ .Values.port }}\nc: }\n---\na: 5\n");
    assert_eq!((&found[0], &found[2], &found[4]), (&Ok((1, "1".into())), &Ok((5, "3".into())), &Ok((11, "5".into()))));
    for (place, lines, words) in [
        (1, 3..=3, "is not valid YAML: "),
        (3, 8..=8, "looks like a template that was not rendered ({{ at line 8), and "),
    ] {
        let (line, message) = found[place].clone().expect_err("broken");
        assert!(lines.contains(&line), "line {line}: {message}");
        assert!(message.starts_with(words) && message.contains(&format!("at line {line}")), "{message}");
    }
    assert_eq!(found.len(), 5);

    let found = read_a("a: \u{1b}[31m\u{7}\nb: 'x\n");
    let (_, message) = found[0].clone().expect_err("broken");
    assert!(!message.chars().any(char::is_control), "{message:?}");
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    with_large_stack(|| {
        let deep = format!("a: {}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        let block: String = (0..=MAX_DEPTH).flat_map(|depth| [" ".repeat(depth), "a:\n".to_owned()]).collect();
        let json = format!("{}{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            writeln!(bomb, "a{level}: &a{level} [{aliases}]").unwrap();
        }
        let large = format!("a: '{}'", "x".repeat(MAX_DOCUMENT));
        for text in [deep, block, json, bomb, large] {
            let found = read_a(&text);
            assert!(matches!(found.as_slice(), [Err(_)]), "{text:.60}…: {found:.200?}");
        }
        let within = format!("a: {}{}", "[".repeat(MAX_DEPTH / 2), "]".repeat(MAX_DEPTH / 2));
        assert_eq!(good(&within).len(), 1);
    });
}

/// As `kubectl` and generators write them: on one line, with long texts, with one anchor for everything.
#[test]
fn what_is_long_is_read() {
    let ports: Vec<String> = (0..2000).map(|port| format!(r#"{{"containerPort":{port}}}"#)).collect();
    let script = "x".repeat(100_000);
    let json = format!(r#"{{"b":[{}],"c":"{script}","d":{{"e":[{}]}},"a":1}}"#, ports.join(","), ports.join(","));
    let block = format!("c: |\n  {script}\nd: {script}\na: 1\n");
    let aliases = format!("l: &l {{app: x}}\nb: [{}]\na: 1\n", vec!["*l"; 5000].join(", "));
    let comments = format!("c:\n{}  - 1\na: 1\n", "  # comment\n".repeat(1000));
    for text in [json.clone(), format!("{json}\n{json}"), block, aliases, comments] {
        assert!(good(&text).iter().all(|(_, value)| value == "1"), "{text:.60}…");
    }
}

#[test]
fn template_is_recognized_by_what_is_not_quoted() {
    let message = |text: &str| read_a(text)[0].clone().expect_err("broken");
    for (text, line, opening) in [
        ("a: {{ .Values.a }}\n", 1, "{{"),
        ("b: 1\n{{- if .Values.a }}\na: 1\n{{- end }}\n", 2, "{{"),
        ("a: 1\n{% if a %}\nb: 1\n", 2, "{%"),
        ("# {{ in a comment\na: [[ .a ]\n", 2, "[["),
        ("a: 1\n<% if a %>\n", 2, "<%"),
    ] {
        let (at, message) = message(text);
        let expected = format!("{NOT_RENDERED} ({opening} at line {line}), and is not valid YAML: ");
        assert!(at == line && message.starts_with(&expected), "{text}: {at} {message}");
    }
    for text in ["a: '{{ $labels.a }}'\nb: [\n", "# {{ a }}\nb: ]\n", "a: [[1, 2], [3]]\nb: }\n"] {
        assert!(message(text).1.starts_with("is not valid YAML: "), "{text}: {}", message(text).1);
    }
    let (_, message) = message("a: 1\nb:\n  c: 2\n\u{feff}a: 2\nb:\n  c: 3\n");
    let hint = "; a file that begins at line 4 with a byte order mark was appended without a line ---";
    assert!(message.ends_with(hint), "{message}");
}

/// As the API server's reader: inside a flow collection, a tab is white space.
#[test]
fn tabs_in_flow_collections_are_white_space() {
    for (text, line) in [
        ("b: {\n\tc: 1}\na: 1\n", 3),
        ("b:\n  c:\n  - d: {\n\te: [1,\n\t\t2], f: 'x\n\ty'}\na: 1\n", 7),
        ("b:\n  c: [\n\t# comment [\n\t{d: \"}\\\"]\"}\n\t]\na: 1\n", 6),
        ("b:\n  c: don't {[\n  d: {\n\te: it's}\n  f: |\n    {\n    \tx\na: 1\n", 8),
    ] {
        assert_eq!(good(text), [(line, "1".to_owned())], "{text:?}");
    }
    // Of a block, a tab is no indentation.
    for text in ["b:\n  c:\n\td: 1\na: 1\n", "b:\n\t- 1\na: 1\n"] {
        assert!(matches!(read_a(text).as_slice(), [Err(_)]), "{text:?}: {:?}", read_a(text));
    }
}

/// Pieces of which manifests are made, so that arbitrary bytes come past the parser.
fn yamlish() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "apiVersion: v1\n", "apiVersion: apps/v1\n", "apiVersion: batch/v1\n", "kind: Pod\n", "kind: Deployment\n",
            "kind: DaemonSet\n", "kind: CronJob\n", "kind: List\nitems:\n", "- ", "metadata:\n", "  name: x\n",
            "  annotations:\n", "    port-enforcer.io/ports: 80, [::1]:53/udp\n", "spec:\n", "  hostNetwork: true\n",
            "  replicas: 2\n", "  template:\n", "    spec:\n", "      containers:\n", "      - name: c\n", "        ports:\n",
            "        - containerPort: 80\n", "          hostPort: 65536\n", "  containers:\n", "  - ports:\n",
            "    - {containerPort: 1, hostIP: 1.2.3.4}\n", "---\n", "...\n", "&a ", "*a", "<<: ", "{", "}", "[", "]", ": ",
            "        livenessProbe: {httpGet: {port: 80, host: '::1'}}\n", "  strategy: {rollingUpdate: {maxSurge: 0}}\n",
            "kind: Rollout\n", "apiVersion: a.b/v1\n", "{{ x }}", "[[ x ]]", "- {op: add, path: /x}\n", "resources: []\n",
            "\"", "'", "|\n", "? ", "%", "\t", "\r\n", "  ", "!!int ", "\u{feff}",
        ]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_makes_it_panic(bytes in yamlish(), nodes in prop::option::of(1u32..4)) {
        let text = String::from_utf8_lossy(&bytes);
        // Line breaks as YAML has them: LF, CR LF, and CR.
        let lines = text.replace("\r\n", "\n").replace('\r', "\n").lines().count();
        let lines = u32::try_from(lines).unwrap().max(1);
        let mut manifests = ManifestSet { files: vec!["f".into()], ..ManifestSet::default() };
        for document in documents(&text) {
            match document {
                Ok(Document { lines_before, root }) => {
                    let contents = read(&root, &manifests.files[0], lines_before, &ClaimLimits::default());
                    manifests.objects.extend(contents.objects);
                    manifests.unreadable.extend(contents.unreadable);
                    manifests.remarks.extend(contents.remarks);
                    manifests.other_kinds.merge(contents.other_kinds);
                }
                Err(UnreadableDocument { line, message }) => {
                    prop_assert!(!message.chars().any(char::is_control), "{message:?}");
                    prop_assert!((1..=lines + 1).contains(&line), "line {line} of {lines}");
                }
            }
        }
        for finding in check(&manifests, &CheckSettings { nodes, ..CheckSettings::default() }).findings {
            let line = finding.place.line.expect("a line");
            prop_assert!((1..=lines).contains(&line), "{finding:?}");
            prop_assert!(!finding.message.chars().any(char::is_control), "{finding:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(text in any::<String>()) {
        for document in documents(&text) {
            drop(document);
        }
    }
}

#[test]
fn every_line_break_of_yaml_ends_a_line() {
    let lines: Vec<&str> = lines_of("a\nb\r\nc\rd\r\r\n\n\re").collect();
    assert_eq!(lines, ["a\n", "b\r\n", "c\r", "d\r", "\r\n", "\n", "\r", "e"]);
    assert_eq!(lines_of("").count(), 0);
    assert_eq!(lines_of("\r\n").collect::<Vec<_>>(), ["\r\n"]);
}
