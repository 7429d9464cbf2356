//! What the agent does better where it is there, and how this node is set up.

use std::{fs, path::Path};

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use super::{Answer, Finding, raw};
use crate::{
    host::sock_diag,
    kernel::btf::{self, Offsets},
};

const NEWER: &str = "run a kernel of at least that version";

/// What kernels have from some version on.
pub(super) fn kernel() -> Vec<Finding> {
    let storage = |program| is_helper_supported(program, BpfHelper::BPF_FUNC_sk_storage_get);
    vec![
        Finding {
            name: "post-bind hooks that deny",
            since: "5.17",
            required: false,
            // `inet_bind` gives the port back through this member (__inet_bind in net/ipv4/af_inet.c).
            answer: Answer::of(btf::has_member("proto", "put_port")),
            without: "a bind can be denied before the kernel tries it only, so what is taken there is kept until the socket \
                      closes, also where the kernel refused the bind",
            remedy: NEWER,
        },
        Finding {
            name: "socket release hooks",
            since: "5.9",
            required: false,
            answer: Answer::of(raw::sees_releases()),
            without: "that a port is free again is seen by looking at the sockets only",
            remedy: NEWER,
        },
        Finding {
            name: "socket storage in bind and socket hooks",
            since: "5.9",
            required: false,
            answer: Answer::of(
                storage(ProgramType::CgroupSockAddr).and_then(|bind| Ok(bind && storage(ProgramType::CgroupSock)?)),
            ),
            without: "what a socket holds cannot be noted on the socket itself",
            remedy: NEWER,
        },
        Finding {
            name: "links of raw tracepoints",
            since: "5.8",
            required: false,
            answer: Answer::of(raw::has_raw_tracepoint_links()),
            without: "while no agent runs, a new pod's cgroup is not recognised",
            remedy: NEWER,
        },
        Finding {
            name: "cgroups in socket diagnostics",
            since: "5.8",
            required: false,
            answer: Answer::of(sock_diag::shows_cgroup()),
            without: "whose the sockets are that were bound before the agent came is not known",
            remedy: "run a kernel of at least that version, with CONFIG_INET_DIAG and its TCP part built in or loaded \
                     (modprobe tcp_diag)",
        },
        Finding {
            name: "bound sockets in socket diagnostics",
            since: "6.8",
            required: false,
            answer: Answer::of(sock_diag::shows_bound()),
            without: "TCP sockets that were bound before the agent came and do not listen yet are not seen",
            remedy: NEWER,
        },
        Finding {
            name: "reading sockets and tasks without helpers",
            since: "6.2",
            required: false,
            answer: Answer::of(Offsets::of_running_kernel().and_then(|offsets| Ok(raw::cast(&offsets)?.is_some()))),
            without: "every bind and close takes some tens of nanoseconds longer",
            remedy: NEWER,
        },
        Finding {
            name: "LSM programs for cgroups",
            since: "6.0",
            required: false,
            answer: Answer::of(raw::has_cgroup_lsm()),
            without: "nothing today: no program of the agent is one",
            remedy: "run a kernel of at least that version with CONFIG_BPF_LSM=y, and with bpf in lsm= on its command line",
        },
    ]
}

/// How this node is set up.
pub(super) fn node() -> Vec<Finding> {
    vec![
        Finding {
            name: "cgroup v2 is mounted",
            since: "4.5",
            required: true,
            answer: is_mounted("cgroup2"),
            without: "pods cannot be told apart",
            remedy: "mount it (mount -t cgroup2 cgroup2 /sys/fs/cgroup), or boot with systemd.unified_cgroup_hierarchy=1",
        },
        Finding {
            name: "a BPF file system is mounted",
            since: "4.4",
            required: false,
            answer: is_mounted("bpf"),
            without: "what is in force ends with the agent",
            remedy: "mount one (mount -t bpf bpf /sys/fs/bpf), and name it with --bpffs if it is elsewhere",
        },
        Finding {
            name: "kernel memory is not locked down",
            since: "5.4",
            required: false,
            answer: not_locked_down(Path::new("/sys/kernel/security")),
            without: "programs may not read it, and so a socket that is IPv6 only is taken to be dual-stack",
            remedy: "boot with lockdown=integrity or without lockdown",
        },
    ]
}

/// Whether a file system of this type is mounted anywhere that this process sees.
fn is_mounted(kind: &str) -> Answer {
    let separator = format!(" - {kind} ");
    Answer::of(
        fs::read_to_string("/proc/self/mountinfo").map(|text| text.lines().any(|line| line.contains(&separator))),
    )
}

/// Before 5.4, and where it is not built in, there is no lockdown, and no file of it.
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
