//! The command: flags in, an answer out.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use enforcer_core::{
    check::{
        CheckSettings, ManifestSet, check,
        existing::read_objects,
        finding::Severity,
        registry::{registry_text, registry_users},
        reserved::KubernetesPorts,
    },
    manifests::shown,
    model::free_ports::AllocatedRanges,
    pods::claims::ClaimLimits,
};

use crate::{
    flags::{MaybeRange, NodeReserved},
    inputs::read_all,
    listing::{claims_json, claims_text},
    registry::{read_registry, write_new},
    report::{counted, report, text},
    workloads::Workloads,
};

/// Place of an object of a cluster.
const CLUSTER: &str = "cluster";

/// Formats of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Flags of the command.
#[derive(Debug, Args)]
pub struct CheckFlags {
    /// Manifests, YAML or JSON; of a folder its .yaml, .yml, .json and .manifest files, and manifests without an
    /// ending; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Read the folders below a folder too
    #[arg(short, long)]
    recursive: bool,

    /// List the ports of each object instead of findings: those it claims, and those it most likely listens on by its
    /// probes, arguments, environment and prometheus.io/port
    #[arg(long)]
    list: bool,

    /// Number of nodes of the cluster; without it, the number of nodes that are needed is only reported
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,

    /// Ports reserved for the node itself, as in an annotation: 22/tcp,10250/tcp. The word kubernetes, alone or in the
    /// list, stands for those of SSH, etcd, the API server, kubelet, kube-proxy, scheduler, controller managers and CRI-O;
    /// none stands for nothing. Claims on them are errors [default: kubernetes, as warnings]
    #[arg(long, env = "ENFORCER_NODE_RESERVED", value_name = "LIST")]
    node_reserved: Option<NodeReserved>,

    /// Ports that the API server gives to Services, as its flag of this name, or none
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    service_node_port_range: MaybeRange,

    /// Ports that nodes give to outgoing connections, by their sysctl of local ports, or none, where all claims are
    /// reserved
    #[arg(long, value_name = "FIRST-LAST", default_value = "32768-60999")]
    ephemeral_ports: MaybeRange,

    /// Services that ask for a load balancer take their ports on every node, as the one of k3s makes them
    #[arg(long)]
    service_lb: bool,

    /// Table of ports and their users (docs/check.md): a claim on a port of somebody else is an error, and one on a port
    /// of nobody a warning
    #[arg(long, value_name = "FILE")]
    registry: Option<PathBuf>,

    /// Make such a table of the ports that the manifests claim; a file that is there is never changed
    #[arg(long, value_name = "FILE")]
    write_registry: Option<PathBuf>,

    /// Most ports that one pod may claim; a range counts with all its ports
    #[arg(long, env = "ENFORCER_MAX_PORTS_PER_POD", value_name = "N", default_value_t = 1024)]
    max_ports_per_pod: u32,

    /// Most ports per pod that the label port-enforcer.io/max-ports of a Namespace in the manifests may allow, as of the
    /// agents; with 0, the label has no effect
    #[arg(long, env = "ENFORCER_NAMESPACE_MAX_PORTS", value_name = "N", default_value_t = 65_535)]
    namespace_max_ports: u32,

    /// Output format
    #[arg(id = "output", value_name = "OUTPUT", short, long = "output", value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What is there already.
#[derive(Debug)]
pub enum Existing {
    /// Nothing that anybody named.
    Nothing,
    /// The manifests of a file or folder.
    Files(PathBuf),
    /// What runs in a cluster.
    Cluster(Workloads),
}

/// End of a command that could do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckEnd {
    /// Nothing is wrong.
    Fine,
    /// So many errors and warnings were found.
    Findings(String),
}

/// Reason why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nothing could be read. The findings say why.
    #[error("no manifest could be read; name files or folders with manifests, or - for standard input")]
    NothingRead {
        /// The findings.
        answer: String,
    },
    /// The claims were to be listed, and some of the input could not be read.
    #[error("{parts} could not be read, so claims may be missing from the list; correct it, or leave it out")]
    NotAllListed {
        /// The claims of the others, and what could not be read.
        answer: String,
        /// What could not be read, counted.
        parts: String,
    },
    /// Nothing could be read of what is there.
    #[error("no manifest could be read in {} of --against", .0.display())]
    NothingExisting(PathBuf),
    /// The registry cannot be read.
    #[error("{0}")]
    NoRegistry(String),
    /// The registry that should be written is there.
    #[error("{0} is there, and is not changed; name a new file with --write-registry, and compare the two")]
    RegistryExists(String),
    /// The new registry cannot be written. The manifests were checked.
    #[error("cannot write the registry {file}: {why}; check the folder and its free space")]
    RegistryNotWritten {
        /// Its file, safe to show.
        file: String,
        /// The reason.
        why: io::Error,
    },
}

impl CheckError {
    /// Returns what there is to print all the same.
    #[must_use]
    pub fn answer(&self) -> Option<&str> {
        match self {
            Self::NothingRead { answer } | Self::NotAllListed { answer, .. } => Some(answer),
            Self::NothingExisting(_)
            | Self::NoRegistry(_)
            | Self::RegistryExists(_)
            | Self::RegistryNotWritten { .. } => None,
        }
    }
}

impl CheckFlags {
    /// Checks the manifests. Returns the answer, and how the command ends.
    ///
    /// # Errors
    ///
    /// If nothing could be read.
    pub fn run(self, existing: Existing, colours: bool) -> Result<(String, CheckEnd), CheckError> {
        let Self {
            files,
            recursive,
            list,
            mut nodes,
            node_reserved,
            service_node_port_range: MaybeRange(node_ports),
            ephemeral_ports: MaybeRange(ephemeral),
            service_lb,
            registry,
            write_registry,
            max_ports_per_pod,
            namespace_max_ports,
            format,
        } = self;
        let registry = registry.map(|path| read_registry(&path)).transpose().map_err(CheckError::NoRegistry)?;
        if let Some(path) = write_registry.as_deref().filter(|path| path.exists()) {
            return Err(CheckError::RegistryExists(shown(path)));
        }
        let limits = ClaimLimits { max_ports_per_pod, namespace_max_ports };
        let mut manifests = read_all(&files, &limits, recursive);
        match existing {
            Existing::Nothing => {}
            Existing::Files(path) => manifests.add_existing(read_existing(path, limits, recursive)?),
            Existing::Cluster(Workloads { objects, nodes: count }) => {
                manifests.add_existing(read_objects(objects, CLUSTER, &limits));
                nodes = nodes.or(Some(count).filter(|count| *count > 0));
            }
        }
        if list {
            return listing(&manifests, format);
        }
        let kubernetes_ports = match &node_reserved {
            None => KubernetesPorts::Assumed,
            Some(NodeReserved { kubernetes: true, .. }) => KubernetesPorts::Reserved,
            Some(_) => KubernetesPorts::Ignored,
        };
        let settings = CheckSettings {
            nodes,
            node_reserved: node_reserved.unwrap_or_default().ports,
            kubernetes_ports,
            allocated: AllocatedRanges { node_ports, ephemeral },
            service_lb,
            registry,
            limits,
        };
        let outcome = check(&manifests, &settings);
        let mut answer = match format {
            Format::Text => text(&manifests, &outcome, colours),
            Format::Json => format!("{:#}\n", report(&manifests, &outcome, nodes)),
        };
        if manifests.documents == 0 {
            return Err(CheckError::NothingRead { answer });
        }
        if let Some(path) = write_registry {
            let count = write(&path, &manifests, service_lb)?;
            if format == Format::Text {
                answer = format!("{answer}wrote {} to {}\n", counted(count, "entry", "entries"), shown(&path));
            }
        }
        let (errors, warnings) = (outcome.count(Severity::Error), outcome.count(Severity::Warning));
        if errors + warnings == 0 {
            return Ok((answer, CheckEnd::Fine));
        }
        let counts = [counted(errors, "error", "errors"), counted(warnings, "warning", "warnings")];
        Ok((answer, CheckEnd::Findings(counts.join(", "))))
    }
}

/// Writes the registry of the manifests, and returns the count of its entries.
fn write(path: &Path, manifests: &ManifestSet, service_lb: bool) -> Result<usize, CheckError> {
    let users = registry_users(manifests, service_lb);
    write_new(path, &registry_text(&users)).map_err(|why| {
        let file = shown(path);
        if why.kind() == io::ErrorKind::AlreadyExists {
            CheckError::RegistryExists(file)
        } else {
            CheckError::RegistryNotWritten { file, why }
        }
    })?;
    Ok(users.len())
}

/// Lists the claims. That all of them are there matters more than findings do, so a part that could not be read is an error.
fn listing(manifests: &ManifestSet, format: Format) -> Result<(String, CheckEnd), CheckError> {
    let answer = match format {
        Format::Text => claims_text(manifests),
        Format::Json => format!("{:#}\n", claims_json(manifests)),
    };
    let unreadable = manifests.unreadable.len() + manifests.more_unreadable;
    if manifests.documents == 0 {
        Err(CheckError::NothingRead { answer })
    } else if unreadable > 0 {
        Err(CheckError::NotAllListed { answer, parts: counted(unreadable, "part of the input", "parts of the input") })
    } else {
        Ok((answer, CheckEnd::Fine))
    }
}

/// Reads the manifests of what is there.
fn read_existing(path: PathBuf, limits: ClaimLimits, recursive: bool) -> Result<ManifestSet, CheckError> {
    let existing = read_all(std::slice::from_ref(&path), &limits, recursive);
    if existing.documents == 0 { Err(CheckError::NothingExisting(path)) } else { Ok(existing) }
}
