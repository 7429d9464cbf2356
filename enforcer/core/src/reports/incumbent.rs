//! The holder that an attempt ran into: where the kernel itself refused the bind, or where the programs judged by the
//! holder of the port.

use enforcer_ebpf::{
    decide::could_share,
    wire::{HOLDER_HOST, Reason},
};

use crate::{
    index::Index,
    model::{
        actor::Actor,
        attempt::{Attempt, Reuse},
        kernel_ids::CgroupId,
    },
    reports::report::{Incumbent, Report},
    sockets::{BoundSince, BoundSocket, BoundSockets, NamedSocket, SocketOwner, SocketPlace},
};

impl BoundSockets {
    /// Returns the holder because of which the kernel refused the attempt.
    #[must_use]
    pub fn incumbent_of(&self, attempt: &Attempt, index: &Index) -> Option<Incumbent> {
        let caller = SocketPlace::of(attempt.cgroup, index).party;
        let requested = socket_of(attempt);
        let mut holders = self.on(attempt.protocol, attempt.port);
        let holder = holders.find(|holder| {
            let before = match holder.since {
                BoundSince::Bound(time) => time <= attempt.time,
                // It was there for an unknown time when it was first seen.
                BoundSince::Seen(_) => true,
            };
            before && self.place(holder).party != caller && holder.overlaps(&requested) && !both_share(attempt, holder)
        })?;
        let socket = NamedSocket::new(holder, self);
        Some(incumbent(socket, attempt, index))
    }

    /// Adds the name of the holder, where the programs judged by it.
    #[must_use]
    pub fn with_incumbent_name(&self, report: Report, index: &Index) -> Report {
        let attempt = &report.attempt;
        let (Some(id), Reason::Held | Reason::Stale) = (attempt.holder, attempt.reason) else {
            return report;
        };
        let requested = socket_of(attempt);
        let is_it = |holder: &&BoundSocket| {
            let same = match holder.cgroup.and_then(|cgroup| index.pod_cgroup(cgroup)) {
                Some(pod) => pod.get() == id,
                None => id == HOLDER_HOST && self.place(holder).party == SocketOwner::Host,
            };
            same && holder.overlaps(&requested)
        };
        let socket = self.on(attempt.protocol, attempt.port).find(is_it);
        let incumbent = match socket {
            Some(holder) => incumbent(NamedSocket::new(holder, self), attempt, index),
            // Its record is still to come, or was lost.
            None => Incumbent {
                who: if id == HOLDER_HOST { Actor::Host } else { Actor::of_cgroup(CgroupId::new(id), index) },
                socket: None,
                older: false,
            },
        };
        let reason = attempt.reason;
        let mut report = report.held_by(incumbent);
        report.attempt.reason = reason;
        report
    }
}

fn incumbent(socket: NamedSocket, attempt: &Attempt, index: &Index) -> Incumbent {
    let holder = socket.holder.cgroup.and_then(|cgroup| index.owner_by_cgroup(cgroup));
    let older = match (holder, index.owner_by_cgroup(attempt.cgroup)) {
        (Some(holder), Some(caller)) => index.is_older_revision(holder, caller),
        _ => false,
    };
    Incumbent { who: socket.who.clone(), socket: Some(socket), older }
}

/// Returns the socket as it would be if the attempt had succeeded.
fn socket_of(attempt: &Attempt) -> BoundSocket {
    BoundSocket {
        protocol: attempt.protocol,
        address: attempt.address.to_canonical(),
        port: attempt.port,
        cookie: attempt.socket,
        cgroup: Some(attempt.cgroup),
        since: BoundSince::Bound(attempt.time),
        process: None,
        uid: attempt.uid,
        activity: None,
        inode: None,
        device: None,
        v6only: attempt.v6only,
        reuse: attempt.reuse,
    }
}

/// Checks whether the kernel lets both have the port, as far as is known.
fn both_share(attempt: &Attempt, holder: &BoundSocket) -> bool {
    let shares =
        |reuse: Option<Reuse>| reuse.is_some_and(|reuse| could_share(attempt.protocol, reuse.port, reuse.address));
    shares(attempt.reuse) && shares(holder.reuse)
}
