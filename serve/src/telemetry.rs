//! The log: text for people or a line of JSON for each event, on standard error.

use crate::config::LogFormat;

/// Begins to log. Does nothing where something else logs already.
pub fn start(format: LogFormat, level: tracing::Level) {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).with_target(false);
    let result = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Tests start several servers in one process: the first one's log serves all.
    let _ = result;
}
