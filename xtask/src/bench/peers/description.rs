//! Description of the programs of others: a JSON file beside their object file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// Binds of a turn and of its warm-up in `enforcer/benches/measure`, in tenths of the ports that are bound in turn.
const TENTHS_OF_PORTS: u32 = 11;

/// Most ports that are bound in turn: as many as a turn has binds.
const MAX_PORTS: u16 = 1000;

/// A description, as its author writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    version: String,
    /// Path of the object file, from the folder of the description; else it has the description's name with `.o`.
    object: Option<PathBuf>,
    /// Hooks by the name of the program, which is that of its function.
    programs: BTreeMap<String, Hook>,
    #[serde(default)]
    globals: BTreeMap<String, Vec<Part>>,
    #[serde(default)]
    maps: BTreeMap<String, MapDescription>,
    #[serde(default)]
    order: Order,
}

/// Hook of the kernel that a socket, its bind or its close runs through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hook {
    SockCreate,
    Bind4,
    PostBind4,
    SockRelease,
}

/// Integers of one width, those without `be_` in the byte order of this machine; or the cookie of the network namespace
/// that the benchmark makes for itself, 8 bytes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    BeU16(Vec<u16>),
    BeU32(Vec<u32>),
    NetnsCookie,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MapDescription {
    max_entries: Option<u32>,
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: Vec<Part>,
    value: Vec<Part>,
}

/// What the measuring process does over and over: a TCP socket, bound and closed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    port: u16,
    ports: u16,
    reuse: bool,
    fails: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self { port: 40_000, ports: MAX_PORTS, reuse: false, fails: false }
    }
}

/// Programs of an object file, in the JSON form of `enforcer/benches/measure`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Peer {
    pub(super) name: String,
    #[serde(skip)]
    pub(super) version: String,
    object: PathBuf,
    programs: BTreeMap<String, Hook>,
    globals: BTreeMap<String, Bytes>,
    maps: BTreeMap<String, PeerMap>,
    port: u16,
    ports: u16,
    reuse: bool,
    fails: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct PeerMap {
    max_entries: Option<u32>,
    /// Keys and values.
    entries: Vec<(Bytes, Bytes)>,
}

/// Bytes, some of which the measuring program knows alone.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Bytes {
    bytes: Vec<u8>,
    /// Where the cookie of the network namespace belongs.
    netns_cookie_at: Vec<usize>,
}

impl Peer {
    /// Reads a description: `path` is the description itself, whose name ends in `.json`, or the object file beside it.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let description =
            if path.extension().is_some_and(|it| it == "json") { path.to_owned() } else { path.with_extension("json") };
        let text =
            fs::read_to_string(&description).with_context(|| format!("cannot read {}", description.display()))?;
        let peer = Self::parse(&text, &description).with_context(|| description.display().to_string())?;
        ensure!(
            peer.object.is_file(),
            "{}: the object file {} does not exist",
            description.display(),
            peer.object.display()
        );
        Ok(Self { object: fs::canonicalize(&peer.object)?, ..peer })
    }

    /// Parses the text of a description with this path.
    fn parse(text: &str, path: &Path) -> anyhow::Result<Self> {
        let Description { name, version, object, programs, globals, maps, order } = serde_json::from_str(text)?;
        ensure!(!name.trim().is_empty(), "`name` is empty");
        ensure!(
            !name.contains(['/', '|', '÷']),
            "`name` contains one of the characters / | ÷, which separate names here"
        );
        ensure!(
            !name.starts_with("ours") && !name.starts_with("empty"),
            "`name` begins as those of the programs that it is compared with: ours, empty"
        );
        ensure!(!programs.is_empty(), "`programs` is empty: it needs the name of at least one program and its hook");
        let hooks: BTreeSet<Hook> = programs.values().copied().collect();
        ensure!(hooks.len() == programs.len(), "`programs` has two programs at one hook");
        for (name, map) in &maps {
            let size = map.max_entries.unwrap_or(u32::MAX);
            ensure!(size > 0, "map {name}: `max_entries` is 0");
            ensure!(map.entries.len() <= size as usize, "map {name}: there are more `entries` than `max_entries`");
        }
        let Order { port, ports, reuse, fails } = order;
        ensure!(port > 0, "`order`: `port` is 0");
        ensure!((1..=MAX_PORTS).contains(&ports), "`order`: `ports` is {ports}, and must be 1 to {MAX_PORTS}");
        let last = u32::from(port) + u32::from(ports) * TENTHS_OF_PORTS / 10;
        ensure!(u16::try_from(last).is_ok(), "`order`: ports above 65535, with the tenth more that a turn begins with");

        let object = match object {
            Some(object) => path.parent().unwrap_or(Path::new("")).join(object),
            None => path.with_extension("o"),
        };
        let globals = globals.into_iter().map(|(name, parts)| (name, bytes(&parts))).collect();
        let maps = maps.into_iter().map(|(name, map)| {
            let entries = map.entries.iter().map(|entry| (bytes(&entry.key), bytes(&entry.value))).collect();
            (name, PeerMap { max_entries: map.max_entries, entries })
        });
        let maps = maps.collect();
        Ok(Self { name, version, object, programs, globals, maps, port, ports, reuse, fails })
    }
}

/// Returns the bytes of all parts, one after the other.
fn bytes(parts: &[Part]) -> Bytes {
    let Bytes { bytes: mut all, mut netns_cookie_at } = Bytes::default();
    for part in parts {
        match part {
            Part::U8(numbers) => all.extend(numbers),
            Part::U16(numbers) => all.extend(numbers.iter().flat_map(|number| number.to_ne_bytes())),
            Part::U32(numbers) => all.extend(numbers.iter().flat_map(|number| number.to_ne_bytes())),
            Part::U64(numbers) => all.extend(numbers.iter().flat_map(|number| number.to_ne_bytes())),
            Part::BeU16(numbers) => all.extend(numbers.iter().flat_map(|number| number.to_be_bytes())),
            Part::BeU32(numbers) => all.extend(numbers.iter().flat_map(|number| number.to_be_bytes())),
            Part::NetnsCookie => {
                netns_cookie_at.push(all.len());
                all.extend([0; size_of::<u64>()]);
            }
        }
    }
    Bytes { bytes: all, netns_cookie_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Peer> {
        Peer::parse(text, Path::new("folder/peer.json"))
    }

    fn plain(bytes: Vec<u8>) -> Bytes {
        Bytes { bytes, netns_cookie_at: Vec::new() }
    }

    /// Returns the complaint about a description of one program with these members more.
    fn complaint(members: &str) -> String {
        let base = r#""name": "x", "version": "1", "programs": { "f": "bind4" }"#;
        // Of two members with one name serde_json complains itself.
        let text = if members.contains("\"name\"") || members.contains("\"programs\"") {
            format!("{{ \"version\": \"1\", {members} }}")
        } else {
            format!("{{ {base}, {members} }}")
        };
        format!("{:#}", parse(&text).unwrap_err())
    }

    #[test]
    fn every_member_arrives_in_bytes() {
        let peer = parse(
            r#"{
                "name": "a peer", "version": "1.2", "object": "../other.o",
                "programs": { "f": "bind4", "g": "sock_release" },
                "globals": { "enabled": [{ "u8": [1] }, "netns_cookie"] },
                "maps": { "rules": { "max_entries": 2, "entries": [
                    { "key": [{ "u32": [0] }], "value": [{ "u16": [2] }, { "be_u16": [258] }, { "u64": [7] }] }
                ] } },
                "order": { "port": 30000, "ports": 1, "reuse": true }
            }"#,
        )
        .unwrap();
        let value = [&2_u16.to_ne_bytes()[..], &[1, 2], &7_u64.to_ne_bytes()].concat();
        let rules = PeerMap { max_entries: Some(2), entries: vec![(plain(vec![0; 4]), plain(value))] };
        let enabled = Bytes { bytes: vec![1, 0, 0, 0, 0, 0, 0, 0, 0], netns_cookie_at: vec![1] };
        let expected = Peer {
            name: "a peer".to_owned(),
            version: "1.2".to_owned(),
            object: "folder/../other.o".into(),
            programs: [("f".to_owned(), Hook::Bind4), ("g".to_owned(), Hook::SockRelease)].into(),
            globals: [("enabled".to_owned(), enabled)].into(),
            maps: [("rules".to_owned(), rules)].into(),
            port: 30_000,
            ports: 1,
            reuse: true,
            fails: false,
        };
        assert_eq!(peer, expected);
    }

    #[test]
    fn object_file_has_the_name_of_the_description() {
        let peer = parse(r#"{ "name": "x", "version": "1", "programs": { "f": "post_bind4" } }"#).unwrap();
        assert_eq!(peer.object, Path::new("folder/peer.o"));
        assert_eq!((peer.port, peer.ports), (40_000, 1000));
    }

    #[test]
    fn documented_description_is_right() {
        let page = fs::read_to_string(crate::process::workspace_root().join("docs/benchmark.md")).unwrap();
        let (_, block) = page.split_once("```json\n").unwrap();
        let peer = parse(block.split_once("```").unwrap().0).unwrap();
        assert_eq!(peer.programs["filter_release"], Hook::SockRelease);
        assert_eq!(peer.maps["filter_rules"].entries[1].1.bytes.len(), 12);
    }

    #[test]
    fn wrong_description_gets_a_sentence() {
        for (members, part) in [
            (r#""name": " ", "programs": { "f": "bind4" }"#, "`name` is empty"),
            (r#""name": "a/b", "programs": { "f": "bind4" }"#, "contains one of the characters"),
            (r#""name": "ours", "programs": { "f": "bind4" }"#, "begins as those"),
            (r#""name": "x", "programs": {}"#, "at least one program"),
            (r#""name": "x", "programs": { "f": "bind4", "g": "bind4" }"#, "two programs at one hook"),
            (r#""name": "x", "programs": { "f": "bind6" }"#, "unknown variant `bind6`, expected one of `sock_create`"),
            (r#""map": {}"#, "unknown field `map`, expected one of"),
            (r#""maps": { "m": { "max_entries": 0 } }"#, "map m: `max_entries` is 0"),
            (
                r#""maps": { "m": { "max_entries": 1, "entries": [
                    { "key": [], "value": [] }, { "key": [], "value": [] }
                ] } }"#,
                "more `entries` than `max_entries`",
            ),
            (r#""globals": { "g": [{ "u8": [256] }] }"#, "invalid value: integer `256`, expected u8"),
            (r#""globals": { "g": [{ "u7": [1] }] }"#, "unknown variant `u7`"),
            (r#""globals": { "g": ["cookie"] }"#, "unknown variant `cookie`"),
            (r#""order": { "port": 0 }"#, "`port` is 0"),
            (r#""order": { "ports": 0 }"#, "must be 1 to 1000"),
            (r#""order": { "ports": 1001 }"#, "must be 1 to 1000"),
            (r#""order": { "port": 65000 }"#, "ports above 65535"),
            (r#""order": { "port": -1 }"#, "expected u16"),
        ] {
            let complaint = complaint(members);
            assert!(complaint.contains(part), "{members}: {complaint}");
        }
        assert!(format!("{:#}", parse("rubbish").unwrap_err()).contains("expected value at line 1"));
        assert!(format!("{:#}", parse("{}").unwrap_err()).contains("missing field `name`"));
    }

    #[test]
    fn missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let object = folder.path().join("peer.o");
        let complaint = format!("{:#}", Peer::read(&object).unwrap_err());
        assert!(complaint.contains("cannot read") && complaint.contains("peer.json"), "{complaint}");
        let text = r#"{ "name": "x", "version": "1", "programs": { "f": "bind4" } }"#;
        fs::write(folder.path().join("peer.json"), text).unwrap();
        let complaint = format!("{:#}", Peer::read(&object).unwrap_err());
        assert!(complaint.contains("peer.o does not exist"), "{complaint}");
        fs::write(&object, "").unwrap();
        assert_eq!(Peer::read(&object).unwrap(), Peer::read(&folder.path().join("peer.json")).unwrap());
    }
}
