//! `cargo xtask demo`: the problem, and what the enforcer makes of it, on this very machine.
//!
//! Nothing is played: the pods have real cgroups and real servers, the enforcer is the real one, and the verdicts are
//! the kernel's. Only the kubelet is missing; its manifests are files in a folder.

mod agent_process;
pub(crate) mod child_process;
mod expectations;
mod http_client;
mod http_server;
mod pod_cgroups;
mod pods;
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
use cargo_metadata::Message;

use self::expectations::{Act, Mode, Story};
use self::pod_cgroups::Subtree;
use self::pods::Cast;
use self::scenario::Theatre;
use self::servers::Programs;
use self::terminal::Stage;
use crate::sudo::Root;
use crate::{process, setup};

/// The port to fight for: what the servers of most host-network pods want, else one that is likely to be free.
const WEB: u16 = 80;
const OTHER_WEB: u16 = 8080;
/// The port to share: that of node-exporter.
const METRICS: u16 = 9100;
/// How many ports are tried from each of these on.
const TRIES: u16 = 100;

const WITHOUT_ROOT: &str = "the demo needs root, because it makes cgroups and loads programs into the kernel: run it \
                            as root or install sudo";

/// The flags of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the acts as JSON
    #[arg(long)]
    json: bool,
    /// Draw the closing table into this file too, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The port to fight for, instead of 80 or a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The enforcer to show, instead of building it: how this command starts itself again as root
    #[arg(long, value_name = "PATH", hide = true)]
    enforcer: Option<PathBuf>,
}

pub(crate) fn run(Args { json, svg, port, enforcer }: Args) -> anyhow::Result<ExitCode> {
    if Root::find() == Root::Unavailable {
        bail!(WITHOUT_ROOT);
    }
    // Before it becomes root: what cargo writes shall belong to the developer.
    let enforcer = match enforcer {
        Some(path) => path,
        None => build()?,
    };
    // Asked again, since sudo may have forgotten the password during the build.
    match Root::find() {
        Root::Already => show(json, svg.as_deref(), port, &enforcer).map(|()| ExitCode::SUCCESS),
        Root::Unavailable => bail!(WITHOUT_ROOT),
        root => again(root, json, svg.as_deref(), port, &enforcer),
    }
}

/// Builds the enforcer; cargo shows its progress.
fn build() -> anyhow::Result<PathBuf> {
    setup::ensure()?;
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "enforcer", "--bin", "enforcer", "--message-format=json-render-diagnostics"]);
    let executable = process::cargo_messages(&mut cargo)?.into_iter().find_map(|message| match message {
        Message::CompilerArtifact(artifact) if artifact.target.name == "enforcer" => artifact.executable,
        _ => None,
    });
    executable.map(PathBuf::from).context("cargo did not say where it put the enforcer")
}

/// Starts this command again as root. It says itself what goes wrong.
fn again(root: Root, json: bool, svg: Option<&Path>, port: Option<u16>, enforcer: &Path) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let mut command = root.command(&program, Vec::new());
    command.arg("demo").arg("--enforcer").arg(enforcer);
    if json {
        command.arg("--json");
    }
    if let Some(svg) = svg {
        command.arg("--svg").arg(std::path::absolute(svg).context("cannot tell where the picture goes")?);
    }
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    Ok(if process::status(&mut command)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(json: bool, svg: Option<&Path>, port: Option<u16>, enforcer: &Path) -> anyhow::Result<()> {
    wait::watch_signals()?;
    let stage = Stage::new(json);
    let web = web_port(port)?;
    let metrics = free_port(METRICS, web)?;

    // Dropped in the opposite order: processes first, which each act ends by itself, cgroups and files last.
    let files = tempfile::Builder::new().prefix("port-enforcer-demo-").tempdir().context("cannot make a folder")?;
    let subtree = Subtree::new()?;
    let manifests = files.path().join("manifests");
    fs::create_dir(&manifests).with_context(|| format!("cannot make {}", manifests.display()))?;
    let cast = Cast::new(&subtree, &manifests, web, metrics)?;
    let programs = Programs::find(files.path().join("servers"));
    introduce(&stage, &cast, &programs, &subtree)?;

    let theatre = Theatre { stage: &stage, cast: &cast, programs: &programs, subtree: &subtree, enforcer, manifests };
    let mut story = Story { acts: Vec::new() };
    for (mode, heading) in [
        (Mode::Off, "Act 1: nobody judges"),
        (Mode::Audit, "Act 2: enforcer run --mode audit"),
        (Mode::Enforce, "Act 3: enforcer run --mode enforce"),
    ] {
        stage.heading(heading)?;
        story.acts.push(theatre.play(mode)?);
    }

    if json {
        println!("{}", serde_json::to_string_pretty(&story).context("cannot write JSON")?);
    } else {
        stage.heading("What was seen")?;
        stage.table(&story.acts)?;
    }
    if let Err(differs) = expectations::check(&story, &cast) {
        bail!("what was seen is not what the story promises: {differs}");
    }
    // Only of what is as it should be.
    if let Some(path) = svg {
        fs::write(path, Stage::picture(&story.acts)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !json {
        println!();
        stage.say(&closing(&story.acts, &cast))?;
    }
    Ok(())
}

/// One sentence on what was seen; it is said only after it was checked.
fn closing(acts: &[Act], cast: &Cast) -> String {
    let denied = acts.iter().flat_map(|act| &act.attempts).filter(|attempt| attempt.verdict.as_deref() == Some("deny"));
    format!(
        "Without the enforcer {} lost port {} to another pod and two pods shared port {} unnoticed; audit named both \
         pods of each conflict and denied nothing; enforce denied {} pods a port that was not theirs, and both ports went to their owners.",
        cast.owner.name(),
        cast.owner.port,
        cast.exporter.port,
        denied.count(),
    )
}

fn introduce(stage: &Stage, cast: &Cast, programs: &Programs, subtree: &Subtree) -> anyhow::Result<()> {
    let Cast { owner, squatter, exporter, guest } = cast;
    let (web, metrics) = (owner.port, exporter.port);
    stage.heading("Host-network pods on one node")?;
    let kernel = rustix::system::uname();
    stage.introduce("kernel", &format!("Linux {}", kernel.release().to_string_lossy()))?;
    stage.introduce("cgroups", &subtree.path().display().to_string())?;
    stage.introduce("servers", &programs.describe())?;
    stage.introduce(
        "ports",
        &format!("{web} to fight for{}, {metrics} to share{}", instead(web, WEB), instead(metrics, METRICS)),
    )?;
    stage.introduce(owner.name(), &format!("claims {web}/tcp by annotation and came first: the port is its own"))?;
    stage.introduce(squatter.name(), "the second replica, with the same claim; its server starts first")?;
    stage.introduce(exporter.name(), &format!("declares containerPort {metrics}; listens with SO_REUSEPORT"))?;
    stage.introduce(guest.name(), &format!("declares nothing; listens on {metrics} too, with SO_REUSEPORT"))?;
    Ok(())
}

/// Why a port is not the usual one.
fn instead(port: u16, usual: u16) -> String {
    if port == usual { String::new() } else { format!(" (not the usual {usual})") }
}

/// The port to fight for.
fn web_port(asked: Option<u16>) -> anyhow::Result<u16> {
    match asked {
        Some(port) if is_free(port) => Ok(port),
        Some(port) => bail!("port {port} is taken on this machine: name another one with --port"),
        None if is_free(WEB) => Ok(WEB),
        None => free_port(OTHER_WEB, METRICS),
    }
}

/// The first free port from `first` on that is not `other`.
fn free_port(first: u16, other: u16) -> anyhow::Result<u16> {
    (first..first + TRIES)
        .find(|&port| port != other && is_free(port))
        .with_context(|| format!("none of the ports {first} to {} is free on this machine", first + TRIES - 1))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_not_taken_again() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(!is_free(port));
        let error = web_port(Some(port)).unwrap_err().to_string();
        assert_eq!(error, format!("port {port} is taken on this machine: name another one with --port"));
        let free = free_port(20_000, 20_000).unwrap();
        assert!(free > 20_000);
    }
}
