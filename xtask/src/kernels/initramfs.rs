//! What is in a machine: static binaries in an archive that the kernel unpacks into memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cargo_metadata::{Message, TargetKind};

use super::Part;
use super::kernel_images::Image;
use crate::process;

/// The target is named, even though it is this machine's own, so that the flags do not reach build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-Ctarget-feature=+crt-static";
/// Faster than a development build, since the machine is emulated; see Cargo.toml.
const PROFILE: &str = "guest";

/// The end of the kernel's command line: which part of the tests is run, and, behind ` -- `, the programs to run and their
/// arguments.
pub(super) fn arguments(Part { number, of }: Part, test: Option<&str>) -> String {
    let programs = PROGRAMS.map(|(program, tests)| format!("{program} --color=never {}", test.unwrap_or(tests)));
    // A word with a `=` that the kernel does not know goes into the environment of the first process
    // (`unknown_bootoption` in init/main.c).
    format!("{PART}={number}/{of} -- {}", programs.join(" , "))
}

/// Names the variable that tells tests which part of them is run (`enforcer/tests/support/own_machine.rs`).
const PART: &str = "PORT_ENFORCER_TEST_PART";

/// The test executables, by their places in a machine, and which of their tests are run there: all of the kernel's, and
/// of the agent's those that run nowhere else.
pub(super) const PROGRAMS: [(&str, &str); 2] = [("/init", ""), ("/bin/agent-tests", "machine::")];

/// The binaries of a machine.
#[derive(Debug)]
pub(super) struct Guest {
    /// The tests of the kernel, which are the machine's first process too.
    kernel_tests: PathBuf,
    agent_tests: PathBuf,
    enforcer: PathBuf,
}

impl Guest {
    pub(super) fn build() -> anyhow::Result<Self> {
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
                TARGET,
            ])
            .args(["--profile", PROFILE, "--message-format=json-render-diagnostics"])
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS);
        let (mut kernel_tests, mut agent_tests, mut enforcer) = (None, None, None);
        for message in process::cargo_messages(&mut cargo)? {
            let Message::CompilerArtifact(artifact) = message else { continue };
            let Some(path) = artifact.executable else { continue };
            let is_test = artifact.target.kind.contains(&TargetKind::Test);
            match (artifact.target.name.as_str(), is_test) {
                ("kernel", true) => kernel_tests = Some(path),
                ("agent", true) => agent_tests = Some(path),
                ("enforcer", false) => enforcer = Some(path),
                _ => {}
            }
        }
        Ok(Self {
            kernel_tests: kernel_tests.context("cargo built no test named kernel")?.into(),
            agent_tests: agent_tests.context("cargo built no test named agent")?.into(),
            enforcer: enforcer.context("cargo built no binary named enforcer")?.into(),
        })
    }

    /// Writes the archive for a kernel.
    pub(super) fn pack(&self, path: &Path, image: &Image) -> anyhow::Result<PathBuf> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let mut archive = Archive::default();
        for folder in ["dev", "proc", "sys", "tmp", "bin", "boot", "modules"] {
            archive.add(folder, FOLDER, &[], (0, 0))?;
        }
        // The first process has its descriptors from here; not every kernel mounts devtmpfs by itself.
        archive.add("dev/console", CONSOLE, &[], (5, 1))?;
        archive.add("init", EXECUTABLE, &read(&self.kernel_tests)?, (0, 0))?;
        archive.add("bin/agent-tests", EXECUTABLE, &read(&self.agent_tests)?, (0, 0))?;
        archive.add("bin/enforcer", EXECUTABLE, &read(&self.enforcer)?, (0, 0))?;
        if let Some(config) = &image.config {
            archive.add(&format!("boot/config-{}", image.release), FILE, &read(config)?, (0, 0))?;
        }
        for module in &image.modules {
            let name = module.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
            archive.add(&format!("modules/{name}"), FILE, &read(module)?, (0, 0))?;
        }
        fs::write(path, archive.finish()?).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path.to_owned())
    }
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive in the form "newc" (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a file; `device` is the major and minor number of a device, else zeros.
    fn add(&mut self, name: &str, mode: u32, content: &[u8], (major, minor): (u32, u32)) -> anyhow::Result<()> {
        let Ok(size) = u32::try_from(content.len()) else {
            bail!("{name} is too large for an archive: {} bytes", content.len());
        };
        let name_size = u32::try_from(name.len() + 1).context("a long name")?;
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
    fn an_archive_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
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
    fn a_filter_goes_to_the_tests() {
        let whole = Part { number: 1, of: 1 };
        let all = "PORT_ENFORCER_TEST_PART=1/1 -- /init --color=never  , /bin/agent-tests --color=never machine::";
        assert_eq!(arguments(whole, None), all);
        let some = arguments(Part { number: 2, of: 3 }, Some("overlap"));
        assert!(some.starts_with("PORT_ENFORCER_TEST_PART=2/3 -- /init --color=never overlap , /bin/"), "{some}");
    }
}
