//! Manifests that are wrong, or mean harm: whatever is good in them counts, and nothing else is lost.

use enforcer_core::pods::annotation::MAX_PROBLEMS;
use serde_json::{Value, json};

use enforcer_testing::agent_fixture::{AgentFixture, bind, denied};
use enforcer_testing::pods::Pod;
use enforcer_testing::tests;

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    bad_items_are_reported_and_good_items_apply,
    many_bad_items_make_few_log_lines,
    foreign_text_is_escaped_in_log
];

/// A pod with something wrong: its name, its annotation, the kind of the problem and words of the sentence. Port 21000
/// and its place in this table is good in every one of them.
const BAD: &[(&str, &str, &str, &str)] = &[
    ("port-zero", "0 21000", "annotation", "port 0 cannot be claimed"),
    ("port-large", "21001, 65536", "annotation", "the port is too large"),
    ("port-huge", "99999999999999999999 21002", "annotation", "the port is too large"),
    ("reversed", "21003,,9000-8000", "annotation", "the range is reversed"),
    ("protocol", "21004 80/icmp", "annotation", "the protocol is unknown"),
    ("garbage", "\u{1f41d}:=? 21005", "annotation", "character 1"),
    ("address", "21006 1.2.3.4.5:80", "annotation", "the address is not an IP address"),
    ("zone", "21007\n[fe80::1%eth0]:80", "annotation", "the address has a zone"),
    ("every-port", "1-65535 21008", "quota", "refused whole"),
    ("none", "none 21009", "annotation", "none stands alone"),
];

fn bad_items_are_reported_and_good_items_apply() {
    let fixture = AgentFixture::new();
    let mut stranger = fixture.start(&Pod::new("stranger"));
    for (name, ports, ..) in BAD {
        fixture.put(&Pod::new(name).ports(ports));
    }
    let mut networked = Pod::new("networked").ports("21010");
    networked.object["spec"]["hostNetwork"] = false.into();
    networked.object["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 21011 }]);
    fixture.put(&networked);
    let mut declared = Pod::new("declared").ports("21012");
    declared.object["spec"]["containers"][0]["ports"] = json!([
        { "containerPort": 70000 },
        { "containerPort": 80, "protocol": "QUIC" },
        { "containerPort": 81, "hostIP": "not an address" },
        { "containerPort": 21013 },
    ]);
    fixture.put(&declared);
    let mut nameless = Pod::new("nameless").ports("21014");
    nameless.object["metadata"]["uid"] = Value::Null;
    fixture.put(&nameless);
    let mut agent = fixture.enforce(&[]);

    let none = ("networked", "", "no_host_network", "hostNetwork: true only");
    let port = |words| ("declared", "", "port", words);
    let declared = [port("declares port 70000"), port("protocol 'QUIC'"), port("hostIP 'not an address'")];
    let nameless = ("nameless", "", "uid", "no metadata.uid");
    for (name, _, kind, words) in BAD.iter().chain([&none, &nameless]).chain(&declared) {
        let pod = format!("default/{name}");
        let told = agent.wait_for_line(&format!("'{words}' is told of {pod}"), |line| {
            line["event"] == "claim_invalid"
                && line["pod"] == pod.as_str()
                && line["kind"] == *kind
                && line["message"].as_str().is_some_and(|message| message.contains(words))
        });
        assert_eq!(told["level"], "WARN");
        if let ("annotation", Some(text)) = (*kind, told["message"].as_str()) {
            assert!(text.contains("at character "), "the position is told: {text}");
        }
    }
    let good = (21000..).take(BAD.len()).chain([21011, 21012, 21013]);
    for port in good {
        assert_eq!(stranger.bind(&bind(port)), denied(), "port {port} is claimed");
    }
    for port in [80, 81, 8000, 9000, 21010, 21014, 30000, 65535] {
        assert_eq!(stranger.bind(&bind(port)), 0, "port {port} is not claimed");
    }

    // A later look at the same folder tells none of it again.
    fixture.put(&Pod::new("later").ports("0"));
    agent.wait_for_event("claim_invalid", "default/later");
    let rest: Vec<_> = agent.drain_log().into_iter().filter(|line| line["event"] != "bind").collect();
    assert_eq!(rest, [] as [Value; 0]);
}

fn many_bad_items_make_few_log_lines() {
    const ITEMS: usize = 128 * 1024;
    let fixture = AgentFixture::new();
    let mut stranger = fixture.start(&Pod::new("stranger"));
    fixture.put(&Pod::new("flood").ports(&format!("{}21000", "x ".repeat(ITEMS))));
    let mut agent = fixture.enforce(&[]);
    let more = agent.wait_for_line("it is told how many more there are", |line| line["kind"] == "more");
    assert_eq!((&more["event"], &more["pod"]), (&json!("claim_invalid"), &json!("default/flood")));
    assert_eq!(more["count"], ITEMS - MAX_PROBLEMS);
    let told: Vec<_> = agent.drain_log().into_iter().filter(|line| line["event"] == "claim_invalid").collect();
    assert_eq!(told.len(), MAX_PROBLEMS);
    assert_eq!(stranger.bind(&bind(21000)), denied(), "the good item counts");
    assert_eq!(stranger.bind(&bind(21001)), 0);
}

/// Clears a screen, sets a title, rings, starts a line and turns the reading direction around.
const HARM: &str = "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\r\nlevel=INFO\u{202e}\u{2028}\0";

fn is_harmful(character: char) -> bool {
    HARM.contains(character) && !character.is_ascii_graphic()
}

/// The value as JSON that is YAML too, which has no room for control characters as they are.
fn text(value: &Value) -> String {
    value.to_string().replace('\u{9b}', r"\u009b")
}

/// A folder full of harm, and a pod of it.
fn harmful() -> (AgentFixture, Pod) {
    let fixture = AgentFixture::new();
    let mut evil = Pod::new("evil").ports(&format!("20081 {HARM}"));
    evil.object["metadata"]["namespace"] = format!("tenant{HARM}").into();
    evil.object["metadata"]["annotations"]["port-enforcer.io/share"] = HARM.into();
    evil.object["status"]["containerStatuses"][0]["name"] = format!("server{HARM}").into();
    evil.object["spec"]["containers"][0] = json!({
        "name": format!("server{HARM}"),
        "ports": [{ "containerPort": 0 }, { "containerPort": 1, "protocol": HARM }, { "containerPort": 1, "hostIP": HARM }],
    });
    fixture.put(&Pod::new("owner").ports("20080"));
    evil.object["metadata"]["name"] = format!("evil{HARM}").into();
    fixture.write("0.yaml", &text(&evil.object));
    fixture.write("1.yaml", &text(&evil.object));
    let mut uid = Pod::new("uid").ports("20080");
    uid.object["metadata"]["uid"] = HARM.into();
    uid.object["metadata"]["name"] = format!("uid{HARM}").into();
    fixture.write("2.yaml", &text(&uid.object));
    let kind = json!({ "apiVersion": HARM, "kind": HARM });
    // A name of a file cannot hold a NUL.
    fixture.write(&format!("3{}.yaml", HARM.replace('\0', "")), &text(&kind));
    fixture.write("4.yaml", &format!("{HARM}: ["));
    fixture.write(&format!("5{}.yaml", HARM.replace('\0', "")), &text(&evil.object));
    (fixture, evil)
}

fn foreign_text_is_escaped_in_log() {
    for json in [true, false] {
        let (fixture, evil) = harmful();
        let mut worker = fixture.worker(&evil);
        let mut agent = if json { fixture.enforce(&[]) } else { fixture.enforce_in_text() };
        assert_eq!(worker.bind(&bind(20080)), denied());
        agent.wait_for_line("the bind is told", |line| match line.as_str() {
            Some(line) => line.contains("bind 0.0.0.0:20080/tcp by "),
            None => line["event"] == "bind",
        });
        let lines = agent.raw_log().to_vec();
        for line in &lines {
            assert!(!line.contains(is_harmful), "{line:?}");
            if json {
                let line: Value = serde_json::from_str(line).expect("a JSON line");
                for (key, value) in line.as_object().expect("an object") {
                    assert!(!value.as_str().is_some_and(|text| text.contains(is_harmful)), "{key}: {value:?}");
                }
            } else {
                let level = line.split(' ').find(|word| ["INFO", "WARN", "ERROR"].contains(word));
                assert!(level.is_some() && line.starts_with("20"), "every line is one of the agent's: {line:?}");
            }
        }
        let all = lines.join("\n");
        for words in [r"default/uid\u{1b}", r"server\u{1b}", r"evil\u{1b}", r"3\u{1b}", "4.yaml", r"5\u{1b}", "0.yaml"]
        {
            assert!(all.contains(&words.replace('\\', if json { r"\\" } else { r"\" })), "{words} is told:\n{all}");
        }
    }
}
