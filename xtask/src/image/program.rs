//! Programs of which there are images.

use std::path::PathBuf;

use anyhow::Context as _;
use cargo_metadata::TargetKind;
use clap::ValueEnum;

use crate::arch::Arch;
use crate::dependencies::Dependencies;
use crate::release::Platform;
use crate::{dist_binary, process};

/// A program with what its image says of it.
#[derive(Debug)]
pub(crate) struct ImageProgram {
    /// Name of the image.
    pub(crate) name: &'static str,
    /// Package of the workspace.
    pub(super) package: &'static str,
    /// Path in the image.
    pub(super) path: &'static str,
    /// User and group.
    pub(super) user: &'static str,
}

/// The agent.
pub(crate) const AGENT: ImageProgram =
    ImageProgram { name: "port-enforcer", package: "enforcer", path: "usr/bin/enforcer", user: "0:0" };

/// The kubectl plugin, for the component `policy-reports`.
pub(crate) const PLUGIN: ImageProgram = ImageProgram {
    name: "kubectl-host-ports",
    package: "enforcer-kubectl",
    path: "usr/bin/kubectl-host_ports",
    user: "65532:65532",
};

/// Choice among the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Choice {
    /// The agent
    Agent,
    /// The plugin kubectl host-ports, which writes policy reports in a cluster
    Plugin,
}

impl Choice {
    pub(super) const fn program(self) -> &'static ImageProgram {
        match self {
            Self::Agent => &AGENT,
            Self::Plugin => &PLUGIN,
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
    /// Builds the agent.
    pub(crate) fn agent(arch: Arch) -> anyhow::Result<Self> {
        eprintln!("building the agent for {} (takes some minutes the first time)", arch.triple());
        let messages = dist_binary::build(arch, &["--bin", "enforcer"])?;
        let binary = process::built_executable(&messages, &TargetKind::Bin, "enforcer")?;
        Ok(Self { arch, binary, dependencies: Dependencies::of_agent(arch)? })
    }

    /// Builds the kubectl plugin.
    pub(crate) fn plugin(arch: Arch) -> anyhow::Result<Self> {
        let platform = Platform::linux(arch).context("there is no plugin for this architecture")?;
        Ok(Self {
            arch,
            binary: dist_binary::plugin_executable(platform)?,
            dependencies: Dependencies::of_plugin(platform)?,
        })
    }

    pub(super) fn build(program: &ImageProgram, arch: Arch) -> anyhow::Result<Self> {
        if program.name == PLUGIN.name { Self::plugin(arch) } else { Self::agent(arch) }
    }
}
