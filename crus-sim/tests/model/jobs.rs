//! The jobs: who starts where, and what is told of them.

use crus_core::NodeName;
use crus_core::promises::{By, What};
use crus_sim::cluster::slurm::{JobState, SlurmError, Update};
use crus_sim::config::Span;
use crus_sim::workload::{Drawn, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};

use super::support::{Ask as _, cluster, job, name, with, x};

const FILE: &str = r#"
# two jobs of the morning
{"id":17,"user":"ada","nodes":["nid000001","nid000002"],"start_s":5,"duration_s":60,"limit_s":7200}

{"id":18,"user":"bob","count":3,"cpus":16,"duration_s":30}
"#;

#[test]
fn jobs_of_a_file_start_and_end_as_written() {
    let workload = Workload::from_lines(FILE).unwrap();
    let mut cluster = with(|config| config.workload = workload);
    let jobs = cluster.jobs().unwrap();
    assert_eq!(jobs.len(), 1, "the other is not submitted yet");
    assert_eq!((jobs[0].id, jobs[0].user.as_str(), jobs[0].cpus, jobs[0].end), (18, "bob", 48, None));
    cluster.after(5_000);
    let jobs = cluster.jobs().unwrap();
    assert_eq!(
        (jobs[0].id, jobs[0].state),
        (17, JobState::Pending),
        "the other job has taken one of the nodes that it names"
    );
    cluster.after(25_000);
    let jobs = cluster.jobs().unwrap();
    assert_eq!((jobs.len(), jobs[0].state), (1, JobState::Running));
    assert_eq!(jobs[0].nodes, [name(1), name(2)]);
    let (start, end) = (jobs[0].start.unwrap(), jobs[0].end.unwrap());
    assert_eq!(end.0 - start.0, 7200);
    cluster.after(60_000);
    assert_eq!(cluster.job_ids(), [0; 0]);
}

#[test]
fn a_file_with_a_mistake_is_refused_with_its_line() {
    for (line, text) in [
        (1, r#"{"id":1,"user":"a"}"#),
        (1, r#"{"id":1,"user":"a","nodes":[]}"#),
        (1, r#"{"id":1,"user":"a","count":2,"nodes":["nid000001"]}"#),
        (1, r#"{"id":1,"user":"a","nodes":["nid[1-3]"]}"#),
        (2, "{\"id\":1,\"user\":\"a\",\"count\":1}\n{\"id\":1,\"user\":\"a\",\"count\":1}"),
        (1, r#"{"id":1,"user":"a","count":1,"colour":"red"}"#),
        (3, "# x\n\nnonsense"),
    ] {
        let error = Workload::from_lines(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("failed to read the job on line {line}: ")), "{error}");
    }
}

#[test]
fn no_job_starts_on_a_node_that_is_held_or_silent() {
    let mut cluster = cluster();
    cluster.set(1, &Update::drain("r"));
    cluster.set(2, &Update::fail("r"));
    cluster.set(3, &Update::down("r"));
    cluster.set(4, &Update::drain("r"));
    cluster.set(4, &Update::resume());
    for n in 1..=4 {
        assert!(cluster.submit(job(n, &[n])));
    }
    let mut wide = job(9, &[]);
    wide.wanted = Wanted::Count(5);
    assert!(cluster.submit(wide));
    assert!(cluster.jobs().unwrap().iter().all(|job| job.state == JobState::Pending));
    cluster.after(5_000);
    let running = |c: &Cluster| {
        let jobs = c.jobs().unwrap().into_iter().filter(|job| job.state == JobState::Running);
        jobs.map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(running(&cluster), [4], "its node has answered");
    cluster.set(1, &Update::resume());
    cluster.after(5_000);
    assert_eq!(running(&cluster), [1, 4]);
}

#[test]
fn a_job_without_a_limit_has_no_end_and_one_with_a_limit_is_ended_by_it() {
    let mut cluster = cluster();
    cluster.run(1, &[1]);
    let mut short = job(2, &[2]);
    (short.duration_ms, short.limit_ms) = (Some(600_000), Some(60_000));
    assert!(cluster.submit(short));
    let jobs = cluster.jobs().unwrap();
    assert_eq!((jobs[0].end, jobs[0].limit_s, jobs[1].limit_s), (None, None, Some(60)));
    cluster.after(60_000);
    assert_eq!(cluster.job_ids(), [1]);
    assert!(cluster.submit(job(3, &[1])) && cluster.end_job(3), "one that waits is withdrawn");
    assert!(cluster.end_job(1) && !cluster.end_job(1));
    assert_eq!(cluster.job_ids(), [0; 0]);
}

#[test]
fn a_job_in_its_epilog_keeps_the_next_one_waiting() {
    let mut cluster = with(|config| config.slurm.epilog = Span::exactly(3_000));
    cluster.run(1, &[1]);
    assert!(cluster.submit(job(2, &[1])));
    assert!(!cluster.submit(job(2, &[1])), "an id is taken once");
    cluster.end_job(1);
    assert_eq!(cluster.jobs().unwrap()[0].state, JobState::Pending);
    cluster.after(3_000);
    // The epilog's end is what lets it start.
    assert_eq!(cluster.jobs().unwrap()[0].state, JobState::Running);
}

#[test]
fn a_drawn_workload_keeps_the_nodes_as_busy_as_asked() {
    let drawn = Drawn { busy_per_mille: 800, ..Drawn::default() };
    let config = ClusterConfig {
        nodes: ClusterConfig::nodes(200),
        workload: Workload::Drawn(drawn),
        record_facts: false,
        ..ClusterConfig::default()
    };
    let mut cluster = Cluster::new(config, 3);
    let mut ids = std::collections::BTreeSet::new();
    let mut touched = std::collections::BTreeSet::new();
    for _ in 0..48 {
        let jobs = cluster.jobs().unwrap();
        let running = jobs.iter().filter(|job| job.state == JobState::Running);
        let busy: Vec<_> = running.flat_map(|job| job.nodes.clone()).collect();
        assert!((140..=160).contains(&busy.len()), "{} busy at {}", busy.len(), cluster.now());
        ids.extend(jobs.iter().map(|job| job.id));
        touched.extend(busy);
        cluster.after(30 * 60_000);
    }
    assert!(ids.len() > 1_000, "{} jobs in a day", ids.len());
    assert_eq!(touched.len(), 200, "every node gets its share");
}

#[test]
fn a_requeued_job_waits_and_runs_again_from_its_beginning() {
    let mut cluster = with(|config| {
        config.slurm.epilog = Span::exactly(3_000);
        config.slurm.requeue = Span::exactly(120_000);
    });
    let mut long = job(1, &[1, 2]);
    (long.duration_ms, long.limit_ms) = (Some(600_000), Some(900_000));
    assert!(cluster.submit(long));
    cluster.run(2, &[3]);
    cluster.after(590_000);
    cluster.acts(By::Operator);
    assert_eq!(cluster.requeue_job(1), Ok(()));
    assert_eq!(cluster.state(1), "IDLE+COMPLETING", "its epilog runs");
    assert_eq!(cluster.state(3), "ALLOCATED", "another job is untouched");
    let job = cluster.jobs().unwrap().remove(0);
    assert_eq!((job.id, job.state, job.nodes.len(), job.restarts), (1, JobState::Pending, 0, 1));
    assert_eq!(job.begin.unwrap().0 - job.submitted.0, 120);
    assert_eq!(cluster.requeue_job(1), Ok(()), "one that waits stays as it is");
    // The end of its first run passes.
    cluster.after(119_000);
    assert_eq!(cluster.jobs().unwrap()[0].state, JobState::Pending);
    cluster.after(1_000);
    assert_eq!(cluster.jobs().unwrap()[0].state, JobState::Running);
    cluster.after(599_000);
    assert_eq!(cluster.job_ids(), [1, 2]);
    cluster.after(1_000);
    assert_eq!(cluster.job_ids(), [2], "it took as long again");
    let ended = cluster.facts().iter().filter_map(|fact| match &fact.what {
        What::JobEnded { job, nodes, requeued } => Some((fact.by, job.clone(), nodes.clone(), *requeued)),
        _ => None,
    });
    let told: Vec<_> = ended.collect();
    assert_eq!(told, [(By::Operator, "1".to_owned(), [x(1), x(2)].into(), true)]);
    assert_eq!(cluster.killed(), [""; 0], "to be requeued is not to be killed");
}

#[test]
fn a_requeued_job_runs_elsewhere_while_its_node_is_drained() {
    let mut cluster = with(|config| config.nodes.truncate(2));
    let mut one = job(1, &[]);
    one.wanted = Wanted::Count(1);
    assert!(cluster.submit(one));
    cluster.set(1, &Update::drain("r"));
    cluster.requeue_job(1).unwrap();
    cluster.after(122_000);
    assert_eq!(cluster.jobs().unwrap()[0].nodes, [name(2)]);
    assert_eq!(cluster.state(1), "IDLE+DRAIN");
}

#[test]
fn what_cannot_be_requeued_is_refused_and_what_is_gone_can_be_cancelled() {
    let mut cluster = cluster();
    let mut once = job(1, &[1]);
    once.requeue = false;
    assert!(cluster.submit(once));
    assert!(cluster.submit(job(2, &[1])), "it waits");
    assert_eq!(cluster.requeue_job(1), Err(SlurmError::NoRequeue));
    assert_eq!(cluster.requeue_job(9), Err(SlurmError::InvalidJobId));
    cluster.refuse_updates(true);
    assert_eq!(cluster.requeue_job(1), Err(SlurmError::AccessDenied));
    assert_eq!(cluster.cancel_job(1), Err(SlurmError::AccessDenied));
    cluster.refuse_updates(false);
    cluster.stop_slurmctld();
    assert_eq!(cluster.requeue_job(1), Err(SlurmError::ControllerDown));
    assert_eq!(cluster.cancel_job(1), Err(SlurmError::ControllerDown));
    cluster.start_slurmctld();
    assert_eq!([1, 1, 9].map(|id| cluster.cancel_job(id)), [Ok(()); 3], "again is fine");
    assert_eq!(cluster.job_ids(), [2]);
    assert_eq!(cluster.cancel_job(2), Ok(()), "one that waits");
    assert_eq!(cluster.job_ids(), [0; 0]);
}

fn partition(nodes: &[u32]) -> Vec<NodeName> {
    nodes.iter().map(|&n| name(n)).collect()
}

#[test]
fn jobs_run_in_their_partition_and_each_partition_counts_its_nodes() {
    let mut cluster = with(|config| {
        let partitions = [("batch", partition(&[1, 2, 3])), ("gpu", partition(&[3, 4])), ("none", vec![])];
        config.partitions = partitions.map(|(name, nodes)| (name.parse().unwrap(), nodes)).into();
    });
    let mut wide = |id, count, partition: Option<&str>| {
        let mut job = job(id, &[]);
        job.wanted = Wanted::Count(count);
        job.partition = partition.map(|name| name.parse().unwrap());
        assert!(cluster.submit(job));
    };
    wide(1, 2, Some("gpu"));
    wide(2, 2, None);
    wide(3, 1, Some("none"));
    wide(4, 1, Some("ghost"));
    assert!(cluster.submit(job(5, &[8])), "a node of no partition");
    let jobs = cluster.jobs().unwrap();
    let nodes: Vec<_> = jobs.iter().map(|job| job.nodes.clone()).collect();
    assert_eq!(nodes, [partition(&[3, 4]), partition(&[1, 2]), vec![], vec![], vec![]]);
    assert_eq!(jobs[1].partition.as_ref().unwrap().as_str(), "batch");
    cluster.set(3, &Update::drain("r"));
    cluster.set(8, &Update::drain("r"));
    let told: Vec<_> = cluster
        .partitions()
        .unwrap()
        .into_iter()
        .map(|one| (one.name.to_string(), one.total, one.in_service.into_iter().collect()))
        .collect();
    let expected = [("batch", 3, partition(&[1, 2])), ("gpu", 2, partition(&[4])), ("none", 0, vec![])];
    assert_eq!(told, expected.map(|(name, total, nodes)| (name.to_owned(), total, nodes)));
    cluster.stop_slurmctld();
    assert_eq!(cluster.partitions(), Err(SlurmError::ControllerDown));
    let alone = with(|_| {}).partitions().unwrap();
    assert_eq!(
        (alone.len(), alone[0].name.as_str(), alone[0].total, alone[0].in_service.len()),
        (1, "batch", 8, 8)
    );
}

#[test]
fn a_drawn_workload_keeps_every_partition_as_busy_as_asked() {
    let all = ClusterConfig::nodes(60);
    let names =
        |range: std::ops::Range<usize>| all[range].iter().filter_map(|node| node.name.clone()).collect();
    let config = ClusterConfig {
        partitions: [("long".parse().unwrap(), names(0..40)), ("short".parse().unwrap(), names(40..50))]
            .into(),
        nodes: all.clone(),
        workload: Workload::Drawn(Drawn { busy_per_mille: 800, ..Drawn::default() }),
        record_facts: false,
        ..ClusterConfig::default()
    };
    let mut cluster = Cluster::new(config, 3);
    // All of the one is taken away for a while: the other goes on.
    for name in &names(0..40) as &Vec<NodeName> {
        cluster.update(std::slice::from_ref(name), &Update::drain("r")).unwrap();
    }
    for _ in 0..20 {
        cluster.after(30 * 60_000);
        let jobs = cluster.jobs().unwrap();
        let busy = jobs.iter().filter(|job| job.partition.as_ref().unwrap().as_str() == "short");
        let busy: usize = busy.map(|job| job.nodes.len()).sum();
        assert!((5..=8).contains(&busy), "{busy} of 10 busy at {}", cluster.now());
        assert!(
            jobs.iter()
                .flat_map(|job| &job.nodes)
                .all(|name| !all[50..].iter().any(|n| n.name.as_ref() == Some(name)))
        );
    }
}
