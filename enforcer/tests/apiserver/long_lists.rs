//! Lists of a large cluster: a page costs what it holds.

use std::{
    fmt::Debug,
    ops::Range,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PartialObjectMeta},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    ledgers::{api, cluster, with},
    server_and_client::{Cluster, namespace, pod},
};

/// Number of pods: a look at each takes longer than a page.
const PODS: usize = 40_000;
const PAGE: u32 = 500;

/// Reads all pages of a list, and returns what the pages say that remains after each.
fn pages<K>(cluster: &Cluster, api: &Api<K>, lp: &ListParams) -> (usize, Vec<Option<i64>>)
where
    K: Clone + DeserializeOwned + Debug,
{
    let (mut lp, mut count, mut left) = (lp.clone(), 0, Vec::new());
    loop {
        let page = cluster.run(api.list(&lp)).unwrap();
        count += page.items.len();
        left.push(page.metadata.remaining_item_count);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => lp = lp.continue_token(&token),
            None => return (count, left),
        }
    }
}

/// Returns the shortest time that a page takes: what other tests do meanwhile must not count.
fn time_of_page<K>(cluster: &Cluster, api: &Api<K>, page: &ListParams) -> Duration
where
    K: Clone + DeserializeOwned + Debug,
{
    let times = (0..10).map(|_| {
        let begin = Instant::now();
        cluster.run(api.list(page)).unwrap();
        begin.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn page_of_long_list_costs_what_it_holds() {
    let cluster = cluster();
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(cluster.client.clone());
    let put = |indices: Range<usize>| {
        for index in indices {
            cluster.server.put_pod(pod(&format!("pod-{index:06}"), "node-1"));
        }
    };
    let by = ListParams::default().limit(PAGE);
    put(0..1000);
    let few = time_of_page(&cluster, &pods, &by);
    put(1000..PODS);
    let many = time_of_page(&cluster, &pods, &by);
    assert!(many < few * 2 + Duration::from_millis(5), "{few:?} in a list of 1000, {many:?} in one of {PODS}");

    let first = cluster.run(pods.list(&by)).unwrap();
    let rest = by.continue_token(&first.metadata.continue_.unwrap());
    cluster.server.delete_pod("default", &format!("pod-{:06}", PODS - 1));
    let old = time_of_page(&cluster, &pods, &rest);
    assert!(old < few * 2 + Duration::from_millis(5), "{few:?} of the present version, {old:?} of an older one");
    let (count, left) = pages(&cluster, &pods, &rest);
    assert_eq!(count, PODS - 500, "the list is of one version");
    assert_eq!((left.len(), left[0], left[77], left[78]), (79, Some(39_000), Some(500), None));
}

#[test]
fn all_ledgers_are_listed_in_pages() {
    let cluster = cluster();
    let rows: Vec<_> =
        (0..20).map(|row| json!({"port": 8000 + row, "protocol": "TCP", "owner": "default/a"})).collect();
    for index in 0..5000 {
        cluster.server.put_ledger(with(&format!("node-{index:04}"), "status", json!({"rows": rows})));
    }
    let (count, left) = pages(&cluster, &api(&cluster.client), &ListParams::default().limit(500));
    let wanted: Vec<_> = (1..10).rev().map(|page| Some(500 * page)).chain([None]).collect();
    assert_eq!((count, left), (5000, wanted));
    let named = ListParams::default().limit(1).fields("metadata.name!=node-0000");
    let page = cluster.run(api(&cluster.client).list(&named)).unwrap();
    assert_eq!((page.items.len(), page.metadata.remaining_item_count), (1, None), "a selector hides what remains");
    assert!(page.metadata.continue_.is_some());
}

#[test]
fn remaining_items_are_those_of_the_namespace_and_version() {
    let cluster = cluster();
    cluster.server.put_namespace(namespace("web", None));
    for (name, space) in [("a", "default"), ("b", "default"), ("c", "default"), ("a", "web"), ("b", "web")] {
        let mut pod = pod(name, "node-1");
        pod.metadata.namespace = Some(space.to_owned());
        cluster.server.put_pod(pod);
    }
    let one = ListParams::default().limit(1);
    let web: Api<Pod> = Api::namespaced(cluster.client.clone(), "web");
    assert_eq!(pages(&cluster, &web, &one), (2, vec![Some(1), None]));
    assert_eq!(pages(&cluster, &cluster.pods(), &one).1, [Some(4), Some(3), Some(2), Some(1), None]);

    let first = cluster.run(cluster.pods().list(&one)).unwrap();
    let rest = one.clone().continue_token(&first.metadata.continue_.unwrap());
    cluster.server.delete_pod("default", "b");
    cluster.server.put_pod(pod("bb", "node-1"));
    cluster.server.put_pod(pod("d", "node-1"));
    assert_eq!(pages(&cluster, &cluster.pods(), &rest), (4, vec![Some(3), Some(2), Some(1), None]));
    cluster.server.compact();
    let refusal = cluster.refusal(cluster.pods().list(&rest));
    let rest = one.continue_token(&refusal.metadata.unwrap().continue_.unwrap());
    assert_eq!(pages(&cluster, &cluster.pods(), &rest).1, [Some(4), Some(3), Some(2), Some(1), None]);
}
