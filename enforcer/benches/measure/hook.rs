//! What the programs cost: in the kernel by its own statistics, and as a process sees it.
//!
//! Everything that is compared exists at once, each in a cgroup of its own, and takes turns in an order that rotates. So
//! whatever else happens on the machine happens to all of them, and each pays for the cold cache as often as the others.
//!
//! | module | content |
//! | --- | --- |
//! | [`comparison`] | what is compared at once, and its turns |
//! | [`samples`] | nanoseconds by round, and what is reported of them |
//! | [`scenes`] | what processes do: the orders, with the agent as shipped and with empty programs |
//! | [`shipped_agent`] | `enforcer run` as a process of its own, asleep between the turns |
//! | [`scaling`] | claims, pods and depth, on a reconciler in this process |

pub(crate) mod comparison;
pub(crate) mod samples;
pub(crate) mod scaling;
pub(crate) mod scenes;
pub(crate) mod shipped_agent;

use self::{comparison::Comparison, samples::Samples};
use crate::{samples::Run, twins};

/// Most rounds of a sitting, of which there are so many in the kernel and so many as a process sees it.
const MAX_ROUNDS: usize = 15;

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let (sittings, rounds) = if quick { (3, 6) } else { (6, MAX_ROUNDS) };
    let twin = twins::compile()?;
    if twin.is_none() {
        eprintln!("hook: the C twins are skipped: no clang");
    }
    let mut samples = Samples::default();
    for sitting in 1..=sittings {
        // All is loaded anew each time, since where the kernel puts a program makes it faster or slower.
        eprintln!("hook: loading what is compared, {sitting} of {sittings}");
        let mut comparison = Comparison::new();
        scenes::add_references(&mut comparison)?;
        // Programs that are loaded first run up to a fifth slower than the same ones that are loaded later, so each
        // sitting begins with others.
        let mut builders =
            vec![scenes::add_shipped_agents, scaling::add_loads, scaling::add_shallow, scaling::add_deep];
        let first = sitting % builders.len();
        builders.rotate_left(first);
        for add in builders {
            add(&mut comparison)?;
        }
        if let Some(twin) = &twin {
            scenes::add_twins(&mut comparison, twin)?;
        }
        comparison.measure("hook", rounds, &mut samples)?;
    }
    let mut compared = scenes::compared();
    compared.extend(scaling::COMPARED.map(|(case, base)| (case.to_owned(), base.to_owned())));
    Ok(samples.runs(&compared))
}
