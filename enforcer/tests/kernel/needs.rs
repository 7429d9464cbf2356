//! What a test may miss of the kernel. A skip must be earned: where the kernel's version and configuration say that
//! something is there, a test that does not find it fails.

use std::fs;

use enforcer::bpf::probe::{Finding, findings};
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, socket_with};

use crate::{DONE, Outcome, Test, support::own_machine};

pub(crate) const TESTS: &[Test] = &[
    ("a_skip_must_be_earned", a_skip_must_be_earned),
    ("what_the_version_promises_is_there", what_the_version_promises_is_there),
];

/// Major and minor number of a kernel.
type Version = (u32, u32);

/// Something of the kernel that not every supported one has.
pub(crate) struct Need {
    name: &'static str,
    /// First version that has it.
    since: Version,
    /// First version that has it no more.
    until: Option<Version>,
    /// The option that it is built with.
    config: &'static str,
    is_there: fn() -> bool,
}

pub(crate) const MPTCP: Need = Need {
    name: "MPTCP",
    since: (5, 6),
    until: None,
    config: "CONFIG_MPTCP",
    is_there: || can_open(SocketType::STREAM, ipproto::MPTCP),
};

pub(crate) const UDP_LITE: Need = Need {
    name: "UDP-Lite",
    since: (2, 6),
    until: Some((7, 1)),
    config: "CONFIG_INET",
    is_there: || can_open(SocketType::DGRAM, ipproto::UDPLITE),
};

fn can_open(kind: SocketType, protocol: Protocol) -> bool {
    socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, Some(protocol)).is_ok()
}

impl Need {
    /// Why a test that needs this is skipped, or `None` if it can be run.
    ///
    /// # Panics
    ///
    /// If it is missing and should not be.
    pub(crate) fn missing(&self) -> Option<String> {
        if (self.is_there)() {
            return None;
        }
        let release = release();
        // Distributions put it there, and so does the machine of `cargo xtask kernels`.
        let config = fs::read_to_string(format!("/boot/config-{release}")).ok();
        Some(self.excuse(&release, config.as_deref()).unwrap_or_else(|why| panic!("{why}")))
    }

    /// Why it may be missing from a kernel of this release and configuration, or why it may not.
    fn excuse(&self, release: &str, config: Option<&str>) -> Result<String, String> {
        let Self { name, since, until, config: option, .. } = self;
        let version = version(release);
        if version < *since {
            return Ok(format!("needs {name} (Linux {}.{}); this is {release}", since.0, since.1));
        }
        if let Some(until) = until
            && version >= *until
        {
            return Ok(format!("needs {name}, which Linux {}.{} took out; this is {release}", until.0, until.1));
        }
        let built =
            |value: &str| config.is_some_and(|text| text.lines().any(|line| line == format!("{option}={value}")));
        match config {
            Some(_) if !built("y") && !built("m") => Ok(format!("needs {name}; {release} is built without {option}")),
            _ => Err(format!("Linux {release} should have {name} and has not")),
        }
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Of `6.12.57+deb13-cloud-amd64` the first two numbers.
fn version(release: &str) -> Version {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().expect("a version"));
    (numbers.next().expect("a version"), numbers.next().expect("a version"))
}

fn a_skip_must_be_earned() -> Outcome {
    let off = "CONFIG_INET=y\n# CONFIG_MPTCP is not set\n";
    let on = "CONFIG_MPTCP=y\nCONFIG_INET=y\n";
    assert!(MPTCP.excuse("5.4.0-1-amd64", Some(on)).unwrap().contains("Linux 5.6"), "too old");
    assert!(MPTCP.excuse("5.10.0-46-cloud-amd64", Some(off)).unwrap().contains("without CONFIG_MPTCP"));
    assert!(MPTCP.excuse("5.10.0-46-cloud-amd64", Some(on)).unwrap_err().contains("should have MPTCP"));
    assert!(MPTCP.excuse("6.1.0-50-cloud-amd64", None).is_err(), "nothing says that it is not there");
    assert!(UDP_LITE.excuse("6.12.57+deb13-cloud-amd64", Some(on)).is_err());
    assert!(UDP_LITE.excuse("7.1.3", None).unwrap().contains("took out"));
    DONE
}

/// No probe says less than the kernel's version does. On a machine of the matrix none says more either, where nobody has
/// ported features back.
fn what_the_version_promises_is_there() -> Outcome {
    let release = release();
    let exact = own_machine::is_here() && !release.contains(".el");
    for Finding { name, since, answer, .. } in findings() {
        let new_enough = version(&release) >= version(since);
        if new_enough && !(name == "reading kernel memory" && is_locked_down()) {
            assert!(answer.is_yes(), "{name}, since {since}, on {release}: {answer:?}");
        } else if exact {
            assert!(!answer.is_yes(), "{name}, since {since}, on {release}: {answer:?}");
        }
    }
    DONE
}

/// Whether the kernel keeps its memory from everybody.
fn is_locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|state| state.contains("[confidentiality]"))
}
