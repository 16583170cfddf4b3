//! How programs are called, with shell scripts in their place.

use std::fs;

use crus_core::ports::Peer;
use crus_core::wlm::BaseState;
use tempfile::TempDir;

use super::*;

fn names(texts: &[&str]) -> Vec<NodeName> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A client whose programs are this shell script. It may use the folder `$DIR`.
struct Fake {
    dir: TempDir,
    slurm: Slurm,
}

impl Fake {
    fn new(script: &str) -> Self {
        Fake::with(script, &SlurmConfig::default())
    }

    fn with(script: &str, config: &SlurmConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        fs::write(&path, script).unwrap();
        let program = vec!["sh".to_owned(), path.to_str().unwrap().to_owned()];
        let config = SlurmConfig {
            scontrol: program.clone(),
            squeue: program.clone(),
            scancel: program,
            env: vec![("DIR".into(), dir.path().into())],
            ..config.clone()
        };
        Fake { slurm: Slurm::new(config), dir }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }
}

fn detail(error: &PortError) -> &str {
    match error {
        PortError::Refused { detail, .. }
        | PortError::Unreachable { detail, .. }
        | PortError::MayHaveActed { detail, .. } => detail,
    }
}

/// Notes its arguments, one a line, a dot behind each call.
const NOTE: &str = "printf '%s\\n' \"$@\" . >>\"$DIR/calls\"\n";

#[tokio::test]
async fn no_node_is_no_call() {
    let fake = Fake::new(&format!("{NOTE} exit 1"));
    assert_eq!(fake.slurm.nodes(&[]).await, Ok(vec![]));
    assert_eq!(fake.slurm.jobs(&[]).await, Ok(vec![]));
    assert_eq!(fake.slurm.drain(&[], "x").await, Ok(()));
    assert_eq!(fake.slurm.resume(&[]).await, Ok(()));
    assert_eq!(fake.slurm.partitions(&[]).await, Ok(vec![]));
    assert_eq!(fake.slurm.requeue(&[]).await, Ok(()));
    assert_eq!(fake.slurm.cancel(&[]).await, Ok(()));
    assert!(!fake.dir.path().join("calls").exists());
}

#[tokio::test]
async fn many_nodes_are_one_call_and_a_reason_is_one_line_and_one_argument() {
    let fake = Fake::new(NOTE);
    let nodes = names(&["nid000002", "nid000001", "nid000003"]);
    fake.slurm.drain(&nodes, "  \"why\"\n$(reboot) ; \\ 'so' ").await.unwrap();
    fake.slurm.resume(&nodes).await.unwrap();
    fake.slurm.set_reason(&nodes, &"é".repeat(5_000)).await.unwrap();
    let target = "update\nNodeName=nid[000001-000003]\n";
    let expected = format!(
        "{target}State=DRAIN\nReason='why' $(reboot) ; \\ 'so'\n.\n\
         {target}State=RESUME\n.\n\
         {target}Reason={}\n.\n",
        "é".repeat(1_000)
    );
    assert_eq!(fake.read("calls"), expected);
}

#[tokio::test]
async fn the_environment_is_that_of_a_program_read_by_a_program() {
    let fake = Fake::new("echo \"$LC_ALL $TZ $SLURM_TIME_FORMAT\" >\"$DIR/env\"; cat >\"$DIR/stdin\"");
    fake.slurm.resume(&names(&["nid000001"])).await.unwrap();
    assert_eq!(fake.read("env"), "C UTC standard\n");
    assert_eq!(fake.read("stdin"), "");
}

#[tokio::test]
async fn an_unknown_node_is_left_out_and_a_silent_omission_is_an_error() {
    let script = "echo 'NodeName=nid000001 State=IDLE CPUAlloc=0'; echo 'Node nid000002 not found'; exit 1";
    let fake = Fake::new(script);
    let nodes = fake.slurm.nodes(&names(&["nid000001", "nid000002"])).await.unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].base, BaseState::Idle);

    let error = fake.slurm.nodes(&names(&["nid000001", "nid000003"])).await.unwrap_err();
    assert_eq!(error, refusal::refused("scontrol: neither showed nid000003 nor called it unknown"));
}

#[tokio::test]
async fn a_failure_beside_answers_is_a_failure() {
    let script = "echo 'NodeName=nid000001 State=IDLE'; echo 'Node nid000002 not found'; \
                  echo 'slurm_load_node error: Zero Bytes were transmitted or received' >&2; exit 1";
    let error = Fake::new(script).slurm.nodes(&names(&["nid000001", "nid000002"])).await.unwrap_err();
    let detail = "Zero Bytes were transmitted or received".to_owned();
    assert_eq!(error, PortError::Unreachable { peer: Peer::Wlm, detail });
}

#[tokio::test]
async fn only_jobs_on_the_nodes_asked_for_are_returned_with_all_their_nodes() {
    let script = "echo '1|nid[000001-000002]|RUNNING|NONE|ada'; echo '2|nid000003|RUNNING|NONE|bob'";
    let jobs = Fake::new(script).slurm.jobs(&names(&["nid000002", "nid000009"])).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].id.as_str(), jobs[0].nodes.len()), ("1", 2));
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_and_an_update_may_have_acted() {
    let config = SlurmConfig { timeout: Duration::from_millis(300), ..SlurmConfig::default() };
    // `exec`, so that what hangs is the process that was started.
    let script = "echo $$ >\"$DIR/pid\"; echo 'scontrol: error: waiting' >&2; exec sleep 600";
    let fake = Fake::with(script, &config);
    let nodes = names(&["nid000001"]);
    let error = fake.slurm.drain(&nodes, "x").await.unwrap_err();
    assert!(error.may_have_acted(), "{error}");
    assert_eq!(detail(&error), "sh did not end within 0.3 s: waiting");
    let pid = fake.read("pid");
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists(), "it is gone and reaped");

    let error = fake.slurm.nodes(&nodes).await.unwrap_err();
    assert!(matches!(error, PortError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn no_more_programs_run_at_a_time_than_may() {
    let config = SlurmConfig { max_calls: 1, ..SlurmConfig::default() };
    let fake = Fake::with("echo begin >>\"$DIR/calls\"; sleep 0.02; echo end >>\"$DIR/calls\"", &config);
    let nodes = names(&["nid000001"]);
    let calls = (0..5).map(|_| fake.slurm.drain(&nodes, "x"));
    let done = futures_util::future::join_all(calls).await;
    assert_eq!(done, [const { Ok(()) }; 5]);
    assert_eq!(fake.read("calls"), "begin\nend\n".repeat(5));
}

#[tokio::test]
async fn a_program_that_prints_without_end_is_stopped() {
    let config = SlurmConfig { output_max: 100_000, ..SlurmConfig::default() };
    for endless in ["exec yes", "exec yes >&2"] {
        let fake = Fake::with(endless, &config);
        let error = fake.slurm.jobs(&names(&["nid000001"])).await.unwrap_err();
        assert_eq!(error, refusal::refused("sh printed more than 100000 bytes"), "{endless}");
        assert!(fake.slurm.down(&names(&["nid000001"]), "x").await.unwrap_err().may_have_acted());
    }
}

#[tokio::test]
async fn a_missing_program_is_named_with_what_to_do() {
    for program in [vec!["/nonexistent/scontrol".to_owned()], vec![]] {
        let slurm = Slurm::new(SlurmConfig { scontrol: program, ..SlurmConfig::default() });
        let error = slurm.drain(&names(&["nid000001"]), "x").await.unwrap_err();
        assert!(matches!(error, PortError::Unreachable { .. }), "{error}");
        assert!(detail(&error).contains("is the path to Slurm's client programs configured?"), "{error}");
    }
}

#[tokio::test]
async fn a_program_that_was_killed_may_have_acted() {
    let fake = Fake::new("kill -9 $$");
    let nodes = names(&["nid000001"]);
    assert!(fake.slurm.resume(&nodes).await.unwrap_err().may_have_acted());
    assert!(matches!(fake.slurm.nodes(&nodes).await, Err(PortError::Unreachable { .. })));
}

#[tokio::test]
async fn every_list_is_tried_and_the_first_error_returned() {
    // Too many for one list; the first call fails.
    let nodes: Vec<NodeName> = (0..25_000).map(|n| format!("nid{:06}", 2 * n).parse().unwrap()).collect();
    let script = "echo x >>\"$DIR/calls\"; [ $(wc -l <\"$DIR/calls\") = 1 ] || exit 0\n\
                  echo 'slurm_update error: Invalid node name specified' >&2; exit 1";
    let fake = Fake::new(script);
    let error = fake.slurm.drain(&nodes, "x").await.unwrap_err();
    assert_eq!(error, refusal::refused("Invalid node name specified"));
    assert_eq!(fake.read("calls").lines().count(), hostlist::fold(&nodes).len());
    assert!(hostlist::fold(&nodes).len() > 1);
}

/// What Slurm does when some of the nodes are in service already.
#[tokio::test]
async fn a_resume_is_refused_only_while_a_node_is_held() {
    let script = |state: &str| {
        format!(
            "if [ \"$1\" = update ]; then echo 'slurm_update error: Invalid node state specified' >&2; exit 1; fi\n\
             echo 'NodeName=nid000001 State={state}'"
        )
    };
    let nodes = names(&["nid000001"]);
    assert_eq!(Fake::new(&script("MIXED")).slurm.resume(&nodes).await, Ok(()));
    assert_eq!(
        Fake::new(&script("IDLE+DRAIN")).slurm.resume(&nodes).await,
        Err(refusal::refused("Invalid node state specified"))
    );
}

fn ids(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn jobs_are_named_in_one_argument_or_one_each_and_nothing_but_ids_gets_there() {
    let fake = Fake::new(NOTE);
    let jobs = ids(&["12_3", "8+1", "--user=root", "8+0", "17 18", "12_[4-5]", "3"]);
    let refused = Err(refusal::refused("\"--user=root\" is not the id of a job that runs"));
    assert_eq!(fake.slurm.requeue(&jobs).await, refused);
    assert_eq!(fake.slurm.cancel(&jobs).await, refused);
    assert_eq!(fake.read("calls"), "requeue\nincomplete\n12_3,3,8\n.\n12_3\n3\n8\n.\n");
    let fake = Fake::new(NOTE);
    assert_eq!(
        fake.slurm.requeue(&ids(&["x"])).await,
        Err(refusal::refused("\"x\" is not the id of a job that runs"))
    );
    assert!(!fake.dir.path().join("calls").exists(), "no call without an id: it could mean all");
}

#[tokio::test]
async fn very_many_jobs_are_ended_some_at_a_time_up_to_an_outage() {
    let jobs: Vec<String> = (1..=450).map(|id| id.to_string()).collect();
    let refusing =
        "echo x >>\"$DIR/calls\"; echo 'Only batch jobs are accepted or processed for job 7' >&2; exit 1";
    let fake = Fake::new(refusing);
    let refused = refusal::refused("Only batch jobs are accepted or processed for job 7");
    assert_eq!(fake.slurm.requeue(&jobs).await, Err(refused));
    assert_eq!(fake.read("calls").lines().count(), 3, "a refusal keeps no other job from being requeued");
    let down = "echo x >>\"$DIR/calls\"; echo 'Unexpected message received for job 7' >&2; exit 1";
    let fake = Fake::new(down);
    assert!(fake.slurm.requeue(&jobs).await.unwrap_err().may_have_acted());
    assert_eq!(fake.read("calls").lines().count(), 1);
}

#[tokio::test]
async fn a_program_that_hangs_or_is_killed_while_it_ends_jobs_may_have_ended_them() {
    let config = SlurmConfig { timeout: Duration::from_millis(300), ..SlurmConfig::default() };
    for script in ["exec sleep 600", "kill -9 $$"] {
        let fake = Fake::with(script, &config);
        assert!(fake.slurm.requeue(&ids(&["1"])).await.unwrap_err().may_have_acted(), "{script}");
        assert!(fake.slurm.cancel(&ids(&["1"])).await.unwrap_err().may_have_acted(), "{script}");
    }
    let slurm = Slurm::new(SlurmConfig { scancel: vec!["/nonexistent/scancel".to_owned()], ..config });
    assert!(matches!(slurm.cancel(&ids(&["1"])).await, Err(PortError::Unreachable { .. })));
}

#[tokio::test]
async fn partitions_are_two_questions_and_unknown_ones_are_left_out() {
    let script = "printf '%s ' \"$@\" >>\"$DIR/calls\"; echo >>\"$DIR/calls\"\n\
                  case \"$3\" in\n\
                  partition) echo 'PartitionName=batch AllocNodes=ALL MaxNodes=UNLIMITED Nodes=nid[000001-000003] State=UP'\n\
                  echo 'PartitionName=gpu AllocNodes=ALL Nodes=nid000003 State=UP TotalNodes=1'\n\
                  echo 'PartitionName=other Nodes=what[is State=UP'\n\
                  echo 'PartitionName=empty AllocNodes=ALL Nodes=(null) State=DOWN' ;;\n\
                  *) echo 'NodeName=nid000001 State=MIXED CPUAlloc=1'; echo 'NodeName=nid000002 State=IDLE+DRAIN CPUAlloc=0'\n\
                  echo 'NodeName=nid000003 State=IDLE CPUAlloc=0' ;;\n\
                  esac";
    let fake = Fake::new(script);
    let asked: Vec<PartitionName> =
        ["gpu", "nope", "empty", "batch"].map(|name| name.parse().unwrap()).to_vec();
    let told: Vec<_> = fake
        .slurm
        .partitions(&asked)
        .await
        .unwrap()
        .into_iter()
        .map(|one| (one.name.to_string(), one.total, one.in_service.into_iter().collect::<Vec<_>>()))
        .collect();
    let expected = [
        ("batch", 3, names(&["nid000001", "nid000003"])),
        ("empty", 0, vec![]),
        ("gpu", 1, names(&["nid000003"])),
    ];
    assert_eq!(told, expected.map(|(name, total, nodes)| (name.to_owned(), total, nodes)));
    let calls = "-a show partition -o \n-a show node -o nid[000001-000003] \n";
    assert_eq!(fake.read("calls"), calls);
    let other = ["other".parse().unwrap()];
    assert!(matches!(fake.slurm.partitions(&other).await, Err(PortError::Refused { .. })), "not understood");

    // Only those without nodes, or none at all: there is nothing to look at.
    let fake = Fake::new(&format!("{NOTE} echo 'PartitionName=empty Nodes=(null) State=UP'"));
    assert_eq!(fake.slurm.partitions(&asked[1..3]).await.unwrap().len(), 1);
    assert_eq!(fake.read("calls"), "-a\nshow\npartition\n-o\n.\n");
    let fake = Fake::new(
        "echo 'slurm_load_partitions error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
    );
    assert!(matches!(fake.slurm.partitions(&asked).await, Err(PortError::Unreachable { .. })));
}
