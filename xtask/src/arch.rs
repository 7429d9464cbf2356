//! Processor architectures of the images, the packages and the machines with test kernels, and what cross-compiling to
//! them takes.

use std::process::Command;

use anyhow::bail;
use clap::ValueEnum;

use crate::{process, setup};

/// Processor architecture, by its name in OCI images and in Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// All architectures, in the order of lists.
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Returns the architecture of this machine.
    pub(crate) const fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 }
    }

    /// Returns the name of OCI images and of Debian.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the name of Rust, of QEMU and of `uname -m`.
    pub(crate) const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Returns the target triple of the agent.
    pub(crate) const fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Returns the compiler that compiles and links for this architecture on a machine of another one.
    const fn cross_compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Returns the C compiler for this architecture.
    pub(crate) fn c_compiler(self) -> &'static str {
        if self == Self::host() { "cc" } else { self.cross_compiler() }
    }

    /// Returns cargo's variable that names the linker.
    const fn linker_variable(self) -> &'static str {
        match self {
            Self::Amd64 => "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
            Self::Arm64 => "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
        }
    }

    /// Makes `cargo` link for this architecture, and installs its Rust target if it is missing. A linker that the
    /// environment or cargo's configuration names is used.
    ///
    /// # Errors
    ///
    /// If the target cannot be installed, or there is no linker.
    pub(crate) fn prepare(self, cargo: &mut Command) -> anyhow::Result<()> {
        setup::ensure_target(self.triple())?;
        if self == Self::host() || std::env::var_os(self.linker_variable()).is_some() {
            return Ok(());
        }
        let compiler = self.cross_compiler();
        if process::find_program(compiler).is_none() {
            bail!(
                "{compiler} is not on PATH, which links for {}: install it (Debian: apt-get install gcc-{}-linux-gnu \
                 libc6-dev-{}-cross), or name another linker in {}",
                self.as_str(),
                self.machine().replace('_', "-"),
                self.as_str(),
                self.linker_variable()
            );
        }
        cargo.env(self.linker_variable(), compiler);
        Ok(())
    }
}
