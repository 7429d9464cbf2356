//! The smoke run: the agent from the unpacked image, with the capabilities and the view of the `DaemonSet`'s container. The
//! tests are `enforcer/tests/daemonset`, which are told where the image's root is.

use anyhow::{Context as _, bail};
use cargo_metadata::{Message, TargetKind};
use tar::Archive;
use tempfile::TempDir;

use super::oci_archive::PROGRAM;
use crate::process;
use crate::sudo::Root;

/// Tells the tests where the image's root is.
const ROOT: &str = "PORT_ENFORCER_TEST_IMAGE";

/// Unpacks the layer and runs the tests on it.
pub(super) fn run(layer: &[u8]) -> anyhow::Result<()> {
    let root = TempDir::new().context("no folder could be made for the image's root")?;
    Archive::new(layer).unpack(root.path()).context("the layer could not be unpacked")?;
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
    let tests = process::cargo_messages(&mut cargo)?.into_iter().find_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.kind.contains(&TargetKind::Test) => artifact.executable,
        _ => None,
    });
    let tests = tests.context("cargo built no test named daemonset")?;
    let environment = vec![
        (ROOT.to_owned(), root.path().display().to_string()),
        // As it is seen from there.
        ("CARGO_BIN_EXE_enforcer".to_owned(), format!("/{PROGRAM}")),
    ];
    let how = Root::find();
    if how == Root::Unavailable {
        bail!("running the agent from the image takes root: run `sudo cargo xtask image --check`");
    }
    let mut command = how.command(tests.as_std_path(), environment);
    process::run_on_stderr(command.current_dir(process::root().join("enforcer")))
        .context("the agent does not work from the image")
}
