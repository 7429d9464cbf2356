//! Table of the sockets that are bound in the node's network namespace, from events of the kernel programs and from dumps
//! of its socket diagnostics.
//!
//! Events are fast and can get lost; dumps are complete, and late. So:
//!
//! - an event of a bind adds a socket, an event of a release removes it, at once and for good: a cookie that was released
//!   is not added again, whatever a dump that was under way still shows;
//! - a dump adds sockets without an event: those from before the agent, passed descriptors, lost events;
//! - a socket that a dump does not show, though its event came before the dump began, is a suspect, and gone if the next
//!   dump does not show it either (a dump can pass over a socket that changes its state, see `host::sock_diag` of the agent). Suspects are no
//!   reason to wait: the second dump is made right after the first.
//!
//! A connected TCP socket is in the table if it was bound by name: clients' and accepted connections are not.
//!
//! Memory is bounded for each pod and for all; what does not fit is counted.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use enforcer_ebpf::wire::Protocol;

use crate::{
    model::{
        actor::Actor,
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        port_spec::PortRange,
    },
    sockets::{
        Activity, BoundSince, BoundSocket, DumpedSocket, Process, Scope, SocketBinding, SocketOwner, SocketPlace,
    },
};

/// Most sockets in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketLimits {
    /// Sockets of one pod, and of the host.
    pub per_party: usize,
    /// Sockets of all together.
    pub total: usize,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self { per_party: 1 << 13, total: 1 << 16 }
    }
}

/// Most released cookies that are remembered. They are needed from the release until the dump after next.
const RELEASED: usize = 1 << 16;

/// Result of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Sockets that it did not show and that are still in the table: dump once more, with [`Scope::Connected`].
    pub suspects: usize,
    /// Sockets that were removed.
    pub removed: usize,
}

#[derive(Debug)]
struct SocketEntry {
    holder: BoundSocket,
    release: u64,
    /// Number of the last dump that showed it; 0 if none did.
    seen: u64,
    /// The last dump that could have did not show it.
    suspect: bool,
}

/// The dumps of one protocol.
#[derive(Debug, Default)]
struct Dumps {
    /// Number of the last one.
    number: u64,
    /// Time at which it began, and the one before.
    began: BootNanos,
    before: BootNanos,
    /// Sockets that it showed and for which there was no room.
    untracked: HashMap<SocketOwner, usize>,
}

#[derive(Debug)]
struct CgroupSockets {
    place: SocketPlace,
    holders: usize,
    gone: bool,
}

/// The table of bound sockets.
#[derive(Debug)]
pub struct BoundSockets {
    limits: SocketLimits,
    /// Dumps show TCP sockets that are bound and do nothing (6.8).
    shows_bound: bool,
    entries: HashMap<SocketCookie, SocketEntry>,
    /// Cookies by what a release calls them, where that is something else.
    releases: HashMap<u64, SocketCookie>,
    ports: BTreeSet<(Protocol, u16, SocketCookie)>,
    /// Cgroups that holders are in, `None` for those that are not known.
    cgroups: HashMap<Option<CgroupId>, CgroupSockets>,
    counts: HashMap<SocketOwner, usize>,
    released: HashSet<SocketCookie>,
    released_at: VecDeque<(BootNanos, SocketCookie)>,
    /// Dumps by [`Protocol`]: a dump of one protocol says nothing of another one's sockets.
    dumps: [Dumps; Protocol::ALL.len()],
    /// Last complete count of what there is no room for.
    untracked: HashMap<(Protocol, SocketOwner), usize>,
    /// Another number whenever a socket comes, goes or changes.
    generation: u64,
}

impl BoundSockets {
    /// Makes an empty table. `shows_bound`: see `shows_bound` of the agent's `host::sock_diag`.
    #[must_use]
    pub fn new(limits: SocketLimits, shows_bound: bool) -> Self {
        Self {
            limits,
            shows_bound,
            entries: HashMap::new(),
            releases: HashMap::new(),
            ports: BTreeSet::new(),
            cgroups: HashMap::new(),
            counts: HashMap::new(),
            released: HashSet::new(),
            released_at: VecDeque::new(),
            dumps: Default::default(),
            untracked: HashMap::new(),
            generation: 0,
        }
    }

    /// Returns a number that is another one whenever a socket came, went, or changed its address, port or activity. Names
    /// of their owners do not count.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    fn dumps(&mut self, protocol: Protocol) -> &mut Dumps {
        &mut self.dumps[protocol as usize]
    }

    /// Takes the event of a bind. `resolve` finds the owner of a cgroup.
    pub fn bound(&mut self, binding: SocketBinding, resolve: impl FnOnce(CgroupId) -> SocketPlace) {
        if self.released.contains(&binding.cookie) {
            return;
        }
        let SocketBinding { time, protocol, address, port, cookie, release, cgroup, pid, uid, command, v6only, reuse } =
            binding;
        // What diagnostics have shown of it already. It is bound anew if its port is another one.
        let known = self.remove(cookie);
        let shown = known.as_ref().filter(|entry| (entry.holder.protocol, entry.holder.port) == (protocol, port));
        let entry = SocketEntry {
            seen: shown.map_or(0, |entry| entry.seen),
            suspect: false,
            release,
            holder: BoundSocket {
                protocol,
                address,
                port,
                cookie,
                cgroup: Some(cgroup),
                since: BoundSince::Bound(time),
                process: Some(Process { pid, command }),
                uid,
                activity: shown.and_then(|entry| entry.holder.activity),
                inode: known.as_ref().and_then(|entry| entry.holder.inode),
                device: known.as_ref().and_then(|entry| entry.holder.device),
                v6only: v6only.or_else(|| known.as_ref().and_then(|entry| entry.holder.v6only)),
                reuse,
            },
        };
        if let Err(party) = self.insert(entry, resolve) {
            *self.untracked.entry((protocol, party)).or_default() += 1;
        }
    }

    /// Sets the process of a socket for which no event came.
    pub fn set_process(&mut self, cookie: SocketCookie, process: Process) {
        if let Some(entry) = self.entries.get_mut(&cookie) {
            entry.holder.process.get_or_insert(process);
        }
    }

    /// Takes the event of a release, at this time. Returns whether the socket was in the table;
    /// most sockets are not.
    pub fn released(&mut self, release: u64, time: BootNanos) -> bool {
        let cookie = self.releases.get(&release).copied().unwrap_or(SocketCookie::new(release));
        if self.released.insert(cookie) {
            self.released_at.push_back((time, cookie));
        }
        if self.released_at.len() > RELEASED
            && let Some((_, oldest)) = self.released_at.pop_front()
        {
            self.released.remove(&oldest);
        }
        self.remove(cookie).is_some()
    }

    /// Takes the end of a cgroup. Its sockets went with their processes or were passed on. Removes those that no dump of
    /// this kernel can show, and returns `true` if others are left, which a dump should confirm soon.
    pub fn cgroup_gone(&mut self, cgroup: CgroupId) -> bool {
        let cgroup = Some(cgroup);
        let Some(residents) = self.cgroups.get_mut(&cgroup) else {
            return false;
        };
        residents.gone = true;
        let blind = |entry: &&SocketEntry| entry.holder.cgroup == cgroup && self.is_blind(entry);
        let gone: Vec<SocketCookie> = Protocol::ALL
            .into_iter()
            .filter(|protocol| !self.shows_bound(*protocol))
            .flat_map(|protocol| {
                self.ports.range((protocol, 0, SocketCookie::MIN)..=(protocol, u16::MAX, SocketCookie::MAX))
            })
            .filter_map(|(_, _, cookie)| self.entries.get(cookie))
            .filter(blind)
            .map(|entry| entry.holder.cookie)
            .collect();
        for cookie in gone {
            self.remove(cookie);
        }
        self.cgroups.contains_key(&cgroup)
    }

    /// Checks whether no dump showed the socket, and none could: its absence means nothing.
    fn is_blind(&self, entry: &SocketEntry) -> bool {
        entry.seen == 0 && !self.shows_bound(entry.holder.protocol)
    }

    /// Checks whether dumps show sockets of the protocol that are bound and do nothing else.
    fn shows_bound(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.shows_bound,
            Protocol::Udp => true,
            // `sctp_for_each_endpoint` walks a table that only endpoints that listen are in (net/sctp/socket.c).
            Protocol::Sctp => false,
        }
    }

    /// Begins a dump, at this time, which is taken before the kernel is asked. A dump that is
    /// under way counts for nothing.
    pub fn begin_dump(&mut self, protocol: Protocol, now: BootNanos) {
        let dumps = self.dumps(protocol);
        dumps.number += 1;
        dumps.before = dumps.began;
        dumps.began = now;
        dumps.untracked.clear();
    }

    /// Takes a socket of the dump. Returns whether it is new: no event came for it.
    pub fn record_dumped(&mut self, sighting: &DumpedSocket, resolve: impl FnOnce(CgroupId) -> SocketPlace) -> bool {
        if self.released.contains(&sighting.cookie) {
            // The answer is older than the release.
            return false;
        }
        let Dumps { number, began, .. } = *self.dumps(sighting.protocol);
        if let Some(entry) = self.entries.get_mut(&sighting.cookie) {
            let holder = &mut entry.holder;
            entry.seen = number;
            entry.suspect = false;
            let known_since = match holder.since {
                BoundSince::Bound(time) | BoundSince::Seen(time) => time,
            };
            let same = (holder.port, holder.address) == (sighting.port, sighting.address);
            if !same && known_since >= began {
                // It was bound anew after the kernel looked.
                return false;
            }
            let shown = (sighting.address, sighting.port, Some(sighting.activity));
            self.generation += u64::from((holder.address, holder.port, holder.activity) != shown);
            holder.address = sighting.address;
            holder.uid = sighting.uid;
            holder.activity = Some(sighting.activity);
            holder.inode = sighting.inode;
            holder.device = sighting.device;
            holder.v6only = sighting.v6only.or(holder.v6only);
            let port = std::mem::replace(&mut holder.port, sighting.port);
            if port != sighting.port {
                // Without an event: disconnecting freed the port, and sending took another.
                self.ports.remove(&(sighting.protocol, port, sighting.cookie));
                self.ports.insert((sighting.protocol, sighting.port, sighting.cookie));
            }
            return false;
        }
        if sighting.activity == Activity::Connected {
            return false;
        }
        let entry = SocketEntry {
            release: sighting.cookie.get(),
            seen: number,
            suspect: false,
            holder: BoundSocket {
                protocol: sighting.protocol,
                address: sighting.address,
                port: sighting.port,
                cookie: sighting.cookie,
                cgroup: sighting.cgroup,
                since: BoundSince::Seen(began),
                process: None,
                uid: sighting.uid,
                activity: Some(sighting.activity),
                inode: sighting.inode,
                device: sighting.device,
                v6only: sighting.v6only,
                reuse: None,
            },
        };
        match self.insert(entry, resolve) {
            Ok(()) => true,
            Err(party) => {
                *self.dumps(sighting.protocol).untracked.entry(party).or_default() += 1;
                false
            }
        }
    }

    /// Ends a dump that showed all sockets in its scope. (One that failed is not ended: the next one begins.)
    pub fn end_dump(&mut self, protocol: Protocol, scope: Scope) -> DumpSummary {
        let Dumps { number, began, .. } = *self.dumps(protocol);
        let complete = match protocol {
            Protocol::Udp => true,
            Protocol::Tcp | Protocol::Sctp => scope == Scope::Connected,
        };
        let shows_bound = self.shows_bound(protocol);
        let mut ended = DumpSummary::default();
        let mut gone = Vec::new();
        for entry in self.entries.values_mut() {
            let blind = !shows_bound && entry.seen == 0;
            let later = matches!(entry.holder.since, BoundSince::Bound(time) if time >= began);
            if entry.holder.protocol != protocol || entry.seen == number || blind || later {
                continue;
            }
            if entry.suspect && complete {
                gone.push(entry.holder.cookie);
            } else {
                entry.suspect = true;
                ended.suspects += 1;
            }
        }
        ended.removed = gone.len();
        for cookie in gone {
            self.remove(cookie);
        }
        let untracked = std::mem::take(&mut self.dumps(protocol).untracked);
        self.untracked.retain(|(of, _), _| *of != protocol);
        self.untracked.extend(untracked.into_iter().map(|(party, count)| ((protocol, party), count)));
        // Of a protocol that was never dumped, no dump can be under way.
        let dumped = self.dumps.iter().filter(|dumps| dumps.number > 0);
        let needed = dumped.map(|dumps| dumps.before).min().unwrap_or_default();
        while let Some((_, cookie)) = self.released_at.pop_front_if(|(time, _)| *time < needed) {
            self.released.remove(&cookie);
        }
        ended
    }

    /// Resolves again the cgroups whose pods were not known: pods and cgroups may be known after a bind.
    pub fn resolve(&mut self, resolve: impl Fn(CgroupId) -> SocketPlace) {
        for (cgroup, residents) in &mut self.cgroups {
            let Some(cgroup) = *cgroup else {
                continue;
            };
            if residents.gone || matches!(residents.place.who, Actor::Known(_)) {
                continue;
            }
            let place = resolve(cgroup);
            if place.party != residents.place.party {
                take(&mut self.counts, residents.place.party, residents.holders);
                *self.counts.entry(place.party).or_default() += residents.holders;
            }
            residents.place = place;
        }
    }

    fn insert(&mut self, entry: SocketEntry, resolve: impl FnOnce(CgroupId) -> SocketPlace) -> Result<(), SocketOwner> {
        let BoundSocket { protocol, port, cookie, cgroup, .. } = entry.holder;
        let known = self.cgroups.get(&cgroup).map(|residents| residents.place.party);
        let (party, place) = known.map_or_else(
            || {
                let place = cgroup.map_or(SocketPlace::HOST, resolve);
                (place.party, Some(place))
            },
            |party| (party, None),
        );
        let count = self.counts.get(&party).copied().unwrap_or(0);
        if count >= self.limits.per_party || self.entries.len() >= self.limits.total {
            return Err(party);
        }
        self.generation += 1;
        *self.counts.entry(party).or_default() += 1;
        if let Some(place) = place {
            self.cgroups.insert(cgroup, CgroupSockets { place, holders: 0, gone: false });
        }
        if let Some(residents) = self.cgroups.get_mut(&cgroup) {
            residents.holders += 1;
        }
        self.ports.insert((protocol, port, cookie));
        if entry.release != cookie.get() {
            self.releases.insert(entry.release, cookie);
        }
        self.entries.insert(cookie, entry);
        Ok(())
    }

    fn remove(&mut self, cookie: SocketCookie) -> Option<SocketEntry> {
        let entry = self.entries.remove(&cookie)?;
        self.generation += 1;
        let holder = &entry.holder;
        self.ports.remove(&(holder.protocol, holder.port, cookie));
        self.releases.remove(&entry.release);
        if let Some(residents) = self.cgroups.get_mut(&holder.cgroup) {
            residents.holders -= 1;
            take(&mut self.counts, residents.place.party, 1);
            if residents.holders == 0 {
                self.cgroups.remove(&holder.cgroup);
            }
        }
        Some(entry)
    }

    /// Returns the holders of a port, on whatever address.
    pub fn on(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = &BoundSocket> {
        let cookies = self.ports.range((protocol, port, SocketCookie::MIN)..=(protocol, port, SocketCookie::MAX));
        cookies.filter_map(|(_, _, cookie)| self.entries.get(cookie)).map(|entry| &entry.holder)
    }

    /// Returns the holders of these ports, by port.
    pub fn on_range(&self, protocol: Protocol, ports: PortRange) -> impl Iterator<Item = &BoundSocket> {
        let last = (protocol, ports.last(), SocketCookie::MAX);
        let cookies = self.ports.range((protocol, ports.first(), SocketCookie::MIN)..=last);
        cookies.filter_map(|(_, _, cookie)| self.entries.get(cookie)).map(|entry| &entry.holder)
    }

    /// Returns the sockets of a pod or the host, by protocol and port.
    pub fn owned_by(&self, party: SocketOwner) -> impl Iterator<Item = &BoundSocket> {
        self.iter().filter(move |holder| self.place(holder).party == party)
    }

    /// Returns all sockets, by protocol and port.
    pub fn iter(&self) -> impl Iterator<Item = &BoundSocket> {
        self.ports.iter().filter_map(|(_, _, cookie)| self.entries.get(cookie)).map(|entry| &entry.holder)
    }

    /// Returns the owner of a socket's cgroup.
    #[must_use]
    pub fn place(&self, holder: &BoundSocket) -> &SocketPlace {
        self.cgroups.get(&holder.cgroup).map_or(&SocketPlace::HOST, |residents| &residents.place)
    }

    /// Returns the number of sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Checks whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns about how many sockets there was no room for, by protocol and owner.
    pub fn untracked(&self) -> impl Iterator<Item = (Protocol, SocketOwner, usize)> {
        self.untracked.iter().map(|(&(protocol, party), &count)| (protocol, party, count))
    }
}

fn take(counts: &mut HashMap<SocketOwner, usize>, party: SocketOwner, number: usize) {
    if let Some(count) = counts.get_mut(&party) {
        *count = count.saturating_sub(number);
        if *count == 0 {
            counts.remove(&party);
        }
    }
}
