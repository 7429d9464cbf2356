//! `enforcer run`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use aya::programs::ProgramError;
use clap::{ArgAction, Args, ValueEnum};
use enforcer_ebpf::wire::{Policy, Protocol, Undeclared};

use enforcer_core::{
    arbitration::quota::Capacity,
    index::Settings,
    model::{
        mode::NamespaceMode,
        port_spec::{Address, PortSpec},
    },
    pods::{annotation, claims::ClaimLimits},
};

use crate::{
    agent::{
        self, AgentConfig, AgentError, SourceConfig,
        reconciler::{ReconcilerError, Start},
        reserved_ports_worker,
    },
    cli::{
        Failure,
        admin::{ADMIN_SOCKET, AdminSocket},
    },
    host::{
        cgroup::{CgroupError, Root},
        reserved_ports_sysctl,
    },
    k8s,
    kernel::{BpfError, pins, probe},
    telemetry::{self, LogFormat, LogLevel},
};

pub(super) const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Run the agent
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer run --source dir:/etc/kubernetes/manifests\n  \
    enforcer run --mode enforce --source dir:./pods --node-reserved 22/tcp,10250/tcp")]
pub(super) struct Run {
    /// audit tells every conflict and denies nothing; enforce denies
    #[arg(long, env = "ENFORCER_MODE", value_enum, default_value_t = Mode::Audit)]
    mode: Mode,

    /// Where pods come from: api, the API server; or dir:PATH, a folder of Pod manifests that is watched for changes
    /// [default: api]
    #[arg(long, env = "ENFORCER_SOURCE", value_name = "SOURCE")]
    source: Option<SourceFlag>,

    /// How to reach the API server [default: KUBECONFIG, ~/.kube/config, or the service account of the agent's pod]
    #[arg(long, env = "ENFORCER_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// What the label port-enforcer.io/mode of a namespace may do: override the mode, only turn enforcement on, or
    /// nothing
    #[arg(long, env = "ENFORCER_NAMESPACE_MODE", value_enum, default_value_t = NamespaceModeFlag::Any)]
    namespace_mode: NamespaceModeFlag,

    /// Address that serves /livez, /readyz and /metrics over HTTP; none serves nothing
    #[arg(long, env = "ENFORCER_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9489")]
    listen: Listen,

    /// Unix socket on which status, explain and watch are answered, for root alone; none serves nothing
    #[arg(long, env = "ENFORCER_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    admin_socket: AdminSocket,

    /// Name of this node in reports [default: the host name]
    #[arg(long, env = "ENFORCER_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,

    /// Name of the agent's own pod, by which its Events say who tells them [default: the name of the node]
    #[arg(long, env = "ENFORCER_POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,

    /// Namespace of the agent's own pod [default: that of its service account]
    #[arg(long, env = "ENFORCER_POD_NAMESPACE", value_name = "NAME")]
    pod_namespace: Option<String>,

    /// pods judges the processes of pods; node also host processes, which are never denied
    #[arg(long, env = "ENFORCER_SCOPE", value_enum, default_value_t = Scope::Pods)]
    scope: Scope,

    /// Directory of the cgroup to attach to [default: the kubelet's kubepods; with --scope node the root of the
    /// hierarchy]
    #[arg(long, env = "ENFORCER_CGROUP_ROOT", value_name = "PATH")]
    cgroup_root: Option<PathBuf>,

    /// Folder of a BPF file system in which is kept what outlives the agent
    #[arg(long, env = "ENFORCER_BPFFS", value_name = "PATH", default_value = pins::DEFAULT_FOLDER)]
    bpffs: PathBuf,

    /// Whether what is in force stays enforced when the agent ends, until the next one takes over
    #[arg(long, env = "ENFORCER_PERSIST", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    persist: bool,

    /// How long that lasts after the agent's last sign of life, e.g. 1h; then conflicts are audited with the reason stale.
    /// 0 is for ever
    #[arg(long, env = "ENFORCER_LEASE", value_name = "DURATION", default_value = "1h", value_parser = lease)]
    lease: Lease,

    /// What a pod may do with a port that nobody claims
    #[arg(long, env = "ENFORCER_UNDECLARED", value_enum, default_value_t = UndeclaredFlag::Adopt)]
    undeclared: UndeclaredFlag,

    /// Ports that pods are meant to share, as 5353/udp: who holds them is no conflict, and nobody owns them by binding them
    #[arg(long, env = "ENFORCER_SHARED_PORTS", value_name = "LIST", default_value = "5353/udp,1900/udp")]
    shared_ports: WholePorts,

    /// Ports of the node itself, as in an annotation: 22/tcp,10250/tcp
    #[arg(long, env = "ENFORCER_NODE_RESERVED", value_name = "LIST", default_value = "", hide_default_value = true)]
    node_reserved: Ports,

    /// Most ports that one pod may claim; the width of a range counts
    #[arg(long, env = "ENFORCER_MAX_PORTS_PER_POD", value_name = "N", default_value_t = 1024)]
    max_ports_per_pod: u32,

    /// Namespaces whose pods are node software: audited, never denied [default: kube-system and the agent's own]
    #[arg(long, env = "ENFORCER_SYSTEM_NAMESPACES", value_name = "LIST", value_delimiter = ',')]
    system_namespaces: Option<Vec<String>>,

    /// How long the ports of a controlled pod stay with its workload after the pod went, e.g. 60s or 2m; 0s is not at
    /// all
    #[arg(long, env = "ENFORCER_HANDOVER_GRACE", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    handover_grace: Duration,

    /// Error number of a denied bind, on Linux 6.1 and newer; EPERM on older ones
    #[arg(long, env = "ENFORCER_DENY_ERRNO", value_enum, default_value_t = DenyErrno::Eaddrinuse)]
    deny_errno: DenyErrno,

    /// What becomes of a bind when the kernel program itself does not know
    #[arg(long, env = "ENFORCER_ON_ERROR", value_enum, default_value_t = OnError::Allow)]
    on_error: OnError,

    /// Whether the kernel gives ports with claims in force to no outgoing connection and no bind of port 0: they are
    /// added to the sysctl of reserved ports, in enforce mode only. What others reserved stays
    #[arg(
        long,
        env = "ENFORCER_MANAGE_RESERVED_PORTS",
        value_name = "BOOL",
        default_value_t = true,
        action = ArgAction::Set
    )]
    manage_reserved_ports: bool,

    /// Folder in which is remembered which ports the agent reserved; it may be gone after the node restarted
    #[arg(long, env = "ENFORCER_STATE_DIR", value_name = "PATH", default_value = reserved_ports_sysctl::DEFAULT_FOLDER)]
    state_dir: PathBuf,

    /// Where the node's sysctls can be written to; the agent writes the one of reserved ports alone
    #[arg(long, env = "ENFORCER_PROC_SYS", value_name = "PATH", default_value = reserved_ports_sysctl::PROC_SYS)]
    proc_sys: PathBuf,

    /// How the log is written [default: text on a terminal, json elsewhere]
    #[arg(long, env = "ENFORCER_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,

    /// What is logged; debug includes every bind attempt and every socket that was bound, trace also the trace of the
    /// kernel programs, if the kernel takes them with it (older ones may not)
    #[arg(long, env = "ENFORCER_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Audit,
    Enforce,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scope {
    Pods,
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UndeclaredFlag {
    /// Bind it, unless another one holds it: the first to bind it owns it until it lets go
    Adopt,
    /// Bind it
    Allow,
    /// Nothing: it may bind only what it declared
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DenyErrno {
    Eaddrinuse,
    Eperm,
    Eacces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnError {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NamespaceModeFlag {
    Any,
    Stricter,
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SourceFlag {
    Api,
    Folder(PathBuf),
}

impl FromStr for SourceFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ if text == "api" => Ok(Self::Api),
            _ => Err("write api, or dir:PATH for a folder of Pod manifests".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| "write an address and a port, as 127.0.0.1:9489, or none")?;
        Ok(Self(Some(address)))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ports(pub(super) Vec<PortSpec>);

impl FromStr for Ports {
    type Err = annotation::ItemProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        annotation::parse_list(text).map(Self)
    }
}

/// Ports on all addresses.
#[derive(Clone, Debug)]
struct WholePorts(Vec<PortSpec>);

impl FromStr for WholePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ports = annotation::parse_list(text).map_err(|problem| problem.to_string())?;
        match ports.iter().find(|spec| spec.address != Address::Any || spec.protocol == Protocol::Sctp) {
            Some(spec) => Err(format!("{spec}: write a port of tcp or udp without an address")),
            None => Ok(Self(ports)),
        }
    }
}

/// How long enforcement outlives its agent; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease(Option<Duration>);

fn lease(text: &str) -> Result<Lease, String> {
    if text == "0" {
        return Ok(Lease(None));
    }
    duration(text).map(|lease| Lease(Some(lease).filter(|lease| !lease.is_zero())))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration; write it as 60s, 2m or 1h");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
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

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Every flag by name, so that none is forgotten.
        let Self {
            mode,
            source,
            kubeconfig,
            namespace_mode,
            listen,
            admin_socket,
            node_name,
            pod_name,
            pod_namespace,
            scope,
            cgroup_root,
            bpffs,
            persist,
            lease,
            undeclared,
            shared_ports,
            node_reserved,
            max_ports_per_pod,
            system_namespaces,
            handover_grace,
            deny_errno,
            on_error,
            manage_reserved_ports,
            state_dir,
            proc_sys,
            log_format,
            log_level,
        } = self;
        let log = telemetry::init(log_format, log_level);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::runtime(format!("cannot start the agent's loop: {error}")))?;
        let node = node_name.unwrap_or_else(host_name);
        let source = match source.unwrap_or(SourceFlag::Api) {
            SourceFlag::Api => SourceConfig::Api {
                cluster: runtime.block_on(k8s::connect(kubeconfig.as_deref())).map_err(Failure::usage)?,
                namespaces: namespace_mode != NamespaceModeFlag::Off,
                instance: pod_name.unwrap_or_else(|| node.clone()),
            },
            SourceFlag::Folder(_) if kubeconfig.is_some() => {
                return Err(Failure::usage("--kubeconfig goes with --source api, not with a folder of manifests"));
            }
            SourceFlag::Folder(folder) if !folder.is_dir() => {
                let folder = folder.display();
                return Err(Failure::usage(format!(
                    "the folder {folder} of --source is not there; create it, or name the folder that holds the Pod \
                     manifests"
                )));
            }
            SourceFlag::Folder(folder) => SourceConfig::Folder(folder),
        };
        let features = probe::features().map_err(|error| program_failure(&error))?;
        let node_scope = scope == Scope::Node;
        let root = find_root(cgroup_root.as_deref(), node_scope)?;
        let start = Start {
            root,
            settings: Settings {
                limits: ClaimLimits { max_ports_per_pod },
                capacity: Capacity::default(),
                system_namespaces: system_namespaces
                    .map_or_else(|| default_system_namespaces(pod_namespace), BTreeSet::from_iter),
                handover_grace,
                node_reserved: node_reserved.0,
                namespace_mode: namespace_mode.into(),
            },
            policy: Policy {
                enforce: mode == Mode::Enforce,
                undeclared: undeclared.into(),
                deny_on_error: on_error == OnError::Deny,
                report_attempts: log_level >= LogLevel::Debug,
                report_bound: true,
                node_scope,
                errno: match deny_errno {
                    DenyErrno::Eaddrinuse => 98,
                    DenyErrno::Eperm => 1,
                    DenyErrno::Eacces => 13,
                },
            },
            features,
            trace: log_level == LogLevel::Trace,
            lease: lease.0,
            shared_ports: shared_ports.0,
        };
        let reserved =
            reserved_ports_worker::ReservedPortsConfig { manage: manage_reserved_ports, proc_sys, folder: state_dir };
        let (listen, admin_socket, mode) = (listen.0, admin_socket.0, mode.as_str());
        let config = AgentConfig {
            start,
            source,
            listen,
            admin_socket,
            node,
            mode,
            bpffs,
            persist,
            reserved,
            lost_lines: log.lost(),
        };
        runtime.block_on(agent::run(config)).map_err(|error| agent_failure(&error))
    }
}

/// Where the kubelet tells a pod the namespace of its service account, which is the pod's own.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

fn default_system_namespaces(own: Option<String>) -> BTreeSet<String> {
    let told = || fs::read_to_string(OWN_NAMESPACE).ok().map(|text| text.trim().to_owned());
    [Some("kube-system".to_owned()), own.or_else(told)].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn find_root(given: Option<&Path>, node_scope: bool) -> Result<Root, Failure> {
    let found = match (given, node_scope) {
        (None, true) => Root::hierarchy(Path::new(MOUNTINFO)),
        (given, _) => Root::find(given, Path::new(MOUNTINFO)),
    };
    found.map_err(|error| match error {
        CgroupError::NotCgroup { .. } => Failure::usage(error),
        _ => Failure::unsupported(error),
    })
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn agent_failure(error: &AgentError) -> Failure {
    match error {
        AgentError::Engine(ReconcilerError::Bpf(BpfError::Program { source, .. })) if is_denied(source.as_ref()) => {
            program_failure(source)
        }
        AgentError::Engine(ReconcilerError::Bpf(BpfError::Attach { source, .. })) if is_denied(source) => {
            missing_privilege()
        }
        AgentError::Engine(ReconcilerError::Bpf(error @ (BpfError::Btf(_) | BpfError::Program { .. }))) => {
            Failure::unsupported(error)
        }
        AgentError::Engine(ReconcilerError::Bpf(BpfError::Object(source))) if is_denied(source) => missing_privilege(),
        AgentError::Engine(ReconcilerError::Cgroup(_)) => Failure::unsupported(error),
        _ => Failure::runtime(error),
    }
}

fn program_failure(error: &ProgramError) -> Failure {
    if is_denied(error) {
        missing_privilege()
    } else {
        Failure::unsupported(format!("the kernel cannot be used: {error}"))
    }
}

fn missing_privilege() -> Failure {
    Failure::unsupported(
        "the kernel refuses to load BPF programs: run the agent as root, or give it CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN",
    )
}

/// Whether the kernel said EPERM anywhere in the chain. EACCES is the verifier's word for a program that it refuses.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EPERM)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        run: Run,
    }

    fn parse(args: &[&str]) -> Result<Run, clap::Error> {
        Cli::try_parse_from(["enforcer"].iter().chain(args)).map(|cli| cli.run)
    }

    #[test]
    fn the_defaults_change_nothing_on_the_node() {
        let run = parse(&[]).unwrap();
        assert_eq!(run.mode, Mode::Audit);
        assert_eq!(run.scope, Scope::Pods);
        assert_eq!(run.on_error, OnError::Allow);
        assert_eq!(run.handover_grace, Duration::from_mins(1));
        assert_eq!(run.system_namespaces, None);
        assert_eq!(default_system_namespaces(None), BTreeSet::from(["kube-system".to_owned()]));
        assert!(run.node_reserved.0.is_empty());
        assert!(run.listen.0.is_some_and(|address| address.ip().is_loopback() && address.port() == 9489));
        assert_eq!(parse(&["--listen=none"]).unwrap().listen, Listen(None));
    }

    #[test]
    fn the_agents_own_namespace_is_node_software() {
        let run = parse(&["--pod-namespace", "port-enforcer"]).unwrap();
        let system = default_system_namespaces(run.pod_namespace);
        assert_eq!(system, BTreeSet::from(["kube-system".to_owned(), "port-enforcer".to_owned()]));
    }

    #[test]
    fn bad_values_are_refused_with_what_would_be_right() {
        for (args, words) in [
            (["--source", "/etc"], "dir:PATH"),
            (["--source", "dir:"], "dir:PATH"),
            (["--handover-grace", "soon"], "60s, 2m or 1h"),
            (["--handover-grace", "-5s"], "60s, 2m or 1h"),
            (["--node-reserved", "22/tcp,0"], "port 0"),
            (["--mode", "deny"], "audit"),
            (["--listen", "localhost"], "127.0.0.1:9489, or none"),
            (["--shared-ports", "127.0.0.1:53/udp"], "without an address"),
            (["--shared-ports", "53/sctp"], "tcp or udp"),
        ] {
            let args = [format!("{}={}", args[0], args[1])];
            let error = parse(&[args[0].as_str()]).unwrap_err().to_string();
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }
}
