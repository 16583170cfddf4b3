//! The promises, checked against what really happens.

use std::collections::BTreeSet;

use crus_core::model::{Phase, Stage};
use crus_core::promises::{self, Outcome};
use crus_core::{Session, UpgradeId, Xname};

use super::{Stuck, World};
use crate::cluster::{self, Cluster};

impl World {
    /// Checks what happened since the last time.
    pub(super) fn check(&mut self) -> Result<(), Stuck> {
        let facts = {
            let mut cluster = cluster::lock(&self.cluster);
            if cluster.facts().is_empty() {
                return Ok(());
            }
            cluster.drain_facts()
        };
        for fact in &facts {
            for audit in self.audits.values_mut() {
                self.checked += 1;
                if let Some(violation) = audit.witness(fact).into_iter().next() {
                    return Err(Stuck::Broken { at: fact.at, violation });
                }
            }
        }
        if let Some(all) = &mut self.facts {
            all.extend(facts);
        }
        Ok(())
    }

    /// Checks what a session that may have changed says of itself.
    pub(super) fn check_session(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        let Some(runner) = self.running.get(&id) else { return Ok(()) };
        let session = runner.driver.session();
        self.checked += 1;
        if let Some(violation) = crus_core::promises::session(session).into_iter().next() {
            return Err(Stuck::Broken { at: self.now(), violation });
        }
        // Both were apart when the later one began, or never will be.
        if session.head.step == 0 && session.head.stage == Stage::Starting {
            let others = self.running.iter().filter(|(other, _)| **other != id);
            let mut shared = others.filter_map(|(_, other)| promises::apart(session, other.driver.session()));
            if let Some(violation) = shared.next() {
                return Err(Stuck::Broken { at: self.now(), violation });
            }
        }
        let unfounded = self.audits.get_mut(&id).map(|audit| audit.follow(session)).unwrap_or_default();
        match unfounded.into_iter().next() {
            Some(violation) => Err(Stuck::Broken { at: self.now(), violation }),
            None => Ok(()),
        }
    }

    pub(super) fn check_end(&self, id: UpgradeId, session: &Session) -> Result<(), Stuck> {
        let Some(audit) = self.audits.get(&id) else { return Ok(()) };
        // What another session has begun with is that one's to put right. The end may be seen late, after a crash.
        let others = self.running.iter().filter(|(other, _)| **other != id);
        let elsewhere: BTreeSet<Xname> = others
            .map(|(_, runner)| runner.driver.session())
            .filter(|other| other.head.phase == Phase::Rolling)
            .flat_map(|other| other.nodes.iter().filter(|node| node.step.is_some()).map(|node| node.xname))
            .collect();
        let nodes = session.nodes.iter().filter(|node| !elsewhere.contains(&node.xname));
        let outcome = Outcome {
            nodes: nodes.filter_map(|node| Some((node.xname, self.view(node.name.as_ref()?)?))).collect(),
            upgrading: self.members(&session.head.spec.upgrading).difference(&elsewhere).copied().collect(),
            failed: self.members(&session.head.spec.failed),
        };
        let mut violations = audit.at_end(session, &outcome);
        // One that was deleted is gone, and its history with it.
        let entries = self.history(id)?;
        if !entries.is_empty() {
            violations.extend(promises::history(session, &entries));
        }
        match violations.into_iter().next() {
            Some(violation) => Err(Stuck::Broken { at: self.now(), violation }),
            None => Ok(()),
        }
    }

    /// Does something as an operator: it is no deed of a session, nor is what comes of it a broken promise. What is
    /// done to [`World::cluster`] between two runs is taken likewise.
    ///
    /// # Errors
    /// When a promise was broken before.
    pub fn by_hand(&mut self, act: impl FnOnce(&mut Cluster)) -> Result<(), Stuck> {
        self.check()?;
        act(&mut cluster::lock(&self.cluster));
        self.check()
    }
}
