//! `kubectl host-ports check`: manifests against what runs, as `enforcer check --against cluster`, or alone.

use enforcer_check::{
    command::{CheckEnd, CheckFlags, Existing},
    workloads::{WorkloadsError, read_workloads},
};

use crate::{
    cli::shows_colours,
    cluster::{Cluster, Progress},
    failure::Failure,
    output::print,
};

/// Checks the manifests against what runs.
pub(crate) async fn run(cluster: &Cluster, flags: CheckFlags, progress: &Progress) -> Result<(), Failure> {
    let read = read_workloads(&cluster.client, &cluster.server, |count| progress.show(count, "objects")).await;
    let workloads = read.map_err(|error| match error {
        WorkloadsError::Forbidden { .. } => Failure::privilege(error),
        WorkloadsError::Failed { .. } => Failure::runtime(error),
    })?;
    progress.clear();
    check(flags, Existing::Cluster(workloads))
}

/// Checks the manifests among themselves.
pub(crate) fn run_offline(flags: CheckFlags) -> Result<(), Failure> {
    check(flags, Existing::Nothing)
}

fn check(flags: CheckFlags, existing: Existing) -> Result<(), Failure> {
    match flags.run(existing, shows_colours()) {
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
