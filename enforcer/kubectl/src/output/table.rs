//! Tables for people.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets::NOTHING};
use enforcer_core::{
    cluster::host_ports::{ClusterConflict, HostPortRow, is_undeclared},
    ledger::node_host_ports::LedgerRow,
};
use terminal_size::{Width as TerminalWidth, terminal_size};

use crate::cli::shows_colours;

/// Cell of a value that is unknown or does not apply.
const NONE: &str = "-";
/// Name of all nodes.
const EVERY_NODE: &str = "*";
/// Space between two columns, as kubectl has it.
const GAP: u16 = 3;
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

const HEAD: [&str; 6] = ["NODE", "PORT", "USER", "WORKLOAD", "SOURCE", "STATE"];
const WIDE: [&str; 4] = ["ADDRESS", "REACH", "CONTAINER", "SINCE"];
/// Place of the columns that are shortened on a narrow terminal, the first one first.
const SHORTENED: [usize; 2] = [3, 2];
/// Fewest characters that are left of such a column.
const LEAST: usize = 12;

/// Table of rows, written part by part with the same columns.
#[derive(Debug)]
pub(crate) struct RowTable {
    wide: bool,
    has_head: bool,
    colours: bool,
    /// Width of the terminal that is to be fitted; `None` without one.
    terminal: Option<usize>,
    widths: Vec<usize>,
}

impl RowTable {
    /// Starts a table for standard output.
    pub(crate) fn new(wide: bool, has_head: bool) -> Self {
        // Only where a person reads it: what is piped on is whole.
        let terminal = terminal_size().filter(|_| shows_colours_or_terminal());
        let terminal = terminal.map(|(TerminalWidth(columns), _)| usize::from(columns)).filter(|_| !wide);
        Self { wide, has_head, colours: shows_colours(), terminal, widths: Vec::new() }
    }

    /// Returns the lines of some rows, below the head if it is the first part.
    pub(crate) fn part(&mut self, rows: &[HostPortRow]) -> String {
        let mut cells: Vec<(bool, Vec<String>)> = rows.iter().map(|row| (row.conflict, self.cells(row))).collect();
        let is_first = self.widths.is_empty();
        let head: Vec<String> =
            HEAD.iter().chain(WIDE.iter().filter(|_| self.wide)).map(|head| (*head).to_owned()).collect();
        if is_first {
            self.widths = head.iter().map(|head| head.chars().count()).collect();
        }
        if is_first && self.has_head {
            cells.insert(0, (false, head));
        }
        for (_, row) in &cells {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.fit();
        for (_, row) in &mut cells {
            for (cell, width) in row.iter_mut().zip(&self.widths) {
                shorten(cell, *width);
            }
        }
        self.lines(cells)
    }

    /// Shortens columns to the width of the terminal.
    fn fit(&mut self) {
        let Some(terminal) = self.terminal else { return };
        let gaps = usize::from(GAP) * self.widths.len();
        for column in SHORTENED {
            let all: usize = self.widths.iter().sum::<usize>() + gaps;
            let excess = all.saturating_sub(terminal);
            self.widths[column] = self.widths[column].saturating_sub(excess).max(LEAST.min(self.widths[column]));
        }
    }

    fn lines(&self, cells: Vec<(bool, Vec<String>)>) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let conflicts: Vec<bool> = cells.iter().map(|(conflict, _)| *conflict).collect();
        for (_, row) in cells {
            table.add_row(row);
        }
        for (column, width) in self.widths.iter().enumerate() {
            if let Some(column) = table.column_mut(column) {
                column.set_padding((0, GAP));
                let width = u16::try_from(*width).unwrap_or(u16::MAX).saturating_add(GAP);
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
            }
        }
        let line = |(line, conflict): (String, bool)| {
            let line = line.trim_end();
            if conflict && self.colours { format!("{RED}{line}{PLAIN}\n") } else { format!("{line}\n") }
        };
        table.lines().zip(conflicts).map(line).collect()
    }

    fn cells(&self, row: &HostPortRow) -> Vec<String> {
        let HostPortRow { node, row, .. } = row;
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
        let ports = if row.first_port == row.last_port {
            row.first_port.to_string()
        } else {
            format!("{}-{}", row.first_port, row.last_port)
        };
        let mut cells = vec![
            node.clone().unwrap_or_else(|| EVERY_NODE.to_owned()),
            format!("{ports}/{}", row.protocol),
            row.who.to_string(),
            or_none(&row.who.workload),
            or_none(&row.source),
            state(row),
        ];
        if self.wide {
            cells.extend([
                row.address.clone().unwrap_or_else(|| EVERY_NODE.to_owned()),
                row.reach.clone(),
                or_none(&row.who.container),
                or_none(&row.since),
            ]);
        }
        cells
    }

    /// Returns the section of the conflicts; nothing if there are none.
    pub(crate) fn conflicts(&self, conflicts: &[ClusterConflict]) -> String {
        if conflicts.is_empty() {
            return String::new();
        }
        let mut table = Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.add_row(["NODE", "CONFLICT"]);
        for conflict in conflicts {
            table.add_row([&conflict.node, &conflict.message]);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let lines: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        if self.colours { format!("\n{RED}{}{PLAIN}\n", lines.trim_end()) } else { format!("\n{lines}") }
    }
}

fn shows_colours_or_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdout().is_terminal()
}

fn shorten(cell: &mut String, width: usize) {
    if cell.chars().count() > width {
        *cell = cell.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
}

/// Returns the state of a row in words.
fn state(row: &LedgerRow) -> String {
    let mut words = Vec::new();
    match (row.standing.as_deref(), &row.behind) {
        (Some("lost"), Some(winner)) => words.push(format!("lost to {winner}")),
        (Some("lost"), None) => words.push("lost".to_owned()),
        _ => {}
    }
    if row.held {
        words.push("held".to_owned());
    } else if row.who.kind == "service" {
        words.push("every node".to_owned());
    } else if words.is_empty() {
        words.push("claimed".to_owned());
    }
    if is_undeclared(row) {
        words.push("undeclared".to_owned());
    }
    words.join(", ")
}
