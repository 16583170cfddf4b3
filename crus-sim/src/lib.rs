//! A cluster that is not there: Slurm, HSM and BOS as one seeded, deterministic model in virtual time.
//!
//! # Where to start
//!
//! - [`Cluster`]: the model. A plain value: no threads, no wall clock, no I/O. The same seed and the same calls
//!   give the same trace.
//! - [`config`]: what the cluster is made of, and how its parts behave. [`workload`]: the jobs on it.
//! - [`ports`]: the model behind the ports of `crus-core`, in-process, with every call counted.
//! - [`checks`]: check commands that do as a test wrote. [`zones`]: the time zones that are known.
//! - [`store`]: sessions in memory, as serialised parts.
//! - [`faults`]: decorators that make any port fail as real ones do.
//! - [`world`]: sessions on such a cluster in virtual time, every promise checked after every step.
//! - [`crash`]: a scenario in such a world, run again with a crash at each of its points.
//! - [`mutants`]: services that break a promise on purpose, to show that it is seen.
//! - [`worlds`]: such worlds drawn from seeds, with faults, crashes and operators of every kind.
//! - [`journal`]: what happens in a world, counted and written down.
//! - [`http`] and [`stand_in`]: the model as the servers and programs that the real clients talk to.
//! - [`slurm_lab`]: a real Slurm on this host, for tests. `testing` (a feature): what tests of several crates share.
//!
//! What the real peers were seen to do is the specification; the tests beside each part hold it.

pub mod checks;
pub mod cluster;
pub mod config;
pub mod crash;
pub mod faults;
pub mod http;
pub mod journal;
pub mod mutants;
pub mod ports;
mod rng;
pub mod slurm_lab;
pub mod stand_in;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod workload;
pub mod world;
pub mod worlds;
pub mod zones;

pub use cluster::{Cluster, SharedCluster};
pub use config::ClusterConfig;

/// Whether the operator wants tests without real peers (`CRUS_NO_PEERS=1`): then this says on standard error what the
/// test `needs`, and the test returns. Without that, a test whose peer is missing fails.
pub fn left_out(needs: &str) -> bool {
    let left_out = std::env::var_os("CRUS_NO_PEERS").is_some_and(|value| value == "1");
    if left_out {
        eprintln!("left out, as CRUS_NO_PEERS=1 asks: this test needs {needs}");
    }
    left_out
}
