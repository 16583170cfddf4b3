//! What a plan asks of the peers.

use super::{Planner, messages};
use crate::model::{Group, SeenGroup, Session};
use crate::names::NodeName;
use crate::ports::{Bos, Clock, Hsm, NodeFacts, Wlm};
use crate::window::{Opening, ZoneOffset, local};
use crate::wlm::Job;

impl Planner {
    /// The clocks of the window's zone.
    pub(super) fn zone(&mut self, clock: &dyn Clock) -> Option<ZoneOffset> {
        let window = self.session.head.spec.strategy.window.clone()?;
        let zone = clock.zone(&window.time_zone, self.plan.at);
        match zone.map(|zone| window.at(self.plan.at, zone)) {
            None => self.plan.note("window", vec![messages::zone_unknown(&window.time_zone)], ""),
            Some(Opening::Open(_)) => self.plan.note("window", Vec::new(), "the window is open"),
            // A session waits for it; that is no fault.
            Some(Opening::Closed(until)) => {
                let opens = zone.map(|zone| local(until, zone)).unwrap_or_default();
                let met = format!("the window is closed, and opens {opens} ({})", window.time_zone);
                self.plan.note("window", Vec::new(), &met);
            }
        }
        zone
    }

    pub(super) async fn template(&mut self, bos: &dyn Bos) {
        let key = self.session.head.spec.template_key();
        let name = &key.name;
        let unmet = match bos.has_template(&key).await {
            Ok(true) => Vec::new(),
            Ok(false) => vec![messages::template_missing(name)],
            Err(error) => vec![error.to_string()],
        };
        self.plan.note("template", unmet, &format!("there is a session template '{name}'"));
    }

    /// Reads the groups, and the facts about the nodes; `None` when these are not known.
    pub(super) async fn hsm(&mut self, hsm: &dyn Hsm) -> Option<Vec<NodeFacts>> {
        let spec = self.session.head.spec.clone();
        let members = match hsm.group(&spec.starting).await {
            Ok(members) => members,
            Err(error) => {
                self.plan.note("starting_group", vec![error.to_string()], "");
                return None;
            }
        };
        let max = self.session.limits.max_nodes;
        let unmet = match &members {
            None => Some(messages::group_missing(&spec.starting)),
            Some(members) if members.is_empty() => {
                Some(format!("group '{}' is empty: there is nothing to upgrade", spec.starting))
            }
            Some(members) if members.len() > max => {
                Some(messages::group_too_large(&spec.starting, members.len(), max))
            }
            Some(_) => None,
        };
        let usable = unmet.is_none();
        let count = members.as_ref().map_or(0, std::collections::BTreeSet::len);
        let met = format!("group '{}' holds {count} nodes", spec.starting);
        self.plan.note("starting_group", unmet.into_iter().collect(), &met);
        let at = self.plan.at;
        self.plan.nodes = members.clone().unwrap_or_default();
        self.session.known.starting = Some(SeenGroup { at, members });
        for (group, what) in [(Group::Upgrading, "upgrading_group"), (Group::Failed, "failed_group")] {
            let label = self.session.label(group).clone();
            let (unmet, goes_on) = match hsm.group(&label).await {
                Err(error) => (vec![error.to_string()], false),
                Ok(None) => (vec![messages::group_missing(&label)], true),
                Ok(Some(members)) => {
                    let others: Vec<_> = members.difference(&self.plan.nodes).collect();
                    let unmet = (!others.is_empty() && usable).then(|| {
                        messages::group_holds_others(&label, &spec.starting, others.iter().copied())
                    });
                    (unmet.into_iter().collect(), true)
                }
            };
            self.plan.note(what, unmet, &format!("group '{label}' is there, and holds no other's nodes"));
            if !goes_on {
                return None;
            }
        }
        if !usable {
            return None;
        }
        let nodes: Vec<_> = self.plan.nodes.iter().copied().collect();
        match hsm.facts(&nodes).await {
            Ok(facts) => Some(facts),
            Err(error) => {
                self.plan.note("facts", vec![error.to_string()], "");
                None
            }
        }
    }

    /// Looks at nodes, partitions and jobs; `None` when the jobs are not known.
    pub(super) async fn wlm(&mut self, wlm: &dyn Wlm) -> Option<Vec<Job>> {
        let names = self.names();
        match wlm.nodes(&names).await {
            Ok(seen) => self.take_in_nodes(&seen),
            Err(error) => {
                self.plan.note("workload_manager", vec![error.to_string()], "");
                return None;
            }
        }
        let named = self.names();
        let usable = if named.is_empty() {
            vec!["the workload manager knows none of the nodes under the names that the Hardware State Manager's NIDs give"
                .to_owned()]
        } else {
            Vec::new()
        };
        self.plan.note("names", usable, &format!("the workload manager knows {} of the nodes", named.len()));
        let floors: Vec<_> = self.session.head.spec.strategy.min_in_service.keys().cloned().collect();
        if !floors.is_empty() {
            let partitions = match wlm.partitions(&floors).await {
                Ok(partitions) => partitions,
                Err(error) => {
                    self.plan.note("partitions", vec![error.to_string()], "");
                    return None;
                }
            };
            let unknown = |name: &&_| !partitions.iter().any(|partition| partition.name == **name);
            let unmet: Vec<String> = floors.iter().filter(unknown).map(messages::partition_missing).collect();
            self.plan.note("partitions", unmet, "the workload manager knows every partition that is named");
            self.session.known.partitions = Some((self.plan.at, partitions));
        }
        match wlm.jobs(&named).await {
            Ok(jobs) => Some(jobs),
            Err(error) => {
                self.plan.note("jobs", vec![error.to_string()], "");
                None
            }
        }
    }

    /// The names of the nodes that could be taken.
    fn names(&self) -> Vec<NodeName> {
        self.session.pending().filter_map(|node| node.name.clone()).collect()
    }
}

/// What keeps the first step from taking any node, in words.
pub(super) fn floor(session: &Session) -> String {
    let floors = &session.head.spec.strategy.min_in_service;
    let reached =
        session.known.partitions.iter().flat_map(|(_, partitions)| partitions).find_map(|partition| {
            let floor = floors.get(&partition.name)?.at_least(partition.total);
            let in_service = partition.in_service.len();
            (in_service <= floor).then(|| messages::service_floor(0, &partition.name, in_service, floor))
        });
    reached.unwrap_or_else(|| messages::no_node_fits(0))
}
