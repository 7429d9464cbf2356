//! Root access for commands that need it: directly as root, or through `sudo`.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::Command;

use crate::process;

/// Environment variables that a program keeps when it runs through sudo.
const KEPT_VARIABLES: [&str; 13] = [
    "PATH",
    "TERM",
    "COLUMNS",
    "NO_COLOR",
    "CI",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "PROPTEST_CASES",
    "PORT_ENFORCER_TEST_FULL",
    "PORT_ENFORCER_TEST_EVERY_STEP",
    "PORT_ENFORCER_TEST_PREDECESSOR",
    "KUBECONFIG",
    "KUBEBUILDER_ASSETS",
];

/// Way to run a program as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootAccess {
    /// Directly: this process is root, or the program does not need root.
    Direct,
    /// `sudo`, without a password.
    Sudo,
    /// `sudo`, which asks for a password on the terminal.
    SudoWithPassword,
    /// None: this process is not root, and there is no usable `sudo`.
    Unavailable,
}

impl RootAccess {
    /// Detects the way that works now. A `sudo` without a password can need one a few minutes later.
    pub(crate) fn detect() -> Self {
        Self::choose(
            rustix::process::geteuid().is_root(),
            process::find_program("sudo").is_some(),
            || process::output(Command::new("sudo").args(["-n", "true"])).is_ok(),
            io::stdin().is_terminal(),
        )
    }

    fn choose(is_root: bool, has_sudo: bool, needs_no_password: impl FnOnce() -> bool, has_terminal: bool) -> Self {
        match (is_root, has_sudo) {
            (true, _) => Self::Direct,
            (false, true) if needs_no_password() => Self::Sudo,
            (false, true) if has_terminal => Self::SudoWithPassword,
            (false, _) => Self::Unavailable,
        }
    }

    /// Returns the command that runs a program this way, with `environment` added to the inherited one.
    pub(crate) fn command(self, program: &Path, environment: Vec<(String, String)>) -> Command {
        if matches!(self, Self::Direct | Self::Unavailable) {
            let mut command = Command::new(program);
            command.envs(environment);
            return command;
        }
        // Not --preserve-env, which many a sudoers file forbids.
        let mut command = Command::new("sudo");
        if self == Self::Sudo {
            command.arg("-n");
        }
        let kept = KEPT_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        command.args(["--", "env"]);
        command.args(kept.chain(environment).map(|(name, value)| format!("{name}={value}")));
        command.arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_keeps_the_variables_that_tests_read() {
        // PATH is set wherever this test runs. The others only have to be in the list and in the help.
        let path = std::env::var("PATH").unwrap();
        let command = RootAccess::Sudo.command(Path::new("/test"), vec![("OWN".to_owned(), "1".to_owned())]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(words[..4], ["-n", "--", "env", &format!("PATH={path}")]);
        assert_eq!(words[words.len() - 2..], ["OWN=1", "/test"]);
        for name in ["PORT_ENFORCER_TEST_FULL", "PORT_ENFORCER_TEST_EVERY_STEP", "KUBECONFIG", "KUBEBUILDER_ASSETS"] {
            assert!(KEPT_VARIABLES.contains(&name) && crate::test::ENVIRONMENT_HELP.contains(name), "{name}");
        }
    }

    #[test]
    fn sudo_asks_for_a_password_only_on_a_terminal() {
        let never = || unreachable!("sudo must not be tried");
        assert_eq!(RootAccess::choose(true, true, never, true), RootAccess::Direct);
        assert_eq!(RootAccess::choose(false, false, never, true), RootAccess::Unavailable);
        assert_eq!(RootAccess::choose(false, true, || true, false), RootAccess::Sudo);
        assert_eq!(RootAccess::choose(false, true, || false, true), RootAccess::SudoWithPassword);
        assert_eq!(RootAccess::choose(false, true, || false, false), RootAccess::Unavailable);
    }
}
