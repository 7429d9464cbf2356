//! `net.ipv4.ip_local_reserved_ports`, kept in step with the claims: which ports are to be added and taken away, and in
//! which order, so that nothing of others is lost and a crash at any moment can be made good.
//!
//! What the kernel does with the file (`proc_do_large_bitmap` in kernel/sysctl.c; seen on 6.18):
//!
//! - A write at position 0 *replaces* the list. A write at any other position *adds* to it: so adding needs no reading,
//!   and cannot lose what somebody else writes at the same time.
//! - One write takes 4,095 bytes; of a longer one it takes the items that fit, and returns how many bytes these had. A
//!   list that is longer is written in several goes, the first one at 0.
//! - What is not a list is refused as a whole (`EINVAL`), and the list stays as it was.
//! - A read must have room for everything: the rest of a list that did not fit is not there to be read.
//!
//! Taking away is reading, then replacing. Between the two, somebody else's edit could be lost; whoever carries the
//! steps out looks once more right before.

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use crate::reserved_ports::PortSet;

/// Most bytes in one write, well below what the kernel takes.
pub const MAX_WRITE_BYTES: usize = 4000;

/// State on disk, for the time after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RememberedPorts {
    /// All ports that are reserved because of us, and maybe some that are not reserved yet, or no more.
    pub ours: PortSet,
    /// Ports that others reserved, while the list is replaced in several writes: what of it is missing is to be put
    /// back.
    pub others: Option<PortSet>,
}

/// One step. Each is done before the next one begins, and none after one that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the state to disk, durably.
    Remember(RememberedPorts),
    /// Write this text anywhere but at the beginning of the file: the ports are added.
    Add(String),
    /// Write this text at the beginning of the file: it is the list from now on.
    Replace(String),
}

/// Steps, and the lists after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The steps, in order. None if all is as it should be.
    pub steps: Vec<Step>,
    /// The list as it will be.
    pub after: PortSet,
    /// Our part of it.
    pub ours: PortSet,
    /// Ports that are not ours yet.
    pub added: PortSet,
    /// Ports that are ours no more.
    pub removed: PortSet,
    /// Ports that are wanted and left out, because half of the ephemeral ports that others left free are reserved
    /// already.
    pub left_out: PortSet,
}

/// Plans the way from the kernel's list as it is to one that holds the wanted ports, and all that others put there.
///
/// A port that is in the list and not remembered as ours is somebody else's: it stays when nobody claims it any more. A
/// remembered port that is not in the list is not ours, whoever took it out.
///
/// Of the `ephemeral` ports, at most half of those that others left free become ours. `wanted` is in order of
/// preference; what is ours already comes first, so that nothing is swapped to and fro.
#[must_use]
pub fn plan(kernel: &PortSet, memory: &RememberedPorts, wanted: &[u16], ephemeral: &RangeInclusive<u16>) -> Plan {
    let held = memory.ours.and(kernel);
    // A replacement that was cut short may have left out what others reserved.
    let lost = memory.others.as_ref().map(|others| others.without(kernel)).unwrap_or_default();
    let others = kernel.or(&lost).without(&held);

    let ephemeral_ports: PortSet = ephemeral.clone().collect();
    let most = ephemeral_ports.without(&others).len() / 2;
    let mut room = most;
    let (mut ours, mut left_out) = (PortSet::default(), PortSet::default());
    let is_held = |port: &&u16| held.contains(**port);
    let is_new = |port: &&u16| !held.contains(**port);
    for &port in wanted.iter().filter(is_held).chain(wanted.iter().filter(is_new)) {
        if port == 0 || others.contains(port) || ours.contains(port) {
            continue;
        }
        if ephemeral.contains(&port) {
            if room == 0 {
                left_out.insert(port);
                continue;
            }
            room -= 1;
        }
        ours.insert(port);
    }

    let (added, removed) = (ours.without(&held), held.without(&ours));
    let after = others.or(&ours);
    let mut steps = Vec::new();
    let mut known = memory.clone();
    let mut remember = |steps: &mut Vec<Step>, memory: RememberedPorts| {
        if memory != known {
            known = memory.clone();
            steps.push(Step::Remember(memory));
        }
    };
    // Remembered before they are there, forgotten after they are gone.
    let all = held.or(&ours);
    let to_add = added.or(&lost);
    if !to_add.is_empty() {
        remember(&mut steps, RememberedPorts { ours: all.clone(), others: memory.others.clone() });
        steps.extend(to_add.texts(MAX_WRITE_BYTES).into_iter().map(Step::Add));
    }
    if !removed.is_empty() {
        let mut texts = after.texts(MAX_WRITE_BYTES).into_iter();
        let others = (texts.len() > 1).then_some(others);
        remember(&mut steps, RememberedPorts { ours: all, others });
        steps.extend(texts.next().map(Step::Replace));
        steps.extend(texts.map(Step::Add));
    }
    remember(&mut steps, RememberedPorts { ours: ours.clone(), others: None });
    Plan { steps, after, ours, added, removed, left_out }
}
