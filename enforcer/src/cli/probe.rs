//! `enforcer probe`.

use std::path::Path;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::json;

use crate::{
    cli::{
        Failure,
        output::{TableFormat, TableOutput},
    },
    host::cgroup::{MOUNTINFO, Root},
    kernel::probe::{Answer, Finding, findings},
};

/// Show what this kernel and this node support, and what that means
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer probe\n  \
    enforcer probe -o json | jq -r '.features[] | select(.answer != \"yes\") | .name'")]
pub(super) struct Probe {
    #[command(flatten)]
    output: TableOutput,
}

impl Probe {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { output: TableOutput { format } } = self;
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let findings = findings();
        let root = Root::find(None, Path::new(MOUNTINFO)).map_err(|error| error.to_string());
        let missing: Vec<_> = findings.iter().filter(|finding| finding.required && !finding.answer.is_yes()).collect();
        match format {
            TableFormat::Table => print_table(&release, &findings, &root),
            TableFormat::Json => print_json(&release, &findings, &root),
        }
        match missing.first() {
            None => Ok(()),
            Some(finding) => {
                Err(Failure::unsupported(format!("{} missing: {}; {}", finding.name, finding.without, finding.remedy)))
            }
        }
    }
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Yes => "yes",
        Answer::No => "no",
        Answer::Unknown(_) => "unknown",
    }
}

fn print_table(release: &str, findings: &[Finding], root: &Result<Root, String>) {
    println!("Linux {release}");
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["FEATURE", "HERE", "SINCE", "NEEDED", "WHAT IT MEANS"]);
    for finding in findings {
        let meaning = match &finding.answer {
            Answer::Yes => String::new(),
            Answer::No => format!("{}; {}", finding.without, finding.remedy),
            Answer::Unknown(why) => format!("unknown: {why}"),
        };
        let needed = if finding.required { "yes" } else { "no" };
        table.add_row([finding.name, word(&finding.answer), finding.since, needed, &meaning]);
    }
    println!("{table}");
    match root {
        Ok(root) => println!("pods' cgroup: {}", root.path.display()),
        Err(why) => println!("pods' cgroup: none; {why}"),
    }
}

fn print_json(release: &str, findings: &[Finding], root: &Result<Root, String>) {
    let features: Vec<_> = findings
        .iter()
        .map(|finding| {
            let why = match &finding.answer {
                Answer::Unknown(why) => Some(why),
                Answer::Yes | Answer::No => None,
            };
            json!({
                "name": finding.name,
                "answer": word(&finding.answer),
                "why": why,
                "since": finding.since,
                "required": finding.required,
                "without": finding.without,
                "remedy": finding.remedy,
            })
        })
        .collect();
    let value = json!({
        "apiVersion": "port-enforcer.io/v1alpha1",
        "kind": "Probe",
        "kernel": release,
        "features": features,
        "podsCgroup": root.as_ref().ok().map(|root| root.path.display().to_string()),
        "podsCgroupProblem": root.as_ref().err(),
    });
    println!("{value:#}");
}
