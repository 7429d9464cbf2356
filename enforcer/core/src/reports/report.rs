//! What the kernel tells, as sentences for people.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use enforcer_ebpf::wire::{Protocol, Reason, UidForm, VerdictKind};

use crate::{
    index::{Index, Notice},
    model::{
        name::Name,
        owner::OwnerId,
        port_spec::{Address, PortList, protocol_name},
        source::ClaimSource,
        text::escape,
    },
    sockets::{Audience, NamedSocket, Reuse},
};

/// One bind attempt with its verdict, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Nanoseconds since boot, sleep included.
    pub time: u64,
    /// The protocol.
    pub protocol: Protocol,
    /// The address asked for.
    pub address: IpAddr,
    /// The port asked for; 0 asks for any.
    pub port: u16,
    /// Whether the socket is IPv6 only, `None` if that could not be read.
    pub v6only: Option<bool>,
    /// What was answered.
    pub verdict: VerdictKind,
    /// Why.
    pub reason: Reason,
    /// Cgroup of the calling task.
    pub cgroup: u64,
    /// Cgroup of the calling pod, `None` for a host process.
    pub pod_cgroup: Option<u64>,
    /// Cookie of the socket.
    pub socket: u64,
    /// The calling owner, if the kernel knew it.
    pub caller: Option<OwnerId>,
    /// The owner whose claim decided.
    pub owner: Option<OwnerId>,
    /// One that holds the port, where the reason is `held`: [`enforcer_ebpf::wire::Hold::holder`].
    pub holder: Option<u64>,
    /// The port was marked as held by another one: if it is, the kernel refuses the bind.
    pub held: bool,
    /// By which options it may share the port, where they could be read.
    pub reuse: Option<Reuse>,
    /// Process id of the caller in the initial pid namespace.
    pub pid: u32,
    /// User id of the caller in the initial user namespace.
    pub uid: u32,
    /// Command name of the calling task: whatever the process likes, not safe to show.
    pub command: String,
}

/// Who called, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A pod or, as an owner, the node.
    Known(Name),
    /// A pod that no source has named, by the UID in its cgroup's name.
    UnknownPod {
        /// The UID, in hex digits.
        uid: String,
        /// How it is written.
        form: UidForm,
    },
    /// A process of the host.
    Host,
    /// A process below the attached root that is in no pod we know of.
    Unplaced,
}

impl Actor {
    /// Whose processes are in a cgroup, by what the index knows now.
    #[must_use]
    pub fn of_cgroup(cgroup: u64, index: &Index) -> Self {
        match (index.name_by_cgroup(cgroup), index.uid_by_cgroup(cgroup)) {
            (Some(name), _) => Self::Known(name.clone()),
            (None, Some(key)) => Self::UnknownPod {
                uid: format!("{:032x}", u128::from_be_bytes(key.uid)),
                form: UidForm::from_wire(key.form).unwrap_or(UidForm::Api),
            },
            (None, None) if index.knows_cgroup(cgroup) => Self::Unplaced,
            (None, None) => Self::Host,
        }
    }

    /// `namespace/name` of a pod that is known.
    #[must_use]
    pub fn pod(&self) -> Option<String> {
        match self {
            Self::Known(name) if !name.is_node() => Some(name.to_string()),
            _ => None,
        }
    }

    /// Namespace of a pod that is known.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Known(name) if !name.is_node() => Some(&name.namespace),
            _ => None,
        }
    }
}

/// Safe to print.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(name) => name.fmt(f),
            Self::UnknownPod { uid, form: UidForm::Api } => write!(f, "an unknown pod (UID {uid})"),
            Self::UnknownPod { uid, form: UidForm::Static } => write!(f, "an unknown static pod (UID {uid})"),
            Self::Host => f.write_str("a host process"),
            Self::Unplaced => f.write_str("a process in no known pod"),
        }
    }
}

/// An attempt with the names that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the kernel told.
    pub attempt: Attempt,
    /// Who called.
    pub caller: Actor,
    /// Container of the caller, where it can be told from its cgroup. Safe to show.
    pub container: Option<String>,
    /// Whose claim decided.
    pub owner: Option<Name>,
    /// Where that claim was made.
    pub source: Option<ClaimSource>,
    /// Who holds the port, where the reason is `held`.
    pub holder: Option<Incumbent>,
}

/// Who holds a port that another one wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incumbent {
    /// By name.
    pub who: Actor,
    /// Its socket, where that is known.
    pub socket: Option<NamedSocket>,
    /// It is an older pod of the workload that the caller is of.
    pub older: bool,
}

impl fmt::Display for Incumbent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.who.fmt(f)?;
        if self.older {
            f.write_str(", an older pod of the same workload, whose end the new one has to wait for")?;
        }
        Ok(())
    }
}

impl Report {
    /// Finds the names for an attempt.
    #[must_use]
    pub fn new(attempt: Attempt, index: &Index) -> Self {
        let caller = match (attempt.caller, attempt.pod_cgroup) {
            (Some(id), _) if index.name(id).is_some() => index.name(id).cloned().map_or(Actor::Unplaced, Actor::Known),
            (_, Some(cgroup)) => match Actor::of_cgroup(cgroup, index) {
                Actor::Host => Actor::Unplaced,
                who => who,
            },
            (_, None) if attempt.reason == Reason::Error => Actor::Unplaced,
            (_, None) => Actor::Host,
        };
        Self {
            container: index.container(attempt.cgroup).map(|container| escape(&container)),
            owner: attempt.owner.and_then(|id| index.name(id)).cloned(),
            source: attempt
                .owner
                .and_then(|id| index.source(id, attempt.protocol, attempt.port, Address::new(attempt.address))),
            caller,
            holder: None,
            attempt,
        }
    }

    /// Says who holds the port. An attempt that the programs let pass is then one that the kernel itself refuses.
    #[must_use]
    pub fn held_by(mut self, holder: Incumbent) -> Self {
        self.attempt.reason = Reason::Held;
        if let Actor::Known(name) = &holder.who {
            self.owner = Some(name.clone());
        }
        self.holder = Some(holder);
        self
    }

    /// Whether it is worth telling: a conflict, or a bind that the kernel itself refuses because another one holds the port.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.attempt.verdict != VerdictKind::Allow || self.attempt.reason == Reason::Held
    }

    /// The address, port and protocol as they are written everywhere: `0.0.0.0:80/tcp`, `[::1]:53/udp`.
    #[must_use]
    pub fn target(&self) -> String {
        target(self.attempt.address, self.attempt.port, self.attempt.protocol)
    }

    /// The command, safe to show.
    #[must_use]
    pub fn command(&self) -> String {
        escape(&self.attempt.command)
    }

    /// The sentence for the log and for the offender's Event, which tells nothing of the holder's processes.
    #[must_use]
    pub fn sentence(&self, node: &str, told_to: Audience) -> String {
        let container = self.container.as_ref().map(|name| format!("container {name}, ")).unwrap_or_default();
        let verdict = match self.attempt.verdict {
            VerdictKind::Allow if self.attempt.reason == Reason::Held => "fails",
            VerdictKind::Allow => "allowed",
            VerdictKind::Audit => "audited (it would be denied in enforce mode)",
            VerdictKind::Deny => "denied",
        };
        format!(
            "bind {} by {} ({container}command {}, pid {}) {verdict} on {}: {}",
            self.target(),
            self.caller,
            self.command(),
            self.attempt.pid,
            escape(node),
            self.because(told_to),
        )
    }

    fn because(&self, told_to: Audience) -> String {
        match (self.attempt.reason, &self.holder) {
            (Reason::Held, Some(Incumbent { socket: Some(socket), .. })) if told_to == Audience::Operators => {
                format!("{}{}", self.holder_text(), socket.details())
            }
            (Reason::Held, Some(_)) => self.holder_text(),
            (Reason::Stale, Some(_)) => format!("{}, but no agent has renewed the lease", self.holder_text()),
            (reason, _) => explain_reason(reason, self.owner.as_ref(), self.source),
        }
    }

    fn holder_text(&self) -> String {
        self.holder.as_ref().map_or_else(String::new, |holder| format!("held by {holder}"))
    }
}

/// Why an attempt was answered as it was, for the end of a sentence. `owner` and `source` are of the claim that decided.
#[must_use]
pub fn explain_reason(reason: Reason, owner: Option<&Name>, source: Option<ClaimSource>) -> String {
    let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
    let owner = owner.map_or_else(|| "somebody who is gone".to_owned(), Name::to_string);
    match reason {
        Reason::Owner => "it owns the port".to_owned(),
        Reason::Unclaimed => "nobody claims the port".to_owned(),
        Reason::Share => format!("it shares the port with {owner}{source}"),
        Reason::Handover => format!("it takes the port over from {owner}{source}"),
        Reason::Exempt => "the socket is exempt".to_owned(),
        Reason::Claimed => format!("claimed by {owner}{source}"),
        Reason::Reserved => "reserved for the node (node-reserved)".to_owned(),
        Reason::Held => format!("held by {owner}"),
        Reason::Undeclared => "no claim of the pod in force covers it, and undeclared ports are denied".to_owned(),
        Reason::Quota => "the pod claims more ports than it may".to_owned(),
        Reason::Stale => format!("claimed by {owner}{source}, but no agent has renewed the lease"),
        Reason::Error => format!("the caller is in no known pod, and the port is claimed by {owner}{source}"),
    }
}

/// `0.0.0.0:80/tcp`, `[::1]:53/udp`.
#[must_use]
pub fn target(address: IpAddr, port: u16, protocol: Protocol) -> String {
    format!("{}/{}", SocketAddr::new(address, port), protocol_name(protocol))
}

/// Ports as in an annotation: `80/tcp, 127.0.0.1:53/udp`. At most `most` of them, and how many more there are.
#[must_use]
pub fn port_list(ports: &PortList, most: usize) -> String {
    let shown: Vec<String> = ports
        .iter()
        .take(most)
        .map(|&(protocol, address, ports)| crate::model::port_spec::PortSpec { protocol, address, ports }.to_string())
        .collect();
    let more = ports.len().saturating_sub(most);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(", "))
}

/// Most ports that are listed in one sentence.
const LISTED: usize = 16;

/// The sentence for a notice.
#[must_use]
pub fn notice_sentence(notice: &Notice, node: &str) -> String {
    let node = escape(node);
    match notice {
        Notice::Problem { pod, problem } => format!("{pod} on {node}: {problem}"),
        Notice::MoreProblems { pod, count } => format!("{pod} on {node}: {count} more problems of that kind"),
        Notice::ModeInvalid { namespace, value } => format!(
            "namespace {namespace}: the label port-enforcer.io/mode is '{value}', which is no mode and counts for nothing; \
             write audit or enforce"
        ),
        Notice::MirrorRejected { pod, why } => format!("{pod} on {node} is not taken for a static pod: {why}"),
        Notice::SameUid { pod, first } => {
            format!("{pod} on {node} has the UID of {first}: its claims bind nobody; give it a UID of its own")
        }
        Notice::QuotaExceeded { pod, limit } => {
            format!(
                "{pod} on {node}: {limit}, and they are there: its claims bind nobody until it changes when others went"
            )
        }
        Notice::HandoverQuotaExceeded { pod, limit } => format!(
            "{pod} on {node}: {limit}, and they are there: its ports do not wait for a successor, another one may have them"
        ),
        Notice::Conflict { loser, winner, source, ports } => format!(
            "claim of {loser} on {} loses on {node}: in force for {winner} ({source}); it is granted when that one goes",
            port_list(ports, LISTED)
        ),
        Notice::Granted { pod, ports } => {
            format!("claim of {pod} on {} is now in force on {node}", port_list(ports, LISTED))
        }
    }
}

/// How long repetitions of a report are held back.
pub const REPEAT_INTERVAL: Duration = Duration::from_mins(1);
/// Most different reports that are remembered at once.
const MAX_REMEMBERED: usize = 4096;

type Key = (Actor, IpAddr, u16, Protocol, Option<OwnerId>, VerdictKind, Reason);

/// Tells the first report of a kind at once and holds its repetitions back for [`QUIET`]. Nothing is lost: the next one
/// that is told says how many there were, and the kernel's counters are exact anyway.
#[derive(Debug, Default)]
pub struct Deduplicator {
    seen: HashMap<Key, (Duration, u64)>,
    order: VecDeque<Key>,
}

impl Deduplicator {
    /// Whether to tell this report now, and if so, how many like it were held back before it. `now` is on the monotonic
    /// clock.
    pub fn admit(&mut self, report: &Report, now: Duration) -> Option<u64> {
        let Attempt { address, port, protocol, verdict, reason, owner, .. } = report.attempt;
        let key = (report.caller.clone(), address, port, protocol, owner, verdict, reason);
        if let Some((told, held_back)) = self.seen.get_mut(&key) {
            if now.saturating_sub(*told) < REPEAT_INTERVAL {
                *held_back += 1;
                return None;
            }
            *told = now;
            return Some(std::mem::take(held_back));
        }
        if self.order.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.seen.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::port_spec::{Address, PortRange};

    fn name(name: &str) -> Name {
        Name { namespace: "default".to_owned(), name: name.to_owned(), uid: "u".to_owned(), mirror: None }
    }

    fn report(reason: Reason, verdict: VerdictKind) -> Report {
        Report {
            attempt: Attempt {
                time: 0,
                protocol: Protocol::Tcp,
                address: Ipv4Addr::UNSPECIFIED.into(),
                port: 80,
                v6only: Some(false),
                verdict,
                reason,
                cgroup: 1,
                pod_cgroup: Some(1),
                socket: 1,
                caller: Some(1),
                owner: Some(2),
                holder: None,
                held: false,
                reuse: None,
                pid: 4711,
                uid: 0,
                command: "nginx".to_owned(),
            },
            caller: Actor::Known(name("nginx-6fdf99c8b-rglm7")),
            container: Some("nginx".to_owned()),
            owner: Some(name("nginx-6fdf99c8b-6wwft")),
            source: Some(ClaimSource::Annotation),
            holder: None,
        }
    }

    #[test]
    fn the_sentence_names_both_pods() {
        assert_eq!(
            report(Reason::Claimed, VerdictKind::Deny).sentence("node-1", Audience::Tenants),
            "bind 0.0.0.0:80/tcp by default/nginx-6fdf99c8b-rglm7 (container nginx, command nginx, pid 4711) denied \
             on node-1: claimed by default/nginx-6fdf99c8b-6wwft (annotation)"
        );
    }

    #[test]
    fn nothing_that_a_pod_controls_is_printed_raw() {
        let mut report = report(Reason::Claimed, VerdictKind::Audit);
        report.attempt.command = "\u{1b}[31mx\n".to_owned();
        report.caller = Actor::Known(name("a\u{1b}b"));
        report.owner = Some(name("c\nd"));
        let sentence = report.sentence("node\u{7}", Audience::Operators);
        assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
        assert!(sentence.contains("audited"), "{sentence}");
    }

    #[test]
    fn repetitions_are_counted_not_told() {
        let mut repetitions = Deduplicator::default();
        let one = report(Reason::Claimed, VerdictKind::Deny);
        let other = report(Reason::Claimed, VerdictKind::Audit);
        assert_eq!(repetitions.admit(&one, Duration::ZERO), Some(0));
        assert_eq!(repetitions.admit(&other, Duration::ZERO), Some(0));
        for second in 1..60 {
            assert_eq!(repetitions.admit(&one, Duration::from_secs(second)), None);
        }
        assert_eq!(repetitions.admit(&one, REPEAT_INTERVAL), Some(59));
        assert_eq!(repetitions.admit(&one, REPEAT_INTERVAL * 2), Some(0));
    }

    #[test]
    fn memory_for_repetitions_is_bounded() {
        let mut repetitions = Deduplicator::default();
        let mut one = report(Reason::Claimed, VerdictKind::Deny);
        for owner in 0..2 * u32::try_from(MAX_REMEMBERED).unwrap() {
            one.attempt.owner = Some(owner);
            repetitions.admit(&one, Duration::ZERO);
        }
        assert_eq!(repetitions.seen.len(), MAX_REMEMBERED);
        assert_eq!(repetitions.order.len(), MAX_REMEMBERED);
    }

    #[test]
    fn long_lists_are_cut() {
        let ports =
            (1..=20).map(|port| (Protocol::Tcp, Address::Any, PortRange::new(port * 2, port * 2).unwrap())).collect();
        let text = port_list(&ports, 2);
        assert_eq!(text, "2/tcp, 4/tcp and 18 more");
    }
}
