//! `cargo xtask build-ebpf`: builds the BPF object file that the agent embeds.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use cargo_metadata::{Message, camino::Utf8PathBuf};

use crate::{process, setup};

/// Package whose build script compiles the object file.
const PACKAGE: &str = "enforcer-ebpf";
/// Name of the object file in the package's `OUT_DIR`.
const OBJECT: &str = "port-enforcer-bpf";

/// Flags of `cargo xtask build-ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build the object file of a release build of the agent
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(Args { release }: Args) -> anyhow::Result<()> {
    setup::ensure_build_tools()?;

    let object = build(release)?;
    check_object(object.as_std_path())?;
    println!("{object}");
    Ok(())
}

fn build(release: bool) -> anyhow::Result<Utf8PathBuf> {
    let mut cargo = process::cargo();
    cargo.args([
        "build",
        "--package",
        PACKAGE,
        "--lib",
        "--features",
        "object",
        "--message-format=json-render-diagnostics",
    ]);
    if release {
        cargo.arg("--release");
    }
    let mut scripts = process::cargo_messages(&mut cargo)?.into_iter().filter_map(|message| match message {
        Message::BuildScriptExecuted(script) => Some(script),
        _ => None,
    });
    let out_dir = scripts
        .rfind(|script| process::package_name(&script.package_id.repr) == PACKAGE)
        .with_context(|| format!("cargo did not report the build script of {PACKAGE}"))?
        .out_dir;
    Ok(out_dir.join(OBJECT))
}

/// Checks that the file exists and is an ELF file for BPF.
fn check_object(path: &Path) -> anyhow::Result<()> {
    let mut header = [0; 20];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .with_context(|| format!("the build succeeded, but {} is not readable", path.display()))?;
    if elf_machine(&header) != Some(EM_BPF) {
        bail!("the build succeeded, but {} is not an ELF file for BPF", path.display());
    }
    Ok(())
}

/// `e_machine` of BPF object files: `include/uapi/linux/elf-em.h`.
const EM_BPF: u16 = 247;

/// Returns `e_machine` of an ELF file that starts with `header`, read in the byte order that the header declares.
fn elf_machine(header: &[u8; 20]) -> Option<u16> {
    let [0x7f, b'E', b'L', b'F', _, order, .., low, high] = *header else { return None };
    match order {
        1 => Some(u16::from_le_bytes([low, high])),
        2 => Some(u16::from_be_bytes([low, high])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(order: u8, machine: [u8; 2]) -> [u8; 20] {
        let mut header = [0; 20];
        header[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, order]);
        header[18..].copy_from_slice(&machine);
        header
    }

    #[test]
    fn machine_is_read_in_the_byte_order_of_the_file() {
        assert_eq!(elf_machine(&header(1, [247, 0])), Some(EM_BPF));
        assert_eq!(elf_machine(&header(2, [0, 247])), Some(EM_BPF));
        assert_eq!(elf_machine(&header(1, [62, 0])), Some(62), "x86-64");
        assert_eq!(elf_machine(&header(0, [247, 0])), None, "no byte order");
        assert_eq!(elf_machine(&[0; 20]), None, "not an ELF file");
    }
}
