//! What an operator and fate do to a world, and how it is mended in the end.

use crus_core::model::Command;
use crus_core::{NodeName, Session, Spec, UpgradeId, Xname};

use super::draw::{HOUR, MINUTE, SECOND};
use super::{Deed, Life};
use crate::cluster::Cluster;
use crate::cluster::bos::{NewSession, Operation};
use crate::cluster::slurm::Update;
use crate::config::TemplateSpec;
use crate::journal::Kind;
use crate::world::{Stuck, World};

/// So often somebody puts nodes back to work for a session that wants more of them in service.
const PATIENCE: u32 = 10;

/// What must be put right again once the world is to end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mend {
    /// A node that does not belong into a group is taken out again.
    TakeOut(String, Xname),
    /// A node that belongs into a group is put in again.
    PutIn(String, Xname),
    /// A group is created again.
    Group(String),
    /// A session template is created again.
    Template(String),
    /// A peer answers again.
    Hsm,
    Bos,
    Slurmctld,
    /// Slurm takes updates again.
    Updates,
    Store,
}

impl Life {
    /// One thing that somebody does, or that befalls.
    pub(super) fn deed(&mut self, world: &mut World) -> Result<(), Stuck> {
        match self.rng.between(0, 99) {
            0..=9 => {
                self.did(Deed::Crash);
                world.crash()
            }
            10..=14 => {
                self.did(Deed::CrashBeforeStoring);
                world.crash_within()
            }
            15..=18 => {
                self.did(Deed::TakenOver);
                world.take_over()
            }
            19..=23 => {
                self.did(Deed::WokenUp);
                world.wake_stopped()
            }
            24..=28 => self.clock(world),
            29..=32 => self.store(world),
            33..=39 => self.outage(world),
            40..=44 => self.delete(world),
            45..=54 => self.mend_one(world),
            55..=64 => self.order(world),
            _ => self.by_hand(world),
        }
    }

    fn clock(&mut self, world: &mut World) -> Result<(), Stuck> {
        self.did(Deed::ClockSet);
        let most = self.rng.pick(&[5 * SECOND, 10 * MINUTE, 3 * HOUR]).unwrap_or_default();
        let ahead = self.rng.between(0, 2 * most) as i64 - most as i64;
        world.set_clock(ahead);
        Ok(())
    }

    fn store(&mut self, world: &mut World) -> Result<(), Stuck> {
        self.did(Deed::StoreFails);
        world.store().fail(Some("disk full"));
        self.mends.push(Mend::Store);
        let ms = self.rng.between(0, 2 * MINUTE);
        world.run_for(ms)?;
        self.mend(world, &Mend::Store)
    }

    /// A peer that is away until it is mended.
    fn outage(&mut self, world: &mut World) -> Result<(), Stuck> {
        let (mend, deed) = match self.rng.between(0, 4) {
            0 => (Mend::Hsm, Deed::HsmDown),
            1 => (Mend::Bos, Deed::BosDown),
            2 => (Mend::Slurmctld, Deed::SlurmctldStopped),
            3 => (Mend::Updates, Deed::UpdatesRefused),
            _ => {
                let ms = self.rng.between(0, MINUTE);
                return self
                    .hand(world, Deed::SlurmctldRestarted, None, |cluster| cluster.restart_slurmctld(ms));
            }
        };
        if self.mends.contains(&mend) {
            return Ok(());
        }
        let kind = mend.clone();
        self.hand(world, deed, Some(mend), move |cluster| match kind {
            Mend::Hsm => cluster.set_hsm_down(true),
            Mend::Bos => cluster.set_bos_down(true),
            Mend::Slurmctld => cluster.stop_slurmctld(),
            _ => cluster.refuse_updates(true),
        })
    }

    fn delete(&mut self, world: &mut World) -> Result<(), Stuck> {
        let there: Vec<UpgradeId> =
            self.ids.iter().copied().filter(|id| world.session(*id).is_some()).collect();
        let Some(id) = self.rng.pick(&there) else { return Ok(()) };
        self.did(Deed::SessionDeleted);
        self.deleted.insert(id);
        world.delete(id)
    }

    /// An order for a session, whether it makes sense or not.
    fn order(&mut self, world: &mut World) -> Result<(), Stuck> {
        let there: Vec<UpgradeId> =
            self.ids.iter().copied().filter(|id| world.session(*id).is_some()).collect();
        let Some(id) = self.rng.pick(&there) else { return Ok(()) };
        let command = match self.rng.between(0, 9) {
            0..=3 => Command::Pause,
            4..=6 => Command::Resume,
            _ => Command::Retry,
        };
        self.command(world, id, command)
    }

    fn command(&mut self, world: &mut World, id: UpgradeId, command: Command) -> Result<(), Stuck> {
        self.did(match command {
            Command::Pause => Deed::SessionPaused,
            Command::Resume => Deed::SessionResumed,
            Command::Retry => Deed::SessionRetried,
        });
        world.command(id, command)
    }

    fn mend_one(&mut self, world: &mut World) -> Result<(), Stuck> {
        let last = self.mends.len().saturating_sub(1) as u64;
        let at = self.rng.between(0, last) as usize;
        match self.mends.get(at).cloned() {
            Some(mend) => self.mend(world, &mend),
            None => Ok(()),
        }
    }

    /// Something that an operator does with their own hands.
    fn by_hand(&mut self, world: &mut World) -> Result<(), Stuck> {
        let Some(xname) = self.rng.pick(&self.xnames) else { return Ok(()) };
        let Some(spec) = self.rng.between(0, self.specs.len().saturating_sub(1) as u64).try_into().ok()
        else {
            return Ok(());
        };
        let Some(spec) = self.specs.get::<usize>(spec).cloned() else { return Ok(()) };
        let name = world.cluster().name_of(xname).cloned();
        match self.rng.between(0, 13) {
            0..=3 => self.node(world, name.as_ref()),
            4..=6 => self.member(world, &spec, xname),
            7 => {
                let locked = self.rng.chance(500);
                self.hand(world, Deed::Locked, None, |cluster| drop(cluster.set_locked(xname, locked)))
            }
            8 => {
                let enabled = self.rng.chance(500);
                self.hand(world, Deed::Disabled, None, |cluster| drop(cluster.set_enabled(xname, enabled)))
            }
            9 => self.group_or_template(world, &spec),
            10 => self.reboot(world, xname),
            11..=12 => self.boot_session(world, &spec, xname),
            _ => {
                let jobs: Vec<u32> =
                    world.cluster().jobs().unwrap_or_default().iter().map(|job| job.id).collect();
                let Some(id) = self.rng.pick(&jobs) else { return Ok(()) };
                self.hand(world, Deed::JobCancelled, None, |cluster| _ = cluster.end_job(id))
            }
        }
    }

    /// A node in Slurm.
    fn node(&mut self, world: &mut World, name: Option<&NodeName>) -> Result<(), Stuck> {
        let Some(name) = name else { return Ok(()) };
        let (deed, update) = match self.rng.between(0, 6) {
            0..=2 => (Deed::Resumed, Update::resume()),
            3 => (Deed::Drained, Update::drain("swapping a cable")),
            4 => (Deed::SetDown, Update::down("on fire")),
            5 => (Deed::Undrained, Update::undrain()),
            _ => (Deed::ReasonSet, Update::reason("do not touch, ada")),
        };
        let names = [name.clone()];
        self.hand(world, deed, None, |cluster| _ = cluster.update(&names, &update))
    }

    /// A member of a group.
    fn member(&mut self, world: &mut World, spec: &Spec, xname: Xname) -> Result<(), Stuck> {
        let starting = self.rng.chance(250);
        let label = match (starting, self.rng.chance(600)) {
            (true, _) => &spec.starting,
            (false, true) => &spec.upgrading,
            (false, false) => &spec.failed,
        };
        let label = label.to_string();
        let node = xname.to_string();
        let mut done = false;
        if self.rng.chance(500) {
            self.hand(world, Deed::MemberAdded, None, |cluster| {
                done = cluster.add_member(&label, &node).is_ok();
            })?;
            self.exchange(
                done,
                &Mend::PutIn(label.clone(), xname),
                (!starting).then_some(Mend::TakeOut(label, xname)),
            );
        } else {
            self.hand(world, Deed::MemberRemoved, None, |cluster| {
                done = cluster.remove_member(&label, &node).is_ok();
            })?;
            self.exchange(
                done,
                &Mend::TakeOut(label.clone(), xname),
                starting.then_some(Mend::PutIn(label, xname)),
            );
        }
        Ok(())
    }

    /// Something was done that makes one mend needless and another needed.
    fn exchange(&mut self, done: bool, old: &Mend, new: Option<Mend>) {
        if done {
            self.mends.retain(|mend| mend != old);
            self.mends.extend(new);
        }
    }

    /// Lets a session go on that is paused; some have their failed nodes tried again before, once.
    fn unpause(&mut self, world: &mut World, id: UpgradeId) -> Result<(), Stuck> {
        if world.session(id).is_none_or(|session| session.head.pause.is_none()) {
            return Ok(());
        }
        if id.0.as_u128().is_multiple_of(2) && !self.looked.contains_key(&id) {
            self.looked.insert(id, 0);
            self.command(world, id, Command::Retry)?;
        }
        self.command(world, id, Command::Resume)
    }

    /// A partition of a session's strategy is not there, or has too few nodes in service. Whoever wants it to go on puts
    /// all nodes of the cluster back to work; if that does not help, they give up.
    fn raise_the_floor(&mut self, world: &mut World, id: UpgradeId) -> Result<(), Stuck> {
        let waits = |session: &Session| {
            let condition = session.head.condition.as_deref().unwrap_or_default();
            !session.head.spec.strategy.min_in_service.is_empty()
                && (condition.contains("partition") && session.head.pause.is_none() && !session.head.queued)
        };
        if self.deleted.contains(&id) || !world.session(id).is_some_and(waits) {
            return Ok(());
        }
        let looked = self.looked.entry(id).or_default();
        *looked += 1;
        if *looked > PATIENCE {
            self.did(Deed::GivenUp);
            self.deleted.insert(id);
            return world.delete(id);
        }
        let names: Vec<NodeName> = world.cluster().node_names().cloned().collect();
        for name in names {
            if world.view(&name).is_some_and(|view| view.held) {
                self.hand(world, Deed::Resumed, None, |cluster| {
                    _ = cluster.update(&[name], &Update::resume());
                })?;
            }
        }
        Ok(())
    }

    /// Does what sessions say that they wait for: takes out of their groups what does not belong there (P8), lets them go
    /// on, and puts nodes back to work.
    pub(super) fn tidy(&mut self, world: &mut World) -> Result<(), Stuck> {
        for id in self.ids.clone() {
            self.unpause(world, id)?;
            self.raise_the_floor(world, id)?;
            let Some(session) = world.session(id) else { continue };
            if session.head.condition.is_none() || session.nodes.is_empty() {
                continue;
            }
            let own: Vec<Xname> = session.nodes.iter().map(|node| node.xname).collect();
            let labels = [session.head.spec.upgrading.clone(), session.head.spec.failed.clone()];
            for label in labels {
                for xname in world.members(&label).into_iter().filter(|xname| !own.contains(xname)) {
                    self.hand(world, Deed::MemberRemoved, None, |cluster| {
                        _ = cluster.remove_member(label.as_str(), &xname.to_string());
                    })?;
                }
            }
        }
        Ok(())
    }

    fn group_or_template(&mut self, world: &mut World, spec: &Spec) -> Result<(), Stuck> {
        if self.rng.chance(500) {
            let name = spec.template.to_string();
            if self.mends.contains(&Mend::Template(name.clone())) || self.mends.contains(&Mend::Bos) {
                return Ok(());
            }
            let mend = Mend::Template(name.clone());
            return self.hand(world, Deed::TemplateDeleted, Some(mend), move |cluster| {
                drop(cluster.delete_boot_template(&name));
            });
        }
        let label = self.rng.pick(&[&spec.starting, &spec.upgrading, &spec.failed]).map(ToString::to_string);
        let Some(label) = label else { return Ok(()) };
        if self.mends.contains(&Mend::Group(label.clone())) || self.mends.contains(&Mend::Hsm) {
            return Ok(());
        }
        let mend = Mend::Group(label.clone());
        self.hand(world, Deed::GroupDeleted, Some(mend), move |cluster| drop(cluster.delete_group(&label)))
    }

    /// A node goes off and on again, whoever's jobs it runs.
    fn reboot(&mut self, world: &mut World, xname: Xname) -> Result<(), Stuck> {
        self.hand(world, Deed::PowerCycled, None, |cluster| {
            _ = cluster.power_off(xname);
            _ = cluster.power_on(xname);
        })
    }

    /// A boot session of ours is tidied away, or one of somebody else's takes a node over.
    fn boot_session(&mut self, world: &mut World, spec: &Spec, xname: Xname) -> Result<(), Stuck> {
        if self.rng.chance(400) {
            let names: Vec<String> = match world.cluster().boot_sessions() {
                Ok(sessions) => sessions.iter().map(|session| session.request.name.clone()).collect(),
                Err(_) => Vec::new(),
            };
            let at = self.rng.between(0, names.len().saturating_sub(1) as u64) as usize;
            let Some(name) = names.get(at) else { return Ok(()) };
            return self.hand(world, Deed::BootSessionForgotten, None, |cluster| {
                drop(cluster.delete_boot_session(name));
            });
        }
        self.others += 1;
        let request = NewSession {
            name: format!("somebodys-{}", self.others),
            operation: self.rng.pick(&[Operation::Reboot, Operation::Boot]).unwrap_or(Operation::Reboot),
            template_name: "somebodys".to_owned(),
            limit: xname.to_string(),
            stage: false,
            include_disabled: false,
        };
        let label = spec.starting.to_string();
        self.hand(world, Deed::BootedBySomebody, None, move |cluster| {
            drop(cluster.put_boot_template("somebodys", TemplateSpec::of_group(&label)));
            drop(cluster.create_boot_session(request));
        })
    }

    /// Does it, and notes how it is mended.
    fn hand(
        &mut self,
        world: &mut World,
        deed: Deed,
        mend: Option<Mend>,
        act: impl FnOnce(&mut Cluster),
    ) -> Result<(), Stuck> {
        self.did(deed);
        if let Some(mend) = mend
            && !self.mends.contains(&mend)
        {
            self.mends.push(mend);
        }
        world.by_hand(|cluster| {
            cluster.note(Kind::Operator, || format!("by hand: {}", deed.name()));
            act(cluster);
        })
    }

    /// Mends everything: what is to be mended in a peer that is away is mended after it.
    pub(super) fn mend_all(&mut self, world: &mut World) -> Result<(), Stuck> {
        for first in [Mend::Hsm, Mend::Bos, Mend::Slurmctld, Mend::Updates, Mend::Store] {
            if self.mends.contains(&first) {
                self.mend(world, &first)?;
            }
        }
        let groups = |mend: &Mend| !matches!(mend, Mend::Group(_));
        self.mends.sort_by_key(groups);
        while let Some(mend) = self.mends.first().cloned() {
            self.mend(world, &mend)?;
        }
        Ok(())
    }

    fn mend(&mut self, world: &mut World, mend: &Mend) -> Result<(), Stuck> {
        let hsm = matches!(mend, Mend::TakeOut(..) | Mend::PutIn(..) | Mend::Group(_));
        if hsm && self.mends.contains(&Mend::Hsm)
            || matches!(mend, Mend::Template(_)) && self.mends.contains(&Mend::Bos)
        {
            return Ok(());
        }
        self.mends.retain(|other| other != mend);
        if *mend == Mend::Store {
            world.store().fail(None);
            return Ok(());
        }
        let members = match mend {
            Mend::Group(label) => self.members.get(label.as_str()).cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        let template = match mend {
            Mend::Template(name) => self.templates.get(name).cloned(),
            _ => None,
        };
        self.hand(world, Deed::Mended, None, |cluster| match mend {
            Mend::TakeOut(label, xname) => drop(cluster.remove_member(label, &xname.to_string())),
            Mend::PutIn(label, xname) => drop(cluster.add_member(label, &xname.to_string())),
            Mend::Group(label) => {
                let known: Vec<String> = members
                    .iter()
                    .filter(|xname| cluster.component(**xname).is_ok_and(|found| found.is_some()))
                    .map(ToString::to_string)
                    .collect();
                drop(cluster.create_group(label, "", Vec::new(), None, &known));
            }
            Mend::Template(name) => {
                if let Some(template) = template {
                    drop(cluster.put_boot_template(name, template));
                }
            }
            Mend::Hsm => cluster.set_hsm_down(false),
            Mend::Bos => cluster.set_bos_down(false),
            Mend::Slurmctld => cluster.start_slurmctld(),
            Mend::Updates => cluster.refuse_updates(false),
            Mend::Store => {}
        })
    }
}
