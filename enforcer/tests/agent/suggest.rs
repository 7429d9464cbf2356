//! `enforcer suggest`, asked of the real agent: what pods bind for a moment is known.

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind},
    pods::Pod,
    tests,
    worker::Bind,
};
use serde_json::{Value, json};

use crate::{
    Test,
    status::{json, run, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![short_bind_is_suggested, suggestion_without_agent_is_one_sentence];

/// Port and place of the declaration of each suggested port, and the reason of each other one.
fn short(answer: &Value) -> Value {
    let of = |list: &str, key: &str| {
        let ports = answer["suggestions"][0][list].as_array().cloned().unwrap_or_default();
        ports.iter().map(|port| json!([port["ports"], port["container"], port[key]])).collect::<Value>()
    };
    json!([of("ports", "declaredBy"), of("apart", "reason")])
}

fn short_bind_is_suggested() {
    let fixture = AgentFixture::new();
    let pod = Pod::new("web-6fdf99c8b-1").ports("20080, 20081/udp").of_deployment("web");
    let mut worker = fixture.start(&pod);
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    // Each socket is closed before anybody could scan. What is declared, what the kernel chooses, and what somebody else
    // binds is no suggestion.
    for bind in [
        bind(20090),
        bind(45090),
        bind(20080),
        bind(0),
        Bind::udp("0.0.0.0", 0),
        Bind::udp("::", 20090),
        Bind::tcp("127.0.0.1", 20091),
    ] {
        assert_eq!(worker.bind(&bind), 0, "{bind:?}");
    }
    let expected = json!([
        [
            ["20090/tcp", "server", "ports"],
            ["45090/tcp", "server", "ports"],
            ["127.0.0.1:20091/tcp", "server", "ports"],
            ["20090/udp", "server", "annotation"],
        ],
        [],
    ]);
    wait_until("the binds are suggested", || short(&json(&fixture, &["suggest"])) == expected);
    let answer = json(&fixture, &["suggest", "deploy/web"]);
    assert_eq!((&answer["kind"], &answer["suggestions"][0]["kind"]), (&json!("Suggestions"), &json!("Deployment")));
    let template = &answer["suggestions"][0]["patch"]["spec"]["template"];
    assert_eq!(
        template["metadata"]["annotations"]["port-enforcer.io/ports"], "20080/tcp, 20081/udp, 20090/udp",
        "what is claimed already stays"
    );
    assert_eq!(json(&fixture, &["suggest", "deploy/other"])["suggestions"], json!([]));
    // Once the pods declare it, nothing is left to say.
    fixture.put(&pod.ports("20080, 20081/udp, 20090/tcp, 20090/udp, 127.0.0.1:20091, 45090"));
    wait_until("nothing is left", || short(&json(&fixture, &["suggest"])) == json!([[], []]));
}

fn suggestion_without_agent_is_one_sentence() {
    let (code, stdout, stderr) = run(&AgentFixture::new(), &["suggest"]);
    assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
    assert!(stderr.starts_with("enforcer: no agent answers") && stderr.lines().count() == 1, "{stderr}");
}
