//! `cargo xtask demo`: shows port conflicts on this machine without the enforcer, in audit mode and in enforce mode.
//!
//! Cgroups, servers, the enforcer and the kernel's verdicts are real. Only the kubelet is missing: the pods' manifests
//! are files in a folder.
//!
//! The demo is a module and not a crate, because it uses `setup`, `process` and `sudo` of this crate: two crates could
//! share them only through a third one, and every `cargo xtask` command would build all three.

mod agent_process;
pub(crate) mod child_process;
mod expectations;
mod http_client;
mod http_server;
mod pod_cgroups;
mod pods;
mod results;
mod scenario;
mod servers;
mod terminal;
mod terminal_svg;
mod wait;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use cargo_metadata::TargetKind;

use self::pod_cgroups::PodCgroups;
use self::pods::DemoPods;
use self::results::{DemoResults, Mode, ScenarioResult};
use self::scenario::ScenarioRunner;
use self::servers::Servers;
use self::terminal::Terminal;
use crate::sudo::RootAccess;
use crate::{process, setup};

/// Default contested port: that of most host-network servers. The second one is more likely to be free.
const WEB_PORT: u16 = 80;
const OTHER_WEB_PORT: u16 = 8080;
/// Default shared port: that of node-exporter.
const METRICS_PORT: u16 = 9100;
/// Number of ports to try, beginning with a default port.
const PORT_TRIES: u16 = 100;

const NO_ROOT: &str = "the demo creates cgroups, loads programs into the kernel and needs root: run it as root or install \
                       sudo";

/// Flags of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Also write the summary table to this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Port that two pods contend for [default: 80, or a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Path of the enforcer, instead of building it: this command passes it when it restarts itself as root
    #[arg(long, value_name = "PATH", hide = true)]
    enforcer: Option<PathBuf>,
}

pub(crate) fn run(Args { json, svg, port, enforcer }: Args) -> anyhow::Result<ExitCode> {
    if RootAccess::detect() == RootAccess::Unavailable {
        bail!(NO_ROOT);
    }
    // Before it becomes root: files that cargo writes must belong to the developer.
    let enforcer = match enforcer {
        Some(path) => path,
        None => build_enforcer()?,
    };
    // Detected again, since sudo may need the password again after the build.
    match RootAccess::detect() {
        RootAccess::Direct => show(json, svg.as_deref(), port, &enforcer).map(|()| ExitCode::SUCCESS),
        RootAccess::Unavailable => bail!(NO_ROOT),
        access => restart_as_root(access, json, svg.as_deref(), port, &enforcer),
    }
}

/// Builds the enforcer. Cargo shows its progress.
fn build_enforcer() -> anyhow::Result<PathBuf> {
    setup::ensure_build_tools()?;
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "enforcer", "--bin", "enforcer", "--message-format=json-render-diagnostics"]);
    process::built_executable(&process::cargo_messages(&mut cargo)?, &TargetKind::Bin, "enforcer")
}

/// Runs this command again as root. The new process reports its own errors.
fn restart_as_root(
    access: RootAccess,
    json: bool,
    svg: Option<&Path>,
    port: Option<u16>,
    enforcer: &Path,
) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut command = access.command(&program, Vec::new());
    command.arg("demo").arg("--enforcer").arg(enforcer);
    if json {
        command.arg("--json");
    }
    if let Some(svg) = svg {
        command.arg("--svg").arg(std::path::absolute(svg).context("cannot resolve the path of the SVG")?);
    }
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    Ok(if process::status(&mut command)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the scenario in all three modes, as root, and checks the results.
fn show(json: bool, svg: Option<&Path>, port: Option<u16>, enforcer: &Path) -> anyhow::Result<()> {
    wait::watch_signals()?;
    let terminal = Terminal::new(json);
    let web_port = choose_web_port(port)?;
    let metrics_port = find_free_port(METRICS_PORT, web_port)?;

    // Dropped in the opposite order: cgroups first, then files. The scenario ends its processes itself.
    let files =
        tempfile::Builder::new().prefix("port-enforcer-demo-").tempdir().context("cannot create a temporary folder")?;
    let cgroups = PodCgroups::new()?;
    let manifests = files.path().join("manifests");
    fs::create_dir(&manifests).with_context(|| format!("cannot create {}", manifests.display()))?;
    let pods = DemoPods::new(&cgroups, &manifests, web_port, metrics_port)?;
    let servers = Servers::find(files.path().join("servers"));
    print_setting(&terminal, &pods, &servers, &cgroups)?;

    let runner = ScenarioRunner {
        terminal: &terminal,
        pods: &pods,
        servers: &servers,
        cgroups: &cgroups,
        enforcer,
        manifests: &manifests,
    };
    let mut results = DemoResults { scenarios: Vec::new() };
    for (mode, heading) in [
        (Mode::Off, "1. Without the enforcer"),
        (Mode::Audit, "2. enforcer run --mode audit"),
        (Mode::Enforce, "3. enforcer run --mode enforce"),
    ] {
        terminal.heading(heading)?;
        results.scenarios.push(runner.run(mode)?);
    }

    if json {
        println!("{}", serde_json::to_string_pretty(&results).context("cannot serialize the results")?);
    } else {
        terminal.heading("Summary")?;
        terminal.table(&results.scenarios)?;
    }
    if let Err(difference) = expectations::check(&results, &pods) {
        bail!("the demo did not show the expected results: {difference}");
    }
    // Only after the check.
    if let Some(path) = svg {
        let picture = Terminal::table_svg(&results.scenarios);
        fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !json {
        println!();
        terminal.paragraph(&conclusion(&results.scenarios, &pods))?;
    }
    Ok(())
}

/// Summarizes results that passed the check.
fn conclusion(scenarios: &[ScenarioResult], pods: &DemoPods) -> String {
    let attempts = scenarios.iter().flat_map(|scenario| &scenario.attempts);
    let denied = attempts.filter(|attempt| attempt.verdict.as_deref() == Some("deny"));
    format!(
        "Without the enforcer, {owner} lost port {web_port} to another pod, and two pods shared port {metrics_port} \
         unnoticed. In audit mode, the enforcer named both pods of each conflict and denied nothing. In enforce mode, it \
         denied {denied} binds, and both ports went to their owners.",
        owner = pods.owner.name(),
        web_port = pods.owner.port,
        metrics_port = pods.exporter.port,
        denied = denied.count(),
    )
}

/// Prints the kernel, the ports and the pods of the demo.
fn print_setting(terminal: &Terminal, pods: &DemoPods, servers: &Servers, cgroups: &PodCgroups) -> anyhow::Result<()> {
    let DemoPods { owner, squatter, exporter, sidecar } = pods;
    let (web_port, metrics_port) = (owner.port, exporter.port);
    terminal.heading("Host-network pods on one node")?;
    let kernel = rustix::system::uname();
    terminal.entry("kernel", &format!("Linux {}", kernel.release().to_string_lossy()))?;
    terminal.entry("cgroups", &cgroups.path().display().to_string())?;
    terminal.entry("servers", &servers.describe())?;
    terminal.entry("contested port", &format!("{web_port}{}", note_on_default(web_port, WEB_PORT)))?;
    terminal.entry("shared port", &format!("{metrics_port}{}", note_on_default(metrics_port, METRICS_PORT)))?;
    terminal.entry(
        owner.name(),
        &format!("claims {web_port}/tcp by annotation and was scheduled first, so it owns the port"),
    )?;
    terminal.entry(squatter.name(), "is the second replica, with the same claim; its server starts first")?;
    terminal.entry(exporter.name(), &format!("declares containerPort {metrics_port} and listens with SO_REUSEPORT"))?;
    terminal
        .entry(sidecar.name(), &format!("declares nothing and listens on {metrics_port} too, with SO_REUSEPORT"))?;
    Ok(())
}

/// Notes that a port is not the default one.
fn note_on_default(port: u16, default: u16) -> String {
    if port == default { String::new() } else { format!(" (the default {default} is not used)") }
}

/// Chooses the contested port.
fn choose_web_port(requested: Option<u16>) -> anyhow::Result<u16> {
    match requested {
        Some(port) if is_free(port) => Ok(port),
        Some(port) => bail!("port {port} is in use on this machine: choose another one with --port"),
        None if is_free(WEB_PORT) => Ok(WEB_PORT),
        None => find_free_port(OTHER_WEB_PORT, METRICS_PORT),
    }
}

/// Returns the first free port from `first` on, except `excluded`.
fn find_free_port(first: u16, excluded: u16) -> anyhow::Result<u16> {
    (first..first + PORT_TRIES)
        .find(|&port| port != excluded && is_free(port))
        .with_context(|| format!("none of the ports {first} to {} is free on this machine", first + PORT_TRIES - 1))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_in_use_is_not_chosen() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        let error = choose_web_port(Some(port)).unwrap_err().to_string();
        assert_eq!(error, format!("port {port} is in use on this machine: choose another one with --port"));
        let free = find_free_port(20_000, 20_000).unwrap();
        assert!(free > 20_000);
    }
}
