//! Crash points: steps of start, upgrade and cleanup after which a test kills the process, to check that the next start
//! or cleanup recovers.
//!
//! Only builds with debug assertions read the variable: a release build cannot be made to kill itself.

use std::fmt::Display;

/// Names the step after which the process kills itself. Where it is set, every step is written to standard error.
#[cfg(debug_assertions)]
const VARIABLE: &str = "PORT_ENFORCER_DIE_AFTER";

/// Marks a step: `done` names what was done, and `to` the object, which outlives the process.
#[cfg(debug_assertions)]
pub(super) fn step(done: &str, to: impl Display) {
    let Ok(last) = std::env::var(VARIABLE) else {
        return;
    };
    let step = format!("{done} {to}");
    eprintln!("step: {step}");
    if step == last {
        // SAFETY: no memory effects; the process is this one.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// Marks a step: `done` names what was done, and `to` the object, which outlives the process.
#[cfg(not(debug_assertions))]
#[inline]
pub(super) fn step(_done: &str, _to: impl Display) {}
