//! Features of the kernel that improve the agent where they are there.

use std::io;

use aya::{
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};

use enforcer_ebpf::wire::Constant;

use super::{Answer, Feature, Features, NEWER, Setting, trial_programs};
use crate::{
    host::{netns, sock_diag},
    kernel::{
        btf::{MptcpOffsets, Offsets},
        rdonly_cast::{CgroupAncestors, RdonlyCast},
    },
};

pub(super) const TABLE: &[&Feature] = &[
    &ERRNO_CHOICE,
    &TICK_TIME,
    &ATOMIC_EXCHANGE,
    &KERNEL_MEMORY,
    &NODE_NETNS_COOKIE,
    &DENYING_POST_BIND,
    &TAIL_CALLS,
    &SOCK_RELEASE_HOOKS,
    &SOCKET_STORAGE,
    &TRACEPOINT_LINKS,
    &CGROUPS_IN_DIAGNOSTICS,
    &BOUND_IN_DIAGNOSTICS,
    &LOADS,
    &CGROUP_LSM,
];

/// `bpf_set_retval`. In post-bind hooks it is there since 5.18.
pub static ERRNO_CHOICE: Feature = Feature {
    name: "choice of the error number",
    since: "6.1",
    required: false,
    without: "a denied bind fails with EPERM, whatever --deny-errno says",
    remedy: NEWER,
    probe: || Answer::of(has_set_retval()),
    constants: &[
        Setting { constant: Constant::HasSetRetval, value: |features, _| features.set_retval.into() },
        Setting { constant: Constant::HasPostSetRetval, value: |features, _| features.post_set_retval.into() },
    ],
};

/// `bpf_ktime_get_coarse_ns`.
pub static TICK_TIME: Feature = Feature {
    name: "time of the last tick",
    since: "5.11",
    required: false,
    without: "every bind and close reads a clock, which takes some tens of nanoseconds",
    remedy: NEWER,
    probe: || Answer::of(has_coarse_time()),
    constants: &[Setting { constant: Constant::HasCoarseTime, value: |features, _| features.coarse_time.into() }],
};

/// `BPF_CMPXCHG`.
pub static ATOMIC_EXCHANGE: Feature = Feature {
    name: "atomic exchange in programs",
    since: "5.12",
    required: false,
    without: "every bind and close writes to a ring, which takes some tens of nanoseconds longer",
    remedy: "run a kernel of at least that version; on arm64, of at least 5.18",
    probe: || Answer::of(has_atomic_exchange()),
    constants: &[
        Setting { constant: Constant::HasSocketLog, value: |features, _| features.atomic_exchange.into() },
        Setting { constant: Constant::OrderedStores, value: |_, _| cfg!(target_arch = "x86_64").into() },
    ],
};

/// `bpf_probe_read_kernel`.
pub static KERNEL_MEMORY: Feature = Feature {
    name: "reading kernel memory",
    since: "5.5",
    required: false,
    without: "a socket that is IPv6 only is taken to be dual-stack",
    remedy: "give the agent CAP_PERFMON; under kernel lockdown (confidentiality) there is none",
    probe: || Answer::of(has_probe_read()),
    constants: &[
        Setting {
            constant: Constant::SockFlagsOffset,
            value: |features, offsets| readable(features, offsets.sock_flags),
        },
        Setting {
            constant: Constant::KernSockBit,
            value: |features, offsets| readable(features, offsets.kern_sock_bit),
        },
        Setting {
            constant: Constant::BoundDevOffset,
            value: |features, offsets| readable(features, offsets.bound_dev),
        },
        Setting { constant: Constant::SockNumOffset, value: |features, offsets| readable(features, offsets.sock_num) },
        Setting {
            constant: Constant::IsMptcpOffset,
            value: |features, offsets| mptcp(features, offsets, |of| of.is_mptcp),
        },
        Setting {
            constant: Constant::UlpDataOffset,
            value: |features, offsets| mptcp(features, offsets, |of| of.ulp_data),
        },
        Setting {
            constant: Constant::SubflowConnOffset,
            value: |features, offsets| mptcp(features, offsets, |of| of.conn),
        },
    ],
};

/// `SO_NETNS_COOKIE`.
pub static NODE_NETNS_COOKIE: Feature = Feature {
    name: "cookie of the node's network namespace",
    since: "5.14",
    required: false,
    without: "the initial network namespace is taken for the node's, which is wrong where a node is a container",
    remedy: NEWER,
    probe: || Answer::of(netns::cookie().map(|cookie| cookie.is_some())),
    constants: &[],
};

/// A post-bind hook that denies gives the port back.
pub static DENYING_POST_BIND: Feature = Feature {
    name: "post-bind hooks that deny",
    since: "5.17",
    required: false,
    without: "a bind can be denied before the kernel tries it only, so what is taken there is kept until the socket \
              closes, also where the kernel refused the bind",
    remedy: NEWER,
    probe: || Answer::of(Offsets::of_running_kernel().map(|offsets| offsets.post_bind_denies)),
    constants: &[
        Setting { constant: Constant::PostBindDenies, value: |features, _| features.post_bind_denies.into() },
        Setting { constant: Constant::TakesBeforeBind, value: |features, _| features.takes_before_bind().into() },
    ],
};

/// Tail calls in a program that has functions.
pub static TAIL_CALLS: Feature = Feature {
    name: "tail calls beside functions",
    since: "5.10",
    required: false,
    without: "before 5.17, a pod that shares a port with the pod that holds it is not denied if neither claims the port",
    remedy: "run a kernel of at least that version; on arm64, of at least 6.0",
    probe: || Answer::of(has_tail_calls()),
    constants: &[],
};

/// `cgroup/sock_release`.
pub static SOCK_RELEASE_HOOKS: Feature = Feature {
    name: "socket release hooks",
    since: "5.9",
    required: false,
    without: "that a port is free again is seen by looking at the sockets only",
    remedy: NEWER,
    probe: || Answer::of(trial_programs::sees_releases()),
    constants: &[],
};

/// `bpf_sk_storage_get`.
pub static SOCKET_STORAGE: Feature = Feature {
    name: "socket storage in bind and socket hooks",
    since: "5.9",
    required: false,
    without: "what a socket holds cannot be noted on the socket itself",
    remedy: NEWER,
    probe: || {
        let storage = |program| is_helper_supported(program, BpfHelper::BPF_FUNC_sk_storage_get);
        let both = storage(ProgramType::CgroupSockAddr).and_then(|bind| Ok(bind && storage(ProgramType::CgroupSock)?));
        Answer::of(both)
    },
    constants: &[],
};

/// Links of raw tracepoints, which can be pinned.
pub static TRACEPOINT_LINKS: Feature = Feature {
    name: "links of raw tracepoints",
    since: "5.8",
    required: false,
    without: "while no agent runs, a new pod's cgroup is not recognised",
    remedy: NEWER,
    probe: || Answer::of(trial_programs::has_raw_tracepoint_links()),
    constants: &[],
};

/// `INET_DIAG_CGROUP_ID`.
pub static CGROUPS_IN_DIAGNOSTICS: Feature = Feature {
    name: "cgroups in socket diagnostics",
    since: "5.8",
    required: false,
    without: "whose the sockets are that were bound before the agent came is not known",
    remedy: "run a kernel of at least that version, with CONFIG_INET_DIAG and its TCP part built in or loaded \
             (modprobe tcp_diag)",
    probe: || Answer::of(sock_diag::shows_cgroup()),
    constants: &[],
};

/// `TCP_BOUND_INACTIVE`.
pub static BOUND_IN_DIAGNOSTICS: Feature = Feature {
    name: "bound sockets in socket diagnostics",
    since: "6.8",
    required: false,
    without: "TCP sockets that were bound before the agent came and do not listen yet are not seen",
    remedy: NEWER,
    probe: || Answer::of(sock_diag::shows_bound()),
    constants: &[],
};

/// `bpf_rdonly_cast`.
pub static LOADS: Feature = Feature {
    name: "reading sockets and tasks without helpers",
    since: "6.2",
    required: false,
    without: "every bind and close takes some tens of nanoseconds longer",
    remedy: NEWER,
    probe: || {
        Answer::of(Offsets::of_running_kernel().and_then(|offsets| Ok(trial_programs::cast(&offsets)?.is_some())))
    },
    constants: &[
        Setting { constant: Constant::SockType, value: |features, _| cast(features, |cast| cast.sock) },
        Setting { constant: Constant::SockCookieOffset, value: |features, _| cast(features, |cast| cast.loads.cookie) },
        Setting { constant: Constant::SockNetOffset, value: |features, _| cast(features, |cast| cast.loads.net) },
        Setting {
            constant: Constant::NetCookieOffset,
            value: |features, _| cast(features, |cast| cast.loads.net_cookie),
        },
        Setting {
            constant: Constant::SockStorageOffset,
            value: |features, _| cast(features, |cast| cast.loads.storage),
        },
        Setting { constant: Constant::TaskType, value: |features, _| cast(features, |cast| cast.task) },
        Setting { constant: Constant::TaskTgidOffset, value: |features, _| cast(features, |cast| cast.offsets.tgid) },
        Setting { constant: Constant::TaskCommOffset, value: |features, _| cast(features, |cast| cast.offsets.comm) },
        Setting { constant: Constant::TaskCredOffset, value: |features, _| cast(features, |cast| cast.offsets.cred) },
        Setting { constant: Constant::CredUidOffset, value: |features, _| cast(features, |cast| cast.offsets.uid) },
        Setting {
            constant: Constant::TaskCssSetOffset,
            value: |features, _| cast(features, |cast| cast.offsets.css_set),
        },
        Setting { constant: Constant::CgroupLevelOffset, value: |features, _| ancestors(features, |of| of.level) },
        Setting {
            constant: Constant::CgroupAncestorsOffset,
            value: |features, _| ancestors(features, |of| of.ancestors),
        },
        Setting { constant: Constant::CgroupPointerType, value: |features, _| ancestors(features, |of| of.pointer) },
        Setting {
            constant: Constant::CssSetCgroupOffset,
            value: |features, _| cast(features, |cast| cast.offsets.css_set_cgroup),
        },
    ],
};

/// `BPF_LSM_CGROUP`.
pub static CGROUP_LSM: Feature = Feature {
    name: "LSM programs for cgroups",
    since: "6.0",
    required: false,
    without: "nothing today: no program of the agent is one",
    remedy: "run a kernel of at least that version with CONFIG_BPF_LSM=y, and with bpf in lsm= on its command line",
    probe: || Answer::of(trial_programs::has_cgroup_lsm()),
    constants: &[],
};

/// Returns whether bind hooks may choose the error number.
pub(super) fn has_set_retval() -> Result<bool, ProgramError> {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
}

/// Returns whether post-bind hooks may choose the error number.
pub(super) fn has_post_set_retval() -> Result<bool, ProgramError> {
    is_helper_supported(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_set_retval)
}

/// Returns whether programs can read the time of the last tick.
pub(super) fn has_coarse_time() -> Result<bool, ProgramError> {
    is_helper_supported(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_ktime_get_coarse_ns)
}

/// Returns whether programs have an atomic exchange that answers.
pub(super) fn has_atomic_exchange() -> io::Result<bool> {
    trial_programs::has_atomic_exchange()
}

/// Returns whether a program with functions can continue with another program.
pub(super) fn has_tail_calls() -> io::Result<bool> {
    trial_programs::has_tail_calls()
}

/// Returns whether programs may read kernel memory.
pub(super) fn has_probe_read() -> Result<bool, ProgramError> {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_probe_read_kernel)
}

/// Returns an offset, or 0 where programs may not read kernel memory.
fn readable(features: &Features, offset: u32) -> u32 {
    if features.probe_read { offset } else { 0 }
}

/// Returns an offset on the way to an MPTCP socket, or 0 where the kernel has no MPTCP.
fn mptcp(features: &Features, offsets: &Offsets, offset: fn(MptcpOffsets) -> u32) -> u32 {
    readable(features, offsets.mptcp.map_or(0, offset))
}

/// Returns a number by which the ancestors of a cgroup are read, or 0 where they are not.
fn ancestors(features: &Features, number: fn(CgroupAncestors) -> u32) -> u32 {
    features.cast.and_then(|cast| cast.ancestors).map_or(0, number)
}

/// Returns a number of the cast, or 0 where the kernel has no cast.
fn cast(features: &Features, number: fn(RdonlyCast) -> u32) -> u32 {
    features.cast.map_or(0, number)
}
