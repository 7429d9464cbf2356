//! Room for the content of a ledger, and what is left out where it is too little.

use serde::Serialize;

use super::count;
use crate::ledger::node_host_ports::{LedgerRow, MAX_BYTES, MAX_ROWS, NodeHostPortsStatus};

/// Room for the content of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerRoom {
    /// Most rows.
    pub rows: usize,
    /// Most bytes as JSON.
    pub bytes: usize,
}

impl Default for LedgerRoom {
    fn default() -> Self {
        Self { rows: MAX_ROWS, bytes: MAX_BYTES }
    }
}

impl LedgerRoom {
    /// Smallest number of bytes that is tried.
    const MIN_BYTES: usize = 4 << 10;

    /// Returns half of the room, for an API server that takes less; `None` if that would be too little.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        let half = Self { rows: self.rows, bytes: self.bytes / 2 };
        (half.bytes >= Self::MIN_BYTES).then_some(half)
    }
}

/// Leaves out rows until the content has room. Rows of conflicts stay longest, and claims longer than sockets without
/// one. Observed ports have a quarter of the room that conflicts leave.
pub fn fit(status: &mut NodeHostPortsStatus, room: LedgerRoom) {
    if status.ports.len() <= room.rows && json_bytes(status) <= room.bytes {
        return;
    }
    let before = status.ports.len() + status.conflicts.len();
    let rows = std::mem::take(&mut status.ports);
    let conflicts = std::mem::take(&mut status.conflicts);
    let observed = std::mem::take(&mut status.observed);
    // The count takes room too, and is the greatest here.
    status.observed_left_out += count(observed.len());
    let mut left = room.bytes.saturating_sub(json_bytes(status));
    // Half of the room at most is for conflicts, so that there always are rows.
    let mut left_for_conflicts = left / 2;
    status.conflicts = take_while_room(conflicts, &mut left_for_conflicts);
    left = left.saturating_sub(status.conflicts.iter().map(row_bytes).sum());
    let mut left_for_observed = left / 4;
    status.observed = take_while_room(observed, &mut left_for_observed);
    status.observed_left_out -= count(status.observed.len());
    left = left.saturating_sub(status.observed.iter().map(row_bytes).sum());
    let mut ranked: Vec<(u8, usize, LedgerRow)> =
        rows.into_iter().enumerate().map(|(place, row)| (rank(&row), place, row)).collect();
    ranked.sort_by_key(|(rank, place, _)| (*rank, *place));
    ranked.truncate(room.rows);
    let mut kept = take_while_room_of(ranked, &mut left, |(_, _, row)| row_bytes(row));
    kept.sort_by_key(|(_, place, _)| *place);
    status.ports = kept.into_iter().map(|(_, _, row)| row).collect();
    status.left_out += count(before - status.ports.len() - status.conflicts.len());
}

fn rank(row: &LedgerRow) -> u8 {
    match (row.standing.as_deref(), row.held) {
        (Some("lost"), _) => 0,
        (Some(_), true) => 1,
        (Some(_), false) => 2,
        (None, _) => 3,
    }
}

fn take_while_room<T: Serialize>(items: Vec<T>, left: &mut usize) -> Vec<T> {
    take_while_room_of(items, left, row_bytes)
}

fn take_while_room_of<T>(items: Vec<T>, left: &mut usize, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let mut kept = Vec::new();
    for item in items {
        let Some(rest) = left.checked_sub(bytes(&item)) else { break };
        *left = rest;
        kept.push(item);
    }
    kept
}

fn row_bytes(row: &impl Serialize) -> usize {
    // With the comma after it.
    json_bytes(row) + 1
}

pub(super) fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |text| text.len())
}
