//! A node as BOS sees it, and what BOS does with it, one thing after another.

use crus_core::{Time, Xname};
use serde::{Deserialize, Serialize};

use super::bos::{BootComponent, BosError, NewSession, Operation};
use super::power::Power;
use super::queue::{Action, Event, Ix};
use super::snapshot::{self, Word};
use super::{Cluster, Node};
use crate::config::BootBehaviour;

/// What BOS says of a node that does not come up.
const RETRIES_SPENT: &str =
    "The retry limit has been hit for this component, but no services have reported specific errors";

/// What BOS knows of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Component {
    pub(super) enabled: bool,
    /// The number of the session that it belongs to; 0 before the first.
    pub(super) owner: u32,
    /// The name of that session.
    session: String,
    operation: Operation,
    /// What happens at this reboot: the behaviour of the node when the session took it.
    behaviour: BootBehaviour,
    error: String,
    #[serde(deserialize_with = "snapshot::boot_status")]
    status: Word,
    #[serde(deserialize_with = "snapshot::boot_phase")]
    phase: Word,
    power_on_attempts: u32,
    power_off_attempts: u32,
    desired: String,
    /// Whether it has called for power and waits for the boot.
    waits: bool,
    /// Counts the plans for it, so that what a newer one replaced does not happen.
    generation: u32,
    updated: Time,
}

impl Component {
    pub(super) fn new(now: Time) -> Self {
        Component {
            enabled: false,
            owner: 0,
            session: String::new(),
            operation: Operation::Boot,
            behaviour: BootBehaviour::Normal,
            error: String::new(),
            status: "stable",
            phase: "",
            power_on_attempts: 0,
            power_off_attempts: 0,
            desired: String::new(),
            waits: false,
            generation: 0,
            updated: now,
        }
    }

    fn show(&mut self, status: &'static str, phase: &'static str, now: Time) {
        (self.status, self.phase, self.updated) = (status, phase, now);
    }
}

impl Node {
    pub(super) fn to_bos(&self) -> BootComponent {
        let component = &self.component;
        BootComponent {
            xname: self.spec.xname,
            enabled: component.enabled,
            session: component.session.clone(),
            error: component.error.clone(),
            status: component.status,
            phase: component.phase,
            power_on_attempts: component.power_on_attempts,
            power_off_attempts: component.power_off_attempts,
            desired: component.desired.clone(),
            actual: match self.hardware.power {
                Power::On => self.hardware.image.clone(),
                Power::Off | Power::Booting => String::new(),
            },
            last_updated: component.updated,
        }
    }
}

impl Cluster {
    /// `PATCH /components/X {"enabled":…}`. Disabling one makes BOS stop with it: what was called goes on, and the
    /// session completes without it. Enabling one here does nothing more.
    ///
    /// # Errors
    /// When there is none.
    pub fn enable_boot_component(&mut self, xname: Xname, enabled: bool) -> Result<BootComponent, BosError> {
        let ix = self.component_ix(xname)?;
        let now = self.now;
        let component = &mut self.node_mut(ix).component;
        component.enabled = enabled;
        component.updated = now;
        let owner = component.owner;
        if !enabled {
            component.generation += 1;
            component.waits = false;
            self.check_session(owner);
        }
        Ok(self.node(ix).to_bos())
    }

    /// A session takes a component, from whichever had it.
    pub(super) fn take_component(&mut self, ix: Ix, number: u32, request: &NewSession) {
        let now = self.now;
        let node = self.node_mut(ix);
        let before = node.component.owner;
        let up_to_date = node.hardware.power == Power::On && node.hardware.image == request.template_name;
        let off = node.hardware.power == Power::Off;
        let behaviour = node.spec.boot.clone();
        let component = &mut node.component;
        component.enabled = true;
        component.owner = number;
        component.session.clone_from(&request.name);
        component.operation = request.operation;
        component.error.clear();
        (component.power_on_attempts, component.power_off_attempts) = (0, 0);
        component.desired.clone_from(&request.template_name);
        component.waits = false;
        let action = if matches!(behaviour, BootBehaviour::OnHold { .. }) {
            component.show("on_hold", "", now);
            Action::Hold
        } else {
            match request.operation {
                Operation::Boot if up_to_date => {
                    component.show("stable", "", now);
                    Action::Configured
                }
                Operation::Boot | Operation::Reboot if off => {
                    component.show("power_on_pending", "powering_on", now);
                    Action::CallOn
                }
                Operation::Boot | Operation::Reboot | Operation::Shutdown => {
                    component.show("power_off_pending", "powering_off", now);
                    Action::CallOff
                }
            }
        };
        component.behaviour = behaviour;
        let after = self.draws.boots.span(self.config.bos.power_off_call);
        self.plan_action(ix, after, action);
        self.check_session(before);
    }

    fn plan_action(&mut self, ix: Ix, after_ms: u64, action: Action) {
        let component = &mut self.node_mut(ix).component;
        component.generation += 1;
        let generation = component.generation;
        self.plan(after_ms, Event::Component(ix, action, generation));
    }

    pub(super) fn component_acts(&mut self, ix: Ix, action: Action, generation: u32) -> bool {
        if self.node(ix).component.generation != generation {
            return false;
        }
        let now = self.now;
        match action {
            Action::CallOff => {
                let component = &mut self.node_mut(ix).component;
                component.show("power_off_gracefully_called", "powering_off", now);
                component.power_off_attempts += 1;
                let after = self.draws.boots.span(self.config.bos.power_off);
                self.plan_action(ix, after, Action::Off);
            }
            Action::Off => self.component_off(ix),
            Action::CallOn => self.component_on(ix),
            Action::PretendBooted => self.component_booted(ix),
            Action::Retry => {
                let attempts = self.config.bos.attempts;
                let component = &mut self.node_mut(ix).component;
                if component.power_on_attempts < attempts {
                    component.power_on_attempts += 1;
                    self.plan_action(ix, self.config.bos.attempt_ms, Action::Retry);
                } else {
                    self.component_ends(ix, "failed", RETRIES_SPENT.to_owned());
                }
            }
            Action::Configured => self.component_ends(ix, "stable", String::new()),
            Action::Hold => {
                if let BootBehaviour::OnHold { error } = &self.node(ix).component.behaviour {
                    let error = error.clone();
                    self.component_ends(ix, "on_hold", error);
                }
            }
        }
        true
    }

    fn component_off(&mut self, ix: Ix) {
        let now = self.now;
        let component = &self.node(ix).component;
        if component.behaviour != BootBehaviour::DidNotReboot {
            let session = component.session.clone();
            self.cut_power_for(ix, &session);
        }
        let component = &mut self.node_mut(ix).component;
        if component.operation == Operation::Shutdown {
            self.component_ends(ix, "stable", String::new());
            return;
        }
        component.show("power_on_pending", "powering_on", now);
        let after = self.draws.boots.span(self.config.bos.power_on_call);
        self.plan_action(ix, after, Action::CallOn);
    }

    fn component_on(&mut self, ix: Ix) {
        let now = self.now;
        let component = &mut self.node_mut(ix).component;
        component.show("power_on_called", "powering_on", now);
        component.power_on_attempts += 1;
        component.waits = true;
        let (behaviour, image) = (component.behaviour.clone(), component.desired.clone());
        if behaviour == BootBehaviour::DidNotReboot {
            let after = self.draws.boots.span(self.config.bos.boot);
            self.plan_action(ix, after, Action::PretendBooted);
            return;
        }
        if behaviour != BootBehaviour::Hangs {
            self.plan_action(ix, self.config.bos.attempt_ms, Action::Retry);
        }
        self.switch_on(ix, &behaviour, image);
    }

    /// The operating system of a node is up: BOS notices if it waits for that.
    pub(super) fn component_booted(&mut self, ix: Ix) {
        let now = self.now;
        let component = &mut self.node_mut(ix).component;
        if !std::mem::take(&mut component.waits) {
            return;
        }
        component.show("configuring", "configuring", now);
        let after = self.draws.boots.span(self.config.bos.configure);
        self.plan_action(ix, after, Action::Configured);
    }

    /// BOS lets a component go.
    fn component_ends(&mut self, ix: Ix, status: &'static str, error: String) {
        let now = self.now;
        let component = &mut self.node_mut(ix).component;
        component.show(status, "", now);
        component.enabled = false;
        component.error = error;
        component.waits = false;
        component.generation += 1;
        let owner = component.owner;
        self.check_session(owner);
    }
}
