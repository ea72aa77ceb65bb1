//! The tracing subscriber: one line per event on standard error, text or JSON.

use tracing_subscriber::EnvFilter;

/// The client tells of every failed call as an error, in other words than we do, and we repeat our calls.
const QUIET: &str = "kube_client::client::builder=off";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is no filter.
    #[error("--log-level {level:?} is not a filter such as info or agentpool=debug,kube=warn")]
    Filter {
        /// What was given.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is there already.
    #[error("logging was started twice")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads a filter: a level, or directives as `RUST_LOG` has them. `warning` is accepted for `warn`, in any case.
/// At level info kube-runtime is kept to warnings: its span would stand in every line of a reconcile.
pub fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let level = level.trim();
    let directives = match level.to_ascii_lowercase().as_str() {
        "" | "info" => "info,kube_runtime=warn".to_owned(),
        "warning" => "warn".to_owned(),
        "silent" | "none" => "off".to_owned(),
        word @ ("trace" | "debug" | "warn" | "error" | "off") => word.to_owned(),
        _ => level.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|source| LogError::Filter {
        level: level.to_owned(),
        source,
    })
}

/// Starts logging for the whole process. Once per process.
pub fn init(level: &str, format: LogFormat) -> Result<(), LogError> {
    let mut filter = filter(level)?;
    if !["kube", "debug", "trace"].iter().any(|w| level.contains(w))
        && let Ok(quiet) = QUIET.parse()
    {
        filter = filter.add_directive(quiet);
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_and_bad_ones_name_the_flag() {
        for (given, want) in [
            ("info", "kube_runtime=warn,info"),
            ("WARN", "warn"),
            ("warning", "warn"),
            ("", "kube_runtime=warn,info"),
            ("agentpool=debug", "agentpool=debug"),
        ] {
            assert_eq!(filter(given).unwrap().to_string(), want, "{given}");
        }
        let error = filter("agentpool=loud").unwrap_err().to_string();
        assert!(error.contains("--log-level"), "{error}");
    }
}
