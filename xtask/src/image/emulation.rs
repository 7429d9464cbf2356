//! Check of an image for another architecture: its agent runs under QEMU's user-mode emulation, which has no BPF. So it
//! shows that the program starts, does its work that needs no kernel feature, and refuses the rest in one sentence.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, bail};
use tar::Archive;
use tempfile::TempDir;

use super::oci_archive::AGENT_PATH;
use crate::arch::Arch;
use crate::process;

/// Two pods that cannot share a node.
const MANIFEST: &str = "deploy/examples/two-replicas.yaml";

/// Exit code of a kernel that lacks what the agent needs.
const UNSUPPORTED: i32 = 3;

/// Unpacks the layer and runs its agent.
pub(super) fn run(arch: Arch, layer: &[u8]) -> anyhow::Result<()> {
    let names = [format!("qemu-{}-static", arch.machine()), format!("qemu-{}", arch.machine())];
    let Some(qemu) = names.iter().find_map(|name| process::find_program(name)) else {
        bail!(
            "{} is not on PATH, which runs the agent for {}: install it (Debian: apt-get install qemu-user-static)",
            names.join(" or "),
            arch.as_str()
        );
    };
    let root = TempDir::new().context("cannot create a folder for the image's root")?;
    Archive::new(layer).unpack(root.path()).context("cannot unpack the layer")?;
    let agent = |arguments: &[&str]| -> anyhow::Result<Output> {
        let mut command = Command::new(&qemu);
        command.arg(root.path().join(AGENT_PATH)).args(arguments).current_dir(process::workspace_root());
        command.output().with_context(|| format!("cannot start `{}`", process::display(&command)))
    };
    let expect = |arguments: &[&str], code: i32, sentence: &str| -> anyhow::Result<()> {
        let output = agent(arguments)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if output.status.code() != Some(code) || !text.contains(sentence) {
            bail!(
                "`enforcer {}` of the image for {} ended with {}, not with code {code} and '{sentence}'; it printed:\n{text}",
                arguments.join(" "),
                arch.as_str(),
                output.status
            );
        }
        Ok(())
    };
    expect(&["--version"], 0, env!("CARGO_PKG_VERSION"))?;
    expect(&["check", "--nodes", "1", MANIFEST], 1, "[replicas]")?;
    // A folder of manifests, so that it asks no API server.
    let manifests = root.path().join("run/manifests");
    fs::create_dir_all(&manifests).context("cannot create a folder for manifests")?;
    let manifests = manifests.to_string_lossy();
    expect(&["run", "--source", &format!("dir:{manifests}")], UNSUPPORTED, "the kernel cannot be used")?;
    eprintln!("image: the agent for {} runs, and refuses the emulated kernel as it should", arch.as_str());
    Ok(())
}
