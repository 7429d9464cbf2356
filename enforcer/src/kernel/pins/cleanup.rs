//! Removal of everything that agents of any version left.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use rustix::fs::FlockOperation;

use crate::kernel::{
    crash_point::step,
    link::Link,
    pins::{
        PinError, entries, layouts, lock_folder, on_bpffs, pin_store::remove_tree, remove_empty_folder, remove_pin,
    },
};

/// Time that the kernel may take to release what was removed: it does so after a grace period and in a work queue
/// (`bpf_link_put` in kernel/bpf/syscall.c).
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Result of a cleanup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupSummary {
    /// Links that were detached and removed.
    pub links: usize,
    /// Other pins that were removed.
    pub pins: usize,
    /// Programs of the removed pins and links that stay in the kernel because a process holds them.
    pub held: usize,
    /// Files that are not the agent's and were left alone.
    pub left_alone: Vec<PathBuf>,
}

/// Removes everything that agents of any version pinned below this folder, also what an interrupted start or cleanup
/// left; `None` while a running agent has the lock. After that no bind is judged any more. A folder that is not there,
/// or not on a BPF file system, has no pins.
///
/// # Errors
///
/// If something cannot be read or removed.
pub fn clean_up(folder: &Path) -> Result<Option<CleanupSummary>, PinError> {
    if !folder.exists() || !on_bpffs(folder) {
        return Ok(Some(CleanupSummary::default()));
    }
    let Some(_lock) = lock_folder(folder, FlockOperation::NonBlockingLockExclusive)? else {
        return Ok(None);
    };
    let layouts = layouts(folder)?;
    let mut cleaned = CleanupSummary::default();
    let mut programs = BTreeSet::new();
    // Links first: after an interruption nothing must judge.
    for path in layouts.iter().map(|layout| files(layout)).collect::<Result<Vec<_>, _>>()?.concat() {
        let opened = Link::pinned(&path).map_err(PinError::io("open", &path))?;
        let Some(link) = opened.checked() else {
            cleaned.pins += 1;
            continue;
        };
        let info = link.info().map_err(PinError::io("read what is pinned at", &path))?;
        programs.insert(info.program);
        if info.cgroup.is_some() {
            // At once, and also where another process has the link open.
            link.detach().map_err(PinError::io("detach", &path))?;
            step("detached the link", path.display());
        }
        remove_pin(&path)?;
        step("removed the pin of the link", path.display());
        cleaned.links += 1;
    }
    for layout in &layouts {
        remove_tree(layout, "cleaned up the")?;
    }
    cleaned.left_alone = entries(folder)?;
    remove_empty_folder(folder);
    step("removed the folder", folder.display());
    cleaned.held = await_release(&programs);
    Ok(Some(cleaned))
}

/// Returns all pins below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, PinError> {
    let mut found = Vec::new();
    for entry in entries(folder)? {
        if entry.is_dir() { found.extend(files(&entry)?) } else { found.push(entry) }
    }
    Ok(found)
}

/// Waits until the programs are gone, and returns how many are not. Without the right to list programs it does not wait.
fn await_release(programs: &BTreeSet<u32>) -> usize {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let held = loaded_programs().flatten().filter(|program| programs.contains(&program.id())).count();
        if held == 0 || Instant::now() >= deadline {
            return held;
        }
        thread::sleep(POLL_INTERVAL);
    }
}
