//! Programs of which there are images.

use std::path::PathBuf;

use anyhow::Context as _;
use cargo_metadata::TargetKind;
use clap::ValueEnum;

use crate::arch::Arch;
use crate::dependencies::Dependencies;
use crate::release::Platform;
use crate::{dist_binary, process};

/// A program that has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageProgram {
    /// The agent
    Agent,
    /// The plugin kubectl host-ports, which writes policy reports in a cluster
    Plugin,
}

impl ImageProgram {
    /// Returns the name of the image.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Agent => "port-enforcer",
            Self::Plugin => "kubectl-host-ports",
        }
    }

    /// Returns the package of the workspace.
    pub(super) const fn package(self) -> &'static str {
        match self {
            Self::Agent => "enforcer",
            Self::Plugin => "enforcer-kubectl",
        }
    }

    /// Returns the path in the image.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Agent => "usr/bin/enforcer",
            Self::Plugin => "usr/bin/kubectl-host_ports",
        }
    }

    /// Returns user and group.
    pub(super) const fn user(self) -> &'static str {
        match self {
            Self::Agent => "0:0",
            Self::Plugin => "65532:65532",
        }
    }
}

/// A built program of one architecture.
pub(crate) struct BuiltProgram {
    pub(crate) arch: Arch,
    pub(crate) binary: PathBuf,
    pub(crate) dependencies: Dependencies,
}

impl BuiltProgram {
    /// Builds a program for an architecture.
    pub(crate) fn build(program: ImageProgram, arch: Arch) -> anyhow::Result<Self> {
        match program {
            ImageProgram::Agent => {
                eprintln!("building the agent for {} (takes some minutes the first time)", arch.triple());
                let messages = dist_binary::build(arch, &["--bin", "enforcer"])?;
                let binary = process::built_executable(&messages, &TargetKind::Bin, "enforcer")?;
                Ok(Self { arch, binary, dependencies: Dependencies::of_agent(arch)? })
            }
            ImageProgram::Plugin => {
                let platform = Platform::linux(arch).context("there is no plugin for this architecture")?;
                let binary = dist_binary::plugin_executable(platform)?;
                Ok(Self { arch, binary, dependencies: Dependencies::of_plugin(platform)? })
            }
        }
    }
}
