//! Digests of texts: short, the same for every build of the agent.

use std::fmt;

/// SHA-256 where the agent runs: its TLS brings this one, in assembly. Every pod that changes is digested several times.
#[cfg(target_os = "linux")]
mod sha256 {
    use ring::digest::{Context, SHA256};

    pub(super) struct Sha256(Context);

    impl Sha256 {
        pub(super) fn new() -> Self {
            Self(Context::new(&SHA256))
        }

        pub(super) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        pub(super) fn first_bytes(self) -> Option<[u8; 16]> {
            self.0.finish().as_ref().first_chunk().copied()
        }
    }
}

/// SHA-256 elsewhere, where the crate has to build without a C compiler.
#[cfg(any(test, not(target_os = "linux")))]
mod portable {
    use sha2::Digest as _;

    pub(super) struct Sha256(sha2::Sha256);

    impl Sha256 {
        pub(super) fn new() -> Self {
            Self(sha2::Sha256::new())
        }

        pub(super) fn update(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        pub(super) fn first_bytes(self) -> Option<[u8; 16]> {
            self.0.finalize().first_chunk().copied()
        }
    }
}

#[cfg(not(target_os = "linux"))]
use portable as sha256;

use sha256::Sha256;

/// The first 128 bits of a SHA-256. A tenant chooses some of the texts, and must not find one that passes for another
/// tenant's; a plain hash would not do.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// Returns the digest of texts in a row, each with its length, so that `ab`, `c` is not `a`, `bc`. `kind` sets
    /// digests of different things apart.
    #[must_use]
    pub fn of<'a>(kind: &'a str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut context = Sha256::new();
        for text in std::iter::once(kind).chain(texts) {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
        Self::first_bytes(context)
    }

    /// Returns the digest of bytes as they are.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let mut context = Sha256::new();
        context.update(bytes);
        Self::first_bytes(context)
    }

    fn first_bytes(context: Sha256) -> Self {
        // A SHA-256 has 32 bytes.
        Self(context.first_bytes().unwrap_or_default())
    }

    /// Returns the first 64 bits, for a checksum.
    #[must_use]
    pub fn short(self) -> [u8; 8] {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        first
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_implementations_give_the_same_digest() {
        for length in [0, 1, 55, 56, 64, 504, 512] {
            let bytes: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
            let mut other = portable::Sha256::new();
            other.update(&bytes);
            assert_eq!(Some(Digest::of_bytes(&bytes).0), other.first_bytes(), "{length} bytes");
        }
    }

    #[test]
    fn a_digest_is_the_same_for_every_build() {
        // `printf abc | sha256sum`
        assert_eq!(format!("{:?}", Digest::of_bytes(b"abc")), "ba7816bf8f01cfea414140de5dae2223");
        let framed = b"\x04\0\0\0\0\0\0\0kind\x01\0\0\0\0\0\0\0a";
        assert_eq!(Digest::of("kind", ["a"]), Digest::of_bytes(framed));
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        let all = [
            Digest::of("kind", ["ab", "c"]),
            Digest::of("kind", ["a", "bc"]),
            Digest::of("kind", ["abc"]),
            Digest::of("kind", ["abc", ""]),
            Digest::of("kin", ["dabc"]),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[place + 1..].contains(one), "{one:?}");
        }
    }
}
