//! Child processes: cargo, rustup and other tools, started in the workspace and with errors that name the command.

use std::env;
use std::ffi::OsStr;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use cargo_metadata::{Message, TargetKind};

/// Toolchain that compiles for the BPF target. aya-build uses the same one.
pub(crate) const NIGHTLY: &str = "nightly";

/// Variables that `cargo run` and rustup's wrappers set for the program they start. A child that inherits them compiles
/// with the wrong toolchain, or takes itself for a part of this package.
const OUTER_CARGO_VARIABLES: [&str; 9] = [
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

/// Returns the workspace's root folder.
pub(crate) fn workspace_root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Returns a command in the workspace's root, without the variables of the cargo that started this program.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    for name in OUTER_CARGO_VARIABLES {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
}

/// Returns `cargo` of the toolchain that runs this program.
pub(crate) fn cargo() -> Command {
    // `RUSTUP_TOOLCHAIN` stays: `cargo +1.95 xtask test` is meant to test with 1.95.
    command("cargo")
}

/// Returns `rustc` of the toolchain that runs this program.
pub(crate) fn rustc() -> Command {
    command("rustc")
}

/// Returns `rustup` that acts on the toolchain that runs this program.
pub(crate) fn rustup_for_this_toolchain() -> Command {
    command("rustup")
}

/// Returns `rustup` without a chosen toolchain.
pub(crate) fn rustup() -> Command {
    let mut command = command("rustup");
    command.env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// Returns `program` of the nightly toolchain.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = rustup();
    command.args(["run", NIGHTLY, program]);
    command
}

/// Returns `tar`.
pub(crate) fn tar() -> Command {
    command("tar")
}

/// Returns `git`.
pub(crate) fn git() -> Command {
    command("git")
}

/// Returns `kubectl`.
pub(crate) fn kubectl() -> Command {
    command("kubectl")
}

/// Returns a shell that runs the command line which is its next argument.
pub(crate) fn shell() -> Command {
    let mut shell = command("sh");
    shell.arg("-c");
    shell
}

/// Returns the target triple of this machine. With `--target` build scripts are compiled without the flags for the
/// target, which sanitizers and static linking need.
pub(crate) fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Returns the command line for messages.
pub(crate) fn display(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Runs a command on this terminal and returns its exit status.
pub(crate) fn status(command: &mut Command) -> anyhow::Result<ExitStatus> {
    command.status().with_context(|| format!("cannot start `{}`", display(command)))
}

/// Runs a command on this terminal.
///
/// # Errors
///
/// If it cannot be started, or does not succeed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed ({status}); its output is above", display(command));
    }
    Ok(())
}

/// Runs a command as [`run`] does, with its standard output sent to standard error.
pub(crate) fn run_on_stderr(command: &mut Command) -> anyhow::Result<()> {
    run(command.stdout(std::io::stderr()))
}

/// Runs a command and returns its standard output, trimmed. Nothing goes to the terminal.
///
/// # Errors
///
/// If it cannot be started, or does not succeed; then with its standard error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", display(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", display(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs `cargo` and returns its JSON messages, which its arguments must ask for. Diagnostics and progress go to standard
/// error.
pub(crate) fn cargo_messages(cargo: &mut Command) -> anyhow::Result<Vec<Message>> {
    let mut child =
        cargo.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{}`", display(cargo)))?;
    let stdout = child.stdout.take().context("cargo's standard output is not a pipe")?;
    let messages: Result<Vec<_>, _> = Message::parse_stream(BufReader::new(stdout)).collect();
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`{}` failed ({status}); its output is above", display(cargo));
    }
    messages.context("cannot read cargo's messages")
}

/// Returns the path of an executable that cargo built, by the kind and the name of its target.
pub(crate) fn built_executable(messages: &[Message], kind: &TargetKind, name: &str) -> anyhow::Result<PathBuf> {
    let executable = messages.iter().find_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == name && artifact.target.kind.contains(kind) => {
            artifact.executable.clone()
        }
        _ => None,
    });
    executable.map(PathBuf::from).with_context(|| format!("cargo built no {kind} named {name}"))
}

/// Returns the path of a program on `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    which::which(name).ok()
}

/// Returns the package's name in a package id of cargo: `path+file:///checkout/NAME#0.1.0` or
/// `path+file:///folder#NAME@0.1.0`.
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
    fn package_id_contains_the_name() {
        assert_eq!(package_name("path+file:///checkout/enforcer-ebpf#0.1.0"), "enforcer-ebpf");
        assert_eq!(package_name("path+file:///checkout/renamed#enforcer-ebpf@0.1.0"), "enforcer-ebpf");
        assert_eq!(package_name("registry+https://example.org/index#helper@1.0.0"), "helper");
    }

    #[test]
    fn executable_is_found_by_kind_and_name() {
        let artifact = |kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///c/enforcer#0.1.0","manifest_path":"/c/Cargo.toml","target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"enforcer","src_path":"/c/x.rs","edition":"2024","doc":true,"doctest":false,"test":true}},"profile":{{"opt_level":"0","debuginfo":1,"debug_assertions":true,"overflow_checks":true,"test":false}},"features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
            )
        };
        let lines =
            [artifact("lib", "null"), artifact("bench", r#""/bench""#), artifact("bin", r#""/bin""#)].join("\n");
        let messages: Vec<Message> = Message::parse_stream(lines.as_bytes()).map(Result::unwrap).collect();
        let find = |kind| built_executable(&messages, &kind, "enforcer");
        assert_eq!(find(TargetKind::Bin).unwrap(), Path::new("/bin"));
        assert_eq!(find(TargetKind::Bench).unwrap(), Path::new("/bench"));
        assert_eq!(find(TargetKind::Test).unwrap_err().to_string(), "cargo built no test named enforcer");
    }
}
