//! Smoke test of the image: runs `enforcer/tests/daemonset` with the agent of the unpacked image, with the capabilities
//! and the file system of the `DaemonSet`'s container.

use anyhow::{Context as _, bail};
use cargo_metadata::TargetKind;
use tar::Archive;
use tempfile::TempDir;

use super::program::ImageProgram;
use crate::process;
use crate::sudo::RootAccess;

/// Variable with the path of the image's root, for the tests.
const IMAGE_ROOT: &str = "PORT_ENFORCER_TEST_IMAGE";

/// Unpacks the layer and runs the tests on it.
pub(super) fn run(layer: &[u8]) -> anyhow::Result<()> {
    let root = TempDir::new().context("cannot create a folder for the image's root")?;
    Archive::new(layer).unpack(root.path()).context("cannot unpack the layer")?;
    let mut cargo = process::cargo();
    cargo.args([
        "test",
        "--package",
        "enforcer",
        "--test",
        "daemonset",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let tests = process::built_executable(&process::cargo_messages(&mut cargo)?, &TargetKind::Test, "daemonset")?;
    let environment = vec![
        (IMAGE_ROOT.to_owned(), root.path().display().to_string()),
        // The path inside the image.
        ("CARGO_BIN_EXE_enforcer".to_owned(), format!("/{}", ImageProgram::Agent.path())),
    ];
    let access = RootAccess::detect();
    if access == RootAccess::Unavailable {
        bail!("running the agent from the image needs root: run as root or install sudo");
    }
    let mut command = access.command(&tests, environment);
    process::run_on_stderr(command.current_dir(process::workspace_root().join("enforcer")))
        .context("the agent of the image does not work")
}
