//! What is due, in order: by time, then in the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crus_core::Time;
use serde::{Deserialize, Serialize};

use crate::journal::Kind;

/// The position of a node in the configuration.
pub(super) type Ix = u32;

/// Something that is due at some time. The last number of most is a generation: when the thing has a newer one by
/// then, the event has been overtaken and means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Event {
    /// A listed job is submitted: its position in the list.
    JobArrives(u32),
    /// The job of this id has done its work, or reached its limit, in this run of it.
    JobEnds(u32, u32),
    /// A job that was put back into the queue may start again.
    JobMayBegin(u32),
    /// The epilog of a job on a node ends.
    EpilogEnds(Ix, u32),
    /// The operating system of a node is up.
    OsUp(Ix, u32),
    /// The slurmd of a node starts.
    SlurmdStarts(Ix, u32),
    /// A living slurmd answers slurmctld.
    Answers(Ix, u32),
    /// slurmctld notices that a slurmd is silent.
    Silent(Ix, u32),
    /// slurmctld gives a silent slurmd up.
    Lost(Ix, u32),
    /// slurmctld is back.
    ControllerStarts,
    /// A BOS session works out its nodes.
    SessionResolves(u32),
    /// A BOS session shows as running.
    SessionRuns(u32),
    /// A complete BOS session is forgotten.
    SessionForgotten(u32),
    /// BOS does the next thing with a component.
    Component(Ix, Action, u32),
}

impl Event {
    /// What kind of thing it is.
    pub(super) fn kind(self) -> Kind {
        match self {
            Event::JobArrives(_) | Event::JobEnds(..) | Event::JobMayBegin(_) | Event::EpilogEnds(..) => {
                Kind::Job
            }
            Event::OsUp(..)
            | Event::SlurmdStarts(..)
            | Event::Answers(..)
            | Event::Silent(..)
            | Event::Lost(..)
            | Event::ControllerStarts => Kind::Node,
            Event::SessionResolves(_)
            | Event::SessionRuns(_)
            | Event::SessionForgotten(_)
            | Event::Component(..) => Kind::Boot,
        }
    }
}

/// What BOS does with a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Action {
    /// It calls for the node to be switched off.
    CallOff,
    /// The node is off.
    Off,
    /// It calls for the node to be switched on.
    CallOn,
    /// It takes a node that nobody rebooted for booted.
    PretendBooted,
    /// It has waited long enough for one try.
    Retry,
    /// The node is configured.
    Configured,
    /// It finds that a service it needs does not know the node.
    Hold,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Time, u64, Event)>>,
    planned: u64,
}

impl Queue {
    pub(super) fn plan(&mut self, at: Time, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, event)));
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// How many of the events have happened.
    pub(super) fn happened(&self) -> u64 {
        self.planned.saturating_sub(self.heap.len() as u64)
    }

    /// All that is due at some time, in no order.
    pub(super) fn events(&self) -> impl Iterator<Item = Event> {
        self.heap.iter().map(|Reverse((.., event))| *event)
    }

    pub(super) fn pop_due(&mut self, by: Time) -> Option<(Time, Event)> {
        if self.next()? > by {
            return None;
        }
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
