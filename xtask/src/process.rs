//! Child processes: cargo and rustup as a developer would call them, and errors that say what was run.

use std::env;
use std::ffi::OsStr;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use cargo_metadata::Message;

/// The toolchain that compiles for the BPF target; aya-build takes the same one.
pub(crate) const NIGHTLY: &str = "nightly";

/// What `cargo run` and rustup's wrappers put into the environment of the program they start. A child that inherits
/// it compiles with another toolchain than it says, or takes itself for a part of this package.
const OF_THE_OUTER_CARGO: [&str; 9] = [
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
];

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// A command in the workspace's root, without the environment of the cargo that started this program.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for name in OF_THE_OUTER_CARGO {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo` of the toolchain that runs this program.
pub(crate) fn cargo() -> Command {
    // `RUSTUP_TOOLCHAIN` stays: `cargo +1.95 xtask test` is meant to test with 1.95.
    command("cargo")
}

/// `rustc` of the toolchain that runs this program.
pub(crate) fn rustc() -> Command {
    command("rustc")
}

/// `program` of the nightly toolchain.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = rustup();
    command.args(["run", NIGHTLY, program]);
    command
}

/// The platform of this machine. Sanitizers need it named, so that build scripts go without them.
pub(crate) fn triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// `rustup` itself.
pub(crate) fn rustup() -> Command {
    let mut command = command("rustup");
    command.env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// `tar` itself.
pub(crate) fn tar() -> Command {
    command("tar")
}

/// `git` itself.
pub(crate) fn git() -> Command {
    command("git")
}

/// How a command is written in messages.
pub(crate) fn display(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Runs a command to its end; it shares the terminal.
pub(crate) fn status(command: &mut Command) -> anyhow::Result<ExitStatus> {
    command.status().with_context(|| format!("`{}` could not be started", display(command)))
}

/// Runs a command to its end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed ({status}); what it said is above", display(command));
    }
    Ok(())
}

/// Like [`run`], with what the command prints moved to standard error, so that standard output keeps its meaning.
pub(crate) fn run_on_stderr(command: &mut Command) -> anyhow::Result<()> {
    run(command.stdout(std::io::stderr()))
}

/// What a command prints on standard output, trimmed. It says nothing on the terminal; its errors are in the error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{}` could not be started", display(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", display(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What cargo says to programs while it runs `cargo`, which must have asked for JSON messages. What cargo says to people
/// goes to standard error as ever.
pub(crate) fn cargo_messages(cargo: &mut Command) -> anyhow::Result<Vec<Message>> {
    let mut child =
        cargo.stdout(Stdio::piped()).spawn().with_context(|| format!("`{}` could not be started", display(cargo)))?;
    let stdout = child.stdout.take().context("cargo's standard output is not a pipe")?;
    let messages: Result<Vec<_>, _> = Message::parse_stream(BufReader::new(stdout)).collect();
    let status = child.wait().context("cargo could not be waited for")?;
    if !status.success() {
        bail!("`{}` failed ({status}); what it said is above", display(cargo));
    }
    messages.context("cargo's messages could not be read")
}

/// Where a program is on `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    which::which(program).ok()
}

/// The name in one of cargo's package ids: `path+file:///checkout/NAME#0.1.0`, `path+file:///folder#NAME@0.1.0`.
pub(crate) fn package_name(id: &str) -> &str {
    let (location, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => location.rsplit('/').next().unwrap_or(location),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_is_named_by_its_id() {
        assert_eq!(package_name("path+file:///checkout/enforcer-ebpf#0.1.0"), "enforcer-ebpf");
        assert_eq!(package_name("path+file:///checkout/renamed#enforcer-ebpf@0.1.0"), "enforcer-ebpf");
        assert_eq!(package_name("registry+https://example.org/index#helper@1.0.0"), "helper");
    }
}
