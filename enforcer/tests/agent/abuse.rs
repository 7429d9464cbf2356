//! What a tenant who may make pods tries against others: each test is a row of the second table in
//! `docs/threat-model.md`.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use enforcer_core::reports::log_rate_limiter::LOG_LIMIT;
use serde_json::{Value, json};

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::{ApiServer, Target},
    pods::Pod,
    tests,
    worker::Bind,
};

use crate::{
    Test,
    backend::{Backend as _, start_synced},
    metrics::SERVED,
};

pub(crate) const TESTS: &[Test] = tests![
    owner_reference_cannot_cross_namespaces,
    manually_placed_pod_gains_no_rank,
    large_annotation_is_limited_per_item,
    rapid_edits_do_not_disturb_enforcement,
    binds_to_many_addresses_do_not_fill_log,
    control_characters_reach_no_event
];

const PORT: u16 = 20080;
/// What the annotations of an object may have altogether, keys and values (`TotalAnnotationSizeLimitB` in the
/// Kubernetes sources).
const MOST_BYTES: usize = 256 << 10;

/// A controller that somebody else's pods have.
fn owned_by_daemon_set(pod: Pod) -> Pod {
    pod.of_daemon_set("web")
}

fn owner_reference_cannot_cross_namespaces() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let owner = server.put(&owned_by_daemon_set(Pod::new("web-1").ports("20080")));
    let forged = server.put(&owned_by_daemon_set(Pod::new("forged").namespace("tenant").ports("20080")));
    let successor = server.put(&owned_by_daemon_set(Pod::new("web-2").ports("20080")));
    let _agent = start_synced(&fixture, &server, &[]);
    let (mut owners, mut forgers, mut successors) =
        (fixture.worker(&owner), fixture.worker(&forged), fixture.worker(&successor));
    until_bind(&mut owners, PORT, 0);
    // Now the port may be handed over, to pods of that workload.
    server.ask_to_go(owner.namespace_name(), owner.name(), Duration::from_mins(1));
    until_bind(&mut successors, PORT, 0);
    assert_eq!(forgers.bind(&bind(PORT)), denied());
    server.delete(&owner);
    // Changes come in their order: when the last one is enforced, the owner is gone.
    server.put(&Pod::new("last").ports("20099"));
    until_bind(&mut forgers, 20099, denied());
    assert_eq!(forgers.bind(&bind(PORT)), denied());
    assert_eq!(successors.bind(&bind(PORT)), 0);
}

/// A pod that names its node itself passes the scheduler by, and may say that it is older than it is.
fn manually_placed_pod_gains_no_rank() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let owner = server.put(&Pod::new("owner").ports("20080"));
    let mut agent = start_synced(&fixture, &server, &[]);
    let mut owners = fixture.worker(&owner);
    until_bind(&mut owners, PORT, 0);
    let mut sly = Pod::new("sly").namespace("tenant").ports("20080");
    sly.object["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
    sly.object["status"]["conditions"] =
        json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]);
    sly.object["spec"]["priority"] = 2_000_001_000.into();
    let sly = server.put(&sly);
    agent.wait_for_event("claim_conflict", "tenant/sly");
    assert_eq!(fixture.worker(&sly).bind(&bind(PORT)), denied());
    assert_eq!(owners.bind(&bind(PORT)), 0, "what is in force stays");
}

fn large_annotation_is_limited_per_item() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    server.put(&Pod::new("victim").ports("20079"));
    let mut text = "20080, \u{1b}[2J, 0, ".to_owned();
    text.push_str(&"x,70000,".repeat((MOST_BYTES - text.len() - 64) / 8));
    text.push_str(" 20081");
    let large = server.put(&Pod::new("large").namespace("tenant").ports(&text));
    let mut agent = start_synced(&fixture, &server, &SERVED);
    let mut worker = fixture.worker(&large);
    let mut stranger = fixture.worker(&server.put(&Pod::new("stranger")));
    for port in [PORT, PORT + 1] {
        until_bind(&mut stranger, port, denied());
        assert_eq!(worker.bind(&bind(port)), 0, "the good items count");
    }
    assert_eq!(worker.bind(&bind(20079)), denied(), "and no others");
    let mut lines = about(&mut agent, "tenant/large");
    lines.retain(|line| line["event"] == "claim_invalid");
    assert!((2..=33).contains(&lines.len()), "the first problems are told, and how many there are: {}", lines.len());
    let items = text.split([',', ' ']).filter(|item| !item.is_empty()).count();
    let counted: u64 = ["annotation", "more"].into_iter().map(problems).sum();
    assert_eq!(usize::try_from(counted).expect("few"), items - 2, "each one is counted");
    assert!(agent.raw_log().iter().all(|line| line.len() < 4096 && !line.contains('\u{1b}')));
}

/// How many problems of this kind the metrics tell.
fn problems(kind: &str) -> u64 {
    crate::metrics::scrape().count("port_enforcer_claim_problems_total", &[("kind", kind)]).expect("a series")
}

/// The lines about a pod.
fn about(agent: &mut Agent, pod: &str) -> Vec<Value> {
    agent.drain_log().into_iter().filter(|line| line["pod"] == pod).collect()
}

/// The victim's port is claimed and given up again and again, with rubbish beside it, while the victim binds.
fn rapid_edits_do_not_disturb_enforcement() {
    const EDITS: u16 = 300;
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let victim = server.put(&Pod::new("victim").ports("20080"));
    let pod = Pod::new("restless").namespace("tenant");
    let restless = server.put(&pod);
    let mut agent = start_synced(&fixture, &server, &[]);
    let (mut victims, mut tenants) = (fixture.worker(&victim), fixture.worker(&restless));
    until_bind(&mut tenants, PORT, denied());
    let start = Instant::now();
    for edit in 0..EDITS {
        let claims = format!("{}, 20080, rubbish-{edit}", 21_000 + edit);
        let text = if edit % 2 == 0 { claims.as_str() } else { "none" };
        server.put(&pod.clone().ports(text).uid(restless.uid_text()));
        assert_eq!(victims.bind(&bind(PORT)), 0, "edit {edit}");
        assert_eq!(tenants.bind(&bind(PORT)), denied(), "edit {edit}");
        sleep(Duration::from_millis(10));
    }
    server.put(&pod.clone().ports("20099").uid(restless.uid_text()));
    let mut stranger = fixture.worker(&server.put(&Pod::new("stranger")));
    until_bind(&mut stranger, 20_099, denied());
    let told = about(&mut agent, "tenant/restless");
    let most = u128::from(LOG_LIMIT.burst) + start.elapsed().as_nanos() / LOG_LIMIT.interval.as_nanos() + 1;
    assert!(told.len() as u128 <= most, "{} lines, and {most} at most", told.len());
    let calls = server.count(Target::ALL.resource("events"));
    assert!(calls <= 2 * (25 + 1), "{calls} calls about two pods");
}

/// Each address is another conflict, and the loopback network alone has sixteen million.
fn binds_to_many_addresses_do_not_fill_log() {
    const ADDRESSES: u32 = 500;
    let fixture = AgentFixture::new();
    let (owner, loud, quiet) = (Pod::new("owner").ports("20080/udp"), Pod::new("loud"), Pod::new("quiet"));
    fixture.put(&owner);
    let (mut loud, mut quiet) = (fixture.start(&loud), fixture.start(&quiet));
    let mut agent = fixture.enforce(&[]);
    let start = Instant::now();
    for number in 0..ADDRESSES {
        let address = Ipv4Addr::from(0x7f00_0001 + number).to_string();
        assert_eq!(loud.bind(&Bind::udp(&address, PORT)), denied(), "{address}");
    }
    assert_eq!(quiet.bind(&Bind::udp("0.0.0.0", PORT)), denied());
    agent.wait_for_event("bind", "default/quiet");
    let told = about(&mut agent, "default/loud");
    let most = u128::from(LOG_LIMIT.burst) + start.elapsed().as_nanos() / LOG_LIMIT.interval.as_nanos() + 1;
    assert!(told.len() as u128 <= most, "{} lines, and {most} at most", told.len());
    // What was held back is told with the next line there is room for.
    wait_until("it is told how many were held back", || {
        assert_eq!(loud.bind(&Bind::udp("127.255.255.254", PORT)), denied());
        let address = Ipv4Addr::from(0x7f10_0000 + start.elapsed().subsec_millis());
        loud.bind(&Bind::udp(&address.to_string(), PORT));
        about(&mut agent, "default/loud")
            .iter()
            .any(|line| line["suppressedOthers"].as_u64().is_some_and(|held| held > 0))
    });
}

fn control_characters_reach_no_event() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let text = "20080, \u{1b}]0;owned\u{7}, \u{202e}cod.exe, \n20081";
    let odd = server.put(&Pod::new("odd").namespace("tenant").ports(text).share_group("a\u{1b}[31m\r\nb"));
    let _agent = start_synced(&fixture, &server, &[]);
    let mut stranger = fixture.worker(&server.put(&Pod::new("stranger")));
    let _odd = fixture.worker(&odd);
    until_bind(&mut stranger, 20_081, denied());
    wait_until("the problems are told", || {
        let events = server.events();
        events.iter().filter(|event| event.reason.as_deref() == Some("PortClaimInvalid")).count() >= 2
            && events.iter().any(|event| event.reason.as_deref() == Some("PortBindDenied"))
    });
    for event in server.events() {
        let note = event.note.unwrap_or_default();
        assert!(note.len() <= 1024 && !note.is_empty(), "{note:?}");
        assert!(note.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{note:?}");
    }
}
