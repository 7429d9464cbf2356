//! Features of the kernel that the agent cannot work without.

use std::path::Path;

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, SyscallError, is_helper_supported, is_map_supported, is_program_supported},
};

use enforcer_ebpf::wire::Constant;

use super::{Answer, Feature, NEWER, Setting};
use crate::kernel::btf::{Offsets, VMLINUX};

pub(super) const TABLE: &[&Feature] =
    &[&BIND_HOOKS, &POST_BIND_HOOKS, &RAW_TRACEPOINTS, &NETNS_COOKIES, &RING_BUFFER, &TYPE_INFORMATION];

/// `cgroup/bind4` and `cgroup/bind6`.
pub static BIND_HOOKS: Feature = Feature {
    name: "cgroup bind hooks",
    since: "4.17",
    required: true,
    without: "no bind can be judged",
    remedy: "run a kernel with CONFIG_CGROUP_BPF=y, and give the agent CAP_BPF and CAP_NET_ADMIN",
    probe: || Answer::of(is_program_supported(ProgramType::CgroupSockAddr)),
    constants: &[],
};

/// `cgroup/post_bind4` and `cgroup/post_bind6`.
pub static POST_BIND_HOOKS: Feature = Feature {
    name: "cgroup post-bind hooks",
    since: "4.17",
    required: true,
    without: "what was really bound is not seen",
    remedy: "run a kernel with CONFIG_CGROUP_BPF=y",
    probe: || Answer::of(is_program_supported(ProgramType::CgroupSock)),
    constants: &[],
};

/// Raw tracepoints, which see cgroups come and go.
pub static RAW_TRACEPOINTS: Feature = Feature {
    name: "raw tracepoints",
    since: "4.17",
    required: true,
    without: "a new pod's cgroup is not recognised before its first bind",
    remedy: "run a kernel with CONFIG_BPF_EVENTS=y, and give the agent CAP_PERFMON",
    probe: || Answer::of(is_program_supported(ProgramType::RawTracePoint)),
    constants: &[],
};

/// `bpf_get_netns_cookie`.
pub static NETNS_COOKIES: Feature = Feature {
    name: "network namespace cookies in bind hooks",
    since: "5.7",
    required: true,
    without: "binds of pods with a network of their own cannot be told from the node's",
    remedy: NEWER,
    probe: || Answer::of(is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie)),
    constants: &[],
};

/// `BPF_MAP_TYPE_RINGBUF`.
pub static RING_BUFFER: Feature = Feature {
    name: "ring buffer",
    since: "5.8",
    required: true,
    without: "conflicts cannot be reported",
    remedy: NEWER,
    probe: || Answer::of::<SyscallError>(is_map_supported(MapType::RingBuf)),
    constants: &[],
};

/// BTF of the running kernel.
pub static TYPE_INFORMATION: Feature = Feature {
    name: "kernel type information",
    since: "5.2",
    required: true,
    without: "a cgroup's name and parents cannot be read",
    remedy: "run a kernel with CONFIG_DEBUG_INFO_BTF=y",
    probe: || match Offsets::of_running_kernel() {
        Ok(_) => Answer::Yes,
        Err(_) if !Path::new(VMLINUX).exists() => Answer::No,
        Err(error) => Answer::Unknown(error.to_string()),
    },
    constants: &[
        Setting { constant: Constant::CgroupKnOffset, value: |_, offsets| offsets.cgroup_kn },
        Setting { constant: Constant::CgroupRootOffset, value: |_, offsets| offsets.cgroup_root },
        Setting { constant: Constant::RootHierarchyOffset, value: |_, offsets| offsets.root_hierarchy },
        Setting { constant: Constant::KnIdOffset, value: |_, offsets| offsets.kn_id },
        Setting { constant: Constant::KnNameOffset, value: |_, offsets| offsets.kn_name },
        Setting { constant: Constant::KnParentOffset, value: |_, offsets| offsets.kn_parent },
    ],
};
