//! The findings as commands of a GitHub workflow: the lines of a pull request are annotated with them.

use std::fmt::Write as _;

use enforcer_core::check::finding::{Finding, Severity};

use crate::{
    judged::{Judged, JudgedFinding},
    report::summary,
};

/// Returns the commands, and a line with the counts.
pub(crate) fn github(judged: &Judged<'_>) -> String {
    let mut text = String::new();
    for JudgedFinding { finding, .. } in judged.findings().filter(|judged| !judged.is_accepted) {
        let Finding { place, severity, code, message, remedy, .. } = finding;
        let command = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut properties = Vec::new();
        if judged.paths.uri(&place.file).is_some() {
            properties.push(format!("file={}", property(&judged.paths.name(&place.file))));
            properties.extend(place.line.map(|line| format!("line={line}")));
        }
        properties.push(format!("title={}", property(code.rule().summary)));
        let message = data(&format!("{message} [{}]\nremedy: {remedy}", code.as_str()));
        writeln!(text, "::{command} {}::{message}", properties.join(",")).expect("writing to a string never fails");
    }
    if let Some(stale) = judged.stale_text() {
        writeln!(text, "::notice title=Baseline::{}", data(&stale)).expect("writing to a string never fails");
    }
    // The older form of a command counts anywhere in a line.
    text += &summary(judged).replace("##[", "## [");
    text.push('\n');
    text
}

/// Escapes the message of a command: no text ends it.
pub(crate) fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes the value of a property of a command: no text ends it, or begins another one.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Undoes the escapes, as the runner does.
    fn undo(text: &str) -> String {
        [("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")]
            .iter()
            .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
    }

    #[test]
    fn value_ends_no_command() {
        assert_eq!(property("a%0A,b:c\r\n::error::x"), "a%250A%2Cb%3Ac%0D%0A%3A%3Aerror%3A%3Ax");
        assert_eq!(data("100%: a, b\n::set-env name=x::y"), "100%25: a, b%0A::set-env name=x::y");
    }

    proptest! {
        #[test]
        fn value_is_read_back(text in "[a%:,0-9DA\\r\\n]{0,40}") {
            let escaped = property(&text);
            prop_assert!(!escaped.contains([':', ',', '\r', '\n']));
            prop_assert_eq!(undo(&escaped), text.clone());
            prop_assert!(!data(&text).contains(['\r', '\n']));
        }
    }
}
