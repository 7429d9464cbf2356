//! Check of a program that this machine cannot run with all it needs: under QEMU's user-mode emulation for another
//! architecture, which has no BPF, or the kubectl plugin without a cluster. So it shows that the program starts, does its
//! work that needs nothing else, and refuses the rest in one sentence.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, bail};
use tar::Archive;
use tempfile::TempDir;

use super::program::ImageProgram;
use crate::arch::Arch;
use crate::process;

/// Two pods that cannot share a node.
const MANIFEST: &str = "deploy/examples/two-replicas.yaml";

/// Exit code of a kernel that lacks what the agent needs.
const UNSUPPORTED: i32 = 3;
/// Exit code of the plugin without a kubeconfig.
const WRONG_USE: i32 = 2;

/// Unpacks the layer and runs its program.
pub(super) fn run(program: ImageProgram, arch: Arch, layer: &[u8]) -> anyhow::Result<()> {
    let root = TempDir::new().context("cannot create a folder for the image's root")?;
    Archive::new(layer).unpack(root.path()).context("cannot unpack the layer")?;
    let path = root.path().join(program.path());
    let emulator = if arch == Arch::host() { None } else { Some(emulator(arch)?) };
    let run = |arguments: &[&str]| -> anyhow::Result<Output> {
        let mut command = match &emulator {
            Some(emulator) => {
                let mut command = Command::new(emulator);
                command.arg(&path);
                command
            }
            None => Command::new(&path),
        };
        command.args(arguments).current_dir(process::workspace_root()).env_clear();
        command.output().with_context(|| format!("cannot start `{}`", process::display(&command)))
    };
    let expect = |arguments: &[&str], code: i32, sentence: &str| -> anyhow::Result<()> {
        let output = run(arguments)?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if output.status.code() != Some(code) || !text.contains(sentence) {
            bail!(
                "`{} {}` of the image for {} ended with {}, not with code {code} and '{sentence}'; it printed:\n{text}",
                program.path(),
                arguments.join(" "),
                arch.as_str(),
                output.status
            );
        }
        Ok(())
    };
    expect(&["--version"], 0, env!("CARGO_PKG_VERSION"))?;
    if program == ImageProgram::Agent {
        expect(&["check", "--nodes", "1", MANIFEST], 1, "[replicas]")?;
        // A folder of manifests, so that it asks no API server.
        let manifests = root.path().join("run/manifests");
        fs::create_dir_all(&manifests).context("cannot create a folder for manifests")?;
        expect(
            &["run", "--source", &format!("dir:{}", manifests.display())],
            UNSUPPORTED,
            "the kernel cannot be used",
        )?;
    } else {
        expect(&["check", "--offline", "--nodes", "1", MANIFEST], 1, "[replicas]")?;
        expect(&["policy-reports"], WRONG_USE, "kubeconfig")?;
    }
    eprintln!("image: {} for {} runs, and refuses what is not there as it should", program.name(), arch.as_str());
    Ok(())
}

/// Returns the path of QEMU's user-mode emulator for an architecture.
fn emulator(arch: Arch) -> anyhow::Result<PathBuf> {
    let names = [format!("qemu-{}-static", arch.machine()), format!("qemu-{}", arch.machine())];
    names.iter().find_map(|name| process::find_program(name)).with_context(|| {
        format!(
            "{} is not on PATH, which runs programs for {}: install it (Debian: apt-get install qemu-user-static)",
            names.join(" or "),
            arch.as_str()
        )
    })
}
