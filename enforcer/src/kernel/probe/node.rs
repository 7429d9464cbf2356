//! Properties of the node: what is mounted, what is locked down. A check of the node's network plugin belongs here.

use std::{fs, path::Path};

use super::{Answer, Feature};

pub(super) const TABLE: &[&Feature] = &[&CGROUP2, &BPFFS, &NO_LOCKDOWN];

/// A mount of cgroup v2.
pub static CGROUP2: Feature = Feature {
    name: "cgroup v2 is mounted",
    since: "4.5",
    required: true,
    without: "pods cannot be told apart",
    remedy: "mount it (mount -t cgroup2 cgroup2 /sys/fs/cgroup), or boot with systemd.unified_cgroup_hierarchy=1",
    probe: || is_mounted("cgroup2"),
    constants: &[],
};

/// A mount of a BPF file system.
pub static BPFFS: Feature = Feature {
    name: "a BPF file system is mounted",
    since: "4.4",
    required: false,
    without: "what is in force ends with the agent",
    remedy: "mount one (mount -t bpf bpf /sys/fs/bpf), and name it with --bpffs if it is elsewhere",
    probe: || is_mounted("bpf"),
    constants: &[],
};

/// No lockdown in confidentiality mode.
pub static NO_LOCKDOWN: Feature = Feature {
    name: "kernel memory is not locked down",
    since: "5.4",
    required: false,
    without: "programs may not read it, and so a socket that is IPv6 only is taken to be dual-stack",
    remedy: "boot with lockdown=integrity or without lockdown",
    probe: || not_locked_down(Path::new("/sys/kernel/security")),
    constants: &[],
};

/// Looks for a mount of this file system type that this process sees.
fn is_mounted(kind: &str) -> Answer {
    let separator = format!(" - {kind} ");
    Answer::of(
        fs::read_to_string("/proc/self/mountinfo").map(|text| text.lines().any(|line| line.contains(&separator))),
    )
}

/// Reads the lockdown state. Before 5.4, and where it is not built in, there is no lockdown, and no file of it.
fn not_locked_down(security: &Path) -> Answer {
    match fs::read_to_string(security.join("lockdown")) {
        Ok(state) => Answer::of::<std::convert::Infallible>(Ok(!state.contains("[confidentiality]"))),
        Err(_) if security.join("lsm").exists() => Answer::Yes,
        Err(_) => Answer::Unknown(format!("securityfs is not mounted on {}", security.display())),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn lockdown_is_read_as_the_kernel_writes_it() {
        let folder = TempDir::new().unwrap();
        assert!(matches!(not_locked_down(folder.path()), Answer::Unknown(_)));
        fs::write(folder.path().join("lsm"), "capability,bpf").unwrap();
        assert_eq!(not_locked_down(folder.path()), Answer::Yes);
        for (state, answer) in [
            ("[none] integrity confidentiality\n", Answer::Yes),
            ("none [integrity] confidentiality\n", Answer::Yes),
            ("none integrity [confidentiality]\n", Answer::No),
        ] {
            fs::write(folder.path().join("lockdown"), state).unwrap();
            assert_eq!(not_locked_down(folder.path()), answer, "{state}");
        }
    }
}
