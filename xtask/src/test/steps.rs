//! Steps of `cargo xtask test`, and the choice among them.

use anyhow::bail;
use clap::ValueEnum;

/// A step, in the order in which they run: those first that are quick and fail often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Step {
    /// Check the format with rustfmt
    Fmt,
    /// Run clippy on the host code, the BPF code and the fuzz targets; warnings are errors
    Clippy,
    /// Check licences, duplicates and sources of dependencies with cargo-deny
    Deny,
    /// Build the documentation with rustdoc; warnings are errors
    Doc,
    /// Check that enforcer-core and the kubectl plugin compile for Windows
    Windows,
    /// Run unit, property and command-line tests
    Tests,
    /// Run the tests that use the real kernel, as root
    Kernel,
    /// Run the examples of the documentation
    Doctests,
    /// Run the seeds of every fuzz target, then fuzz it for some seconds
    Fuzz,
    /// Compare the agent's instruction counts with the baseline
    Instructions,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Deny => "deny",
            Self::Doc => "doc",
            Self::Windows => "windows",
            Self::Tests => "tests",
            Self::Kernel => "kernel",
            Self::Doctests => "doctests",
            Self::Fuzz => "fuzz",
            Self::Instructions => "instructions",
        }
    }

    /// Returns true if a filter can choose among the step's tests.
    fn has_tests(self) -> bool {
        matches!(self, Self::Tests | Self::Kernel | Self::Doctests)
    }

    /// Returns true if the step has tests that run with the address sanitizer.
    fn has_sanitized_tests(self) -> bool {
        matches!(self, Self::Tests | Self::Kernel)
    }

    /// Returns true if the step compiles the kernel programs.
    pub(super) fn compiles_kernel_programs(self) -> bool {
        !matches!(self, Self::Fmt | Self::Deny | Self::Windows | Self::Fuzz)
    }
}

/// Returns the steps to run: those in `only`, or all that the filter and the sanitizer apply to.
///
/// # Errors
///
/// If a step in `only` excludes the filter or the sanitizer.
pub(super) fn plan(only: &[Step], filter: Option<&str>, sanitized: bool) -> anyhow::Result<Vec<Step>> {
    let applies = |step: &Step| (filter.is_none() || step.has_tests()) && (!sanitized || step.has_sanitized_tests());
    let is_chosen = |step: &Step| only.contains(step) || (only.is_empty() && applies(step));
    let steps: Vec<Step> = Step::value_variants().iter().copied().filter(is_chosen).collect();
    if let (Some(filter), Some(step)) = (filter, steps.iter().find(|step| !step.has_tests())) {
        bail!("the step `{}` has no tests, so the filter `{filter}` does not apply: omit one of them", step.name());
    }
    if let Some(step) = steps.iter().find(|step| sanitized && !step.has_sanitized_tests()) {
        bail!("the step `{}` has no tests for the sanitizer: omit the step or --sanitized", step.name());
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_selects_the_steps_with_tests() {
        let all = Step::value_variants();
        assert_eq!(plan(&[], None, false).unwrap(), all);
        assert_eq!(plan(&[], Some("x"), false).unwrap(), [Step::Tests, Step::Kernel, Step::Doctests]);
        assert_eq!(plan(&[Step::Doc, Step::Fmt], None, false).unwrap(), [Step::Fmt, Step::Doc], "in the usual order");
        assert_eq!(plan(&[Step::Kernel], Some("x"), false).unwrap(), [Step::Kernel]);
        assert!(plan(&[Step::Kernel, Step::Fmt], Some("x"), false).is_err());
    }

    #[test]
    fn sanitizer_selects_the_steps_that_run_unsafe_code() {
        assert_eq!(plan(&[], None, true).unwrap(), [Step::Tests, Step::Kernel]);
        assert_eq!(plan(&[], Some("x"), true).unwrap(), [Step::Tests, Step::Kernel]);
        assert_eq!(plan(&[Step::Kernel], None, true).unwrap(), [Step::Kernel]);
        assert!(plan(&[Step::Kernel, Step::Doctests], None, true).is_err());
    }

    #[test]
    fn windows_step_runs_before_the_tests_and_without_the_bpf_tools() {
        let steps = plan(&[], None, false).unwrap();
        let position = |wanted| steps.iter().position(|step| *step == wanted).unwrap();
        assert!(position(Step::Windows) < position(Step::Tests), "{steps:?}");
        assert_eq!(plan(&[Step::Tests, Step::Windows], None, false).unwrap(), [Step::Windows, Step::Tests]);
        assert!(plan(&[Step::Windows], Some("x"), false).is_err(), "it has no tests to filter");
        assert!(plan(&[Step::Windows], None, true).is_err(), "it runs nothing");
        assert!(!Step::Windows.compiles_kernel_programs(), "the check proves that no BPF tool is needed");
    }
}
