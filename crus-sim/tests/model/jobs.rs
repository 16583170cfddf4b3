//! The jobs: who starts where, and what is told of them.

use crus_sim::cluster::slurm::{JobState, Update};
use crus_sim::config::Span;
use crus_sim::workload::{Drawn, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};

use crate::support::{Ask as _, cluster, job, name, with};

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
