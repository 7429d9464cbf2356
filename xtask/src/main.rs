//! The developer's commands: `cargo xtask <command>`.

mod bench;
mod build_ebpf;
mod demo;
mod kernels;
mod process;
mod root;
mod setup;
mod test;

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
    DemoChild(demo::child::Args),
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
        Command::DemoChild(args) => demo::child::run(args).map(|()| ExitCode::SUCCESS),
        Command::Kernels(args) => kernels::run(args),
        Command::Test(args) => test::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
