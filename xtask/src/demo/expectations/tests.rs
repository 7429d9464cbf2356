use serde_json::json;

use super::*;
use crate::demo::pods::Cast;

/// The log line for a conflict.
fn told(verdict: &str, pod: &Pod, owner: &Pod) -> String {
    let (pod_name, owner) = (pod.full_name(), owner.full_name());
    let message = format!("bind 0.0.0.0:{}/tcp by {pod_name}: claimed by {owner} (annotation)", pod.port);
    let line = json!({"event": "bind", "verdict": verdict, "reason": "claimed", "pod": pod_name, "port": pod.port,
        "owner": owner, "message": message});
    line.to_string()
}

/// The act as the story promises it.
fn promised(mode: Mode, cast: &Cast) -> Act {
    let enforce = mode == Mode::Enforce;
    let failed = |fails: bool| fails.then(|| "EADDRINUSE".to_owned());
    let mut attempts = vec![
        Attempt::new(&cast.squatter, failed(enforce), None),
        Attempt::new(&cast.owner, failed(!enforce), None),
        Attempt::new(&cast.exporter, None, None),
        Attempt::new(&cast.guest, failed(enforce), None),
    ];
    if mode != Mode::Off {
        let verdict = if enforce { "deny" } else { "audit" };
        let log = Log::of(&[told(verdict, &cast.squatter, &cast.owner), told(verdict, &cast.guest, &cast.exporter)]);
        for attempt in &mut attempts {
            attempt.judge(&log, cast.owner_of(attempt.port));
        }
    }
    let answers = if enforce { vec![(&cast.exporter, 20)] } else { vec![(&cast.exporter, 13), (&cast.guest, 7)] };
    let holder = if enforce { &cast.owner } else { &cast.squatter };
    Act {
        mode,
        attempts,
        contested: Contested { port: 80, answered_by: Some(holder.full_name()) },
        shared: Shared {
            port: 9100,
            answers: answers.into_iter().map(|(pod, count)| (pod.full_name(), count)).collect(),
        },
    }
}

fn story(cast: &Cast) -> Story {
    Story { acts: [Mode::Off, Mode::Audit, Mode::Enforce].map(|mode| promised(mode, cast)).into() }
}

/// What is said of the story after `change` to it.
fn differs(change: impl FnOnce(&mut Vec<Act>)) -> String {
    let cast = Cast::unplaced(80, 9100);
    let mut story = story(&cast);
    change(&mut story.acts);
    check(&story, &cast).unwrap_err()
}

#[test]
fn promise_is_kept() {
    let cast = Cast::unplaced(80, 9100);
    assert_eq!(check(&story(&cast), &cast), Ok(()));
    // A kernel that lets nobody choose the error.
    let mut old = story(&cast);
    old.acts[2].attempts[0].errno = Some("EPERM".to_owned());
    assert_eq!(check(&old, &cast), Ok(()));
}

#[test]
fn every_difference_is_told() {
    let missing = differs(|acts| drop(acts.remove(1)));
    assert_eq!(missing, "act 2, audit, is missing");

    let denied_in_audit = differs(|acts| acts[1].attempts[0].errno = Some("EADDRINUSE".to_owned()));
    assert!(denied_in_audit.starts_with("in act 2, audit: the squatter should have got the port"), "{denied_in_audit}");

    let silent = differs(|acts| {
        let squatter = &mut acts[1].attempts[0];
        (squatter.verdict, squatter.reason, squatter.owner) = (Some("allow".to_owned()), None, None);
    });
    assert!(silent.contains("a conflict should have been told"), "{silent}");
    assert!(silent.ends_with("verdict allow, errno none, reason none, owner none"), "{silent}");

    let let_through = differs(|acts| acts[2].attempts[0].errno = None);
    assert!(let_through.contains("the squatter should have been denied"), "{let_through}");

    let owner_denied = differs(|acts| acts[2].attempts[1].verdict = Some("deny".to_owned()));
    assert!(owner_denied.contains("an owner should have been allowed"), "{owner_denied}");

    let wrong_owner = differs(|acts| acts[2].attempts[3].owner = Some("default/nginx-6fdf99c8b-6wwft".to_owned()));
    assert!(wrong_owner.contains("a conflict should have been denied"), "{wrong_owner}");

    let unnamed = differs(|acts| acts[2].attempts[3].told = Some("denied".to_owned()));
    assert!(unnamed.contains("named both pods"), "{unnamed}");

    let other_error = differs(|acts| acts[2].attempts[3].errno = Some("EACCES".to_owned()));
    assert!(other_error.contains("the second to share should have been denied"), "{other_error}");

    let wrong_holder = differs(|acts| acts[2].contested = acts[1].contested.clone());
    assert!(wrong_holder.contains("should have answered"), "{wrong_holder}");

    let still_shared = differs(|acts| acts[2].shared = acts[1].shared.clone());
    assert!(still_shared.contains("sharing should have stopped"), "{still_shared}");

    let not_shared = differs(|acts| acts[0].shared = acts[2].shared.clone());
    assert!(not_shared.contains("should have shared"), "{not_shared}");

    let stranger = differs(|acts| acts[2].shared.answers.extend([("default/x".to_owned(), 1)]));
    assert!(stranger.contains("by the two pods"), "{stranger}");
}

#[test]
fn json_has_the_promised_keys() {
    let cast = Cast::unplaced(80, 9100);
    let json = serde_json::to_value(story(&cast)).unwrap();
    let off = &json["acts"][0];
    assert_eq!(off["mode"], "off");
    let attempt = off["attempts"][1].as_object().unwrap();
    for (key, value) in [
        ("pod", json!("default/nginx-6fdf99c8b-6wwft")),
        ("protocol", json!("tcp")),
        ("address", json!("0.0.0.0")),
        ("port", json!(80)),
        ("verdict", json!(null)),
        ("errno", json!("EADDRINUSE")),
        ("reason", json!(null)),
        ("owner", json!(null)),
    ] {
        assert_eq!(attempt.get(key), Some(&value), "{key}");
    }
    assert_eq!(json["acts"][2]["attempts"][0]["verdict"], "deny");
    assert_eq!(json["acts"][2]["shared"]["answers"], json!({"default/metrics-x2k8p": 20}));
}

#[test]
fn error_is_named_as_servers_tell_it() {
    let cases = [
        ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", Some("EADDRINUSE")),
        ("error: bind to 0.0.0.0:80 failed: Address already in use (os error 98)", Some("EADDRINUSE")),
        ("bind() to 0.0.0.0:80 failed (1: Operation not permitted)", Some("EPERM")),
        ("Permission denied (os error 13)", Some("EACCES")),
        ("(really) failed (os error 105)", Some("errno 105")),
        ("nginx: [emerg] still could not bind()", None),
        ("killed (98 times)", None),
        ("", None),
    ];
    for (words, name) in cases {
        assert_eq!(errno_in(words).as_deref(), name, "{words}");
    }
}
