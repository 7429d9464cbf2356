//! `cargo xtask bench peers`: the programs of others beside ours and the empty ones.

mod description;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use comfy_table::{Table, presets::NOTHING};
use tempfile::NamedTempFile;

use self::description::Peer;
use super::{Measurements, round};

/// Names the file with the descriptions to the measuring program.
pub(super) const DESCRIPTIONS: &str = "PORT_ENFORCER_BENCH_PEERS";

/// The table of the last documented run, which `docs/performance.md` includes.
pub(super) const TABLE_PATH: &str = "xtask/src/bench/peers_table.md";

const HOOKS: [&str; 4] = ["create", "bind", "post_bind", "release"];

/// Peers whose descriptions were read, and the file with these for the measuring program.
pub(super) struct Peers {
    peers: Vec<Peer>,
    file: NamedTempFile,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    subject: String,
    /// Nanoseconds per run of each hook, and how often the empty program goes into that.
    hooks: String,
    net: String,
    cycle: String,
    /// Our sum over the hooks, divided by theirs.
    ours: String,
}

impl Peers {
    /// Reads the descriptions at these paths.
    pub(super) fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        ensure!(!paths.is_empty(), "name at least one object file, or the description of one");
        let peers = paths.iter().map(|path| Peer::read(path)).collect::<anyhow::Result<Vec<_>>>()?;
        for (place, peer) in peers.iter().enumerate() {
            let is_new = peers[..place].iter().all(|other| other.name != peer.name);
            ensure!(is_new, "two descriptions have the name {}", peer.name);
        }
        let mut file = NamedTempFile::new()?;
        file.write_all(&serde_json::to_vec(&peers)?).context("writing the descriptions for the measuring program")?;
        Ok(Self { peers, file })
    }

    /// Returns the file for the measuring program.
    pub(super) fn file(&self) -> &Path {
        self.file.path()
    }

    fn rows(&self, measurements: &Measurements) -> Vec<Row> {
        self.peers.iter().flat_map(|peer| rows(peer, measurements)).collect()
    }

    /// Returns the table for a terminal.
    pub(super) fn table(&self, measurements: &Measurements) -> Table {
        let mut table = Table::new();
        let header = ["SUBJECT", "NS PER HOOK RUN (÷ EMPTY)", "NET NS", "CYCLE ÷ EMPTY", "OUR SUM ÷ THEIRS"];
        table.load_preset(NOTHING).set_header(header);
        for Row { subject, hooks, net, cycle, ours } in self.rows(measurements) {
            table.add_row([subject, hooks, net, cycle, ours]);
        }
        table
    }

    /// Returns the table as Markdown, with the machine and the versions it is of.
    pub(super) fn markdown(&self, day: &str, machine: &str, measurements: &Measurements) -> String {
        let mut text = format!(
            "Measured by `cargo xtask bench peers` on {day}: {machine}.\n\n\
             | subject | kernel ns per hook run (÷ empty) | net ns | cycle ÷ empty | our sum ÷ theirs |\n\
             | --- | --- | --- | --- | --- |\n"
        );
        for Row { subject, hooks, net, cycle, ours } in self.rows(measurements) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {subject} | {hooks} | {net} | {cycle} | {ours} |");
        }
        text
    }
}

/// Returns the line of a peer, and that of ours with the same binds.
fn rows(peer: &Peer, measurements: &Measurements) -> [Row; 2] {
    let name = &peer.name;
    let (ours, empty) = (format!("ours at {name}"), format!("empty at {name}"));
    let value = |what: &str| measurements.get(&format!("peers/{what}")).map(|it| it.median);
    let text = |what: &str| value(what).map_or_else(String::new, round);
    let row = |subject: String, case: &str, ours: String| {
        let hooks = HOOKS.into_iter().filter_map(|hook| {
            let nanos = value(&format!("{case}/{hook}"))?;
            let ratio = value(&format!("{case}/{hook} ÷ {empty}"))?;
            Some(format!("{hook} {} ({})", round(nanos), round(ratio)))
        });
        Row {
            subject,
            hooks: hooks.collect::<Vec<_>>().join(" + "),
            net: text(&format!("{case}/net")),
            cycle: text(&format!("{case}/cycle ÷ {empty}")),
            ours,
        }
    };
    [
        row(format!("{name} ({})", peer.version), name, text(&format!("{ours}/programs ÷ {name}"))),
        row("ours, the same binds".to_owned(), &ours, String::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Measurement;
    use super::*;

    #[test]
    fn table_has_a_line_for_each_peer_and_one_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.json");
        std::fs::write(&path, r#"{ "name": "x", "version": "v1", "programs": { "f": "bind4" } }"#).unwrap();
        std::fs::write(folder.path().join("peer.o"), "").unwrap();
        let peers = Peers::read(std::slice::from_ref(&path)).unwrap();
        let values = [
            ("peers/x/bind", 76.0),
            ("peers/x/bind ÷ empty at x", 1.25),
            ("peers/x/net", 12.0),
            ("peers/x/cycle ÷ empty at x", 1.01),
            ("peers/ours at x/bind", 120.0),
            ("peers/ours at x/bind ÷ empty at x", 2.0),
            ("peers/ours at x/release", 80.0),
            ("peers/ours at x/release ÷ empty at x", 1.5),
            ("peers/ours at x/net", 90.0),
            ("peers/ours at x/programs ÷ x", 2.5),
        ];
        let measurements = values.map(|(name, value)| (name.to_owned(), Measurement::single(name, "ns", value))).into();
        let text = peers.markdown("2026-12-01", "Linux", &measurements);
        for line in [
            "| x (v1) | bind 76.0 (1.25) | 12.0 | 1.01 | 2.50 |",
            "| ours, the same binds | bind 120 (2.00) + release 80.0 (1.50) | 90.0 |  |  |",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(Peers::read(&[path.clone(), path]).is_err());
        assert!(Peers::read(&[]).is_err());
    }
}
