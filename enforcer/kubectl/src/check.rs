//! `kubectl host-ports check`: manifests against what runs, as `enforcer check --against cluster`.

use enforcer_check::{
    command::{CheckEnd, CheckError, CheckFlags, Existing},
    workloads::{WorkloadsError, read_workloads},
};

use crate::{
    cli::shows_colours,
    cluster::{Cluster, Progress},
    failure::Failure,
    output::print,
};

/// Checks the manifests.
pub(crate) async fn run(cluster: &Cluster, flags: CheckFlags, progress: &Progress) -> Result<(), Failure> {
    let read = read_workloads(&cluster.client, &cluster.server, |count| progress.show(count, "objects")).await;
    let workloads = read.map_err(|error| match error {
        WorkloadsError::Forbidden { .. } => Failure::privilege(error),
        WorkloadsError::Failed { .. } => Failure::runtime(error),
    })?;
    progress.clear();
    match flags.run(Existing::Cluster(workloads), shows_colours()) {
        Ok((answer, end)) => {
            print(&answer)?;
            match end {
                CheckEnd::Fine => Ok(()),
                CheckEnd::Findings(counts) => Err(Failure::findings(counts)),
            }
        }
        Err(error @ CheckError::RegistryNotWritten { .. }) => Err(Failure::runtime(error)),
        Err(error) => {
            if let Some(answer) = error.answer() {
                print(answer)?;
            }
            Err(Failure::usage(error))
        }
    }
}
