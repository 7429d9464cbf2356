//! What a test may miss of the kernel. A skip must be earned: where the kernel's version and configuration say that
//! something is there, a test that does not find it fails.

use std::fs;

use enforcer::kernel::probe::{Answer, Feature, Finding, findings, node, optional, required};
use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, Protocol, SocketType, ipproto, socket_with};

use enforcer_testing::{io_uring_bind, own_machine, tests};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] =
    tests![skip_needs_a_missing_kernel_feature, kernel_has_the_features_of_its_version, wrong_probe_answer_is_detected];

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

pub(crate) const RING_BIND: Need = Need {
    name: "binds by io_uring",
    since: (6, 11),
    until: None,
    config: "CONFIG_IO_URING",
    is_there: io_uring_bind::can_bind,
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

/// The version of the kernel that the tests run on.
pub(crate) fn here() -> Version {
    version(&release())
}

/// Of `6.12.57+deb13-cloud-amd64` the first two numbers.
fn version(release: &str) -> Version {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().expect("a version"));
    (numbers.next().expect("a version"), numbers.next().expect("a version"))
}

fn skip_needs_a_missing_kernel_feature() -> Outcome {
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

/// First version that has each feature that `enforcer probe` reports: written down a second time, by somebody who looked
/// it up, so that neither a wrong answer nor a wrong table passes.
const PROMISED: &[(&Feature, Version)] = &[
    (&required::BIND_HOOKS, (4, 17)),
    (&required::POST_BIND_HOOKS, (4, 17)),
    (&required::RAW_TRACEPOINTS, (4, 17)),
    (&required::NETNS_COOKIES, (5, 7)),
    (&required::RING_BUFFER, (5, 8)),
    (&required::TYPE_INFORMATION, (5, 2)),
    (&optional::ERRNO_CHOICE, (6, 1)),
    (&optional::TICK_TIME, (5, 11)),
    (&optional::ATOMIC_EXCHANGE, (5, 12)),
    (&optional::KERNEL_MEMORY, (5, 5)),
    (&optional::NODE_NETNS_COOKIE, (5, 14)),
    (&optional::DENYING_POST_BIND, (5, 17)),
    (&optional::TAIL_CALLS, (5, 10)),
    (&optional::SOCK_RELEASE_HOOKS, (5, 9)),
    (&optional::SOCKET_STORAGE, (5, 9)),
    (&optional::TRACEPOINT_LINKS, (5, 8)),
    (&optional::CGROUPS_IN_DIAGNOSTICS, (5, 8)),
    (&optional::BOUND_IN_DIAGNOSTICS, (6, 8)),
    (&optional::LOADS, (6, 2)),
    (&optional::CGROUP_LSM, (6, 0)),
    (&node::CGROUP2, (4, 5)),
    (&node::BPFFS, (4, 4)),
    (&node::NO_LOCKDOWN, (5, 4)),
];

/// What the answers are measured by.
struct Here {
    version: Version,
    /// A machine of the matrix: nobody has ported features back, and everything is mounted.
    exact: bool,
    /// The kernel keeps its memory from everybody.
    locked_down: bool,
    /// The LSMs that run, where that is told.
    lsms: Option<String>,
    /// The compiler for BPF is that of arm64, which learned some things later.
    arm64: bool,
}

impl Here {
    fn new() -> Self {
        let release = release();
        let security = |name: &str| fs::read_to_string(format!("/sys/kernel/security/{name}")).ok();
        Self {
            version: here(),
            exact: own_machine::is_here() && !release.contains(".el"),
            locked_down: security("lockdown").is_some_and(|state| state.contains("[confidentiality]")),
            lsms: security("lsm"),
            arm64: cfg!(target_arch = "aarch64"),
        }
    }

    /// Whether a kernel that is new enough may lack it all the same.
    fn excuses(&self, name: &str) -> bool {
        match name {
            _ if [optional::KERNEL_MEMORY.name, optional::LOADS.name].contains(&name) => self.locked_down,
            _ if name == node::NO_LOCKDOWN.name => self.locked_down || !self.exact,
            _ if name == optional::ATOMIC_EXCHANGE.name => self.arm64 && self.version < (5, 18),
            _ if name == optional::TAIL_CALLS.name => self.arm64 && self.version < (6, 0),
            _ if name == node::BPFFS.name => !self.exact,
            _ if name == optional::CGROUP_LSM.name => {
                !self.lsms.as_deref().is_some_and(|lsms| lsms.split(',').any(|lsm| lsm == "bpf"))
            }
            _ => false,
        }
    }

    /// What is wrong with the answers.
    fn faults(&self, findings: &[Finding]) -> Vec<String> {
        let told: Vec<&str> = findings.iter().map(|finding| finding.name).collect();
        let known: Vec<&str> = PROMISED.iter().map(|(feature, _)| feature.name).collect();
        let mut faults = Vec::new();
        if told != known {
            faults.push(format!("told is {told:?}, and known {known:?}"));
        }
        for Finding { name, since, answer, .. } in findings {
            let Some((_, promised)) = PROMISED.iter().find(|(known, _)| known.name == *name) else { continue };
            if version(since) != *promised {
                faults.push(format!("{name} is not since {since}, but since {promised:?}"));
            }
            let new_enough = self.version >= *promised;
            let wrong = match answer {
                Answer::Yes => self.exact && !new_enough,
                Answer::No | Answer::Unknown(_) => new_enough && !self.excuses(name),
            };
            if wrong {
                faults.push(format!("{name}, since {since}, on {:?}: {answer:?}", self.version));
            }
        }
        faults
    }
}

/// No probe says less than the kernel's version does. On a machine of the matrix none says more either.
fn kernel_has_the_features_of_its_version() -> Outcome {
    assert_eq!(Here::new().faults(&findings()), [""; 0]);
    DONE
}

/// The net itself: each answer turned round is found, on the oldest kernel and on the newest, and so is a wrong version.
fn wrong_probe_answer_is_detected() -> Outcome {
    let all = |answer: fn(Version) -> Answer| -> Vec<Finding> {
        let one = |(feature, since): &(&'static Feature, Version)| Finding {
            name: feature.name,
            since: Box::leak(format!("{}.{}", since.0, since.1).into_boxed_str()),
            required: false,
            answer: answer(*since),
            without: "",
            remedy: "",
        };
        PROMISED.iter().map(one).collect()
    };
    let of_old = |since| if since <= (5, 10) { Answer::Yes } else { Answer::No };
    for (version, right) in [((5, 10), all(of_old)), ((7, 3), all(|_| Answer::Yes))] {
        let lsms = Some("capability,bpf".to_owned());
        let here = Here { version, exact: true, locked_down: false, lsms, arm64: false };
        assert_eq!(here.faults(&right), [""; 0]);
        for place in 0..right.len() {
            let turned = if right[place].answer == Answer::Yes { Answer::No } else { Answer::Yes };
            for wrong in [turned, Answer::Unknown("why".to_owned())] {
                let must_be_known = right[place].answer == Answer::Yes || wrong == Answer::Yes;
                let mut findings = right.clone();
                findings[place].answer = wrong;
                assert_eq!(here.faults(&findings).len(), usize::from(must_be_known), "{:?}", findings[place]);
            }
            let mut findings = right.clone();
            findings[place].since = "4.3";
            assert_eq!(here.faults(&findings).len(), 1, "{:?}", findings[place]);
            findings.remove(place);
            assert_eq!(here.faults(&findings).len(), 1, "{:?} is missing", right[place]);
        }
    }
    DONE
}
