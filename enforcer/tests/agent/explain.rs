//! `enforcer explain`, asked of the real agent: what it says happens.

use serde_json::Value;

use enforcer_testing::{
    agent_fixture::{AgentFixture, bind, denied},
    pods::Pod,
    tests,
    worker::{Bind, Worker},
};

use crate::{
    Test,
    status::{json, run, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![
    explanation_matches_verdict,
    explanation_names_owner_and_reason,
    explanation_uses_effective_mode,
    invalid_questions_get_an_error_message
];

/// What is told of a bind of a wildcard address by a pod: the programs' verdict, and the kernel's own word.
fn explanation(fixture: &AgentFixture, port: &str, pod: &Pod, address: &str) -> (String, String) {
    let pod = format!("{}/{}", pod.namespace_name(), pod.name());
    let answer = json(fixture, &["explain", port, "--pod", &pod]);
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&"port-enforcer.io/v1alpha1".into(), &"Explanation".into()));
    let binds = answer["binds"].as_array().expect("a list");
    let bind = binds.iter().find(|bind| bind["address"] == address).unwrap_or_else(|| panic!("{answer}"));
    let text = |key: &str| bind[key].as_str().expect("a word").to_owned();
    (text("verdict"), text("kernel"))
}

fn explanation_matches_verdict() {
    let fixture = AgentFixture::new();
    let pods = [
        Pod::new("owner").ports("20080, 127.0.0.1:20081, [::1]:20082, 20083/udp, 20085"),
        Pod::new("one").ports("20084").share_group("group"),
        Pod::new("two").ports("20084").share_group("group"),
        Pod::new("stranger"),
        Pod::new("system").namespace("kube-system"),
    ];
    let mut workers: Vec<Worker> = pods.iter().map(|pod| fixture.start(pod)).collect();
    let socket = socket(&fixture);
    let mut agent = fixture.enforce(&served(&socket, &["--node-reserved", "20022/tcp"]));
    assert_eq!(workers[0].bind(&bind(20085).kept()), 0);
    assert_eq!(workers[3].bind(&bind(20086).kept()), 0);
    let mut seen = std::collections::BTreeSet::new();
    for port in [20022, 20080, 20081, 20082, 20083, 20084, 20085, 20086, 20087] {
        let (protocol, kind) =
            if port == 20083 { ("udp", Bind::udp as fn(&str, u16) -> Bind) } else { ("tcp", Bind::tcp as _) };
        for (pod, worker) in pods.iter().zip(&mut workers) {
            for address in ["0.0.0.0", "::"] {
                let (verdict, kernel) = explanation(&fixture, &format!("{port}/{protocol}"), pod, address);
                let errno = worker.bind(&kind(address, port));
                let expected = match (verdict.as_str(), kernel.as_str()) {
                    ("deny", _) => denied(),
                    (_, "free") => 0,
                    (_, "inUse" | "inUseUnlessShared") => libc::EADDRINUSE,
                    other => panic!("{other:?}"),
                };
                assert_eq!(errno, expected, "{address}:{port} by {}: {verdict}, {kernel}", pod.name());
                if verdict != "allow" {
                    let line = agent.wait_for_event("bind", &format!("{}/{}", pod.namespace_name(), pod.name()));
                    assert_eq!(
                        (line["verdict"].as_str(), line["port"].as_u64()),
                        (Some(verdict.as_str()), Some(port.into()))
                    );
                }
                seen.insert((verdict, kernel));
            }
        }
    }
    assert!(seen.len() >= 5, "verdicts of all kinds: {seen:?}");
}

fn explanation_names_owner_and_reason() {
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080"));
    fixture.put(&Pod::new("loser").ports("20080"));
    fixture.put(&Pod::new("own").with_own_network());
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    assert_eq!(owner.bind(&bind(20080).kept()), 0);
    let (code, stdout, stderr) = run(&fixture, &["explain", "20080"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for words in [
        "20080/tcp on node-1 is owned by default/owner (annotation). It is claimed in vain too: default/loser (annotation) lost \
         to default/owner. It is held by default/owner (container server",
        ") on 0.0.0.0 since ",
        "If any other pod binds 0.0.0.0:20080 or [::]:20080 now, that is denied: claimed by default/owner (annotation); this \
         node is in enforce mode. Apart from that, the kernel itself refuses it with EADDRINUSE while default/owner holds the \
         port",
        "\nremedy: give one of the two another port",
    ] {
        assert!(stdout.contains(words), "{words}\n{stdout}");
    }
    let (code, stdout, _) = run(&fixture, &["explain", "20080/tcp", "--pod", "default/own"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("default/own has a network of its own, so it never binds a port of the node"), "{stdout}");
    let (code, stdout, _) = run(&fixture, &["explain", "20080/sctp"]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains("Nobody owns 20080/sctp on node-1.") && stdout.contains("No bind of SCTP is judged"),
        "{stdout}"
    );
}

fn explanation_uses_effective_mode() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let stranger = Pod::new("stranger");
    let mut worker = fixture.start(&stranger);
    let socket = socket(&fixture);
    let _agent = fixture.agent(&served(&socket, &[]));
    assert_eq!(explanation(&fixture, "20080", &stranger, "0.0.0.0"), ("audit".to_owned(), "free".to_owned()));
    assert_eq!(worker.bind(&bind(20080)), 0);
    let answer = json(&fixture, &["explain", "20080"]);
    assert_eq!(answer["mode"], "audit");
    let message = answer["message"].as_str().expect("a paragraph");
    assert!(
        message.contains("let through and told: claimed by default/owner (annotation); this node is in audit mode")
    );
}

fn invalid_questions_get_an_error_message() {
    let fixture = AgentFixture::new();
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    for (arguments, words) in [
        (&["explain", "0"][..], "write a port from 1 to 65535"),
        (&["explain", "65536"], "write a port from 1 to 65535"),
        (&["explain", "80/icmp"], "write /tcp, /udp or /sctp"),
        (&["explain", "80", "--pod", "web"], "write NAMESPACE/NAME"),
        (&["explain", "80", "--pod", "default/we\u{1b}b"], r"no pod default/we\u{1b}b is known on node-1"),
    ] {
        let (code, stdout, stderr) = run(&fixture, arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
        assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    }
    assert_eq!(json(&fixture, &["explain", "80"])["pod"], Value::Null);
}
