//! Sentences about the registry: who has a port, and who has none.

use super::{MAX_LISTED, about, alone, sorted};
use crate::{
    check::{
        finding::{Code, Finding, NamedObject, Severity},
        object::Location,
        registry::{Claimant, PortRegistry, RegistryEntry},
    },
    model::list_text::comma_list,
};

pub(in crate::check) fn bad_entry(place: Location, message: &str) -> Finding {
    let subject = [message];
    let message = format!("{message}: the entry counts for nothing");
    let mut finding = alone(place, Code::Registry, message, "correct the entry of the registry");
    finding.set_subject(subject);
    finding
}

pub(in crate::check) fn more_bad_entries(registry: &PortRegistry) -> Finding {
    let place = Location { file: registry.file.clone(), line: None };
    let message = format!("{} more entries count for nothing", registry.more_problems);
    let mut finding = alone(place, Code::Registry, message, "correct the first ones");
    finding.set_subject(["more", &registry.more_problems.to_string()]);
    finding
}

/// Reports claims of one user on ports of somebody else. `claims` is never empty.
pub(in crate::check) fn of_another(claims: &[Claimant<'_>], registry: &PortRegistry, entry: &RegistryEntry) -> Finding {
    let place = Location { file: registry.file.clone(), line: Some(entry.line) };
    let message =
        format!("{}, and the registry gives {} to {} ({place})", said(claims), entry.spec, entry.shown_users());
    let remedy = "choose another port, or let the owners of the registry change the entry";
    finding(claims, Severity::Error, message, remedy, &entry.spec.to_string())
}

/// Reports claims of one user on ports that nobody has. `claims` is never empty.
pub(in crate::check) fn unregistered(claims: &[Claimant<'_>], registry: &PortRegistry) -> Finding {
    let ports = if claims.len() == 1 { "this port" } else { "these ports" };
    let message = format!("{}, and no entry of the registry {} gives it {ports}", said(claims), registry.file);
    let (user, port) = (shown(claims[0]), claims[0].spec());
    let remedy = format!("let the owners of the registry add it: {{port: \"{port}\", user: {user}}}");
    finding(claims, Severity::Warning, message, &remedy, "no entry")
}

fn shown(claim: Claimant<'_>) -> String {
    match claim {
        Claimant::Object(object, _) => object.to_string(),
        Claimant::Service(service, _) => service.to_string(),
    }
}

/// Formats who claims what, and why that is known.
fn said(claims: &[Claimant<'_>]) -> String {
    let verb = if claims.iter().all(|claim| claim.is_likely()) { "most likely uses" } else { "claims" };
    let ports = claims.iter().map(|claim| match claim {
        Claimant::Object(_, claim) => format!("{} ({})", claim.spec, claim.source),
        Claimant::Service(_, claim) => format!("{} ({})", claim.spec, claim.by),
    });
    format!("{} {verb} {}", shown(claims[0]), comma_list(ports, MAX_LISTED, 0))
}

/// Creates the finding. `entry`: the ports of the entry that gives them to others.
fn finding(claims: &[Claimant<'_>], severity: Severity, message: String, remedy: &str, entry: &str) -> Finding {
    // Of a port that is only likely, less is certain.
    let severity = match severity {
        Severity::Error if claims.iter().all(|claim| claim.is_likely()) => Severity::Warning,
        Severity::Warning if claims.iter().all(|claim| claim.is_likely()) => Severity::Note,
        severity => severity,
    };
    let finding = match claims[0] {
        Claimant::Object(object, claim) => {
            about(object, object.place_of(claim), Code::Registry, severity, message, remedy)
        }
        Claimant::Service(service, claim) => {
            let place = service.place_of(claim);
            let object: Option<NamedObject> = Some(service.named(service.place.clone()));
            Finding { severity, object, ..alone(place, Code::Registry, message, remedy) }
        }
    };
    let all: Vec<String> = claims.iter().map(|claim| claim.spec().to_string()).collect();
    let mut finding = Finding { ports: all.iter().take(MAX_LISTED).cloned().collect(), ..finding };
    finding.set_subject([entry].into_iter().chain(sorted(&all)));
    finding
}
