//! The model: nodes, Slurm, HSM and BOS as one value in virtual time.
//!
//! [`Cluster::advance_to`] moves the time on and lets everything happen that is due by then, in order. Calls to
//! the peers act at [`Cluster::now`]; they are methods here, each peer's in its own file:
//!
//! - [`slurm`]: `show_nodes`, `jobs`, `update`, and what happens to slurmctld.
//! - [`hsm`]: groups, members, components.
//! - [`bos`]: session templates, sessions, components.
//!
//! # Time
//!
//! [`Time`] is virtual milliseconds since 1970. Slurm's clock is the same time in whole seconds, in UTC. To run
//! the model in real or sped-up time, call `advance_to` with the mapped time before each use, and again at
//! [`Cluster::next_event`] when nobody asks meanwhile.
//!
//! # Something real that boots
//!
//! [`Cluster::drain_power_events`] tells, in order, whose power was cut and whose operating system starts; a test
//! that stands real slurmds beside the simulated BOS stops and starts them by it. With
//! [`BootEnd::Drawn`](crate::config::BootEnd::Drawn) BOS takes a boot as done after the drawn length, whatever the
//! real one does; with [`BootEnd::Reported`](crate::config::BootEnd::Reported) it waits for
//! [`Cluster::node_booted`].

pub mod bos;
pub mod hsm;
pub mod slurm;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crus_core::check::Fact;
use crus_core::{NodeName, Time, Xname};

use crate::config::{BootBehaviour, ClusterConfig};

/// A cluster that several parts of a program look at.
pub type SharedCluster = Arc<Mutex<Cluster>>;

/// Locks a shared cluster. A panic of somebody who held the lock does not keep others out: a test that failed has
/// said so already.
pub fn lock(cluster: &SharedCluster) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that the hardware did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerEvent {
    /// The power of a node was cut: whatever ran on it is gone.
    Cut {
        /// When.
        at: Time,
        /// Which node.
        xname: Xname,
    },
    /// A node has power and its operating system starts. A node that will not boot never gets here; nor does one
    /// whose slurmd never shows up.
    Boot {
        /// When.
        at: Time,
        /// Which node.
        xname: Xname,
    },
}

/// The model of a cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    now: Time,
}

impl Cluster {
    /// A cluster at its start. Everything drawn follows from the seed.
    pub fn new(config: ClusterConfig, seed: u64) -> Self {
        let _ = seed;
        Cluster { now: config.start, config }
    }

    /// The cluster behind a lock.
    pub fn shared(self) -> SharedCluster {
        Arc::new(Mutex::new(self))
    }

    /// What it was made of.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Moves the time on to `time` and lets everything happen that is due by then, in order. A time in the past
    /// changes nothing.
    pub fn advance_to(&mut self, time: Time) {
        self.now = self.now.max(time);
    }

    /// When something happens next by itself; `None` when nothing will.
    pub fn next_event(&self) -> Option<Time> {
        todo!()
    }

    /// What happened since the start, or since the last [`drain_facts`](Self::drain_facts), for a witness. The
    /// state at the start is told as changes, too.
    pub fn facts(&self) -> &[Fact] {
        todo!()
    }

    /// Takes the facts out.
    pub fn drain_facts(&mut self) -> Vec<Fact> {
        todo!()
    }

    /// Takes out what the hardware did since the last call, in order.
    pub fn drain_power_events(&mut self) -> Vec<PowerEvent> {
        todo!()
    }

    /// Tells BOS that a node's operating system is up: only with
    /// [`BootEnd::Reported`](crate::config::BootEnd::Reported), and only after its [`PowerEvent::Boot`]; anything
    /// else changes nothing. Returns whether it did.
    pub fn node_booted(&mut self, xname: Xname) -> bool {
        let _ = xname;
        todo!()
    }

    /// Changes what happens when BOS reboots a node from now on. Returns whether there is such a node.
    pub fn set_boot_behaviour(&mut self, xname: Xname, boot: BootBehaviour) -> bool {
        let _ = (xname, boot);
        todo!()
    }

    /// Cuts a node's power, as a failing part would; its jobs die. Returns whether there is such a node.
    pub fn power_off(&mut self, xname: Xname) -> bool {
        let _ = xname;
        todo!()
    }

    /// Switches a node on that is off; it boots whatever its [`BootBehaviour`] says of BOS's reboots. Returns
    /// whether there is such a node.
    pub fn power_on(&mut self, xname: Xname) -> bool {
        let _ = xname;
        todo!()
    }

    /// The node that Slurm knows by this name.
    pub fn xname_of(&self, name: &NodeName) -> Option<Xname> {
        let _ = name;
        todo!()
    }

    /// Slurm's name of a node; `None` when Slurm does not know it.
    pub fn name_of(&self, xname: Xname) -> Option<&NodeName> {
        let _ = xname;
        todo!()
    }

    /// The image that a node runs: the name of the session template it was last booted from, `None` for the one
    /// from before.
    pub fn image_of(&self, xname: Xname) -> Option<&str> {
        let _ = xname;
        todo!()
    }
}
