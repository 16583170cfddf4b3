//! The stand-in for `scontrol`, `squeue` and `scancel`: every text below was printed by Slurm 22.05.8.

use crus_sim::config::{NodeSpec, SlurmConfig, Span};
use crus_sim::http::{LiveCluster, serve};
use crus_sim::stand_in::{self, Call, Outcome, Output, Program};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};

const NO_CONTROLLER: &str = "Unable to contact slurm controller (connect failure)";

/// Six nodes of four processors. Job 1 takes one processor of nid000003 and nid000004 for two minutes at most, job 2
/// all of nid000005 without a limit, job 3 waits for nid000005.
fn cluster() -> Cluster {
    let nodes = (1..=6)
        .map(|nid| {
            let xname = format!("x1000c0s{nid}b0n0").parse().unwrap();
            NodeSpec { cpus: 4, ..NodeSpec::new(xname, nid) }
        })
        .collect();
    let job = |id, nodes: &[u32], cpus, limit_ms| JobSpec {
        id,
        user: "ada".to_owned(),
        wanted: Wanted::Nodes(nodes.iter().map(|nid| format!("nid{nid:06}").parse().unwrap()).collect()),
        cpus,
        start_ms: 0,
        duration_ms: None,
        limit_ms,
        partition: None,
        requeue: true,
    };
    let workload = Workload::Listed(vec![
        job(1, &[3, 4], Some(1), Some(120_000)),
        job(2, &[5], None, None),
        job(3, &[5], None, Some(3_600_000)),
    ]);
    let slurm = SlurmConfig {
        resume: Span::exactly(1_000),
        restart: Span::exactly(4_000),
        requeue: Span::exactly(120_000),
        ..Default::default()
    };
    let mut cluster = Cluster::new(ClusterConfig { nodes, workload, slurm, ..Default::default() }, 1);
    let start = cluster.now();
    cluster.advance_to(start + 2_000);
    cluster
}

fn outcome(cluster: &mut Cluster, command: &[&str]) -> Outcome {
    let (name, args) = command.split_first().unwrap();
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    stand_in::run(cluster, &Call { program: Program::named(name).unwrap(), args })
}

#[track_caller]
fn run(cluster: &mut Cluster, command: &[&str]) -> Output {
    match outcome(cluster, command) {
        Outcome::Done(output) => output,
        Outcome::NoController(output) => panic!("slurmctld is up, but {command:?} says {output:?}"),
    }
}

#[track_caller]
fn prints(cluster: &mut Cluster, command: &[&str], stdout: &str) {
    let expected = Output { stdout: stdout.to_owned(), ..Output::default() };
    assert_eq!(run(cluster, command), expected, "{command:?}");
}

#[track_caller]
fn fails(cluster: &mut Cluster, command: &[&str], stderr: &str) {
    let expected = Output { stderr: format!("{stderr}\n"), exit_code: 1, ..Output::default() };
    assert_eq!(run(cluster, command), expected, "{command:?}");
}

/// `State=` and, when there is one, `Reason=` of a node.
fn state(cluster: &mut Cluster, name: &str) -> (String, Option<String>) {
    let line = run(cluster, &["scontrol", "show", "node", "-o", name]).stdout;
    let state = line.split("State=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let reason = line.split("Reason=").nth(1).map(|rest| rest.split(" [").next().unwrap().to_owned());
    (state, reason)
}

/// The keys of a line of `scontrol show`, in order. A key follows a space; the rest of a text without one belongs
/// to the value before.
fn keys(line: &str) -> Vec<&str> {
    line.split_whitespace().filter_map(|word| word.split_once('=')).map(|(key, _)| key).collect()
}

#[test]
fn a_node_on_one_line_has_the_keys_of_the_real_one_in_its_order() {
    let mut cluster = cluster();
    let line = run(&mut cluster, &["scontrol", "show", "node", "-o", "nid000003"]).stdout;
    let real = "NodeName Arch CoresPerSocket CPUAlloc CPUEfctv CPUTot CPULoad AvailableFeatures ActiveFeatures Gres \
                NodeAddr NodeHostName Port Version OS RealMemory AllocMem FreeMem Sockets Boards State \
                ThreadsPerCore TmpDisk Weight Owner MCS_label Partitions BootTime SlurmdStartTime LastBusyTime \
                CfgTRES AllocTRES CapWatts CurrentWatts AveWatts ExtSensorsJoules ExtSensorsWatts ExtSensorsTemp";
    assert_eq!(keys(&line), real.split(' ').collect::<Vec<_>>());
    assert!(
        line.starts_with("NodeName=nid000003 Arch=x86_64 CoresPerSocket=4  CPUAlloc=1 CPUEfctv=4 CPUTot=4 ")
    );
    assert!(line.contains(" State=MIXED ThreadsPerCore=1 "), "{line}");
    assert!(line.contains(" Partitions=batch  BootTime="), "{line}");
    assert!(line.contains(" CfgTRES=cpu=4,mem=1000M,billing=4 AllocTRES=cpu=1 CapWatts=n/a "), "{line}");
    assert!(line.ends_with(" ExtSensorsTemp=n/s\n"), "{line}");

    run(&mut cluster, &["scontrol", "update", "NodeName=nid000003", "Comment=a b", "Extra=e x"]);
    run(&mut cluster, &["scontrol", "update", "NodeName=nid000003", "State=DRAIN", "Reason=to be seen"]);
    let line = run(&mut cluster, &["scontrol", "-o", "show", "node", "nid000003"]).stdout;
    assert!(
        line.ends_with(
            " ExtSensorsTemp=n/s Reason=to be seen [root@2026-01-01T00:00:02] Comment=a b Extra=e x\n"
        ),
        "{line}"
    );
}

#[test]
fn a_node_on_many_lines_breaks_where_the_real_one_does() {
    let text = run(&mut cluster(), &["scontrol", "show", "node", "nid000001"]).stdout;
    let firsts: Vec<&str> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
    let expected = [
        "NodeName",
        "   CPUAlloc",
        "   AvailableFeatures",
        "   ActiveFeatures",
        "   Gres",
        "   NodeAddr",
        "   OS",
        "   RealMemory",
        "   State",
        "   Partitions",
        "   BootTime",
        "   LastBusyTime",
        "   CfgTRES",
        "   AllocTRES",
        "   CapWatts",
        "   CurrentWatts",
        "   ExtSensorsJoules",
        "",
    ];
    assert_eq!(firsts, expected);
}

#[test]
fn a_node_that_has_not_registered_since_slurmctld_started_tells_nothing_of_itself() {
    let mut cluster = cluster();
    cluster.start_slurmctld();
    let line = run(&mut cluster, &["scontrol", "show", "node", "-o", "nid000001"]).stdout;
    assert!(
        line.starts_with("NodeName=nid000001 CoresPerSocket=4  CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=N/A ")
    );
    assert!(line.contains(" FreeMem=N/A Sockets=1 Boards=1 State=UNKNOWN "), "{line}");
    assert!(line.contains(" BootTime=None SlurmdStartTime=None LastBusyTime=Unknown "), "{line}");
    assert!(!line.contains("OS=") && !line.contains("Version="), "{line}");
}

#[test]
fn unknown_nodes_are_named_on_standard_output_with_exit_code_1() {
    let mut cluster = cluster();
    let not_found = |names: &str| Output { stdout: names.to_owned(), exit_code: 1, ..Output::default() };
    let show = |cluster: &mut Cluster, list: &str| run(cluster, &["scontrol", "show", "node", "-o", list]);
    assert_eq!(show(&mut cluster, "nid009999"), not_found("Node nid009999 not found\n"));
    assert_eq!(show(&mut cluster, "ALL"), not_found("Node ALL not found\n"));
    assert_eq!(show(&mut cluster, "nid[000001-"), not_found("Node nid] not found\n"));
    assert_eq!(show(&mut cluster, "nid[1-2]"), not_found("Node nid1 not found\nNode nid2 not found\n"));
    let mixed = show(&mut cluster, "nid[000001,009999]");
    assert!(mixed.stdout.starts_with("NodeName=nid000001 ") && mixed.exit_code == 1, "{mixed:?}");
    assert!(mixed.stdout.ends_with("\nNode nid009999 not found\n"), "{mixed:?}");
    prints(&mut cluster, &["scontrol", "show", "node", "-o", ""], "");
    assert_eq!(run(&mut cluster, &["scontrol", "show", "nodes", "-o"]).stdout.lines().count(), 6);
}

#[test]
fn words_may_be_cut_short_and_options_may_stand_anywhere() {
    let mut cluster = cluster();
    let whole = run(&mut cluster, &["scontrol", "show", "node", "nid000001", "-o"]);
    for command in [
        ["scontrol", "sho", "node", "-o", "nid000001"],
        ["scontrol", "--oneliner", "show", "nod", "nid000001"],
        ["scontrol", "-a", "show", "NODE=nid000001", "-o"],
    ] {
        assert_eq!(run(&mut cluster, &command), whole, "{command:?}");
    }
    prints(&mut cluster, &["scontrol", "upd", "node=nid000001", "state=drai", "reason=r"], "");
    assert_eq!(state(&mut cluster, "nid000001"), ("IDLE+DRAIN".to_owned(), Some("r".to_owned())));
}

#[test]
fn a_drain_needs_a_reason_and_keeps_the_jobs() {
    let mut cluster = cluster();
    let no_reason = "You must specify a reason when DOWNING or DRAINING a node. Request denied";
    for new in ["State=DRAIN", "State=DOWN", "State=FAIL"] {
        fails(&mut cluster, &["scontrol", "update", "NodeName=nid000001", new], no_reason);
    }
    fails(&mut cluster, &["scontrol", "update", "NodeName=nid000001", "State=DRAIN", "Reason="], no_reason);
    prints(
        &mut cluster,
        &["scontrol", "update", "nodename=nid[000003-000005]", "state=drain", "Reason=x y"],
        "",
    );
    for (name, expected) in
        [("nid000003", "MIXED+DRAIN"), ("nid000004", "MIXED+DRAIN"), ("nid000005", "ALLOCATED+DRAIN")]
    {
        assert_eq!(state(&mut cluster, name), (expected.to_owned(), Some("x y".to_owned())));
    }
    let quoted = ["scontrol", "update", "NODENAME=nid000001", "STATE=Drain", "REASON=\"a=b c [x@y] é\""];
    prints(&mut cluster, &quoted, "");
    let line = run(&mut cluster, &["scontrol", "show", "node", "-o", "nid000001"]).stdout;
    assert!(line.ends_with("Reason=a=b c [x@y] é [root@2026-01-01T00:00:02]\n"), "{line}");
}

#[test]
fn an_empty_reason_changes_nothing_and_an_empty_comment_takes_it_away() {
    let mut cluster = cluster();
    let mut update = |change: &[&str]| {
        prints(&mut cluster, &[&["scontrol", "update", "NodeName=nid000001"], change].concat(), "");
        let line = run(&mut cluster, &["scontrol", "show", "node", "-o", "nid000001"]).stdout;
        line.split("ExtSensorsTemp=n/s").nth(1).unwrap().to_owned()
    };
    let reason = " Reason=r [root@2026-01-01T00:00:02]";
    assert_eq!(update(&["State=DRAIN", "Reason=r", "Comment=c"]), format!("{reason} Comment=c\n"));
    assert_eq!(update(&["Reason="]), format!("{reason} Comment=c\n"));
    assert_eq!(update(&["Comment="]), format!("{reason}\n"));
}

#[test]
fn an_update_is_not_atomic_and_its_error_names_no_node() {
    let mut cluster = cluster();
    let invalid = "slurm_update error: Invalid node name specified";
    let list = "NodeName=nid000001,nid009999";
    fails(&mut cluster, &["scontrol", "update", list, "State=DRAIN", "Reason=x"], invalid);
    assert_eq!(state(&mut cluster, "nid000001").0, "IDLE+DRAIN");
    for list in ["NodeName=", "NodeName=nid[1-3]", "NodeName=nid[000001-"] {
        fails(&mut cluster, &["scontrol", "update", list, "State=DRAIN", "Reason=x"], invalid);
    }
    let invalid = "slurm_update error: Invalid node state specified";
    fails(&mut cluster, &["scontrol", "update", "NodeName=nid[000001-000002]", "State=RESUME"], invalid);
    assert_eq!(state(&mut cluster, "nid000001").0, "IDLE+NOT_RESPONDING", "the drained one is resumed");
    let line = run(&mut cluster, &["scontrol", "show", "node", "-o", "nid000001"]).stdout;
    assert!(line.contains(" BootTime=None SlurmdStartTime=20"), "{line}");
    prints(&mut cluster, &["scontrol", "update", "NodeName=nid000002", "State=UNDRAIN"], "");
}

#[test]
fn all_is_the_whole_cluster_in_an_update_only() {
    let mut cluster = cluster();
    prints(&mut cluster, &["scontrol", "update", "NodeName=all", "State=DRAIN", "Reason=x"], "");
    for nid in 1..=6 {
        assert_eq!(state(&mut cluster, &format!("nid{nid:06}")).1.as_deref(), Some("x"));
    }
    let invalid = "squeue: error: Invalid node name ALL";
    fails(&mut cluster, &["squeue", "-h", "-o", "%i", "-w", "ALL"], invalid);
}

#[test]
fn drain_erases_fail_and_makes_down_worse() {
    let mut cluster = cluster();
    let mut update = |new: &str, reason: &str| {
        let mut command = vec!["scontrol", "update", "NodeName=nid000001", new];
        command.extend(Some(reason).filter(|reason| !reason.is_empty()));
        prints(&mut cluster, &command, "");
        state(&mut cluster, "nid000001").0
    };
    assert_eq!(update("State=FAIL", "Reason=hw"), "IDLE+FAIL");
    assert_eq!(update("State=DRAIN", "Reason=hw2"), "IDLE+DRAIN");
    assert_eq!(update("State=DOWN", "Reason=dd"), "DOWN+DRAIN");
    assert!(update("State=UNDRAIN", "").starts_with("DOWN"));
}

#[test]
fn what_is_wrong_with_a_command_is_said_in_slurms_words() {
    let mut cluster = cluster();
    let cases: [(&[&str], &str); 17] = [
        (&["scontrol", "update"], "too few arguments for update keyword"),
        (&["scontrol", "update", "NodeName=nid000001"], "No changes specified"),
        (
            &["scontrol", "update", "NodeName=nid000001", "stat=BOGUS"],
            "Invalid input: stat=BOGUS\nRequest aborted\nValid states are: NoResp DRAIN FAIL FUTURE RESUME \
             POWER_DOWN POWER_UP UNDRAIN\nNot all states are valid given a node's prior state",
        ),
        (
            &["scontrol", "update", "NodeName=nid000001", "Bogus=1"],
            "Update of this parameter is not supported: Bogus=1\nRequest aborted",
        ),
        (
            &["scontrol", "update", "State=DRAIN"],
            "No valid entity in update command\nInput line must include \"NodeName\", \"PartitionName\", \
             \"Reservation\", \"JobId\", or \"SlurmctldDebug\"",
        ),
        (
            &["scontrol", "update", "NodeName=nid000001", "State"],
            "scontrol: error: Invalid input: State  Request aborted\nslurm_update error: No error",
        ),
        (&["scontrol", "bogus"], "invalid keyword: bogus"),
        (&["scontrol", "show", "bogus"], "invalid entity:bogus for keyword:show "),
        (&["scontrol", "show"], "too few arguments for keyword:show"),
        (&["scontrol", "show", "node", "a", "b"], "too many arguments for keyword:show"),
        (&["scontrol", "show", "job", "77"], "slurm_load_jobs error: Invalid job id specified"),
        (&["scontrol", "show", "job", "5x"], "scontrol_print_job error: Invalid job id specified"),
        (
            &["scontrol", "--json", "show", "node"],
            "scontrol: unrecognized option '--json'\nTry \"scontrol --help\" for more information",
        ),
        (&["squeue", "-w", "nid000001,nid009999"], "squeue: error: Invalid node name nid009999"),
        (&["squeue", "-w", "nid[1"], "squeue: error: Invalid node name nid]"),
        (&["squeue", "-h", "-j", "99"], "slurm_load_jobs error: Invalid job id specified"),
        (
            &["squeue", "--bogus"],
            "squeue: unrecognized option '--bogus'\nTry \"squeue --help\" for more information",
        ),
    ];
    for (command, stderr) in cases {
        fails(&mut cluster, command, stderr);
    }
    let wrong_state = run(&mut cluster, &["squeue", "-t", "BOGUS"]);
    assert!(wrong_state.stderr.starts_with(
        "squeue: error: Invalid job state specified: BOGUS\nsqueue: error: Valid job states include: \
         PENDING,RUNNING,SUSPENDED,COMPLETED,CANCELLED,"
    ));
    assert!(wrong_state.stderr.ends_with(",STAGE_OUT,STOPPED\n\n") && wrong_state.exit_code == 1);
    let option = "squeue: option requires an argument -- 'o'\nTry \"squeue --help\" for more information";
    fails(&mut cluster, &["squeue", "-o"], option);
}

#[test]
fn what_only_the_real_ones_can_do_is_refused_and_not_pretended() {
    let mut cluster = cluster();
    for command in [
        &["scontrol", "reboot", "ASAP", "nid000001"][..],
        &["scontrol", "show", "reservation"],
        &["scontrol", "suspend", "1"],
        &["scancel", "-u", "ada"],
        &["scancel", "--signal=KILL", "1"],
        &["scontrol", "update", "JobId=1", "TimeLimit=5"],
        &["scontrol", "update", "NodeName=nid000001", "State=POWER_DOWN"],
        &["squeue", "--json"],
        &["squeue", "-S", "i"],
    ] {
        let output = run(&mut cluster, command);
        assert!(
            output.exit_code == 1 && output.stderr.contains("does not support"),
            "{command:?}: {output:?}"
        );
    }
}

#[test]
fn squeue_tells_which_job_holds_which_nodes_until_when() {
    let mut cluster = cluster();
    let all = ["squeue", "-h", "-o", "%i|%N|%T|%e|%u|%t|%D|%j|%P"];
    prints(
        &mut cluster,
        &all,
        "3||PENDING|N/A|ada|PD|1|wrap|batch\n\
         1|nid[000003-000004]|RUNNING|2026-01-01T00:02:00|ada|R|2|wrap|batch\n\
         2|nid000005|RUNNING|NONE|ada|R|1|wrap|batch\n",
    );
    let some = |filters: &[&'static str]| [&["squeue", "-h", "-o", "%i"], filters].concat();
    prints(&mut cluster, &some(&["-w", "nid[000003-000004]"]), "1\n");
    prints(&mut cluster, &some(&["-w", "nid[000003-000005]", "-t", "r,cg"]), "1\n2\n");
    prints(&mut cluster, &some(&["-t", "PENDING"]), "3\n");
    prints(&mut cluster, &some(&["-w", "nid000001"]), "");
    prints(&mut cluster, &some(&["-w", ""]), "3\n1\n2\n");
    prints(&mut cluster, &some(&["-t", "all", "-u", "ada,bob", "-j", "1,2"]), "1\n2\n");
    prints(&mut cluster, &some(&["-u", "bob"]), "");
    prints(&mut cluster, &["squeue", "--noheader", "--format=%i", "--nodelist=nid000005", "--stat=R"], "2\n");
    prints(&mut cluster, &["squeue", "-ho%i", "-wnid000005"], "2\n");
}

#[test]
fn columns_are_cut_and_filled_as_asked() {
    let mut cluster = cluster();
    prints(
        &mut cluster,
        &["squeue"],
        "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)\n\
         \x20                3     batch     wrap      ada PD       0:00      1 (Resources)\n\
         \x20                1     batch     wrap      ada  R       0:02      2 nid[000003-000004]\n\
         \x20                2     batch     wrap      ada  R       0:02      1 nid000005\n",
    );
    prints(
        &mut cluster,
        &["squeue", "-l", "-j", "1"],
        "Thu Jan 01 00:00:02 2026\n\
         \x20            JOBID PARTITION     NAME     USER    STATE       TIME TIME_LIMI  NODES NODELIST(REASON)\n\
         \x20                1     batch     wrap      ada  RUNNING       0:02      2:00      2 nid[000003-000004]\n",
    );
    prints(
        &mut cluster,
        &["squeue", "-j", "1", "-h", "-o", "%5i|%.5i|%.3T|%%|%L|%S|%M|%l|%C|%A|%r|%V"],
        "1    |    1|RUN|%|1:58|2026-01-01T00:00:00|0:02|2:00|2|1|None|2026-01-01T00:00:00\n",
    );
    let odd = run(&mut cluster, &["squeue", "-j", "1", "-h", "-o", "%i|%-5i"]);
    assert_eq!((odd.stdout.as_str(), odd.exit_code), ("1|%-5i\n", 0));
    assert_eq!(odd.stderr, "squeue: error: Invalid job format specification: -\n");
}

#[test]
fn a_job_is_shown_with_the_keys_of_the_real_one() {
    let mut cluster = cluster();
    let line = run(&mut cluster, &["scontrol", "show", "job", "-o", "1"]).stdout;
    assert!(line.starts_with("JobId=1 JobName=wrap UserId=ada("), "{line}");
    assert!(line.contains(" RunTime=00:00:02 TimeLimit=00:02:00 TimeMin=N/A "), "{line}");
    assert!(
        line.contains(" StartTime=2026-01-01T00:00:00 EndTime=2026-01-01T00:02:00 Deadline=N/A "),
        "{line}"
    );
    assert!(line.contains(" NodeList=nid[000003-000004] BatchHost=nid000003 NumNodes=2 "), "{line}");
    assert!(line.ends_with(" Power= \n"), "{line}");
    let waiting = run(&mut cluster, &["scontrol", "show", "job", "-o", "3"]).stdout;
    assert!(
        waiting.contains(" JobState=PENDING Reason=Resources ") && !waiting.contains("BatchHost="),
        "{waiting}"
    );
    assert!(run(&mut cluster, &["scontrol", "show", "job", "2"]).stdout.contains("EndTime=Unknown"));
    let mut idle = Cluster::new(ClusterConfig::default(), 1);
    prints(&mut idle, &["scontrol", "show", "job"], "No jobs in the system\n");
}

#[test]
fn without_slurmctld_each_command_says_so_in_its_own_words() {
    let mut cluster = cluster();
    prints(&mut cluster, &["scontrol", "ping"], "Slurmctld(primary) at localhost is UP\n");
    cluster.stop_slurmctld();
    for (command, what) in [
        (&["scontrol", "show", "node", "nid000001"][..], "slurm_load_node"),
        (&["scontrol", "show", "job"], "slurm_load_jobs"),
        (&["scontrol", "update", "NodeName=nid000001", "State=DRAIN", "Reason=x"], "slurm_update"),
        (&["squeue", "-h"], "slurm_load_jobs"),
        (&["squeue", "-h", "-w", "nid000001"], "slurm_load_node"),
    ] {
        let stderr = format!("{what} error: {NO_CONTROLLER}\n");
        let expected = Output { stderr, exit_code: 1, ..Output::default() };
        assert_eq!(outcome(&mut cluster, command), Outcome::NoController(expected), "{command:?}");
    }
    // What needs no controller is answered all the same.
    let no_reason = "You must specify a reason when DOWNING or DRAINING a node. Request denied";
    fails(&mut cluster, &["scontrol", "update", "NodeName=nid000001", "State=DRAIN"], no_reason);
    prints(&mut cluster, &["scontrol", "--version"], "slurm-wlm 22.05.8\n");
    prints(&mut cluster, &["squeue", "-V"], "slurm-wlm 22.05.8\n");
    let ping = run(&mut cluster, &["scontrol", "ping"]);
    assert!(ping.stdout.starts_with("Slurmctld(primary) at localhost is DOWN\n****") && ping.exit_code == 1);
}

/// Runs a program as a process, as an operator or a client would.
async fn process(program: &std::path::Path, args: &[&str]) -> Output {
    let output = tokio::process::Command::new(program).args(args).kill_on_drop(true).output().await.unwrap();
    Output {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        exit_code: u8::try_from(output.status.code().unwrap()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_work_from_a_shell() {
    let server = serve(LiveCluster::new(cluster().shared()), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_crus-sim-slurm").as_ref();
    stand_in::write_programs(folder.path(), program, &[], &server.url()).unwrap();
    let scontrol = folder.path().join("scontrol");

    let update =
        process(&scontrol, &["update", "NodeName=nid000001", "State=DRAIN", "Reason=it's here"]).await;
    assert_eq!(update, Output::default());
    let shown = process(&scontrol, &["show", "node", "-o", "nid000001"]).await;
    assert!(shown.stdout.contains(" State=IDLE+DRAIN "), "{shown:?}");
    assert!(shown.stdout.contains(" Reason=it's here [root@"), "{shown:?}");
    let unknown = process(&scontrol, &["show", "node", "nid009999"]).await;
    assert_eq!((unknown.stdout.as_str(), unknown.exit_code), ("Node nid009999 not found\n", 1));
    let queue = process(&folder.path().join("squeue"), &["-h", "-o", "%i|%N", "-w", "nid000005"]).await;
    assert_eq!(queue, Output { stdout: "2|nid000005\n".to_owned(), ..Output::default() });

    let calls = server.live().calls();
    assert_eq!((calls["scontrol update"], calls["scontrol show"], calls["squeue"]), (1, 2, 1), "{calls:?}");

    let address = server.address();
    server.stop().await;
    let gone = process(&scontrol, &["show", "node", "nid000001"]).await;
    assert_eq!(gone.exit_code, 1);
    assert!(gone.stderr.starts_with(&format!("slurm_load_node error: {NO_CONTROLLER}\n")), "{gone:?}");
    assert!(gone.stderr.contains(&address.to_string()), "{gone:?}");
}

#[test]
fn partitions_are_shown_as_the_real_one_shows_them() {
    let mut cluster = cluster();
    let line = "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A \
                DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED \
                MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=nid[000001-000006] \
                PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE \
                PreemptMode=OFF State=UP TotalCPUs=24 TotalNodes=6 SelectTypeParameters=NONE JobDefaults=(null) \
                DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=24,mem=6000M,node=6,billing=24\n";
    prints(&mut cluster, &["scontrol", "-a", "show", "partition", "-o"], line);
    prints(&mut cluster, &["scontrol", "-o", "show", "part=batch"], line);
    let unknown = run(&mut cluster, &["scontrol", "show", "partition", "gpu,batch"]);
    assert_eq!((unknown.stdout.as_str(), unknown.exit_code), ("Partition gpu,batch not found\n", 1));
    fails(&mut cluster, &["scontrol", "show", "partition", "a", "b"], "too many arguments for keyword:show");

    let mut config = cluster.config().clone();
    let node = |nid: u32| format!("nid{nid:06}").parse().unwrap();
    let partitions = [("short", vec![node(1), node(5)]), ("long", vec![node(5)]), ("empty", vec![])];
    config.partitions = partitions.map(|(name, nodes)| (name.parse().unwrap(), nodes)).into();
    config.workload = Workload::None;
    let mut cluster = Cluster::new(config, 1);
    let shown = run(&mut cluster, &["scontrol", "show", "partition", "empty"]).stdout;
    assert!(shown.contains("\n   Nodes=(null)\n") && shown.ends_with("\n   TRES=(null)\n\n"), "{shown}");
    let of = |cluster: &mut Cluster, name: &str| {
        let line = run(cluster, &["scontrol", "show", "node", "-o", name]).stdout;
        line.split_once(" Partitions=").map(|(_, rest)| rest.split_once("BootTime=").unwrap().0.to_owned())
    };
    assert_eq!(of(&mut cluster, "nid000005").as_deref(), Some("long,short  "));
    assert_eq!(of(&mut cluster, "nid000002"), None, "a node of no partition has no such line");
}

#[test]
fn jobs_are_requeued_with_the_real_ones_words() {
    let mut cluster = cluster();
    fails(&mut cluster, &["scontrol", "requeue"], "too few arguments for keyword:requeue");
    prints(&mut cluster, &["scontrol", "requeue", ""], "");
    prints(&mut cluster, &["scontrol", "requeue", "incomplete"], "");
    fails(&mut cluster, &["scontrol", "requeue", "3"], "Job is pending execution for job 3");
    prints(&mut cluster, &["scontrol", "requeue", "incomplete", "3"], "");
    for bad in ["999999", "5+1", "abc", "0", "2.batch"] {
        let said = format!("Invalid job id specified for job {bad}");
        fails(&mut cluster, &["scontrol", "requeue", "incomplete", bad], &said);
    }
    // One that fails keeps no other from being requeued.
    let said = "Invalid job id specified for job 999999\nInvalid job id specified for job 888888";
    fails(&mut cluster, &["scontrol", "requeue", "Incompl", "999999,1,888888"], said);
    prints(
        &mut cluster,
        &["squeue", "-h", "-o", "%i|%N|%T|%r|%S|%e|%V|%P|%R", "-j", "1"],
        "1||PENDING|BeginTime|2026-01-01T00:02:02|2026-01-01T00:04:02|2026-01-01T00:00:02|batch|(BeginTime)\n",
    );
    let job = run(&mut cluster, &["scontrol", "show", "job", "-o", "1"]).stdout;
    for part in [
        " JobState=PENDING Reason=BeginTime ",
        " Requeue=1 Restarts=1 ",
        " EligibleTime=2026-01-01T00:02:02 AccrueTime=2026-01-01T00:02:02 StartTime=2026-01-01T00:02:02 ",
    ] {
        assert!(job.contains(part), "{part}: {job}");
    }
    cluster.refuse_updates(true);
    fails(&mut cluster, &["scontrol", "requeue", "2"], "Access/permission denied for job 2");
    cluster.stop_slurmctld();
    let down = outcome(&mut cluster, &["scontrol", "requeue", "incomplete", "2"]);
    assert_eq!(
        down,
        Outcome::NoController(Output {
            stderr: "Unexpected message received for job 2\n".to_owned(),
            exit_code: 1,
            ..Output::default()
        })
    );
}

#[test]
fn jobs_are_cancelled_with_the_real_ones_words_and_exit_codes() {
    let mut cluster = cluster();
    prints(&mut cluster, &["scancel", "-V"], "slurm-wlm 22.05.8\n");
    fails(&mut cluster, &["scancel"], "scancel: error: No job identification provided");
    fails(&mut cluster, &["scancel", ""], "scancel: error: Invalid job id ");
    fails(&mut cluster, &["scancel", "1", "abc"], "scancel: error: Invalid job id abc");
    let unknown = "scancel: unrecognized option '--nope'\nTry \"scancel --help\" for more information";
    fails(&mut cluster, &["scancel", "--nope"], unknown);
    assert_eq!(cluster.jobs().unwrap().len(), 3);
    prints(&mut cluster, &["scancel", "999999", "1", "3_99"], "");
    prints(&mut cluster, &["scancel", "1"], "");
    prints(&mut cluster, &["squeue", "-h", "-o", "%i"], "3\n2\n");
    cluster.refuse_updates(true);
    let denied = "scancel: error: Kill job error on job id 2: Access/permission denied\n".to_owned();
    let output = Output { stderr: denied, exit_code: 210, ..Output::default() };
    assert_eq!(run(&mut cluster, &["scancel", "2"]), output);
    prints(&mut cluster, &["scancel", "1"], "");
    cluster.stop_slurmctld();
    let Outcome::NoController(output) = outcome(&mut cluster, &["scancel", "2"]) else { panic!() };
    let said = format!("scancel: error: Kill job error on job id 2: {NO_CONTROLLER}\n");
    assert_eq!((output.stderr, output.exit_code), (said, 8));
}
