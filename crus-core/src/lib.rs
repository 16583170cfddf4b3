//! Rolling upgrades of compute nodes as a pure state machine.
//!
//! A site moves the nodes of one group to a new boot image a few at a time: drain them in the workload
//! manager, wait for their jobs to end, reboot them, put them back to work, go on with the next few. This
//! crate decides what happens to each node and when. It never does I/O, holds no clock, and needs no async
//! runtime: what the outside can do stands behind the [ports], and the time is always an argument.
//!
//! # Where to start
//!
//! - [`machine`]: what happens to a node, top to bottom. [`machine::outstanding`] says what should be asked
//!   of the world now; [`machine::step`] takes in what was observed.
//! - [`model`]: the [`Session`], the one value that is stored, and the nodes in it.
//! - [`strategy`]: what an operator may ask for beside the group and the image. [`window`]: when steps may start.
//! - [`boots`]: how a reboot is asked for once of a BOS that takes no names of ours.
//! - [`history`]: what happened, as a list that can be followed. [`actor`]: who ordered it.
//! - [`estimate`]: how long the rest takes. [`plan`]: what an upgrade would come to.
//! - [`claims`]: which sessions must wait for each other. [`commands`]: which orders make sense when.
//! - [`stored`]: how a session is kept.
//! - [`driver`]: runs one session against the ports, storing it before anything whose loss would matter.
//! - [`promises`]: P1–P9 and those of a strategy P1–P9, checked.
//!
//! # Embedding
//!
//! A tool with ways of its own to HSM, BOS and the workload manager asks them what [`machine::outstanding`] says, and tells
//! [`machine::step`] what came of it. Between the two it stores what changed: a reboot is asked for only once the
//! intent to is stored. This one can read a group, and nothing else yet:
//!
//! ```
//! use crus_core::machine::{self, Effect, Event, Input};
//! use crus_core::model::SeenGroup;
//! use crus_core::ports::{Peer, PortError, StoreError};
//! use crus_core::stored::Parts;
//! use crus_core::uuid::Uuid;
//! use crus_core::{Limits, Session, Spec, Strategy, Time, UpgradeId};
//!
//! /// Asks the world.
//! fn answer(effect: Effect, at: Time) -> Input {
//!     match effect {
//!         Effect::ReadGroup(group) => {
//!             let members = ["x1000c0s0b0n0", "x1000c0s1b0n0"].iter().filter_map(|xname| xname.parse().ok());
//!             Input::Group(group, SeenGroup { at, members: Some(members.collect()) })
//!         }
//!         effect => {
//!             let detail = format!("{:?} is not written yet", effect.kind());
//!             Input::Failed { effect, error: PortError::Unreachable { peer: Peer::Hsm, detail } }
//!         }
//!     }
//! }
//!
//! /// Makes what changed durable.
//! fn store(session: &Session, events: &[Event]) -> Result<(), StoreError> {
//!     let changed = Parts::of(session, events)?;
//!     // Written by the tool, in one transaction.
//!     # drop(changed);
//!     Ok(())
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spec = Spec {
//!     starting: "compute".parse()?,
//!     upgrading: "upgrading".parse()?,
//!     failed: "failed".parse()?,
//!     step_size: 8.try_into()?,
//!     template: "new-image".parse()?,
//!     tenant: None,
//!     strategy: Strategy::default(),
//! };
//! let mut now = Time(1_767_225_600_000);
//! // What created it is for people, and stays with it: most often a version.
//! let mut session = Session::new(UpgradeId(Uuid::nil()), spec, "my-tool 1.0", Limits::default(), now);
//! // Parts::all(&session) is what to store of a new one.
//! while !session.is_done() {
//!     let events = machine::step(&mut session, now, Input::Tick);
//!     store(&session, &events)?;
//!     let Some(effect) = machine::outstanding(&session, now).into_iter().next() else {
//!         // To be slept until.
//!         now = machine::next_wake(&session, now).unwrap_or(now);
//!         # if session.head.condition.is_some() { break }
//!         continue;
//!     };
//!     let events = machine::step(&mut session, now, answer(effect, now));
//!     store(&session, &events)?;
//! }
//! # let condition = session.head.condition.unwrap_or_default();
//! # assert!(condition.ends_with("Claim is not written yet"), "{condition}");
//! # Ok(())
//! # }
//! ```
//!
//! With the [ports] implemented, by [`macro@async_trait`] as they are declared, a [`driver::Driver`] does all of this.
//!
//! # The promises
//!
//! | | |
//! |---|---|
//! | P1 | width: at most the step size of nodes is in flight |
//! | P2 | no job harmed: a node is rebooted only when drained and seen to run nothing, right before |
//! | P3 | once: a node is rebooted at most once per session, whatever crashes in between |
//! | P4 | accounted for: at the end each node is upgraded, or failed and marked so; none is left drained |
//! | P5 | proved: upgraded means that BOS says so and the workload manager saw a newer boot |
//! | P6 | only what we took: a node held by somebody else keeps that state and reason |
//! | P7 | stop is safe: deletion at any moment leaves no node half-way |
//! | P8 | no bystanders: groups lose only nodes of this session |
//! | P9 | fix and go on: an unmet condition never ends a session |

pub mod actor;
pub mod batch;
pub mod boots;
pub mod claims;
pub mod commands;
pub mod driver;
pub mod estimate;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod history;
pub mod hostlist;
pub mod machine;
pub mod messages;
pub mod model;
pub mod names;
pub mod plan;
pub mod ports;
pub mod progress;
pub mod promises;
pub mod stored;
pub mod strategy;
pub mod time;
pub mod window;
pub mod wlm;

pub use actor::Actor;
/// What the [ports] are declared with, and so implemented.
pub use async_trait::async_trait;
pub use model::{Limits, Message, Session, Spec, UpgradeId};
pub use names::{
    CheckName, Domain, GroupLabel, NodeName, NodeNameFormat, PartitionName, TemplateName, TenantName, Xname,
};
pub use strategy::Strategy;
pub use time::Time;
/// What an [`UpgradeId`] is made of.
pub use uuid;
