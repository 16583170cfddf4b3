//! The cluster as JSON for people and tests.

use std::collections::BTreeSet;

use crus_core::promises::{Fact, What};
use crus_core::time::WlmTime;
use crus_core::wlm::{Partition, WlmNode};
use crus_core::{Time, Xname};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::cluster::slurm::{JobRecord, JobState};
use crate::config::NodeSpec;

/// `2026-01-01T00:00:00.123Z`
pub(super) fn time(at: Time) -> Value {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or(Value::Null, |at| json!(at.to_string()))
}

fn wlm_time(at: WlmTime) -> Value {
    jiff::Timestamp::from_second(at.0).map_or(Value::Null, |at| json!(at.to_string()))
}

/// A node in all its aspects. What a peer does not know, or does not tell while it is down, is `null`.
pub(super) fn node(cluster: &Cluster, spec: &NodeSpec) -> Value {
    let slurm = cluster.name_of(spec.xname).and_then(|name| {
        let record = cluster.show_nodes(std::slice::from_ref(name)).ok()?.nodes.pop()?;
        let (cpus, boot_time) = (record.cpus_total, record.boot_time);
        let node = WlmNode::from(record);
        Some(json!({
            "boot_time": boot_time.map(wlm_time),
            "cpus": cpus,
            "cpus_allocated": node.cpus_allocated,
            "reason": node.reason,
            "state": node.state(),
        }))
    });
    let hsm = cluster.component(spec.xname).ok().flatten().map(|component| {
        json!({
            "arch": component.arch,
            "enabled": component.enabled,
            "locked": component.locked,
            "nid": component.nid,
            "role": component.role,
            "state": component.state,
        })
    });
    let bos = cluster.boot_component(spec.xname).ok().map(|component| {
        json!({
            "enabled": component.enabled,
            "error": component.error,
            "session": component.session,
            "status": component.status,
        })
    });
    json!({
        "bos": bos,
        "hsm": hsm,
        "image": cluster.image_of(spec.xname),
        "name": cluster.name_of(spec.xname),
        "slurm": slurm,
        "xname": spec.xname,
    })
}

pub(super) fn job(job: &JobRecord) -> Value {
    json!({
        "begin": job.begin.map(wlm_time),
        "cpus": job.cpus,
        "end": job.end.map(wlm_time),
        "id": job.id,
        "node_count": job.node_count,
        "nodes": job.nodes,
        "partition": job.partition,
        "requeue": job.requeue,
        "restarts": job.restarts,
        "start": job.start.map(wlm_time),
        "state": match job.state {
            JobState::Pending => "PENDING",
            JobState::Running => "RUNNING",
        },
        "user": job.user,
    })
}

pub(super) fn partition(partition: &Partition) -> Value {
    json!({
        "in_service": partition.in_service,
        "name": partition.name,
        "total": partition.total,
    })
}

pub(super) fn fact(fact: &Fact) -> Value {
    let xnames = |set: &BTreeSet<Xname>| set.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut out = match &fact.what {
        What::PowerCut { xname, boot_session, jobs, held } => json!({
            "what": "power-cut", "xname": xname, "boot_session": boot_session, "jobs": jobs, "held": held,
        }),
        What::RebootAsked { xname, boot_session, .. } => {
            json!({"what": "reboot-asked", "xname": xname, "boot_session": boot_session})
        }
        What::PowerLost { xname } => json!({"what": "power-lost", "xname": xname}),
        What::JobKilled { xname, job } => json!({"what": "job-killed", "xname": xname, "job": job}),
        What::JobEnded { job, nodes, requeued } => {
            json!({"what": "job-ended", "job": job, "nodes": xnames(nodes), "requeued": requeued})
        }
        What::NodeChanged { xname, held, reason, in_service, .. } => json!({
            "what": "node-changed", "xname": xname, "held": held, "reason": reason, "in_service": in_service,
        }),
        What::PartitionLooked { partition, total, in_service } => json!({
            "what": "partition-looked", "partition": partition, "total": total, "in_service": xnames(in_service),
        }),
        What::GroupChanged { label, added, removed } => json!({
            "what": "group-changed", "label": label, "added": xnames(added), "removed": xnames(removed),
        }),
    };
    out["at"] = time(fact.at);
    out
}
