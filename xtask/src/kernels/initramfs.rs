//! Initramfs of a machine: static executables in an archive that the kernel unpacks into memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cargo_metadata::TargetKind;

use super::Shard;
use super::kernel_images::KernelImage;
use crate::{arch::Arch, process};

/// With `--target`, even for this machine, cargo does not pass the flags to build scripts.
const FLAGS: &str = "-Ctarget-feature=+crt-static";
/// Profile in Cargo.toml. Its code is faster than a development build, which matters where the machine is emulated.
const PROFILE: &str = "guest";

/// Returns the end of the kernel's command line: the shard, then, behind ` -- `, the programs and their arguments.
pub(super) fn kernel_arguments(Shard { number, count }: Shard, test: Option<&str>) -> String {
    let programs = TEST_PROGRAMS.map(|(program, filter)| format!("{program} --color=never {}", test.unwrap_or(filter)));
    // The kernel passes an unknown word with a `=` to the first process as an environment variable
    // (`unknown_bootoption` in init/main.c).
    format!("{SHARD_VARIABLE}={number}/{count} -- {}", programs.join(" , "))
}

/// Variable with the shard, for the tests (`enforcer/tests/support/own_machine.rs`).
const SHARD_VARIABLE: &str = "PORT_ENFORCER_TEST_PART";

/// Paths of the test executables in a machine, with the filters of their tests: all kernel tests, and the agent's tests
/// that need a machine of their own.
pub(super) const TEST_PROGRAMS: [(&str, &str); 2] = [("/init", ""), ("/bin/agent-tests", "scope_node::")];

/// Executables of a machine.
#[derive(Debug)]
pub(super) struct GuestExecutables {
    /// Kernel tests. This executable is also the machine's first process.
    kernel_tests: PathBuf,
    agent_tests: PathBuf,
    enforcer: PathBuf,
}

impl GuestExecutables {
    /// Builds the executables. Cargo shows its progress.
    pub(super) fn build(arch: Arch) -> anyhow::Result<Self> {
        let mut cargo = process::cargo();
        cargo
            .args([
                "test",
                "--package",
                "enforcer",
                "--test",
                "kernel",
                "--test",
                "agent",
                "--no-run",
                "--target",
                arch.triple(),
            ])
            .args(["--profile", PROFILE, "--message-format=json-render-diagnostics"])
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
        arch.prepare(&mut cargo)?;
        let messages = process::cargo_messages(&mut cargo)?;
        Ok(Self {
            kernel_tests: process::built_executable(&messages, &TargetKind::Test, "kernel")?,
            agent_tests: process::built_executable(&messages, &TargetKind::Test, "agent")?,
            enforcer: process::built_executable(&messages, &TargetKind::Bin, "enforcer")?,
        })
    }

    /// Writes the initramfs for a kernel to `path`.
    pub(super) fn pack(&self, path: &Path, image: &KernelImage) -> anyhow::Result<()> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut archive = CpioArchive::default();
        for folder in ["dev", "proc", "sys", "tmp", "bin", "boot", "modules"] {
            archive.add(folder, FOLDER, &[], (0, 0))?;
        }
        // The descriptors of the first process come from here, because not every kernel mounts devtmpfs by itself.
        archive.add("dev/console", CONSOLE, &[], (5, 1))?;
        archive.add("init", EXECUTABLE, &read(&self.kernel_tests)?, (0, 0))?;
        archive.add("bin/agent-tests", EXECUTABLE, &read(&self.agent_tests)?, (0, 0))?;
        archive.add("bin/enforcer", EXECUTABLE, &read(&self.enforcer)?, (0, 0))?;
        if let Some(config) = &image.config {
            archive.add(&format!("boot/config-{}", image.release), FILE, &read(config)?, (0, 0))?;
        }
        for module in &image.modules {
            let name = module.file_name().and_then(|name| name.to_str()).context("a module has no name")?;
            archive.add(&format!("modules/{name}"), FILE, &read(module)?, (0, 0))?;
        }
        fs::write(path, archive.finish()?).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Types and permissions of files, as in `st_mode`.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// A cpio archive in the format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's
/// sources).
#[derive(Default)]
struct CpioArchive {
    bytes: Vec<u8>,
    entries: u32,
}

impl CpioArchive {
    /// Adds a file. The last argument is the major and minor number of a device file, else zeros.
    fn add(&mut self, name: &str, mode: u32, content: &[u8], (major, minor): (u32, u32)) -> anyhow::Result<()> {
        let Ok(size) = u32::try_from(content.len()) else {
            bail!("{name} is too large for an archive: {} bytes", content.len());
        };
        let name_size = u32::try_from(name.len() + 1).with_context(|| format!("the name {name} is too long"))?;
        self.entries += 1;
        self.bytes.extend(b"070701");
        // Inode, mode, user, group, links, time, size, device of the archive (two), own device (two), name, checksum.
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    /// Pads to a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, &[], (0, 0))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_the_layout_of_newc() {
        let mut archive = CpioArchive::default();
        archive.add("init", EXECUTABLE, b"abcde", (0, 0)).unwrap();
        archive.add("dev/console", CONSOLE, &[], (5, 1)).unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let zero = "00000000";
        // The header has 110 bytes; name and content are padded to multiples of 4.
        let first = format!(
            "07070100000001000081ed{zero}{zero}00000001{zero}00000005{zero}{zero}{zero}{zero}00000005{zero}\
             init\0\0abcde\0\0\0"
        );
        let (start, rest) = text.split_at(first.len());
        assert_eq!(start, first);
        assert!(rest.starts_with("07070100000002"), "{rest:?}");
        assert!(rest.contains(&format!("0000000500000001{:08x}", "dev/console".len() + 1)), "{rest:?}");
        assert!(text.contains("TRAILER!!!\0") && text.len().is_multiple_of(4));
    }

    #[test]
    fn filter_replaces_the_default_filters() {
        let only = Shard { number: 1, count: 1 };
        let all = "PORT_ENFORCER_TEST_PART=1/1 -- /init --color=never  , /bin/agent-tests --color=never scope_node::";
        assert_eq!(kernel_arguments(only, None), all);
        let some = kernel_arguments(Shard { number: 2, count: 3 }, Some("overlap"));
        assert!(some.starts_with("PORT_ENFORCER_TEST_PART=2/3 -- /init --color=never overlap , /bin/"), "{some}");
    }
}
