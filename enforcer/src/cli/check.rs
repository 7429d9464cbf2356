//! `enforcer check`.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use enforcer_check::{
    command::{CheckEnd, CheckFlags, Existing},
    workloads::{Workloads, WorkloadsError, read_workloads},
};

use crate::{
    cli::{Failure, output::print},
    k8s,
    telemetry::shows_colours,
};

/// Word of `--against` for what runs in a cluster.
const CLUSTER: &str = "cluster";
/// Time without a word about progress.
const QUIET: Duration = Duration::from_secs(1);

/// Find conflicts among manifests
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer check deploy/\n  \
    enforcer check --nodes 3 --node-reserved kubernetes,9500/tcp app.yaml ingress.yaml\n  \
    kustomize build overlays/prod | enforcer check --nodes 1 -\n  \
    enforcer check --recursive --list clusters/prod\n  \
    helm template ingress-nginx | enforcer check -o json -\n  \
    helm template ingress-nginx | enforcer check --against cluster -")]
pub(super) struct Check {
    #[command(flatten)]
    flags: CheckFlags,

    /// Report only what the manifests bring to what is there: to the manifests of a file or folder, or, with the word
    /// cluster, to what runs in the cluster of the kubeconfig, whose nodes are counted too. An object that is there is
    /// replaced by one of the same name
    #[arg(long, value_name = "FILE|cluster")]
    against: Option<PathBuf>,

    /// Kubeconfig for --against cluster [default: KUBECONFIG, ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "against")]
    kubeconfig: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { flags, against, kubeconfig } = self;
        let existing = match against {
            Some(word) if word.as_os_str() == CLUSTER => Existing::Cluster(read_cluster(kubeconfig.as_deref())?),
            Some(_) if kubeconfig.is_some() => {
                return Err(Failure::usage("--kubeconfig goes with --against cluster"));
            }
            Some(path) => Existing::Files(path),
            None => Existing::Nothing,
        };
        match flags.run(existing, shows_colours(io::stdout().is_terminal())) {
            Ok((answer, end)) => {
                print(&answer)?;
                match end {
                    CheckEnd::Fine => Ok(()),
                    CheckEnd::Findings(counts) => Err(Failure::findings(counts)),
                }
            }
            Err(error) if error.is_runtime() => Err(Failure::runtime(error)),
            Err(error) => {
                if let Some(answer) = error.answer() {
                    print(answer)?;
                }
                Err(Failure::usage(error))
            }
        }
    }
}

/// Reads what runs in the cluster.
fn read_cluster(kubeconfig: Option<&Path>) -> Result<Workloads, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::runtime)?;
    let (began, is_terminal) = (Instant::now(), io::stderr().is_terminal());
    let progress = |count: usize| {
        if is_terminal && began.elapsed() > QUIET {
            eprint!("\r\u{1b}[Kread {count} objects …");
        }
    };
    let read = runtime.block_on(async {
        let cluster = k8s::connect(kubeconfig).await.map_err(|error| match error {
            k8s::ConnectError::None => Failure::usage("no kubeconfig was found; name one with --kubeconfig"),
            error => Failure::usage(error),
        })?;
        read_workloads(&cluster.client, &cluster.server, progress).await.map_err(|error| match error {
            WorkloadsError::Forbidden { .. } => Failure::unsupported(error),
            WorkloadsError::Failed { .. } => Failure::runtime(error),
        })
    });
    if is_terminal && began.elapsed() > QUIET {
        eprint!("\r\u{1b}[K");
    }
    read
}
