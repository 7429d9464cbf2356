//! The story, step by step: each builds on the installation, and most on nothing else.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{
    Options,
    cluster::{Cluster, INSTALLATION, TIMEOUT, is_event, items, note, storm_counts, wait_until},
    workload::{Bind, LABEL, NAMESPACE, Workload},
};
use crate::process;

/// Error number of a bind that is denied, or that the kernel refuses.
const IN_USE: i32 = libc::EADDRINUSE;
/// Time of the handover grace, and some for the pods to be seen to go.
const GRACE: Duration = Duration::from_mins(2);
/// Time for what should not happen to happen.
const SILENCE: Duration = Duration::from_secs(10);

/// End of a step that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Completion {
    Passed,
    /// It cannot be run here, and why.
    Skipped(String),
}

/// Name and function of a step.
pub(super) type Step = (&'static str, fn(&Story) -> anyhow::Result<Completion>);

/// The steps, in their order.
pub(super) const STEPS: &[Step] = &[
    ("install_in_audit_mode", install_in_audit_mode),
    ("audit_reports_on_both_pods", audit_reports_on_both_pods),
    ("namespace_label_enforces", namespace_label_enforces),
    ("enforce_denies_squatter", enforce_denies_squatter),
    ("siblings_are_not_denied", siblings_are_not_denied),
    ("rollout_with_surge_overlaps", rollout_with_surge_overlaps),
    ("handover_ends_with_its_grace", handover_ends_with_its_grace),
    ("handover_is_released", handover_is_released),
    ("node_software_is_not_denied", node_software_is_not_denied),
    ("declared_host_port_is_claimed", declared_host_port_is_claimed),
    ("killed_agent_leaves_no_gap", killed_agent_leaves_no_gap),
    ("upgraded_agent_leaves_no_gap", upgraded_agent_leaves_no_gap),
    ("outage_of_api_server_leaves_no_gap", outage_of_api_server_leaves_no_gap),
    ("policies_are_effective", policies_are_effective),
    ("scheduling_policy_writes_ports", scheduling_policy_writes_ports),
    ("uninstall_leaves_nothing", uninstall_leaves_nothing),
];

/// What the steps know.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) cluster: Cluster,
    pub(super) options: Options,
    /// Folder of the kustomizations, in the workspace.
    pub(super) folder: PathBuf,
}

impl Story {
    /// Writes the kustomization of an overlay with the image under test, and returns its folder.
    fn overlay(&self, overlay: &str, components: &[&str]) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join([&[overlay], components].concat().join("-"));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // Bases of kustomize are relative: from target/e2e/NAME.
        let base = "../../../deploy";
        let components: Vec<String> = components.iter().map(|name| format!("{base}/components/{name}")).collect();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [format!("{base}/overlays/{overlay}")],
            "components": components,
            "images": [self.options.image()],
        });
        let file = folder.join("kustomization.yaml");
        fs::write(&file, kustomization.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(folder)
    }

    /// Removes all that the suite made. What is not there is no error.
    pub(super) fn clean_up(&self) -> anyhow::Result<()> {
        let cluster = &self.cluster;
        let timeout = format!("--timeout={}s", TIMEOUT.as_secs());
        let namespaces = cluster.run(&["delete", "namespace", NAMESPACE, "--ignore-not-found", &timeout]);
        let label = format!("{LABEL}=true");
        let pods = cluster.run(&["delete", "pods", "-n", "kube-system", "-l", &label, "--ignore-not-found", &timeout]);
        let installation =
            if cluster.run(&["get", "namespace", INSTALLATION]).is_ok() { self.uninstall() } else { Ok(()) };
        namespaces.and(pods).map(drop).and(installation)
    }

    fn uninstall(&self) -> anyhow::Result<()> {
        let uninstall = self.overlay("uninstall", &[])?;
        // Policies may be there, which the overlay does not have. An older server does not know their kind.
        let components: &[&str] = match (self.cluster.has_policies(), self.cluster.has_mutating_policies()) {
            (true, true) => &["policies", "scheduling"],
            (true, false) => &["policies"],
            (false, _) => &[],
        };
        let all = self.overlay("audit", components)?;
        self.cluster.install(&uninstall)?;
        self.cluster.run(&["delete", "-k", &all.display().to_string(), "--ignore-not-found"])?;
        self.cluster.run(&["delete", "-k", &uninstall.display().to_string(), "--ignore-not-found"]).map(drop)
    }
}

fn owner() -> Workload {
    Workload::pod("owner", &[Bind::tcp(20090)]).claiming("20080, 20090")
}

fn squatter() -> Workload {
    Workload::pod("squatter", &[Bind::tcp(20080)])
}

fn install_in_audit_mode(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    if cluster.run(&["get", "namespace", INSTALLATION]).is_ok() {
        bail!(
            "the namespace {INSTALLATION} is there already: uninstall first, or end what an earlier run left with --clean-up"
        );
    }
    cluster.make_namespace(NAMESPACE)?;
    cluster.install(&story.overlay("audit", &[])?)?;
    let status = cluster.status()?;
    ensure!(status["mode"]["effective"] == "audit", "the agent's mode is {}", status["mode"]["effective"]);
    Ok(Completion::Passed)
}

fn audit_reports_on_both_pods(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    cluster.start(&owner())?;
    cluster.wait_for_claim(20080, "owner")?;
    cluster.start(&squatter())?;
    cluster.wait_for_errno(&squatter(), 20080, 0)?;
    let note = cluster.wait_for_event(NAMESPACE, "PortBindAudited", "squatter")?;
    ensure!(note.contains("owner"), "the squatter's Event does not name the owner: {note}");
    let note = cluster.wait_for_event(NAMESPACE, "PortBindAudited", "owner")?;
    ensure!(note.contains("squatter"), "the owner's Event does not name the squatter: {note}");
    cluster.stop(&squatter())?;
    Ok(Completion::Passed)
}

fn namespace_label_enforces(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    cluster.label(NAMESPACE, "port-enforcer.io/mode", "enforce")?;
    // The label takes a moment to be seen, and a bind that is held is not taken back.
    wait_until("the label is seen", TIMEOUT, || {
        Ok((cluster.status()?["mode"]["namespaces"][NAMESPACE] == "enforce").then_some(()))
    })?;
    cluster.start(&squatter())?;
    cluster.wait_for_errno(&squatter(), 20080, IN_USE)?;
    cluster.stop(&squatter())?;
    cluster.label(NAMESPACE, "port-enforcer.io/mode", "")?;
    Ok(Completion::Passed)
}

fn enforce_denies_squatter(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    cluster.install(&story.overlay("enforce", &[])?)?;
    cluster.wait_for_claim(20080, "owner")?;
    cluster.start(&squatter())?;
    cluster.wait_for_errno(&squatter(), 20080, IN_USE)?;
    for (about, other) in [("squatter", "owner"), ("owner", "squatter")] {
        let note = cluster.wait_for_event(NAMESPACE, "PortBindDenied", about)?;
        ensure!(note.contains(other), "the Event about {about} does not name {other}: {note}");
    }
    let explained = cluster.agent(&["enforcer", "explain", "20080/tcp"])?;
    ensure!(explained.contains("owner"), "explain does not name the owner: {explained}");
    cluster.stop(&squatter())?;
    Ok(Completion::Passed)
}

fn siblings_are_not_denied(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let siblings = Workload::pod("siblings", &[Bind::tcp(20081)]).claiming("20081").with_replicas(2);
    cluster.start(&siblings)?;
    let pods =
        wait_until("two pods run", TIMEOUT, || Ok(Some(cluster.pods(&siblings)?).filter(|pods| pods.len() == 2)))?;
    thread::sleep(SILENCE);
    for event in cluster.events(NAMESPACE)? {
        let denied = pods.iter().any(|pod| is_event(&event, "PortBindDenied", pod));
        ensure!(!denied, "a sibling was denied: {}", note(&event));
    }
    // Whoever came first serves; when it goes the other one does.
    let serves = |pod: &String| {
        Ok::<_, anyhow::Error>(super::cluster::last_errno(&cluster.lines(NAMESPACE, pod)?, 20081) == Some(0))
    };
    let first = wait_until("one of them serves", TIMEOUT, || {
        pods.iter().find_map(|pod| serves(pod).map(|serves| serves.then(|| pod.clone())).transpose()).transpose()
    })?;
    cluster.run(&["delete", "pod", &first, "-n", NAMESPACE])?;
    wait_until("the other one serves", TIMEOUT, || {
        let others = cluster.pods(&siblings)?.into_iter().filter(|pod| *pod != first);
        let answers: Vec<bool> = others.map(|pod| serves(&pod)).collect::<Result<_, _>>()?;
        Ok(answers.contains(&true).then_some(()))
    })?;
    cluster.stop(&siblings)?;
    Ok(Completion::Passed)
}

fn rollout_with_surge_overlaps(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let web = Workload::pod("web", &[Bind::tcp(20082).reusing_port()]).claiming("20082").with_replicas(1);
    cluster.start(&web)?;
    cluster.wait_for_errno(&web, 20082, 0)?;
    cluster.run(&["rollout", "restart", &web.reference(), "-n", NAMESPACE])?;
    cluster.wait_for_rollout(&web.reference(), NAMESPACE)?;
    let pod = cluster.pods(&web)?.pop().context("the rollout left no pod")?;
    let first = cluster.lines(NAMESPACE, &pod)?.into_iter().next().context("the new pod wrote nothing")?;
    ensure!(first["errno"] == 0, "the new pod's first bind failed: {first}");
    cluster.stop(&web)?;
    Ok(Completion::Passed)
}

/// Starts a Deployment that binds a port, ends it, and starts a pod that wants the port.
fn hand_over(cluster: &Cluster, name: &'static str, port: u16, ports: &'static str) -> anyhow::Result<Workload> {
    let before = Workload::pod(name, &[Bind::tcp(port)]).claiming(ports).with_replicas(1);
    cluster.start(&before)?;
    cluster.wait_for_errno(&before, port, 0)?;
    cluster.stop(&before)?;
    let next = Workload::pod("next", &[Bind::tcp(port)]);
    cluster.start(&next)?;
    cluster.wait_for_errno(&next, port, IN_USE)?;
    Ok(next)
}

fn handover_ends_with_its_grace(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let next = hand_over(cluster, "handed-over", 20083, "20083")?;
    cluster.wait_for_errno_within(&next, 20083, 0, GRACE)?;
    let denied = cluster.wait_for_event(NAMESPACE, "PortBindDenied", "next")?;
    ensure!(denied.contains("handed-over"), "the Event does not name the workload: {denied}");
    cluster.stop(&next)?;
    Ok(Completion::Passed)
}

fn handover_is_released(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let next = hand_over(cluster, "released", 20084, "20084")?;
    cluster.agent(&["enforcer", "release", "20084/tcp"])?;
    cluster.wait_for_errno(&next, 20084, 0)?;
    cluster.stop(&next)?;
    Ok(Completion::Passed)
}

fn node_software_is_not_denied(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let software = Workload::pod("port-enforcer-e2e", &[Bind::tcp(20080)]).in_namespace("kube-system");
    cluster.start(&software)?;
    cluster.wait_for_errno(&software, 20080, 0)?;
    cluster.wait_for_event("kube-system", "PortBindAudited", software.name)?;
    cluster.stop(&software)?;
    Ok(Completion::Passed)
}

fn declared_host_port_is_claimed(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let declared = Workload::pod("declared", &[Bind::tcp(20085)]).with_host_port(20085);
    cluster.start(&declared)?;
    cluster.wait_for_claim(20085, "declared")?;
    let listener = Workload::pod("listener", &[Bind::tcp(20085)]);
    cluster.start(&listener)?;
    cluster.wait_for_errno(&listener, 20085, IN_USE)?;
    let note = cluster.wait_for_event(NAMESPACE, "PortBindDenied", "listener")?;
    ensure!(note.contains("declared"), "the Event does not name the pod with the host port: {note}");
    cluster.stop(&listener)?;
    cluster.stop(&declared)?;
    Ok(Completion::Passed)
}

/// Runs a storm of binds of the owner's port while something is done; none may get through, and the storm must go on
/// after it.
fn under_storm(cluster: &Cluster, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let storm = Workload::pod("storm", &[Bind::tcp(20080).in_a_storm()]);
    cluster.wait_for_claim(20080, "owner")?;
    cluster.start(&storm)?;
    let attempts = || {
        let counts = storm_counts(&cluster.lines(NAMESPACE, "storm")?).unwrap_or_default();
        if let Some(other) = counts.iter().find(|(errno, _)| **errno != IN_USE.to_string()) {
            bail!("a bind of the storm was not denied: error number and count {other:?}, of {counts:?}");
        }
        Ok(counts.values().filter_map(Value::as_u64).sum::<u64>())
    };
    let more_than =
        |before: u64| wait_until("the storm goes on", TIMEOUT, || attempts().map(|now| (now > before).then_some(now)));
    more_than(0)?;
    let before = attempts()?;
    act()?;
    more_than(before)?;
    let now = attempts()?;
    more_than(now)?;
    cluster.stop(&storm)
}

fn killed_agent_leaves_no_gap(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    under_storm(cluster, || {
        let pod = cluster.agent_pod()?;
        cluster.run(&["delete", "pod", &pod, "-n", INSTALLATION, "--grace-period=0", "--force"])?;
        wait_until("another agent is there", TIMEOUT, || Ok(Some(cluster.agent_pod()?).filter(|now| *now != pod)))?;
        cluster.wait_for_rollout("daemonset/port-enforcer", INSTALLATION)
    })?;
    Ok(Completion::Passed)
}

fn upgraded_agent_leaves_no_gap(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    let own = |event: &Value| {
        let name = event["regarding"]["name"].as_str().unwrap_or_default();
        event["type"] == "Warning"
            && event["reportingController"] == "port-enforcer.io/agent"
            && name.starts_with("port-enforcer-")
    };
    let before = cluster.events(INSTALLATION)?.into_iter().filter(own).count();
    under_storm(cluster, || {
        cluster.run(&["rollout", "restart", "daemonset/port-enforcer", "-n", INSTALLATION])?;
        cluster.wait_for_rollout("daemonset/port-enforcer", INSTALLATION)
    })?;
    thread::sleep(SILENCE);
    let after: Vec<String> = cluster.events(INSTALLATION)?.iter().filter(|event| own(event)).map(note).collect();
    ensure!(after.len() == before, "the upgrade made Events about the agent itself: {after:?}");
    Ok(Completion::Passed)
}

fn outage_of_api_server_leaves_no_gap(story: &Story) -> anyhow::Result<Completion> {
    let (Some(stop), Some(start)) = (&story.options.stop_api, &story.options.start_api) else {
        return Ok(Completion::Skipped("--stop-api and --start-api say no commands".to_owned()));
    };
    let cluster = &story.cluster;
    under_storm(cluster, || {
        process::run(process::shell().arg(stop))?;
        let away =
            wait_until("the API server is away", TIMEOUT, || Ok(cluster.run(&["get", "--raw", "/readyz"]).err()));
        thread::sleep(SILENCE);
        process::run(process::shell().arg(start))?;
        away?;
        wait_until("the API server is back", TIMEOUT, || cluster.run(&["get", "--raw", "/readyz"]).map(Some)).map(drop)
    })?;
    Ok(Completion::Passed)
}

fn policies_are_effective(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    if !cluster.has_policies() {
        return Ok(Completion::Skipped(format!("policies need Kubernetes 1.30, the server is 1.{}", cluster.minor)));
    }
    cluster.install(&story.overlay("enforce", &["policies"])?)?;
    let list = json!({"data": {NAMESPACE: "20080"}}).to_string();
    cluster.run(&["patch", "configmap", "port-enforcer-claims", "-n", INSTALLATION, "--type", "merge", "-p", &list])?;
    let try_claim = |ports: &'static str| {
        let pod = Workload::pod("claims", &[Bind::tcp(20080)]).claiming(ports);
        let folder = tempfile::tempdir().context("make a folder")?;
        let file = folder.path().join("pod.json");
        fs::write(&file, pod.manifest(&cluster.workload_image, &cluster.node).to_string())
            .context("write a manifest")?;
        cluster.run(&["create", "--dry-run=server", "-f", &file.display().to_string()])
    };
    let refused = wait_until("a claim that is not listed is refused", TIMEOUT, || Ok(try_claim("20086").err()))?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("port-enforcer-claims"), "it is refused by something else: {refused}");
    try_claim("20080").context("a listed claim is refused")?;
    Ok(Completion::Passed)
}

/// Asks the server what it would create: with its own evaluation of the policy, and its own checks of the pod.
fn scheduling_policy_writes_ports(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    if !cluster.has_mutating_policies() {
        let minor = cluster.minor;
        return Ok(Completion::Skipped(format!(
            "policies that change pods need Kubernetes 1.36, the server is 1.{minor}"
        )));
    }
    cluster.install(&story.overlay("enforce", &["scheduling"])?)?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let file = folder.path().join("pod.json");
    let claims = "20084, 20085/UDP 0020084/tcp,, 65536 nonsense 127.0.0.1:20086 20087-20089";
    let pod = Workload::pod("annotated", &[Bind::tcp(20084)]).claiming(claims);
    fs::write(&file, pod.manifest(&cluster.workload_image, &cluster.node).to_string()).context("write a manifest")?;
    let expected = json!([
        {"containerPort": 20084, "hostPort": 20084, "protocol": "TCP"},
        {"containerPort": 20085, "hostPort": 20085, "protocol": "UDP"},
    ]);
    let ports = || -> anyhow::Result<Value> {
        let created = cluster.json(&["create", "--dry-run=server", "-f", &file.display().to_string()])?;
        Ok(created["spec"]["containers"][0]["ports"].clone())
    };
    wait_until("the ports of the annotation are written", TIMEOUT, || {
        Ok(Some(ports()?).filter(|ports| *ports == expected))
    })?;
    cluster.run(&["label", "namespace", NAMESPACE, "port-enforcer.io/scheduling=off"])?;
    wait_until("a namespace is left out", TIMEOUT, || Ok(Some(ports()?).filter(Value::is_null)))?;
    Ok(Completion::Passed)
}

fn uninstall_leaves_nothing(story: &Story) -> anyhow::Result<Completion> {
    let cluster = &story.cluster;
    cluster.start(&squatter())?;
    cluster.wait_for_errno(&squatter(), 20080, IN_USE)?;
    story.uninstall()?;
    // What was denied is free, though its owner is still there: no program judges any more.
    cluster.wait_for_errno(&squatter(), 20080, 0)?;
    let kinds = "daemonsets,serviceaccounts,configmaps,clusterroles,clusterrolebindings,validatingadmissionpolicies";
    let kinds = if cluster.has_policies() { kinds } else { kinds.rsplit_once(',').map_or(kinds, |(kinds, _)| kinds) };
    let mutating = if cluster.has_mutating_policies() { ",mutatingadmissionpolicies" } else { "" };
    let left =
        cluster.json(&["get", &format!("{kinds}{mutating}"), "-A", "-l", "app.kubernetes.io/part-of=port-enforcer"])?;
    let names: Vec<String> =
        items(&left).map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"])).collect();
    ensure!(names.is_empty(), "objects are left: {}", names.join(", "));
    ensure!(cluster.run(&["get", "namespace", INSTALLATION]).is_err(), "the namespace {INSTALLATION} is left");
    Ok(Completion::Passed)
}

#[cfg(test)]
impl Story {
    /// Returns the story of a cluster that cannot be reached.
    pub(super) fn for_tests() -> Self {
        let options = Options { image: "host:5000/port-enforcer:1".to_owned(), stop_api: None, start_api: None };
        Self { cluster: Cluster::for_tests(), options, folder: process::workspace_root().join("target/e2e") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_render_with_the_image_under_test() {
        let story = Story::for_tests();
        for (overlay, components, mode) in [("audit", &[][..], "audit"), ("enforce", &["policies"], "enforce")] {
            let folder = story.overlay(overlay, components).expect("a folder");
            if process::find_program("kubectl").is_none() {
                eprintln!("kubectl is not installed: {overlay} is not rendered");
                continue;
            }
            let rendered = story.cluster.run(&["kustomize", &folder.display().to_string()]).expect("kustomize");
            assert!(rendered.contains("image: host:5000/port-enforcer:1"), "{rendered}");
            assert!(rendered.contains(&format!("value: {mode}")), "{rendered}");
            assert_eq!(rendered.contains("ValidatingAdmissionPolicy"), !components.is_empty());
        }
    }

    #[test]
    fn names_of_steps_are_unique() {
        let mut names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
