//! `kubectl host-ports`: one row for each port and user.

use enforcer_core::cluster::host_ports::{ClusterConflict, HostPortRow, HostPorts, NodePorts, RowFilter};
use jiff::Timestamp;

use crate::{
    cli::ListFormat,
    cluster::{Cluster, KnownNodes, NodeScope, Progress, read_nodes, read_services},
    failure::Failure,
    output::{Encoding, encode, html, notes, print, table::RowTable},
};

/// Rows after which a part of a table is written.
const PART: usize = 2_000;

/// Shows the rows that the filter wants.
pub(crate) async fn run(
    cluster: &Cluster,
    filter: RowFilter,
    format: ListFormat,
    has_head: bool,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut known = KnownNodes::default();
    let services = read_services(cluster, progress, &mut known).await?;
    let everywhere: Vec<HostPortRow> = services
        .rows()
        .map(|row| HostPortRow { node: None, row: row.clone(), conflict: false })
        .filter(|row| filter.wants(row))
        .collect();
    let node = filter.node.clone();
    let scope = node.as_deref().map_or(NodeScope::All, NodeScope::One);
    let wide = match format {
        ListFormat::Table => Some(false),
        ListFormat::Wide => Some(true),
        ListFormat::Json | ListFormat::Yaml | ListFormat::Html => None,
    };
    if let Some(wide) = wide {
        let mut printer = TablePrinter::new(RowTable::new(wide, has_head), filter);
        let read = read_nodes(cluster, scope, &services, progress, &mut known, |ports| printer.take(ports, progress));
        read.await?;
        progress.clear();
        printer.finish(everywhere)?;
        notes(&known.missing);
        notes(&known.notes);
        return Ok(());
    }
    let mut all = HostPorts::default();
    read_nodes(cluster, scope, &services, progress, &mut known, |ports| {
        let NodePorts { node, rows, conflicts } = ports;
        all.ports.extend(rows.into_iter().filter(|row| filter.wants(row)));
        all.conflicts.extend(conflicts.into_iter().filter(|conflict| filter.wants_conflict(conflict)));
        all.nodes.push(node);
    })
    .await?;
    all.nodes.sort_by(|one, other| one.name.cmp(&other.name));
    all.ports.sort_by(|one, other| one.node.cmp(&other.node));
    all.conflicts.sort_by(|one, other| one.node.cmp(&other.node));
    all.ports.extend(everywhere);
    progress.clear();
    let text = match format {
        ListFormat::Html => {
            html::page(&all, &cluster.name, &Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())?
        }
        ListFormat::Yaml => encode(&all, Encoding::Yaml)?,
        ListFormat::Json | ListFormat::Table | ListFormat::Wide => encode(&all, Encoding::Json)?,
    };
    print(&text)?;
    notes(&known.missing);
    notes(&known.notes);
    Ok(())
}

/// Table that is written part by part, so that the first rows are there before the last ones are read.
struct TablePrinter {
    table: RowTable,
    filter: RowFilter,
    rows: Vec<HostPortRow>,
    conflicts: Vec<ClusterConflict>,
    shown: usize,
    nodes: usize,
    /// Count of rows that ledgers had no room for.
    left_out: u64,
    /// The first failure to write.
    failed: Result<(), Failure>,
}

impl TablePrinter {
    fn new(table: RowTable, filter: RowFilter) -> Self {
        Self { table, filter, rows: Vec::new(), conflicts: Vec::new(), shown: 0, nodes: 0, left_out: 0, failed: Ok(()) }
    }

    fn take(&mut self, ports: NodePorts, progress: &Progress) {
        let NodePorts { node, rows, conflicts } = ports;
        self.rows.extend(rows.into_iter().filter(|row| self.filter.wants(row)));
        self.conflicts.extend(conflicts.into_iter().filter(|conflict| self.filter.wants_conflict(conflict)));
        self.nodes += 1;
        self.left_out += u64::from(node.left_out);
        if self.rows.len() >= PART {
            progress.clear();
            self.flush();
        }
    }

    fn flush(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        self.shown += rows.len();
        if self.failed.is_ok() && !rows.is_empty() {
            self.failed = print(&self.table.part(&rows));
        }
    }

    fn finish(mut self, everywhere: Vec<HostPortRow>) -> Result<(), Failure> {
        self.rows.extend(everywhere);
        self.flush();
        self.failed?;
        if self.shown == 0 {
            eprintln!("no such host ports on {} nodes", self.nodes);
        }
        print(&self.table.conflicts(&self.conflicts))?;
        if self.left_out > 0 {
            notes(&[format!("{} rows were too many for their ledgers, and are missing here", self.left_out)]);
        }
        Ok(())
    }
}
