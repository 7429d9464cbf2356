//! The command line.

mod values;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use enforcer_check::command::CheckFlags;
use enforcer_core::cluster::suggest::choice::WorkloadChoice;

use self::values::{PortFlag, RangeFlag};
use crate::{
    check,
    cluster::{Cluster, Connection, Progress},
    completion::{self, CompletionTarget},
    failure::Failure,
    free, list,
    policy_reports::{self, ReportAction, ReportApi, ReportRequest},
    suggest, why,
};

/// Show which pod uses which host port, on which node
///
/// Reads the ledgers that the agents of port-enforcer write (kubectl get nodehostports). Of nodes without one it shows what
/// their pods declare, arbitrated as an agent would, and says so. NodePorts of Services are shown too.
#[derive(Debug, Parser)]
#[command(name = "kubectl host-ports", bin_name = "kubectl host-ports", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
#[command(after_help = "Examples:\n  \
    kubectl host-ports                        # all host ports of the cluster\n  \
    kubectl host-ports 9100                   # who has 9100, on which node\n  \
    kubectl host-ports --conflicts            # what is wrong now\n  \
    kubectl host-ports why -n shop web-0      # why it is Pending, denied or fails\n  \
    kubectl host-ports free 8000-8999         # ports that are free on every node\n  \
    kubectl host-ports suggest -A             # what pods bind and do not declare\n  \
    kubectl host-ports check deploy/          # what new manifests bring to what runs\n  \
    kubectl host-ports -o html > ports.html   # one page to look at and to search\n\n\
    Exit codes: 0 fine, 1 findings of check, 2 wrong usage or input, 3 a right is missing, 4 failure while\n\
    running. Colours are for terminals only, and NO_COLOR turns them off.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
    #[command(flatten)]
    connection: ConnectionFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show why a pod is Pending, denied, or fails on a port
    ///
    /// Names, for each node that could take a Pending pod, which pod, Service or reservation has which of its ports there.
    /// For a pod that runs: who holds or owns its ports, and in which mode the node is.
    Why(Why),
    /// Find ports that are free on every node
    ///
    /// Free is what no pod claims or holds on any node, what no Service has as NodePort and no part of Kubernetes uses,
    /// and what is neither in the range of NodePorts nor in the ephemeral range of a node.
    #[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
    Free(Free),
    /// Suggest how workloads declare the ports that their pods bind
    ///
    /// Reads from the ledgers which ports the pods of each workload bound by name and do not declare, also for a moment
    /// only, and makes a strategic merge patch that declares them. Says on how many pods and nodes each was seen, which
    /// ports cannot be declared as they are, and which declared ports nobody ever bound. Changes nothing.
    #[command(after_help = "Examples:\n  \
        kubectl host-ports suggest -A\n  \
        kubectl host-ports suggest -n monitoring ds/node-exporter\n  \
        kubectl host-ports suggest -n monitoring ds/node-exporter -o patch > patch.yaml\n  \
        kubectl patch -n monitoring ds/node-exporter --type strategic --patch-file patch.yaml")]
    Suggest(Suggest),
    /// Find what new manifests bring to what runs
    ///
    /// Does what enforcer check --against cluster does: reads manifests, and what runs, and reports only what the manifests
    /// bring. An object that runs is replaced by one of the same name. Exits with 1 if something is wrong.
    #[command(after_help = "Examples:\n  \
        kubectl host-ports check deploy/\n  \
        kubectl host-ports check --offline -o sarif deploy/ > check.sarif\n  \
        helm template my-chart | kubectl host-ports check -")]
    Check(Check),
    /// Report conflicts as the objects that dashboards list
    ///
    /// Makes a PolicyReport for each namespace with a pod or Service in a conflict, and a ClusterPolicyReport of what
    /// concerns nodes and host processes; or, where the cluster has openreports.io instead, a Report and a ClusterReport.
    /// Shows them, or writes them with --apply: only what changed is written, and a report whose conflicts have ended is
    /// deleted. Reports of others are never touched.
    #[expect(clippy::doc_markdown, reason = "the help text shows no backticks")]
    #[command(after_help = "Examples:\n  \
        kubectl host-ports policy-reports                     # what would be written\n  \
        kubectl host-ports policy-reports --apply             # write it; again and again by a CronJob\n  \
        kubectl host-ports policy-reports -n shop -o yaml     # the report of one namespace")]
    PolicyReports(PolicyReports),
    /// Generate shell completions
    ///
    /// With the name of a shell: a script that completes kubectl-host_ports. With kubectl: the program by which kubectl's
    /// own completion completes kubectl host-ports; put it into a folder of PATH as kubectl_complete-host_ports.
    #[command(after_help = "Examples:\n  \
        kubectl host-ports completions kubectl > ~/.local/bin/kubectl_complete-host_ports\n  \
        kubectl host-ports completions bash > /etc/bash_completion.d/kubectl-host_ports")]
    Completions(Completions),
    /// Print what can follow these words, for kubectl
    #[command(name = "__complete", hide = true)]
    Complete(Complete),
}

#[derive(Debug, Args)]
struct Completions {
    /// The shell, or kubectl
    #[arg(value_enum, value_name = "SHELL")]
    shell: CompletionTarget,
}

#[derive(Debug, Args)]
struct Complete {
    /// Words of the command line behind kubectl host-ports; the last one is to be completed
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Flags of `check`.
#[derive(Debug, Args)]
struct Check {
    /// Ask no cluster: check the manifests among themselves, as enforcer check does
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    flags: CheckFlags,
}

/// Flags of the list.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct List {
    /// Only this port, as 80 or 53/udp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<PortFlag>,
    /// Only ports of pods and Services of all namespaces; this is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only ports of this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only ports that pods bound and do not declare
    #[arg(long)]
    undeclared: bool,
    /// Only ports that take part in a conflict
    #[arg(long)]
    conflicts: bool,
    /// Output format; html is one page that needs no server
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    output: ListFormat,
    /// Table without its head
    #[arg(long)]
    no_headers: bool,
}

/// Formats of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Wide,
    Json,
    Yaml,
    Html,
}

/// Formats of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerFormat {
    Text,
    Json,
    Yaml,
}

#[derive(Debug, Args)]
struct Why {
    /// Name of the pod, also as pod/NAME or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = AnswerFormat::Text)]
    output: AnswerFormat,
}

#[derive(Debug, Args)]
struct Free {
    /// Ports that would do, as 8000-8999 or 8000-8999/udp
    #[arg(value_name = "RANGE", default_value = "10000-29999")]
    range: RangeFlag,
    /// Most ports to show
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = AnswerFormat::Text)]
    output: AnswerFormat,
}

#[derive(Debug, Args)]
struct Suggest {
    /// Only this workload, with the short names of kubectl: ds/node-exporter
    #[arg(value_name = "KIND/NAME")]
    workload: Option<WorkloadChoice>,
    /// Workloads of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "workload"])]
    all_namespaces: bool,
    /// Output format; patch is that of one workload, yaml has all patches as documents
    #[arg(short, long, value_enum, default_value_t = SuggestFormat::Text)]
    output: SuggestFormat,
}

/// Formats of suggestions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SuggestFormat {
    Text,
    Patch,
    Yaml,
    Json,
}

#[derive(Debug, Args)]
struct PolicyReports {
    /// Write the reports to the cluster: create, update and delete own ones
    #[arg(long, conflicts_with = "output")]
    apply: bool,
    /// API of the reports [default: the one that the cluster has; of both, wgpolicyk8s.io]
    #[arg(long, value_enum, value_name = "GROUP")]
    report_api: Option<ReportApi>,
    /// Output format; yaml and json are for kubectl apply
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Text)]
    output: ReportFormat,
}

/// Formats of policy reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    Text,
    Json,
    Yaml,
}

/// Flags that say which cluster and as whom, as kubectl has them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
struct ConnectionFlags {
    /// Kubeconfig [default: KUBECONFIG, ~/.kube/config, or the service account of the pod]
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
    /// Cluster of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    cluster: Option<String>,
    /// User of the kubeconfig
    #[arg(long, value_name = "NAME", global = true)]
    user: Option<String>,
    /// Namespace: of the list and of policy-reports, only what is in it; of why and suggest, the pod's or workload's [default for these: the
    /// context's]
    #[arg(short, long, value_name = "NAMESPACE", global = true)]
    namespace: Option<String>,
    /// User to impersonate
    #[arg(long = "as", value_name = "USER", global = true)]
    as_user: Option<String>,
    /// Group to impersonate, may be repeated
    #[arg(long, value_name = "GROUP", global = true)]
    as_group: Vec<String>,
    /// UID to impersonate
    #[arg(long, value_name = "UID", global = true)]
    as_uid: Option<String>,
    /// Longest time of one request, as 30s or 2m; 0 is for ever
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = values::timeout, global = true)]
    request_timeout: values::Timeout,
}

/// Returns the command line, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process. Exit codes: 0 fine, 1 findings, 2 wrong usage or input, 3 a right is missing,
/// 4 failure while running.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(cli.run()),
        Err(error) => Err(Failure::runtime(format!("cannot start: {error}"))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            eprintln!("kubectl host-ports: {message}");
            ExitCode::from(code)
        }
    }
}

impl Cli {
    async fn run(self) -> Result<(), Failure> {
        let Self { command, list, connection } = self;
        let command = match command {
            Some(Command::Check(Check { offline: true, flags })) => return check::run_offline(flags),
            command => command,
        };
        let ConnectionFlags {
            kubeconfig,
            context,
            cluster,
            user,
            namespace,
            as_user,
            as_group,
            as_uid,
            request_timeout,
        } = connection;
        // What needs no cluster.
        let command = match command {
            Some(Command::Completions(Completions { shell })) => return completion::script(shell),
            Some(Command::Complete(Complete { words })) => return completion::candidates(words),
            command => command,
        };
        let connection = Connection {
            kubeconfig,
            context,
            cluster,
            user,
            impersonated_user: as_user,
            impersonated_groups: as_group,
            impersonated_uid: as_uid,
            timeout: request_timeout.0,
        };
        let cluster = Cluster::connect(connection).await?;
        let progress = Progress::new(io::stderr().is_terminal());
        match command {
            None => {
                let List { port, all_namespaces: _, node, undeclared, conflicts, output, no_headers } = list;
                let (port, protocol) = port.map_or((None, None), |PortFlag { port, protocol }| (Some(port), protocol));
                let filter = enforcer_core::cluster::host_ports::RowFilter {
                    port,
                    protocol,
                    namespace,
                    node,
                    undeclared,
                    conflicts,
                };
                list::run(&cluster, filter, output, !no_headers, &progress).await
            }
            Some(Command::Why(Why { pod, output })) => why::run(&cluster, namespace, &pod, output, &progress).await,
            Some(Command::Suggest(Suggest { workload, all_namespaces, output })) => {
                let namespace = (!all_namespaces).then(|| namespace.unwrap_or_else(|| cluster.namespace.clone()));
                suggest::run(&cluster, namespace, workload, output, &progress).await
            }
            Some(Command::PolicyReports(PolicyReports { apply, report_api, output })) => {
                let action = if apply { ReportAction::Apply } else { ReportAction::Print(output) };
                policy_reports::run(&cluster, ReportRequest { namespace, api: report_api, action }, &progress).await
            }
            Some(Command::Completions(_) | Command::Complete(_)) => Ok(()),
            Some(Command::Check(Check { flags, .. })) => check::run(&cluster, flags, &progress).await,
            Some(Command::Free(Free { range, count, output })) => {
                free::run(&cluster, range.question(count.into()), output, &progress).await
            }
        }
    }
}

/// Checks whether standard output shows colours.
pub(crate) fn shows_colours() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
        let parse = |args: &[&str]| Cli::try_parse_from(["kubectl-host_ports"].iter().chain(args));
        assert!(parse(&["9100/tcp", "--node", "n", "-A", "-o", "wide"]).is_ok());
        assert!(parse(&["why", "-n", "shop", "web-0", "--context", "prod"]).is_ok());
        assert!(parse(&["check", "a.yaml", "-", "--nodes", "3", "-o", "json", "--context", "prod"]).is_ok());
        assert!(parse(&["suggest", "ds/node-exporter", "-n", "monitoring", "-o", "patch"]).is_ok());
        assert!(parse(&["suggest", "-A", "ds/x"]).is_err() && parse(&["suggest", "node-exporter"]).is_err());
        assert!(parse(&["free", "8000-8100/udp", "--count", "3", "--as", "jane"]).is_ok());
        for wrong in [&["80000"][..], &["free", "9-8"], &["free", "80", "--count", "0"], &["why"], &["-A", "-n", "x"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
