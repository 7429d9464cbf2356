//! An engine on a sandbox, and the pods in it.

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
    manifest::{Manifest, SYSTEMD_BESTEFFORT},
    sandbox::Sandbox,
    worker::{Bind, Worker},
};

/// Everything enforced and everything told.
pub const ENFORCE: Policy =
    Policy { enforce: true, undeclared: Undeclared::Allow, report_attempts: true, errno: 98, ..Policy::from_word(0) };

/// Nothing enforced and everything told.
pub const AUDIT: Policy = Policy { enforce: false, ..ENFORCE };

/// An engine that judges the pods below a root of its own. What it holds goes when it is dropped.
pub struct Rig {
    pub engine: Reconciler,
    root: PathBuf,
    sandbox: Sandbox,
    notices: Vec<Notice>,
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Seen {
    /// What the process saw, 0 for success.
    pub errno: i32,
    /// What the engine told of it.
    pub reports: Vec<Report>,
}

impl Seen {
    /// The one report of the attempt.
    pub fn report(&self) -> &Report {
        match self.reports.as_slice() {
            [report] => report,
            other => panic!("one report of the attempt, not {}: {other:?}", other.len()),
        }
    }

    /// What the process saw, and what the engine told.
    pub fn answer(&self) -> (i32, VerdictKind, Reason) {
        let attempt = &self.report().attempt;
        (self.errno, attempt.verdict, attempt.reason)
    }

    /// Name of the owner whose claim decided.
    pub fn owner(&self) -> String {
        self.report().owner.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

impl Rig {
    /// In enforce mode on a `kubepods.slice`, with the default settings.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// As [`Self::new`], with something else to start with.
    pub fn with(change: impl FnOnce(&mut Start)) -> Self {
        let sandbox = Sandbox::new();
        sandbox.make("kubepods.slice");
        Self::on(sandbox, "kubepods.slice", change)
    }

    /// On a cgroup of a sandbox that was prepared.
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
        };
        change(&mut start);
        let mut engine = Reconciler::load(start, None).unwrap_or_else(|error| panic!("{error}"));
        engine.attach().unwrap_or_else(|error| panic!("{error}"));
        Self { engine, root, sandbox, notices: Vec::new() }
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// How many holders the programs have noted, by pod and address.
    pub fn holds(&self) -> usize {
        self.engine.kernel().port_holds().expect("the slots").into_iter().map(|(_, holds)| holds.len()).sum()
    }

    /// Makes a cgroup below the pods' root.
    pub fn make(&self, relative: &str) -> PathBuf {
        let path = self.root.join(relative);
        std::fs::create_dir_all(&path).expect("creating a cgroup");
        path
    }

    /// Tells the engine of a pod.
    pub fn apply(&mut self, manifest: &Manifest) {
        self.engine.apply(manifest.pod(), now());
    }

    /// Tells the engine that a pod is gone.
    pub fn delete(&mut self, manifest: &Manifest) {
        let pod = manifest.pod();
        self.engine.delete(&pod.namespace, &pod.name, now());
    }

    /// Makes a pod's cgroup and starts a worker in it, whether or not the engine knows the pod.
    pub fn worker(&self, manifest: &Manifest) -> Worker {
        Worker::start(&self.make(&manifest.cgroup(SYSTEMD_BESTEFFORT)))
    }

    /// Tells the engine of a pod and starts a worker in it.
    pub fn start(&mut self, manifest: &Manifest) -> Worker {
        self.apply(manifest);
        self.worker(manifest)
    }

    /// Lets a worker try a bind, and takes what the engine tells of it.
    pub fn attempt(&mut self, worker: &mut Worker, bind: &Bind) -> Seen {
        self.watch(|| worker.bind(bind))
    }

    /// Lets somebody try a bind, and takes what the engine tells of it.
    pub fn watch(&mut self, bind: impl FnOnce() -> i32) -> Seen {
        self.told();
        let errno = bind();
        Seen { errno, reports: self.told() }
    }

    /// Reads the ring of verdicts to its end and returns the reports.
    pub fn told(&mut self) -> Vec<Report> {
        self.outputs().0
    }

    /// Reads the ring of verdicts to its end and returns the reports and the sockets that were bound.
    pub fn outputs(&mut self) -> (Vec<Report>, Vec<SocketBinding>) {
        let (mut reports, mut bound) = (Vec::new(), Vec::new());
        loop {
            let before = reports.len();
            self.engine.handle_input(Input::VerdictRing, now()).unwrap_or_else(|error| panic!("{error}"));
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
        while let Some(output) = self.engine.poll_output() {
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

/// Whether ports are to be taken before they are bound, whatever the kernel can do.
static RESERVES: AtomicBool = AtomicBool::new(false);

/// Whether sockets are to be read by a helper, whatever the kernel can do.
static READS_BY_HELPER: AtomicBool = AtomicBool::new(false);

/// Runs a test as on a kernel where ports are taken before they are bound.
pub fn reserving<T>(test: impl FnOnce() -> T) -> T {
    with(&RESERVES, test)
}

/// Runs a test as on a kernel where sockets are read by a helper.
pub fn by_helper<T>(test: impl FnOnce() -> T) -> T {
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

/// What this kernel can do.
pub fn features() -> Features {
    static FEATURES: LazyLock<Features> =
        LazyLock::new(|| probe::features().unwrap_or_else(|error| panic!("{error}: the tests need root")));
    Features {
        post_bind_denies: FEATURES.post_bind_denies && !RESERVES.load(Ordering::Relaxed),
        cast: FEATURES.cast.filter(|_| !READS_BY_HELPER.load(Ordering::Relaxed)),
        ..*FEATURES
    }
}

/// What a process sees that is denied with EADDRINUSE.
pub fn denied() -> i32 {
    denied_with(libc::EADDRINUSE)
}

/// What a process sees that is denied after its bind, with EADDRINUSE.
pub fn denied_after() -> i32 {
    if features().post_set_retval { libc::EADDRINUSE } else { libc::EPERM }
}

/// What a process sees that is denied with this error number, where the kernel lets us choose.
pub fn denied_with(errno: i32) -> i32 {
    if features().set_retval { errno } else { libc::EPERM }
}
