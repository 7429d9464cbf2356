//! What was seen, and whether it is what the story promises.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::agent_process::Log;
use super::pods::{Cast, Pod};

/// How many requests are made to the shared port.
pub(super) const REQUESTS: u32 = 20;

/// Who judges in an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Mode {
    /// Nobody.
    Off,
    /// The enforcer, which only tells.
    Audit,
    /// The enforcer, which denies.
    Enforce,
}

impl Mode {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// All that was seen: what `--json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    pub(super) acts: Vec<Act>,
}

/// What was seen in one act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Act {
    pub(super) mode: Mode,
    /// In the order in which they were made.
    pub(super) attempts: Vec<Attempt>,
    pub(super) contested: Contested,
    pub(super) shared: Shared,
}

/// The port that two replicas fight for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Contested {
    pub(super) port: u16,
    /// The pod that answered there in the end, if any listened.
    pub(super) answered_by: Option<String>,
}

/// The port that two pods let each other share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shared {
    pub(super) port: u16,
    /// Which pod answered how many requests.
    pub(super) answers: BTreeMap<String, u32>,
}

/// One server's try to listen on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attempt {
    /// `namespace/name`.
    pub(super) pod: String,
    pub(super) protocol: &'static str,
    pub(super) address: &'static str,
    pub(super) port: u16,
    /// What the enforcer decided; nothing where nobody judges.
    pub(super) verdict: Option<String>,
    /// The error that the server got, by the name that C gives it.
    pub(super) errno: Option<String>,
    pub(super) reason: Option<String>,
    /// Who the port belongs to.
    pub(super) owner: Option<String>,
    /// The server's own words, if it failed.
    pub(super) said: Option<String>,
    /// The enforcer's sentence, if it saw a conflict.
    pub(super) told: Option<String>,
}

impl Attempt {
    /// An attempt that nobody has judged, or not yet.
    pub(super) fn new(pod: &Pod, errno: Option<String>, said: Option<String>) -> Self {
        Self {
            pod: pod.full_name(),
            protocol: "tcp",
            address: "0.0.0.0",
            port: pod.port,
            verdict: None,
            errno,
            reason: None,
            owner: None,
            said,
            told: None,
        }
    }

    /// Adds what the enforcer made of it. The enforcer tells of conflicts alone: what it does not tell of it allowed,
    /// and why it did is known only of a port's owner.
    pub(super) fn judge(&mut self, log: &Log, owner: &Pod) {
        if let Some(line) = log.conflict(&self.pod, self.port) {
            self.verdict.clone_from(&line.verdict);
            self.reason.clone_from(&line.reason);
            self.owner.clone_from(&line.owner);
            self.told = Some(line.message.clone());
        } else {
            self.verdict = Some("allow".to_owned());
            if owner.full_name() == self.pod {
                self.reason = Some("owner".to_owned());
                self.owner = Some(self.pod.clone());
            }
        }
    }

    fn bound(&self) -> bool {
        self.errno.is_none()
    }

    fn is(&self, verdict: &str, reason: &str, owner: &Pod) -> bool {
        self.verdict.as_deref() == Some(verdict)
            && self.reason.as_deref() == Some(reason)
            && self.owner == Some(owner.full_name())
    }
}

/// For messages: `80/tcp by default/nginx: verdict deny, errno EADDRINUSE, reason claimed, owner default/other`.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        write!(
            f,
            "{}/{} by {}: verdict {}, errno {}, reason {}, owner {}",
            self.port,
            self.protocol,
            self.pod,
            or_nothing(&self.verdict),
            or_nothing(&self.errno),
            or_nothing(&self.reason),
            or_nothing(&self.owner)
        )
    }
}

/// The name of the error in a server's words: `(98: Address already in use)` says nginx, `(os error 98)` say programs
/// in Rust. `None` if there is no error number in them.
pub(super) fn errno_in(words: &str) -> Option<String> {
    let number = words.split('(').skip(1).find_map(|part| {
        let part = part.strip_prefix("os error ").unwrap_or(part);
        let end = part.find(|c: char| !c.is_ascii_digit())?;
        if !part[end..].starts_with([':', ')']) {
            return None;
        }
        part[..end].parse::<i32>().ok()
    })?;
    let name = match rustix::io::Errno::from_raw_os_error(number) {
        rustix::io::Errno::ADDRINUSE => "EADDRINUSE",
        rustix::io::Errno::PERM => "EPERM",
        rustix::io::Errno::ACCESS => "EACCES",
        rustix::io::Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        _ => return Some(format!("errno {number}")),
    };
    Some(name.to_owned())
}

/// Compares what was seen with what the story promises.
///
/// # Errors
///
/// A sentence that says what differs first.
pub(super) fn check(story: &Story, cast: &Cast) -> Result<(), String> {
    for (number, mode) in [Mode::Off, Mode::Audit, Mode::Enforce].into_iter().enumerate() {
        let act = story.acts.get(number).filter(|act| act.mode == mode);
        let act = act.ok_or_else(|| format!("act {}, {}, is missing", number + 1, mode.as_str()))?;
        check_act(act, cast).map_err(|differs| format!("in act {}, {}: {differs}", number + 1, mode.as_str()))?;
    }
    Ok(())
}

fn check_act(act: &Act, cast: &Cast) -> Result<(), String> {
    let attempt = |pod: &Pod| {
        let mut found = act.attempts.iter().filter(|attempt| attempt.pod == pod.full_name());
        match (found.next(), found.next()) {
            (Some(attempt), None) => Ok(attempt),
            _ => Err(format!("{} did not try to bind exactly once", pod.full_name())),
        }
    };
    let (squatter, owner) = (attempt(&cast.squatter)?, attempt(&cast.owner)?);
    let (exporter, guest) = (attempt(&cast.exporter)?, attempt(&cast.guest)?);
    let address_in_use = |attempt: &Attempt| attempt.errno.as_deref() == Some("EADDRINUSE");
    // EPERM where the kernel does not let the program choose.
    let refused = |attempt: &Attempt| matches!(attempt.errno.as_deref(), Some("EADDRINUSE" | "EPERM"));
    let expect = |holds: bool, what: &str, attempt: &Attempt| {
        if holds { Ok(()) } else { Err(format!("{what}, but seen was {attempt}")) }
    };

    match act.mode {
        Mode::Off | Mode::Audit => {
            expect(squatter.bound(), "the squatter should have got the port", squatter)?;
            expect(address_in_use(owner), "the owner should have found the port taken", owner)?;
            expect(exporter.bound(), "the first to share should have got the port", exporter)?;
            expect(guest.bound(), "the second to share should have got the port too", guest)?;
        }
        Mode::Enforce => {
            expect(refused(squatter), "the squatter should have been denied", squatter)?;
            expect(owner.bound(), "the owner should have got its port", owner)?;
            expect(exporter.bound(), "the owner of the shared port should have got it", exporter)?;
            expect(refused(guest), "the second to share should have been denied", guest)?;
        }
    }
    for (attempt, rightful) in
        [(squatter, &cast.owner), (owner, &cast.owner), (exporter, &cast.exporter), (guest, &cast.exporter)]
    {
        let is_owner = attempt.pod == rightful.full_name();
        let (holds, what) = match act.mode {
            Mode::Off => (attempt.verdict.is_none(), "nobody should have judged"),
            _ if is_owner => (attempt.is("allow", "owner", rightful), "an owner should have been allowed"),
            Mode::Audit => (attempt.is("audit", "claimed", rightful), "a conflict should have been told, not denied"),
            Mode::Enforce => (attempt.is("deny", "claimed", rightful), "a conflict should have been denied"),
        };
        expect(holds, what, attempt)?;
        if let Some(told) = &attempt.told
            && !(told.contains(&attempt.pod) && told.contains(&rightful.full_name()))
        {
            return Err(format!("the enforcer should have named both pods, but said: {told}"));
        }
    }
    check_answers(act, cast)
}

fn check_answers(act: &Act, cast: &Cast) -> Result<(), String> {
    let holder = if act.mode == Mode::Enforce { &cast.owner } else { &cast.squatter };
    let answered = act.contested.answered_by.as_deref().unwrap_or("nobody");
    if answered != holder.full_name() {
        return Err(format!("{} should have answered, but {answered} did", holder.full_name()));
    }
    let answers = &act.shared.answers;
    let of = |pod: &Pod| answers.get(&pod.full_name()).copied().unwrap_or(0);
    let (exporter, guest) = (of(&cast.exporter), of(&cast.guest));
    if exporter + guest != REQUESTS || answers.values().sum::<u32>() != REQUESTS {
        return Err(format!("{REQUESTS} requests should have been answered by the two pods, but: {answers:?}"));
    }
    match act.mode {
        Mode::Enforce if guest > 0 => Err(format!("sharing should have stopped, but: {answers:?}")),
        Mode::Off | Mode::Audit if guest == 0 || exporter == 0 => {
            Err(format!("two pods should have shared a port, but: {answers:?}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
