//! Planned looks at the workload manager, made for all sessions together.
//!
//! A session that sleeps until its next look leaves that look to this. Those that fall due within half a poll interval of each
//! other are made in one call, and fall due together from then on: however many sessions wait for their nodes, the controller
//! is asked about once in a poll interval.
//!
//! # Guarantees
//!
//! - No session looks less often than it would alone.
//! - A look begins after it was planned, while its session does nothing: what it shows is as good as what the session would
//!   have seen itself. A look that something else made necessary, the last one before a reboot above all, is the session's own.
//! - What is refused when several sessions look together is said of none: one node is enough for that, and each looks itself.
//! - A call that hangs holds up no look that falls due meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crus_core::ports::{Clock, PortError, Wlm};
use crus_core::wlm::WlmNode;
use crus_core::{NodeName, Time};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, error_span};

use crate::metrics::Metrics;
use crate::otlp::{PLACES, Place};

/// What a look showed.
pub(super) struct Look {
    /// When it began.
    pub(super) begun: Time,
    /// The nodes that were planned to be looked at.
    pub(super) asked: Vec<NodeName>,
    /// Those of them that there are.
    pub(super) nodes: Result<Vec<WlmNode>, PortError>,
}

/// A look that a session plans. It is given up when nobody waits for it any more.
struct Plan {
    due: Time,
    names: Vec<NodeName>,
    /// Where it is traced, and logged if no other session looks together with it.
    place: Place,
    span: Span,
    tell: oneshot::Sender<Look>,
}

/// Who makes the planned looks.
pub(super) struct Looks {
    plans: mpsc::UnboundedSender<Plan>,
}

impl Looks {
    /// Starts to make them. That ends with this value.
    pub(super) fn start(
        wlm: Arc<dyn Wlm>,
        clock: Arc<dyn Clock>,
        poll_ms: u64,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (plans, planned) = mpsc::unbounded_channel();
        let maker = Maker { wlm, clock, together_ms: poll_ms / 2, metrics, waiting: Vec::new() };
        tokio::spawn(maker.run(planned));
        Looks { plans }
    }

    /// Plans to look at these nodes, at `due` or up to half a poll interval before. What is received is the look, or an error
    /// when it was not made: then the session is to look itself.
    pub(super) fn plan(
        &self,
        due: Time,
        names: Vec<NodeName>,
        place: Place,
        span: Span,
    ) -> oneshot::Receiver<Look> {
        let (tell, told) = oneshot::channel();
        // Where nobody makes looks any more its sender goes with it.
        _ = self.plans.send(Plan { due, names, place, span, tell });
        told
    }
}

struct Maker {
    wlm: Arc<dyn Wlm>,
    clock: Arc<dyn Clock>,
    together_ms: u64,
    metrics: Arc<Metrics>,
    waiting: Vec<Plan>,
}

impl Maker {
    async fn run(mut self, mut planned: mpsc::UnboundedReceiver<Plan>) {
        loop {
            let now = self.clock.now();
            let next = self.waiting.iter().map(|plan| Duration::from_millis(plan.due.since(now))).min();
            let due = Instant::now() + next.unwrap_or_default();
            tokio::select! {
                plan = planned.recv() => match plan {
                    Some(plan) => {
                        self.waiting.retain(|plan| !plan.tell.is_closed());
                        self.waiting.push(plan);
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(due), if next.is_some() => self.make(),
            }
        }
    }

    /// Makes the looks that are due by now, and those that are almost.
    fn make(&mut self) {
        self.waiting.retain(|plan| !plan.tell.is_closed());
        let begun = self.clock.now();
        let first = self.waiting.iter().map(|plan| plan.due).min();
        let Some(due) = first.filter(|due| *due <= begun) else { return };
        self.metrics.polled_late(Duration::from_millis(begun.since(due)));
        let by = begun + self.together_ms;
        let plans: Vec<Plan> = self.waiting.extract_if(.., |plan| plan.due <= by).collect();
        let places = plans.iter().map(|plan| plan.place).collect();
        let span = match plans.as_slice() {
            [plan] => plan.span.clone(),
            _ => error_span!("look", sessions = plans.len()),
        };
        let look = look(Arc::clone(&self.wlm), begun, plans);
        tokio::spawn(PLACES.scope(places, look).instrument(span));
    }
}

/// Makes these looks in one call.
async fn look(wlm: Arc<dyn Wlm>, begun: Time, plans: Vec<Plan>) {
    let names: BTreeSet<&NodeName> = plans.iter().flat_map(|plan| &plan.names).collect();
    let names: Vec<NodeName> = names.into_iter().cloned().collect();
    let seen = wlm.nodes(&names).await;
    if plans.len() > 1 && matches!(seen, Err(PortError::Refused { .. })) {
        return;
    }
    for Plan { names: asked, tell, .. } in plans {
        let nodes = match &seen {
            Ok(seen) => {
                let wanted: BTreeSet<&NodeName> = asked.iter().collect();
                Ok(seen.iter().filter(|node| wanted.contains(&node.name)).cloned().collect())
            }
            Err(error) => Err(error.clone()),
        };
        // The session may have woken for something else meanwhile.
        _ = tell.send(Look { begun, asked, nodes });
    }
}
