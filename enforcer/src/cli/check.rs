//! `enforcer check`.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use enforcer_core::{
    check::{
        CheckResult, CheckSettings, ManifestSet, check,
        existing::read_objects,
        finding::{Finding, NamedObject, Severity},
        object::ManifestObject,
    },
    model::text::escape,
    pods::claims::{ClaimLimits, PodClaim},
};

use crate::{
    cli::{
        Failure,
        output::{TextFormat, TextOutput, print},
        values::Ports,
    },
    k8s::{self, Workloads, WorkloadsError},
    manifests::check_input::read_all,
    telemetry::shows_colours,
};

/// Word of `--against` for what runs in a cluster.
const CLUSTER: &str = "cluster";

/// Find conflicts among manifests
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer check deploy/\n  \
    enforcer check --nodes 3 --node-reserved 22/tcp,10250/tcp app.yaml ingress.yaml\n  \
    kustomize build overlays/prod | enforcer check --nodes 1 -\n  \
    enforcer check --recursive --list clusters/prod\n  \
    helm template ingress-nginx | enforcer check -o json -\n  \
    helm template ingress-nginx | enforcer check --against cluster -")]
pub(super) struct Check {
    /// Manifests, YAML or JSON; of a folder its .yaml, .yml, .json and .manifest files, and manifests without an
    /// ending; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Read the folders below a folder too
    #[arg(short, long)]
    recursive: bool,

    /// Report only what the manifests bring to what is there: to the manifests of a file or folder, or, with the word
    /// cluster, to what runs in the cluster of the kubeconfig, whose nodes are counted too. An object that is there is
    /// replaced by one of the same name
    #[arg(long, value_name = "FILE|cluster")]
    against: Option<PathBuf>,

    /// Kubeconfig for --against cluster [default: KUBECONFIG, ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "against")]
    kubeconfig: Option<PathBuf>,

    /// List also the ports of each object: those it claims, and those on which it is probed
    #[arg(long)]
    list: bool,

    /// Number of nodes of the cluster; without it, the number of nodes that are needed is only reported
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,

    /// Ports reserved for the node itself, as in an annotation: 22/tcp,10250/tcp
    #[arg(long, env = "ENFORCER_NODE_RESERVED", value_name = "LIST", default_value = "", hide_default_value = true)]
    node_reserved: Ports,

    /// Most ports that one pod may claim; a range counts with all its ports
    #[arg(long, env = "ENFORCER_MAX_PORTS_PER_POD", value_name = "N", default_value_t = 1024)]
    max_ports_per_pod: u32,

    /// Most ports per pod that the label port-enforcer.io/max-ports of a Namespace in the manifests may allow, as of the
    /// agents; with 0, the label has no effect
    #[arg(long, env = "ENFORCER_NAMESPACE_MAX_PORTS", value_name = "N", default_value_t = 65_535)]
    namespace_max_ports: u32,

    #[command(flatten)]
    output: TextOutput,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self {
            files,
            recursive,
            against,
            kubeconfig,
            list,
            mut nodes,
            node_reserved,
            max_ports_per_pod,
            namespace_max_ports,
            output: TextOutput { format },
        } = self;
        let limits = ClaimLimits { max_ports_per_pod, namespace_max_ports };
        let mut manifests = read_all(&files, &limits, recursive);
        match against {
            Some(word) if word.as_os_str() == CLUSTER => {
                let Workloads { objects, nodes: count } = read_cluster(kubeconfig.as_deref())?;
                manifests.add_existing(read_objects(objects, CLUSTER, &limits));
                nodes = nodes.or(Some(count).filter(|count| *count > 0));
            }
            Some(_) if kubeconfig.is_some() => {
                return Err(Failure::usage("--kubeconfig goes with --against cluster"));
            }
            Some(path) => manifests.add_existing(read_existing(&path, limits, recursive)?),
            None => {}
        }
        let settings = CheckSettings { nodes, node_reserved: node_reserved.0, limits };
        let outcome = check(&manifests, &settings);
        let answer = match format {
            TextFormat::Text => {
                let listed = if list { claims_text(&manifests) } else { String::new() };
                listed + &text(&manifests, &outcome, shows_colours(io::stdout().is_terminal()))
            }
            TextFormat::Json => {
                let mut report = report(&manifests, &outcome, nodes);
                if list {
                    report["objects"] = claims_json(&manifests);
                }
                format!("{report:#}\n")
            }
        };
        print(&answer)?;
        if manifests.documents == 0 {
            return Err(Failure::usage(
                "no manifest could be read; name files or folders with manifests, or - for standard input",
            ));
        }
        let (errors, warnings) = (outcome.count(Severity::Error), outcome.count(Severity::Warning));
        if errors + warnings > 0 {
            let counts = [counted(errors, "error", "errors"), counted(warnings, "warning", "warnings")];
            return Err(Failure::findings(counts.join(", ")));
        }
        Ok(())
    }
}

/// Reads the manifests of what is there.
fn read_existing(path: &Path, limits: ClaimLimits, recursive: bool) -> Result<ManifestSet, Failure> {
    let existing = read_all(&[path.to_owned()], &limits, recursive);
    if existing.documents == 0 {
        let path = path.display();
        return Err(Failure::usage(format!("no manifest could be read in {path} of --against")));
    }
    Ok(existing)
}

/// Reads what runs in the cluster.
fn read_cluster(kubeconfig: Option<&Path>) -> Result<Workloads, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::runtime)?;
    let (began, is_terminal) = (Instant::now(), io::stderr().is_terminal());
    let progress = |count: usize| {
        if is_terminal && began.elapsed() > Duration::from_secs(1) {
            eprint!("\r\u{1b}[Kread {count} objects …");
        }
    };
    let read = runtime.block_on(async {
        let cluster = k8s::connect(kubeconfig).await.map_err(|error| match error {
            k8s::ConnectError::None => Failure::usage("no kubeconfig was found; name one with --kubeconfig"),
            error => Failure::usage(error),
        })?;
        k8s::read_workloads(&cluster, progress).await.map_err(|error| match error {
            WorkloadsError::Forbidden { .. } => Failure::unsupported(error),
            WorkloadsError::Failed { .. } => Failure::runtime(error),
        })
    });
    if is_terminal && began.elapsed() > Duration::from_secs(1) {
        eprint!("\r\u{1b}[K");
    }
    read
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn text(manifests: &ManifestSet, outcome: &CheckResult, colours: bool) -> String {
    let paint = |code: &'static str| if colours { code } else { "" };
    let (bold, plain) = (paint("\u{1b}[1m"), paint("\u{1b}[0m"));
    let mut text = String::new();
    for Finding { place, severity, code, message, remedy, .. } in &outcome.findings {
        let colour = paint(match severity {
            Severity::Error => "\u{1b}[1;31m",
            Severity::Warning => "\u{1b}[1;33m",
            Severity::Note => "\u{1b}[1;36m",
        });
        let (word, code) = (severity.as_str(), code.as_str());
        let written =
            write!(text, "{bold}{place}:{plain} {colour}{word}:{plain} {message} [{code}]\n    remedy: {remedy}\n");
        written.expect("writing to a string never fails");
    }
    let more: usize = outcome.more.iter().sum();
    let beyond = if more > 0 { format!("; {more} findings more than are shown") } else { String::new() };
    let against = match manifests.objects.len() - manifests.new_objects().count() {
        0 => String::new(),
        count => format!(
            ", against {} that {} there",
            counted(count, "object", "objects"),
            if count == 1 { "is" } else { "are" }
        ),
    };
    let written = writeln!(
        text,
        "checked {} in {}, {} of other kinds{against}: {}, {}, {}{beyond}",
        counted(manifests.new_objects().count(), "object", "objects"),
        counted(manifests.files.len(), "file", "files"),
        manifests.ignored,
        counted(outcome.count(Severity::Error), "error", "errors"),
        counted(outcome.count(Severity::Warning), "warning", "warnings"),
        counted(outcome.count(Severity::Note), "note", "notes"),
    );
    written.expect("writing to a string never fails");
    text
}

/// Returns the claims of all objects, for people.
fn claims_text(manifests: &ManifestSet) -> String {
    let mut text = String::new();
    for object in manifests.new_objects() {
        let network = if object.host_network { "host network" } else { "network of its own" };
        let mut line = format!("{object} ({}), {network}:", object.place);
        if object.claims.is_empty() {
            line += if object.unknown_ports.is_some() { " no port is known" } else { " no port of the node" };
        }
        writeln!(text, "{line}").expect("writing to a string never fails");
        for claim in &object.claims {
            let likely = if claim.source.is_likely() { ", likely" } else { "" };
            let place = object.place_of(claim);
            let written = writeln!(text, "    {} ({}{likely}), {place}", claim.spec, claim.source);
            written.expect("writing to a string never fails");
        }
    }
    text
}

fn claims_json(manifests: &ManifestSet) -> Value {
    let object = |object: &ManifestObject| {
        let claim = |claim: &PodClaim| {
            let place = object.place_of(claim);
            json!({
                "port": claim.spec.to_string(),
                "source": claim.source.as_str(),
                "likely": claim.source.is_likely(),
                "file": &*place.file,
                "line": place.line,
            })
        };
        let mut json = named_json(&NamedObject::of(object));
        json["hostNetwork"] = object.host_network.into();
        json["share"] = object.share.as_deref().map(escape).into();
        json["claims"] = object.claims.iter().map(claim).collect();
        json
    };
    manifests.new_objects().map(object).collect()
}

fn ignored_kinds(manifests: &ManifestSet) -> Value {
    let kinds = manifests.other_kinds.kinds.iter().map(|((version, kind), other)| {
        json!({
            "apiVersion": version,
            "kind": kind,
            "count": other.count,
            "podTemplates": other.with_template,
            "compared": other.compared,
        })
    });
    kinds.collect()
}

/// Returns the report in JSON, which is documented in docs/check.md.
fn report(manifests: &ManifestSet, outcome: &CheckResult, nodes: Option<u32>) -> Value {
    let (remarks, findings): (Vec<_>, Vec<_>) =
        outcome.findings.iter().partition(|finding| finding.severity == Severity::Note);
    let all = |findings: Vec<&Finding>| findings.into_iter().map(finding_json).collect::<Value>();
    json!({
        "apiVersion": "port-enforcer.io/v1alpha1",
        "kind": "CheckReport",
        "nodes": nodes,
        "findings": all(findings),
        "notes": all(remarks),
        "ignoredKinds": ignored_kinds(manifests),
        "summary": {
            "files": manifests.files.len(),
            "documents": manifests.documents,
            "objects": manifests.new_objects().count(),
            "existing": manifests.objects.len() - manifests.new_objects().count(),
            "ignored": manifests.ignored,
            "unreadable": manifests.unreadable.len() + manifests.more_unreadable,
            "errors": outcome.count(Severity::Error),
            "warnings": outcome.count(Severity::Warning),
            "notes": outcome.count(Severity::Note),
            "leftOut": outcome.more.iter().sum::<usize>(),
        },
    })
}

fn finding_json(finding: &Finding) -> Value {
    let Finding { code, severity, place, object, other, ports, position, nodes_needed, message, remedy } = finding;
    let named = |named: &Option<NamedObject>| named.as_ref().map(named_json);
    json!({
        "code": code.as_str(),
        "severity": severity.as_str(),
        "file": &*place.file,
        "line": place.line,
        "object": named(object),
        "other": named(other),
        "ports": ports,
        "position": position,
        "nodesNeeded": nodes_needed,
        "message": message,
        "remedy": remedy,
    })
}

fn named_json(NamedObject { kind, namespace, name, place }: &NamedObject) -> Value {
    json!({"kind": &**kind, "namespace": namespace, "name": name, "file": &*place.file, "line": place.line})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use enforcer_core::check::object::{Location, Unreadable};

    #[test]
    fn colours_change_no_word() {
        let file: Arc<str> = "a.yaml".into();
        let place = Location { file: file.clone(), line: Some(3) };
        let unreadable = vec![Unreadable { place, message: "is no manifest".to_owned(), is_foreign: false }];
        let manifests = ManifestSet { files: vec![file], unreadable, ..ManifestSet::default() };
        let outcome = check(&manifests, &CheckSettings::default());
        let [plain, coloured] = [false, true].map(|colours| text(&manifests, &outcome, colours));
        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert!(
            coloured.starts_with("\u{1b}[1ma.yaml:3:\u{1b}[0m \u{1b}[1;31merror:\u{1b}[0m is no manifest"),
            "{coloured}"
        );
        let codes = ["\u{1b}[1m", "\u{1b}[1;31m", "\u{1b}[0m"];
        assert_eq!(codes.iter().fold(coloured, |text, code| text.replace(code, "")), plain);
    }
}
