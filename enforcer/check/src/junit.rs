//! The findings as XML of `JUnit`: a test suite of each file, with a test case of each object.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use enforcer_core::check::finding::{Finding, NamedObject, Severity};
use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use crate::judged::{Judged, JudgedFinding};

/// Test case of what a file has beside its objects.
const DOCUMENTS: &str = "documents";
/// Test case of what the report says about the run itself.
const RUN: &str = "run";

/// Test cases of one file, in the order of the input.
#[derive(Default)]
struct Suite<'a> {
    cases: Vec<Case<'a>>,
    places: HashMap<String, usize>,
}

/// A test case: an object, or what a file has beside them.
struct Case<'a> {
    name: String,
    line: Option<u32>,
    findings: Vec<JudgedFinding<'a>>,
}

impl<'a> Suite<'a> {
    /// Returns the test case with this name. Of an object that is there twice, the place of the first one counts.
    fn case(&mut self, name: String, line: Option<u32>) -> &mut Case<'a> {
        let place = *self.places.entry(name.clone()).or_insert_with(|| {
            self.cases.push(Case { name, line, findings: Vec::new() });
            self.cases.len() - 1
        });
        &mut self.cases[place]
    }
}

/// Returns the report.
///
/// # Errors
///
/// If it cannot be written as XML.
pub(crate) fn junit(judged: &Judged<'_>) -> Result<String, SerializeError> {
    let mut report = Report::new("port-enforcer check");
    for (file, suite) in suites(judged) {
        let mut of_file = TestSuite::new(file.as_ref());
        of_file.add_test_cases(suite.cases.into_iter().map(|case| test_case(&file, case)));
        report.add_test_suite(of_file);
    }
    let left_out = match judged.left_out() {
        0 => None,
        count => Some(format!("{count} findings more than are shown")),
    };
    let of_run: Vec<String> = left_out.into_iter().chain(judged.stale_text()).collect();
    if !of_run.is_empty() {
        let counts = judged.counting_left_out() > 0;
        let mut case =
            TestCase::new(RUN, if counts { failure(&of_run[0], "left_out") } else { TestCaseStatus::success() });
        case.set_classname(RUN).set_system_out(of_run.join("\n"));
        let mut suite = TestSuite::new(RUN);
        suite.add_test_case(case);
        report.add_test_suite(suite);
    }
    report.to_string()
}

/// Returns the test cases of each file: the objects that were checked, and all findings.
fn suites<'a>(judged: &'a Judged<'_>) -> Vec<(Arc<str>, Suite<'a>)> {
    let mut suites: Vec<(Arc<str>, Suite<'a>)> = Vec::new();
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    let mut of_file = |file: &Arc<str>| {
        *places.entry(file.clone()).or_insert_with(|| {
            suites.push((file.clone(), Suite::default()));
            suites.len() - 1
        })
    };
    let manifests = judged.manifests;
    let files: Vec<usize> = manifests.files.iter().map(&mut of_file).collect();
    let objects = manifests.new_objects().map(NamedObject::of);
    let services = manifests.services.iter().filter(|service| !service.existing);
    let services = services.map(|service| service.named(service.place.clone()));
    let cases: Vec<(usize, NamedObject)> =
        objects.chain(services).map(|named| (of_file(&named.place.file), named)).collect();
    let findings: Vec<(usize, JudgedFinding<'a>)> =
        judged.findings().map(|finding| (of_file(&finding.finding.place.file), finding)).collect();
    for file in files {
        suites[file].1.case(DOCUMENTS.to_owned(), None);
    }
    for (file, named) in cases {
        suites[file].1.case(named.to_string(), named.place.line);
    }
    for (file, judged) in findings {
        let name = judged.finding.object.as_ref().map_or_else(|| DOCUMENTS.to_owned(), ToString::to_string);
        suites[file].1.case(name, judged.finding.place.line).findings.push(judged);
    }
    suites
}

fn failure(message: &str, kind: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(message).set_type(kind);
    status
}

fn test_case(file: &str, Case { name, line, findings }: Case<'_>) -> TestCase {
    let counts = |judged: &JudgedFinding<'_>| judged.finding.severity != Severity::Note && !judged.is_accepted;
    let failed: Vec<&Finding> = findings.iter().filter(|judged| counts(judged)).map(|judged| judged.finding).collect();
    let others: Vec<&Finding> = findings.iter().filter(|judged| !counts(judged)).map(|judged| judged.finding).collect();
    let has_accepted = findings.iter().any(|judged| judged.is_accepted);
    let status = match failed.as_slice() {
        [first, more @ ..] => {
            let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            let mut status = failure(&format!("{}{more}", first.message), first.code.as_str());
            status.set_description(lines(&failed));
            status
        }
        [] if has_accepted => {
            let mut status = TestCaseStatus::skipped();
            status.set_message("its findings are accepted by the baseline");
            status
        }
        [] => TestCaseStatus::success(),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(file);
    case.extra.insert("file".into(), file.into());
    if let Some(line) = failed.first().and_then(|finding| finding.place.line).or(line) {
        case.extra.insert("line".into(), line.to_string().into());
    }
    if !others.is_empty() {
        case.set_system_out(lines(&others));
    }
    case
}

/// Returns findings for people.
fn lines(findings: &[&Finding]) -> String {
    let mut text = String::new();
    for Finding { place, severity, code, message, remedy, .. } in findings {
        let (word, code) = (severity.as_str(), code.as_str());
        writeln!(text, "{place}: {word}: {message} [{code}]\n    remedy: {remedy}")
            .expect("writing to a string never fails");
    }
    text
}
