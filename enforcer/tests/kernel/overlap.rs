//! Every cell of the table of overlaps, on sockets of every protocol, in both modes.

use enforcer_ebpf::wire::{Reason, VerdictKind};
use libtest_mimic::{Completion, Trial};

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::{AUDIT, ENFORCE, KernelFixture, denied, features, reading_by_helper},
    worker::{Bind, Kind},
};

use crate::{DONE, Test, skip_excuses};

/// The address of each column: `v4` and `v6` sockets, `only` for `IPV6_V6ONLY`, `unspec` for a v4 socket's address
/// whose family is `AF_UNSPEC`.
const ATTEMPTS: [(&str, &str); 11] = [
    ("v4", "0.0.0.0"),
    ("v4", "192.0.2.1"),
    ("v4", "192.0.2.2"),
    ("unspec", "0.0.0.0"),
    ("v6", "::"),
    ("only", "::"),
    ("v6", "2001:db8::1"),
    ("v6", "2001:db8::2"),
    ("v6", "::ffff:192.0.2.1"),
    ("v6", "::ffff:192.0.2.2"),
    ("v6", "::ffff:0.0.0.0"),
];

/// Whether a claim (row) and an attempt (column of [`ATTEMPTS`]) overlap. A claim on `*` names no address; a claim on
/// `::` is for dual-stack sockets.
const OVERLAPS: [(&str, &str); 6] = [
    //                v4 . . .  | ::        | specific  | mapped . .
    //                * .1 .2 u | dual only | ::1  ::2  | .1  .2  *
    ("*", "             x x x x   x    x      x    x      x   x   x"),
    ("0.0.0.0", "       x x x x   x    .      .    .      x   x   x"),
    ("192.0.2.1", "     x x . x   x    .      .    .      x   .   x"),
    ("192.0.2.2", "     x . x x   x    .      .    .      .   x   x"),
    ("[::]", "          x x x x   x    x      x    x      x   x   x"),
    ("[2001:db8::1]", " . . . .   x    x      x    .      .   .   ."),
];

/// The column of `::` on a socket that is not IPv6 only, and that on one that is.
const DUAL: usize = 4;
const V6ONLY: usize = 5;

/// Cells of the table.
fn overlaps(row: &str) -> Vec<bool> {
    let mut cells: Vec<bool> = row.split_whitespace().map(|cell| cell == "x").collect();
    assert_eq!(cells.len(), ATTEMPTS.len(), "{row}");
    if !features().probe_read {
        // Where the option cannot be read, `::` counts as dual-stack.
        cells[V6ONLY] = cells[DUAL];
    }
    cells
}

/// The same where sockets are read by a helper, as on kernels before 6.2.
pub(crate) const BY_HELPER: &[Test] = &[("tcp_in_enforce", || {
    reading_by_helper(|| table(Kind::Tcp, true));
    DONE
})];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (protocol, kind) in [("tcp", Kind::Tcp), ("udp", Kind::Udp), ("mptcp", Kind::Mptcp)] {
        for (mode, enforce) in [("audit", false), ("enforce", true)] {
            trials.push(Trial::ignorable_test(format!("overlap::{protocol}_in_{mode}"), move || {
                if kind == Kind::Mptcp
                    && let Some(why) = skip_excuses::MPTCP.missing()
                {
                    return Ok(Completion::ignored_with(why));
                }
                table(kind, enforce);
                DONE
            }));
        }
    }
    trials
}

fn attempt(kind: Kind, (socket, address): (&str, &str), port: u16) -> Bind {
    let v6only = if address == "::" { Some(socket == "only") } else { None };
    // An address of the form `::ffff:a.b.c.d` stays one: it is bound on a v6 socket.
    Bind { v6: socket != "v4" && socket != "unspec", unspec: socket == "unspec", v6only, ..Bind::tcp(address, port) }
        .on(kind)
}

fn table(kind: Kind, enforce: bool) {
    let mut fixture = KernelFixture::with(|start| start.policy = if enforce { ENFORCE } else { AUDIT });
    let protocol = if kind == Kind::Udp { "udp" } else { "tcp" };
    let conflict =
        if enforce { (denied(), VerdictKind::Deny, Reason::Claimed) } else { (0, VerdictKind::Audit, Reason::Claimed) };
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut cells = 0;
    for (port, (claim, row)) in (20001..).zip(OVERLAPS) {
        let item = if claim == "*" { format!("{port}/{protocol}") } else { format!("{claim}:{port}/{protocol}") };
        let manifest = Pod::new(&format!("owner-{port}")).ports(&item);
        let mut owner = fixture.start(&manifest);
        for (&place, overlap) in ATTEMPTS.iter().zip(overlaps(row)) {
            let bind = attempt(kind, place, port);
            let allowed = if overlap { Reason::Owner } else { Reason::Unclaimed };
            let seen = fixture.attempt(&mut owner, &bind);
            assert_eq!(seen.result(), (0, VerdictKind::Allow, allowed), "owner of {item}: {bind:?}");

            let expected = if overlap { conflict } else { (0, VerdictKind::Allow, Reason::Unclaimed) };
            let seen = fixture.attempt(&mut stranger, &bind);
            assert_eq!(seen.result(), expected, "claim on {item}: {bind:?}");
            if overlap {
                assert_eq!(seen.owner(), manifest.full_name(), "claim on {item}: {bind:?}");
            }
            assert_eq!(seen.report().attempt.port, port);
            cells += 1;
        }
    }
    assert_eq!(cells, OVERLAPS.len() * ATTEMPTS.len());
}
