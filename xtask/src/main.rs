//! The developer's commands: `cargo xtask <command>`.

mod arch;
mod bench;
mod build_ebpf;
mod demo;
mod dependencies;
mod dist_binary;
mod e2e;
mod file_tree;
mod fuzz;
mod image;
mod kernels;
mod manual;
mod output_format;
mod parallel;
mod process;
mod release;
mod sbom;
mod setup;
mod siege;
mod sudo;
mod test;
mod xml_escape;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test, measure and demonstrate port-enforcer
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the cost of the enforcer beside its alternatives; fails if a threshold is exceeded
    Bench(bench::Args),
    /// Find or install the tools that compile the kernel programs
    Setup(setup::Args),
    /// Build the BPF object file that the agent embeds, and print its path
    BuildEbpf(build_ebpf::Args),
    /// Show port conflicts on this machine: without the enforcer, in audit mode, in enforce mode
    Demo(demo::Args),
    /// Run a child process of the demo
    #[command(hide = true)]
    DemoChild(demo::child_process::Args),
    /// Run the whole story as tests on a real cluster, and remove all of it at the end
    E2e(e2e::Args),
    /// Fuzz the code that reads untrusted input
    Fuzz(fuzz::Args),
    /// Build the container image as an OCI archive
    Image(image::Args),
    /// Run the kernel tests on several kernels, each in its own virtual machine
    Kernels(kernels::Args),
    /// Write the manual pages and shell completions of both programs into a folder
    Manual(manual::Args),
    /// Make all files of a release, with their checksums
    Release(release::Args),
    /// Run the tests under load in full length, and write their figures into docs/reliability.md
    Siege(siege::Args),
    /// Run all checks and tests; the last line counts passed, failed and skipped ones
    Test(test::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(args),
        Command::Setup(args) => setup::run(args).map(|()| ExitCode::SUCCESS),
        Command::BuildEbpf(args) => build_ebpf::run(args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(args),
        Command::DemoChild(args) => demo::child_process::run(args).map(|()| ExitCode::SUCCESS),
        Command::E2e(args) => e2e::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Image(args) => image::run(args).map(|()| ExitCode::SUCCESS),
        Command::Kernels(args) => kernels::run(args),
        Command::Manual(args) => manual::run(args).map(|()| ExitCode::SUCCESS),
        Command::Release(args) => release::run(args).map(|()| ExitCode::SUCCESS),
        Command::Siege(args) => siege::run(args),
        Command::Test(args) => test::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Splits a command line at spaces outside quotes. A variable in quotes is a word like any other.
    fn split_shell_words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for character in line.chars() {
            match (character, quote) {
                (' ', None) => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
                ('"' | '\'', None) => quote = Some(character),
                (character, Some(open)) if character == open => quote = None,
                _ => word.push(if character == '$' { 'a' } else { character }),
            }
        }
        words.extend(Some(word).filter(|word| !word.is_empty()));
        words
    }

    #[test]
    fn documented_commands_are_accepted_with_their_flags() {
        let root = process::workspace_root();
        let folders = [root.to_path_buf(), root.join("docs")];
        let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut count = 0;
        for page in paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
            let text = fs::read_to_string(&page).unwrap();
            let mut in_shell_block = false;
            for line in text.lines() {
                if let Some(language) = line.strip_prefix("```") {
                    in_shell_block = language == "sh";
                }
                let Some(words) = line.strip_prefix("cargo xtask ").filter(|_| in_shell_block) else { continue };
                let words = words.split('#').next().unwrap_or_default().split_whitespace();
                if let Err(error) = Cli::try_parse_from(["cargo xtask"].into_iter().chain(words)) {
                    panic!("{}: {line}: {error}", page.display());
                }
                count += 1;
            }
        }
        assert!(count >= 8, "{count} commands were found");
        count = 0;
        for entry in fs::read_dir(root.join(".github/workflows")).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap().replace("\\\n", " ").replace("\"$ARCH\"", "arm64");
            for (_, command) in text.lines().filter_map(|line| line.split_once("cargo xtask ")) {
                let words = ["cargo xtask".to_owned()].into_iter().chain(split_shell_words(command));
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{}: {command}: {error}", path.display());
                }
                count += 1;
            }
        }
        assert!(count >= 4, "{count} commands were found in workflows");
        assert!(Cli::try_parse_from(["cargo xtask", "image", "--no-such-flag"]).is_err());
    }
}
