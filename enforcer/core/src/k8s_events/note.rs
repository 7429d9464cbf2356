//! Notes and names of Events.

use crate::{
    k8s_events::{
        EventObject, EventReason,
        series::{GATHERED, SeriesKey},
    },
    model::{list_text::and_list, name::Name, port_spec::PortList, text::escape},
    reports::messages::port_list,
};

/// Longest note, in bytes: what the API server takes.
pub const MAX_NOTE: usize = 1024;
/// Longest name of an object (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// Most occurrences that a note names; the others are a number.
pub(super) const MAX_NAMED: usize = 3;
/// Most ports of one loser that are listed.
const MAX_PORTS: usize = 4;

/// Returns the line of a loser with its ports.
pub(super) fn loser(name: &Name, ports: &PortList) -> String {
    format!("{name} ({})", port_list(ports, MAX_PORTS))
}

/// Returns the note of a series, at most [`MAX_NOTE`] bytes.
pub(super) fn note(key: &SeriesKey, lines: &[String], different: usize, node: &str) -> String {
    let text = if key.detail == GATHERED {
        gathered(key, lines, different, &escape(node))
    } else {
        lines.first().cloned().unwrap_or_default()
    };
    cut(text)
}

fn gathered(key: &SeriesKey, lines: &[String], different: usize, node: &str) -> String {
    let who = match lines {
        [first, ..] if different > lines.len() => {
            let others = different - 1;
            format!("{first} and {others} {}", if others == 1 { "other" } else { "others" })
        }
        lines => and_list(lines, MAX_NAMED),
    };
    let whose = match key.object {
        EventObject::Pod(_) => "this pod",
        EventObject::Service(_) => "this Service",
        EventObject::Node(_) => "the node",
    };
    let s = if different > 1 { "s" } else { "" };
    match key.reason {
        EventReason::PortBindDenied => {
            format!("bind{s} by {who} denied on {node} (mode enforce): claimed by {whose}")
        }
        EventReason::PortBindAudited => {
            format!("bind{s} by {who} audited on {node} (mode audit): claimed by {whose}")
        }
        EventReason::PortInUse => format!("bind{s} by {who} failed on {node}: held by {whose}"),
        EventReason::PortAnsweredByOther => {
            let (are, ports) = if different > 1 { ("are", "their ports") } else { ("is", "its port") };
            format!("{who} {are} Ready on {node}, but {whose} answers {ports}")
        }
        EventReason::PortClaimConflict
        | EventReason::PortClaimInvalid
        | EventReason::PortIdentityRejected
        | EventReason::PortClaimGranted => {
            let lost = if different > 1 { "lose" } else { "loses" };
            format!("claim{s} of {who} {lost} on {node}: in force for {whose}, and granted when it goes")
        }
    }
}

/// Cuts at the end of a character, and marks the cut.
fn cut(mut text: String) -> String {
    const MARK: &str = "…";
    if text.len() > MAX_NOTE {
        text.truncate(text.floor_char_boundary(MAX_NOTE - MARK.len()));
        text.push_str(MARK);
    }
    text
}

/// Returns a name for an Event, as the API's own clients make them: the object's, and the time in hexadecimal. `wall`
/// is in microseconds since 1970; `number` distinguishes Events of one moment.
pub(super) fn event_name(object: &EventObject, wall: i64, number: u64) -> String {
    let suffix = format!(".{wall:x}{:04x}", number & 0xffff);
    let name = object.name();
    let name = name[..name.floor_char_boundary(MAX_NAME - suffix.len())].trim_end_matches(['.', '-']);
    format!("{name}{suffix}")
}
