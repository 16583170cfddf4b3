//! The hardware: power, and the operating system that comes up with it.

use crus_core::promises::What;
use crus_core::time::WlmTime;
use crus_core::{Time, Xname};
use serde::{Deserialize, Serialize};

use super::queue::{Event, Ix};
use super::slurm::wlm_time;
use super::{Cluster, PowerEvent};
use crate::config::{BootBehaviour, BootEnd};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Power {
    Off,
    /// It has power; its operating system is not up, and may never be.
    Booting,
    On,
}

/// The hardware of one node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hardware {
    pub(super) power: Power,
    /// Counts the switchings, so that a boot that was cut short does not end.
    pub(super) generation: u32,
    /// When the running operating system began to boot.
    pub(super) booted: WlmTime,
    /// When its slurmd started; `None` when it does not run.
    pub(super) slurmd: Option<WlmTime>,
    /// The session template of the image that it runs; empty for the one from before.
    pub(super) image: String,
    /// The image that it will run once it is up.
    booting_image: String,
    /// Whether an operating system comes up, now that it boots.
    comes_up: bool,
    /// Whether its slurmd follows.
    registers: bool,
}

impl Hardware {
    pub(super) fn up_since(time: Time) -> Self {
        Hardware {
            power: Power::On,
            generation: 0,
            booted: wlm_time(time),
            slurmd: Some(wlm_time(time + 60_000)),
            image: String::new(),
            booting_image: String::new(),
            comes_up: false,
            registers: false,
        }
    }
}

impl Cluster {
    /// Takes out what the hardware did since the last call, in order.
    pub fn drain_power_events(&mut self) -> Vec<PowerEvent> {
        std::mem::take(&mut self.power_events)
    }

    /// Tells BOS that a node's operating system is up: only with
    /// [`BootEnd::Reported`], and only after its [`PowerEvent::Boot`]; anything
    /// else changes nothing. Returns whether it did.
    pub fn node_booted(&mut self, xname: Xname) -> bool {
        let Some(&ix) = self.by_xname.get(&xname) else { return false };
        let node = self.node(ix);
        if self.config.bos.boot_end != BootEnd::Reported
            || node.hardware.power != Power::Booting
            || !node.hardware.comes_up
        {
            return false;
        }
        let generation = node.hardware.generation;
        self.os_up(ix, generation)
    }

    /// Cuts a node's power, as a failing part would; its jobs die. Returns whether there is such a node.
    pub fn power_off(&mut self, xname: Xname) -> bool {
        let Some(&ix) = self.by_xname.get(&xname) else { return false };
        if self.node(ix).hardware.power != Power::Off {
            self.tell(What::PowerLost { xname });
        }
        self.cut_power(ix);
        true
    }

    /// Switches a node on that is off, into the image it ran before; it boots whatever its
    /// [`BootBehaviour`] says of BOS's reboots. Returns whether there is such a node.
    pub fn power_on(&mut self, xname: Xname) -> bool {
        let Some(&ix) = self.by_xname.get(&xname) else { return false };
        if self.node(ix).hardware.power == Power::Off {
            let image = self.node(ix).hardware.image.clone();
            self.switch_on(ix, &BootBehaviour::Normal, image);
        }
        true
    }

    fn tell_power(&mut self, event: PowerEvent) {
        if self.config.record_facts {
            self.power_events.push(event);
        }
    }

    /// The image that a node runs, or ran last: the name of the session template it was booted from, `None` for
    /// the one from before.
    pub fn image_of(&self, xname: Xname) -> Option<&str> {
        let image = self.by_xname.get(&xname).map(|&ix| self.node(ix).hardware.image.as_str())?;
        (!image.is_empty()).then_some(image)
    }

    /// Cuts the power, on behalf of a boot session.
    pub(super) fn cut_power_for(&mut self, ix: Ix, boot_session: &str) {
        let node = self.node(ix);
        let what = What::PowerCut {
            xname: node.spec.xname,
            boot_session: boot_session.to_owned(),
            jobs: node.slurm.jobs.iter().chain(&node.slurm.epilogs).map(u32::to_string).collect(),
            held: node.slurm.is_held(),
        };
        self.tell(what);
        self.cut_power(ix);
    }

    fn cut_power(&mut self, ix: Ix) {
        let (at, xname) = (self.now, self.node(ix).spec.xname);
        let hardware = &mut self.node_mut(ix).hardware;
        if hardware.power == Power::Off {
            return;
        }
        hardware.power = Power::Off;
        hardware.generation += 1;
        self.tell_power(PowerEvent::Cut { at, xname });
        self.slurmd_dies(ix);
    }

    /// Switches a node on to boot this image, if it boots at all.
    pub(super) fn switch_on(&mut self, ix: Ix, behaviour: &BootBehaviour, image: String) {
        let now = self.now;
        let length = match behaviour {
            BootBehaviour::Takes { ms } => *ms,
            _ => self.draws.boots.span(self.config.bos.boot),
        };
        let node = self.node_mut(ix);
        node.hardware.power = Power::Booting;
        node.hardware.generation += 1;
        node.hardware.registers = matches!(behaviour, BootBehaviour::Normal | BootBehaviour::Takes { .. });
        node.hardware.comes_up = node.hardware.registers || *behaviour == BootBehaviour::NeverRegisters;
        if !node.hardware.comes_up {
            return;
        }
        node.hardware.booted = wlm_time(now);
        node.hardware.booting_image = image;
        let (xname, generation, registers) =
            (node.spec.xname, node.hardware.generation, node.hardware.registers);
        if registers {
            self.tell_power(PowerEvent::Boot { at: now, xname });
        }
        if self.config.bos.boot_end == BootEnd::Drawn || !registers {
            self.plan(length, Event::OsUp(ix, generation));
        }
    }

    pub(super) fn os_up(&mut self, ix: Ix, generation: u32) -> bool {
        let register = self.config.slurm.register;
        let node = self.node_mut(ix);
        if node.hardware.generation != generation {
            return false;
        }
        node.hardware.power = Power::On;
        node.hardware.image = std::mem::take(&mut node.hardware.booting_image);
        if node.hardware.registers {
            let after = self.draws.slurm.span(register);
            self.plan(after, Event::SlurmdStarts(ix, generation));
        }
        self.component_booted(ix);
        true
    }
}
