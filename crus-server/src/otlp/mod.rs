//! Traces for a collector that speaks OTLP, when they are asked for: what a session did when, and for how long.
//!
//! The trace of a session has its upgrade id as trace id. Below its root are the steps, from the choice of their nodes to
//! their end, below these their stages, and in these the calls to peers; a call that is made for several sessions is in the
//! trace of each. The ids of root, steps and stages follow from the session alone, so that the spans of a session that several
//! replicas ran, or that outlived a restart, still belong together. Each is sent once it has ended: a step that waits for jobs
//! is seen when it is done.
//!
//! Spans go over HTTP as JSON, as the OpenTelemetry protocol has it beside protobuf (OTLP 1.x, JSON Protobuf Encoding):
//! nothing but what is here already is needed for that.
//!
//! # Guarantees
//!
//! - Nothing waits for a collector. When it takes nothing, or too slowly, spans are dropped, and the log tells how many.
//! - No span tells more than the log does: the operations of peers, never what was said to them or by them.

#[cfg(feature = "otlp")]
mod sender;
#[cfg(feature = "otlp")]
mod span;

use std::path::PathBuf;
use std::sync::Arc;

use crus_core::UpgradeId;

#[cfg(feature = "otlp")]
pub use sender::Tracer;
#[cfg(feature = "otlp")]
pub use span::{Span, session_span, stage_span, step_span};

/// Where traces go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtlpOptions {
    /// The collector: `/v1/traces` is added. `None`: nobody is told.
    pub endpoint: Option<String>,
    /// The file with headers to send, which may be secret: `Name: value`, one a line.
    pub headers_file: Option<PathBuf>,
}

/// Where in a session a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The session.
    pub session: UpgradeId,
    /// The step.
    pub step: u32,
    /// The span of the step's stage.
    pub parent: u64,
}

tokio::task_local! {
    /// Where the task is: in several sessions at once while it looks for all of them.
    pub static PLACES: Arc<[Place]>;
}

/// Without the feature there are none.
#[cfg(not(feature = "otlp"))]
#[derive(Debug, Clone)]
pub enum Tracer {}

#[cfg(not(feature = "otlp"))]
impl Tracer {
    /// The collector that is configured, if one is.
    ///
    /// # Errors
    /// When one is: this build has no way to it.
    pub fn start(options: &OtlpOptions) -> anyhow::Result<Option<Self>> {
        anyhow::ensure!(options.endpoint.is_none() && options.headers_file.is_none(), WITHOUT);
        Ok(None)
    }
}

#[cfg(not(feature = "otlp"))]
const WITHOUT: &str = "otlp_endpoint or otlp_headers_file is set, and this crus was built without traces: install one that was \
                       built with `cargo build --release --features otlp`, or unset them";

#[cfg(all(test, not(feature = "otlp")))]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_traces_says_what_to_do() {
        assert!(Tracer::start(&OtlpOptions::default()).unwrap().is_none());
        let endpoint = Some("http://127.0.0.1:4318".to_owned());
        let error = Tracer::start(&OtlpOptions { endpoint, headers_file: None }).unwrap_err().to_string();
        assert!(error.contains("otlp_endpoint") && error.contains("--features otlp"), "{error}");
    }
}
