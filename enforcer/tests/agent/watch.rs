//! `enforcer watch`, on the real agent, and the admin socket itself.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use enforcer_ebpf::wire::{KernelError, Protocol, Reason, VerdictKind};
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied},
    http::{connect_unix, exchange},
    pods::Pod,
    tests,
    worker::{MARK, Order},
};

use crate::{
    Test,
    status::{json, run, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![
    attempts_are_streamed_live,
    watching_changes_nothing_else,
    slow_watcher_learns_how_much_it_missed,
    command_name_is_escaped,
    watch_ends_with_agent_or_reader,
    invalid_and_silent_clients_are_harmless,
    two_hundred_concurrent_requests_are_answered,
    admin_socket_is_private
];

/// A running `enforcer watch`. Killed when dropped.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(fixture: &AgentFixture, arguments: &[&str]) -> Self {
        let mut command = enforcer();
        command.arg("watch").args(arguments).args(["--admin-socket", &socket(fixture)]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The next line.
    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(10)).expect("a line")
    }

    /// Its exit code, and what it said on standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
        (self.child.wait().expect("a child").code(), said)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends bytes to the admin socket and reads until the connection is closed.
fn send_raw(fixture: &AgentFixture, request: &[u8]) -> String {
    exchange(&mut connect(fixture), request)
}

fn connect(fixture: &AgentFixture) -> UnixStream {
    connect_unix(Path::new(&socket(fixture)))
}

/// A watcher by hand, from whom the agent has heard. It sees all attempts, or conflicts alone.
fn watch_by_hand(fixture: &AgentFixture, conflicts: bool) -> UnixStream {
    let mut stream = connect(fixture);
    let request = format!("GET /watch?conflicts={conflicts} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

fn attempts_are_streamed_live() {
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    let text = Watch::start(&fixture, &[]);
    let all = Watch::start(&fixture, &["-o", "json"]);
    let conflicts = Watch::start(&fixture, &["-o", "json", "--conflicts"]);
    // Until all three are there, attempts pass unseen.
    for watch in [&text, &all, &conflicts] {
        wait_until("it watches", || {
            assert_eq!(stranger.bind(&bind(20080)), denied());
            watch.lines.recv_timeout(Duration::from_millis(100)).is_ok()
        });
    }
    assert_eq!(stranger.bind(&bind(20099)), 0);
    assert_eq!(owner.bind(&bind(20080)), 0);
    assert_eq!(stranger.bind(&bind(20080)), denied());
    let parse = |line: String| serde_json::from_str::<Value>(&line).expect("JSON");
    let is_early = |line: &Value| line["port"] == 20080 && line["verdict"] == "deny";
    let mut line = parse(all.line());
    while is_early(&line) {
        line = parse(all.line());
    }
    assert_eq!((&line["apiVersion"], &line["kind"]), (&"port-enforcer.io/v1alpha1".into(), &"BindAttempt".into()));
    assert_eq!(
        (&line["verdict"], &line["reason"], &line["port"]),
        (&"allow".into(), &"unclaimed".into(), &20099.into())
    );
    assert_eq!((&line["who"]["name"], &line["container"]), (&"stranger".into(), &"server".into()));
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    let line = parse(all.line());
    assert_eq!(
        (&line["verdict"], &line["reason"], &line["owner"]["name"]),
        (&"allow".into(), &"owner".into(), &"owner".into())
    );
    let line = parse(all.line());
    assert_eq!(
        (&line["verdict"], &line["reason"], &line["source"]),
        (&"deny".into(), &"claimed".into(), &"annotation".into())
    );
    // The other one has seen the last denial, and nothing that was allowed.
    thread::sleep(Duration::from_millis(200));
    let seen: Vec<Value> = conflicts.lines.try_iter().map(parse).collect();
    assert!(!seen.is_empty() && seen.iter().all(is_early), "{seen:?}");
    let lines: Vec<String> = text.lines.try_iter().collect();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("Z bind 0.0.0.0:20099/tcp by default/stranger (container server, command ")),
        "{lines:?}"
    );
    assert!(
        lines.last().is_some_and(|line| line.ends_with("denied on node-1: claimed by default/owner (annotation)")),
        "{lines:?}"
    );
}

/// Whether the programs report every attempt.
fn reports_all(agent: &Agent) -> bool {
    use aya::maps::{Array, Map};
    let map = Array::<_, [u64; 8]>::try_from(Map::Array(agent.map("CONFIG"))).expect("an array");
    map.get(&0, 0).expect("an element")[1] & 8 != 0
}

fn watching_changes_nothing_else() {
    const TIMES: u32 = 500;
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let socket = socket(&fixture);
    let mut agent = fixture.enforce(&served(&socket, &[]));
    let mut counts = |agent: &Agent| {
        assert_eq!(owner.storm(&bind(20080), TIMES, 1), [(0, TIMES)].into());
        assert_eq!(stranger.storm(&bind(20099), TIMES, 1), [(0, TIMES)].into());
        assert_eq!(stranger.storm(&bind(20080), TIMES, 1), [(denied(), TIMES)].into());
        let count = |verdict, reason| agent.count(verdict, reason, Protocol::Tcp);
        [
            count(VerdictKind::Allow, Reason::Owner),
            count(VerdictKind::Allow, Reason::Unclaimed),
            count(VerdictKind::Deny, Reason::Claimed),
        ]
    };
    let times = u64::from(TIMES);
    assert_eq!(counts(&agent), [times; 3]);
    agent.wait_for_event("bind", "default/stranger");
    let conflicts = watch_by_hand(&fixture, true);
    assert!(!reports_all(&agent), "conflicts are reported anyhow");
    let first = watch_by_hand(&fixture, false);
    let second = watch_by_hand(&fixture, false);
    assert!(reports_all(&agent));
    assert_eq!(counts(&agent), [2 * times; 3]);
    thread::sleep(Duration::from_millis(300));
    let said: Vec<Value> = agent.drain_log().into_iter().filter(|line| line["event"] == "bind").collect();
    assert_eq!(said, [] as [Value; 0], "what was told is held back, and nothing else is told");
    drop(first);
    thread::sleep(Duration::from_millis(300));
    assert!(reports_all(&agent), "one is left");
    drop(second);
    wait_until("nobody watches all any more", || !reports_all(&agent));
    assert_eq!(counts(&agent), [3 * times; 3]);
    drop(conflicts);
    assert!(agent.terminate().success());
}

fn slow_watcher_learns_how_much_it_missed() {
    const TIMES: u32 = 20_000;
    let fixture = AgentFixture::new();
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let socket = socket(&fixture);
    let agent = fixture.enforce(&served(&socket, &[]));
    let slow = watch_by_hand(&fixture, false);
    // The ring is as large as it is, too: what does not fit into it is counted as lost.
    for _ in 0..20 {
        assert_eq!(stranger.storm(&bind(20099), TIMES / 20, 1), [(0, TIMES / 20)].into());
        // It keeps nobody waiting: the command has a time limit.
        assert_eq!(run(&fixture, &["status"]).0, 0);
    }
    assert_eq!(agent.count(VerdictKind::Allow, Reason::Unclaimed, Protocol::Tcp), u64::from(TIMES));
    slow.set_read_timeout(Some(Duration::from_secs(2))).expect("a time limit");
    let mut text = String::new();
    let mut stream = BufReader::new(slow);
    let (mut seen, mut dropped) = (0, 0);
    // What did not fit into the ring no watcher could see.
    let lost = agent.counters().errors(KernelError::BindEventLost);
    // Of the line that tells it there is only one as long as nothing happens later.
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen + dropped + lost < u64::from(TIMES) {
        assert!(
            Instant::now() < deadline,
            "of {TIMES} attempts it saw {seen} and was told of {dropped} more, {lost} were lost"
        );
        text.clear();
        if stream.read_line(&mut text).unwrap_or(0) == 0 {
            // What was dropped is told before the next attempt.
            assert_eq!(stranger.bind(&bind(20099)), 0);
            continue;
        }
        // Between the lines there are the lengths of HTTP's chunks.
        if !text.starts_with('{') {
            continue;
        }
        let line: Value = serde_json::from_str(&text).expect("JSON");
        match line["kind"].as_str() {
            Some("BindAttempt") => seen += 1,
            Some("BindAttemptsDropped") => dropped += line["count"].as_u64().expect("a number"),
            other => panic!("{other:?}"),
        }
    }
    // From now on it keeps up, and nothing is left out.
    for _ in 0..3 {
        assert_eq!(stranger.bind(&bind(20099)), 0);
        let line = loop {
            text.clear();
            assert_ne!(stream.read_line(&mut text).expect("a line"), 0, "it is served");
            if text.starts_with('{') {
                break &text;
            }
        };
        assert!(line.contains(r#""kind":"BindAttempt""#), "{line}");
    }
    println!("of {TIMES} attempts the slow watcher saw {seen} and missed {dropped}");
    assert!(dropped > 0, "it was slow");
}

fn command_name_is_escaped() {
    let fixture = AgentFixture::new();
    let pod = Pod::new("odd").ports("20080");
    fixture.put(&pod);
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    let watches = [Watch::start(&fixture, &[]), Watch::start(&fixture, &["-o", "json"])];
    // A process is called as the file that it was started from, whatever that leads to.
    let odd = fixture.path_beside("ng\u{1b}[2J\nx");
    symlink(env::current_exe().expect("this binary"), &odd).expect("a link");
    let cgroup = fixture.make_container_cgroup(pod.uid_text());
    let mut worker = Command::new(&odd)
        .env(MARK, cgroup)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starting a worker");
    let order = serde_json::to_string(&Order::Bind(bind(20080))).expect("an order");
    let mut orders = worker.stdin.take().expect("piped");
    for watch in &watches {
        let mut line = None;
        wait_until("it is shown", || {
            writeln!(orders, "{order}").expect("the worker lives");
            line = watch.lines.recv_timeout(Duration::from_millis(100)).ok();
            line.is_some()
        });
        let line = line.expect("it was shown");
        assert!(line.contains("ng\\u{1b}[2J\\u{a}x") || line.contains("ng\\\\u{1b}[2J\\\\u{a}x"), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    drop(orders);
    assert!(worker.wait().expect("a child").success());
}

fn watch_ends_with_agent_or_reader() {
    let fixture = AgentFixture::new();
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let socket = socket(&fixture);
    let mut agent = fixture.enforce(&served(&socket, &[]));
    let mut interrupted = Watch::start(&fixture, &[]);
    let mut unread = Watch::start(&fixture, &[]);
    let mut watch = Watch::start(&fixture, &[]);
    for watch in [&interrupted, &unread, &watch] {
        wait_until("it watches", || {
            assert_eq!(stranger.bind(&bind(20099)), 0);
            watch.lines.recv_timeout(Duration::from_millis(100)).is_ok()
        });
    }
    let pid = i32::try_from(interrupted.child.id()).expect("a pid");
    // SAFETY: no memory effects; the process is this one's own child and not yet waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    assert_eq!(interrupted.end(), (Some(0), String::new()));
    drop(std::mem::replace(&mut unread.lines, mpsc::channel().1));
    // The thread that reads notices by the next line, and the command by the one after that.
    wait_until("it has ended", || {
        assert_eq!(stranger.bind(&bind(20099)), 0);
        unread.child.try_wait().expect("a child").is_some()
    });
    assert_eq!(unread.end(), (Some(0), String::new()));
    agent.kill();
    let (code, said) = watch.end();
    assert_eq!(
        (code, said.as_str()),
        (Some(4), "enforcer: the agent has ended; start the watch again when the next one runs\n")
    );
}

fn invalid_and_silent_clients_are_harmless() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let socket = socket(&fixture);
    let mut agent = fixture.enforce(&served(&socket, &[]));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
    for (request, status) in [
        (get("/"), "404"),
        (get("/metrics"), "404"),
        (get("/explain"), "400"),
        (get("/explain?port=0"), "400"),
        (get("/explain?port=65536"), "400"),
        (get("/explain?port=80&protocol=icmp"), "400"),
        (get("/explain?port=80&protocol=%1b[2J"), "400"),
        (get("/explain?port=80&pod=web"), "400"),
        (get("/explain?port=80&pod=default%2Fweb"), "404"),
        (get("/watch?conflicts=maybe"), "400"),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_vec(), "405"),
        (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), "400"),
        (b"GET\r\n\r\n".to_vec(), "400"),
        (vec![b'x'; 100_000], ""),
    ] {
        let answer = send_raw(&fixture, &request);
        let named = answer.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(named || (status.is_empty() && !answer.contains("200 OK")), "{}: {answer}", request.escape_ascii());
        assert!(!answer.contains('\u{1b}'), "{answer:?}");
    }
    // A second request on one connection gets no answer.
    assert_eq!(send_raw(&fixture, &get("/status").repeat(2)).matches("200 OK").count(), 1);
    let before = agent.sockets();
    let mut silent: Vec<UnixStream> = (0..200).map(|_| connect(&fixture)).collect();
    let began = Instant::now();
    assert_eq!(run(&fixture, &["status"]).0, 0);
    println!("behind 200 clients that say nothing an answer took {:?}", began.elapsed());
    assert!(agent.sockets() - before <= 33);
    assert_eq!(stranger.bind(&bind(20080)), denied());
    let mut rest = String::new();
    for stream in &mut silent {
        let _ = stream.read_to_string(&mut rest);
    }
    assert_eq!(rest, "", "all are ended, without a word");
    assert!(agent.terminate().success());
}

fn two_hundred_concurrent_requests_are_answered() {
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080"));
    let socket = socket(&fixture);
    let _agent = fixture.enforce(&served(&socket, &[]));
    let began = Instant::now();
    let answers: Vec<String> = thread::scope(|scope| {
        let ask = |number: usize| {
            let path = if number.is_multiple_of(2) { "/status" } else { "/explain?port=20080" };
            send_raw(&fixture, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        };
        let asking: Vec<_> = (0..200).map(|number| scope.spawn(move || ask(number))).collect();
        assert_eq!(owner.bind(&bind(20080)), 0, "a bind waits for nobody");
        asking.into_iter().map(|asking| asking.join().expect("no panic")).collect()
    });
    println!("200 questions at once were answered in {:?}", began.elapsed());
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 OK")), "all are answered");
    // Eight may watch, and a ninth is told so.
    let _watchers: Vec<UnixStream> = (0..8).map(|_| watch_by_hand(&fixture, true)).collect();
    let (code, stdout, stderr) = run(&fixture, &["watch", "--conflicts"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (4, "", "enforcer: too many watchers; end one of them\n"));
}

fn admin_socket_is_private() {
    let fixture = AgentFixture::new();
    let path = fixture.path_beside("admin.sock");
    let socket = socket(&fixture);
    let inode = || fs::symlink_metadata(&path).map(|found| found.ino()).ok();
    // Another process that lives is left alone, and waited for.
    let other = UnixListener::bind(&path).expect("a socket");
    let before = inode();
    let mut agent = fixture.enforce(&served(&socket, &[]));
    let told = agent.wait_for_line("it is told", |line| line["event"] == "admin_unavailable");
    let message = told["message"].as_str().expect("a sentence");
    assert!(message.contains("another process, an agent presumably, listens there"), "{message}");
    assert_eq!(inode(), before);
    drop(other);
    agent.wait_for_line("it has the path", |line| line["event"] == "admin_recovered");
    assert_ne!(inode(), before);
    assert_eq!(fs::metadata(&path).expect("a socket").permissions().mode() & 0o7777, 0o600);
    assert_eq!(json(&fixture, &["status"])["agent"]["pid"], agent.pid());
    let names = || -> Vec<String> {
        let entries = fs::read_dir(fixture.top()).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
    };
    assert!(names().iter().all(|name| !name.starts_with(".admin")), "{:?}", names());

    // It goes with its agent, unless it is another's by then.
    assert!(agent.terminate().success());
    assert_eq!(inode(), None);
    let mut agent = fixture.enforce(&served(&socket, &[]));
    fs::remove_file(&path).expect("it was there");
    let _other = UnixListener::bind(&path).expect("a socket");
    let others = inode();
    assert!(agent.terminate().success());
    assert_eq!(inode(), others);

    // What is no socket is left alone, and enforcement does not depend on it.
    fs::remove_file(&path).expect("it was there");
    fs::write(&path, "precious").expect("a file");
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut agent = fixture.enforce(&served(&socket, &[]));
    let told = agent.wait_for_line("it is told", |line| line["event"] == "admin_unavailable");
    assert!(told["message"].as_str().is_some_and(|message| message.contains("something that is no socket")), "{told}");
    assert_eq!(stranger.bind(&bind(20080)), denied());
    assert_eq!(fs::read_to_string(&path).expect("a file"), "precious");
}
