//! The grammar of the annotation `port-enforcer.io/ports`, which the flags that take ports share.
//!
//! A list of items, separated by commas or ASCII white space or several of both:
//!
//! ```text
//! item = [ADDRESS:]PORT[-PORT][/PROTOCOL]
//! ```
//!
//! `80`, `53/udp`, `8000-8010/tcp`, `127.0.0.1:9099/tcp`, `[::1]:53/udp`. The protocol is `tcp` (default), `udp` or
//! `sctp`, in upper or lower case; without an address, every address of both families is meant. `none` alone stands
//! for no ports. Numbers are decimal and may have leading zeros.
//!
//! Whoever writes a manifest writes this text, so nothing in it is fatal: a bad item is an [`ItemProblem`] and the good
//! ones count. The time is linear in the text, and what is kept of bad items is bounded.

use std::str::FromStr;

use enforcer_ebpf::wire::Protocol;

use crate::model::{
    port_spec::{Address, AddressError, PortRange, PortRangeError, PortSpec, decimal, protocol_from_name},
    text::escape_bounded,
};

/// Most characters of an item. The longest one there is, an IPv6 address that ends as an IPv4 address and a range,
/// has exactly as many.
pub const MAX_ITEM: usize = 64;
/// Most problems that are kept of one text or one pod; the others are counted.
pub const MAX_PROBLEMS: usize = 32;

/// Items and problems of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The good items, in their order. They may overlap or repeat each other.
    pub specs: Vec<PortSpec>,
    /// The first bad items, [`MAX_PROBLEMS`] at most.
    pub problems: Vec<ItemProblem>,
    /// Number of bad items beyond those.
    pub more_problems: usize,
}

/// A bad item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("item '{item}' at character {position}: {kind}")]
pub struct ItemProblem {
    /// Position where the item begins, in characters of the text; the first one is 1.
    pub position: usize,
    /// The item, safe to show: escaped and cut to [`MAX_ITEM`] characters.
    pub item: String,
    /// Kind of problem.
    pub kind: ItemProblemKind,
}

/// Kind of problem of an item. A closed list, in words that say what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ItemProblemKind {
    /// The item is nothing that this grammar knows.
    #[error("this is not a port; write [ADDRESS:]PORT[-PORT][/PROTOCOL], as in 80/tcp or 8000-8010")]
    Malformed,
    /// More than [`MAX_ITEM`] characters.
    #[error("an item has at most {MAX_ITEM} characters; separate items by commas or spaces")]
    TooLong,
    /// An address and nothing else.
    #[error("the port is missing; write it after the address, as in 127.0.0.1:80 or [::1]:80")]
    MissingPort,
    /// Port 0.
    #[error("port 0 cannot be claimed; ports are 1 to 65535")]
    PortZero,
    /// A port above 65535.
    #[error("the port is too large; ports are 1 to 65535")]
    PortTooLarge,
    /// A range whose last port is below its first.
    #[error("the range is reversed; write the lower port first, as in 8000-8010")]
    ReversedRange,
    /// A protocol other than those that can be claimed.
    #[error("the protocol is unknown; write /tcp, /udp or /sctp")]
    UnknownProtocol,
    /// An address that is none.
    #[error("the address is not an IP address; write one, as in 127.0.0.1:80, or the port alone for all addresses")]
    BadAddress,
    /// An address with a zone.
    #[error("the address has a zone (%), which a claim cannot have; write the address without it")]
    Zone,
    /// The end of an IPv6 address cannot be distinguished from a port.
    #[error("an IPv6 address needs brackets, as in [::1]:53/udp")]
    MissingBrackets,
    /// The item `none` is beside other items.
    #[error("none stands alone; remove it or the other items")]
    NoneWithOthers,
}

/// Reads a text. Never fails: what is bad is in [`Parsed::problems`].
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (_, item) in items(text) {
        match item {
            Ok(spec) => parsed.specs.push(spec),
            Err(problem) => keep(&mut parsed.problems, &mut parsed.more_problems, problem),
        }
    }
    parsed
}

/// Reads a text whose author is there to correct it: a flag of the command line.
///
/// # Errors
///
/// The first bad item.
pub fn parse_list(text: &str) -> Result<Vec<PortSpec>, ItemProblem> {
    items(text).map(|(_, item)| item).collect()
}

/// Returns the items of a text one by one, in their order, read as they are asked for. Each comes with its position,
/// see [`ItemProblem::position`].
pub fn items(text: &str) -> impl Iterator<Item = (usize, Result<PortSpec, ItemProblem>)> {
    let none = claims_nothing(text);
    raw_items(text).filter(move |_| !none).map(|(position, item)| {
        let read = if item == "none" { Err(ItemProblemKind::NoneWithOthers) } else { item.parse() };
        (position, read.map_err(|kind| ItemProblem { position, item: escape_bounded(item, MAX_ITEM), kind }))
    })
}

/// Checks whether a text states that nothing is claimed.
#[must_use]
pub fn claims_nothing(text: &str) -> bool {
    text.trim_matches(is_separator) == "none"
}

/// Keeps a problem if there is room, else counts it.
pub(super) fn keep<T>(problems: &mut Vec<T>, more: &mut usize, problem: T) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(problem);
    } else {
        *more += 1;
    }
}

fn is_separator(character: char) -> bool {
    character == ',' || character.is_ascii_whitespace()
}

/// Returns the items with their 1-based position in characters.
fn raw_items(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut position = 1;
    text.split(is_separator).filter_map(move |item| {
        let start = position;
        // A separator is one character.
        position += item.chars().count() + 1;
        (!item.is_empty()).then_some((start, item))
    })
}

/// One item of the grammar.
impl FromStr for PortSpec {
    type Err = ItemProblemKind;

    fn from_str(item: &str) -> Result<Self, Self::Err> {
        if item.chars().nth(MAX_ITEM).is_some() {
            return Err(ItemProblemKind::TooLong);
        }
        let (place, protocol) = match item.split_once('/') {
            None => (item, Protocol::Tcp),
            Some((place, name)) => (place, protocol_from_name(name).ok_or(ItemProblemKind::UnknownProtocol)?),
        };
        let (address, ports) = split_address(place)?;
        Ok(Self { protocol, address, ports: ports.parse()? })
    }
}

/// Splits `[ADDRESS:]PORTS`, and reads the address.
fn split_address(place: &str) -> Result<(Address, &str), ItemProblemKind> {
    if let Some(rest) = place.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(ItemProblemKind::Malformed)?;
        if !address.contains(':') {
            return Err(ItemProblemKind::BadAddress);
        }
        let address = address.parse()?;
        let ports = rest.strip_prefix(':').unwrap_or(rest);
        return match ports {
            "" => Err(ItemProblemKind::MissingPort),
            _ if ports.len() == rest.len() => Err(ItemProblemKind::Malformed),
            _ => Ok((address, ports)),
        };
    }
    match place.rsplit_once(':') {
        None if place.parse::<Address>().is_ok() => Err(ItemProblemKind::MissingPort),
        None => Ok((Address::Any, place)),
        // Two colons: an IPv6 address, or nothing we know.
        Some((address, ports)) if address.contains(':') => {
            let is_address = |text: &str| !matches!(text.parse::<Address>(), Err(AddressError::Malformed));
            if is_address(place) || is_address(address) && ports.parse::<PortRange>().is_ok() {
                Err(ItemProblemKind::MissingBrackets)
            } else {
                Err(ItemProblemKind::Malformed)
            }
        }
        Some(("", _)) => Err(ItemProblemKind::BadAddress),
        Some((_, "")) => Err(ItemProblemKind::MissingPort),
        Some((address, ports)) => Ok((address.parse()?, ports)),
    }
}

/// Form `PORT[-PORT]`.
impl FromStr for PortRange {
    type Err = ItemProblemKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (decimal(first), decimal(last));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(ItemProblemKind::Malformed);
        };
        let (Ok(first), Ok(last)) = (first.try_into(), last.try_into()) else {
            return Err(ItemProblemKind::PortTooLarge);
        };
        Ok(Self::new(first, last)?)
    }
}

impl From<AddressError> for ItemProblemKind {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Malformed => Self::BadAddress,
            AddressError::Zone => Self::Zone,
        }
    }
}

impl From<PortRangeError> for ItemProblemKind {
    fn from(error: PortRangeError) -> Self {
        match error {
            PortRangeError::Zero => Self::PortZero,
            PortRangeError::Reversed => Self::ReversedRange,
        }
    }
}

#[cfg(test)]
mod tests;
