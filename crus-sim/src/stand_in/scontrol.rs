//! `scontrol`: `show node`, `show job`, `show partition`, `requeue`, `update NodeName=…`, `ping`, `version`.
//!
//! Keywords may be cut short and are read in either case, as the real one does.

use std::collections::BTreeMap;

use crus_core::NodeName;
use crus_core::time::WlmTime;

use super::{Outcome, Output, VERSION, hosts, show};
use crate::cluster::Cluster;
use crate::cluster::slurm::{JobState, NewState, NodeRecord, SlurmError, Update};

const HELP: &str = "scontrol [<OPTION>] [<COMMAND>]
    Valid <OPTION> values are:
     -a, --all      Equivalent to \"all\" command
     -d, --details  Equivalent to \"details\" command
     -h, --help     Equivalent to \"help\" command
     -o, --oneliner Equivalent to \"oneliner\" command
     -Q, --quiet    Equivalent to \"quiet\" command
     -v, --verbose  Equivalent to \"verbose\" command
     -V, --version  Equivalent to \"version\" command

    Valid <COMMAND> values are:
     help                     print this description of use.
     ping                     print status of slurmctld daemons.
     requeue [incomplete] <job_list>  put running jobs back into the queue
     show <ENTITY> [<ID>]     display state of identified entity: node, job or partition
     update <SPECIFICATIONS>  update nodes: NodeName=LIST and State=, Reason=, Comment= or Extra=
     version                  display tool version number.

This is the scontrol of a simulated cluster: it does no more than this.
";

/// Options that change nothing of what is done here.
const QUIET_OPTIONS: [&str; 4] = ["all", "details", "quiet", "verbose"];

pub(super) fn run(cluster: &mut Cluster, args: &[String]) -> Outcome {
    let mut one_line = false;
    let mut words = Vec::new();
    for arg in args {
        match arg.as_str() {
            "-o" => one_line = true,
            "-V" => return version(),
            "-h" => return Outcome::Done(Output::printed(HELP)),
            "-a" | "-d" | "-Q" | "-v" => {}
            long if long.starts_with("--") => match &long[2..] {
                name if cut(name, "oneliner", 1) => one_line = true,
                name if cut(name, "version", 4) => return version(),
                name if cut(name, "help", 2) => return Outcome::Done(Output::printed(HELP)),
                name if QUIET_OPTIONS.iter().any(|known| cut(name, known, 1)) => {}
                _ => return failed(format!("scontrol: unrecognized option '{long}'\n{TRY_HELP}")),
            },
            short if short.starts_with('-') && short.len() > 1 => {
                let letter = &short[1..short.chars().nth(1).map_or(1, |c| 1 + c.len_utf8())];
                return failed(format!("scontrol: invalid option -- '{letter}'\n{TRY_HELP}"));
            }
            word => words.push(word),
        }
    }
    let Some((&keyword, rest)) = words.split_first() else {
        return failed("scontrol: error: the simulated scontrol has no interactive mode: name a command");
    };
    match keyword {
        _ if cut(keyword, "show", 3) => show(cluster, rest, one_line),
        _ if cut(keyword, "update", 1) => update(cluster, rest),
        _ if cut(keyword, "requeue", 3) => requeue(cluster, rest),
        _ if cut(keyword, "ping", 3) => ping(cluster),
        _ if cut(keyword, "version", 4) => version(),
        _ if cut(keyword, "help", 2) => Outcome::Done(Output::printed(HELP)),
        _ if REAL_KEYWORDS.iter().any(|known| cut(keyword, known, 3)) => unsupported(keyword),
        _ => failed(format_args!("invalid keyword: {keyword}")),
    }
}

const TRY_HELP: &str = "Try \"scontrol --help\" for more information";

/// What the real one knows besides.
const REAL_KEYWORDS: [&str; 17] = [
    "abort",
    "cancel_reboot",
    "cluster",
    "completing",
    "create",
    "delete",
    "errnumstr",
    "hold",
    "listpids",
    "power",
    "reboot",
    "reconfigure",
    "release",
    "resume",
    "shutdown",
    "suspend",
    "takeover",
];

/// Whether `word` is `whole`, or its beginning of at least `least` letters; in either case.
fn cut(word: &str, whole: &str, least: usize) -> bool {
    word.len() >= least && whole.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Whether `word` is `TAG=…`, its tag cut short or not.
fn is_tag(word: &str, tag: &str, least: usize) -> bool {
    word.split_once('=').is_some_and(|(key, _)| cut(key, tag, least))
}

fn failed(stderr: impl std::fmt::Display) -> Outcome {
    Outcome::Done(Output::failed(stderr))
}

fn unsupported(what: &str) -> Outcome {
    failed(format_args!("scontrol: error: the simulated scontrol does not support: {what}"))
}

fn version() -> Outcome {
    Outcome::Done(Output::printed(format!("slurm-wlm {VERSION}\n")))
}

fn ping(cluster: &Cluster) -> Outcome {
    let up = cluster.show_nodes(&[]).is_ok();
    let said = if up {
        Output::printed("Slurmctld(primary) at localhost is UP\n")
    } else {
        let stars = "*****************************************";
        Output {
            stdout: format!(
                "Slurmctld(primary) at localhost is DOWN\n{stars}\n** RESTORE SLURMCTLD DAEMON TO SERVICE **\n{stars}\n"
            ),
            exit_code: 1,
            ..Output::default()
        }
    };
    Outcome::Done(said)
}

fn show(cluster: &Cluster, words: &[&str], one_line: bool) -> Outcome {
    // `show node=nid000001` is `show node nid000001`.
    let split: Vec<&str> = match words {
        [] => return failed("too few arguments for keyword:show"),
        [first, rest @ ..] => first.splitn(2, '=').chain(rest.iter().copied()).collect(),
    };
    let (entity, id) = match split.as_slice() {
        [entity] => (*entity, None),
        [entity, id] => (*entity, Some(*id)),
        _ => return failed("too many arguments for keyword:show"),
    };
    match entity {
        _ if cut(entity, "nodes", 3) => show_nodes(cluster, id, one_line),
        _ if cut(entity, "jobs", 1) => show_jobs(cluster, id, one_line),
        _ if cut(entity, "partitions", 3) => show_partitions(cluster, id, one_line),
        _ if REAL_ENTITIES.iter().any(|known| cut(entity, known, 3)) => {
            unsupported(&format!("show {entity}"))
        }
        _ => failed(format_args!("invalid entity:{entity} for keyword:show ")),
    }
}

const REAL_ENTITIES: [&str; 15] = [
    "aliases",
    "assoc_mgr",
    "burstbuffer",
    "bbstat",
    "config",
    "daemons",
    "dwstat",
    "federation",
    "hostlist",
    "hostlistsorted",
    "hostnames",
    "licenses",
    "reservations",
    "steps",
    "topology",
];

fn show_nodes(cluster: &Cluster, list: Option<&str>, one_line: bool) -> Outcome {
    let wanted: Vec<String> = match list {
        Some(list) => hosts::expand(list),
        None => cluster.node_names().map(ToString::to_string).collect(),
    };
    let names: Vec<NodeName> = wanted.iter().filter_map(|name| NodeName::new(name).ok()).collect();
    Outcome::reading("slurm_load_node", cluster.show_nodes(&names), |shown| {
        let known: BTreeMap<&str, &NodeRecord> =
            shown.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
        let mut output = Output::default();
        for name in &wanted {
            match known.get(name.as_str()) {
                Some(node) => output.stdout.push_str(&show::node(node, one_line)),
                None => {
                    output.stdout.push_str(&format!("Node {name} not found\n"));
                    output.exit_code = 1;
                }
            }
        }
        output
    })
}

fn show_partitions(cluster: &Cluster, wanted: Option<&str>, one_line: bool) -> Outcome {
    let default = cluster.default_partition();
    Outcome::reading("slurm_load_partitions", cluster.partition_nodes(), |partitions| {
        let text: String = partitions
            .iter()
            .filter(|(name, _)| wanted.is_none_or(|wanted| name.as_str() == wanted))
            .map(|(name, nodes)| {
                let cpus = cluster
                    .show_nodes(nodes)
                    .map_or(0, |shown| shown.nodes.iter().map(|node| node.cpus_total).sum());
                show::partition(name, nodes, cpus, default == Some(name), one_line)
            })
            .collect();
        match wanted {
            Some(wanted) if text.is_empty() => {
                Output { exit_code: 1, ..Output::printed(format!("Partition {wanted} not found\n")) }
            }
            _ => Output::printed(text),
        }
    })
}

/// `requeue [incomplete] LIST…`. Goes on after a job that cannot be requeued.
fn requeue(cluster: &mut Cluster, words: &[&str]) -> Outcome {
    let (incomplete, lists) = match words {
        [] => return failed("too few arguments for keyword:requeue"),
        [first, rest @ ..] if cut(first, "incomplete", 1) => (true, rest),
        lists => (false, lists),
    };
    let mut output = Output::default();
    for id in lists.iter().flat_map(|list| list.split(',')).filter(|id| !id.is_empty()) {
        // There are no arrays here: other ids than numbers are those of no job.
        let result = match id.parse() {
            Ok(number) if incomplete => cluster.requeue_job(number),
            Ok(number) => match cluster.jobs() {
                Ok(jobs) if jobs.iter().any(|job| job.id == number && job.state == JobState::Pending) => {
                    Err(SlurmError::JobPending)
                }
                _ => cluster.requeue_job(number),
            },
            Err(_) => Err(SlurmError::InvalidJobId),
        };
        match result {
            Ok(()) => {}
            // What it makes of a slurmctld that does not answer.
            Err(SlurmError::ControllerDown) => {
                let said = format_args!("Unexpected message received for job {id}").to_string();
                return Outcome::NoController(Output::failed(said));
            }
            Err(error) => {
                output.stderr.push_str(&format!("{error} for job {id}\n"));
                output.exit_code = 1;
            }
        }
    }
    Outcome::Done(output)
}

fn show_jobs(cluster: &Cluster, id: Option<&str>, one_line: bool) -> Outcome {
    let id = match id.map(str::parse::<u32>) {
        Some(Err(_)) => return failed("scontrol_print_job error: Invalid job id specified"),
        Some(Ok(id)) => Some(id),
        None => None,
    };
    let now = slurm_now(cluster);
    Outcome::reading("slurm_load_jobs", cluster.jobs(), |jobs| {
        let text: String = jobs
            .iter()
            .filter(|job| id.is_none_or(|id| job.id == id))
            .map(|job| show::job(job, now, one_line))
            .collect();
        match (text.is_empty(), id) {
            (false, _) => Output::printed(text),
            (true, None) => Output::printed("No jobs in the system\n"),
            (true, Some(_)) => Output::failed("slurm_load_jobs error: Invalid job id specified"),
        }
    })
}

/// Slurm's clock.
pub(super) fn slurm_now(cluster: &Cluster) -> WlmTime {
    WlmTime(i64::try_from(cluster.now().0 / 1000).unwrap_or(i64::MAX))
}

fn update(cluster: &mut Cluster, words: &[&str]) -> Outcome {
    if words.is_empty() {
        return failed("too few arguments for update keyword");
    }
    let is =
        |word: &&str, tag: &str, least| word.split_once('=').is_some_and(|(key, _)| cut(key, tag, least));
    if !words.iter().any(|word| is(word, "NodeName", 3)) {
        if let Some(other) = words
            .iter()
            .find(|word| ["JobId", "PartitionName", "ReservationName"].iter().any(|tag| is_tag(word, tag, 3)))
        {
            return unsupported(&format!("update {other}"));
        }
        return failed(
            "No valid entity in update command\nInput line must include \"NodeName\", \"PartitionName\", \
             \"Reservation\", \"JobId\", or \"SlurmctldDebug\"",
        );
    }
    match read_update(words) {
        Err(refusal) => Outcome::Done(refusal),
        Ok((list, update)) => apply(cluster, list, &update),
    }
}

/// Reads `NodeName=LIST State=… Reason=… Comment=… Extra=…`, in any order. What is wrong with it is said without
/// asking slurmctld, and nothing is done.
fn read_update<'a>(words: &[&'a str]) -> Result<(&'a str, Update), Output> {
    let mut list = "";
    let mut update = Update::default();
    for &word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Output::failed(format_args!(
                "scontrol: error: Invalid input: {word}  Request aborted\nslurm_update error: No error"
            )));
        };
        match key {
            _ if cut(key, "NodeName", 1) => list = value,
            _ if cut(key, "State", 1) => update.state = Some(read_state(word, value)?),
            _ if cut(key, "Reason", 1) => {
                update.reason = Some(unquoted(value)).filter(|text| !text.is_empty());
            }
            _ if cut(key, "Comment", 3) => update.comment = Some(unquoted(value)),
            _ if cut(key, "Extra", 1) => update.extra = Some(unquoted(value)),
            _ => {
                return Err(Output::failed(format_args!(
                    "Update of this parameter is not supported: {word}\nRequest aborted"
                )));
            }
        }
    }
    if matches!(update.state, Some(NewState::Drain | NewState::Down | NewState::Fail))
        && update.reason.is_none()
    {
        return Err(Output::failed(SlurmError::NoReason));
    }
    // An empty reason changes nothing, and is no error.
    if words.iter().all(|word| is_tag(word, "NodeName", 1)) {
        return Err(Output::failed("No changes specified"));
    }
    Ok((list, update))
}

fn read_state(word: &str, value: &str) -> Result<NewState, Output> {
    let states = [
        ("DRAIN", NewState::Drain),
        ("FAIL", NewState::Fail),
        ("RESUME", NewState::Resume),
        ("UNDRAIN", NewState::Undrain),
        ("DOWN", NewState::Down),
    ];
    if let Some((_, state)) = states.iter().find(|(name, _)| cut(value, name, 3)) {
        return Ok(*state);
    }
    let others = ["NoResp", "CANCEL_REBOOT", "FUTURE", "POWER_DOWN", "POWER_UP", "IDLE"];
    if others.iter().any(|name| cut(value, name, 3)) {
        return Err(Output::failed(format_args!(
            "scontrol: error: the simulated scontrol does not support: {word}"
        )));
    }
    Err(Output::failed(format_args!(
        "Invalid input: {word}\nRequest aborted\nValid states are: NoResp DRAIN FAIL FUTURE RESUME POWER_DOWN \
         POWER_UP UNDRAIN\nNot all states are valid given a node's prior state"
    )))
}

/// The text without a double quote at either end, as Slurm takes it: each by itself, and no other kind.
fn unquoted(text: &str) -> String {
    let text = text.strip_prefix('"').unwrap_or(text);
    text.strip_suffix('"').unwrap_or(text).to_owned()
}

/// Updates the nodes one after the other, up to the first that is unknown, as slurmctld does.
fn apply(cluster: &mut Cluster, list: &str, update: &Update) -> Outcome {
    let (names, all_are_names) = if list.eq_ignore_ascii_case("ALL") {
        (cluster.node_names().cloned().collect(), true)
    } else {
        let wanted = hosts::expand(list);
        let names: Vec<NodeName> = wanted.iter().map_while(|name| NodeName::new(name).ok()).collect();
        let all_are_names = !names.is_empty() && names.len() == wanted.len();
        (names, all_are_names)
    };
    let result = cluster.update(&names, update).and(if all_are_names {
        Ok(())
    } else {
        Err(SlurmError::InvalidNodeName)
    });
    match result {
        Ok(()) => Outcome::Done(Output::default()),
        Err(SlurmError::ControllerDown) => Outcome::no_controller("slurm_update"),
        Err(other) => failed(other),
    }
}
