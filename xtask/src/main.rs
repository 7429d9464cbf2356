//! The developer's commands: `cargo xtask <command>`.

mod bench;
mod build_ebpf;
mod demo;
mod dist_binary;
mod fuzz;
mod image;
mod kernels;
mod output_format;
mod parallel;
mod process;
mod setup;
mod sudo;
mod test;
mod xml_escape;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, check and show port-enforcer.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what the enforcer costs, beside what people would use instead; fails if it is more than it may
    Bench(bench::Args),
    /// Find or install what the build of the kernel programs needs
    Setup(setup::Args),
    /// Build the kernel programs' object as the agent embeds it, and print its path
    BuildEbpf(build_ebpf::Args),
    /// Tell the whole story on this machine: without the enforcer, in audit, in enforce
    Demo(demo::Args),
    /// Be a process of the demo
    #[command(hide = true)]
    DemoChild(demo::child_process::Args),
    /// Fuzz what others write and the enforcer reads
    Fuzz(fuzz::Args),
    /// Build the container image, as an OCI archive
    Image(image::Args),
    /// Run the kernel tests on many kernels, each in a virtual machine of its own
    Kernels(kernels::Args),
    /// Run every check and test; the last line says how many passed, failed and were skipped
    Test(test::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(args),
        Command::Setup(args) => setup::run(args).map(|()| ExitCode::SUCCESS),
        Command::BuildEbpf(args) => build_ebpf::run(args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(args),
        Command::DemoChild(args) => demo::child_process::run(args).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Image(args) => image::run(args).map(|()| ExitCode::SUCCESS),
        Command::Kernels(args) => kernels::run(args),
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

    /// What the documentation tells people to type is taken, flags and all.
    #[test]
    fn every_command_of_the_documentation_is_one() {
        let root = process::root();
        let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let mut count = 0;
        for page in pages.chain([root.join("README.md")]) {
            let text = fs::read_to_string(&page).unwrap();
            let mut inside = false;
            for line in text.lines() {
                if let Some(language) = line.strip_prefix("```") {
                    inside = language == "sh";
                }
                let Some(words) = line.strip_prefix("cargo xtask ").filter(|_| inside) else { continue };
                let words = words.split('#').next().unwrap_or_default().split_whitespace();
                if let Err(error) = Cli::try_parse_from(["cargo xtask"].into_iter().chain(words)) {
                    panic!("{}: {line}: {error}", page.display());
                }
                count += 1;
            }
        }
        assert!(count >= 8, "{count} commands were found");
        assert!(Cli::try_parse_from(["cargo xtask", "image", "--no-such-flag"]).is_err());
    }
}
