//! `enforcer run`.

mod flags;
mod values;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use enforcer_core::{
    arbitration::quota::Capacity,
    boot_state::BootState,
    index::{ServicePortsMode, Settings},
    model::namespace_label::NamespaceLabel,
    pods::claims::ClaimLimits,
};
use enforcer_ebpf::wire::Policy;

use self::{
    flags::{DenyErrno, ModeFlag, NamespaceModeFlag, OnError, ScopeFlag, ServicePortsFlag, UndeclaredFlag},
    values::{SourceFlag, StartupTaint},
};
use crate::{
    agent::{
        self, AgentConfig, SourceConfig, boot_state_writer::BootStateConfig, reconciler::Start,
        reserved_ports_worker::ReservedPortsConfig,
    },
    cli::{
        Failure,
        agent_failure::{agent_failure, program_failure},
        agent_or_pins::BpffsFlag,
        host_name::host_name,
    },
    host::{
        boot_state_folder::{self, BootStateFolder},
        cgroup::{CgroupError, MOUNTINFO, Root},
    },
    k8s::{self, WatchedResources},
    kernel::probe,
    telemetry::{self, LogLevel},
};

pub(super) use self::flags::Run;

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
            bpffs: BpffsFlag { bpffs },
            persist,
            lease,
            undeclared,
            shared_ports,
            node_reserved,
            max_ports_per_pod,
            namespace_max_ports,
            system_namespaces,
            handover_grace,
            deny_errno,
            on_error,
            manage_reserved_ports,
            ledger,
            service_ports,
            startup_taint,
            state_dir,
            boot_state,
            proc_sys,
            log_format,
            log_level,
        } = self;
        let log = telemetry::init(log_format, log_level);
        let runtime = new_runtime()?;
        let node = node_name.unwrap_or_else(host_name);
        let own_namespace = pod_namespace.or_else(service_account_namespace).filter(|name| !name.is_empty());
        let own_pod = own_namespace.clone().zip(pod_name.clone().filter(|name| !name.is_empty()));
        let source = match folder_of(source, kubeconfig.as_deref(), &startup_taint)? {
            Some(folder) => SourceConfig::Folder(folder),
            None => SourceConfig::Api {
                cluster: runtime.block_on(k8s::connect(kubeconfig.as_deref())).map_err(Failure::usage)?,
                watched: WatchedResources {
                    labels: watched_labels(namespace_mode, namespace_max_ports),
                    services: service_ports != ServicePortsFlag::Off,
                },
                instance: pod_name.unwrap_or_else(|| node.clone()),
                ledger,
                startup_taint: startup_taint.0,
            },
        };
        let features = probe::features().map_err(|error| program_failure(&error))?;
        let root = find_root(cgroup_root.as_deref(), scope == ScopeFlag::Node)?;
        // A folder has no namespaces, and no Services.
        let (namespace_max_ports, service_ports) = match source {
            SourceConfig::Folder(_) => (0, ServicePortsMode::Off),
            SourceConfig::Api { .. } => (namespace_max_ports, service_ports.into()),
        };
        let start = Start {
            root,
            settings: Settings {
                limits: ClaimLimits { max_ports_per_pod, namespace_max_ports },
                capacity: Capacity::default(),
                system_namespaces: system_namespaces_of(system_namespaces, own_namespace),
                handover_grace,
                node_reserved: node_reserved.all_ports(),
                own_pod,
                namespace_mode: namespace_mode.into(),
                service_ports,
            },
            policy: policy(mode, undeclared, on_error, scope, deny_errno, log_level),
            features,
            trace: log_level == LogLevel::Trace,
            lease: lease.0,
            shared_ports: shared_ports.0,
            boot_state: None,
        };
        let boot_state = boot_state.0.map(|folder| boot_state_config(&folder, &node, &start, manage_reserved_ports));
        let boot_state = boot_state.transpose()?;
        let reserved = ReservedPortsConfig { manage: manage_reserved_ports, proc_sys, folder: state_dir };
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
            boot_state,
            dropped_lines: log.dropped_lines(),
        };
        runtime.block_on(agent::run(config)).map_err(|error| agent_failure(&error))
    }
}

/// Returns the policy of the programs.
fn policy(
    mode: ModeFlag,
    undeclared: UndeclaredFlag,
    on_error: OnError,
    scope: ScopeFlag,
    deny_errno: DenyErrno,
    log_level: LogLevel,
) -> Policy {
    Policy {
        enforce: mode == ModeFlag::Enforce,
        undeclared: undeclared.into(),
        deny_on_error: on_error == OnError::Deny,
        report_attempts: log_level >= LogLevel::Debug,
        report_bound: true,
        node_scope: scope == ScopeFlag::Node,
        errno: deny_errno.number(),
    }
}

/// Returns how the boot state is kept in this folder.
fn boot_state_config(
    folder: &Path,
    node: &str,
    start: &Start,
    reserves_ports: bool,
) -> Result<BootStateConfig, Failure> {
    let cgroup = start.root.below_hierarchy(Path::new(MOUNTINFO)).ok_or_else(|| {
        Failure::unsupported(
            "--boot-state needs the whole cgroup hierarchy: mount the node's /sys/fs/cgroup in place of the container's",
        )
    })?;
    let empty = BootState {
        origin: boot_state_folder::origin(node).map_err(Failure::runtime)?,
        written: 0,
        lease: start.lease,
        cgroup,
        policy: start.policy,
        shared_ports: start.shared_ports.clone(),
        reserves_ports,
        settings: start.settings.clone(),
        owners: Vec::new(),
    };
    Ok(BootStateConfig { folder: BootStateFolder::new(folder), empty })
}

/// Returns what runs the agent's loop.
fn new_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::runtime(format!("cannot start the agent's loop: {error}")))
}

/// Returns the folder of manifests that is the source; `None` for the API server.
fn folder_of(
    source: Option<SourceFlag>,
    kubeconfig: Option<&Path>,
    startup_taint: &StartupTaint,
) -> Result<Option<PathBuf>, Failure> {
    let Some(SourceFlag::Folder(folder)) = source else {
        return Ok(None);
    };
    if kubeconfig.is_some() {
        return Err(Failure::usage("--kubeconfig goes with --source api, not with a folder of manifests"));
    }
    if startup_taint.0.is_some() {
        return Err(Failure::usage("--startup-taint goes with --source api, not with a folder of manifests"));
    }
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(Failure::usage(format!(
            "the folder {folder} of --source is not there; create it, or name the folder that holds the Pod manifests"
        )));
    }
    Ok(Some(folder))
}

/// Returns the labels of namespaces that have an effect.
fn watched_labels(mode: NamespaceModeFlag, max_ports: u32) -> Vec<NamespaceLabel> {
    let has_effect = |label: &NamespaceLabel| match label {
        NamespaceLabel::Mode => mode != NamespaceModeFlag::Off,
        NamespaceLabel::MaxPorts => max_ports > 0,
    };
    NamespaceLabel::ALL.into_iter().filter(has_effect).collect()
}

/// File with the namespace of a pod's service account, which is the pod's own.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Returns the namespace of the service account, where the agent runs in a pod that has one.
fn service_account_namespace() -> Option<String> {
    fs::read_to_string(OWN_NAMESPACE).ok().map(|text| text.trim().to_owned())
}

fn system_namespaces_of(given: Option<Vec<String>>, own: Option<String>) -> BTreeSet<String> {
    given.map_or_else(|| default_system_namespaces(own), BTreeSet::from_iter)
}

fn default_system_namespaces(own: Option<String>) -> BTreeSet<String> {
    [Some("kube-system".to_owned()), own].into_iter().flatten().collect()
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use std::time::Duration;

    use super::{values::Listen, *};

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
        assert_eq!(run.mode, ModeFlag::Audit);
        assert_eq!(run.scope, ScopeFlag::Pods);
        assert_eq!(run.on_error, OnError::Allow);
        assert_eq!(run.handover_grace, Duration::from_mins(1));
        assert_eq!(run.system_namespaces, None);
        assert_eq!(default_system_namespaces(None), BTreeSet::from(["kube-system".to_owned()]));
        assert!(run.node_reserved.all_ports().is_empty());
        assert!(run.listen.0.is_some_and(|address| address.ip().is_loopback() && address.port() == 9489));
        assert_eq!(run.startup_taint.0, None);
        assert_eq!(parse(&["--listen=none"]).unwrap().listen, Listen(None));
    }

    #[test]
    fn the_agents_own_namespace_is_node_software() {
        let run = parse(&["--pod-namespace", "port-enforcer"]).unwrap();
        let system = default_system_namespaces(run.pod_namespace);
        assert_eq!(system, BTreeSet::from(["kube-system".to_owned(), "port-enforcer".to_owned()]));
    }

    #[test]
    fn startup_taint_of_a_folder_is_refused() {
        let folder = || Some(SourceFlag::Folder("/".into()));
        let taint = parse(&["--startup-taint=a/b"]).unwrap().startup_taint;
        let refused = folder_of(folder(), None, &taint).unwrap_err();
        assert!(refused.message.contains("--source api"), "{refused:?}");
        assert!(folder_of(folder(), None, &StartupTaint(None)).is_ok());
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
            (["--startup-taint", "a b"], "port-enforcer.io/agent-not-ready, or none"),
        ] {
            let args = [format!("{}={}", args[0], args[1])];
            let error = parse(&[args[0].as_str()]).unwrap_err().to_string();
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }
}
