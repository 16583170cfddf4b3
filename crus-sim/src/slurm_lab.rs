//! A real Slurm on this host, for tests: munged, slurmctld and any number of slurmds, all on loopback, with
//! their own keys, ports and folder. Several labs may run at the same time.
//!
//! ```no_run
//! use crus_sim::slurm_lab::{LabConfig, SlurmLab};
//! # fn main() -> Result<(), crus_sim::slurm_lab::LabError> {
//! let lab = SlurmLab::start(LabConfig { nodes: 12, ..LabConfig::default() })?;
//! let job = lab.sleep_job("nid[000001-000002]", 600, 20)?;
//! lab.scontrol(&["update", "NodeName=nid000003", "State=DRAIN", "Reason=test"])?;
//! lab.reboot_node("nid000003")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - [`SlurmLab::start`] returns when every node is idle, or fails in bounded time.
//! - Nothing of a lab outlives it: neither daemons nor jobs nor files, whether it is dropped, its test panics,
//!   or the process that owns it is killed. A warden process waits at a pipe for that; see `warden.sh`.
//!
//! # Caveats
//!
//! - The calls block. From an async test use `spawn_blocking`, or a runtime with several threads.
//! - While the controller is down, each of Slurm's programs takes about nine seconds to give up.
//! - The controller believes what a node registers with (see `slurm.conf.in`), and so a node can register badly:
//!   [`SlurmLab::start_node_badly`].
//! - A controller that is killed loses what it has not saved, which it does every five seconds at most. A job whose
//!   start was lost comes back, on a newer Slurm, as a node drained for `Duplicate jobid` or as a failed job. A test
//!   of what survives uses [`SlurmLab::stop_controller`], or [`SlurmLab::wait_until_saved`] before a kill.
//! - A node "reboots" when its slurmd is killed and started again so that it reports a boot time of now. The
//!   processes of a job on it live on, but Slurm takes the job for lost and requeues it: its `Restarts` tells.
//! - Slurm reckons a boot time from an uptime in whole seconds. Within about a second of a boot, the next report may
//!   move it on by one, which Slurm takes for another reboot: a node that was resumed so soon goes `DOWN` as
//!   `Node unexpectedly rebooted`, and must be resumed again. A real node takes longer than that from boot to slurmd.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use error::Trying as _;
use ports::{MAX_NODES, Ports};

mod error;
mod ports;
mod version;

pub use error::LabError;
pub use version::{SlurmVersion, known_failure};

const CONF: &str = include_str!("slurm_lab/slurm.conf.in");
const WARDEN: &str = include_str!("slurm_lab/warden.sh");

/// The programs that a lab runs.
const PROGRAMS: [&str; 7] = ["munged", "slurmctld", "slurmd", "scontrol", "squeue", "sinfo", "sbatch"];
/// The command that installs them on Debian.
const REMEDY: &str = "apt-get install -y --no-install-recommends slurm-wlm munge";

/// The time that daemons may take to come up. They need about a second; on a busy machine of two cores, several.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(100);

/// As [`crate::left_out`], for tests that need a lab.
pub fn left_out() -> bool {
    crate::left_out("a real Slurm")
}

/// `SlurmdTimeout` of a lab with [`LabConfig::quick_silence`].
pub const QUICK_SILENCE: Duration = Duration::from_secs(6);

/// The make-up of a lab.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// The number of nodes, which are called `nid000001` and so on; 1 to 125.
    pub nodes: usize,
    /// The number of processors of each node, as far as Slurm is told.
    pub cpus: usize,
    /// Makes a silent node go DOWN after 8 to 10 seconds, as one does on a site whose boots take longer than
    /// `SlurmdTimeout`. Without it that takes over a minute.
    ///
    /// `SlurmdTimeout` is then [`QUICK_SILENCE`]: with 3 to 4 seconds, 24.11 takes healthy nodes for silent ones.
    /// `MessageTimeout` is 2 seconds: with the 10 of the default, a ping of a silent node takes so long that the node
    /// is not DOWN within 17 seconds.
    pub quick_silence: bool,
    /// Lines added to `slurm.conf`; they win over its own.
    pub extra: Vec<String>,
}

impl Default for LabConfig {
    /// Four nodes of four processors.
    fn default() -> Self {
        LabConfig { nodes: 4, cpus: 4, quick_silence: false, extra: Vec::new() }
    }
}

/// A running Slurm. Dropping it ends it with everything that runs on it.
#[derive(Debug)]
pub struct SlurmLab {
    dir: PathBuf,
    conf: PathBuf,
    version: SlurmVersion,
    cpus: usize,
    nodes: Vec<String>,
    /// By name: `munged`, `slurmctld`, and the nodes.
    daemons: Mutex<BTreeMap<String, Child>>,
    warden: Child,
    ports: Ports,
}

const MUNGED: &str = "munged";
const CONTROLLER: &str = "slurmctld";

/// The configuration of nodes and clients, in the lab's folder.
const NODES_CONF: &str = "slurm.conf";
/// The controller's configuration.
const CONTROLLER_CONF: &str = "ctl.conf";
/// The configuration of a node that registers badly.
const BAD_CONF: &str = "bad.conf";
/// Makes a node what its configuration says, whatever this host has.
const OVERRIDES: &str = "SlurmdParameters=config_overrides";

impl SlurmLab {
    /// The programs that a lab needs and this host lacks, with what to do about it; `None` when all are there.
    pub fn missing() -> Option<String> {
        let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| find(name).is_none()).collect();
        (!missing.is_empty()).then(|| format!("{} (on Debian: {REMEDY})", missing.join(", ")))
    }

    /// Starts a Slurm and waits until all its nodes are idle.
    ///
    /// # Errors
    /// Fails if something is missing, or if the daemons do not come up within a minute.
    #[expect(clippy::needless_pass_by_value, reason = "so that a test can write the configuration in place")]
    pub fn start(config: LabConfig) -> Result<SlurmLab, LabError> {
        if let Some(missing) = Self::missing() {
            return Err(LabError::Missing(missing));
        }
        if !(1..=MAX_NODES).contains(&config.nodes) {
            return Err(LabError::Size { nodes: config.nodes });
        }
        // Ports were free when looked at; somebody may have been faster. Then a daemon ends at once.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Self::try_start(&config) {
                Err(LabError::Ended { .. }) if tries > 0 => {}
                result => return result,
            }
        }
    }

    fn try_start(config: &LabConfig) -> Result<SlurmLab, LabError> {
        let version = SlurmVersion::installed()?;
        if !version.is_measured() {
            version::note(&format!("nobody has measured the facts of these tests on Slurm {version}"));
        }
        let ports = Ports::claim(config.nodes)?;
        let dir = new_dir()?;
        let nodes: Vec<String> = (1..=config.nodes).map(|nid| format!("nid{nid:06}")).collect();
        let warden = start_warden(&dir)?;
        // From here on, whatever fails, dropping the lab clears up.
        let conf = dir.join(NODES_CONF);
        let cpus = config.cpus;
        let lab = SlurmLab { dir, conf, version, cpus, nodes, daemons: Mutex::default(), warden, ports };
        lab.write_files(config)?;
        lab.start_munged()?;
        lab.spawn_controller()?;
        for node in &lab.nodes {
            // Without -b: the boot time of a node that has not rebooted yet is this host's.
            lab.spawn(node, "slurmd", &["-D", "-N", node])?;
        }
        lab.wait_until("all nodes idle", START_LIMIT, || {
            lab.check_alive()?;
            Ok(lab.run("sinfo", &["-h", "-N", "-o", "%N %T"]).is_ok_and(|text| {
                lab.nodes.iter().all(|node| text.lines().any(|line| line == format!("{node} idle")))
            }))
        })?;
        Ok(lab)
    }

    /// The release of Slurm that the lab runs.
    pub fn version(&self) -> SlurmVersion {
        self.version
    }

    /// The lab's `slurm.conf`, for [`env`](Self::env) or a client's configuration.
    pub fn conf_path(&self) -> &Path {
        &self.conf
    }

    /// The environment that makes Slurm's programs talk to this lab.
    pub fn env(&self) -> [(&'static str, &OsStr); 1] {
        [("SLURM_CONF", self.conf.as_os_str())]
    }

    /// The names of all nodes, in order.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// Kills a node's slurmd: the node falls silent.
    ///
    /// # Errors
    /// Fails if there is no such node, or if it is stopped already.
    pub fn stop_node(&self, node: &str) -> Result<(), LabError> {
        self.known_node("stop", node)?;
        self.kill(node)
    }

    /// Starts a stopped node, as if it had just booted: its `BootTime` is now. Returns at once; the controller
    /// learns of it within a second or so.
    ///
    /// # Errors
    /// Fails if there is no such node, or if it runs.
    pub fn start_node(&self, node: &str) -> Result<(), LabError> {
        self.known_node("start", node)?;
        self.spawn(node, "slurmd", &["-D", "-b", "-N", node])
    }

    /// Starts a stopped node as [`start_node`](Self::start_node) does, but with half its processors: it registers
    /// with less than the controller's configuration says, and is in `INVALID_REG` until it is stopped and started
    /// well. Less memory would not do: Slurm puts up with that.
    ///
    /// # Errors
    /// Fails if there is no such node, if it runs, or if it has one processor only.
    pub fn start_node_badly(&self, node: &str) -> Result<(), LabError> {
        let what = "start badly";
        self.known_node(what, node)?;
        if self.cpus < 2 {
            return Err(LabError::NotNow { what, name: node.to_owned(), why: "it has one processor only" });
        }
        let conf = self.dir.join(BAD_CONF);
        self.spawn(node, "slurmd", &["-D", "-b", "-f", &conf.to_string_lossy(), "-N", node])
    }

    /// [`stop_node`](Self::stop_node) and [`start_node`](Self::start_node).
    ///
    /// # Errors
    /// Fails as they do.
    pub fn reboot_node(&self, node: &str) -> Result<(), LabError> {
        self.stop_node(node)?;
        self.start_node(node)
    }

    /// Kills slurmctld, as a crash would: what it has not saved is lost.
    ///
    /// # Errors
    /// Fails if it is down already.
    pub fn kill_controller(&self) -> Result<(), LabError> {
        self.kill(CONTROLLER)
    }

    /// Stops slurmctld as `systemctl stop` would, and waits until it has saved everything and ended.
    ///
    /// # Errors
    /// Fails if it is down already, or does not end in time.
    pub fn stop_controller(&self) -> Result<(), LabError> {
        self.scontrol(&["shutdown", CONTROLLER])?;
        self.wait_until("slurmctld ended", START_LIMIT, || {
            let mut daemons = self.daemons();
            let Some(controller) = daemons.get_mut(CONTROLLER) else { return Ok(true) };
            Ok(controller.try_wait().trying(|| format!("look after {CONTROLLER}"))?.is_some())
        })?;
        self.daemons().remove(CONTROLLER);
        Ok(())
    }

    /// Waits until slurmctld has saved everything up to now, which takes it five seconds at most. A job's `Comment`
    /// and the first node's `Extra` are changed for that.
    ///
    /// # Errors
    /// Fails if there is no such job, or if nothing is saved in time.
    pub fn wait_until_saved(&self, job: &str) -> Result<(), LabError> {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mark = format!("saved-{}", since_epoch.as_nanos());
        self.scontrol(&["update", &format!("NodeName={}", self.nodes[0]), &format!("Extra={mark}")])?;
        self.scontrol(&["update", &format!("JobId={job}"), &format!("Comment={mark}")])?;
        self.wait_until("everything saved", START_LIMIT, || {
            Ok(["node_state", "job_state"].iter().all(|file| {
                // Slurm replaces the file, so there is a moment without it.
                let saved = fs::read(self.dir.join("state").join(file)).unwrap_or_default();
                saved.windows(mark.len()).any(|bytes| bytes == mark.as_bytes())
            }))
        })
    }

    /// Starts slurmctld again with the state it had saved, and waits until it answers; the nodes may take
    /// seconds longer to be known again.
    ///
    /// # Errors
    /// Fails if it runs, or does not answer in time.
    pub fn start_controller(&self) -> Result<(), LabError> {
        self.spawn_controller()?;
        self.wait_until("slurmctld answering", START_LIMIT, || {
            self.check_alive()?;
            Ok(self.scontrol(&["ping"]).is_ok_and(|text| text.contains("is UP")))
        })
    }

    /// Runs one of Slurm's programs against this lab, and returns its output.
    ///
    /// # Errors
    /// Fails if it cannot be run, or exits with anything but 0.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String, LabError> {
        let command = || format!("{program} {}", args.join(" "));
        let output = Command::new(path_of(program)?)
            .args(args)
            .envs(self.env())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .trying(|| format!("run `{}`", command()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LabError::Command { command: command(), status: output.status, stderr });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `scontrol`.
    ///
    /// # Errors
    /// Fails as [`run`](Self::run) does.
    pub fn scontrol(&self, args: &[&str]) -> Result<String, LabError> {
        self.run("scontrol", args)
    }

    /// Runs `squeue`.
    ///
    /// # Errors
    /// Fails as [`run`](Self::run) does.
    pub fn squeue(&self, args: &[&str]) -> Result<String, LabError> {
        self.run("squeue", args)
    }

    /// Submits a job that sleeps, on exactly these nodes (a host list), one processor on each; its id. It may
    /// wait in the queue for a few seconds first.
    ///
    /// # Errors
    /// Fails as [`run`](Self::run) does.
    pub fn sleep_job(&self, nodes: &str, seconds: u32, limit_minutes: u32) -> Result<String, LabError> {
        let id = self.run(
            "sbatch",
            &[
                "--parsable",
                "--output=/dev/null",
                "--chdir=/",
                &format!("--nodelist={nodes}"),
                "--ntasks-per-node=1",
                &format!("--time={limit_minutes}"),
                &format!("--wrap=exec sleep {seconds}"),
            ],
        )?;
        Ok(id.trim().to_owned())
    }

    /// One field of `scontrol show node`, such as `State` or `BootTime`; `Reason` without anything cut off.
    /// `None` when the record has no such field.
    ///
    /// # Errors
    /// Fails as [`run`](Self::run) does.
    pub fn node_field(&self, node: &str, field: &str) -> Result<Option<String>, LabError> {
        Ok(field_of(&self.scontrol(&["show", "node", "-o", node])?, field))
    }

    /// One field of `scontrol show job`, such as `JobState` or `Restarts`.
    ///
    /// # Errors
    /// Fails as [`run`](Self::run) does.
    pub fn job_field(&self, job: &str, field: &str) -> Result<Option<String>, LabError> {
        Ok(field_of(&self.scontrol(&["show", "job", "-o", job])?, field))
    }

    /// Waits until the controller's clock has moved on so many times; it shows whole seconds. Slurm compares some times
    /// by whole seconds: a job that started in the second of its node's boot started after it, and one that is started
    /// again in the second in which it was requeued fails.
    ///
    /// # Errors
    /// Fails as [`run`](Self::run) does.
    pub fn wait_for_ticks(&self, ticks: u32) -> Result<(), LabError> {
        let clock = || {
            let config = self.scontrol(&["show", "config"])?;
            // Configuration data as of 2026-11-30T19:43:10
            Ok::<_, LabError>(config.lines().next().unwrap_or_default().to_owned())
        };
        for _ in 0..ticks {
            let before = clock()?;
            self.wait_until("the controller's clock going on", START_LIMIT, || Ok(clock()? != before))?;
        }
        Ok(())
    }

    /// Looks ten times a second until `met` holds.
    ///
    /// # Errors
    /// Fails if `met` fails, or does not hold within the limit; the error then shows the nodes and the jobs.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut met: impl FnMut() -> Result<bool, LabError>,
    ) -> Result<(), LabError> {
        let begin = Instant::now();
        while !met()? {
            if begin.elapsed() > limit {
                let detail = self.situation();
                return Err(LabError::TimedOut { what: what.to_owned(), limit, detail });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn situation(&self) -> String {
        let said = |program, args: &[&str]| self.run(program, args).unwrap_or_else(|error| error.to_string());
        format!(
            "nodes:\n{}jobs:\n{}log of slurmctld:\n{}",
            said("sinfo", &["-h", "-N", "-o", "%N %T %E"]),
            said("squeue", &["-h", "-o", "%i %T %N %r"]),
            self.log_tail("slurmctld.log"),
        )
    }

    fn known_node(&self, what: &'static str, node: &str) -> Result<(), LabError> {
        if self.nodes.iter().any(|known| known == node) {
            return Ok(());
        }
        Err(LabError::NotNow { what, name: node.to_owned(), why: "the lab has no such node" })
    }

    fn write_files(&self, config: &LabConfig) -> Result<(), LabError> {
        for folder in ["munge", "state", "spool", "run", "log"] {
            DirBuilder::new()
                .mode(0o755)
                .create(self.dir.join(folder))
                .trying(|| format!("make the lab's folder {folder}"))?;
        }
        let user = user()?;
        for (file, overrides, cpus) in [
            (NODES_CONF, OVERRIDES, config.cpus),
            (CONTROLLER_CONF, "", config.cpus),
            (BAD_CONF, OVERRIDES, config.cpus / 2),
        ] {
            let conf = self.slurm_conf(config, &user, overrides, cpus);
            fs::write(self.dir.join(file), conf).trying(|| format!("write {file}"))?;
        }

        // slurmd loads a plugin for control groups even when nothing uses it. That of version 1 puts up with
        // there being none; where it may be switched off, it is.
        let can_disable = self.version >= SlurmVersion::new(24, 0);
        let plugin = if can_disable { "disabled" } else { "cgroup/v1" };
        fs::write(self.dir.join("cgroup.conf"), format!("CgroupPlugin={plugin}\n"))
            .trying(|| "write cgroup.conf".to_owned())?;

        let mut key = [0u8; 128];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut key))
            .trying(|| "read /dev/urandom".to_owned())?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.dir.join("munge/key"))
            .and_then(|mut file| file.write_all(&key))
            .trying(|| "write munged's key".to_owned())
    }

    fn slurm_conf(&self, config: &LabConfig, user: &str, overrides: &str, cpus: usize) -> String {
        let last = config.nodes;
        let mut extra = config.extra.clone();
        if config.quick_silence {
            extra.push(format!("SlurmdTimeout={}", QUICK_SILENCE.as_secs()));
            extra.push("MessageTimeout=2".to_owned());
        }
        CONF.replace("@DIR@", &self.dir.to_string_lossy())
            .replace("@CONTROLLER_PORT@", &self.ports.controller().to_string())
            .replace("@NODE_PORTS@", &self.ports.nodes(last))
            .replace("@NODES@", &format!("nid[000001-{last:06}]"))
            .replace("@OVERRIDES@", overrides)
            .replace("@CPUS@", &cpus.to_string())
            .replace("@USER@", user)
            .replace("@EXTRA@", &extra.join("\n"))
    }

    fn spawn_controller(&self) -> Result<(), LabError> {
        let conf = self.dir.join(CONTROLLER_CONF);
        self.spawn(CONTROLLER, CONTROLLER, &["-D", "-f", &conf.to_string_lossy()])
    }

    fn start_munged(&self) -> Result<(), LabError> {
        let at = |option: &str, file: &str| format!("--{option}={}", self.dir.join(file).display());
        let socket = self.dir.join("munge/munge.sock");
        self.spawn(
            MUNGED,
            MUNGED,
            &[
                "--force",
                "--foreground",
                &at("socket", "munge/munge.sock"),
                &at("key-file", "munge/key"),
                &at("seed-file", "munge/seed"),
                &at("pid-file", "munge/munged.pid"),
                &at("log-file", "log/munged.log"),
            ],
        )?;
        self.wait_until("munged's socket", START_LIMIT, || {
            self.check_alive()?;
            Ok(socket.exists())
        })
    }

    fn spawn(&self, name: &str, program: &str, args: &[&str]) -> Result<(), LabError> {
        let what = || format!("start {name}");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log").join(format!("{name}.out")))
            .trying(what)?;
        let mut daemons = self.daemons();
        if let Some(daemon) = daemons.get_mut(name)
            && daemon.try_wait().trying(what)?.is_none()
        {
            return Err(LabError::NotNow { what: "start", name: name.to_owned(), why: "it runs" });
        }
        let daemon = Command::new(path_of(program)?)
            .args(args)
            .envs(self.env())
            .stdin(Stdio::null())
            .stdout(log.try_clone().trying(what)?)
            .stderr(log)
            // A signal to the test's group, such as a Ctrl-C, is not for the daemons: the warden ends them.
            .process_group(0)
            .spawn()
            .trying(what)?;
        daemons.insert(name.to_owned(), daemon);
        Ok(())
    }

    fn kill(&self, name: &str) -> Result<(), LabError> {
        let daemon = self.daemons().remove(name);
        let Some(mut daemon) = daemon else {
            return Err(LabError::NotNow { what: "stop", name: name.to_owned(), why: "it is not running" });
        };
        daemon.kill().and_then(|()| daemon.wait()).trying(|| format!("kill {name}"))?;
        Ok(())
    }

    /// Fails when a daemon ended that nobody stopped.
    fn check_alive(&self) -> Result<(), LabError> {
        for (name, daemon) in self.daemons().iter_mut() {
            if daemon.try_wait().trying(|| format!("look after {name}"))?.is_some() {
                let log = self.log_tail(&format!("{name}.out")) + &self.log_tail(&format!("{name}.log"));
                return Err(LabError::Ended { daemon: name.clone(), log });
            }
        }
        Ok(())
    }

    fn log_tail(&self, file: &str) -> String {
        let text = fs::read(self.dir.join("log").join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].iter().map(|line| format!("{line}\n")).collect()
    }

    fn daemons(&self) -> MutexGuard<'_, BTreeMap<String, Child>> {
        // A test that panicked while it held the lock leaves the map as good as it was.
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SlurmLab {
    fn drop(&mut self) {
        drop(self.warden.stdin.take());
        if let Err(error) = self.warden.wait() {
            eprintln!("failed to wait for the warden of {}: {error}", self.dir.display());
        }
        for (name, daemon) in self.daemons().iter_mut() {
            // Dead by now; this reaps it, and is all there is should the warden have been killed.
            if let Err(error) = daemon.kill().and_then(|()| daemon.wait()) {
                eprintln!("failed to end {name} of {}: {error}", self.dir.display());
            }
        }
    }
}

fn start_warden(dir: &Path) -> Result<Child, LabError> {
    Command::new("sh")
        .args(["-c", WARDEN, "slurm-lab-warden"])
        .arg(dir)
        .env_remove("SLURM_CONF")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .trying(|| "start the lab's warden".to_owned())
}

/// A new folder that only this process uses. Its path is short, since a socket's may have 107 characters.
fn new_dir() -> Result<PathBuf, LabError> {
    let base = env::temp_dir();
    for n in 0..1_000 {
        let dir = base.join(format!("slurm-lab-{}-{n}", std::process::id()));
        match DirBuilder::new().mode(0o755).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(LabError::Io { what: format!("make {}", dir.display()), source }),
        }
    }
    let source = io::ErrorKind::AlreadyExists.into();
    Err(LabError::Io { what: format!("make a folder for the lab in {}", base.display()), source })
}

/// The user that the daemons run as, and that Slurm obeys: the one running the test.
fn user() -> Result<String, LabError> {
    let output = Command::new("id").arg("-un").output().trying(|| "run `id -un`".to_owned())?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || name.is_empty() {
        let source = io::Error::other("this user has no name");
        return Err(LabError::Io { what: "tell who runs the lab (`id -un`)".to_owned(), source });
    }
    Ok(name)
}

fn path_of(program: &str) -> Result<PathBuf, LabError> {
    find(program).ok_or_else(|| LabError::Missing(format!("{program} (on Debian: {REMEDY})")))
}

/// The path of a program. Daemons are in folders that only root's search path holds.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(daemons).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn field_of(record: &str, field: &str) -> Option<String> {
    let key = format!("{field}=");
    let begin = record
        .match_indices(&key)
        .map(|(at, _)| at)
        .find(|&at| record[..at].chars().next_back().is_none_or(char::is_whitespace))?;
    let value = record[begin + key.len()..].lines().next().unwrap_or_default();
    let value = if field == "Reason" { value } else { value.split(' ').next().unwrap_or_default() };
    Some(value.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name_and_a_reason_keeps_its_spaces() {
        let record =
            "NodeName=nid000001 XState=no State=IDLE+DRAIN BootTime=None Reason=two words [root@x]\n";
        assert_eq!(field_of(record, "State").as_deref(), Some("IDLE+DRAIN"));
        assert_eq!(field_of(record, "NodeName").as_deref(), Some("nid000001"));
        assert_eq!(field_of(record, "Reason").as_deref(), Some("two words [root@x]"));
        assert_eq!(field_of(record, "Comment"), None);
    }
}
