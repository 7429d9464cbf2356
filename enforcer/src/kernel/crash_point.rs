//! Steps of start, upgrade and cleanup after which a test ends the process, to see that what comes next heals it.
//!
//! Only builds with debug assertions know the variable: a release build cannot be told to end itself.

use std::fmt::Display;

/// The step after which the process is to end by SIGKILL. Where it is set, every step is told on standard error.
#[cfg(debug_assertions)]
const VARIABLE: &str = "PORT_ENFORCER_DIE_AFTER";

/// Something was done to an object that outlives the process.
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

/// Something was done to an object that outlives the process.
#[cfg(not(debug_assertions))]
#[inline]
pub(super) fn step(_done: &str, _to: impl Display) {}
