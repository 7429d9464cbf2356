//! The check against an independent model of the scheduler: what it says of two objects holds on every set of nodes.

mod generator;
mod model;
mod rollout;

use std::env;

use proptest::prelude::*;
use serde_json::Value;

use self::{
    generator::{nodes, object},
    model::{ModelNode, ModelPod, Placed, claims_conflict, is_kept_apart, port_conflict, schedule},
};
use super::manifests;
use crate::check::{
    CheckSettings, check,
    finding::{Code, Finding, Severity},
};

/// Variable with the number of generated pairs of objects.
const PAIRS_VARIABLE: &str = "PORT_ENFORCER_TEST_PAIRS";
/// Number of pairs without the variable.
const PAIRS: u32 = 200;

fn pairs() -> u32 {
    env::var(PAIRS_VARIABLE).map_or(PAIRS, |text| text.parse().expect("a number of pairs"))
}

/// The finding about the two objects, if there is one.
fn conflict(objects: [&Value; 2], nodes: Option<u32>) -> Option<Finding> {
    let texts = objects.map(Value::to_string);
    let found = check(&manifests(&[&texts[0], &texts[1]]), &CheckSettings { nodes, ..CheckSettings::default() });
    let is_conflict = |finding: &Finding| matches!(finding.code, Code::Conflict | Code::Shadowed);
    let mut conflicts: Vec<Finding> = found.findings.into_iter().filter(is_conflict).collect();
    assert!(conflicts.len() <= 1, "{conflicts:?}");
    conflicts.pop()
}

/// Whether each of these nodes that suits `part` suits `whole` too. A node of another system than Linux counts if `part`
/// wants that system.
fn is_within(part: &ModelPod<'_>, whole: &ModelPod<'_>, nodes: &[ModelNode]) -> bool {
    let counts = |node: &&ModelNode| node.is_linux() || !part.suits(&node.with_linux());
    nodes.iter().filter(counts).all(|node| !part.suits(node) || whole.suits(node))
}

fn schedules_all(pods: [(&ModelPod<'_>, u32); 2], nodes: &[ModelNode], order: u64) -> bool {
    schedule(pods, nodes, order).into_iter().all(|placed| placed == Placed::OnNode)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4096, ..ProptestConfig::with_cases(pairs()) })]

    /// Silence means that no node suits both. An error means that one has a pod wherever the other may have one, or that
    /// they suit the same nodes, and that there are too few of those or the scheduler does not keep them apart.
    #[test]
    fn findings_about_two_objects_hold_on_all_nodes(
        one in object("one"),
        other in object("other"),
        nodes in nodes(),
        count in prop::option::of(1u32..5),
    ) {
        let pods = [ModelPod::of(&one), ModelPod::of(&other)];
        let (seen, unseen) = (port_conflict(&pods[0], &pods[1]), claims_conflict(&pods[0], &pods[1]));
        let Some(finding) = conflict([&one, &other], count) else {
            if seen || unseen {
                for node in &nodes {
                    prop_assert!(!pods[0].suits(node) || !pods[1].suits(node), "no finding, but both suit {node:?}");
                }
            }
            return Ok(());
        };
        prop_assert!(seen || unseen, "nothing to find: {finding:?}");
        let within = [is_within(&pods[0], &pods[1], &nodes), is_within(&pods[1], &pods[0], &nodes)];
        let everywhere = pods[1].is_everywhere() && within[0] || pods[0].is_everywhere() && within[1];
        let equal = within[0] && within[1];
        let apart = seen || is_kept_apart(&pods[0], &pods[1]);
        match finding.severity {
            Severity::Error => prop_assert!(everywhere || equal, "an error, but they may be apart: {finding:?}"),
            Severity::Warning | Severity::Note => {}
        }
        if finding.severity == Severity::Note {
            prop_assert!(apart, "a note, but nothing keeps them apart: {finding:?}");
        }
        prop_assert_eq!(
            finding.message.contains("the scheduler does not see it"),
            !apart,
            "{:?}", finding
        );
    }

    /// Of objects with counted pods that suit the same nodes: they all find a node if the finding is a note, and never if
    /// it is an error that the scheduler sees.
    #[test]
    fn counted_pods_find_nodes_if_the_check_says_so(
        one in object("one"),
        other in object("other"),
        nodes in nodes(),
        order: u64,
    ) {
        let pods = [ModelPod::of(&one), ModelPod::of(&other)];
        let suitable: Vec<ModelNode> =
            nodes.into_iter().filter(|node| pods.iter().all(|pod| pod.suits(node))).collect();
        let counts = pods.each_ref().map(ModelPod::replicas);
        let (Ok(count), [Some(first), Some(second)]) = (u32::try_from(suitable.len()), counts) else { return Ok(()) };
        if count == 0 || first > count || second > count || pods.iter().any(ModelPod::is_bound) {
            return Ok(());
        }
        let Some(finding) = conflict([&one, &other], Some(count)) else { return Ok(()) };
        // Copies that the scheduler does not keep apart come to one node, and clash there.
        let clash = pods.iter().zip([first, second]).any(|(pod, replicas)| {
            replicas > 1 && !port_conflict(pod, pod) && !is_kept_apart(pod, pod)
        });
        let all = schedules_all([(&pods[0], first), (&pods[1], second)], &suitable, order);
        let is_seen = port_conflict(&pods[0], &pods[1]) || is_kept_apart(&pods[0], &pods[1]);
        match finding.severity {
            Severity::Note if !finding.message.contains("anti-affinity") => {
                prop_assert!(all, "a note, but pods stay Pending: {finding:?}");
            }
            Severity::Error if is_seen && !clash => prop_assert!(!all, "an error, but all find a node: {finding:?}"),
            _ => {}
        }
    }
}
