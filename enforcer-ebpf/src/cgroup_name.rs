//! From the name of a pod's cgroup to the pod's UID, with fixed offsets only: the verifier of old kernels refuses a
//! search through a string.
//!
//! The names that the kubelet gives a pod's cgroup (pkg/kubelet/cm in the Kubernetes sources):
//!
//! | driver | name |
//! | --- | --- |
//! | cgroupfs | `pod<UID>` |
//! | systemd | `<parents>-pod<UID>.slice`, with `_` for `-` inside the UID |
//!
//! A static pod's UID is 32 hex digits without dashes.

use crate::wire::{PodUid, UidForm};

/// Characters of a UID with dashes.
pub const API_LEN: usize = 36;
/// Characters of a UID without dashes.
pub const STATIC_LEN: usize = 32;
/// Length of a cgroupfs driver's name for a pod with an API UID.
pub const CGROUPFS_API: usize = 3 + API_LEN;
/// Length of a cgroupfs driver's name for a static pod.
pub const CGROUPFS_STATIC: usize = 3 + STATIC_LEN;
/// Bytes at the end of a systemd driver's name that hold `-pod<UID>.slice`.
pub const TAIL: usize = 4 + API_LEN + 6;

/// Reads a name of the cgroupfs driver. `len` is the length of the whole name; of `head`, its beginning, the first
/// `len` bytes are looked at.
#[must_use]
#[inline(always)]
pub fn from_cgroupfs(head: &[u8; CGROUPFS_API], len: usize) -> Option<(PodUid, UidForm)> {
    if head[0] != b'p' || head[1] != b'o' || head[2] != b'd' {
        return None;
    }
    if len == CGROUPFS_API {
        return Some((dashed(head, 3)?, UidForm::Api));
    }
    if len == CGROUPFS_STATIC {
        return Some((plain(head, 3)?, UidForm::Static));
    }
    None
}

/// Reads the last [`TAIL`] bytes of a name of the systemd driver.
#[must_use]
#[inline(always)]
pub fn from_systemd(tail: &[u8; TAIL]) -> Option<(PodUid, UidForm)> {
    if tail.last_chunk() != Some(b".slice") {
        return None;
    }
    if is_prefix(tail, 0) {
        return Some((dashed(tail, 4)?, UidForm::Api));
    }
    let shift = API_LEN - STATIC_LEN;
    if is_prefix(tail, shift) {
        return Some((plain(tail, shift + 4)?, UidForm::Static));
    }
    None
}

#[inline(always)]
fn is_prefix(bytes: &[u8; TAIL], at: usize) -> bool {
    bytes[at] == b'-' && bytes[at + 1] == b'p' && bytes[at + 2] == b'o' && bytes[at + 3] == b'd'
}

/// Groups of 8, 4, 4, 4 and 12 digits. Written out: a loop that the compiler does not unroll would need checks of
/// bounds, and so a panic, which the verifier refuses.
#[inline(always)]
fn dashed<const N: usize>(bytes: &[u8; N], at: usize) -> Option<PodUid> {
    let is_dash = |place: usize| bytes[at + place] == b'-' || bytes[at + place] == b'_';
    if !(is_dash(8) && is_dash(13) && is_dash(18) && is_dash(23)) {
        return None;
    }
    let pair = |place: usize| byte(bytes[at + place], bytes[at + place + 1]);
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

#[inline(always)]
fn plain<const N: usize>(bytes: &[u8; N], at: usize) -> Option<PodUid> {
    let pair = |place: usize| byte(bytes[at + place], bytes[at + place + 1]);
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
fn byte(high: u8, low: u8) -> Option<u8> {
    Some(nibble(high)? << 4 | nibble(low)?)
}

/// Lower case only: neither the API server nor the kubelet writes anything else, and a name in another case would be
/// a second name for the same pod.
#[inline(always)]
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Reads a whole name, of either driver, as the kernel programs do.
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
    fn every_driver_and_form() {
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
    fn what_is_not_a_pod() {
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
        fn never_panics(name in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = pod_uid(&name);
        }

        #[test]
        fn reads_what_is_written(uid in any::<PodUid>(), systemd in any::<bool>(), form in prop_oneof![Just(UidForm::Api), Just(UidForm::Static)]) {
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
