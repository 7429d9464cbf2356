//! Completions: scripts for shells, and the answers to kubectl's own completion.
//!
//! For a plugin, kubectl runs a program `kubectl_complete-NAME` with the words of the command line. It reads candidates, one a
//! line, a description behind a tab, and last a number with what the shell is to do. That form is cobra's.

use std::{env, ffi::OsString, iter};

use clap::ValueEnum;
use clap_complete::{CompletionCandidate, Shell, engine::complete, generate};

use crate::{cli, failure::Failure, output::print};

/// Name of the program, as shells complete it.
const PROGRAM: &str = "kubectl-host_ports";

/// Directives of cobra: `ShellCompDirectiveNoFileComp`, and `ShellCompDirectiveNoSpace` beside it.
const NO_FILES: u8 = 4;
const NO_FILES_AND_NO_SPACE: u8 = 4 | 2;

/// Program that kubectl runs for candidates.
const FOR_KUBECTL: &str = "#!/bin/sh\n\
                           # Candidates for kubectl host-ports. kubectl finds it in PATH as kubectl_complete-host_ports.\n\
                           exec kubectl-host_ports __complete \"$@\"\n";

/// Reader of the completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionTarget {
    Bash,
    Elvish,
    Fish,
    /// kubectl's own completion, in every shell
    Kubectl,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
}

/// Prints a script.
pub(crate) fn script(target: CompletionTarget) -> Result<(), Failure> {
    let shell = match target {
        CompletionTarget::Kubectl => return print(FOR_KUBECTL),
        CompletionTarget::Bash => Shell::Bash,
        CompletionTarget::Elvish => Shell::Elvish,
        CompletionTarget::Fish => Shell::Fish,
        CompletionTarget::PowerShell => Shell::PowerShell,
        CompletionTarget::Zsh => Shell::Zsh,
    };
    let mut script = Vec::new();
    generate(shell, &mut cli::command(), PROGRAM, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints what the last word can become.
pub(crate) fn candidates(mut words: Vec<OsString>) -> Result<(), Failure> {
    if words.is_empty() {
        words.push(OsString::new());
    }
    let last = words.len();
    let words = iter::once(OsString::from(PROGRAM)).chain(words).collect();
    let folder = env::current_dir().ok();
    let found = complete(&mut cli::command(), words, last, folder.as_deref());
    // A word that cannot be completed has no candidates; a message would stand in the middle of the command line.
    let mut found = found.unwrap_or_default();
    found.retain(|candidate| !candidate.is_hide_set());
    let is_folder = |candidate: &CompletionCandidate| candidate.get_value().to_string_lossy().ends_with('/');
    let directive = if !found.is_empty() && found.iter().all(is_folder) { NO_FILES_AND_NO_SPACE } else { NO_FILES };
    let lines: String = found.iter().map(line).collect();
    print(&format!("{lines}:{directive}\n"))
}

/// Returns a candidate as cobra writes it.
fn line(candidate: &CompletionCandidate) -> String {
    let value = candidate.get_value().to_string_lossy();
    // Of a name with a line break the rest would be a candidate of its own.
    let value: String = value.chars().filter(|character| !character.is_control()).collect();
    match candidate.get_help().map(ToString::to_string).filter(|help| !help.is_empty()) {
        Some(help) => format!("{value}\t{}\n", help.lines().next().unwrap_or_default()),
        None => format!("{value}\n"),
    }
}
