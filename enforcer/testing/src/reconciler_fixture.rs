//! A reconciler on a sandbox, and the pods in it.

use std::{
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use enforcer::{
    agent::{
        input::Input,
        output::Output,
        reconciler::{Reconciler, Start},
    },
    host::{cgroup::Root, clock::now},
    kernel::probe::{self, Features},
};
use enforcer_core::{
    index::{Notice, Settings},
    reports::report::Report,
    sockets::SocketBinding,
};
use enforcer_ebpf::wire::{Policy, Reason, Undeclared, VerdictKind};

use crate::{
    cgroup_sandbox::Sandbox,
    pods::{Pod, SYSTEMD_BESTEFFORT},
    worker::{Bind, Worker},
};

/// Enforces everything and reports every attempt.
pub const ENFORCE: Policy =
    Policy { enforce: true, undeclared: Undeclared::Allow, report_attempts: true, errno: 98, ..Policy::from_word(0) };

/// Enforces nothing and reports every attempt.
pub const AUDIT: Policy = Policy { enforce: false, ..ENFORCE };

/// A reconciler that judges the pods below a root cgroup of its own. Its kernel state goes when it is dropped.
pub struct KernelFixture {
    pub reconciler: Reconciler,
    root: PathBuf,
    sandbox: Sandbox,
    notices: Vec<Notice>,
}

/// Result of an attempt.
#[derive(Debug)]
pub struct Observed {
    /// Error number that the process got, 0 for success.
    pub errno: i32,
    /// Reports about it.
    pub reports: Vec<Report>,
}

impl Observed {
    /// Returns the one report of the attempt.
    pub fn report(&self) -> &Report {
        match self.reports.as_slice() {
            [report] => report,
            other => panic!("one report of the attempt, not {}: {other:?}", other.len()),
        }
    }

    /// Returns the error number that the process got, and the reported verdict and reason.
    pub fn result(&self) -> (i32, VerdictKind, Reason) {
        let attempt = &self.report().attempt;
        (self.errno, attempt.verdict, attempt.reason)
    }

    /// Returns the name of the owner whose claim decided, empty if there is none.
    pub fn owner(&self) -> String {
        self.report().owner.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

impl KernelFixture {
    /// Starts in enforce mode on a `kubepods.slice`, with the default settings.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// Starts as [`Self::new`], with something else to start with.
    pub fn with(change: impl FnOnce(&mut Start)) -> Self {
        let sandbox = Sandbox::new();
        sandbox.make("kubepods.slice");
        Self::on(sandbox, "kubepods.slice", change)
    }

    /// Starts on a cgroup of a sandbox that was prepared.
    pub fn on(sandbox: Sandbox, root: &str, change: impl FnOnce(&mut Start)) -> Self {
        let root = sandbox.path().join(root);
        let mut start = Start {
            root: Root::find(Some(&root), Path::new("/proc/self/mountinfo")).expect("a root"),
            settings: Settings::default(),
            policy: ENFORCE,
            features: features(),
            trace: false,
            lease: None,
            shared_ports: Vec::new(),
            boot_state: None,
        };
        change(&mut start);
        let mut reconciler = Reconciler::load(start, None).unwrap_or_else(|error| panic!("{error}"));
        reconciler.attach().unwrap_or_else(|error| panic!("{error}"));
        Self { reconciler, root, sandbox, notices: Vec::new() }
    }

    /// Returns the cgroup subtree around the root.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Returns how many holders the programs have recorded, by pod and address.
    pub fn port_hold_count(&self) -> usize {
        self.reconciler.kernel().port_holds().expect("the slots").into_iter().map(|(_, holds)| holds.len()).sum()
    }

    /// Makes a cgroup below the pods' root.
    pub fn make_cgroup(&self, relative: &str) -> PathBuf {
        let path = self.root.join(relative);
        std::fs::create_dir_all(&path).expect("creating a cgroup");
        path
    }

    /// Adds or changes a pod.
    pub fn apply(&mut self, pod: &Pod) {
        self.reconciler.apply(pod.parsed(), now());
    }

    /// Deletes a pod.
    pub fn delete(&mut self, pod: &Pod) {
        let pod = pod.parsed();
        self.reconciler.delete(&pod.namespace, &pod.name, now());
    }

    /// Makes a pod's cgroup and starts a worker in it, whether or not the reconciler knows the pod.
    pub fn worker(&self, pod: &Pod) -> Worker {
        Worker::start(&self.make_cgroup(&pod.cgroup(SYSTEMD_BESTEFFORT)))
    }

    /// Adds or changes a pod and starts a worker in it.
    pub fn start(&mut self, pod: &Pod) -> Worker {
        self.apply(pod);
        self.worker(pod)
    }

    /// Lets a worker try a bind, and takes the reports about it.
    pub fn attempt(&mut self, worker: &mut Worker, bind: &Bind) -> Observed {
        self.observe(|| worker.bind(bind))
    }

    /// Runs `bind`, which returns an error number, and takes the reports about it.
    pub fn observe(&mut self, bind: impl FnOnce() -> i32) -> Observed {
        self.drain_reports();
        let errno = bind();
        Observed { errno, reports: self.drain_reports() }
    }

    /// Reads the ring of verdicts to its end and returns the reports.
    pub fn drain_reports(&mut self) -> Vec<Report> {
        self.outputs().0
    }

    /// Reads the ring of verdicts to its end and returns the reports and the sockets that were bound.
    pub fn outputs(&mut self) -> (Vec<Report>, Vec<SocketBinding>) {
        let (mut reports, mut bound) = (Vec::new(), Vec::new());
        loop {
            let before = reports.len();
            self.reconciler.handle_input(Input::VerdictRing, now()).unwrap_or_else(|error| panic!("{error}"));
            self.take_outputs(&mut reports, &mut bound);
            if reports.len() == before {
                return (reports, bound);
            }
        }
    }

    /// Takes the notices since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        self.take_outputs(&mut Vec::new(), &mut Vec::new());
        std::mem::take(&mut self.notices)
    }

    fn take_outputs(&mut self, reports: &mut Vec<Report>, bound: &mut Vec<SocketBinding>) {
        while let Some(output) = self.reconciler.poll_output() {
            match output {
                Output::Verdict(report) => reports.push(*report),
                Output::Bound(binding) => bound.push(*binding),
                Output::Notice(notice) => self.notices.push(notice),
                Output::MapFailure(_) | Output::UndecodableRecord { .. } | Output::CgroupScanFailed(_) => {
                    panic!("{output:?}")
                }
                _ => {}
            }
        }
    }
}

/// Set to take ports before they are bound, whatever the kernel can do.
static RESERVES: AtomicBool = AtomicBool::new(false);

/// Set to have no tail calls, whatever the kernel can do.
static HAS_NO_TAIL_CALLS: AtomicBool = AtomicBool::new(false);

/// Set to read sockets by a helper, and to send their records through a ring, whatever the kernel can do.
static READS_BY_HELPER: AtomicBool = AtomicBool::new(false);

/// Runs a test as on a kernel where ports are taken before they are bound.
pub fn taking_before_bind<T>(test: impl FnOnce() -> T) -> T {
    with(&RESERVES, test)
}

/// Runs a test as on a kernel where ports can be taken neither before they are bound nor after it.
pub fn taking_nothing<T>(test: impl FnOnce() -> T) -> T {
    taking_before_bind(|| with(&HAS_NO_TAIL_CALLS, test))
}

/// Runs a test as on a kernel where sockets are read by a helper, and their records go through a ring.
pub fn reading_by_helper<T>(test: impl FnOnce() -> T) -> T {
    with(&READS_BY_HELPER, test)
}

fn with<T>(switch: &'static AtomicBool, test: impl FnOnce() -> T) -> T {
    struct Reset(&'static AtomicBool);
    impl Drop for Reset {
        fn drop(&mut self) {
            self.0.store(false, Ordering::Relaxed);
        }
    }
    let _reset = Reset(switch);
    switch.store(true, Ordering::Relaxed);
    test()
}

/// Returns the features of this kernel, less those that a test has switched off.
pub fn features() -> Features {
    static FEATURES: LazyLock<Features> =
        LazyLock::new(|| probe::features().unwrap_or_else(|error| panic!("{error}: the tests need root")));
    Features {
        post_bind_denies: FEATURES.post_bind_denies && !RESERVES.load(Ordering::Relaxed),
        tail_calls: FEATURES.tail_calls && !HAS_NO_TAIL_CALLS.load(Ordering::Relaxed),
        cast: FEATURES.cast.filter(|_| !READS_BY_HELPER.load(Ordering::Relaxed)),
        atomic_exchange: FEATURES.atomic_exchange && !READS_BY_HELPER.load(Ordering::Relaxed),
        ..*FEATURES
    }
}

/// Returns the error number of a bind that is denied with EADDRINUSE.
pub fn denied() -> i32 {
    denied_with(libc::EADDRINUSE)
}

/// Returns the error number of a bind that is denied after it, with EADDRINUSE.
pub fn denied_after() -> i32 {
    if features().post_set_retval { libc::EADDRINUSE } else { libc::EPERM }
}

/// Returns the error number of a bind that is denied with `errno`, which not every kernel lets us choose.
pub fn denied_with(errno: i32) -> i32 {
    if features().set_retval { errno } else { libc::EPERM }
}
