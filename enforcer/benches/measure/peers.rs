//! Programs of others, from object files that are no part of the product, beside ours and the empty ones.
//!
//! `cargo xtask bench peers` reads their descriptions and says here in JSON what is to be loaded. Each is compared
//! where the same binds run through our programs, of the agent as shipped, and through empty ones.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
    programs::Program,
};
use enforcer::{host::netns, kernel::bpf_syscall::update_map_bytes};
use serde::Deserialize;

use crate::{
    comparison_programs::{self, Hook},
    driver::Order,
    hook::{
        comparison::{Attachment, Case, Comparison},
        samples::Samples,
        scenes::{CLAIMED_PORTS, TURN},
        shipped_agent::ShippedAgent,
    },
    samples::Run,
};

/// Names the file with the descriptions.
const DESCRIPTIONS: &str = "PORT_ENFORCER_BENCH_PEERS";

/// Programs of one object file, in the JSON form of `cargo xtask bench`.
#[derive(Clone, Debug, Deserialize)]
struct Peer {
    name: String,
    object: PathBuf,
    /// Hooks by the name of the program in the object.
    programs: BTreeMap<String, Hook>,
    /// Bytes of global constants by the name of their symbol.
    globals: BTreeMap<String, Bytes>,
    maps: BTreeMap<String, PeerMap>,
    port: u16,
    ports: u16,
    reuse: bool,
    fails: bool,
}

/// What is in a map.
#[derive(Clone, Debug, Deserialize)]
struct PeerMap {
    max_entries: Option<u32>,
    /// Keys and values.
    entries: Vec<(Bytes, Bytes)>,
}

/// Bytes, some of which are known here alone.
#[derive(Clone, Debug, Deserialize)]
struct Bytes {
    bytes: Vec<u8>,
    /// Where the cookie of the network namespace belongs.
    netns_cookie_at: Vec<usize>,
}

impl Bytes {
    fn fill_in(&mut self, netns_cookie: u64) {
        for place in &self.netns_cookie_at {
            self.bytes[*place..*place + size_of::<u64>()].copy_from_slice(&netns_cookie.to_ne_bytes());
        }
    }
}

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let (sittings, rounds) = if quick { (3, 10) } else { (8, 20) };
    let path = env::var_os(DESCRIPTIONS).with_context(|| format!("{DESCRIPTIONS} names no file with descriptions"))?;
    let mut peers: Vec<Peer> = serde_json::from_str(&fs::read_to_string(&path)?).context("reading the descriptions")?;
    let cookie = netns::cookie()?.context("the kernel gives no cookie of the network namespace")?;
    for peer in &mut peers {
        peer.globals.values_mut().for_each(|value| value.fill_in(cookie));
        for (key, value) in peer.maps.values_mut().flat_map(|map| &mut map.entries) {
            key.fill_in(cookie);
            value.fill_in(cookie);
        }
    }
    let mut samples = Samples::default();
    for sitting in 1..=sittings {
        eprintln!("peers: loading what is compared, {sitting} of {sittings}");
        let mut comparison = Comparison::new();
        // What is loaded first is slower than the rest, so each sitting begins with others.
        let mut steps: Vec<Option<&Peer>> = peers.iter().map(Some).chain([None]).collect();
        let first = sitting % steps.len();
        steps.rotate_left(first);
        for step in steps {
            match step {
                Some(peer) => add_peer(&mut comparison, peer).with_context(|| peer.name.clone())?,
                None => add_ours_and_empty(&mut comparison, &peers)?,
            }
        }
        comparison.measure("peers", rounds, &mut samples)?;
    }
    let pairs = peers.iter().flat_map(|peer| {
        let (theirs, ours, empty) = (peer.name.clone(), ours_at(peer), empty_at(peer));
        [(theirs.clone(), empty.clone()), (ours.clone(), empty), (ours, theirs)]
    });
    Ok(samples.runs(&pairs.collect::<Vec<_>>()))
}

fn ours_at(peer: &Peer) -> String {
    format!("ours at {}", peer.name)
}

fn empty_at(peer: &Peer) -> String {
    format!("empty at {}", peer.name)
}

impl Peer {
    fn order(&self) -> Order {
        let Self { port, ports, reuse, .. } = *self;
        Order { port, ports, times: TURN, reuse, ..Order::default() }
    }

    /// Loads the programs, and fills their maps.
    fn load(&self) -> anyhow::Result<(Ebpf, HashMap<Hook, OwnedFd>)> {
        let mut loader = EbpfLoader::new();
        for (name, bytes) in &self.globals {
            loader.override_global(name, bytes.bytes.as_slice(), true);
        }
        for (name, map) in &self.maps {
            if let Some(entries) = map.max_entries {
                loader.map_max_entries(name, entries);
            }
        }
        let mut ebpf =
            loader.load_file(&self.object).with_context(|| format!("cannot load {}", self.object.display()))?;
        for (name, content) in &self.maps {
            let known = ebpf.maps().map(|(name, _)| name.to_owned()).collect::<Vec<_>>().join(", ");
            let map = ebpf.map(name).with_context(|| format!("the object has no map {name}; it has: {known}"))?;
            fill(map, content).with_context(|| format!("map {name}"))?;
        }
        let mut programs = HashMap::new();
        for (name, hook) in &self.programs {
            let known = ebpf.programs().map(|(name, _)| name.to_owned()).collect::<Vec<_>>().join(", ");
            let program =
                ebpf.program_mut(name).with_context(|| format!("the object has no program {name}; it has: {known}"))?;
            match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                other => bail!("program {name} is of type {:?}, not of a socket hook of cgroups", other.prog_type()),
            }
            .map_err(|error| anyhow!(error).context(format!("the kernel refuses program {name}")))?;
            programs.insert(*hook, program.fd()?.as_fd().try_clone_to_owned()?);
        }
        Ok((ebpf, programs))
    }
}

/// Writes the entries of a map.
fn fill(map: &Map, content: &PeerMap) -> anyhow::Result<()> {
    let (Map::Array(map) | Map::HashMap(map) | Map::LruHashMap(map) | Map::LpmTrie(map)) = map else {
        ensure!(content.entries.is_empty(), "is neither an array, a hash nor a trie, so that it cannot be filled");
        return Ok(());
    };
    for (number, (key, value)) in content.entries.iter().enumerate() {
        write(map, &key.bytes, &value.bytes).with_context(|| format!("entry {number}"))?;
    }
    Ok(())
}

fn write(map: &MapData, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
    let info = map.info()?;
    for (what, bytes, expected) in [("key", key, info.key_size()), ("value", value, info.value_size())] {
        ensure!(bytes.len() == expected as usize, "a {what} has {expected} bytes, and not {}", bytes.len());
    }
    // SAFETY: the key and the value have as many bytes as those of the map, which is none of each CPU.
    unsafe { update_map_bytes(map.fd().as_fd(), key, value) }.context("the kernel refuses it")
}

/// Attaches the programs of a peer to a cgroup of their own.
fn add_peer(comparison: &mut Comparison, peer: &Peer) -> anyhow::Result<()> {
    let (ebpf, programs) = peer.load()?;
    let (attachment, driver) = comparison.attach_programs(&cgroup_name(&peer.name), ebpf, |hook| {
        programs.get(&hook).map(OwnedFd::try_clone).transpose()
    })?;
    comparison.add(Case { fails: peer.fails, ..Case::new(&peer.name, attachment, driver, peer.order()) });
    Ok(())
}

/// Adds our programs and empty ones, each with the binds of every peer.
fn add_ours_and_empty(comparison: &mut Comparison, peers: &[Peer]) -> anyhow::Result<()> {
    let is_used =
        |hook| Hook::OURS.contains(&hook) || peers.iter().any(|peer| peer.programs.values().any(|it| *it == hook));
    let (empty, empty_driver) = comparison
        .attach_programs("empty", (), |hook| is_used(hook).then(|| comparison_programs::empty(hook)).transpose())?;
    let agent = ShippedAgent::start("enforce", &format!("{}-{}", CLAIMED_PORTS.start(), CLAIMED_PORTS.end()))?;
    let stranger = agent.stranger.clone();
    let ours = comparison.attach(Attachment::of_agent(agent)?);
    let our_driver = comparison.drive(&stranger)?;
    for peer in peers {
        comparison.add(Case::new(&empty_at(peer), empty, empty_driver, peer.order()));
        comparison.add(Case::new(&ours_at(peer), ours, our_driver, peer.order()));
    }
    Ok(())
}

/// Returns a name that a cgroup can have.
fn cgroup_name(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect()
}
