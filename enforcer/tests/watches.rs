//! Watches of many nodes against an API server over HTTP, which must not come in waves. Nothing here needs root.

use std::collections::BTreeSet;

use enforcer::k8s::{self, EventQueue, Queues, WatchedResources};
use enforcer_core::model::namespace_label::NamespaceLabel;
use enforcer_testing::apiserver::{ApiServer, Target};
use tempfile::TempDir;

#[test]
fn watches_of_many_nodes_end_at_different_times() {
    const NODES: usize = 8;
    let server = ApiServer::start();
    let folder = TempDir::new().expect("a folder");
    let kubeconfig = server.kubeconfig(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let cluster = k8s::connect(Some(&kubeconfig)).await.expect("a client");
        let watched = WatchedResources { labels: NamespaceLabel::ALL.to_vec(), services: true };
        let nodes: Vec<_> = (0..NODES)
            .map(|number| {
                let name = format!("worker-{number}");
                let queues = Queues { events: EventQueue::new(&name), ledger: None, startup_taint: None };
                k8s::start(&cluster, &name, &watched, &name, queues)
            })
            .collect();
        let open = || server.watches(Target::ALL);
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while open() < 4 * NODES {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("all watches are open");
        drop(nodes);
    });
    let durations: BTreeSet<u32> = server.requests().iter().map(|request| duration(&request.query)).collect();
    assert!(durations.iter().all(|seconds| (270..=330).contains(seconds)), "{durations:?}");
    // 32 of 61 values at random: 25 different ones on average.
    assert!(durations.len() > 10, "{durations:?}");
}

/// Returns the duration in seconds that a watch asks for.
fn duration(query: &str) -> u32 {
    let seconds = query.split('&').find_map(|parameter| parameter.strip_prefix("timeoutSeconds="));
    seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("no duration: {query}"))
}
