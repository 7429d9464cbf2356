//! Flags of `enforcer run`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use enforcer_core::{index::ServicePortsMode, model::mode::NamespaceMode};
use enforcer_ebpf::wire::Undeclared;

use super::values::{Lease, Listen, SourceFlag, StartupTaint, WholePorts, duration, lease};
use crate::{
    cli::{
        admin::{ADMIN_SOCKET, AdminSocket},
        agent_or_pins::BpffsFlag,
        values::{BootStateFlag, NodeReserved},
    },
    host::reserved_ports_sysctl,
    telemetry::{LogFormat, LogLevel},
};

/// Ports of broadcast and multicast protocols that are made to be bound by many: DHCP, `NetBIOS`, PTP, `DHCPv6`, SSDP,
/// WS-Discovery, mDNS and LLMNR.
const DEFAULT_SHARED_PORTS: &str =
    "67/udp,68/udp,137/udp,138/udp,319/udp,320/udp,546/udp,547/udp,1900/udp,3702/udp,5353/udp,5355/udp";

/// Run the agent
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer run --source dir:/etc/kubernetes/manifests\n  \
    enforcer run --mode enforce --source dir:./pods --node-reserved 22/tcp,10250/tcp")]
pub(in crate::cli) struct Run {
    /// audit reports every conflict and denies nothing; enforce denies
    #[arg(long, env = "ENFORCER_MODE", value_enum, default_value_t = ModeFlag::Audit)]
    pub(super) mode: ModeFlag,

    /// Source of pods: api (the API server), or dir:PATH (a folder of Pod manifests, watched for changes)
    /// [default: api]
    #[arg(long, env = "ENFORCER_SOURCE", value_name = "SOURCE")]
    pub(super) source: Option<SourceFlag>,

    /// Kubeconfig for the API server [default: KUBECONFIG, ~/.kube/config, or the service account of the agent's pod]
    #[arg(long, env = "ENFORCER_KUBECONFIG", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Effect of the label port-enforcer.io/mode of a namespace: override the mode (any), only turn enforcement on
    /// (stricter), or none (off)
    #[arg(long, env = "ENFORCER_NAMESPACE_MODE", value_enum, default_value_t = NamespaceModeFlag::Any)]
    pub(super) namespace_mode: NamespaceModeFlag,

    /// Address that serves /livez, /readyz and /metrics over HTTP; none serves nothing
    #[arg(long, env = "ENFORCER_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9489")]
    pub(super) listen: Listen,

    /// Unix socket that serves status, explain and watch to root; none serves nothing
    #[arg(long, env = "ENFORCER_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(super) admin_socket: AdminSocket,

    /// Name of this node in reports [default: the host name]
    #[arg(long, env = "ENFORCER_NODE_NAME", value_name = "NAME")]
    pub(super) node_name: Option<String>,

    /// Name of the agent's own pod, the reporting instance of its Events [default: the name of the node]
    #[arg(long, env = "ENFORCER_POD_NAME", value_name = "NAME")]
    pub(super) pod_name: Option<String>,

    /// Namespace of the agent's own pod [default: that of its service account]
    #[arg(long, env = "ENFORCER_POD_NAMESPACE", value_name = "NAME")]
    pub(super) pod_namespace: Option<String>,

    /// Whose binds are judged: those of pods, or those of the whole node; host processes are never denied
    #[arg(long, env = "ENFORCER_SCOPE", value_enum, default_value_t = ScopeFlag::Pods)]
    pub(super) scope: ScopeFlag,

    /// Directory of the cgroup to attach to [default: the kubelet's kubepods; with --scope node the root of the
    /// hierarchy]
    #[arg(long, env = "ENFORCER_CGROUP_ROOT", value_name = "PATH")]
    pub(super) cgroup_root: Option<PathBuf>,

    #[command(flatten)]
    pub(super) bpffs: BpffsFlag,

    /// Keep enforcing while no agent runs
    #[arg(long, env = "ENFORCER_PERSIST", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub(super) persist: bool,

    /// How long to keep enforcing after the agent's last renewal, e.g. 1h; after that, conflicts are audited with the
    /// reason stale. 0 means for ever
    #[arg(long, env = "ENFORCER_LEASE", value_name = "DURATION", default_value = "1h", value_parser = lease)]
    pub(super) lease: Lease,

    /// Policy for a pod that binds a port that nobody claims
    #[arg(long, env = "ENFORCER_UNDECLARED", value_enum, default_value_t = UndeclaredFlag::Adopt)]
    pub(super) undeclared: UndeclaredFlag,

    /// Ports that pods may share, as 5353/udp: sharing them is no conflict, and binding them makes no owner
    #[arg(long, env = "ENFORCER_SHARED_PORTS", value_name = "LIST", default_value = DEFAULT_SHARED_PORTS)]
    pub(super) shared_ports: WholePorts,

    /// Ports reserved for the node itself, as in an annotation: 22/tcp,10250/tcp. The word kubernetes, alone or in the
    /// list, stands for those of SSH, etcd, the API server, kubelet, kube-proxy, scheduler, controller managers and CRI-O:
    /// they become ports of the node, whether it runs these or not
    #[arg(long, env = "ENFORCER_NODE_RESERVED", value_name = "LIST", default_value = "", hide_default_value = true)]
    pub(super) node_reserved: NodeReserved,

    /// Most ports that one pod may claim; a range counts with all its ports
    #[arg(long, env = "ENFORCER_MAX_PORTS_PER_POD", value_name = "N", default_value_t = 1024)]
    pub(super) max_ports_per_pod: u32,

    /// Most ports per pod that the label port-enforcer.io/max-ports of a namespace may allow in place of
    /// --max-ports-per-pod; with 0, the label has no effect
    #[arg(long, env = "ENFORCER_NAMESPACE_MAX_PORTS", value_name = "N", default_value_t = 65_535)]
    pub(super) namespace_max_ports: u32,

    /// Namespaces whose pods are node software: audited, never denied [default: kube-system and the agent's own]
    #[arg(long, env = "ENFORCER_SYSTEM_NAMESPACES", value_name = "LIST", value_delimiter = ',')]
    pub(super) system_namespaces: Option<Vec<String>>,

    /// How long the ports of a controlled pod stay reserved for its workload after the pod is gone, e.g. 60s or 2m; 0s
    /// means not at all
    #[arg(long, env = "ENFORCER_HANDOVER_GRACE", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(super) handover_grace: Duration,

    /// Error number of a denied bind, on Linux 6.1 and newer; older kernels return EPERM
    #[arg(long, env = "ENFORCER_DENY_ERRNO", value_enum, default_value_t = DenyErrno::Eaddrinuse)]
    pub(super) deny_errno: DenyErrno,

    /// Verdict for a bind whose caller cannot be identified: allow (fail open) or deny (fail closed)
    #[arg(long, env = "ENFORCER_ON_ERROR", value_enum, default_value_t = OnError::Allow)]
    pub(super) on_error: OnError,

    /// Keep the kernel from giving claimed ports to outgoing connections and to binds of port 0, by adding them to the
    /// sysctl of reserved ports, in enforce mode only. Ports that others reserved stay
    #[arg(
        long,
        env = "ENFORCER_MANAGE_RESERVED_PORTS",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set
    )]
    pub(super) manage_reserved_ports: bool,

    /// Write the ledger: what the agent knows about the ports of this node, as an object of the API with the node's name
    /// (kubectl get nodehostports), which kubectl host-ports reads. With a folder of manifests there is none
    #[arg(long, env = "ENFORCER_LEDGER", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub(super) ledger: bool,

    /// Effect of the ports that Services take on every node: a pod that binds one is reported (audit), denied where another
    /// pod's port would be (enforce), or none (off: Services are not read). With a folder of manifests there are none
    #[arg(long, env = "ENFORCER_SERVICE_PORTS", value_enum, default_value_t = ServicePortsFlag::Audit)]
    pub(super) service_ports: ServicePortsFlag,

    /// Key of a taint with which the node registers, as port-enforcer.io/agent-not-ready: the agent removes it from its Node
    /// once the binds of all pods are judged, and again when it returns. The component startup-taint has the rights for
    /// that
    #[arg(long, env = "ENFORCER_STARTUP_TAINT", value_name = "KEY", default_value = "none")]
    pub(super) startup_taint: StartupTaint,

    /// Folder for the list of ports that the agent reserved; it may be gone after the node restarted
    #[arg(long, env = "ENFORCER_STATE_DIR", value_name = "PATH", default_value = reserved_ports_sysctl::DEFAULT_FOLDER)]
    pub(super) state_dir: PathBuf,

    /// Folder for the boot state: what is in force, for enforcer restore after a reboot; none keeps none. It must outlive
    /// reboots, as /var/lib/port-enforcer does
    #[arg(long, env = "ENFORCER_BOOT_STATE", value_name = "PATH", default_value = "none")]
    pub(super) boot_state: BootStateFlag,

    /// Writable mount of the node's sysctls; the agent writes only the one of reserved ports
    #[arg(long, env = "ENFORCER_PROC_SYS", value_name = "PATH", default_value = reserved_ports_sysctl::PROC_SYS)]
    pub(super) proc_sys: PathBuf,

    /// Format of the log [default: text on a terminal, json elsewhere]
    #[arg(long, env = "ENFORCER_LOG_FORMAT", value_enum)]
    pub(super) log_format: Option<LogFormat>,

    /// Verbosity of the log; debug includes every bind attempt and every bound socket, trace also the trace of the kernel
    /// programs, if the kernel accepts them with it (older ones may not)
    #[arg(long, env = "ENFORCER_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub(super) log_level: LogLevel,
}

/// Mode of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeFlag {
    Audit,
    Enforce,
}

impl ModeFlag {
    /// Returns the name of the mode in logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// Whose binds are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ScopeFlag {
    Pods,
    Node,
}

/// Policy for undeclared ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum UndeclaredFlag {
    /// Allowed, unless another pod holds the port; the first pod to bind it owns it until it releases it
    Adopt,
    /// Allowed
    Allow,
    /// Denied: a pod may bind only what it declares
    Deny,
}

/// Error number of a denied bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DenyErrno {
    Eaddrinuse,
    Eperm,
    Eacces,
}

impl DenyErrno {
    /// Returns the number, as Linux has it on every architecture.
    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Eaddrinuse => 98,
            Self::Eperm => 1,
            Self::Eacces => 13,
        }
    }
}

/// Verdict for a bind whose caller cannot be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnError {
    Allow,
    Deny,
}

/// Effect of the mode label of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NamespaceModeFlag {
    Any,
    Stricter,
    Off,
}

/// Effect of the ports of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ServicePortsFlag {
    Audit,
    Enforce,
    Off,
}

impl From<ServicePortsFlag> for ServicePortsMode {
    fn from(flag: ServicePortsFlag) -> Self {
        match flag {
            ServicePortsFlag::Audit => Self::Audit,
            ServicePortsFlag::Enforce => Self::Enforce,
            ServicePortsFlag::Off => Self::Off,
        }
    }
}

impl From<NamespaceModeFlag> for NamespaceMode {
    fn from(flag: NamespaceModeFlag) -> Self {
        match flag {
            NamespaceModeFlag::Any => Self::Any,
            NamespaceModeFlag::Stricter => Self::Stricter,
            NamespaceModeFlag::Off => Self::Off,
        }
    }
}

impl From<UndeclaredFlag> for Undeclared {
    fn from(flag: UndeclaredFlag) -> Self {
        match flag {
            UndeclaredFlag::Allow => Self::Allow,
            UndeclaredFlag::Deny => Self::Deny,
            UndeclaredFlag::Adopt => Self::Adopt,
        }
    }
}
