//! A node's pods that come, change and go at random, and which claims are then in force by the plain words of the rules.
//!
//! Only what has one right answer is made, whatever the agent missed in between: who is in force is not to depend on
//! when the agent saw what. So a claim that others want too comes with its pod and is never edited in, a port is claimed
//! either on all addresses or on single ones, and a share group has a member that stays.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use enforcer_ebpf::wire::Protocol;

use enforcer_testing::pods::Pod;

use crate::read_claims_in_force::{ClaimPart, ClaimsInForce};

/// Ports that pods claim on all addresses.
const WHOLE: std::ops::Range<u16> = 30_000..31_500;
/// Ports that pods claim on single addresses.
const SINGLE: std::ops::Range<u16> = 31_500..32_000;
/// The ports of share groups.
const SHARED: std::ops::Range<u16> = 32_000..32_020;
/// Ports that only one pod ever claims. All ports are below those that the kernel gives to outgoing connections, of
/// which the agent has some: such a port would be in use.
const PRIVATE: u16 = 23_000;

const ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7)),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Numbers as good as random, the same in every run (xorshift, Marsaglia 2003).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).expect("small")).expect("small")
    }

    fn port(&mut self, range: std::ops::Range<u16>) -> u16 {
        range.start + u16::try_from(self.below(range.len())).expect("a port")
    }

    fn protocol(&mut self) -> Protocol {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][self.below(3)]
    }
}

/// A claim; without address, it is on all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) address: Option<IpAddr>,
}

impl Claim {
    pub(super) fn tcp(port: u16) -> Self {
        Self { protocol: Protocol::Tcp, port, address: None }
    }

    fn parts(self) -> Vec<ClaimPart> {
        self.address.map_or_else(|| vec![ClaimPart::AllV4, ClaimPart::AllV6], |address| vec![ClaimPart::One(address)])
    }

    /// As an item of the annotation.
    fn item(self) -> String {
        let Self { port, protocol, .. } = self;
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        match self.address {
            None => format!("{port}/{protocol}"),
            Some(IpAddr::V4(address)) => format!("{address}:{port}/{protocol}"),
            Some(IpAddr::V6(address)) => format!("[{address}]:{port}/{protocol}"),
        }
    }
}

/// A pod that is there.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not one state")]
#[derive(Clone, Debug)]
pub(super) struct Member {
    pod: Pod,
    pub(super) claims: Vec<Claim>,
    /// When it arrived: the place in the order of all that ever came.
    arrival: usize,
    group: Option<usize>,
    /// It is there from the beginning to the end.
    pub(super) stays: bool,
    /// It was there before the agent.
    pub(super) old: bool,
    /// Its phase is a last one, or its cgroup has gone.
    over: bool,
    /// Its cgroup is there.
    pub(super) cgroup: bool,
}

impl Member {
    /// The pod with the claims it has now.
    pub(super) fn pod(&self) -> Pod {
        let items: Vec<String> = self.claims.iter().map(|claim| claim.item()).collect();
        self.pod.clone().ports(if items.is_empty() { "none".to_owned() } else { items.join(", ") }.as_str())
    }

    /// Writes into its object that it ended by itself.
    pub(super) fn succeed(&mut self) {
        self.pod = self.pod.clone().phase("Succeeded");
        self.over = true;
    }

    /// Notes that its cgroup has gone.
    pub(super) fn end(&mut self) {
        self.cgroup = false;
        self.over = true;
    }

    fn is_system(&self) -> bool {
        self.pod.namespace_name() == "kube-system"
    }

    /// Whom it claims for: its group, or itself.
    fn party(&self) -> Result<usize, usize> {
        self.group.ok_or(self.arrival)
    }
}

/// The pods that are there.
#[derive(Default)]
pub(super) struct Model {
    pub(super) members: Vec<Member>,
    arrivals: usize,
    private: u16,
}

impl Model {
    /// A pod that comes with these claims. Who comes later arrived later.
    pub(super) fn come(&mut self, name: &str, claims: Vec<Claim>) -> &mut Member {
        self.add(Pod::new(name), None, claims)
    }

    fn add(&mut self, pod: Pod, group: Option<usize>, claims: Vec<Claim>) -> &mut Member {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.members.push(Member { pod, claims, arrival, group, stays: false, old: false, over: false, cgroup: true });
        self.members.last_mut().expect("it was just added")
    }

    /// A pod of each group that stays.
    pub(super) fn found_groups(&mut self) {
        for group in 0..SHARED.len() {
            let claim = Claim::tcp(SHARED.start + u16::try_from(group).expect("few"));
            let pod = Pod::new(&format!("founder-{group}")).share_group(&format!("group-{group}"));
            self.add(pod, Some(group), vec![claim]).stays = true;
        }
    }

    /// A pod like any: where it comes from, and what it wants, is a matter of luck.
    pub(super) fn come_by_chance(&mut self, dice: &mut Dice, steady: &[Claim]) -> &Member {
        let pod = Pod::new(&format!("pod-{}", self.arrivals));
        let mut claims = Vec::new();
        if dice.below(10) == 0 {
            let group = dice.below(SHARED.len());
            let claim = Claim::tcp(SHARED.start + u16::try_from(group).expect("few"));
            return self.add(pod.share_group(&format!("group-{group}")), Some(group), vec![claim]);
        }
        for _ in 0..dice.below(3) {
            claims.push(Claim { protocol: dice.protocol(), port: dice.port(WHOLE), address: None });
        }
        if dice.below(2) == 0 {
            let address = Some(ADDRESSES[dice.below(ADDRESSES.len())]);
            claims.push(Claim { protocol: dice.protocol(), port: dice.port(SINGLE), address });
        }
        if dice.below(10) == 0 {
            return self.add(pod.namespace("kube-system"), None, claims);
        }
        match dice.below(10) {
            // In vain: who owns these came before and stays.
            0 => claims.push(steady[dice.below(steady.len())]),
            1 => claims.push(Claim::tcp(dice.port(SHARED))),
            _ => {}
        }
        claims.sort_unstable();
        claims.dedup();
        self.add(pod, None, claims)
    }

    /// A claim that nobody else ever has.
    pub(super) fn private_claim(&mut self) -> Claim {
        self.private += 1;
        Claim::tcp(PRIVATE + self.private)
    }

    /// The claims in force: of those who want the same, node software's, then that of who arrived first. With the owner
    /// goes everybody of its share group.
    pub(super) fn in_force(&self) -> BTreeMap<(Protocol, u16, ClaimPart), Vec<&str>> {
        let mut wanted: BTreeMap<_, Vec<&Member>> = BTreeMap::new();
        for member in self.members.iter().filter(|member| !member.over) {
            for claim in &member.claims {
                for part in claim.parts() {
                    wanted.entry((claim.protocol, claim.port, part)).or_default().push(member);
                }
            }
        }
        let winners = wanted.into_iter().map(|(what, members)| {
            let best = members.iter().min_by_key(|member| (!member.is_system(), member.arrival)).expect("somebody");
            let party = best.party();
            let mates = members.iter().filter(|member| member.party() == party);
            (what, mates.map(|mate| mate.pod.uid_text()).collect())
        });
        winners.collect()
    }

    /// What is otherwise in the kernel, in words; empty if nothing is.
    pub(super) fn differences(&self, held: &ClaimsInForce) -> Vec<String> {
        let expected = self.in_force();
        let name = |uid: &str| {
            let member = self.members.iter().find(|member| member.pod.uid_text() == uid);
            member.map_or_else(|| format!("{uid}, which is gone"), |member| member.pod.name().to_owned())
        };
        let mut differences = Vec::new();
        for (what, uids) in &expected {
            match held.get(what) {
                Some(owner) if uids.contains(&owner.as_str()) => {}
                Some(owner) => differences.push(format!("{what:?} is {}'s, not {}'s", name(owner), name(uids[0]))),
                None => differences.push(format!("{what:?} is nobody's, not {}'s", name(uids[0]))),
            }
        }
        for (what, owner) in held.iter().filter(|(what, _)| !expected.contains_key(what)) {
            differences.push(format!("{what:?} is {}'s, not nobody's", name(owner)));
        }
        differences
    }
}
