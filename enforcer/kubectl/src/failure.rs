//! Failures of a command: an exit code, and a sentence for the user.

use std::fmt::Display;

/// Failure of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) code: u8,
    /// The sentence.
    pub(crate) message: String,
}

impl Failure {
    /// Returns the failure of a command that did its work and has findings.
    pub(crate) fn findings(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    /// Returns the failure for bad input or usage.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    /// Returns the failure for a missing right.
    pub(crate) fn privilege(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    /// Returns the failure for something that failed while running.
    pub(crate) fn runtime(message: impl Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}
