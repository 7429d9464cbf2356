//! Label sets, each made from closed lists only.

use enforcer_ebpf::wire::{KernelError, Protocol, Reason, VerdictKind};

use enforcer_core::{
    k8s_events::DropReason,
    model::{mode::Mode, port_spec::protocol_name},
    views::unenforced_time::GapCause,
};

use crate::k8s::{ApiErrorKind, ApiResource};

/// Names and values.
pub(super) type Labels<const COUNT: usize> = [(&'static str, &'static str); COUNT];

/// State of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimStateLabel {
    InForce,
    Lost,
}

/// A kernel map that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    Ports,
    Owners,
    Exact,
    Uids,
    Cgroups,
}

pub(super) fn attempt(verdict: VerdictKind, reason: Reason, protocol: Protocol) -> Labels<3> {
    [("verdict", verdict.as_str()), ("reason", reason.as_str()), ("protocol", protocol_name(protocol))]
}

pub(super) fn kernel_error(kind: KernelError) -> Labels<1> {
    [("kind", kind.as_str())]
}

/// Labels of a ring of the kernel programs.
pub(super) fn ring(name: &'static str) -> Labels<1> {
    [("ring", name)]
}

pub(super) fn api_error(resource: ApiResource, kind: ApiErrorKind) -> Labels<2> {
    [("resource", resource.as_str()), ("kind", kind.as_str())]
}

/// Returns the label of one of [`enforcer_core::index::Notice::PROBLEMS`].
pub(super) fn claim_problem(kind: &'static str) -> Labels<1> {
    [("kind", kind)]
}

pub(super) fn watch(resource: ApiResource) -> Labels<1> {
    [("resource", resource.as_str())]
}

pub(super) fn claim_state(state: ClaimStateLabel) -> Labels<1> {
    let word = match state {
        ClaimStateLabel::InForce => "in_force",
        ClaimStateLabel::Lost => "lost",
    };
    [("state", word)]
}

pub(super) fn mode(mode: Mode) -> Labels<1> {
    [("mode", mode.as_str())]
}

pub(super) fn cause(cause: GapCause) -> Labels<1> {
    [("cause", cause.as_str())]
}

pub(super) fn drop_reason(reason: DropReason) -> Labels<1> {
    [("cause", reason.as_str())]
}

pub(super) fn map(map: Map) -> Labels<1> {
    let name = match map {
        Map::Ports => "ports",
        Map::Owners => "owners",
        Map::Exact => "exact",
        Map::Uids => "uids",
        Map::Cgroups => "cgroups",
    };
    [("map", name)]
}
