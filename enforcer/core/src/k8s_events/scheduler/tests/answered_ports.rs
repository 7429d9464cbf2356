//! Ports of Ready pods that others answer.

use super::*;
use crate::{
    sockets::{AnsweredPort, NamedSocket},
    tests::node::Node,
};

/// A port of a pod that a socket of another one answers.
fn answered(pod_name: &str, holder: Actor, port: u16) -> AnsweredByOther {
    let mut node = Node::new();
    node.bound(7, "0.0.0.0", port, "secret", None);
    let socket = node.holders.on(Protocol::Tcp, port).next().expect("it is bound");
    let mut named = NamedSocket::new(socket, &node.holders);
    named.who = holder;
    let port = AnsweredPort::Probed(Ipv4Addr::new(10, 0, 0, 5).into(), port);
    AnsweredByOther { pod: Actor::Known(pod(pod_name)), port, holder: named, is_shared: false }
}

/// A pod reads who answers, and one that answers for many reads of all of them in one Event.
#[test]
fn answered_port_is_published_on_the_pod_and_gathered_on_the_other_one() {
    let mut events = EventScheduler::new("node-1");
    for round in 0..2 {
        for (number, port) in [(1, 8001), (2, 8002), (3, 8003), (4, 8004), (5, 8005)] {
            let answered = answered(&format!("web-{number}"), Actor::Known(pod("other")), port);
            events.answered_by_other(&answered, at(round));
        }
    }
    let calls = run(&mut events, Duration::ZERO, Duration::from_mins(5), CallOutcome::Done);
    let events = created(&calls);
    let [event] = of(&events, "web-3")[..] else { panic!("{calls:?}") };
    assert_eq!(event.reason, EventReason::PortAnsweredByOther);
    assert_eq!(
        event.note,
        "default/web-3 is Ready on node-1, but its probe on 10.0.0.5:8003/tcp is answered by default/other, which holds \
         0.0.0.0:8003/tcp; give one of the two another port"
    );
    assert_eq!(event.related, Some(EventObject::Pod(pod("other"))));
    assert_eq!(
        of(&events, "other").last().expect("an Event").note,
        "default/web-1 (10.0.0.5:8001/tcp) and 4 others are Ready on node-1, but this pod answers their ports"
    );
    assert!(calls.iter().all(|(_, call)| !format!("{call:?}").contains("secret")), "{calls:?}");

    let mut events = EventScheduler::new("node-1");
    events.answered_by_other(&answered("web", Actor::HostUnit("edge.service".to_owned()), 80), at(0));
    let calls = run(&mut events, Duration::ZERO, Duration::from_mins(5), CallOutcome::Done);
    let on_node = calls.iter().any(|(_, call)| {
        matches!(call, Call::Create(event) if event.regarding == EventObject::Node("node-1".to_owned())
            && event.note == "default/web (10.0.0.5:80/tcp) is Ready on node-1, but the node answers its port")
    });
    assert!(on_node, "{calls:?}");
}
