//! Errors of the agent as failures of the command.

use std::io;

use aya::programs::ProgramError;
use enforcer_core::model::text::message_with_causes;

use crate::{
    agent::{AgentError, ReconcilerError},
    cli::Failure,
    kernel::BpfError,
};

/// Maps an error of the agent to an exit code and a sentence.
pub(super) fn agent_failure(error: &AgentError) -> Failure {
    match error {
        AgentError::Reconciler(ReconcilerError::Bpf(BpfError::Program { source, .. }))
            if is_denied(source.as_ref()) =>
        {
            program_failure(source)
        }
        AgentError::Reconciler(ReconcilerError::Bpf(BpfError::Attach { source, .. })) if is_denied(source) => {
            missing_privilege()
        }
        AgentError::Reconciler(ReconcilerError::Bpf(error @ (BpfError::Btf(_) | BpfError::Program { .. }))) => {
            Failure::unsupported(error)
        }
        AgentError::Reconciler(ReconcilerError::Bpf(BpfError::Object(source))) if is_denied(source) => {
            missing_privilege()
        }
        AgentError::Reconciler(ReconcilerError::Cgroup(_)) => Failure::unsupported(error),
        _ => Failure::runtime(error),
    }
}

/// Maps an error of loading programs to an exit code and a sentence.
pub(super) fn program_failure(error: &ProgramError) -> Failure {
    if is_denied(error) {
        missing_privilege()
    } else {
        Failure::unsupported(format!("the kernel cannot be used: {}", message_with_causes(error)))
    }
}

fn missing_privilege() -> Failure {
    Failure::unsupported(
        "the kernel refuses to load BPF programs: run the agent as root, or give it CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN",
    )
}

/// Checks whether the chain of causes has an EPERM. EACCES is what the verifier returns for a program that it refuses.
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
