//! What this kernel offers, found out by asking it for the real thing.

mod optional;
mod raw;

use std::path::Path;

use aya::{
    maps::MapType,
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, SyscallError, is_helper_supported, is_map_supported, is_program_supported},
};

use crate::{
    host::netns,
    kernel::{btf::Offsets, kfunc::RdonlyCast},
};

/// What the programs are adapted to.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `bpf_set_retval` in bind hooks, since Linux 6.1: a denied bind fails with the error number of our choice, else
    /// with EPERM.
    pub set_retval: bool,
    /// The same in post-bind hooks, since 5.18.
    pub post_set_retval: bool,
    /// A post-bind hook that denies gives the port back, and so really denies: since 5.17. Else a port that could be shared
    /// is taken before it is bound.
    pub post_bind_denies: bool,
    /// The time of the last tick (`bpf_ktime_get_coarse_ns`), since 5.11: who holds a port is noted at a tenth of the cost of
    /// reading a clock.
    pub coarse_time: bool,
    /// Reading kernel memory, which needs `CAP_PERFMON` and no lockdown: whether a socket is IPv6 only is exact, else
    /// `::` counts as dual-stack.
    pub probe_read: bool,
    /// Reading sockets and tasks by loads and not by helpers, since 6.2: a tenth of the cost.
    pub cast: Option<RdonlyCast>,
}

/// One thing that was asked, for `enforcer probe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable name.
    pub name: &'static str,
    /// First kernel version that has it.
    pub since: &'static str,
    /// Whether the agent can work without it.
    pub required: bool,
    /// The answer.
    pub answer: Answer,
    /// What it means where it is missing.
    pub without: &'static str,
    /// What can be done about that.
    pub remedy: &'static str,
}

/// Answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Yes,
    /// It is not there.
    No,
    /// It could not be found out, and why.
    Unknown(String),
}

impl Answer {
    fn of<E: std::fmt::Display>(result: Result<bool, E>) -> Self {
        match result {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// Whether it is known to be there.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }
}

/// Asks the kernel for what the programs are adapted to.
///
/// # Errors
///
/// If the kernel refuses the question, which means that a privilege is missing.
pub fn features() -> Result<Features, ProgramError> {
    // Without type information nothing works, and that is told when the programs are loaded.
    let offsets = Offsets::of_running_kernel().ok();
    Ok(Features {
        set_retval: is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)?,
        post_set_retval: is_helper_supported(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_set_retval)?,
        post_bind_denies: offsets.is_some_and(|offsets| offsets.post_bind_denies),
        coarse_time: is_helper_supported(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_ktime_get_coarse_ns)?,
        probe_read: is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_probe_read_kernel)?,
        cast: offsets.and_then(|offsets| raw::cast(&offsets).ok().flatten()),
    })
}

/// Asks for everything there is to tell a person.
#[must_use]
pub fn findings() -> Vec<Finding> {
    let program = |program| Answer::of(is_program_supported(program));
    let map = |map| Answer::of::<SyscallError>(is_map_supported(map));
    let helper = |program, helper| Answer::of(is_helper_supported(program, helper));
    let newer = "run a kernel of at least that version";
    let mut findings = vec![
        Finding {
            name: "cgroup bind hooks",
            since: "4.17",
            required: true,
            answer: program(ProgramType::CgroupSockAddr),
            without: "no bind can be judged",
            remedy: "run a kernel with CONFIG_CGROUP_BPF=y, and give the agent CAP_BPF and CAP_NET_ADMIN",
        },
        Finding {
            name: "cgroup post-bind hooks",
            since: "4.17",
            required: true,
            answer: program(ProgramType::CgroupSock),
            without: "what was really bound is not seen",
            remedy: "run a kernel with CONFIG_CGROUP_BPF=y",
        },
        Finding {
            name: "raw tracepoints",
            since: "4.17",
            required: true,
            answer: program(ProgramType::RawTracePoint),
            without: "a new pod's cgroup is not recognised before its first bind",
            remedy: "run a kernel with CONFIG_BPF_EVENTS=y, and give the agent CAP_PERFMON",
        },
        Finding {
            name: "network namespace cookies in bind hooks",
            since: "5.7",
            required: true,
            answer: helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie),
            without: "binds of pods with a network of their own cannot be told from the node's",
            remedy: newer,
        },
        Finding {
            name: "ring buffer",
            since: "5.8",
            required: true,
            answer: map(MapType::RingBuf),
            without: "conflicts cannot be reported",
            remedy: newer,
        },
        Finding {
            name: "kernel type information",
            since: "5.2",
            required: true,
            answer: match Offsets::of_running_kernel() {
                Ok(_) => Answer::Yes,
                Err(_) if !Path::new("/sys/kernel/btf/vmlinux").exists() => Answer::No,
                Err(error) => Answer::Unknown(error.to_string()),
            },
            without: "a cgroup's name and parents cannot be read",
            remedy: "run a kernel with CONFIG_DEBUG_INFO_BTF=y",
        },
        Finding {
            name: "choice of the error number",
            since: "6.1",
            required: false,
            answer: helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
            without: "a denied bind fails with EPERM, whatever --deny-errno says",
            remedy: newer,
        },
        Finding {
            name: "time of the last tick",
            since: "5.11",
            required: false,
            answer: helper(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
            without: "every bind and close reads a clock, which takes some tens of nanoseconds",
            remedy: newer,
        },
        Finding {
            name: "reading kernel memory",
            since: "5.5",
            required: false,
            answer: helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_probe_read_kernel),
            without: "a socket that is IPv6 only is taken to be dual-stack",
            remedy: "give the agent CAP_PERFMON; under kernel lockdown (confidentiality) there is none",
        },
        Finding {
            name: "cookie of the node's network namespace",
            since: "5.14",
            required: false,
            answer: Answer::of(netns::cookie().map(|cookie| cookie.is_some())),
            without: "the initial network namespace is taken for the node's, which is wrong where a node is a container",
            remedy: newer,
        },
    ];
    findings.extend(optional::kernel());
    findings.extend(optional::node());
    findings
}
