//! The log: text for people or JSON for collectors, on standard error.

use std::fmt;
use std::io::IsTerminal;

use parking_lot::Mutex;
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::log_writer;
use crate::config::Log;

/// The environment variable that overrides the configured level.
pub const LEVEL_VARIABLE: &str = "PGVANE_LOG";

/// Changes the filter of the log that has been started.
static SET_FILTER: Mutex<Option<SetFilter>> = Mutex::new(None);

type SetFilter = Box<dyn Fn(EnvFilter) -> bool + Send>;

/// Keeps the log's thread running; dropping it writes the lines that are waiting, for a second at most.
#[must_use]
pub struct LogGuard {
    _worker: WorkerGuard,
}

/// Starts logging; `PGVANE_LOG` overrides the configured level. Does nothing if logging has been started before.
///
/// Errors: `PGVANE_LOG` is not a level or filter; with a hint.
pub fn start(log: &Log) -> Result<LogGuard, String> {
    let filter = filter(log)?;
    let (writer, worker) = log_writer::to_standard_error();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if log.is_json {
        let lines = lines.json().flatten_event(true).with_filter_reloading();
        let filter = lines.reload_handle();
        init(&lines.try_init(), move |new| filter.reload(new).is_ok());
    } else if is_read_by_journald() {
        let plain = Format::default().with_target(false).with_ansi(false).without_time();
        let lines = lines.event_format(ForJournald(plain)).with_filter_reloading();
        let filter = lines.reload_handle();
        init(&lines.try_init(), move |new| filter.reload(new).is_ok());
    } else {
        let lines = lines.with_filter_reloading();
        let filter = lines.reload_handle();
        init(&lines.try_init(), move |new| filter.reload(new).is_ok());
    }
    Ok(LogGuard { _worker: worker })
}

/// Remembers how to change the level of a log that has been started.
fn init<E>(started: &Result<(), E>, set: impl Fn(EnvFilter) -> bool + Send + 'static) {
    if started.is_ok() {
        *SET_FILTER.lock() = Some(Box::new(set));
    }
}

/// Changes the level. False if `PGVANE_LOG` overrides it, or logging has not been started here.
pub fn set_level(log: &Log) -> bool {
    match filter(log) {
        Ok(new) if std::env::var_os(LEVEL_VARIABLE).is_none() => SET_FILTER.lock().as_ref().is_some_and(|set| set(new)),
        _ => false,
    }
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    match std::env::var(LEVEL_VARIABLE) {
        Ok(text) => {
            Log::filter(&text).map_err(|hint| format!("{LEVEL_VARIABLE}=\"{text}\" is not a log level: {hint}"))
        }
        Err(_) => Ok(Log::filter(&log.level).unwrap_or_else(|_| EnvFilter::new("info"))), // checked with the configuration
    }
}

/// Whether standard error is a stream of journald's (`systemd.exec(5)`, `$JOURNAL_STREAM`).
fn is_read_by_journald() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal()
}

/// Lines that begin with their syslog priority, for `journalctl -p` (`sd-daemon(3)`). journald adds the time itself.
struct ForJournald(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for ForJournald
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str(priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}
