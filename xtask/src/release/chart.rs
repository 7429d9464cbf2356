//! Archive of the Helm chart, as `helm package` makes it but for its times: the files of the chart that git knows.

use std::fs;

use anyhow::{Context as _, bail};

use crate::file_tree::{self, FileTree};
use crate::process;

/// Folder of the chart.
const CHART: &str = "deploy/helm/port-enforcer";

/// Packs the chart.
pub(super) fn archive(epoch: u64) -> anyhow::Result<Vec<u8>> {
    let listed = process::output(process::git().args(["ls-files", "--", CHART]))
        .context("cannot list the files of the chart")?;
    let mut tree = FileTree::default();
    for path in listed.lines() {
        let name = path.strip_prefix(CHART).with_context(|| format!("{path} is not below {CHART}"))?;
        // Through symbolic links: an archive has the files themselves.
        let content = fs::read(process::workspace_root().join(path)).with_context(|| format!("cannot read {path}"))?;
        tree.add_file(&format!("port-enforcer{name}"), content);
    }
    if listed.is_empty() {
        bail!("git knows no file below {CHART}");
    }
    file_tree::pack_gzip(&tree, epoch)
}
