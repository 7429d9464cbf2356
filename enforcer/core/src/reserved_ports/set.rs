//! A set of port numbers, as the kernel's list of reserved ports has it.
//!
//! A bit array of a fixed size: `fixedbitset` or `roaring` would save some twenty lines, and neither reads or writes the
//! kernel's format, which most of this file is about.

use std::fmt;

const WORDS: usize = 1 << 10;

/// Port numbers, 0 included: the kernel's list may hold it, and what others wrote there is theirs.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

/// A text that is no list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no port and no range of ports", crate::model::text::escape_bounded(.0, 40))]
pub struct PortSetError(String);

impl PortSet {
    /// Reads a list like `8080,9000-9002`, as the kernel writes it: in any order, overlaps and a closing line feed
    /// allowed.
    ///
    /// # Errors
    ///
    /// If an item is neither a port nor a range.
    pub fn parse(text: &str) -> Result<Self, PortSetError> {
        let mut set = Self::default();
        for item in text.trim_ascii().split(',').filter(|item| !item.is_empty()) {
            let failed = || PortSetError(item.to_owned());
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let port = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                if digits { text.parse::<u16>().ok() } else { None }
            };
            let (first, last) = (port(first).ok_or_else(failed)?, port(last).ok_or_else(failed)?);
            if first > last {
                return Err(failed());
            }
            for port in first..=last {
                set.insert(port);
            }
        }
        Ok(set)
    }

    /// Adds a port. Returns whether it is new.
    pub fn insert(&mut self, port: u16) -> bool {
        let (word, bit) = place(port);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Checks whether the set has the port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    /// Checks whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Returns the number of ports, at most 65,536.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Returns the ports, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|port| self.contains(*port))
    }

    /// Returns the ports of both sets.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.zip(other, |one, other| one | other)
    }

    /// Returns the ports that both sets have.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.zip(other, |one, other| one & other)
    }

    /// Returns the ports that only this set has.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.zip(other, |one, other| one & !other)
    }

    fn zip(&self, other: &Self, join: impl Fn(u64, u64) -> u64) -> Self {
        let mut words = self.0.clone();
        for (word, other) in words.iter_mut().zip(other.0.iter()) {
            *word = join(*word, *other);
        }
        Self(words)
    }

    /// Returns the fewest items for the set: `8080`, `9000-9002`.
    fn items(&self) -> Vec<String> {
        let mut items = Vec::new();
        let mut ports = self.iter().peekable();
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|next| *next == last.saturating_add(1)) {
                last = next;
            }
            items.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        items
    }

    /// Returns the list in as few texts as possible of at most `most` bytes each, no item cut in two. An empty set is
    /// one line feed, which the kernel takes for the empty list.
    #[must_use]
    pub fn texts(&self, most: usize) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for item in self.items() {
            match texts.last_mut() {
                Some(text) if text.len() + 1 + item.len() <= most => {
                    text.push(',');
                    text.push_str(&item);
                }
                _ => texts.push(item),
            }
        }
        if texts.is_empty() {
            texts.push("\n".to_owned());
        }
        texts
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port >> 6), 1 << (port & 63))
}

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::default();
        for port in ports {
            set.insert(port);
        }
        set
    }
}

/// Form that the kernel writes, without the line feed.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.items().join(","))
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}
