//! The command: flags in, an answer out.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use enforcer_core::{
    check::{
        CheckSettings, ManifestSet,
        baseline::Baseline,
        check,
        existing::read_objects,
        finding::Severity,
        registry::{PortRegistry, registry_text, registry_users},
        reserved::KubernetesPorts,
    },
    manifests::shown,
    model::free_ports::AllocatedRanges,
    pods::claims::ClaimLimits,
};

use crate::{
    baseline::{check_replaceable, read_baseline},
    files::{replace, write_new},
    flags::{MaybeRange, NodeReserved},
    github::github,
    inputs::read_all,
    judged::{Judged, JudgedFinding},
    junit::junit,
    listing::{claims_json, claims_text},
    paths::FilePaths,
    registry::read_registry,
    report::{counted, report, text},
    sarif::sarif,
    workloads::Workloads,
};

/// Place of an object of a cluster.
const CLUSTER: &str = "cluster";

/// Formats of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
enum Format {
    /// Text for people
    Text,
    /// One object
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// JUnit XML, for what shows tests
    Junit,
    /// Annotations of a GitHub workflow
    Github,
}

/// Lowest severity of a finding that is exit code 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Errors
    Error,
    /// Errors and warnings
    Warning,
    /// No finding
    Never,
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
    #[arg(long, conflicts_with_all = ["baseline", "write_baseline"])]
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

    /// Findings of this file do not change the exit code (docs/check-in-ci.md); one that is more severe, or needs more nodes
    /// than there, does
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// Write such a file of all errors and warnings, in place of one that is there; with --baseline,
    /// its entries that still have a finding
    #[arg(long, value_name = "FILE")]
    write_baseline: Option<PathBuf>,

    /// Findings that are exit code 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = FailOn::Warning, conflicts_with = "list")]
    fail_on: FailOn,

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
    /// The baseline cannot be read, or no file may be put in the place of the new one.
    #[error("{0}")]
    NoBaseline(String),
    /// A list was asked for in a format that has none.
    #[error("--list goes with -o text and -o json only")]
    ListFormat,
    /// A baseline would not have all findings.
    #[error(
        "there are more findings than a baseline takes, and so none was written; check fewer manifests at a time, or correct \
         some first"
    )]
    TooManyForBaseline,
    /// The new baseline cannot be written. The manifests were checked.
    #[error("cannot write the baseline {file}: {why}; check the folder and its free space")]
    BaselineNotWritten {
        /// Its file, safe to show.
        file: String,
        /// The reason.
        why: io::Error,
    },
    /// The answer has no form in the format.
    #[error("cannot write the answer in this format: {0}; choose another one")]
    NotEncoded(String),
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
            _ => None,
        }
    }

    /// Checks whether the command failed while it ran, and not because of its input.
    #[must_use]
    pub const fn is_runtime(&self) -> bool {
        matches!(self, Self::RegistryNotWritten { .. } | Self::BaselineNotWritten { .. } | Self::NotEncoded(_))
    }
}

impl CheckFlags {
    /// Checks the manifests. Returns the answer, and how the command ends.
    ///
    /// # Errors
    ///
    /// If nothing could be read, or a file beside the manifests cannot be read or written.
    pub fn run(self, existing: Existing, colours: bool) -> Result<(String, CheckEnd), CheckError> {
        let mut paths = FilePaths::here();
        let files = self.read_files(&mut paths)?;
        let limits =
            ClaimLimits { max_ports_per_pod: self.max_ports_per_pod, namespace_max_ports: self.namespace_max_ports };
        let mut nodes = self.nodes;
        let mut manifests = read_all(&self.files, &limits, self.recursive, &mut paths);
        match existing {
            Existing::Nothing => {}
            Existing::Files(path) => {
                manifests.add_existing(read_existing(path, limits, self.recursive, &mut paths)?);
            }
            Existing::Cluster(Workloads { objects, nodes: count }) => {
                manifests.add_existing(read_objects(objects, CLUSTER, &limits));
                nodes = nodes.or(Some(count).filter(|count| *count > 0));
            }
        }
        if self.list {
            return listing(&manifests, self.format);
        }
        let settings = self.settings(nodes, files.registry, limits);
        let mut judged = Judged::new(&manifests, &paths, nodes, check(&manifests, &settings));
        if let Some((path, baseline)) = self.baseline.as_deref().zip(files.baseline.as_ref()) {
            judged.compare(baseline, &shown(path));
        }
        if manifests.documents == 0 {
            return Err(CheckError::NothingRead { answer: self.answer(&judged, colours)? });
        }
        let mut written = Vec::new();
        if let Some(path) = &self.write_baseline {
            let count = write_baseline(path, &mut judged, files.baseline)?;
            written.push(format!("wrote {} to {}\n", counted(count, "finding", "findings"), shown(path)));
        }
        let mut answer = self.answer(&judged, colours)?;
        if let Some(path) = &self.write_registry {
            let count = write_registry(path, &manifests, self.service_lb)?;
            written.push(format!("wrote {} to {}\n", counted(count, "entry", "entries"), shown(path)));
        }
        if self.format == Format::Text {
            answer.extend(written);
        }
        let (errors, warnings) = (judged.count(Severity::Error), judged.count(Severity::Warning));
        let failing = match self.fail_on {
            FailOn::Error => errors,
            FailOn::Warning => errors + warnings,
            FailOn::Never => 0,
        };
        if failing == 0 {
            return Ok((answer, CheckEnd::Fine));
        }
        let counts = [counted(errors, "error", "errors"), counted(warnings, "warning", "warnings")];
        Ok((answer, CheckEnd::Findings(counts.join(", "))))
    }

    /// Reads the files beside the manifests, and looks at the places of those that are to be written: a check of many
    /// manifests does not end with a sentence that its beginning knew.
    fn read_files(&self, paths: &mut FilePaths) -> Result<FilesBeside, CheckError> {
        if self.list && !matches!(self.format, Format::Text | Format::Json) {
            return Err(CheckError::ListFormat);
        }
        let registry = self.registry.as_deref().map(|path| read_registry(path, paths)).transpose();
        let registry = registry.map_err(CheckError::NoRegistry)?;
        let baseline = self.baseline.as_deref().map(read_baseline).transpose().map_err(CheckError::NoBaseline)?;
        if let Some(path) = self.write_registry.as_deref().filter(|path| path.exists()) {
            return Err(CheckError::RegistryExists(shown(path)));
        }
        if let Some(path) = &self.write_baseline {
            check_replaceable(path).map_err(CheckError::NoBaseline)?;
        }
        Ok(FilesBeside { registry, baseline })
    }

    fn settings(&self, nodes: Option<u32>, registry: Option<PortRegistry>, limits: ClaimLimits) -> CheckSettings {
        let kubernetes_ports = match &self.node_reserved {
            None => KubernetesPorts::Assumed,
            Some(NodeReserved { kubernetes: true, .. }) => KubernetesPorts::Reserved,
            Some(_) => KubernetesPorts::Ignored,
        };
        CheckSettings {
            nodes,
            node_reserved: self.node_reserved.clone().unwrap_or_default().ports,
            kubernetes_ports,
            allocated: AllocatedRanges {
                node_ports: self.service_node_port_range.0,
                ephemeral: self.ephemeral_ports.0,
            },
            service_lb: self.service_lb,
            registry,
            limits,
        }
    }

    fn answer(&self, judged: &Judged<'_>, colours: bool) -> Result<String, CheckError> {
        Ok(match self.format {
            Format::Text => text(judged, colours),
            Format::Json => format!("{:#}\n", report(judged)),
            Format::Sarif => format!("{:#}\n", sarif(judged)),
            Format::Junit => junit(judged).map_err(|error| CheckError::NotEncoded(error.to_string()))?,
            Format::Github => github(judged),
        })
    }
}

/// Files beside the manifests.
struct FilesBeside {
    registry: Option<PortRegistry>,
    baseline: Option<Baseline>,
}

/// Writes the baseline that accepts all findings, and judges them by it; of those that were judged by an older one, writes
/// that one without its stale entries. Returns the count of the entries.
fn write_baseline(path: &Path, judged: &mut Judged<'_>, older: Option<Baseline>) -> Result<usize, CheckError> {
    if judged.counting_left_out() > 0 {
        return Err(CheckError::TooManyForBaseline);
    }
    let not_written = |why| CheckError::BaselineNotWritten { file: shown(path), why };
    if let Some(mut baseline) = older {
        baseline.remove(&judged.take_stale());
        replace(path, &baseline.text()).map_err(not_written)?;
        return Ok(baseline.len());
    }
    let all = judged.findings().map(|JudgedFinding { finding, fingerprint, .. }| (finding, fingerprint));
    let baseline = Baseline::of(all);
    replace(path, &baseline.text()).map_err(not_written)?;
    judged.compare(&baseline, &shown(path));
    Ok(baseline.len())
}

/// Writes the registry of the manifests, and returns the count of its entries.
fn write_registry(path: &Path, manifests: &ManifestSet, service_lb: bool) -> Result<usize, CheckError> {
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
        Format::Json => format!("{:#}\n", claims_json(manifests)),
        _ => claims_text(manifests),
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
fn read_existing(
    path: PathBuf,
    limits: ClaimLimits,
    recursive: bool,
    paths: &mut FilePaths,
) -> Result<ManifestSet, CheckError> {
    let existing = read_all(std::slice::from_ref(&path), &limits, recursive, paths);
    if existing.documents == 0 { Err(CheckError::NothingExisting(path)) } else { Ok(existing) }
}
