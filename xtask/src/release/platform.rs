//! Platforms of the kubectl plugin, and what compiling for them takes.

use std::process::Command;

use anyhow::bail;

use crate::arch::Arch;
use crate::{process, setup};

/// Platform of the kubectl plugin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Platform {
    /// Name in the archives, as krew writes it: operating system and architecture.
    pub(crate) name: &'static str,
    /// Target triple.
    pub(crate) triple: &'static str,
    /// File name of the program.
    pub(crate) program: &'static str,
    /// Flags of the compiler.
    pub(crate) flags: &'static [&'static str],
    /// C library that is linked: its name and licence.
    pub(crate) c_library: (&'static str, &'static str),
    /// C compiler, which links too, on a machine of another platform.
    cross_compiler: &'static str,
    /// Package of Debian that contains that compiler.
    package: &'static str,
}

/// Nothing unwinds: a panic ends the program. Windows needs the tables all the same.
pub(crate) const NO_UNWINDING: [&str; 2] = ["-Cforce-unwind-tables=no", "-Clink-arg=-Wl,--no-eh-frame-hdr"];

const MUSL: (&str, &str) = ("musl", "MIT");

/// All platforms that are built. There is none for macOS: the plugin takes certificates from the system there, and only
/// Apple's SDK, which is not free to pass on, has the libraries to link with.
pub(crate) const PLATFORMS: [Platform; 3] = [
    Platform {
        name: "linux-amd64",
        triple: "x86_64-unknown-linux-musl",
        program: "kubectl-host_ports",
        flags: &NO_UNWINDING,
        c_library: MUSL,
        cross_compiler: "x86_64-linux-gnu-gcc",
        package: "gcc-x86-64-linux-gnu",
    },
    Platform {
        name: "linux-arm64",
        triple: "aarch64-unknown-linux-musl",
        program: "kubectl-host_ports",
        flags: &NO_UNWINDING,
        c_library: MUSL,
        cross_compiler: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
    },
    Platform {
        name: "windows-amd64",
        triple: "x86_64-pc-windows-gnu",
        program: "kubectl-host_ports.exe",
        // Without it, the linker writes the time into the file.
        flags: &["-Clink-arg=-Wl,--no-insert-timestamp"],
        c_library: ("mingw-w64", "ZPL-2.1 AND LicenseRef-mingw-w64-runtime"),
        cross_compiler: "x86_64-w64-mingw32-gcc",
        package: "gcc-mingw-w64-x86-64",
    },
];

impl Platform {
    /// Returns the platform of Linux on this architecture.
    pub(crate) fn linux(arch: Arch) -> Option<&'static Self> {
        PLATFORMS.iter().find(|platform| platform.name == format!("linux-{}", arch.as_str()))
    }

    /// Returns true if this machine can run the program.
    pub(crate) fn is_host(&self) -> bool {
        self.name == format!("linux-{}", Arch::host().as_str())
    }

    /// Returns the C compiler for the platform.
    fn compiler(&self) -> &'static str {
        if self.is_host() { "cc" } else { self.cross_compiler }
    }

    /// Returns what is missing on this machine, with the remedy.
    pub(super) fn missing(&self) -> Option<String> {
        let compiler = self.compiler();
        let is_missing = process::find_program(compiler).is_none();
        is_missing.then(|| format!("{compiler} (Debian: {})", self.package))
    }

    /// Makes `cargo` compile and link for this platform, and installs its Rust target if it is missing.
    pub(crate) fn prepare(&self, cargo: &mut Command) -> anyhow::Result<()> {
        setup::ensure_target(self.triple)?;
        if let Some(missing) = self.missing() {
            bail!("not on PATH: {missing}");
        }
        let variable = self.triple.replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), self.compiler());
        // For musl, the crates with C parts look for a compiler that few machines have. Theirs use nothing of the library.
        cargo.env(format!("CC_{variable}"), self.compiler());
        Ok(())
    }
}
