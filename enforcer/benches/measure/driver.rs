//! A process in a cgroup that makes sockets, binds and closes them in a loop: this binary, started again.

use std::{
    env, fs, hint,
    io::{self, BufRead as _, BufReader, Lines, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// Names the cgroup to the process that is to be a driver.
const MARK: &str = "PORT_ENFORCER_BENCH_DRIVER";

/// The same for the number of its processor.
const PROCESSOR: &str = "PORT_ENFORCER_BENCH_PROCESSOR";

/// What to do over and over: a TCP socket, bound to all addresses, and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The first port.
    pub(crate) port: u16,
    /// How many ports from there on are bound in turn.
    pub(crate) ports: u16,
    /// How often.
    pub(crate) times: u32,
    /// With `SO_REUSEPORT`: a socket that could share its port.
    pub(crate) reuse: bool,
    /// Whether it is bound at all.
    pub(crate) bind: bool,
    /// Nanoseconds from the beginning of one cycle to that of the next; 0 is as fast as possible.
    pub(crate) period_ns: u32,
    /// Whether the caches are emptied before each cycle.
    pub(crate) evicts_caches: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self { port: 0, ports: 1, times: 0, reuse: false, bind: true, period_ns: 0, evicts_caches: false }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) nanos: u64,
    /// Binds that failed.
    pub(crate) failed: u32,
}

/// Turns this process into a driver if it was started as one.
pub(crate) fn run_if_driver() {
    if let Some(cgroup) = env::var_os(MARK) {
        if let Err(error) = serve(Path::new(&cgroup)) {
            eprintln!("driver: {error}");
            std::process::exit(1);
        }
        std::process::exit(0);
    }
}

/// A driver. Killed when dropped.
pub(crate) struct Driver {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    /// Starts one in a cgroup and on a processor.
    pub(crate) fn start(cgroup: &Path, processor: usize) -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .env(MARK, cgroup)
            .env(PROCESSOR, processor.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let answers = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let mut driver = Self { child, orders, answers };
        driver.answer()?;
        Ok(driver)
    }

    /// Carries out an order.
    pub(crate) fn run(&mut self, order: &Order) -> io::Result<Done> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Done> {
        let line = self.answers.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(cgroup: &Path) -> io::Result<()> {
    // Before any socket is made: a socket belongs for good to the cgroup it was made in.
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
    let mut one = CpuSet::new();
    one.set(env::var(PROCESSOR).ok().and_then(|number| number.parse().ok()).unwrap_or(0));
    // Where it may not choose, it is measured all the same.
    let _ = sched_setaffinity(None, &one);
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(&Done { nanos: 0, failed: 0 })?)?;
    for line in io::stdin().lines() {
        let done = run(&serde_json::from_str(&line?)?);
        writeln!(stdout, "{}", serde_json::to_string(&done)?)?;
    }
    Ok(())
}

fn run(order: &Order) -> Done {
    let port = |round: u32| order.port + (round % u32::from(order.ports)) as u16;
    let mut failed = 0;
    if order.period_ns == 0 && !order.evicts_caches {
        let start = thread_cpu_nanos();
        for round in 0..order.times {
            failed += u32::from(!cycle(port(round), order));
        }
        return Done { nanos: thread_cpu_nanos() - start, failed };
    }
    // The clock is read around each cycle, so that it alone is measured: a reading more than above.
    let (mut nanos, mut sweep) = (0, order.evicts_caches.then(CacheSweep::new));
    let period = Duration::from_nanos(order.period_ns.into());
    let mut next = Instant::now();
    for round in 0..order.times {
        // Waits without sleep: a processor that was idle is slow at first.
        while Instant::now() < next {
            hint::spin_loop();
        }
        next += period;
        if let Some(sweep) = &mut sweep {
            sweep.run();
        }
        let start = thread_cpu_nanos();
        failed += u32::from(!cycle(port(round), order));
        nanos += thread_cpu_nanos() - start;
    }
    Done { nanos, failed }
}

/// The thread's own time, so that it does not matter who else wants the processor.
fn thread_cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A buffer that is larger than the caches that this processor does not share.
struct CacheSweep(Vec<u64>);

impl CacheSweep {
    /// Words of a cache line.
    const LINE: usize = 8;
    /// Size of the second-level cache where the kernel does not know it, in KiB.
    const USUAL_KIB: usize = 2048;

    fn new() -> Self {
        let known = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok();
        let kib = known.and_then(|text| text.trim().strip_suffix('K')?.parse().ok()).unwrap_or(Self::USUAL_KIB);
        Self(vec![0; 2 * kib * 1024 / size_of::<u64>()])
    }

    /// Writes to every line, so that nothing else is left in the caches.
    fn run(&mut self) {
        for word in self.0.iter_mut().step_by(Self::LINE) {
            *word = hint::black_box(*word + 1);
        }
    }
}

/// A socket, its bind, its close; whether the bind succeeded. By bare system calls, since all else would be measured too.
fn cycle(port: u16, order: &Order) -> bool {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    };
    let one: libc::c_int = 1;
    // SAFETY: the calls read an int and an address of these sizes, which live across them; the descriptor is closed once.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if order.reuse {
            libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, (&raw const one).cast(), 4);
        }
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let result = if order.bind { libc::bind(socket, (&raw const address).cast(), length) } else { 0 };
        libc::close(socket);
        result == 0
    }
}
