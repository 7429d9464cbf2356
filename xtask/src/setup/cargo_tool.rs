//! Tools that `cargo install` provides.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::process;

/// A program on crates.io, with the version to install where it is missing.
pub(super) struct CargoTool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
}

impl CargoTool {
    /// Returns the tool's path, after installing it if it is not on `PATH`. Any version on `PATH` is accepted.
    pub(super) fn ensure(&self) -> anyhow::Result<PathBuf> {
        let Self { name, version } = self;
        if let Some(path) = process::find_program(name) {
            return Ok(path);
        }
        eprintln!("setup: installing {name} {version} with cargo (takes about a minute)");
        let mut install = process::cargo();
        // A shared target folder and flags for this project are not for the tool.
        install.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        process::run_on_stderr(install.args(["install", name, "--version", version, "--locked"]))
            .with_context(|| format!("{name} is not on PATH and cannot be installed"))?;
        process::find_program(name).with_context(|| {
            format!("cargo installed {name}, but its folder is not on PATH: add ~/.cargo/bin (or $CARGO_HOME/bin)")
        })
    }

    /// Describes the installed tool by its version and its path.
    pub(super) fn describe(&self, path: &Path) -> String {
        let version = process::output(Command::new(path).arg("--version"));
        format!("{} at {}", version.as_deref().unwrap_or(self.name), path.display())
    }
}
