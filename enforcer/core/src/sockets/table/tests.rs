use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use enforcer_ebpf::wire::{UidForm, UidKey};

use super::*;

mod existing;
mod incumbent;

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

const fn at(nanos: u64) -> BootNanos {
    BootNanos::new(nanos)
}

const fn cgroup(id: u64) -> CgroupId {
    CgroupId::new(id)
}

/// Cgroups below 100 are pods' of the same number, all others the host's.
fn place(cgroup: CgroupId) -> SocketPlace {
    match u8::try_from(cgroup.get()) {
        Ok(pod) if pod < 100 => {
            let party = SocketOwner::Pod(UidKey::new([pod; 16], UidForm::Api));
            SocketPlace { party, who: Actor::UnknownPod { uid: pod.to_string(), form: UidForm::Api }, container: None }
        }
        _ => SocketPlace::HOST,
    }
}

fn binding(protocol: Protocol, cookie: u64, port: u16, time: u64) -> SocketBinding {
    SocketBinding {
        time: BootNanos::new(time),
        protocol,
        address: "0.0.0.0".parse().unwrap(),
        port,
        cookie: SocketCookie::new(cookie),
        release: cookie,
        cgroup: cgroup(1),
        pid: 4711,
        uid: 0,
        command: "nginx".to_owned(),
        v6only: None,
        reuse: None,
    }
}

fn sighting(protocol: Protocol, cookie: u64, port: u16, activity: Activity) -> DumpedSocket {
    DumpedSocket {
        protocol,
        address: "0.0.0.0".parse().unwrap(),
        port,
        cookie: SocketCookie::new(cookie),
        cgroup: Some(cgroup(1)),
        uid: 0,
        inode: Some(7),
        device: None,
        activity,
        v6only: None,
    }
}

fn table() -> BoundSockets {
    BoundSockets::new(SocketLimits::default(), true)
}

/// Two dumps that show just these.
fn reconcile(holders: &mut BoundSockets, now: u64, shown: &[DumpedSocket]) {
    for protocol in [TCP, UDP] {
        for scope in [Scope::Bound, Scope::Connected] {
            holders.begin_dump(protocol, at(now));
            for sighting in shown.iter().filter(|sighting| sighting.protocol == protocol) {
                if scope == Scope::Connected || protocol == UDP || sighting.activity != Activity::Connected {
                    holders.record_dumped(sighting, place);
                }
            }
            holders.end_dump(protocol, scope);
        }
    }
}

fn ports(holders: &BoundSockets) -> Vec<u16> {
    holders.iter().map(|holder| holder.port).collect()
}

#[test]
fn an_event_takes_in_and_a_release_takes_out() {
    let mut holders = table();
    holders.bound(binding(TCP, 5, 80, 10), place);
    let holder = holders.on(TCP, 80).next().unwrap();
    assert_eq!(holder.since, BoundSince::Bound(at(10)));
    assert_eq!(holder.process, Some(Process { pid: 4711, command: "nginx".to_owned() }));
    assert_eq!(holders.place(holder), &place(cgroup(1)));
    assert_eq!(holders.owned_by(place(cgroup(1)).party).count(), 1);
    assert_eq!((holders.on(UDP, 80).count(), holders.owned_by(SocketOwner::Host).count()), (0, 0));
    assert!(!holders.released(6, at(11)), "somebody else's");
    assert!(holders.released(5, at(12)));
    assert!(!holders.released(5, at(13)));
    assert!(holders.is_empty() && holders.cgroups.is_empty() && holders.counts.is_empty());
}

#[test]
fn mptcp_is_released_by_another_name() {
    let mut holders = table();
    holders.bound(SocketBinding { release: 0xffff_8000, ..binding(TCP, 5, 80, 10) }, place);
    assert!(holders.released(0xffff_8000, at(11)));
    assert!(holders.is_empty() && holders.releases.is_empty());
    // A dump that was under way shows the subflow, under its own cookie.
    reconcile(&mut holders, 11, &[sighting(TCP, 5, 80, Activity::Listening)]);
    assert!(holders.is_empty());
}

#[test]
fn what_nobody_told_is_taken_in_and_an_event_that_comes_late_adds_to_it() {
    let mut holders = table();
    reconcile(&mut holders, 20, &[sighting(TCP, 5, 80, Activity::Listening)]);
    assert_eq!(holders.on(TCP, 80).next().unwrap().since, BoundSince::Seen(at(20)));
    holders.bound(binding(TCP, 5, 80, 19), place);
    let holder = holders.on(TCP, 80).next().unwrap();
    assert_eq!(
        (holder.since, holder.inode, holder.activity),
        (BoundSince::Bound(at(19)), Some(7), Some(Activity::Listening))
    );
    assert_eq!(holders.len(), 1);
}

#[test]
fn clients_and_accepted_connections_are_no_holders() {
    let mut holders = table();
    let client = sighting(TCP, 5, 40000, Activity::Connected);
    reconcile(&mut holders, 20, std::slice::from_ref(&client));
    assert!(holders.is_empty());
    // But who bound by name is one, connected or not.
    holders.bound(binding(TCP, 5, 40000, 10), place);
    reconcile(&mut holders, 30, &[client]);
    assert_eq!(ports(&holders), [40000]);
}

#[test]
fn dumps_of_tcp_and_udp_leave_sctp_sockets() {
    const SCTP: Protocol = Protocol::Sctp;
    let mut sockets = table();
    sockets.bound(binding(SCTP, 5, 80, 10), place);
    sockets.bound(binding(TCP, 6, 80, 10), place);
    reconcile(&mut sockets, 20, &[sighting(TCP, 6, 80, Activity::Listening)]);
    assert_eq!((sockets.on(SCTP, 80).count(), sockets.on(TCP, 80).count()), (1, 1));
    // A dump of its own confirms it, and two that do not show it remove it.
    sockets.begin_dump(SCTP, at(30));
    sockets.record_dumped(&sighting(SCTP, 5, 80, Activity::Listening), place);
    assert_eq!(sockets.end_dump(SCTP, Scope::Bound), DumpSummary::default());
    for (now, ended) in [(40, DumpSummary { suspects: 1, removed: 0 }), (50, DumpSummary { suspects: 0, removed: 1 })] {
        sockets.begin_dump(SCTP, at(now));
        assert_eq!(sockets.end_dump(SCTP, Scope::Connected), ended);
    }
    assert_eq!(ports(&sockets), [80], "the TCP socket stays");
}

#[test]
fn one_dump_that_passes_over_a_holder_is_not_enough() {
    let mut holders = table();
    holders.bound(binding(TCP, 5, 80, 10), place);
    holders.begin_dump(TCP, at(20));
    assert_eq!(holders.end_dump(TCP, Scope::Bound), DumpSummary { suspects: 1, removed: 0 });
    holders.begin_dump(TCP, at(21));
    assert_eq!(holders.end_dump(TCP, Scope::Bound), DumpSummary { suspects: 1, removed: 0 }, "it may be connected");
    holders.begin_dump(TCP, at(22));
    assert_eq!(holders.end_dump(TCP, Scope::Connected), DumpSummary { suspects: 0, removed: 1 });
}

#[test]
fn two_dumps_count_if_they_follow_each_other() {
    let mut holders = table();
    holders.bound(binding(UDP, 5, 53, 10), place);
    for now in [20, 30, 40] {
        holders.begin_dump(UDP, at(now));
        assert_eq!(holders.end_dump(UDP, Scope::Bound), DumpSummary { suspects: 1, removed: 0 });
        holders.begin_dump(UDP, at(now + 1));
        holders.record_dumped(&sighting(UDP, 5, 53, Activity::Bound), place);
        assert_eq!(holders.end_dump(UDP, Scope::Bound), DumpSummary::default());
    }
    assert_eq!(ports(&holders), [53]);
}

#[test]
fn a_dump_says_nothing_of_what_was_bound_after_it_began() {
    let mut holders = table();
    holders.begin_dump(UDP, at(20));
    holders.bound(binding(UDP, 5, 53, 20), place);
    assert_eq!(holders.end_dump(UDP, Scope::Bound), DumpSummary::default());
    holders.begin_dump(UDP, at(30));
    assert_eq!(holders.end_dump(UDP, Scope::Bound), DumpSummary { suspects: 1, removed: 0 });
}

#[test]
fn a_dump_that_failed_counts_for_nothing() {
    let mut holders = table();
    holders.bound(binding(UDP, 5, 53, 10), place);
    holders.begin_dump(UDP, at(20));
    holders.end_dump(UDP, Scope::Bound);
    holders.begin_dump(UDP, at(30));
    holders.begin_dump(UDP, at(40));
    assert!(!holders.record_dumped(&sighting(UDP, 5, 53, Activity::Bound), place));
    assert_eq!(holders.end_dump(UDP, Scope::Bound), DumpSummary::default());
    assert_eq!(ports(&holders), [53]);
}

#[test]
fn a_socket_can_change_its_port_without_a_word() {
    let mut holders = table();
    holders.bound(binding(UDP, 5, 53, 10), place);
    reconcile(&mut holders, 20, &[sighting(UDP, 5, 40000, Activity::Bound)]);
    assert_eq!(ports(&holders), [40000]);
    // An event is newer than a dump that began before it.
    holders.begin_dump(UDP, at(30));
    holders.bound(binding(UDP, 5, 54, 31), place);
    holders.record_dumped(&sighting(UDP, 5, 40000, Activity::Bound), place);
    holders.end_dump(UDP, Scope::Bound);
    assert_eq!(ports(&holders), [54]);
}

#[test]
fn what_an_old_kernel_cannot_show_is_not_taken_for_gone() {
    let mut holders = BoundSockets::new(SocketLimits::default(), false);
    holders.bound(binding(TCP, 5, 80, 10), place);
    holders.bound(binding(TCP, 6, 81, 10), place);
    holders.bound(SocketBinding { cgroup: cgroup(2), ..binding(TCP, 7, 82, 10) }, place);
    reconcile(&mut holders, 20, &[sighting(TCP, 6, 81, Activity::Listening)]);
    reconcile(&mut holders, 30, &[]);
    assert_eq!(ports(&holders), [80, 82], "the one that listened is known to be gone");
    assert!(!holders.cgroup_gone(cgroup(1)), "with its cgroup it is gone, as far as anybody can know");
    assert_eq!(ports(&holders), [82]);
}

#[test]
fn a_cgroup_that_is_gone_leaves_what_was_passed_on() {
    let mut holders = table();
    holders.bound(binding(TCP, 5, 80, 10), place);
    holders.bound(binding(TCP, 6, 81, 10), place);
    assert!(holders.cgroup_gone(cgroup(1)));
    assert!(!holders.cgroup_gone(cgroup(9)));
    reconcile(&mut holders, 20, &[sighting(TCP, 6, 81, Activity::Listening)]);
    assert_eq!(ports(&holders), [81]);
    let holder = holders.on(TCP, 81).next().unwrap();
    assert_eq!(holders.place(holder), &place(cgroup(1)), "still known by name");
}

#[test]
fn a_pod_that_is_told_late_is_named() {
    let mut holders = table();
    holders.bound(binding(TCP, 5, 80, 10), |_| SocketPlace::HOST);
    assert_eq!(holders.owned_by(SocketOwner::Host).count(), 1);
    holders.resolve(place);
    assert_eq!((holders.owned_by(SocketOwner::Host).count(), holders.owned_by(place(cgroup(1)).party).count()), (0, 1));
    assert_eq!(holders.counts, HashMap::from([(place(cgroup(1)).party, 1)]));
    holders.released(5, at(11));
    assert!(holders.counts.is_empty());
}

#[test]
fn memory_is_bounded_and_one_pod_does_not_crowd_out_another() {
    let limits = SocketLimits { per_party: 100, total: 150 };
    let mut holders = BoundSockets::new(limits, true);
    for cookie in 1..=1000 {
        holders.bound(binding(UDP, cookie, 53, 10), place);
    }
    assert_eq!(holders.len(), 100);
    assert_eq!(holders.untracked().collect::<Vec<_>>(), [(UDP, place(cgroup(1)).party, 900)]);
    for cookie in 2001..=2100 {
        holders.bound(SocketBinding { cgroup: cgroup(2), ..binding(TCP, cookie, 80, 10) }, place);
    }
    assert_eq!((holders.len(), holders.owned_by(place(cgroup(2)).party).count()), (150, 50));
    // Room that is free again is for those that were left out.
    for cookie in 1..=90 {
        holders.released(cookie, at(20));
    }
    let left: Vec<DumpedSocket> = (91..=1000).map(|cookie| sighting(UDP, cookie, 53, Activity::Bound)).collect();
    reconcile(&mut holders, 30, &left);
    assert_eq!(holders.owned_by(place(cgroup(1)).party).count(), 100);
    assert_eq!(
        holders.untracked().find(|(_, party, _)| *party == place(cgroup(1)).party),
        Some((UDP, place(cgroup(1)).party, 810))
    );
    for cookie in 0..2 * RELEASED as u64 {
        holders.released(cookie + 10_000, at(40));
    }
    assert_eq!((holders.released.len(), holders.released_at.len()), (RELEASED, RELEASED));
}

/// A socket as it really is.
#[derive(Clone, Debug)]
struct Socket {
    protocol: Protocol,
    port: u16,
    cgroup: CgroupId,
    activity: Activity,
    release: u64,
    /// How many descriptors refer to it.
    references: u32,
    /// Whether the event of its bind arrived.
    told: bool,
}

#[derive(Clone, Debug)]
enum Happening {
    Bind {
        protocol: Protocol,
        port: u16,
        cgroup: CgroupId,
        mptcp: bool,
        lost: bool,
    },
    Fork(usize),
    Close {
        which: usize,
        lost: bool,
    },
    Listen(usize),
    Connect(usize),
    CgroupGone(CgroupId),
    /// A socket in this place is passed over, if it is any.
    Dump {
        protocol: Protocol,
        scope: Scope,
        meanwhile: Vec<(u8, Happening)>,
        fails: bool,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let protocol = || prop_oneof![Just(TCP), Just(UDP)];
    let pods_cgroup = || (1u64..4).prop_map(CgroupId::new);
    let scope = prop_oneof![Just(Scope::Bound), Just(Scope::Connected)];
    let leaf = prop_oneof![
        4 => (protocol(), 1u16..6, pods_cgroup(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(protocol, port, cgroup, mptcp, lost)| Happening::Bind { protocol, port, cgroup, mptcp, lost }
        ),
        1 => (0usize..8).prop_map(Happening::Fork),
        4 => (0usize..8, prop::bool::weighted(0.2)).prop_map(|(which, lost)| Happening::Close { which, lost }),
        1 => (0usize..8).prop_map(Happening::Listen),
        1 => (0usize..8).prop_map(Happening::Connect),
        1 => pods_cgroup().prop_map(Happening::CgroupGone),
    ];
    leaf.prop_recursive(1, 16, 8, move |leaf| {
        (protocol(), scope.clone(), vec((any::<u8>(), leaf), 0..6), prop::bool::weighted(0.1))
            .prop_map(|(protocol, scope, meanwhile, fails)| Happening::Dump { protocol, scope, meanwhile, fails })
    })
}

/// Sockets as they are, and the table that hears of them.
struct World {
    sockets: BTreeMap<u64, Socket>,
    holders: BoundSockets,
    last: u64,
    clock: u64,
}

impl World {
    fn new() -> Self {
        Self { sockets: BTreeMap::new(), holders: table(), last: 0, clock: 0 }
    }

    fn pick(&mut self, which: usize) -> Option<(u64, &mut Socket)> {
        let count = self.sockets.len().max(1);
        self.sockets.iter_mut().nth(which % count).map(|(&cookie, socket)| (cookie, socket))
    }

    fn sightings(&self, protocol: Protocol, scope: Scope) -> Vec<DumpedSocket> {
        let shown = |socket: &Socket| {
            socket.protocol == protocol
                && (scope == Scope::Connected || protocol == UDP || socket.activity != Activity::Connected)
        };
        let shown = self.sockets.iter().filter(|(_, socket)| shown(socket));
        shown
            .map(|(&cookie, socket)| DumpedSocket {
                cgroup: Some(socket.cgroup),
                ..sighting(socket.protocol, cookie, socket.port, socket.activity)
            })
            .collect()
    }

    fn happen(&mut self, happening: Happening) {
        self.clock += 1;
        let time = self.clock;
        match happening {
            Happening::Bind { protocol, port, cgroup, mptcp, lost } => {
                self.last += 1;
                let cookie = self.last;
                let release = if mptcp && protocol == TCP { cookie + (1 << 32) } else { cookie };
                let activity = Activity::Bound;
                let socket = Socket { protocol, port, cgroup, activity, release, references: 1, told: !lost };
                self.sockets.insert(cookie, socket);
                if !lost {
                    let binding = SocketBinding { release, cgroup, ..binding(protocol, cookie, port, time) };
                    self.holders.bound(binding, place);
                }
            }
            Happening::Fork(which) => {
                if let Some((_, socket)) = self.pick(which) {
                    socket.references += 1;
                }
            }
            Happening::Close { which, lost } => {
                let Some((cookie, socket)) = self.pick(which) else {
                    return;
                };
                socket.references -= 1;
                if socket.references > 0 {
                    return;
                }
                let release = socket.release;
                self.sockets.remove(&cookie);
                if !lost {
                    self.holders.released(release, at(time));
                }
            }
            Happening::Listen(which) => {
                if let Some((_, socket)) = self.pick(which)
                    && (socket.protocol, socket.activity) == (TCP, Activity::Bound)
                {
                    socket.activity = Activity::Listening;
                }
            }
            Happening::Connect(which) => {
                if let Some((_, socket)) = self.pick(which)
                    && socket.told
                    && socket.activity == Activity::Bound
                {
                    socket.activity = Activity::Connected;
                }
            }
            Happening::CgroupGone(cgroup) => {
                self.holders.cgroup_gone(cgroup);
            }
            Happening::Dump { protocol, scope, meanwhile, fails } => self.dump(protocol, scope, meanwhile, fails),
        }
    }

    /// The kernel walks, things happen, the answer is read in between.
    fn dump(&mut self, protocol: Protocol, scope: Scope, meanwhile: Vec<(u8, Happening)>, fails: bool) {
        self.holders.begin_dump(protocol, at(self.clock));
        // What the kernel wrote down and nobody has read yet.
        let mut unread = self.sightings(protocol, scope);
        if let Some(&(passed_over, _)) = meanwhile.first()
            && scope == Scope::Bound
            && protocol == TCP
            && !unread.is_empty()
        {
            unread.remove(usize::from(passed_over) % unread.len());
        }
        for (read, happening) in meanwhile {
            let read = usize::from(read) % (unread.len() + 1);
            for sighting in unread.drain(..read) {
                self.holders.record_dumped(&sighting, place);
            }
            self.happen(happening);
        }
        if fails {
            return;
        }
        for sighting in unread {
            self.holders.record_dumped(&sighting, place);
        }
        self.holders.end_dump(protocol, scope);
    }

    /// Nobody who is there and was told is missing, and the table's books agree.
    fn check(&self) {
        for (cookie, socket) in &self.sockets {
            assert!(!socket.told || self.holders.entries.contains_key(&SocketCookie::new(*cookie)), "lost: {socket:?}");
        }
        let count: usize = self.holders.counts.values().sum();
        assert_eq!(count, self.holders.len());
        assert_eq!(self.holders.ports.len(), self.holders.len());
        let residents: usize = self.holders.cgroups.values().map(|residents| residents.holders).sum();
        assert_eq!(residents, self.holders.len());
    }

    fn held(&self) -> Vec<(Protocol, u16, SocketCookie)> {
        self.holders.ports.iter().copied().collect()
    }

    fn real(&self) -> Vec<(Protocol, u16, SocketCookie)> {
        let mut real: Vec<_> = self
            .sockets
            .iter()
            .map(|(&cookie, socket)| (socket.protocol, socket.port, SocketCookie::new(cookie)))
            .collect();
        real.sort_unstable();
        real
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn after_two_dumps_the_table_is_what_there_is(happenings in vec(happening(), 0..40)) {
        let mut world = World::new();
        for happening in happenings {
            world.happen(happening);
            world.check();
        }
        for protocol in [TCP, UDP] {
            for scope in [Scope::Bound, Scope::Connected] {
                world.clock += 1;
                world.dump(protocol, scope, Vec::new(), false);
                world.check();
            }
        }
        prop_assert_eq!(world.held(), world.real());
    }

    #[test]
    fn with_no_event_lost_the_table_is_always_what_there_is(happenings in vec(happening(), 0..40)) {
        fn tell(happening: Happening) -> Happening {
            match happening {
                Happening::Bind { protocol, port, cgroup, mptcp, .. } => {
                    Happening::Bind { protocol, port, cgroup, mptcp, lost: false }
                }
                Happening::Close { which, .. } => Happening::Close { which, lost: false },
                Happening::Dump { protocol, scope, meanwhile, fails } => {
                    let meanwhile = meanwhile.into_iter().map(|(read, happening)| (read, tell(happening))).collect();
                    Happening::Dump { protocol, scope, meanwhile, fails }
                }
                other => other,
            }
        }
        let mut world = World::new();
        for happening in happenings {
            world.happen(tell(happening));
            prop_assert_eq!(world.held(), world.real());
        }
    }
}

#[test]
fn generation_changes_with_the_sockets_and_not_with_a_dump_that_shows_the_same() {
    let mut holders = table();
    let mut last = holders.generation();
    let mut changed = |holders: &BoundSockets| std::mem::replace(&mut last, holders.generation()) != last;
    holders.bound(binding(TCP, 1, 80, 10), place);
    assert!(changed(&holders), "a socket came");
    let shown = sighting(TCP, 1, 80, Activity::Listening);
    reconcile(&mut holders, 20, std::slice::from_ref(&shown));
    assert!(changed(&holders), "it listens now");
    for now in [30, 40] {
        reconcile(&mut holders, now, std::slice::from_ref(&shown));
        assert!(!changed(&holders), "nothing is new");
    }
    assert!(holders.released(1, at(50)) && changed(&holders), "it went");
    assert!(!holders.released(2, at(60)) && !changed(&holders), "who is not there does not go");
}
