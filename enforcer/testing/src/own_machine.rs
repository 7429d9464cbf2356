//! A virtual machine that was started for the tests alone (`cargo xtask kernels`): they may change it as a whole.

use std::env;

use libtest_mimic::{Completion, Failed};
use rustix::process::Pid;

/// Set for the tests by the first process of such a machine.
pub const MARK: &str = "PORT_ENFORCER_TEST_MACHINE";

/// Set where several machines share the tests, `NUMBER/OF`: which of them this one runs.
const PART: &str = "PORT_ENFORCER_TEST_PART";

/// Returns the tests that run here: all, unless several machines share them.
pub fn part<T>(tests: Vec<T>) -> Vec<T> {
    let Ok(part) = env::var(PART) else { return tests };
    let numbers = part.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    let Some((number @ 1.., of)): Option<(usize, usize)> = numbers else { panic!("{PART}={part} is no NUMBER/OF") };
    assert!(number <= of, "{PART}={part}");
    // One after the other, since neighbours take about as long.
    tests.into_iter().skip(number - 1).step_by(of).collect()
}

/// Returns whether this is such a machine.
pub fn is_here() -> bool {
    env::var_os(MARK).is_some()
}

/// Returns how often to repeat something: a fifth where every instruction is emulated and there is one CPU.
pub fn times(usual: u32) -> u32 {
    if is_here() { usual.div_ceil(5) } else { usual }
}

/// Lets others of the machine go before a process that does as much as it can: the one CPU is wanted elsewhere too.
pub fn give_way(pid: u32) {
    if is_here() {
        let pid = Pid::from_raw(pid.cast_signed()).expect("the id of a process");
        rustix::process::setpriority_process(Some(pid), 10).expect("a process of the test's own");
    }
}

/// Runs a test that needs such a machine; skips it elsewhere.
pub fn only_there(test: fn()) -> Result<Completion, Failed> {
    if !is_here() {
        return Ok(Completion::ignored_with("it judges every process of the machine; cargo xtask kernels runs it"));
    }
    test();
    Ok(Completion::Completed)
}
