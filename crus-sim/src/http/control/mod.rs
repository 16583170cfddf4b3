//! The control face, `/sim`: what operators do beside an upgrade, what broke, what really happened, who asked what.
//!
//! `GET /sim` lists what there is. Slurm's programs come in by `POST /sim/slurm`
//! ([`stand_in`](crate::stand_in)).

mod view;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use crus_core::{NodeName, PartitionName, Xname};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answer;
use super::live::LiveCluster;
use crate::cluster::Cluster;
use crate::cluster::hsm::HsmError;
use crate::cluster::slurm::{SlurmError, Update};
use crate::config::BootBehaviour;
use crate::stand_in::{self, Call, Outcome};
use crate::workload::{JobSpec, Wanted};

/// What `GET /sim` says.
const INDEX: &str = "\
The control face of a simulated cluster. NODE is a node's xname or its name in Slurm.

GET    /sim/time                  the virtual time, its speed, the next event
POST   /sim/time                  {\"speed\":60.0} and {\"advance_ms\":1000}: change its speed, move it on
GET    /sim/nodes                 all nodes: Slurm, HSM, BOS and power at a glance
GET    /sim/nodes/NODE            one of them
POST   /sim/nodes/NODE/ACTION     what an operator does: drain, down, fail {\"reason\":…}, resume, undrain,
                                  lock, unlock, enable, disable, power-on, power-off
PUT    /sim/nodes/NODE/boot       how it boots from now on: \"normal\", \"fails\", \"hangs\", \"never-registers\",
                                  \"did-not-reboot\", {\"takes\":{\"ms\":1000}}, {\"on-hold\":{\"error\":…}}
POST   /sim/nodes/NODE/booted     a real node is up: for clusters whose boots are reported
GET    /sim/jobs                  the jobs
POST   /sim/jobs                  {\"user\":…,\"nodes\":[…] or \"count\":…,\"cpus\":…,\"duration_s\":…,\"limit_s\":…,
                                  \"partition\":…,\"requeue\":true}
DELETE /sim/jobs/ID               ends one, as if its work were done
POST   /sim/jobs/ID/requeue       and /cancel
GET    /sim/partitions            the partitions
POST   /sim/slurmctld/stop        and /start, which also restarts it
POST   /sim/hsm/down              and /up: HSM's database
POST   /sim/bos/down              and /up: BOS's store
GET    /sim/facts?after=N         what really happened, from the Nth fact on
GET    /sim/calls                 how often what was called; DELETE forgets it
POST   /sim/slurm                 {\"program\":\"scontrol\", \"squeue\" or \"scancel\",\"args\":[…]}

Groups and their members are changed where they live: /hsm/v2/groups. Session templates: /v2/sessiontemplates.
";

pub(super) fn router(live: LiveCluster) -> Router {
    Router::new()
        .route("/", get(async || answer::raw(StatusCode::OK, "text/plain; charset=utf-8", INDEX)))
        .route("/time", get(time).post(set_time))
        .route("/nodes", get(nodes))
        .route("/nodes/{node}", get(node))
        .route("/nodes/{node}/boot", axum::routing::put(set_boot))
        .route("/nodes/{node}/{action}", post(act))
        .route("/jobs", get(jobs).post(submit))
        .route("/jobs/{id}", delete(end_job))
        .route("/jobs/{id}/{action}", post(act_on_job))
        .route("/partitions", get(partitions))
        .route("/slurmctld/{action}", post(slurmctld))
        .route("/hsm/{action}", post(hsm))
        .route("/bos/{action}", post(bos))
        .route("/facts", get(facts))
        .route("/calls", get(calls).delete(forget_calls))
        .route("/slurm", post(slurm))
        .with_state(live)
}

/// Why it was not done: `{"error":…}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer::json(self.0, &json!({"error": self.1}))
    }
}

impl From<SlurmError> for Refusal {
    fn from(error: SlurmError) -> Self {
        Refusal(StatusCode::CONFLICT, error.to_string())
    }
}

impl From<HsmError> for Refusal {
    fn from(error: HsmError) -> Self {
        Refusal(StatusCode::CONFLICT, error.to_string())
    }
}

type Answer = Result<Response, Refusal>;

fn ok(body: &impl Serialize) -> Response {
    answer::json(StatusCode::OK, body)
}

fn done() -> Response {
    answer::empty(StatusCode::NO_CONTENT)
}

fn missing(what: &str, which: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("there is no {what} {which}"))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal(StatusCode::BAD_REQUEST, format!("failed to read the body: {e}")))
}

// Time

fn time_out(live: &LiveCluster) -> Response {
    let speed = live.speed();
    live.with(|cluster| {
        ok(&json!({
            "next_event": cluster.next_event().map(view::time),
            "now": view::time(cluster.now()),
            "now_ms": cluster.now().0,
            "speed": speed,
        }))
    })
}

async fn time(State(live): State<LiveCluster>) -> Response {
    time_out(&live)
}

async fn set_time(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Change {
        speed: Option<f64>,
        advance_ms: Option<u64>,
    }
    let change: Change = read(&body)?;
    if let Some(speed) = change.speed {
        live.set_speed(speed);
    }
    if let Some(ms) = change.advance_ms {
        live.advance(ms);
    }
    Ok(time_out(&live))
}

// Nodes

/// The node of this xname or Slurm name.
fn find(cluster: &Cluster, node: &str) -> Result<Xname, Refusal> {
    let by_name = NodeName::new(node).ok().and_then(|name| cluster.xname_of(&name));
    let known = |xname: &Xname| cluster.config().nodes.iter().any(|spec| spec.xname == *xname);
    by_name.or_else(|| Xname::new(node).ok().filter(known)).ok_or_else(|| missing("node", node))
}

async fn nodes(State(live): State<LiveCluster>) -> Response {
    live.with(|cluster| {
        let nodes: Vec<_> = cluster.config().nodes.iter().map(|spec| view::node(cluster, spec)).collect();
        ok(&nodes)
    })
}

async fn node(State(live): State<LiveCluster>, Path(node): Path<String>) -> Answer {
    live.with(|cluster| {
        let xname = find(cluster, &node)?;
        let spec = cluster.config().nodes.iter().find(|spec| spec.xname == xname);
        spec.map(|spec| ok(&view::node(cluster, spec))).ok_or_else(|| missing("node", &node))
    })
}

async fn act(
    State(live): State<LiveCluster>,
    Path((node, action)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Why {
        reason: String,
    }
    let reason = || read::<Why>(&body).map(|why| why.reason);
    let update = match action.as_str() {
        "drain" => Some(Update::drain(&reason()?)),
        "down" => Some(Update::down(&reason()?)),
        "fail" => Some(Update::fail(&reason()?)),
        "resume" => Some(Update::resume()),
        "undrain" => Some(Update::undrain()),
        _ => None,
    };
    live.with(|cluster| {
        let xname = find(cluster, &node)?;
        match (update, action.as_str()) {
            (Some(update), _) => {
                let name = cluster.name_of(xname).cloned().ok_or_else(|| missing("node in Slurm", &node))?;
                cluster.update(&[name], &update)?;
            }
            (None, "lock") => cluster.set_locked(xname, true)?,
            (None, "unlock") => cluster.set_locked(xname, false)?,
            (None, "enable") => cluster.set_enabled(xname, true)?,
            (None, "disable") => cluster.set_enabled(xname, false)?,
            (None, "power-on") => {
                cluster.power_on(xname);
            }
            (None, "power-off") => {
                cluster.power_off(xname);
            }
            (None, "booted") => {
                if !cluster.node_booted(xname) {
                    let error =
                        "no boot is to be reported: the node is not booting, or boots end by themselves";
                    return Err(Refusal(StatusCode::CONFLICT, error.to_owned()));
                }
            }
            (None, other) => return Err(missing("action", other)),
        }
        Ok(done())
    })
}

async fn set_boot(State(live): State<LiveCluster>, Path(node): Path<String>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Behaviour {
        Normal,
        Takes { ms: u64 },
        Fails,
        Hangs,
        NeverRegisters,
        DidNotReboot,
        OnHold { error: String },
    }
    let behaviour = match read(&body)? {
        Behaviour::Normal => BootBehaviour::Normal,
        Behaviour::Takes { ms } => BootBehaviour::Takes { ms },
        Behaviour::Fails => BootBehaviour::Fails,
        Behaviour::Hangs => BootBehaviour::Hangs,
        Behaviour::NeverRegisters => BootBehaviour::NeverRegisters,
        Behaviour::DidNotReboot => BootBehaviour::DidNotReboot,
        Behaviour::OnHold { error } => BootBehaviour::OnHold { error },
    };
    live.with(|cluster| {
        let xname = find(cluster, &node)?;
        cluster.set_boot_behaviour(xname, behaviour);
        Ok(done())
    })
}

// Jobs

async fn jobs(State(live): State<LiveCluster>) -> Answer {
    live.with(|cluster| Ok(ok(&cluster.jobs()?.iter().map(view::job).collect::<Vec<_>>())))
}

async fn submit(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct New {
        id: Option<u32>,
        #[serde(default = "root")]
        user: String,
        nodes: Option<Vec<NodeName>>,
        count: Option<u32>,
        cpus: Option<u32>,
        duration_s: Option<u64>,
        limit_s: Option<u64>,
        partition: Option<PartitionName>,
        #[serde(default = "yes")]
        requeue: bool,
    }
    fn root() -> String {
        "root".to_owned()
    }
    fn yes() -> bool {
        true
    }
    let new: New = read(&body)?;
    let wanted = match (new.nodes, new.count) {
        (Some(nodes), None) if !nodes.is_empty() => Wanted::Nodes(nodes),
        (None, Some(count)) if count > 0 => Wanted::Count(count),
        _ => {
            let error = "a job wants either nodes or a count, and at least one";
            return Err(Refusal(StatusCode::BAD_REQUEST, error.to_owned()));
        }
    };
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    live.with(|cluster| {
        if let Wanted::Nodes(nodes) = &wanted
            && let Some(unknown) = nodes.iter().find(|name| cluster.xname_of(name).is_none())
        {
            return Err(missing("node", unknown.as_str()));
        }
        let partitions = cluster.partition_nodes()?;
        if let Some(unknown) =
            new.partition.as_ref().filter(|wanted| !partitions.iter().any(|(name, _)| name == *wanted))
        {
            return Err(missing("partition", unknown.as_str()));
        }
        let next = cluster.jobs()?.iter().map(|job| job.id).max().unwrap_or(0).saturating_add(1);
        let mut job = JobSpec {
            id: new.id.unwrap_or(next),
            user: new.user,
            wanted,
            cpus: new.cpus,
            start_ms: 0,
            duration_ms: new.duration_s.map(ms),
            limit_ms: new.limit_s.map(ms),
            partition: new.partition,
            requeue: new.requeue,
        };
        // Ids of jobs that ended are taken, too: look for the next that is not, unless one was asked for.
        while !cluster.submit(job.clone()) {
            if new.id.is_some() || job.id == u32::MAX {
                return Err(Refusal(StatusCode::CONFLICT, format!("the id {} is taken", job.id)));
            }
            job.id += 1;
        }
        Ok(answer::json(StatusCode::CREATED, &json!({"id": job.id})))
    })
}

async fn end_job(State(live): State<LiveCluster>, Path(id): Path<String>) -> Answer {
    let number = id.parse().map_err(|_| missing("job", &id))?;
    if live.with(|cluster| cluster.end_job(number)) { Ok(done()) } else { Err(missing("job", &id)) }
}

async fn act_on_job(State(live): State<LiveCluster>, Path((id, action)): Path<(String, String)>) -> Answer {
    let number: u32 = id.parse().map_err(|_| missing("job", &id))?;
    live.with(|cluster| {
        if !cluster.jobs()?.iter().any(|job| job.id == number) {
            return Err(missing("job", &id));
        }
        match action.as_str() {
            "requeue" => cluster.requeue_job(number)?,
            "cancel" => cluster.cancel_job(number)?,
            other => return Err(missing("action", other)),
        }
        Ok(done())
    })
}

async fn partitions(State(live): State<LiveCluster>) -> Answer {
    live.with(|cluster| Ok(ok(&cluster.partitions()?.iter().map(view::partition).collect::<Vec<_>>())))
}

// Peers

async fn slurmctld(State(live): State<LiveCluster>, Path(action): Path<String>) -> Answer {
    live.with(|cluster| {
        match action.as_str() {
            "stop" => cluster.stop_slurmctld(),
            "start" => cluster.start_slurmctld(),
            other => return Err(missing("action", other)),
        }
        Ok(done())
    })
}

/// `down` or `up`.
fn is_down(action: &str) -> Result<bool, Refusal> {
    match action {
        "down" => Ok(true),
        "up" => Ok(false),
        other => Err(missing("action", other)),
    }
}

async fn hsm(State(live): State<LiveCluster>, Path(action): Path<String>) -> Answer {
    let down = is_down(&action)?;
    live.with(|cluster| cluster.set_hsm_down(down));
    Ok(done())
}

async fn bos(State(live): State<LiveCluster>, Path(action): Path<String>) -> Answer {
    let down = is_down(&action)?;
    live.with(|cluster| cluster.set_bos_down(down));
    Ok(done())
}

// What happened

async fn facts(State(live): State<LiveCluster>, Query(query): Query<Vec<(String, String)>>) -> Answer {
    let after = match query.iter().find(|(key, _)| key == "after") {
        None => 0,
        Some((_, text)) => text
            .parse()
            .map_err(|_| Refusal(StatusCode::BAD_REQUEST, format!("after={text} is not a number")))?,
    };
    Ok(live.with(|cluster| ok(&cluster.facts().iter().skip(after).map(view::fact).collect::<Vec<_>>())))
}

async fn calls(State(live): State<LiveCluster>) -> Response {
    ok(&live.calls())
}

async fn forget_calls(State(live): State<LiveCluster>) -> Response {
    live.reset_calls();
    done()
}

// Slurm's programs

async fn slurm(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    let call: Call = read(&body)?;
    let command = call.args.iter().find(|arg| !arg.starts_with('-')).map_or("", String::as_str);
    live.count(&match call.program {
        stand_in::Program::Scontrol => format!("scontrol {command}"),
        program => program.name().to_owned(),
    });
    let first = live.with(|cluster| stand_in::run(cluster, &call));
    if let Outcome::Done(output) = first {
        return Ok(ok(&output));
    }
    // It tries until its patience ends, and succeeds if slurmctld is back by then.
    let patience_ms = live.with(|cluster| cluster.config().slurm.connect_timeout_ms);
    tokio::time::sleep(live.real(patience_ms)).await;
    Ok(ok(&live.with(|cluster| stand_in::run(cluster, &call)).into_output()))
}
