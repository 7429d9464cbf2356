//! `kubectl host-ports free`: ports that are free on every node.

use enforcer_core::cluster::{
    free::{FreeQuestion, UsedPorts},
    host_ports::HostPortRow,
};

use crate::{
    cli::AnswerFormat,
    cluster::{Cluster, KnownNodes, NodeScope, Progress, read_nodes, read_services},
    failure::Failure,
    output::{answer, notes},
};

/// Answers the question.
pub(crate) async fn run(
    cluster: &Cluster,
    question: FreeQuestion,
    format: AnswerFormat,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut known = KnownNodes::default();
    let services = read_services(cluster, progress, &mut known).await?;
    let mut used = UsedPorts::new(question.protocol);
    for row in services.rows() {
        used.add_row(&HostPortRow { node: None, row: row.clone(), conflict: false });
    }
    let mut left_out = 0_u64;
    read_nodes(cluster, NodeScope::All, &services, progress, &mut known, |ports| {
        used.add_node(&ports.node);
        left_out += u64::from(ports.node.left_out);
        ports.rows.iter().for_each(|row| used.add_row(row));
    })
    .await?;
    progress.clear();
    let free = used.answer(&question);
    answer(&free, &free.message, format)?;
    // What is missing would make ports look free that are not.
    notes(&known.missing);
    if left_out > 0 {
        notes(&[format!("{left_out} rows were too many for their ledgers: their ports may look free here")]);
    }
    Ok(())
}
