//! What needs root: as root itself, or through sudo.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::Command;

use crate::process;

/// What of the environment a program that runs through sudo keeps.
const KEPT: [&str; 12] = [
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
    "KUBECONFIG",
    "KUBEBUILDER_ASSETS",
];

/// How to become root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// This process is root, or nothing needs root.
    Already,
    /// `sudo` that asks nothing.
    Sudo,
    /// `sudo` that asks for a password on the terminal.
    AskingSudo,
    /// Not root, and no way to become it.
    Unavailable,
}

impl Root {
    pub(crate) fn find() -> Self {
        Self::choose(
            rustix::process::geteuid().is_root(),
            process::find("sudo").is_some(),
            || process::output(Command::new("sudo").args(["-n", "true"])).is_ok(),
            io::stdin().is_terminal(),
        )
    }

    fn choose(is_root: bool, has_sudo: bool, sudo_is_silent: impl FnOnce() -> bool, can_ask: bool) -> Self {
        match (is_root, has_sudo) {
            (true, _) => Self::Already,
            (false, true) if sudo_is_silent() => Self::Sudo,
            (false, true) if can_ask => Self::AskingSudo,
            (false, _) => Self::Unavailable,
        }
    }

    /// The command that runs a program this way, with `environment` added to its own.
    pub(crate) fn command(self, program: &Path, environment: Vec<(String, String)>) -> Command {
        if matches!(self, Self::Already | Self::Unavailable) {
            let mut command = Command::new(program);
            command.envs(environment);
            return command;
        }
        // Not --preserve-env, which many a sudoers file forbids.
        let mut command = Command::new("sudo");
        if self == Self::Sudo {
            command.arg("-n");
        }
        let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
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
    fn what_tests_are_told_by_the_environment_gets_through_sudo() {
        // It is set wherever this runs; of the others it is enough that they are in the list, and in the help.
        let path = std::env::var("PATH").unwrap();
        let command = Root::Sudo.command(Path::new("/test"), vec![("OWN".to_owned(), "1".to_owned())]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(words[..4], ["-n", "--", "env", &format!("PATH={path}")]);
        assert_eq!(words[words.len() - 2..], ["OWN=1", "/test"]);
        for name in ["PORT_ENFORCER_TEST_FULL", "PORT_ENFORCER_TEST_EVERY_STEP", "KUBECONFIG", "KUBEBUILDER_ASSETS"] {
            assert!(KEPT.contains(&name) && crate::test::ENVIRONMENT.contains(name), "{name}");
        }
    }

    #[test]
    fn sudo_is_asked_only_where_somebody_can_answer() {
        let never = || unreachable!("sudo must not be tried");
        assert_eq!(Root::choose(true, true, never, true), Root::Already);
        assert_eq!(Root::choose(false, false, never, true), Root::Unavailable);
        assert_eq!(Root::choose(false, true, || true, false), Root::Sudo);
        assert_eq!(Root::choose(false, true, || false, true), Root::AskingSudo);
        assert_eq!(Root::choose(false, true, || false, false), Root::Unavailable);
    }
}
