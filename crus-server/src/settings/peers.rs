//! HSM, BOS and Slurm.

use crus_core::NodeNameFormat;
use toml::Value;

use super::Setting;
use super::read::{command, integer, parsed, put, seconds, text, url};
use crate::peers::BosApi;

const HEADING: &str = "Peers";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "hsm_url",
        value: "URL",
        default: "https://api-gw-service-nmn.local/apis/smd/hsm/v2",
        heading: HEADING,
        help: "Root of the Hardware State Manager's API, version 2",
        set: |c, v| put(&mut c.hsm_url, url(v)),
    },
    Setting {
        key: "bos_url",
        value: "URL",
        default: "https://api-gw-service-nmn.local/apis/bos/v2",
        heading: HEADING,
        help: "Root of the Boot Orchestration Service's API. With bos_api = v1 the default ends in /v1",
        set: |c, v| put(&mut c.bos_url, url(v)),
    },
    Setting {
        key: "bos_api",
        value: "VERSION",
        default: "v2",
        heading: HEADING,
        help: "Version of that API: v2, or v1 for older systems. Change it while no session boots nodes: what was asked \
               for through the one cannot be found through the other. v1 knows no tenants",
        set: |c, v| {
            put(&mut c.bos_api, parsed(v, "v2 or v1"))?;
            c.limits.names_boots = c.bos_api == BosApi::V2;
            Ok(())
        },
    },
    Setting {
        key: "scontrol",
        value: "COMMAND",
        default: "scontrol",
        heading: HEADING,
        help: "Slurm's scontrol: the program and leading arguments, divided by spaces, or as an array: \
               [\"/opt/slurm/bin/scontrol\", \"-M\", \"blue\"]. It must take arguments as they are and run scontrol \
               itself: not by ssh, which hands them to a shell elsewhere",
        set: |c, v| put(&mut c.scontrol, command(v)),
    },
    Setting {
        key: "squeue",
        value: "COMMAND",
        default: "squeue",
        heading: HEADING,
        help: "Slurm's squeue, likewise",
        set: |c, v| put(&mut c.squeue, command(v)),
    },
    Setting {
        key: "scancel",
        value: "COMMAND",
        default: "scancel",
        heading: HEADING,
        help: "Slurm's scancel, likewise. Only sessions that ask to cancel jobs by name call it",
        set: |c, v| put(&mut c.scancel, command(v)),
    },
    Setting {
        key: "call_timeout_s",
        value: "SECONDS",
        default: "30",
        heading: HEADING,
        help: "How long one call to a peer may take. scontrol itself needs 9 seconds to say that its controller \
               is down",
        set: |c, v| put(&mut c.call_timeout_ms, seconds(v, 0.1..=3600.0)),
    },
    Setting {
        key: "max_calls_hsm",
        value: "COUNT",
        default: "16",
        heading: HEADING,
        help: "Requests to HSM under way at a time, for all sessions together. A session adds 8 nodes to a group at a \
               time. More requests wait for a place, at most for call_timeout_s, and fail then",
        set: |c, v| put(&mut c.max_calls_hsm, integer(v, 1..=1000)),
    },
    Setting {
        key: "max_calls_bos",
        value: "COUNT",
        default: "16",
        heading: HEADING,
        help: "Requests to BOS under way at a time, likewise",
        set: |c, v| put(&mut c.max_calls_bos, integer(v, 1..=1000)),
    },
    Setting {
        key: "max_calls_slurm",
        value: "COUNT",
        default: "4",
        heading: HEADING,
        help: "Programs of Slurm (scontrol, squeue) that run at a time, likewise",
        set: |c, v| put(&mut c.max_calls_slurm, integer(v, 1..=1000)),
    },
    Setting {
        key: "node_name_format",
        value: "FORMAT",
        default: "nid%06d",
        heading: HEADING,
        help: "How a NID makes the name of a node in the workload manager",
        set: |c, v| put(&mut c.limits.node_name_format, node_name_format(v)),
    },
];

fn node_name_format(value: &Value) -> Result<NodeNameFormat, String> {
    let text = text(value).unwrap_or_default();
    NodeNameFormat::new(text).map_err(|error| error.rule().to_owned())
}
