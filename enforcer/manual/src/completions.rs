//! Shell completions, by the names that the shells' folders want.

use clap_complete::{Shell, generate};

use crate::Program;

/// Returns the files of a program: their names and contents.
#[must_use]
pub fn files(program: &Program) -> Vec<(String, Vec<u8>)> {
    let file = program.file;
    let names = [
        (Shell::Bash, format!("{file}.bash")),
        (Shell::Elvish, format!("{file}.elv")),
        (Shell::Fish, format!("{file}.fish")),
        (Shell::PowerShell, format!("_{file}.ps1")),
        (Shell::Zsh, format!("_{file}")),
    ];
    let scripts = names.into_iter().map(|(shell, name)| {
        let mut script = Vec::new();
        generate(shell, &mut program.command.clone(), file, &mut script);
        (name, script)
    });
    scripts.collect()
}
