//! `/metrics`, scraped from the real agent: every number is compared with what was really done.

use std::{
    collections::HashMap,
    net::{TcpListener, TcpStream},
    time::{SystemTime, UNIX_EPOCH},
};

use enforcer::host::clock::now;
use enforcer::kernel::map_names::{ADDRESS_OWNERS, POD_CGROUPS, POD_UIDS};
use enforcer_core::k8s_events::OBJECT_LIMIT;
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::{ApiServer, Fault, Interruption},
    bpffs::Bpffs,
    exposition::Exposition,
    http::{LISTEN, connect, get, read_to_end, request, send_raw},
    pods::Pod,
    tests,
    worker::{Bind, Worker},
};

use crate::{
    Test,
    api_server_source::{NAMESPACES, PODS},
    backend::{Backend as _, start_on_cluster},
};

pub(crate) const TESTS: &[Test] = tests![
    counters_match_binds,
    gauges_match_kernel_maps,
    conflicts_are_counted_by_caller_namespace,
    holder_gauge_matches_status,
    unenforced_time_is_counted,
    unenforced_time_before_first_list_is_counted,
    dropped_events_are_counted,
    pod_change_delay_is_observed,
    last_activity_advances,
    bad_http_requests_are_answered,
    silent_clients_do_not_block_probes,
    taken_listen_address_is_reported_and_retried,
    listen_none_opens_no_socket
];

pub(crate) const SERVED: [&str; 2] = ["--listen", LISTEN];
const ATTEMPTS: &str = "port_enforcer_bind_attempts_total";
const DELAY: &str = "port_enforcer_enforcement_delay_seconds";
const ACTIVITY: &str = "port_enforcer_watch_last_activity_timestamp_seconds";

pub(crate) fn scrape() -> Exposition {
    let (status, head, body) = request("GET", "/metrics");
    assert_eq!(status, 200, "{body}");
    let media = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == media), "{head}");
    Exposition::parse(&body)
}

fn attempts(scraped: &Exposition, verdict: &str, reason: &str, protocol: &str) -> Option<u64> {
    scraped.count(ATTEMPTS, &[("verdict", verdict), ("reason", reason), ("protocol", protocol)])
}

fn counters_match_binds() {
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080/tcp 20080/udp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let _agent = fixture.enforce(&[&SERVED[..], &["--node-reserved", "20022/tcp"]].concat());
    assert_eq!(scrape().sum(ATTEMPTS), 0, "nothing was bound yet");
    let times = |worker: &mut Worker, bind: &Bind, count: u32, errno: i32| {
        assert_eq!(worker.storm(bind, count, 1), HashMap::from([(errno, count)]), "{bind:?}");
    };
    times(&mut owner, &bind(20080), 3, 0);
    times(&mut stranger, &bind(20080), 700, denied());
    times(&mut stranger, &Bind::udp("127.0.0.1", 20080), 5, denied());
    times(&mut stranger, &Bind::tcp("::", 20081), 7, 0);
    times(&mut stranger, &bind(20022), 11, denied());
    let scraped = scrape();
    for (verdict, reason, protocol, count) in [
        ("allow", "owner", "tcp", 3),
        ("deny", "claimed", "tcp", 700),
        ("deny", "claimed", "udp", 5),
        ("allow", "unclaimed", "tcp", 7),
        ("deny", "reserved", "tcp", 11),
        ("audit", "claimed", "tcp", 0),
    ] {
        assert_eq!(attempts(&scraped, verdict, reason, protocol), Some(count), "{verdict} {reason} {protocol}");
    }
    assert_eq!(scraped.sum(ATTEMPTS), 726, "and nothing else");
    assert_eq!(scraped.sum("port_enforcer_events_lost_total"), 0);
    assert_eq!(scraped.sum("port_enforcer_kernel_errors_total"), 0);
    assert_eq!(scraped.count("port_enforcer_mode", &[("mode", "enforce")]), Some(1));
    assert_eq!(scraped.count("port_enforcer_mode", &[("mode", "audit")]), Some(0));
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(scraped.count("port_enforcer_build_info", &version), Some(1));
}

fn gauges_match_kernel_maps() {
    let fixture = AgentFixture::new();
    let agent = fixture.enforce(&SERVED);
    let pods = [
        Pod::new("first").ports("20080-20089/tcp 127.0.0.1:20090/tcp [::1]:20090/tcp 10.0.0.1:20091/udp"),
        Pod::new("second").ports("20085/tcp 20099/udp"),
        Pod::new("third").ports("20085/tcp"),
    ];
    let worker = fixture.start(&pods[0]);
    fixture.put(&pods[1]);
    let pods_are = |count: u64| {
        wait_until(&format!("there are {count} pods"), || scrape().count("port_enforcer_pods", &[]) == Some(count));
    };
    pods_are(2);
    fixture.put(&pods[2]);
    pods_are(3);
    let check = |in_force: u64, lost: u64, owners: u64| {
        let scraped = scrape();
        let claims = ["in_force", "lost"].map(|state| scraped.count("port_enforcer_claims", &[("state", state)]));
        assert_eq!(claims, [Some(in_force), Some(lost)]);
        let entries = |map| scraped.count("port_enforcer_map_entries", &[("map", map)]).expect("a map");
        for (label, map) in [("exact", ADDRESS_OWNERS), ("uids", POD_UIDS), ("cgroups", POD_CGROUPS)] {
            assert_eq!(entries(label), u64::from(agent.entries(map)), "{map}");
        }
        assert_eq!(entries("owners"), owners, "the node and the pods");
        entries("ports")
    };
    assert_eq!(check(14, 2, 4), 13, "10, 20090, 20091 and 20099");
    fixture.remove(&pods[0]);
    pods_are(2);
    assert_eq!(check(2, 1, 3), 2);
    drop(worker);
    let scraped = scrape();
    for (map, capacity) in [("ports", 196_608), ("owners", 32_767), ("exact", 65_536), ("uids", 16_384)] {
        assert_eq!(scraped.count("port_enforcer_map_capacity", &[("map", map)]), Some(capacity));
    }
}

fn conflicts(namespace: &str, verdict: &str) -> Option<u64> {
    scrape().count("port_enforcer_conflicts_total", &[("namespace", namespace), ("verdict", verdict)])
}

fn conflicts_are_counted_by_caller_namespace() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let (first, second) = (Pod::new("first").namespace("shop"), Pod::new("second").namespace("shop"));
    let (mut one, mut other) = (fixture.start(&first), fixture.start(&second));
    let mut software = fixture.start(&Pod::new("software").namespace("kube-system"));
    let _agent = fixture.enforce(&SERVED);
    assert_eq!(conflicts("shop", "deny"), None, "there was none yet");
    assert_eq!(one.storm(&bind(20080), 40, 1), HashMap::from([(denied(), 40)]));
    assert_eq!(other.bind(&bind(20080)), denied());
    assert_eq!(software.bind(&bind(20080)), 0, "it is audited");
    wait_until("each is counted", || conflicts("shop", "deny") == Some(41));
    wait_until("by its own namespace", || conflicts("kube-system", "audit") == Some(1));
    assert_eq!((conflicts("default", "deny"), conflicts("", "deny")), (None, None), "not the owner's");
    let mut unknown = fixture.worker(&Pod::new("unknown"));
    assert_eq!(unknown.bind(&bind(20080)), denied());
    wait_until("who is not known has no namespace", || conflicts("", "deny") == Some(1));
    fixture.remove(&first);
    wait_until("it is gone", || scrape().count("port_enforcer_pods", &[]) == Some(3));
    assert_eq!(conflicts("shop", "deny"), Some(41), "there is another one");
    fixture.remove(&second);
    wait_until("the namespace goes with its last pod", || conflicts("shop", "deny").is_none());
    assert_eq!(conflicts("kube-system", "audit"), Some(1));
}

fn holder_gauge_matches_status() {
    let fixture = AgentFixture::new();
    let mut worker = fixture.start(&Pod::new("pod"));
    let socket = fixture.path_beside("admin.sock").display().to_string();
    let _agent = fixture.enforce(&[&SERVED[..], &["--admin-socket", &socket]].concat());
    let holders = || scrape().count("port_enforcer_holders", &[]).expect("a gauge");
    let before = holders();
    for port in 20080..20083 {
        assert_eq!(worker.bind(&bind(port).kept()), 0);
    }
    wait_until("three more", || holders() == before + 3);
    let mut status = enforcer();
    status.args(["status", "-o", "json", "--admin-socket", &socket]);
    let answer: Value = serde_json::from_slice(&status.output().expect("the binary").stdout).expect("JSON");
    assert_eq!(answer["holders"].as_array().map(Vec::len), usize::try_from(before + 3).ok());
    drop(worker);
    wait_until("they are gone", || holders() == before);
}

fn unenforced(cause: &str) -> f64 {
    scrape().value("port_enforcer_unenforced_seconds_total", &[("cause", cause)]).expect("a cause of the list")
}

/// Whether there was no such time.
fn is_zero(causes: &[&str]) -> bool {
    causes.iter().all(|cause| unenforced(cause) < f64::EPSILON)
}

/// Seconds since boot.
fn uptime() -> f64 {
    now().boottime.as_secs_f64()
}

fn unenforced_time_is_counted() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let kept = [&SERVED[..], &["--bpffs", &folder, "--lease", "2s"]].concat();
    // Nothing was there, so the node was without since it started.
    let before = uptime();
    let mut agent = fixture.enforce(&kept);
    let ready = uptime();
    let boot = unenforced("boot");
    assert!((before..=ready).contains(&boot), "{before} to {ready}: {boot}");
    // On a busy machine such a short lease may end although the agent is there.
    assert!(is_zero(&["start", "unsynced"]));
    assert!((unenforced("boot") - boot).abs() < f64::EPSILON, "and that is over");
    let end = scrape().value("port_enforcer_lease_end_timestamp_seconds", &[]).expect("it ends");
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((wall - 60.0..wall + 60.0).contains(&end), "{end}");
    // No agent for longer than the lease.
    agent.kill();
    let killed = uptime();
    wait_until("the lease is over", || uptime() > killed + 3.0);
    let mut agent = fixture.enforce(&kept);
    let most = uptime() - killed;
    let lapsed = unenforced("stale");
    assert!((1.0..=most).contains(&lapsed), "{lapsed}, {most}");
    assert!(is_zero(&["boot", "start"]), "an earlier agent was there");
    // One that is there and does not come to it is no other.
    agent.while_stopped(|| wait_until("the lease is over", || uptime() > killed + most + 3.0));
    wait_until("that counts too", || unenforced("stale") > lapsed);
    assert!(agent.terminate().success());
    // Audit misses nothing, and neither does an agent in whose place nothing can be.
    let audit = fixture.agent(&[&SERVED[..], &["--mode", "audit"]].concat());
    assert!(is_zero(&["boot", "start", "unsynced", "stale"]));
    drop(audit);
    let _agent = fixture.enforce(&SERVED);
    assert!(unenforced("start") > 0.0 && is_zero(&["boot", "unsynced"]));
}

fn unenforced_time_before_first_list_is_counted() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let outage = server.fault(PODS, Fault::Forbidden);
    let mut agent = start_on_cluster(&fixture, &server, &SERVED);
    wait_until("it goes on", || unenforced("unsynced") > 0.2);
    assert_eq!(scrape().count("port_enforcer_ready", &[]), Some(0));
    drop(outage);
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    wait_until("it is ready", || scrape().count("port_enforcer_ready", &[]) == Some(1));
    let gap = unenforced("unsynced");
    assert!((unenforced("unsynced") - gap).abs() < f64::EPSILON, "and that is over");
}

fn dropped_events_are_counted() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (owner, flood) = (Pod::new("owner").ports("20080-20179"), Pod::new("flood"));
    for pod in [&owner, &flood] {
        server.put(pod);
    }
    let mut agent = start_on_cluster(&fixture, &server, &SERVED);
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    let dropped = |cause| scrape().count("port_enforcer_kubernetes_events_dropped_total", &[("cause", cause)]);
    assert_eq!((dropped("full"), dropped("refused")), (Some(0), Some(0)));
    let mut worker = fixture.worker(&flood);
    until_bind(&mut worker, 20080, denied());
    for port in 20081..20180 {
        assert_eq!(worker.bind(&bind(port)), denied());
    }
    // As many as one pod may have told, and the others are counted.
    wait_until("there is no room for all", || dropped("full") == Some(100 - u64::from(OBJECT_LIMIT.burst)));
    assert_eq!(dropped("refused"), Some(0));
}

/// Microseconds, as the log has them.
fn delay(agent: &mut Agent) -> u64 {
    let line = agent.wait_for_line("an update is enforced", |line| line["event"] == "enforced");
    line["delayMicros"].as_u64().expect("a number")
}

fn print_delays(what: &str, delays: &[u64]) {
    let mut sorted = delays.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
    println!(
        "delay from the bytes to the kernel, {} changes {what}: p50 {} µs, p99 {} µs, longest {} µs",
        sorted.len(),
        at(50),
        at(99),
        at(100)
    );
}

fn pod_change_delay_is_observed() {
    const CHANGES: u16 = 1000;
    /// Those of pods, of namespaces with either label, and of Services.
    const LISTS: u64 = 4;
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    server.set_history(10 * usize::from(CHANGES));
    let (owner, stranger) = (Pod::new("owner"), Pod::new("stranger"));
    server.put(&stranger);
    let mut agent = start_on_cluster(&fixture, &server, &[&SERVED[..], &["--log-level", "debug"]].concat());
    let mut delays: Vec<u64> = (0..LISTS).map(|_| delay(&mut agent)).collect();
    let count = |scraped: &Exposition| scraped.count(&format!("{DELAY}_count"), &[]);
    assert_eq!(count(&scrape()), Some(LISTS));
    let change = |port: u16| drop(server.put(&owner.clone().ports(&port.to_string())));
    let one_by_one: Vec<u64> = (21000..21000 + CHANGES)
        .map(|port| {
            change(port);
            delay(&mut agent)
        })
        .collect();
    print_delays("one by one", &one_by_one);
    (22000..22000 + CHANGES).for_each(change);
    let at_once: Vec<u64> = (0..CHANGES).map(|_| delay(&mut agent)).collect();
    print_delays("at once", &at_once);
    let mut worker = fixture.worker(&stranger);
    assert_eq!(worker.bind(&bind(21999 + CHANGES)), denied(), "the last change is enforced");
    assert_eq!(worker.bind(&bind(21998 + CHANGES)), 0, "and the one before is over");
    delays.extend(one_by_one.into_iter().chain(at_once));
    // Trouble and the end of it are no changes.
    server.interrupt(PODS, Interruption::Malformed);
    agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error");
    let scraped = scrape();
    assert_eq!(count(&scraped), Some(u64::from(2 * CHANGES) + LISTS));
    let in_bucket = |bound: &str| scraped.count(&format!("{DELAY}_bucket"), &[("le", bound)]).expect("a bucket");
    let logged = |is: &dyn Fn(u64) -> bool| delays.iter().filter(|micros| is(**micros)).count() as u64;
    // The log cuts off what is below a microsecond.
    for (bound, micros) in [("0.0001", 100), ("0.001", 1000), ("0.01", 10_000), ("1.0", 1_000_000)] {
        let (least, most) = (logged(&|delay| delay < micros), logged(&|delay| delay <= micros));
        assert!((least..=most).contains(&in_bucket(bound)), "{bound}: {}, {least} to {most}", in_bucket(bound));
    }
}

/// The agent counted each of the server's refusals of pods, under this kind, and no other error.
pub(crate) fn check_api_errors(server: &ApiServer, status: u16, kind: &str) {
    let asked = server.requests();
    let refused = asked.iter().filter(|asked| asked.resource == "pods" && asked.status == Some(status)).count();
    assert!(refused > 1, "{asked:?}");
    let scraped = scrape();
    let counted = scraped.count("port_enforcer_api_errors_total", &[("resource", "pods"), ("kind", kind)]);
    assert_eq!(counted, u64::try_from(refused).ok(), "{kind}");
    assert_eq!(scraped.sum("port_enforcer_api_errors_total"), counted.expect("a count"), "and nothing else");
}

fn last_activity_advances() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let activity = |resource| scrape().value(ACTIVITY, &[("resource", resource)]);
    let outage = server.fault(PODS, Fault::Forbidden);
    let mut agent = start_on_cluster(&fixture, &server, &SERVED);
    wait_until("it is tried again", || outage.hits() > 1);
    for resource in ["namespaces", "namespace_limits", "services"] {
        wait_until("the other watch is heard of", || activity(resource).is_some());
    }
    assert_eq!(activity("pods"), None, "a refusal is no activity");
    drop(outage);
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    server.wait_for_watches(PODS, 1);
    server.wait_for_watches(NAMESPACES, 2);
    for what in ["a bookmark", "a change"] {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(activity("pods").is_some_and(|last| last <= before), "{what} has not come yet");
        if what == "a bookmark" {
            assert_eq!(server.interrupt(PODS, Interruption::Bookmark), 1);
        } else {
            server.put(&Pod::new("new"));
        }
        wait_until(&format!("{what} has come"), || activity("pods").is_some_and(|last| last > before));
    }
}

fn bad_http_requests_are_answered() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut agent = fixture.enforce(&SERVED);
    assert_eq!(request("GET", "/nothing").0, 404);
    assert_eq!(request("GET", "/metrics/../livez").0, 404);
    assert_eq!(request("POST", "/metrics").0, 405);
    let (status, head, body) = request("HEAD", "/metrics");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("openmetrics-text"), "{head}");
    let full = request("GET", "/metrics").1;
    let length =
        |head: &str| head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    assert!(length(&head).is_some_and(|length| length > 1000) && length(&full).is_some(), "{head}");
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", &vec![0xff; 100_000]]
    {
        let answer = send_raw(garbage);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let long = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!send_raw(long.as_bytes()).contains("200 OK"));
    // A second request on one connection gets no answer.
    let twice = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    assert_eq!(send_raw(twice.as_bytes()).matches("200 OK").count(), 1);
    assert_eq!(get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(stranger.bind(&bind(20080)), denied());
    assert!(agent.terminate().success());
}

fn silent_clients_do_not_block_probes() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let agent = fixture.enforce(&SERVED);
    let before = agent.sockets();
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
    assert_eq!(get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(attempts(&scrape(), "deny", "claimed", "tcp"), Some(0));
    let open = agent.sockets() - before;
    assert!(open <= 32, "{open} are open");
    assert_eq!(stranger.bind(&bind(20080)), denied());
    assert_eq!(attempts(&scrape(), "deny", "claimed", "tcp"), Some(1));
    // All are ended, the last ones because their time is over.
    for stream in &mut silent {
        assert_eq!(read_to_end(stream), "");
    }
}

fn taken_listen_address_is_reported_and_retried() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let squatter = TcpListener::bind(LISTEN).expect("a free port");
    let mut agent = fixture.enforce(&SERVED);
    let told = agent.wait_for_line("it is told", |line| line["event"] == "listen_unavailable");
    let message = told["message"].as_str().expect("a message");
    assert!(message.contains(LISTEN) && message.contains("choose another address with --listen"), "{message}");
    until_bind(&mut stranger, 20080, denied());
    drop(squatter);
    agent.wait_for_line("it has the address", |line| line["event"] == "listen_recovered");
    assert_eq!(get("/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(attempts(&scrape(), "deny", "claimed", "tcp"), Some(1));
}

fn listen_none_opens_no_socket() {
    let fixture = AgentFixture::new();
    let _agent = fixture.enforce(&["--listen", "none"]);
    let default = TcpStream::connect("127.0.0.1:9489").expect_err("nobody listens there");
    assert_eq!(default.kind(), std::io::ErrorKind::ConnectionRefused);
}
