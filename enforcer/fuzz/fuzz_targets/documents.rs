//! What `enforcer check` reads, manifests and baselines: every line that is told is one of the text, whatever is in it.
#![no_main]

use std::sync::Arc;

use enforcer_core::{
    check::{
        baseline::Baseline,
        object::{Remark, Unreadable, read},
    },
    pods::claims::{ClaimLimits, PodClaims},
    yaml::{
        documents::{Document, UnreadableDocument, documents},
        spanned::Node,
    },
};
use enforcer_fuzz::properties::{assert_bounded, assert_safe};
use libfuzzer_sys::fuzz_target;

/// Deepest nesting that is let through.
const MAX_DEPTH: usize = 128;
/// Longest message, in characters.
const MAX_MESSAGE: usize = 300;

// On the main thread: where code is optimised its stack has room for the deepest document.
fuzz_target!(|text: &str| check(text));

/// Lines of a text, the empty one behind the last line break included: an error may stand at the very end.
fn lines(text: &str) -> u32 {
    let breaks = text.replace("\r\n", "\n").matches(['\r', '\n']).count();
    u32::try_from(breaks).unwrap_or(u32::MAX).saturating_add(1)
}

/// A text that is a baseline is one that can be written and read back.
fn baseline(text: &str) {
    match Baseline::read(text) {
        Ok(baseline) => assert_eq!(Baseline::read(&baseline.text()), Ok(baseline)),
        Err(reason) => assert_safe(&reason),
    }
}

fn check(text: &str) {
    baseline(text);
    let lines = lines(text);
    let file: Arc<str> = "file".into();
    let mut before = 0;
    for document in documents(text) {
        match document {
            Err(UnreadableDocument { line, message }) => {
                assert!((before + 1..=lines).contains(&line), "line {line} of {lines}, after {before}: {message}");
                assert!(message.chars().count() <= MAX_MESSAGE);
                assert_safe(&message);
            }
            Ok(Document { lines_before, root }) => {
                assert!((before..lines).contains(&lines_before), "{lines_before} of {lines}, after {before}");
                before = lines_before;
                walk(&root, lines - lines_before, 0);
                objects(&root, &file, lines_before, lines, ClaimLimits::default());
            }
        }
    }
}

fn walk(node: &Node, lines: u32, depth: usize) {
    assert!((1..=lines).contains(&node.line), "line {} of {lines}", node.line);
    assert!(depth <= MAX_DEPTH);
    let entries = node.entries().iter().map(|(_, value)| value);
    node.items().iter().chain(entries).for_each(|child| walk(child, lines, depth + 1));
}

fn objects(root: &Node, file: &Arc<str>, lines_before: u32, lines: u32, limits: ClaimLimits) {
    let contents = read(root, file, lines_before, &limits);
    let known = |line: Option<u32>| line.is_some_and(|line| lines_before < line && line <= lines);
    for Unreadable { place, message, is_foreign: _ } in &contents.unreadable {
        assert!(known(place.line), "{place}: {message}");
        assert_safe(message);
    }
    for Remark { place, message, remedy } in &contents.remarks {
        assert!(known(place.line), "{place}: {message}");
        assert_safe(message);
        assert_safe(remedy);
    }
    for object in contents.objects {
        assert!(known(object.place.line));
        assert_safe(&object.to_string());
        // How many more there were is not looked at: one problem, which every manifest has, was taken out.
        for claim in &object.claims {
            assert!(known(object.place_of(claim).line), "{}", claim.spec);
        }
        for likely in &object.likely {
            assert_safe(&likely.to_string());
        }
        for refusal in &object.refusals {
            assert!(known(Some(refusal.line)));
            assert_safe(&refusal.message);
        }
        // No limit counts what is only likely.
        let declared = object.claims.iter().filter(|claim| !claim.source.is_likely()).copied().collect();
        let claims =
            PodClaims { claims: declared, problems: object.problems.clone(), more_problems: 0, exceeds_limit: false };
        for problem in &claims.problems {
            assert!(known(object.place_of_problem(problem).line), "{problem}");
            assert_safe(&problem.to_string());
        }
        for (_, line) in object.not_text.iter().chain(&object.misplaced) {
            assert!(known(Some(*line)));
        }
        assert_bounded(&claims, &limits);
    }
}
