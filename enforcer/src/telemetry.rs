//! Logs: text for people on a terminal, JSON for programs.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::layer,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Verbosity of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum LogLevel {
    /// Errors that keep the agent from its work.
    Error,
    /// Also conflicts and invalid input.
    Warn,
    /// Also what the agent does.
    Info,
    /// Also every bind attempt and every bound socket.
    Debug,
    /// Also the kernel programs' own trace.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Most lines that wait to be written. Lines that come while so many wait are dropped and counted: a slow reader of the
/// log must not keep the agent from its work.
const MAX_WAITING: usize = 8192;

/// The log. Waiting lines are written when this is dropped.
pub struct Log {
    dropped_lines: DroppedLines,
    _writer: WorkerGuard,
}

impl Log {
    /// Returns the counter of dropped lines.
    #[must_use]
    pub fn dropped_lines(&self) -> DroppedLines {
        self.dropped_lines.clone()
    }
}

/// Counter of the dropped lines of the log.
#[derive(Clone, Debug)]
pub struct DroppedLines {
    /// Lines that came while too many waited.
    overflowed: ErrorCounter,
    /// Lines that could not be written.
    unwritten: Arc<AtomicU64>,
}

impl DroppedLines {
    /// Returns the number of lines so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.overflowed.dropped_lines() as u64 + self.unwritten.load(Ordering::Relaxed)
    }
}

/// Standard error. A line that cannot be written is counted and dropped.
struct Stderr {
    unwritten: Arc<AtomicU64>,
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks whether to write colours: to a terminal, unless `NO_COLOR` is set.
#[must_use]
pub fn shows_colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes the log to standard error from a thread of its own: by default as text on a terminal and as JSON elsewhere.
#[must_use]
pub fn init(format: Option<LogFormat>, level: LogLevel) -> Log {
    let unwritten = Arc::default();
    let stderr = Stderr { unwritten: Arc::clone(&unwritten) };
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING).thread_name("log").finish(stderr);
    let dropped_lines = DroppedLines { overflowed: writer.error_counter(), unwritten };
    let log = Log { dropped_lines, _writer: guard };
    let terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let colours = shows_colours(terminal);
    // Libraries log warnings and errors only.
    let ours = [env!("CARGO_CRATE_NAME"), KERNEL_PROGRAMS].map(|target| (target, LevelFilter::from(level)));
    // The API client logs each failed call as an error; the agent reports it once, with a remedy.
    let filter = Targets::new()
        .with_targets(ours)
        .with_target("kube_client", LevelFilter::OFF)
        .with_default(LevelFilter::WARN.min(level.into()));
    let layer = layer().with_writer(writer).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(filter);
    // A second call, as in tests, keeps the first one's choice. What comes through the `log` crate, the trace of the
    // kernel programs among it, is taken too.
    let _ = match format {
        LogFormat::Text => registry.with(layer.event_format(Text)).try_init(),
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
        }
    };
    log
}

/// Target of the kernel programs' trace: the name of their crate.
const KERNEL_PROGRAMS: &str = "port_enforcer_bpf";

/// Text lines with the message only: it repeats what the fields say.
struct Text;

impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for Text
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let level = *event.metadata().level();
        let (colour, end) = match (writer.has_ansi_escapes(), level) {
            (true, tracing::Level::ERROR) => ("\u{1b}[31m", "\u{1b}[0m"),
            (true, tracing::Level::WARN) => ("\u{1b}[33m", "\u{1b}[0m"),
            (true, tracing::Level::INFO) => ("\u{1b}[32m", "\u{1b}[0m"),
            (true, _) => ("\u{1b}[34m", "\u{1b}[0m"),
            (false, _) => ("", ""),
        };
        write!(writer, "{time} {colour}{level:>5}{end} ")?;
        let mut message = Message(String::new());
        event.record(&mut message);
        writeln!(writer, "{}", message.0)
    }
}

struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
