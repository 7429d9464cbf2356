//! Binds that fail because another one holds the port: conflicts for as long as somebody wants the port in vain.

use std::{borrow::Cow, net::IpAddr, time::Duration};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};

use crate::{
    index::Index,
    model::{
        actor::{Actor, Audience},
        now::Now,
    },
    reports::{bounded_map::BoundedMap, report::Report},
};

/// Time after the last attempt at which a bind that failed is no conflict any more.
pub const QUIET: Duration = Duration::from_mins(10);
/// Most binds that are kept. The one that began first makes room for a new one.
pub const MAX_FAILING: usize = 1024;

/// Who tries to bind what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct BindTarget {
    caller: Actor,
    protocol: Protocol,
    address: IpAddr,
    port: u16,
}

/// A bind that fails, again and again or once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingBind {
    /// Process or pod that wants the port.
    pub caller: Actor,
    /// Holder of the port at the last attempt.
    pub holder: Actor,
    /// Address, port and protocol: `0.0.0.0:80/tcp`.
    pub target: String,
    /// Number of attempts.
    pub count: u64,
    /// Time of the first one, in microseconds since 1970.
    pub first: i64,
    /// Time of the last one, in microseconds since 1970.
    pub last: i64,
    /// The last report.
    report: Report,
    /// Time of the last attempt, since boot.
    seen: Duration,
}

impl FailingBind {
    /// Returns the sentence of its last report.
    #[must_use]
    pub fn sentence(&self, node: &str) -> String {
        self.report.sentence(node, Audience::Operators)
    }
}

/// The binds that fail. A bind is one of them until its caller bound the port, until its pod is gone, or until nobody
/// tried for [`QUIET`].
#[derive(Debug)]
pub struct FailingBinds {
    binds: BoundedMap<BindTarget, Option<FailingBind>>,
}

impl Default for FailingBinds {
    fn default() -> Self {
        Self { binds: BoundedMap::new(MAX_FAILING) }
    }
}

impl FailingBinds {
    /// Takes a report. Only binds that fail because of a holder count.
    pub fn record(&mut self, report: &Report, now: Now) {
        let attempt = &report.attempt;
        let (Reason::Held, Some(holder), true) = (attempt.reason, &report.holder, fails(report)) else {
            return;
        };
        let target = BindTarget {
            caller: report.caller.clone(),
            protocol: attempt.protocol,
            address: attempt.address,
            port: attempt.port,
        };
        self.binds.update(Cow::Owned(target), |bind| {
            let (first, count) = bind.as_ref().map_or((now.wall, 0), |bind| (bind.first, bind.count));
            *bind = Some(FailingBind {
                caller: report.caller.clone(),
                holder: holder.who.clone(),
                target: report.target(),
                count: count + 1,
                first,
                last: now.wall,
                report: report.clone(),
                seen: now.boottime,
            });
        });
    }

    /// Takes a socket that somebody bound: whoever tried to bind this port has it now.
    pub fn bound(&mut self, caller: &Actor, protocol: Protocol, port: u16) {
        if self.binds.len() > 0 {
            self.binds
                .retain(|target, _| (target.protocol, target.port) != (protocol, port) || target.caller != *caller);
        }
    }

    /// Drops the binds of pods that are gone, and those that nobody tried for [`QUIET`].
    pub fn prune(&mut self, index: &Index, now: Now) {
        if self.binds.len() > 0 {
            self.binds.retain(|target, bind| {
                let is_recent = bind.as_ref().is_some_and(|bind| now.boottime.saturating_sub(bind.seen) < QUIET);
                is_recent && is_there(&target.caller, index)
            });
        }
    }

    /// Returns the number of binds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.binds.len()
    }

    /// Returns whether no bind fails.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the binds, the one that failed first in front.
    #[must_use]
    pub fn sorted(&self) -> Vec<&FailingBind> {
        let mut binds: Vec<&FailingBind> = self.binds.values().flatten().collect();
        binds.sort_by(|one, other| (one.first, &one.target).cmp(&(other.first, &other.target)));
        binds
    }
}

/// Checks whether the bind failed: it was denied, or the kernel itself refused it.
fn fails(report: &Report) -> bool {
    report.attempt.verdict != VerdictKind::Audit
}

fn is_there(caller: &Actor, index: &Index) -> bool {
    match caller {
        Actor::Known(name) if !name.is_node() => index
            .pod_named(&name.namespace, &name.name)
            .and_then(|id| index.name(id))
            .is_some_and(|known| known.uid == name.uid),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        index::Settings,
        model::{kernel_ids::CgroupId, name::Name},
        pods::pod::{Pod, from_api},
        reports::{messages::tests::report, report::Incumbent},
    };

    fn at(seconds: u64) -> Now {
        Now { wall: i64::try_from(seconds).unwrap() * 1_000_000, boottime: Duration::from_secs(seconds) }
    }

    fn pod() -> Pod {
        let object = serde_json::json!({
            "metadata": {"name": "second", "namespace": "default", "uid": "00000001-0000-4000-8000-000000000000"},
        });
        from_api(&serde_json::from_value(object).unwrap())
    }

    fn failed(port: u16) -> Report {
        let mut report = report(Reason::Owner, VerdictKind::Allow);
        report.caller = Actor::Known(pod().owner_name());
        report.attempt.port = port;
        report.attempt.address = Ipv4Addr::UNSPECIFIED.into();
        let holder = Name { name: "first".to_owned(), ..pod().owner_name() };
        report.held_by(Incumbent { who: Actor::Known(holder), socket: None, older: false })
    }

    fn index() -> Index {
        let mut index = Index::new(Settings::default(), CgroupId::new(1));
        index.apply(pod(), at(1));
        index
    }

    #[test]
    fn attempts_are_counted_with_their_times() {
        let mut binds = FailingBinds::default();
        for second in [5, 6, 9] {
            binds.record(&failed(80), at(second));
        }
        binds.record(&failed(81), at(7));
        let sorted = binds.sorted();
        let [bind, other] = sorted.as_slice() else { panic!("{sorted:?}") };
        assert_eq!((bind.count, bind.first, bind.last), (3, 5_000_000, 9_000_000));
        assert_eq!((bind.target.as_str(), other.target.as_str()), ("0.0.0.0:80/tcp", "0.0.0.0:81/tcp"));
        assert_eq!(bind.holder.to_string(), "default/first");
        assert!(bind.sentence("n").contains("fails on n: held by default/first"), "{}", bind.sentence("n"));
    }

    #[test]
    fn success_silence_and_the_end_of_the_pod_end_it() {
        let mut index = index();
        let mut binds = FailingBinds::default();
        binds.record(&failed(80), at(5));
        binds.record(&failed(81), at(5));
        binds.bound(&Actor::Host, Protocol::Tcp, 80);
        binds.bound(&failed(80).caller, Protocol::Udp, 80);
        assert_eq!(binds.len(), 2, "that was somebody else, or something else");
        binds.bound(&failed(80).caller, Protocol::Tcp, 80);
        assert_eq!(binds.len(), 1);
        binds.prune(&index, at(604));
        assert_eq!(binds.len(), 1);
        binds.prune(&index, at(605));
        assert!(binds.is_empty());

        binds.record(&failed(80), at(5));
        index.delete("default", "second", at(6));
        binds.prune(&index, at(6));
        assert!(binds.is_empty(), "its pod is gone");
    }

    #[test]
    fn only_binds_that_fail_because_of_a_holder_count() {
        let mut binds = FailingBinds::default();
        binds.record(&report(Reason::Claimed, VerdictKind::Deny), at(1));
        let mut audited = failed(80);
        audited.attempt.verdict = VerdictKind::Audit;
        binds.record(&audited, at(1));
        assert!(binds.is_empty());
        for port in 1..=u16::try_from(MAX_FAILING).unwrap() + 9 {
            binds.record(&failed(port), at(1));
        }
        assert_eq!(binds.len(), MAX_FAILING);
    }
}
