//! Random cases, small enough that claims meet.

use enforcer_ebpf::wire::{Policy, Undeclared};
use proptest::{collection::vec, option, prelude::*, sample::select};

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::ENFORCE,
    worker::{Bind, Kind},
};

/// The UIDs of the pods that can be: the last one is a static pod's.
pub(super) const UIDS: [&str; MEMBERS] = [
    "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e801",
    "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e802",
    "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e803",
    "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e804",
    "0a1b2c3d4e5f40718293a4b5c6d7e805",
];
pub(super) const MEMBERS: usize = 5;
/// The caller that is in no pod.
pub(super) const UNRESOLVED: usize = MEMBERS;
pub(super) const CALLERS: usize = MEMBERS + 1;
/// What the node claims, and the same for the model: port, whether UDP, address.
pub(super) const NODE_RESERVED: &str = "192.0.2.1:20002/tcp [2001:db8::1]:20002/udp 20003/udp";
pub(super) const NODE_CLAIMS: [(u16, bool, &str); 3] =
    [(20002, false, "192.0.2.1"), (20002, true, "2001:db8::1"), (20003, true, "*")];

/// The node port of a Service that is only reported, and was there before any pod: port, whether UDP, address.
pub(super) const SERVICE_CLAIM: (u16, bool, &str) = (20003, false, "*");

const PORTS: [u16; 3] = [20001, 20002, 20003];
const CLAIM_ADDRESSES: [&str; 7] = ["*", "0.0.0.0", "::", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
const BIND_ADDRESSES: [&str; 12] = [
    "0.0.0.0",
    "unspec",
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "::",
    "only ::",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::3",
    "::ffff:192.0.2.1",
    "::ffff:0.0.0.0",
];

#[derive(Clone, Debug)]
pub(super) struct Case {
    /// The pods that the agent knows, by their place in [`UIDS`].
    pub(super) members: Vec<Option<Member>>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) enforce: bool,
    pub(super) deny_undeclared: bool,
    pub(super) deny_on_error: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Its place in [`UIDS`].
    pub(super) place: usize,
    pub(super) namespace: &'static str,
    pub(super) share: Option<&'static str>,
    pub(super) workload: Option<&'static str>,
    pub(super) terminating: bool,
    /// Second of its arrival; several may be the same.
    pub(super) arrival: u8,
    pub(super) claims: Vec<Claim>,
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) port: u16,
    pub(super) udp: bool,
    pub(super) address: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// Place in [`UIDS`], or [`UNRESOLVED`].
    pub(super) caller: usize,
    pub(super) port: u16,
    pub(super) udp: bool,
    pub(super) address: &'static str,
}

impl Case {
    pub(super) fn policy(&self) -> Policy {
        Policy {
            enforce: self.enforce,
            undeclared: if self.deny_undeclared { Undeclared::Deny } else { Undeclared::Allow },
            deny_on_error: self.deny_on_error,
            ..ENFORCE
        }
    }
}

impl Member {
    pub(super) fn name(&self) -> String {
        // Not in the order of their places, so that the name decides for itself.
        format!("pod-{}", ["c", "a", "e", "b", "d"][self.place])
    }

    pub(super) fn manifest(&self) -> Pod {
        let items: Vec<String> = self.claims.iter().map(Claim::item).collect();
        let mut manifest = Pod::new(&self.name())
            .uid(UIDS[self.place])
            .namespace(self.namespace)
            .created_at(&format!("2026-01-01T00:00:0{}Z", self.arrival))
            .ports(&items.join(" "));
        if let Some(group) = self.share {
            manifest = manifest.share_group(group);
        }
        if let Some(workload) = self.workload {
            manifest = manifest.of_daemon_set(workload);
        }
        if self.terminating { manifest.terminating() } else { manifest }
    }
}

impl Claim {
    fn item(&self) -> String {
        let protocol = if self.udp { "udp" } else { "tcp" };
        match self.address {
            "*" => format!("{}/{protocol}", self.port),
            address if address.contains(':') => format!("[{address}]:{}/{protocol}", self.port),
            address => format!("{address}:{}/{protocol}", self.port),
        }
    }
}

impl Attempt {
    pub(super) fn bind(&self) -> Bind {
        let (option, address) = match self.address {
            "unspec" => ("unspec", "0.0.0.0"),
            "only ::" => ("only", "::"),
            address => ("", address),
        };
        Bind {
            unspec: option == "unspec",
            v6only: (address == "::").then_some(option == "only"),
            ..Bind::tcp(address, self.port)
        }
        .on(if self.udp { Kind::Udp } else { Kind::Tcp })
    }
}

pub(super) fn any_case() -> impl Strategy<Value = Case> {
    let members: Vec<_> = (0..MEMBERS).map(|place| option::weighted(0.85, any_member(place))).collect();
    let flags = (prop::bool::weighted(0.7), prop::bool::weighted(0.2), any::<bool>());
    (members, vec(any_attempt(), 4..24), flags).prop_map(
        |(members, attempts, (enforce, deny_undeclared, deny_on_error))| Case {
            members,
            attempts,
            enforce,
            deny_undeclared,
            deny_on_error,
        },
    )
}

fn any_member(place: usize) -> impl Strategy<Value = Member> {
    let namespace =
        select(["default", "default", "default", "default", "default", "default", "elsewhere", "kube-system"].to_vec());
    let share = option::weighted(0.4, select(vec!["web", "web", "dns"]));
    let workload = option::weighted(0.7, select(vec!["ingress", "ingress", "proxy"]));
    (namespace, share, workload, prop::bool::weighted(0.4), 0..3u8, vec(any_claim(), 0..5)).prop_map(
        move |(namespace, share, workload, terminating, arrival, claims)| Member {
            place,
            namespace,
            share,
            workload,
            terminating,
            arrival,
            claims,
        },
    )
}

fn any_port() -> impl Strategy<Value = u16> {
    select(vec![PORTS[0], PORTS[0], PORTS[0], PORTS[0], PORTS[1], PORTS[1], PORTS[2], PORTS[2]])
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let address = prop_oneof![
        1 => select(CLAIM_ADDRESSES[..3].to_vec()),
        2 => select(CLAIM_ADDRESSES[3..].to_vec()),
    ];
    (any_port(), prop::bool::weighted(0.2), address).prop_map(|(port, udp, address)| Claim { port, udp, address })
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let port = prop_oneof![20 => any_port().boxed(), 1 => Just(0).boxed()];
    (0..CALLERS, port, prop::bool::weighted(0.2), select(BIND_ADDRESSES.to_vec()))
        .prop_map(|(caller, port, udp, address)| Attempt { caller, port, udp, address })
}
