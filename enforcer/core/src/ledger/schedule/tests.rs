//! A day of a publisher in virtual time, against an API server that is a few lines long.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const WALL: i64 = 1_700_000_000_000_000;

fn content(claims: u32) -> NodeHostPortsStatus {
    let mut content = NodeHostPortsStatus::default();
    content.counts.claims = claims;
    content
}

/// A node's publisher and the calls that it made, with their times.
struct Node {
    schedule: LedgerSchedule,
    now: Duration,
    calls: Vec<(Duration, &'static str)>,
}

impl Node {
    fn new() -> Self {
        let now = 1000 * SECOND;
        Self { schedule: LedgerSchedule::new(7, now), now, calls: Vec::new() }
    }

    /// Makes the calls of a time; `answer` is the server.
    fn run(&mut self, time: Duration, mut answer: impl FnMut(&LedgerCall) -> LedgerOutcome) {
        let end = self.now + time;
        loop {
            match self.schedule.poll_call(self.now, WALL) {
                NextLedgerCall::Call(call) => {
                    let name = match &call {
                        LedgerCall::Create => "create",
                        LedgerCall::Write(_) => "write",
                        LedgerCall::Look => "look",
                    };
                    self.calls.push((self.now, name));
                    self.schedule.handle_outcome(&call, answer(&call), self.now);
                }
                NextLedgerCall::Wait(at) if at < end => {
                    assert!(at > self.now, "it waits for a time to come");
                    self.now = at;
                }
                NextLedgerCall::Wait(_) | NextLedgerCall::Nothing => break,
            }
        }
        self.now = end;
    }

    fn names(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls).into_iter().map(|(_, name)| name).collect()
    }
}

fn done(_: &LedgerCall) -> LedgerOutcome {
    LedgerOutcome::Done { version: "5".to_owned() }
}

#[test]
fn quiet_hour_writes_nothing_and_looks_a_few_times() {
    let mut node = Node::new();
    node.run(60 * SECOND, done);
    assert_eq!(node.names(), [""; 0], "without a content there is nothing to write");
    node.schedule.set_content(content(1));
    node.run(20 * SECOND, done);
    assert_eq!(node.names(), ["create", "write"]);
    node.run(3600 * SECOND, |call| {
        assert_eq!(call, &LedgerCall::Look);
        done(call)
    });
    assert!((4..=6).contains(&node.names().len()));
}

#[test]
fn storm_of_changes_is_written_less_and_less_often() {
    let mut node = Node::new();
    for change in 0..6000 {
        node.schedule.set_content(content(change));
        node.run(SECOND / 10, done);
    }
    let writes: Vec<Duration> = node.calls.iter().filter(|(_, name)| *name == "write").map(|(at, _)| *at).collect();
    assert!((20..=26).contains(&writes.len()), "{} writes in ten minutes", writes.len());
    assert!(writes.windows(2).all(|pair| pair[1] >= pair[0] + PACE), "{writes:?}");
    let pauses: Vec<Duration> = writes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(pauses[..5].iter().all(|pause| *pause < 2 * PACE), "the first ones are not held up: {pauses:?}");
    assert!(pauses[10..].iter().all(|pause| *pause > 2 * PACE), "{pauses:?}");
    let last = content(5999);
    node.run(40 * SECOND, done);
    assert!(node.schedule.is_written(&last), "the last change is written");
    node.names();

    // What is spared comes back in three minutes of quiet.
    node.run(180 * SECOND, done);
    for change in 0..6 {
        node.schedule.set_content(content(change));
        node.run(13 * SECOND, done);
    }
    assert_eq!(node.names(), ["write"; 6]);
}

#[test]
fn a_change_after_quiet_is_written_at_once() {
    let mut node = Node::new();
    node.schedule.set_content(content(1));
    node.run(60 * SECOND, done);
    node.names();
    let changed = node.now;
    node.schedule.set_content(content(2));
    node.run(SECOND, done);
    assert_eq!(node.calls, [(changed, "write")]);
}

#[test]
fn deleted_object_is_made_again() {
    let mut node = Node::new();
    node.schedule.set_content(content(1));
    node.run(60 * SECOND, done);
    node.names();
    let mut exists = false;
    // Found by the next look, or by the next write.
    node.run(900 * SECOND, |call| match call {
        LedgerCall::Look if !exists => LedgerOutcome::NotFound,
        _ => {
            exists = true;
            done(call)
        }
    });
    assert_eq!(node.names()[..3], ["look", "create", "write"]);
    node.schedule.set_content(content(2));
    exists = false;
    node.run(60 * SECOND, |call| match call {
        LedgerCall::Write(_) if !exists => LedgerOutcome::NotFound,
        _ => {
            exists = true;
            done(call)
        }
    });
    assert_eq!(node.names(), ["write", "create", "write"]);
}

#[test]
fn object_that_somebody_else_wrote_is_written_again() {
    let mut node = Node::new();
    node.schedule.set_content(content(1));
    node.run(60 * SECOND, done);
    node.names();
    let mut version = 8;
    node.run(900 * SECOND, |_| LedgerOutcome::Done { version: version.to_string() });
    assert_eq!(node.names(), ["look", "write"]);
    version = 9;
    node.run(900 * SECOND, |_| LedgerOutcome::Done { version: version.to_string() });
    assert_eq!(node.names(), ["look", "write"]);
}

#[test]
fn missing_api_or_right_is_asked_for_rarely_and_heals() {
    let mut node = Node::new();
    node.schedule.set_content(content(1));
    node.run(3600 * SECOND, |_| LedgerOutcome::Unavailable);
    let calls = node.names();
    assert!((8..=13).contains(&calls.len()), "{calls:?}");
    node.run(420 * SECOND, done);
    assert_eq!(node.names(), ["create", "write"]);
}

#[test]
fn errors_back_off_and_the_servers_wish_counts() {
    let mut node = Node::new();
    node.schedule.set_content(content(1));
    node.run(3600 * SECOND, |_| LedgerOutcome::Failed { retry_after: None });
    let calls = node.calls.clone();
    assert!((10..=20).contains(&calls.len()), "{} calls", calls.len());
    node.calls.clear();
    let began = node.now;
    let mut first = true;
    node.run(1800 * SECOND, |call| {
        let refused = std::mem::take(&mut first);
        if refused { LedgerOutcome::Failed { retry_after: Some(900 * SECOND) } } else { done(call) }
    });
    let [(asked, _), (again, _), ..] = node.calls[..] else { panic!("{:?}", node.calls) };
    assert!(asked >= began && again >= asked + 900 * SECOND, "{:?}", node.calls);
}

#[test]
fn conflict_starts_over_and_too_large_content_shrinks() {
    let mut node = Node::new();
    let mut large = content(1);
    large.agent_version = Some("x".repeat(40_000));
    node.schedule.set_content(large.clone());
    let mut first = true;
    node.run(120 * SECOND, |call| match call {
        LedgerCall::Write(_) if std::mem::take(&mut first) => LedgerOutcome::Conflict,
        _ => done(call),
    });
    assert_eq!(node.names(), ["create", "write", "create", "write"]);
    let row = crate::ledger::content::tests::row(80);
    large.ports = vec![row; 1500];
    node.schedule.set_content(large.clone());
    let mut sizes = Vec::new();
    node.run(120 * SECOND, |call| match call {
        LedgerCall::Write(status) => {
            let size = serde_json::to_vec(status).unwrap().len();
            sizes.push((size, status.ports.len() + status.left_out as usize));
            if size > 100_000 { LedgerOutcome::TooLarge } else { done(call) }
        }
        _ => done(call),
    });
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.windows(2).all(|pair| pair[1].0 < pair[0].0), "{sizes:?}");
    assert!(sizes.iter().all(|(_, rows)| *rows == 1500), "what is left out is counted: {sizes:?}");
    assert!(node.schedule.is_written(&large));
}

#[test]
fn agents_that_start_together_write_at_different_times() {
    let now = 1000 * SECOND;
    let mut times: Vec<Duration> = (0..200)
        .map(|seed| {
            let mut schedule = LedgerSchedule::new(seed, now);
            schedule.set_content(content(1));
            match schedule.poll_call(now, WALL) {
                NextLedgerCall::Wait(at) => at.saturating_sub(now),
                next => panic!("{next:?}"),
            }
        })
        .collect();
    times.sort_unstable();
    assert!(times[20] < 2 * SECOND && times[180] > 8 * SECOND && times[199] <= PACE, "{times:?}");
}
