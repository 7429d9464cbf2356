//! A machine that was started for the tests alone (`cargo xtask kernels`): what they do to it as a whole, they do to
//! nobody.

use std::env;

use libtest_mimic::Completion;

/// Set for the tests by the first process of such a machine.
pub(crate) const MARK: &str = "PORT_ENFORCER_TEST_MACHINE";

/// Whether this is one.
pub(crate) fn is_here() -> bool {
    env::var_os(MARK).is_some()
}

/// Runs a test that needs one, or says that it is skipped.
pub(crate) fn only_there(test: fn()) -> Completion {
    if !is_here() {
        return Completion::ignored_with("it judges every process of the machine; cargo xtask kernels runs it");
    }
    test();
    Completion::Completed
}
