//! The binary as it is shipped: one file, whatever C library is where it runs, as small as it gets, and the same bytes
//! wherever its sources were. The image has it, and the benchmark measures it.

use anyhow::Context as _;
use cargo_metadata::Message;

use crate::process;

/// The profile of the workspace's manifest.
const PROFILE: &str = "dist";

/// Builds these targets of the package for this target, and gives what cargo tells of it; cargo shows its progress. The
/// target is named even where it is this machine's own: so the flags do not reach build scripts and macros, which cannot be
/// linked that way.
pub(crate) fn build(target: &str, what: &[&str]) -> anyhow::Result<Vec<Message>> {
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        // Nothing unwinds: a panic ends the agent.
        "-Cforce-unwind-tables=no".to_owned(),
        format!("--remap-path-prefix={}=/source", process::root().display()),
        format!("--remap-path-prefix={cargo_home}=/cargo"),
    ];
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--locked", "--package", "enforcer", "--profile", PROFILE, "--target", target])
        .args(what)
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    process::cargo_messages(&mut cargo).with_context(|| {
        format!(
            "the agent could not be built for {target}; for another target than this machine's, `rustup target add {target}` and its linker are needed"
        )
    })
}
