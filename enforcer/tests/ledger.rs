//! Publishers of ledgers against an API server over HTTP: how often they write, and what heals them. Nothing here needs
//! root. The real agent's ledger is in the target `agent`, and days of a publisher in virtual time are in the core.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use enforcer::k8s::{
    self, ApiErrorKind, ApiResource, EventQueue, LedgerQueue, Queues, Update, WatchedResources, Watches,
};
use enforcer_core::ledger::node_host_ports::{LedgerActor, LedgerRow, NodeHostPortsStatus};
use enforcer_testing::apiserver::{ApiServer, Fault, Target};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;

const STATUS: Target = Target::ALL.resource("nodehostports/status").verb("patch");
const CREATED: Target = Target::ALL.resource("nodehostports").verb("create");
/// Shortest time between two writes of one node.
const PACE: Duration = Duration::from_secs(10);

/// Publishers of some nodes.
struct Publishers {
    /// Dropped to end the runtime.
    _stop: oneshot::Sender<()>,
    nodes: BTreeMap<String, (LedgerQueue, Watches)>,
    _folder: TempDir,
}

impl Publishers {
    fn start(server: &ApiServer, count: usize) -> Self {
        let folder = TempDir::new().expect("a folder");
        let kubeconfig = server.kubeconfig(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(stopped));
        let cluster = handle.block_on(k8s::connect(Some(&kubeconfig))).expect("a client");
        let _inside = handle.enter();
        let mut nodes = BTreeMap::new();
        for number in 0..count {
            let name = format!("worker-{number:03}");
            let node = serde_json::from_value::<Node>(json!({ "metadata": { "name": name } })).expect("a node");
            server.put_node(node);
            let ledger = LedgerQueue::new();
            let queues = Queues { events: EventQueue::new(&name), ledger: Some(ledger.clone()), startup_taint: None };
            let watches = k8s::start(&cluster, &name, &WatchedResources::default(), &name, queues);
            nodes.insert(name, (ledger, watches));
        }
        Self { _stop: stop, nodes, _folder: folder }
    }

    /// Sets the content of all.
    fn set(&self, claims: u32) {
        for (ledger, _) in self.nodes.values() {
            ledger.set_content(content(claims, 20));
        }
    }

    /// Waits until every node's ledger has this content.
    fn wait_for(&self, server: &ApiServer, claims: u32) {
        let has =
            |name: &String| server.ledger(name).is_some_and(|ledger| ledger["status"]["counts"]["claims"] == claims);
        server.wait_at_most(Duration::from_mins(1), &format!("{claims} claims everywhere"), |_| {
            self.nodes.keys().all(has).then_some(())
        });
    }

    /// Takes the kinds of errors and recoveries that were reported about the ledgers.
    fn reported(&mut self) -> (Vec<ApiErrorKind>, usize) {
        let (mut errors, mut recovered) = (Vec::new(), 0);
        for (_, watches) in self.nodes.values_mut() {
            while let Ok((_, update)) = watches.updates.try_recv() {
                match update {
                    Update::ApiError(error) if error.resource == ApiResource::Ledger => errors.push(error.kind),
                    Update::ApiRecovered(ApiResource::Ledger) => recovered += 1,
                    _ => {}
                }
            }
        }
        (errors, recovered)
    }
}

fn content(claims: u32, rows: u16) -> NodeHostPortsStatus {
    let who = LedgerActor {
        kind: "pod".to_owned(),
        namespace: Some("default".to_owned()),
        name: Some("web-0".to_owned()),
        ..LedgerActor::default()
    };
    let row = |port: u16| LedgerRow {
        protocol: "tcp".to_owned(),
        first_port: port,
        last_port: port,
        address: None,
        who: who.clone(),
        source: Some("hostPort".to_owned()),
        standing: Some("inForce".to_owned()),
        behind: None,
        held: true,
        declared: true,
        never_held: false,
        reach: "all".to_owned(),
        since: None,
    };
    let mut content = NodeHostPortsStatus { ports: (1..=rows).map(row).collect(), ..NodeHostPortsStatus::default() };
    content.counts.claims = claims;
    content
}

#[test]
fn two_hundred_nodes_write_at_their_pace_and_quiet_ones_nothing() {
    const NODES: usize = 200;
    let server = ApiServer::start();
    let mut publishers = Publishers::start(&server, NODES);
    publishers.set(1);
    publishers.wait_for(&server, 1);
    assert_eq!((server.count(CREATED), server.count(STATUS)), (NODES, NODES), "one write each");
    let ledgers = server.ledgers();
    let owners =
        ledgers.iter().filter(|ledger| ledger["metadata"]["ownerReferences"][0]["name"] == ledger["metadata"]["name"]);
    assert_eq!(owners.count(), NODES, "each belongs to its Node");
    // The same content again is no change.
    publishers.set(1);
    let began = Instant::now();
    let mut change = 1;
    while began.elapsed() < PACE * 2 {
        change += 1;
        publishers.set(change);
        std::thread::sleep(Duration::from_millis(50));
    }
    publishers.wait_for(&server, change);
    let storm = began.elapsed();
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for request in server.requests().iter().filter(|request| STATUS.matches(&request.verb, &request.resource)) {
        *writes.entry(request.name.clone().unwrap_or_default()).or_default() += 1;
        assert!(request.sent * 4 < request.bytes as u64, "the answer does not repeat what was written: {request:?}");
    }
    let paces = usize::try_from(storm.as_secs() / PACE.as_secs()).expect("a small number") + 1;
    assert!(writes.values().all(|writes| *writes <= 1 + paces), "one write per pace and node: {writes:?}");
    assert!(change > 100, "{change} changes");
    let before = server.count(Target::ALL);
    std::thread::sleep(PACE + Duration::from_secs(4));
    let quiet: Vec<_> = server.requests().split_off(before);
    let calls: Vec<_> = quiet.iter().filter(|request| request.resource.starts_with("nodehostports")).collect();
    assert!(calls.is_empty(), "a quiet node calls nothing: {calls:?}");
    assert_eq!(publishers.reported(), (Vec::new(), 0));
}

/// Checks that a refused write is reported, made again later, and reported to succeed.
fn assert_heals(fault: Fault, kind: ApiErrorKind) {
    let server = ApiServer::start();
    let mut publishers = Publishers::start(&server, 2);
    publishers.set(1);
    publishers.wait_for(&server, 1);
    let before = server.count(Target::ALL);
    let outage = server.fault(STATUS, fault);
    publishers.set(2);
    // One of them may meet it several times before the other does.
    server.wait_at_most(Duration::from_secs(40), "each meets the fault", |_| {
        let requests = server.requests().split_off(before);
        let writes = requests.iter().filter(|request| STATUS.matches(&request.verb, &request.resource));
        let refused: BTreeSet<_> = writes.filter_map(|request| request.name.clone()).collect();
        (refused.len() == 2).then_some(())
    });
    drop(outage);
    publishers.wait_for(&server, 2);
    let (mut errors, mut recovered) = publishers.reported();
    let deadline = Instant::now() + Duration::from_secs(10);
    while recovered < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        let more = publishers.reported();
        errors.extend(more.0);
        recovered += more.1;
    }
    assert!(errors.iter().all(|error| *error == kind) && errors.len() >= 2, "{errors:?}");
    assert_eq!(recovered, 2);
    let written = server.ledger("worker-000").expect("a ledger");
    assert_eq!(written["status"]["ports"].as_array().map(Vec::len), Some(20), "all rows that there is room for");
}

#[test]
fn refused_writes_heal_and_are_reported() {
    // Side by side, for each waits some paces.
    std::thread::scope(|scope| {
        for (fault, kind) in [
            (Fault::TooManyRequests { retry_after: 1 }, ApiErrorKind::Throttled),
            (Fault::Conflict, ApiErrorKind::Conflict),
            (Fault::TooLarge, ApiErrorKind::TooLarge),
            (Fault::Internal, ApiErrorKind::Server),
        ] {
            scope.spawn(move || assert_heals(fault, kind));
        }
    });
}

#[test]
fn deleted_ledger_is_made_again_and_one_of_another_node_is_not_touched() {
    let server = ApiServer::start();
    let mut publishers = Publishers::start(&server, 1);
    publishers.set(1);
    publishers.wait_for(&server, 1);
    server.delete_ledger("worker-000");
    publishers.set(2);
    publishers.wait_for(&server, 2);
    assert_eq!(publishers.reported(), (Vec::new(), 0), "that is no trouble");
    assert_eq!(server.count(CREATED), 2);
    // The Node is made anew: its ledger goes with it, and the next one belongs to the new Node.
    let before = server.ledger("worker-000").expect("a ledger")["metadata"]["ownerReferences"][0]["uid"].clone();
    server.delete_node("worker-000");
    assert_eq!(server.ledger("worker-000"), None);
    let node = serde_json::from_value::<Node>(json!({ "metadata": { "name": "worker-000" } })).expect("a node");
    let node = server.put_node(node);
    publishers.set(3);
    publishers.wait_for(&server, 3);
    let ledger = server.ledger("worker-000").expect("a ledger");
    let owner = &ledger["metadata"]["ownerReferences"][0]["uid"];
    assert!(*owner != before && *owner == json!(node.metadata.uid), "{owner}");
    // One that belongs to another Node stays as it is until it goes.
    server.delete_ledger("worker-000");
    server.put_ledger(json!({ "metadata": { "name": "worker-000", "ownerReferences": [
        { "apiVersion": "v1", "kind": "Node", "name": "worker-000", "uid": before },
    ] } }));
    publishers.set(4);
    // A write of the status asks for no owner: it is looked at only where the object was missing before.
    publishers.wait_for(&server, 4);
}

#[test]
fn missing_definition_is_reported_and_not_asked_for_again_soon() {
    let server = ApiServer::start();
    server.set_ledger_resource(false);
    let mut publishers = Publishers::start(&server, 1);
    publishers.set(1);
    server.wait_for_requests(Target::ALL.resource("nodehostports"), 1);
    let asked = server.count(Target::ALL.resource("nodehostports"));
    std::thread::sleep(PACE + Duration::from_secs(4));
    publishers.set(2);
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.count(Target::ALL.resource("nodehostports")) <= asked + 1);
    let (errors, recovered) = publishers.reported();
    assert_eq!((errors.as_slice(), recovered), (&[ApiErrorKind::NotFound][..], 0));
}
