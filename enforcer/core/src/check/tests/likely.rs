//! Likely claims from arguments, environment and `prometheus.io/port`. How good the rules are is in [`super::corpus`].

use super::{codes, found, manifests, messages, object, workload};
use crate::{
    check::{CheckSettings, check, finding::Code},
    pods::annotation::parse_list,
};

/// A pod's spec on the host network with these fields in its container.
fn host(fields: &str) -> String {
    format!("hostNetwork: true, containers: [{{name: main, {fields}}}]")
}

fn daemon_set(name: &str, annotations: &str, pod: &str) -> String {
    workload("DaemonSet", name, "", annotations, pod)
}

/// The claims, each with what it rests on.
fn claims(pod: &str, annotations: &str) -> Vec<String> {
    let object = object(&daemon_set("x", annotations, pod));
    let shown = |claim| match object.likely_port(claim) {
        Some(likely) => format!("{} {likely}", claim.spec),
        None => format!("{} {}", claim.spec, claim.source),
    };
    object.claims.iter().map(shown).collect()
}

/// The ports that arguments name, in the order of the rules.
fn ports(fields: &str) -> String {
    let object = object(&daemon_set("x", "", &host(fields)));
    object.claims.iter().map(|claim| claim.spec.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn arguments_that_name_a_port_to_listen_on_are_likely_claims() {
    for (arguments, expected) in [
        ("--port=80", "80/tcp"),
        ("--port, '80'", "80/tcp"),
        ("--port, 80", "80/tcp"),
        ("-port=80", "80/tcp"),
        ("--listen-address=:80", "80/tcp"),
        ("'--metrics-bind-address=0.0.0.0:80'", "0.0.0.0:80/tcp"),
        ("'--http.listen=127.0.0.1:80'", "127.0.0.1:80/tcp"),
        ("'--listen=[::]:80'", "[::]:80/tcp"),
        ("'--listen=10.0.0.1:80'", "10.0.0.1:80/tcp"),
        ("'--web.listen-address=$(NODE_IP):80'", "80/tcp"),
        ("'--host=tcp://0.0.0.0:80'", "0.0.0.0:80/tcp"),
        ("'--host=unix:///run/x.sock'", ""),
        ("'-Dserver.port=80'", "80/tcp"),
        ("--dns-udp-port=53", "53/udp"),
        ("'--dns=:53/udp'", "53/udp"),
        ("'--listen=http://10.0.0.1:80,http://127.0.0.1:81'", "10.0.0.1:80/tcp 127.0.0.1:81/tcp"),
        ("'0.0.0.0:80'", "0.0.0.0:80/tcp"),
        ("-b, ':80'", "80/tcp"),
        // Another one's, or none.
        ("-p, '80'", ""),
        ("'--listen=db:80'", ""),
        ("'--addr=10.0.0.1:80'", ""),
        ("'--redis.addr=127.0.0.1:80'", ""),
        ("--port=0", ""),
        ("--port=65536", ""),
        ("--port=80s", ""),
        ("'--port={{ .Values.port }}'", ""),
        ("--port=$(UNKNOWN)", ""),
        ("--no-http-port=80", ""),
        ("--disable-port=80", ""),
        ("--etcd-servers=https://127.0.0.1:80", ""),
        ("--kubelet-port=80", ""),
        ("--upstream=http://127.0.0.1:80", ""),
        ("'--upstream=:80'", ""),
        ("--remote-write-port=80", ""),
        ("'--proxy-host-port=10.0.0.1:80'", ""),
        ("--target-port=80", ""),
        ("--dst-port=80", ""),
        ("--zookeeper=127.0.0.1:80", ""),
        ("'--prometheus.url=http://0.0.0.0:80'", ""),
        ("--verbose, --port=80", "80/tcp"),
        ("--listen=1", ""),
        ("--report=80, --support=81", ""),
        ("--metrics-port=80-90", ""),
    ] {
        assert_eq!(ports(&format!("args: [{arguments}]")), expected, "{arguments}");
    }
}

#[test]
fn address_of_a_port_is_in_the_setting_beside_it() {
    for (arguments, expected) in [
        ("--bind-address=127.0.0.1, --secure-port=80", "127.0.0.1:80/tcp"),
        ("--host, 0.0.0.0, --port, '80'", "0.0.0.0:80/tcp"),
        ("--metrics-host=127.0.0.1, --metrics-port=80, --port=81", "127.0.0.1:80/tcp 81/tcp"),
        ("--bind-address=10.0.0.1, --port=80", "10.0.0.1:80/tcp"),
        ("--host=0.0.0.0, --http-port=80", "0.0.0.0:80/tcp"),
        ("--bind-address=$(POD_IP), --port=80", "80/tcp"),
        // With all addresses beside it, even a word that says nothing names an own port.
        ("--xds-host=0.0.0.0, --xds-port=80", "0.0.0.0:80/tcp"),
        // A client's.
        ("--host=db, --port=80", ""),
        ("--host=10.0.0.1, --port=80", ""),
        ("--host=$(DB_HOST), --port=80", ""),
        ("--xds-host=127.0.0.1, --xds-port=80", ""),
    ] {
        assert_eq!(ports(&format!("args: [{arguments}]")), expected, "{arguments}");
    }
}

#[test]
fn variables_that_name_a_port_to_listen_on_are_likely_claims() {
    for (name, value, expected) in [
        ("PORT", "'80'", "80/tcp"),
        ("PORT", "80", "80/tcp"),
        ("SERVER_PORT", "'80'", "80/tcp"),
        ("APP_METRICS_PORT", "'80'", "80/tcp"),
        ("FELIX_HEALTHPORT", "'80'", "80/tcp"),
        ("DD_DOGSTATSD_PORT", "'80'", "80/udp"),
        ("BIND_ADDRESS", "'127.0.0.1:80'", "127.0.0.1:80/tcp"),
        ("LISTENERS", "'A://:80,B://0.0.0.0:81'", "80/tcp 0.0.0.0:81/tcp"),
        ("ADMIN_LISTEN", "'0.0.0.0:80 http2, 0.0.0.0:81 ssl'", "0.0.0.0:80/tcp 0.0.0.0:81/tcp"),
        ("APP_URLS", "'http://+:80'", "80/tcp"),
        ("JAVA_OPTS", "'-Xmx1g -Dserver.port=80'", "80/tcp"),
        ("HTTP_ADDR", "'127.0.0.1:80'", "127.0.0.1:80/tcp"),
        // Another one's, or none.
        ("port", "'80'", ""),
        ("PAYMENT_GRPC_ADDR", "'127.0.0.1:80'", ""),
        ("HTTP_ADDR", "'10.0.0.1:80'", ""),
        ("POSTGRES_PORT", "'80'", ""),
        ("REDIS_PORT", "'80'", ""),
        ("DB_PORT", "'80'", ""),
        ("SMTP_PORT", "'80'", ""),
        ("KUBERNETES_SERVICE_PORT", "'80'", ""),
        ("APP_SERVICE_PORT", "'80'", ""),
        ("HTTP_REMOTE_PORT", "'80'", ""),
        ("API_URL", "'http://0.0.0.0:80'", ""),
        ("PORT", "''", ""),
        ("PORT", "'${PORT}'", ""),
        ("PORT", "true", ""),
    ] {
        assert_eq!(ports(&format!("env: [{{name: {name}, value: {value}}}]")), expected, "{name}={value}");
    }
    let from_elsewhere = "env: [{name: PORT, valueFrom: {secretKeyRef: {name: s, key: k}}}]";
    assert_eq!(ports(from_elsewhere), "");
    let of_another = "env: [{name: HTTP_HOST, valueFrom: {fieldRef: {fieldPath: x}}}, {name: HTTP_PORT, value: '80'}]";
    assert_eq!(ports(of_another), "");
    assert_eq!(ports("args: [--port=$(P)], env: [{name: P, value: '80'}]"), "80/tcp");
    assert_eq!(ports("args: [--port=$$(P)], env: [{name: P, value: '80'}]"), "");
}

#[test]
fn what_another_setting_turns_off_has_no_port() {
    let variables =
        |name, value, port| format!("env: [{{name: {name}, value: '{value}'}}, {{name: {port}, value: '80'}}]");
    for (name, value, port, expected) in [
        ("ENABLE_METRICS", "false", "METRICS_PORT", ""),
        ("METRICS_ENABLED", "0", "METRICS_LISTEN_PORT", ""),
        ("ENABLE_PROMETHEUS_SERVER", "false", "PROMETHEUS_SERVER_PORT", ""),
        ("FELIX_PROMETHEUSMETRICSENABLED", "false", "FELIX_PROMETHEUSMETRICSPORT", ""),
        ("ENABLE_METRICS", "true", "METRICS_PORT", "80/tcp"),
        ("ENABLE_TRACING", "false", "METRICS_PORT", "80/tcp"),
        ("ENABLE", "false", "PORT", "80/tcp"),
    ] {
        assert_eq!(ports(&variables(name, value, port)), expected, "{name}={value} {port}");
    }
    assert_eq!(ports("args: [--enable-metrics=false, '--metrics-addr=:80']"), "");
}

#[test]
fn scripts_of_shells_are_read_as_far_as_programs_stay() {
    for (script, expected) in [
        ("exec app --port=80", "80/tcp"),
        ("app --port 80", "80/tcp"),
        ("client --port=80; exec app --port=81", "81/tcp"),
        ("a --port=80 & b --port=81", "80/tcp 81/tcp"),
        ("exec app --port=${PORT}", ""),
    ] {
        assert_eq!(ports(&format!("command: [/bin/sh, -c, '{script}']")), expected, "{script}");
        assert_eq!(ports(&format!("command: [bash], args: [-ec, '{script}']")), expected, "{script}");
    }
}

#[test]
fn scrape_annotation_is_a_likely_claim_unless_turned_off() {
    let pod = host("image: x");
    for (annotations, expected) in [
        ("prometheus.io/port: '80'", &["80/tcp annotation prometheus.io/port (line 1)"][..]),
        ("prometheus.io/port: '80', prometheus.io/scrape: 'true'", &["80/tcp annotation prometheus.io/port (line 1)"]),
        ("prometheus.io/port: '80', prometheus.io/scrape: 'false'", &[]),
        ("prometheus.io/port: metrics", &[]),
        ("prometheus.io/port: '0'", &[]),
        ("prometheus.io/port: '80', port-enforcer.io/ports: none", &[]),
        ("prometheus.io/port: '80', port-enforcer.io/ports: '80'", &["80/tcp annotation"]),
    ] {
        assert_eq!(claims(&pod, annotations), expected, "{annotations}");
    }
}

#[test]
fn surest_source_names_a_port() {
    let probe = "livenessProbe: {tcpSocket: {port: 80}}";
    let argument = "args: ['--metrics-addr=127.0.0.1:80']";
    let variable = "env: [{name: PORT, value: '80'}]";
    let scrape = "prometheus.io/port: '80'";
    let (by_probe, by_argument) = (
        "80/tcp livenessProbe of container main (line 1)",
        "127.0.0.1:80/tcp argument --metrics-addr of container main (line 1)",
    );
    for (fields, expected) in [
        (format!("{probe}, {argument}, {variable}"), by_probe),
        (format!("{argument}, {variable}"), by_argument),
        (variable.to_owned(), "80/tcp environment PORT of container main (line 1)"),
    ] {
        assert_eq!(claims(&host(&fields), scrape), [expected], "{fields}");
    }
    // What is declared is known, and needs no guess.
    assert_eq!(claims(&host(&format!("ports: [{{containerPort: 80}}], {argument}")), scrape), ["80/tcp hostPort"]);
    assert_eq!(claims(&host(argument), "port-enforcer.io/ports: none"), [""; 0]);
    assert_eq!(claims("containers: [{name: c, args: [--port=80]}]", scrape), [""; 0]);
    let init = "hostNetwork: true, containers: [{name: c}], initContainers: [{name: i, args: [--port=80]}]";
    assert_eq!(claims(init, ""), [""; 0]);
}

#[test]
fn likely_claims_are_bounded_and_escaped() {
    let many: Vec<String> = (1..=2_000).map(|port| format!("--p{port}.listen=:{port}")).collect();
    assert_eq!(claims(&host(&format!("args: ['{}']", many.join("', '"))), "").len(), 64);
    let long = format!("args: ['--listen=:80,{}']", "x".repeat(10_000));
    assert_eq!(ports(&long), "");
    let name = "--a\\u202e\\u0007-listen";
    let shown = claims(&host(&format!("args: [\"{name}=:80\"]")), "");
    assert_eq!(shown, ["80/tcp argument --a\\u{202e}\\u{7}-listen of container main (line 1)"]);
    let listed = "x".repeat(200);
    let shown = claims(&host(&format!("args: ['--{listed}-port=:80']")), "");
    assert!(shown[0].contains("x… of container main"), "{shown:?}");
}

#[test]
fn likely_conflict_names_what_it_rests_on() {
    let manager = daemon_set("manager", "", &host("args: ['--metrics-addr=:8080']"));
    let agent = daemon_set("agent", "", &host("env: [{name: HTTP_PORT, value: '8080'}]"));
    let declared = daemon_set("declared", "", &host("ports: [{containerPort: 8080}]"));
    let probed = daemon_set("probed", "", &host("livenessProbe: {tcpSocket: {port: 8080}}"));
    let argument = "argument --metrics-addr of container main (line 1)";
    let variable = "environment HTTP_PORT of container main (line 1)";
    for (one, other, words) in [
        (&manager, &agent, format!("both most likely listen on 8080/tcp (it by {variable}, the other by {argument})")),
        (&manager, &declared, format!("it claims 8080/tcp, on which the other most likely listens ({argument})")),
        (&declared, &manager, format!("it most likely listens on 8080/tcp ({argument}), which the other claims")),
        (
            &probed,
            &manager,
            format!(
                "both most likely listen on 8080/tcp (it by {argument}, the other by livenessProbe of container main (line 1))"
            ),
        ),
    ] {
        let found = messages(&[one, other], &[Code::Conflict]);
        assert!(found.len() == 1 && found[0].contains(&words), "{found:?}\n{words}");
        assert!(found[0].starts_with("1.yaml:1: warning: "), "{found:?}");
    }
    let outcome = check(&manifests(&[&manager, &declared]), &CheckSettings::default());
    let remedy = &outcome.findings.iter().find(|finding| finding.code == Code::Conflict).expect("a conflict").remedy;
    assert!(
        remedy.contains("add ports: [{containerPort: 8080}] to container main of DaemonSet default/manager;"),
        "{remedy}"
    );
}

#[test]
fn likely_udp_port_is_declared_as_one() {
    let one = daemon_set("one", "", &host("args: [--dns-udp-port=53]"));
    let other = daemon_set("other", "", &host("args: ['--listen-udp=127.0.0.1:53']"));
    let outcome = check(&manifests(&[&one, &other]), &CheckSettings::default());
    let conflict = outcome.findings.iter().find(|finding| finding.code == Code::Conflict).expect("a conflict");
    for line in ["{containerPort: 53, protocol: UDP}", "{containerPort: 53, hostIP: 127.0.0.1, protocol: UDP}"] {
        assert!(conflict.remedy.contains(line), "{}", conflict.remedy);
    }
}

#[test]
fn guesses_make_no_errors_and_say_so() {
    let pod = host("args: [--port=10250]");
    let node_reserved = parse_list("10250/tcp").unwrap();
    let settings = CheckSettings { node_reserved, ..CheckSettings::default() };
    let outcome = check(&manifests(&[&daemon_set("x", "", &pod)]), &settings);
    assert_eq!(codes(&outcome), ["0.yaml:1: warning reserved", "0.yaml:1: note unknown_ports"]);
    let set = workload("StatefulSet", "x", "replicas: 2,", "", &pod);
    assert_eq!(found(&[&set], Some(1)), ["0.yaml:1: warning replicas", "0.yaml:1: note unknown_ports"]);
    let found = messages(&[&set], &[Code::Replicas, Code::UnknownPorts]);
    let basis = "argument --port of container main (line 1)";
    assert!(found[0].ends_with(&format!("; 10250/tcp is only likely: {basis}")), "{found:?}");
    let note = "and none of its ports is known for certain; most likely it listens on 10250/tcp";
    assert!(found[1].ends_with(&format!("{note} ({basis})")), "{found:?}");
}
