//! Parser of the names of pod cgroups: from the name to the pod's UID.
//!
//! It reads at fixed offsets only: the verifier of old kernels refuses a search through a string. The kubelet names a
//! pod's cgroup as follows (pkg/kubelet/cm in the Kubernetes sources):
//!
//! | driver | name |
//! | --- | --- |
//! | cgroupfs | `pod<UID>` |
//! | systemd | `<parents>-pod<UID>.slice`, with `_` for `-` inside the UID |
//!
//! A static pod's UID is 32 hex digits without dashes.

use crate::wire::{PodUid, UidForm};

/// Length in bytes of a UID with dashes, as the API server issues it.
pub const API_LEN: usize = 36;
/// Length in bytes of a UID without dashes, as the kubelet makes it for a static pod.
pub const STATIC_LEN: usize = 32;
/// Length in bytes of the cgroupfs driver's name for a pod with a UID of the API server.
pub const CGROUPFS_API: usize = 3 + API_LEN;
/// Length in bytes of the cgroupfs driver's name for a static pod.
pub const CGROUPFS_STATIC: usize = 3 + STATIC_LEN;
/// Length in bytes of `-pod<UID>.slice`, the end of the systemd driver's name for a pod.
pub const TAIL: usize = 4 + API_LEN + 6;

/// Parses a name of the cgroupfs driver. `len` is the length of the name in bytes. `head` is its beginning; bytes from
/// `len` on are ignored.
#[must_use]
#[inline(always)]
pub fn from_cgroupfs(head: &[u8; CGROUPFS_API], len: usize) -> Option<(PodUid, UidForm)> {
    if head[0] != b'p' || head[1] != b'o' || head[2] != b'd' {
        return None;
    }
    if len == CGROUPFS_API {
        return Some((parse_dashed(head, 3)?, UidForm::Api));
    }
    if len == CGROUPFS_STATIC {
        return Some((parse_plain(head, 3)?, UidForm::Static));
    }
    None
}

/// Parses a name of the systemd driver, of which `tail` is the end.
#[must_use]
#[inline(always)]
pub fn from_systemd(tail: &[u8; TAIL]) -> Option<(PodUid, UidForm)> {
    if tail.last_chunk() != Some(b".slice") {
        return None;
    }
    if is_pod_prefix(tail, 0) {
        return Some((parse_dashed(tail, 4)?, UidForm::Api));
    }
    let shift = API_LEN - STATIC_LEN;
    if is_pod_prefix(tail, shift) {
        return Some((parse_plain(tail, shift + 4)?, UidForm::Static));
    }
    None
}

#[inline(always)]
fn is_pod_prefix(bytes: &[u8; TAIL], at: usize) -> bool {
    bytes[at] == b'-' && bytes[at + 1] == b'p' && bytes[at + 2] == b'o' && bytes[at + 3] == b'd'
}

/// Parses groups of 8, 4, 4, 4 and 12 digits. Without a loop: one that the compiler does not unroll would need bounds
/// checks, and so a panic function, which the verifier refuses.
#[inline(always)]
fn parse_dashed<const N: usize>(bytes: &[u8; N], at: usize) -> Option<PodUid> {
    let is_dash = |offset: usize| bytes[at + offset] == b'-' || bytes[at + offset] == b'_';
    if !(is_dash(8) && is_dash(13) && is_dash(18) && is_dash(23)) {
        return None;
    }
    let pair = |offset: usize| parse_byte(bytes[at + offset], bytes[at + offset + 1]);
    Some([
        pair(0)?,
        pair(2)?,
        pair(4)?,
        pair(6)?,
        pair(9)?,
        pair(11)?,
        pair(14)?,
        pair(16)?,
        pair(19)?,
        pair(21)?,
        pair(24)?,
        pair(26)?,
        pair(28)?,
        pair(30)?,
        pair(32)?,
        pair(34)?,
    ])
}

/// Parses 32 digits.
#[inline(always)]
fn parse_plain<const N: usize>(bytes: &[u8; N], at: usize) -> Option<PodUid> {
    let pair = |offset: usize| parse_byte(bytes[at + offset], bytes[at + offset + 1]);
    Some([
        pair(0)?,
        pair(2)?,
        pair(4)?,
        pair(6)?,
        pair(8)?,
        pair(10)?,
        pair(12)?,
        pair(14)?,
        pair(16)?,
        pair(18)?,
        pair(20)?,
        pair(22)?,
        pair(24)?,
        pair(26)?,
        pair(28)?,
        pair(30)?,
    ])
}

#[inline(always)]
fn parse_byte(high: u8, low: u8) -> Option<u8> {
    Some(parse_digit(high)? << 4 | parse_digit(low)?)
}

/// Parses a hex digit in lower case. Neither the API server nor the kubelet writes upper case, and it would make a
/// second name for the same pod.
#[inline(always)]
fn parse_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Parses a name of either driver, as the kernel programs do.
#[must_use]
pub fn pod_uid(name: &[u8]) -> Option<(PodUid, UidForm)> {
    if name.len() == CGROUPFS_API || name.len() == CGROUPFS_STATIC {
        let mut head = [0; CGROUPFS_API];
        head[..name.len()].copy_from_slice(name);
        return from_cgroupfs(&head, name.len());
    }
    from_systemd(name.last_chunk::<TAIL>()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: PodUid =
        [0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8, 0xf9];

    #[test]
    fn uid_of_every_driver_and_form_is_parsed() {
        for (name, form) in [
            ("pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", UidForm::Api),
            ("pod0a1b2c3d4e5f60718293a4b5c6d7e8f9", UidForm::Static),
            ("kubepods-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice", UidForm::Api),
            ("kubepods-burstable-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice", UidForm::Api),
            ("kubelet-kubepods-besteffort-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice", UidForm::Api),
            ("kubepods-burstable-pod0a1b2c3d4e5f60718293a4b5c6d7e8f9.slice", UidForm::Static),
            ("kubepods-pod0a1b2c3d4e5f60718293a4b5c6d7e8f9.slice", UidForm::Static),
        ] {
            assert_eq!(pod_uid(name.as_bytes()), Some((UID, form)), "{name}");
        }
    }

    #[test]
    fn other_names_have_no_uid() {
        for name in [
            "",
            "pod",
            "kubepods.slice",
            "kubepods-besteffort.slice",
            "pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fg",
            "pod0A1B2C3D-4e5f-6071-8293-a4b5c6d7e8f9",
            "pod0a1b2c3d+4e5f-6071-8293-a4b5c6d7e8f9",
            "nod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            "pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9x",
            "kubepods-burstable-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.scope",
            "kubepods-burstable-nod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice",
            "cri-containerd-0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9.scope",
        ] {
            assert_eq!(pod_uid(name.as_bytes()), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_parsed_without_panic(name in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = pod_uid(&name);
        }

        #[test]
        fn written_uid_is_parsed_back(uid in any::<PodUid>(), systemd in any::<bool>(), form in prop_oneof![Just(UidForm::Api), Just(UidForm::Static)]) {
            let hex = format!("{:032x}", u128::from_be_bytes(uid));
            let dash = if systemd { "_" } else { "-" };
            let written = match form {
                UidForm::Api => [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join(dash),
                UidForm::Static => hex,
            };
            let name = if systemd { format!("kubepods-besteffort-pod{written}.slice") } else { format!("pod{written}") };
            prop_assert_eq!(pod_uid(name.as_bytes()), Some((uid, form)));
        }
    }
}
