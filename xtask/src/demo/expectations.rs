//! Expected results of the demo, and the comparison with the real ones.

use super::pods::{DemoPods, Pod};
use super::results::{Attempt, DemoResults, Mode, REQUESTS, ScenarioResult};

/// Compares the results with the expected ones.
///
/// # Errors
///
/// A description of the first difference.
pub(super) fn check(results: &DemoResults, pods: &DemoPods) -> Result<(), String> {
    for (index, mode) in [Mode::Off, Mode::Audit, Mode::Enforce].into_iter().enumerate() {
        let scenario = results.scenarios.get(index).filter(|scenario| scenario.mode == mode);
        let scenario = scenario.ok_or_else(|| format!("no result for mode {}", mode.as_str()))?;
        check_scenario(scenario, pods).map_err(|difference| format!("mode {}: {difference}", mode.as_str()))?;
    }
    Ok(())
}

fn check_scenario(scenario: &ScenarioResult, pods: &DemoPods) -> Result<(), String> {
    let only_attempt = |pod: &Pod| {
        let mut attempts = scenario.attempts.iter().filter(|attempt| attempt.pod == pod.full_name());
        match (attempts.next(), attempts.next()) {
            (Some(attempt), None) => Ok(attempt),
            _ => Err(format!("expected one attempt of {}", pod.full_name())),
        }
    };
    let (squatter, owner) = (only_attempt(&pods.squatter)?, only_attempt(&pods.owner)?);
    let (exporter, sidecar) = (only_attempt(&pods.exporter)?, only_attempt(&pods.sidecar)?);
    let address_in_use = |attempt: &Attempt| attempt.errno.as_deref() == Some("EADDRINUSE");
    // EPERM if the kernel does not let the program choose the error.
    let denied = |attempt: &Attempt| matches!(attempt.errno.as_deref(), Some("EADDRINUSE" | "EPERM"));
    let expect = |holds: bool, expectation: &str, attempt: &Attempt| {
        if holds { Ok(()) } else { Err(format!("{expectation}, but the result is {attempt}")) }
    };

    match scenario.mode {
        Mode::Off | Mode::Audit => {
            expect(squatter.succeeded(), "the squatter should get the port", squatter)?;
            expect(address_in_use(owner), "the owner should find its port in use", owner)?;
            expect(exporter.succeeded(), "the exporter should get its port", exporter)?;
            expect(sidecar.succeeded(), "the sidecar should share the port", sidecar)?;
        }
        Mode::Enforce => {
            expect(denied(squatter), "the squatter should be denied", squatter)?;
            expect(owner.succeeded(), "the owner should get its port", owner)?;
            expect(exporter.succeeded(), "the exporter should get its port", exporter)?;
            expect(denied(sidecar), "the sidecar should be denied", sidecar)?;
        }
    }
    for (attempt, port_owner) in
        [(squatter, &pods.owner), (owner, &pods.owner), (exporter, &pods.exporter), (sidecar, &pods.exporter)]
    {
        let is_owner = attempt.pod == port_owner.full_name();
        let (holds, expectation) = match scenario.mode {
            Mode::Off => (attempt.verdict.is_none(), "there should be no verdict"),
            _ if is_owner => (attempt.has_verdict("allow", "owner", port_owner), "an owner should be allowed"),
            Mode::Audit => {
                (attempt.has_verdict("audit", "claimed", port_owner), "a conflict should be reported and not denied")
            }
            Mode::Enforce => (attempt.has_verdict("deny", "claimed", port_owner), "a conflict should be denied"),
        };
        expect(holds, expectation, attempt)?;
        if let Some(message) = &attempt.enforcer_message
            && !(message.contains(&attempt.pod) && message.contains(&port_owner.full_name()))
        {
            return Err(format!("the enforcer should name both pods, but its message is: {message}"));
        }
    }
    check_answers(scenario, pods)
}

/// Checks which pods answer the requests.
fn check_answers(scenario: &ScenarioResult, pods: &DemoPods) -> Result<(), String> {
    let holder = if scenario.mode == Mode::Enforce { &pods.owner } else { &pods.squatter };
    let answered_by = scenario.contested.answered_by.as_deref().unwrap_or("no pod");
    if answered_by != holder.full_name() {
        return Err(format!("{} should answer, but {answered_by} did", holder.full_name()));
    }
    let answers = &scenario.shared.answers;
    let count = |pod: &Pod| answers.get(&pod.full_name()).copied().unwrap_or(0);
    let (exporter, sidecar) = (count(&pods.exporter), count(&pods.sidecar));
    if exporter + sidecar != REQUESTS || answers.values().sum::<u32>() != REQUESTS {
        return Err(format!("the exporter and the sidecar should answer all {REQUESTS} requests, but: {answers:?}"));
    }
    match scenario.mode {
        Mode::Enforce if sidecar > 0 => Err(format!("the sidecar should not share the port, but: {answers:?}")),
        Mode::Off | Mode::Audit if sidecar == 0 || exporter == 0 => {
            Err(format!("two pods should share the port, but: {answers:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
