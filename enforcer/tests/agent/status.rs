//! `enforcer status`, asked of the real agent and compared with what else the kernel says.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use enforcer_testing::{
    agent::{enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied},
    bpffs::Bpffs,
    pods::{CONTAINER_ID, Pod},
    tests,
    worker::{Bind, Worker},
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    holders_match_proc_net,
    status_lists_claims_conflicts_counters_and_modes,
    pod_controlled_text_is_escaped,
    status_without_agent_reads_pinned_maps,
    status_without_agent_or_maps_gives_advice
];

/// The arguments by which an agent serves beside the folder of manifests, and a command finds it.
pub(crate) fn socket(fixture: &AgentFixture) -> String {
    fixture.path_beside("admin.sock").display().to_string()
}

/// Runs a command on the fixture's socket: its exit code and what it wrote.
pub(crate) fn run(fixture: &AgentFixture, arguments: &[&str]) -> (i32, String, String) {
    let mut command = enforcer();
    command.args(arguments).args(["--admin-socket", &socket(fixture)]);
    finish(&mut command)
}

fn finish(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

/// What a command that succeeds writes as JSON.
pub(crate) fn json(fixture: &AgentFixture, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(fixture, &[arguments, &["-o", "json"]].concat());
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    serde_json::from_str(&stdout).expect("JSON")
}

/// The arguments of an agent that answers.
pub(crate) fn served<'a>(socket: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--admin-socket", socket][..], more].concat()
}

/// Sockets as `/proc/net` shows them: protocol, address, port, inode.
fn sockets_of(pid: u32) -> BTreeSet<(String, IpAddr, u16, u64)> {
    let mut found = BTreeSet::new();
    for (file, protocol) in [("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp")] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).expect("a table");
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = fields[1].split_once(':').expect("an address");
            let words = address.as_bytes().chunks(8).map(|word| {
                let word = std::str::from_utf8(word).expect("digits");
                u32::from_str_radix(word, 16).expect("digits").to_ne_bytes()
            });
            let bytes: Vec<u8> = words.flatten().collect();
            let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
                Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).expect("16 bytes"))),
            };
            let port = u16::from_str_radix(port, 16).expect("digits");
            // Listening TCP and unconnected UDP.
            if ["0A", "07"].contains(&fields[3]) && port != 0 {
                let inode = fields[9].parse().expect("an inode");
                found.insert((protocol.to_owned(), address.to_canonical(), port, inode));
            }
        }
    }
    found
}

/// Inodes of the sockets that a process has open.
fn open_sockets(pid: u32) -> BTreeSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let links = entries.filter_map(|entry| fs::read_link(entry.expect("an entry").path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

fn holders_match_proc_net() {
    const PODS: u16 = 5;
    const EACH: u16 = 100;
    let fixture = AgentFixture::new();
    let pods: Vec<Pod> = (0..PODS).map(|number| Pod::new(&format!("holder-{number}"))).collect();
    let mut workers: Vec<Worker> = pods.iter().map(|pod| fixture.start(pod)).collect();
    // What this process has open and they inherited is not theirs.
    let inherited: Vec<BTreeSet<u64>> = workers.iter().map(|worker| open_sockets(worker.pid())).collect();
    let socket = socket(&fixture);
    // A half is there before the agent, and a half comes later.
    let bind_some = |workers: &mut Vec<Worker>, range: std::ops::Range<u16>| {
        for (number, worker) in (0u16..).zip(workers) {
            for port in range.clone().map(|port| 21000 + number * EACH + port) {
                let bind = match port % 4 {
                    0 => Bind::tcp("0.0.0.0", port),
                    1 => Bind::udp("127.0.0.1", port),
                    2 => Bind { v6only: Some(true), ..Bind::tcp("::", port) },
                    _ => Bind::udp("::1", port),
                };
                assert_eq!(worker.bind(&bind.kept()), 0, "{port}");
            }
        }
    };
    bind_some(&mut workers, 0..EACH / 2);
    let _agent = fixture.enforce(&served(&socket, &[]));
    bind_some(&mut workers, EACH / 2..EACH);

    let status = json(&fixture, &["status"]);
    let told: BTreeSet<_> = (status["holders"].as_array().expect("a list").iter())
        .filter(|holder| holder["who"]["kind"] == "pod")
        .map(|holder| {
            let text = |key: &str| holder[key].as_str().expect("a text").to_owned();
            let address: IpAddr = text("address").parse().expect("an address");
            let port = u16::try_from(holder["port"].as_u64().expect("a number")).expect("a port");
            assert_eq!(holder["container"], "server", "{holder}");
            assert!(text("since").ends_with('Z'), "{holder}");
            let name = holder["who"]["name"].as_str().expect("a name").to_owned();
            (name, text("protocol"), address, port, holder["inode"].as_u64().expect("an inode"))
        })
        .collect();
    let mut expected = BTreeSet::new();
    for ((pod, worker), inherited) in pods.iter().zip(&workers).zip(&inherited) {
        let membership = fs::read_to_string(format!("/proc/{}/cgroup", worker.pid())).expect("it lives");
        assert!(membership.contains(&pod.uid_text().replace('-', "_")) && membership.contains(CONTAINER_ID));
        let open = &open_sockets(worker.pid()) - inherited;
        let own = sockets_of(worker.pid()).into_iter().filter(|(.., inode)| open.contains(inode));
        expected.extend(
            own.map(|(protocol, address, port, inode)| (pod.name().to_owned(), protocol, address, port, inode)),
        );
    }
    assert_eq!(expected.len(), usize::from(PODS * EACH));
    assert_eq!(told, expected);

    // What is closed is gone at once.
    workers[0].close();
    let status = json(&fixture, &["status"]);
    let left = status["holders"].as_array().expect("a list").iter().filter(|holder| holder["who"]["kind"] == "pod");
    assert_eq!(left.count(), usize::from((PODS - 1) * EACH));
}

fn status_lists_claims_conflicts_counters_and_modes() {
    let fixture = AgentFixture::new();
    let (owner, loser) =
        (Pod::new("owner").ports("20080-20082/tcp, 127.0.0.1:20090/udp"), Pod::new("loser").ports("20081"));
    let _owner = fixture.start(&owner);
    let mut worker = fixture.start(&loser);
    let (socket, squatted) = (socket(&fixture), Bind::udp("127.0.0.1", 20090).kept());
    assert_eq!(worker.bind(&squatted), 0, "nobody judges yet");
    let agent = fixture.enforce(&served(&socket, &["--node-reserved", "20022/tcp"]));
    for _ in 0..3 {
        assert_eq!(worker.bind(&bind(20081)), denied());
    }
    let mode = fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let status = json(&fixture, &["status"]);
    assert_eq!((&status["apiVersion"], &status["kind"]), (&"port-enforcer.io/v1alpha1".into(), &"Status".into()));
    assert_eq!((&status["node"], &status["problems"]), (&"node-1".into(), &Value::Array(Vec::new())));
    let told = &status["agent"];
    assert_eq!((&told["pid"], &told["synced"], &told["pods"]), (&agent.pid().into(), &true.into(), &2.into()));
    assert_eq!(told["source"], format!("dir:{}", fixture.folder().display()));
    assert_eq!((&status["mode"]["effective"], &status["mode"]["local"]), (&"enforce".into(), &Value::Null));
    let claims: Vec<String> = (status["claims"].as_array().expect("a list").iter())
        .map(|claim| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let owner = [text(&claim["owner"]["kind"]), text(&claim["owner"]["name"])].join(" ");
            [
                text(&claim["ports"]),
                owner,
                text(&claim["source"]),
                text(&claim["standing"]),
                text(&claim["behind"]["name"]),
            ]
            .join(" ")
        })
        .collect();
    assert_eq!(
        claims,
        [
            "20022/tcp node - node-reserved inForce -",
            "20080-20082/tcp pod owner annotation inForce -",
            "20081/tcp pod loser annotation lost owner",
            "127.0.0.1:20090/udp pod owner annotation inForce -",
        ]
    );
    let conflicts: Vec<_> =
        status["conflicts"].as_array().expect("a list").iter().map(|conflict| &conflict["kind"]).collect();
    assert_eq!(conflicts, ["claimLost", "notOwner"]);
    let denials = status["counters"].as_array().expect("a list").iter().find(|count| count["verdict"] == "deny");
    let denials = denials.expect("it is counted");
    assert_eq!(
        (&denials["reason"], &denials["protocol"], &denials["count"]),
        (&"claimed".into(), &"tcp".into(), &3.into())
    );

    let (code, table, stderr) = run(&fixture, &["status"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for words in [
        "node node-1: mode enforce",
        "20081/tcp            default/loser  annotation     lost to default/owner",
        "127.0.0.1:20090/udp  default/loser  bound",
        "deny     claimed  tcp       3",
    ] {
        // How wide a column is depends on all that is in it.
        let row = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(table.lines().any(|line| row(line).starts_with(&row(words))), "{words}:\n{table}");
    }
    let (_, wide, _) = run(&fixture, &["status", "-o", "wide"]);
    assert!(wide.contains("CONTAINER") && wide.contains("INODE") && !table.contains("INODE"), "{wide}");
}

fn pod_controlled_text_is_escaped() {
    let fixture = AgentFixture::new();
    let pod = Pod::new("odd").namespace("de\u{1b}[31mfault").ports("20080");
    let mut worker = fixture.start(&pod);
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    assert_eq!(worker.bind(&bind(20080).kept()), 0);
    for arguments in [&["status"][..], &["status", "-o", "wide"], &["status", "-o", "json"], &["explain", "20080"]] {
        let (code, stdout, stderr) = run(&fixture, arguments);
        assert_eq!((code, stderr.as_str()), (0, ""));
        let raw = stdout.chars().find(|character| character.is_control() && *character != '\n');
        assert_eq!(raw, None, "{arguments:?}: {stdout}");
        assert!(stdout.contains("u{1b}[31mfault"), "{arguments:?}: {stdout}");
    }
}

fn status_without_agent_reads_pinned_maps() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080/tcp"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let socket = socket(&fixture);
    let mut agent = fixture.enforce(&served(&socket, &["--bpffs", &folder, "--node-reserved", "20022/tcp"]));
    assert_eq!(owner.bind(&bind(20080).kept()), 0);
    assert_eq!(stranger.bind(&bind(20080)), denied());
    let before = json(&fixture, &["status", "--bpffs", &folder]);
    agent.kill();
    assert!(Path::new(&socket).exists(), "it was killed");
    let after = json(&fixture, &["status", "--bpffs", &folder]);
    assert_eq!(after["agent"], Value::Null);
    let problem = after["problems"][0].as_str().expect("a sentence");
    assert!(problem.starts_with("no agent answers (cannot connect to "), "{problem}");
    assert_eq!((&after["mode"]["effective"], &after["mode"]["local"]), (&"enforce".into(), &Value::Null));
    assert!(after["mode"]["leaseEnds"].as_str().is_some_and(|ends| ends.ends_with('Z')), "{after}");
    for key in ["counters", "policy"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    let claims = |status: &Value| {
        let claims = status["claims"].as_array().expect("a list").iter();
        claims.map(|claim| (claim["ports"].clone(), claim["owner"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(claims(&after), claims(&before));
    let holders = |status: &Value| {
        let pods = status["holders"].as_array().expect("a list").iter().filter(|holder| holder["who"]["kind"] == "pod");
        pods.map(|holder| (holder["port"].clone(), holder["who"].clone(), holder["inode"].clone())).collect::<Vec<_>>()
    };
    assert_eq!((holders(&after).len(), holders(&after)), (1, holders(&before)));
    let (code, stdout, stderr) = run(&fixture, &["explain", "20080", "--pod", "default/stranger", "--bpffs", &folder]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.starts_with("enforcer: no agent answers ("), "{stderr}");
    assert!(stdout.contains("If default/stranger binds 0.0.0.0:20080 or [::]:20080 now, that is denied"), "{stdout}");
    assert_eq!(stranger.bind(&bind(20080)), denied(), "asking has changed nothing");
    // The next agent serves in the place of the one that was killed.
    let next = fixture.enforce(&served(&socket, &["--bpffs", &folder, "--node-reserved", "20022/tcp"]));
    wait_until("the next agent answers", || run(&fixture, &["status"]).0 == 0);
    assert_eq!(json(&fixture, &["status"])["agent"]["pid"], next.pid());
}

fn status_without_agent_or_maps_gives_advice() {
    let fixture = AgentFixture::new();
    for command in ["status", "explain"] {
        let port = if command == "explain" { &["20080"][..] } else { &[] };
        let (code, stdout, stderr) = run(&fixture, &[&[command][..], port, &["--bpffs", "/nonexistent"]].concat());
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (4, "", 1), "{stderr}");
        assert!(stderr.starts_with("enforcer: no agent answers (") && stderr.contains("start the agent"), "{stderr}");
    }
    let (code, stdout, stderr) = run(&fixture, &["watch"]);
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (4, "", 1), "{stderr}");
    assert!(stderr.contains("see whether the agent runs on this node"), "{stderr}");
}
