//! The partitions: which jobs run on which nodes.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::wlm::{Partition, WlmNode};
use crus_core::{NodeName, PartitionName};

use super::Cluster;
use super::queue::Ix;
use super::slurm::SlurmError;
use crate::config::ClusterConfig;

/// The partition of a cluster for which none is configured.
const BATCH: &str = "batch";

/// All partitions.
#[derive(Debug, Default)]
pub(super) struct Partitions(BTreeMap<PartitionName, Members>);

#[derive(Debug)]
enum Members {
    /// Every node that Slurm knows.
    All,
    /// These.
    Some(BTreeSet<Ix>),
}

impl Partitions {
    pub(super) fn new(config: &ClusterConfig, by_name: &BTreeMap<NodeName, Ix>) -> Self {
        if config.partitions.is_empty() {
            return Partitions(
                PartitionName::new(BATCH).ok().map(|name| (name, Members::All)).into_iter().collect(),
            );
        }
        let members = |names: &Vec<NodeName>| {
            Members::Some(names.iter().filter_map(|name| by_name.get(name).copied()).collect())
        };
        Partitions(config.partitions.iter().map(|(name, nodes)| (name.clone(), members(nodes))).collect())
    }

    /// Whether jobs of this partition run on this node.
    pub(super) fn holds(&self, partition: &PartitionName, ix: Ix) -> bool {
        self.0.get(partition).is_some_and(|members| members.holds(ix))
    }

    /// The nodes of a partition; `None`: all.
    pub(super) fn members(&self, partition: &PartitionName) -> Option<&BTreeSet<Ix>> {
        match self.0.get(partition)? {
            Members::All => None,
            Members::Some(some) => Some(some),
        }
    }

    /// The partition of jobs that name none.
    pub(super) fn default_name(&self) -> Option<&PartitionName> {
        self.0.keys().find(|name| name.as_str() == BATCH).or_else(|| self.0.keys().next())
    }

    /// Each that has nodes, with how many.
    pub(super) fn sizes(&self, all: usize) -> Vec<(PartitionName, usize)> {
        let size = |members: &Members| match members {
            Members::All => all,
            Members::Some(some) => some.len(),
        };
        let sizes = self.0.iter().map(|(name, members)| (name.clone(), size(members)));
        sizes.filter(|(_, size)| *size > 0).collect()
    }

    /// Those of a node.
    pub(super) fn of(&self, ix: Ix) -> Vec<PartitionName> {
        let of = self.0.iter().filter(|(_, members)| members.holds(ix));
        of.map(|(name, _)| name.clone()).collect()
    }
}

impl Members {
    fn holds(&self, ix: Ix) -> bool {
        match self {
            Members::All => true,
            Members::Some(some) => some.contains(&ix),
        }
    }
}

impl Cluster {
    /// All partitions, by name, with the nodes that are in service.
    ///
    /// # Errors
    /// Only [`SlurmError::ControllerDown`].
    pub fn partitions(&self) -> Result<Vec<Partition>, SlurmError> {
        let named = self.partition_nodes()?;
        let partition = |(name, nodes): (PartitionName, Vec<NodeName>)| {
            let total = nodes.len();
            let in_service = self.show_nodes(&nodes)?.nodes.into_iter().map(WlmNode::from);
            let in_service = in_service.filter(WlmNode::is_in_service).map(|node| node.name).collect();
            Ok(Partition { name, total, in_service })
        };
        named.into_iter().map(partition).collect()
    }

    /// `scontrol show partition`: all partitions, by name, with their nodes in the order of names.
    ///
    /// # Errors
    /// Only [`SlurmError::ControllerDown`].
    pub fn partition_nodes(&self) -> Result<Vec<(PartitionName, Vec<NodeName>)>, SlurmError> {
        if self.controller.stopped {
            return Err(SlurmError::ControllerDown);
        }
        let nodes = |members: &Members| {
            let of = self.by_name.iter().filter(|(_, ix)| members.holds(**ix));
            of.map(|(name, _)| name.clone()).collect()
        };
        Ok(self.partitions.0.iter().map(|(name, members)| (name.clone(), nodes(members))).collect())
    }

    /// The partition of jobs that name none: `batch`, or if there is no such partition the first by name.
    pub fn default_partition(&self) -> Option<&PartitionName> {
        self.partitions.default_name()
    }
}
