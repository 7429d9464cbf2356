use std::time::{SystemTime, UNIX_EPOCH};

use enforcer_ebpf::wire::{
    KernelError, Protocol, Reason, Undeclared, VerdictKind, counter, error_counter, unreported_counter,
};

use super::*;
use enforcer_core::{
    index::Settings,
    model::{
        kernel_ids::{BootNanos, CgroupId},
        name::Name,
        now::Now,
        port_spec::protocol_name,
    },
    pods::pod::from_api,
};

use crate::kernel::Counters;

use enforcer_testing::exposition::{Exposition, Family};

/// How many attempts of each kind were not told.
const UNTOLD: u64 = 1;

/// Each counter of the kernel's counts its own index, and those of what was not told [`UNTOLD`].
fn count(index: u32) -> u64 {
    let first_untold = unreported_counter(VerdictKind::Allow, Reason::Owner, Protocol::Tcp);
    if index < first_untold { index.into() } else { UNTOLD }
}

fn metrics() -> Metrics {
    let activity = LastActivity::default();
    for resource in ApiResource::WATCHED {
        activity.record(resource);
    }
    let metrics = Metrics::new(Some(activity));
    metrics.set_counters(ReadCounters::new(|| Ok(Counters::from_fn(count))));
    let policy = Policy {
        enforce: true,
        undeclared: Undeclared::Allow,
        deny_on_error: false,
        report_attempts: false,
        report_bound: false,
        node_scope: false,
        errno: 98,
    };
    metrics.set_event_queue(EventQueue::new("node-1"));
    metrics.conflict(None, VerdictKind::Deny);
    metrics.lease_ends(Some(BootNanos::new(1)));
    metrics.set_gauges(&Index::new(Settings::default(), CgroupId::new(1)), 7, policy);
    metrics
}

fn scrape(metrics: &Metrics) -> Exposition {
    Exposition::parse(&metrics.exposition().unwrap())
}

#[test]
fn every_counter_of_the_kernel_has_its_series() {
    let scraped = scrape(&metrics());
    for protocol in Protocol::ALL {
        for verdict in VerdictKind::ALL {
            for reason in Reason::ALL {
                let index = counter(verdict, reason, protocol);
                let protocol = protocol_name(protocol);
                let labels = [("verdict", verdict.as_str()), ("reason", reason.as_str()), ("protocol", protocol)];
                assert_eq!(
                    scraped.count("port_enforcer_bind_attempts_total", &labels),
                    Some(u64::from(index) + UNTOLD),
                    "{labels:?}"
                );
            }
        }
    }
    let kinds = Protocol::ALL.len() * VerdictKind::ALL.len() * Reason::ALL.len();
    let untold = u64::try_from(kinds).unwrap() * UNTOLD;
    for kind in KernelError::ALL {
        let labels = [("kind", kind.as_str())];
        let more = if kind == KernelError::BindEventLost { untold } else { 0 };
        let count = u64::from(error_counter(kind)) + more;
        assert_eq!(scraped.count("port_enforcer_kernel_errors_total", &labels), Some(count));
    }
    for (ring, kind, more) in [
        ("verdict", KernelError::BindEventLost, untold),
        ("cgroup", KernelError::CgroupEventLost, 0),
        ("socket", KernelError::HolderEventLost, 0),
    ] {
        let count = u64::from(error_counter(kind)) + more;
        assert_eq!(scraped.count("port_enforcer_events_lost_total", &[("ring", ring)]), Some(count), "{ring}");
    }
}

#[test]
fn the_first_error_and_the_first_denial_are_increases() {
    let metrics = metrics();
    metrics.set_counters(ReadCounters::new(|| unreachable!("only the first one counts")));
    let fresh = Metrics::new(Some(LastActivity::default()));
    fresh.set_counters(ReadCounters::new(|| Ok(Counters::from_fn(|_| 0))));
    let scraped = scrape(&fresh);
    let denied = [("verdict", "deny"), ("reason", "claimed"), ("protocol", "udp")];
    assert_eq!(scraped.count("port_enforcer_bind_attempts_total", &denied), Some(0));
    let odd = [("verdict", "allow"), ("reason", "claimed"), ("protocol", "udp")];
    assert_eq!(scraped.count("port_enforcer_bind_attempts_total", &odd), None, "what cannot be is not there");
    let gone = [("resource", "namespaces"), ("kind", "gone")];
    assert_eq!(scraped.count("port_enforcer_api_errors_total", &gone), Some(0));
    fresh.api_error(ApiResource::Namespaces, ApiErrorKind::Gone);
    fresh.api_error(ApiResource::Namespaces, ApiErrorKind::Gone);
    let scraped = scrape(&fresh);
    assert_eq!(scraped.count("port_enforcer_api_errors_total", &gone), Some(2));
    assert_eq!(scraped.sum("port_enforcer_api_errors_total"), 2);
    let activity = &scraped.0["port_enforcer_watch_last_activity_timestamp_seconds"];
    assert!(activity.samples.is_empty(), "nothing has come");
}

const CONFLICTS: &str = "port_enforcer_conflicts_total";

#[test]
fn a_namespace_has_its_series_while_it_has_a_pod() {
    let at = |seconds| Now { wall: 0, boottime: Duration::from_secs(seconds) };
    let pod = |namespace: &str, name: &str| {
        let uid = format!("3f2c9a1e-8d47-4b7c-9f0a-{:012x}", name.len());
        let object = serde_json::json!({
            "metadata": { "namespace": namespace, "name": name, "uid": uid },
            "spec": { "hostNetwork": true, "containers": [] },
        });
        from_api(&serde_json::from_value(object).unwrap())
    };
    let metrics = metrics();
    let mut index = Index::new(Settings::default(), CgroupId::new(1));
    let stand = |index: &Index| {
        metrics.set_gauges(index, 0, Policy::from_word(0));
        let scraped = scrape(&metrics);
        ["", "shop", "else"].map(|namespace| scraped.count(CONFLICTS, &[("namespace", namespace), ("verdict", "deny")]))
    };
    index.apply(pod("shop", "a"), at(0));
    index.apply(pod("shop", "ab"), at(0));
    for (namespace, times) in [("shop", 3), ("gone", 5)] {
        (0..times).for_each(|_| metrics.conflict(Some(namespace), VerdictKind::Deny));
    }
    metrics.conflict(Some("shop"), VerdictKind::Audit);
    // One is there already, of nobody's.
    assert_eq!(stand(&index), [Some(1), Some(3), None]);
    assert_eq!(scrape(&metrics).sum(CONFLICTS), 5, "what a namespace without pods caused is not kept");
    index.delete("shop", "a", at(1));
    index.apply(pod("else", "abc"), at(1));
    metrics.conflict(Some("else"), VerdictKind::Deny);
    assert_eq!(stand(&index), [Some(1), Some(3), Some(1)]);
    index.delete("shop", "ab", at(2));
    assert_eq!(stand(&index), [Some(1), None, Some(1)], "with its last pod");
    metrics.conflict(Some("shop"), VerdictKind::Deny);
    assert_eq!(stand(&index), [Some(1), None, Some(1)], "nor does it come back without one");
}

#[test]
fn a_gap_grows_while_it_is_open() {
    let metrics = metrics();
    let boot = crate::host::clock::now().boottime;
    let gap = |cause| scrape(&metrics).value("port_enforcer_unenforced_seconds_total", &[("cause", cause)]).unwrap();
    assert!(gap("boot") == 0.0 && gap("unsynced") == 0.0);
    metrics.unenforced(Some((GapCause::Boot, Duration::ZERO)), boot);
    let before = gap("boot");
    assert!(before >= boot.as_secs_f64(), "{before}");
    metrics.unenforced(None, boot + Duration::from_secs(1));
    metrics.was_unenforced(GapCause::Stale, Duration::from_millis(1500));
    assert!((gap("boot") - boot.as_secs_f64() - 1.0).abs() < 1e-6);
    assert!((gap("stale") - 1.5).abs() < 1e-6);
}

#[test]
fn the_lease_ends_at_a_time_of_day() {
    let metrics = metrics();
    let end = || scrape(&metrics).value("port_enforcer_lease_end_timestamp_seconds", &[]);
    metrics.lease_ends(None);
    assert_eq!(end(), None, "never");
    let now = crate::host::clock::now();
    metrics.lease_ends(Some(BootNanos::after_boot(now.boottime + Duration::from_mins(10))));
    let expected = Duration::from_micros(u64::try_from(now.wall).unwrap()).as_secs_f64() + 600.0;
    assert!((end().unwrap() - expected).abs() < 60.0, "{:?}, {expected}", end());
}

#[test]
fn what_counts_for_nothing_is_counted_by_kind() {
    let metrics = metrics();
    let pod = Name {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        uid: String::new(),
        mirror: None,
        handover: None,
        service: false,
    };
    for notice in [
        Notice::MoreProblems { pod: pod.clone(), count: 7 },
        Notice::SameUid { pod: pod.clone(), first: pod.clone() },
        Notice::MirrorRejected { pod: pod.clone(), why: "why" },
        Notice::Granted { pod, ports: Vec::new() },
    ] {
        metrics.claim_problem(&notice);
    }
    let scraped = scrape(&metrics);
    let count = |kind| scraped.count("port_enforcer_claim_problems_total", &[("kind", kind)]);
    assert_eq!((count("more"), count("identity"), count("quota")), (Some(7), Some(2), Some(0)));
    assert_eq!(scraped.sum("port_enforcer_claim_problems_total"), 9);
}

#[test]
fn every_claim_problem_has_its_kind() {
    use enforcer_core::{
        model::quota::Quota,
        pods::{annotation, claims::ClaimProblem},
    };

    let claim = enforcer_core::pods::claims::PodClaim {
        spec: annotation::parse("80").specs[0],
        source: enforcer_core::model::source::ClaimSource::Annotation,
    };
    let limit = Quota::UNLIMITED.claims.limit;
    for problem in [
        ClaimProblem::Item(annotation::parse("x").problems[0].clone()),
        ClaimProblem::NoHostNetwork,
        ClaimProblem::Quota { claim, position: None, limit: 1 },
        ClaimProblem::QuotaExceeded { claim, position: None, limit },
        ClaimProblem::Pod(enforcer_core::pods::pod::PodProblem::UidMissing),
        ClaimProblem::Pod(enforcer_core::pods::pod::PodProblem::Port { container: String::new(), port: 0 }),
    ] {
        assert!(Notice::PROBLEMS.contains(&problem.as_str()), "{problem:?}");
    }
}

#[test]
fn the_last_activity_is_a_time_of_day() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let scraped = scrape(&metrics());
    for resource in ApiResource::WATCHED {
        let labels = [("resource", resource.as_str())];
        let last = scraped.value("port_enforcer_watch_last_activity_timestamp_seconds", &labels).unwrap();
        assert!((before..=now()).contains(&last), "{last}");
    }
}

#[test]
fn a_delay_falls_into_its_bucket() {
    let metrics = metrics();
    for delay in [Duration::from_micros(9), Duration::from_micros(60), Duration::from_millis(7), Duration::from_mins(1)]
    {
        metrics.enforced(delay);
    }
    let scraped = scrape(&metrics);
    let family = &scraped.0["port_enforcer_enforcement_delay_seconds"];
    let below = |bound: f64| {
        let bucket = family.samples.iter().find(|((_, labels), _)| {
            labels.get("le").is_some_and(|le| le.parse::<f64>().is_ok_and(|le| le.total_cmp(&bound).is_eq()))
        });
        bucket.unwrap_or_else(|| panic!("no bucket {bound}")).1.as_str()
    };
    let counts = [10e-6, 50e-6, 100e-6, 5e-3, 10e-3, 10.0, f64::INFINITY].map(below);
    assert_eq!(counts, ["1", "1", "2", "2", "3", "3", "4"]);
    assert_eq!(scraped.count("port_enforcer_enforcement_delay_seconds_count", &[]), Some(4));
}

#[test]
fn a_scrape_that_would_not_be_true_fails() {
    let metrics = Metrics::new(None);
    metrics.set_counters(ReadCounters::new(|| Err(crate::kernel::BpfError::Missing("COUNTERS"))));
    assert!(metrics.exposition().is_err());
}

/// A row of the table: name, type, labels, meaning.
type Row = [String; 4];

fn row(name: &str, family: &Family) -> Row {
    let labels: Vec<_> = family.labels().into_iter().map(|label| format!("`{label}`")).collect();
    [format!("`{}`", family.known_as(name)), family.kind.clone(), labels.join(", "), family.help.clone()]
}

#[test]
fn the_documentation_has_every_metric_and_no_other() {
    let scraped = scrape(&metrics());
    let served: Vec<Row> = scraped.0.iter().map(|(name, family)| row(name, family)).collect();
    let text = include_str!("../../../docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `port_enforcer_"));
    let mut documented: Vec<Row> = rows
        .map(|line| {
            let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            cells.try_into().unwrap_or_else(|cells| panic!("four cells: {cells:?}"))
        })
        .collect();
    documented.sort();
    let mut served = served;
    served.sort();
    let missing: Vec<_> = served.iter().filter(|row| !documented.contains(row)).collect();
    let surplus: Vec<_> = documented.iter().filter(|row| !served.contains(row)).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing in docs/metrics.md: {missing:#?}; not served: {surplus:#?}"
    );
    assert_eq!(documented.len(), served.len(), "a row stands twice");
}

/// The words of closed lists that the documentation names, as they are served.
#[test]
fn the_documentation_has_every_value_of_every_label() {
    let text = include_str!("../../../docs/metrics.md");
    let scraped = scrape(&metrics());
    for family in scraped.0.values() {
        for (_, labels) in family.samples.keys() {
            for (name, value) in
                labels.iter().filter(|(name, _)| !matches!(name.as_str(), "le" | "version" | "namespace"))
            {
                assert!(text.contains(&format!("`{value}`")), "{name}={value}");
            }
        }
    }
}
