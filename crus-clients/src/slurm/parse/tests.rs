use proptest::prelude::*;

use super::*;

/// As Slurm 22.05.8 printed it, but for `State=` and what follows `ExtSensorsTemp=`.
fn line(name: &str, cpus: u32, state: &str, boot: &str, rest: &str) -> String {
    format!(
        "NodeName={name} Arch=x86_64 CoresPerSocket=4  CPUAlloc={cpus} CPUEfctv=4 CPUTot=4 CPULoad=1.25 \
         AvailableFeatures=(null) ActiveFeatures=(null) Gres=(null) NodeAddr=127.0.0.1 NodeHostName=localhost \
         Port=29301 Version=22.05.8 OS=Linux 6.1.0-28-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.119-1 (2024-11-22)  \
         RealMemory=1000 AllocMem=0 FreeMem=20157 Sockets=1 Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 \
         Weight=1 Owner=N/A MCS_label=N/A Partitions=batch  BootTime={boot} SlurmdStartTime=2026-11-23T21:43:54 \
         LastBusyTime=2026-11-23T21:43:54 CfgTRES=cpu=4,mem=1000M,billing=4 AllocTRES= CapWatts=n/a \
         CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s{rest}"
    )
}

#[track_caller]
fn one(text: &str) -> WlmNode {
    let mut shown = nodes(text).unwrap();
    assert_eq!((shown.nodes.len(), shown.unknown.len()), (1, 0));
    shown.nodes.remove(0)
}

fn reason_of(rest: &str) -> Option<String> {
    one(&line("nid000001", 0, "IDLE+DRAIN", "2026-11-23T20:37:37", rest)).reason
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

#[test]
fn an_idle_node_is_read() {
    let node = one(&line("nid000001", 0, "IDLE", "2026-11-23T20:37:37", ""));
    let expected = WlmNode {
        name: name("nid000001"),
        base: BaseState::Idle,
        flags: BTreeSet::new(),
        cpus_allocated: Some(0),
        boot_time: Some(WlmTime(1_795_466_257)),
        reason: None,
    };
    assert_eq!(node, expected);
    assert!(node.is_in_service() && node.is_quiet());
}

#[test]
fn unknown_nodes_are_told_from_the_others() {
    let text = format!("{}\nNode nid009999 not found\n", line("nid000001", 0, "IDLE", "None", ""));
    let shown = nodes(&text).unwrap();
    assert_eq!(shown.nodes.len(), 1);
    assert_eq!(shown.unknown, BTreeSet::from([name("nid009999")]));
}

#[test]
fn a_reason_ends_before_who_and_when_whatever_it_holds() {
    let at = "[root@2026-11-23T21:44:29]";
    let is = |rest: &str, expected: &str| assert_eq!(reason_of(rest).as_deref(), Some(expected));
    is(&format!(" Reason=to be seen {at}"), "to be seen");
    is(
        &format!(" Reason=say \"hi\" it's a\\b a=b [x@y] State=IDLE {at}"),
        "say \"hi\" it's a\\b a=b [x@y] State=IDLE",
    );
    is(&format!(" Reason=bad dimm {at} Comment=a b Extra=e x"), "bad dimm");
    is(&format!(" Reason=é ü {at}"), "é ü");
    is(&format!(" Reason=first {at}        second line Comment=a b"), "first");
    is(" Reason=from slurm.conf", "from slurm.conf");
    is(" Reason=from slurm.conf Comment=a b", "from slurm.conf");
    is(" Reason=who [root@Unknown]", "who");
    assert_eq!(reason_of(" Comment=a Reason of sorts Extra=x"), None);
}

#[test]
fn a_reason_cannot_pretend_to_be_a_state() {
    let rest = " Reason=CPUAlloc=9 State=IDLE BootTime=2030-01-01T00:00:00 [eve@2026-11-23T21:44:29]";
    let node = one(&line("nid000001", 2, "MIXED+DRAIN", "2026-11-23T20:37:37", rest));
    assert_eq!(node.state(), "MIXED+DRAIN");
    assert_eq!(node.cpus_allocated, Some(2));
    assert_eq!(node.boot_time, Some(WlmTime(1_795_466_257)));
}

#[test]
fn states_are_read_with_their_flags_and_marks() {
    let is = |text: &str, expected: &str| {
        let (base, flags) = state(text);
        let node = WlmNode { base, flags, ..one(&line("n1", 0, "IDLE", "None", "")) };
        assert_eq!(node.state(), expected, "{text}");
    };
    for seen in [
        "IDLE",
        "MIXED+DRAIN",
        "DOWN+DRAIN+NOT_RESPONDING",
        "IDLE+NOT_RESPONDING",
        "UNKNOWN+DRAIN",
        "IDLE+FAIL",
    ] {
        is(seen, seen);
    }
    is("IDLE+COMPLETING+DRAIN", "IDLE+DRAIN+COMPLETING");
    is("IDLE*+DRAIN", "IDLE+DRAIN+NOT_RESPONDING");
    is("DOWN*", "DOWN+NOT_RESPONDING");
    is("ALLOCATED$+MAINTENANCE+RESERVED", "ALLOCATED");
    is("IDLE+PLANNED", "IDLE");
    is("IDLE-", "IDLE");
    is("IDLE+CLOUD+POWERED_DOWN~", "IDLE");
    is("DOWN+REBOOT_ISSUED^", "DOWN");
    is("DRAINED", "IDLE+DRAIN");
    is("DRAINING*", "MIXED+DRAIN+NOT_RESPONDING");
    is("FUTURE", "OTHER");
    is("ERROR+DRAIN", "OTHER+DRAIN");
    is("", "OTHER");
}

#[test]
fn what_is_not_known_is_not_made_up() {
    for boot in ["None", "Unknown", "N/A"] {
        assert_eq!(one(&line("nid000001", 0, "IDLE", boot, "")).boot_time, None);
    }
    let node = one("NodeName=nid000001 State=IDLE");
    assert_eq!((node.cpus_allocated, node.boot_time), (None, None));
    assert!(!node.is_quiet());
}

#[test]
fn a_line_that_is_not_understood_is_an_error() {
    for bad in [
        "nonsense",
        "NodeName=nid000001",
        "NodeName=nid[1-2] State=IDLE",
        "NodeName=nid000001 CPUAlloc=many State=IDLE",
        "NodeName=nid000001 State=IDLE BootTime=yesterday",
        "Node nid 1 not found",
        "Node nid000001 State=IDLE",
    ] {
        let text = format!("{}\n{bad}\n", line("nid000002", 0, "IDLE", "None", ""));
        assert!(nodes(&text).is_err(), "{bad}");
    }
}

/// Printed by `squeue` 22.05.8 with `-t all`.
#[test]
fn jobs_that_hold_nodes_are_read_and_no_others() {
    let text = "4|nid000003|COMPLETED|2026-11-23T21:44:29|root\n\
                3||PENDING|N/A|root\n\
                2_1|nid000006|RUNNING|NONE|ada\n\
                1|nid[000004-000005]|SUSPENDED|2026-11-23T22:04:29|root\n\
                7|nid000001|COMPLETING|2026-11-23T21:44:29|root\n\
                8+0|nid000002|SOMETHING_NEW|N/A|bob\n";
    let jobs = jobs(text).unwrap();
    let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids, ["2_1", "1", "7", "8+0"]);
    assert_eq!(jobs[0].user, "ada");
    assert_eq!(jobs[0].end, None);
    assert_eq!(jobs[1].nodes, [name("nid000004"), name("nid000005")]);
    assert_eq!(jobs[1].end, Some(WlmTime(1_795_471_469)));
}

#[test]
fn a_job_that_is_not_understood_is_an_error() {
    for bad in [
        "1|nid000001|RUNNING|NONE",
        "1|nid[|RUNNING|NONE|root",
        "1|nid000001|RUNNING|soon|root",
        "squeue says hello",
    ] {
        assert!(jobs(&format!("2|nid000001|RUNNING|NONE|root\n{bad}\n")).is_err(), "{bad}");
    }
}

/// Printed by `scontrol -a show partition -o` 22.05.8.
#[test]
fn partitions_are_read_with_their_nodes() {
    let line = |name: &str, nodes: &str, state: &str| {
        format!(
            "PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A \
             DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED \
             MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes={nodes} PriorityJobFactor=1 \
             PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF \
             State={state} TotalCPUs=8 TotalNodes=2 SelectTypeParameters=NONE JobDefaults=(null) \
             DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=8,mem=2000M,node=2,billing=8\n"
        )
    };
    let text = line("batch", "nid[000001-000002,000007]", "UP")
        + &line("empty", "(null)", "UP")
        + &line("off", "a1", "DOWN");
    let asked: Vec<PartitionName> =
        ["off", "empty", "batch", "nope"].map(|name| name.parse().unwrap()).to_vec();
    let read: Vec<_> = partitions(&text, &asked)
        .unwrap()
        .into_iter()
        .map(|(name, nodes)| {
            (name.to_string(), nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        })
        .collect();
    let expected = [("batch", "nid000001 nid000002 nid000007"), ("empty", ""), ("off", "a1")];
    assert_eq!(read, expected.map(|(name, nodes)| (name.to_owned(), nodes.to_owned())));
    assert_eq!(partitions(&text, &asked[3..]), Ok(vec![]));
    assert_eq!(partitions("No partitions in the system\n", &asked), Ok(vec![]));
    for bad in ["nonsense", "PartitionName=batch State=UP", "PartitionName=batch Nodes=nid[1- State=UP"] {
        assert!(partitions(&format!("{text}{bad}\n"), &asked).is_err(), "{bad}");
    }
}

fn any_node() -> impl Strategy<Value = (WlmNode, String)> {
    let flags = [Flag::Drain, Flag::Fail, Flag::Completing, Flag::NotResponding];
    let bases =
        [BaseState::Idle, BaseState::Mixed, BaseState::Allocated, BaseState::Down, BaseState::Unknown];
    (
        "[a-z]{1,8}[0-9]{1,6}",
        prop::sample::select(bases.to_vec()),
        prop::sample::subsequence(flags.to_vec(), 0..=4),
        0..200u32,
        prop::option::of(0..4_000_000_000i64),
        prop::option::of("[!-~]([ -~]{0,40}[!-~])?"),
    )
        .prop_map(|(text, base, flags, cpus, boot, reason)| {
            let node = WlmNode {
                name: name(&text),
                base,
                flags: flags.into_iter().collect(),
                cpus_allocated: Some(cpus),
                boot_time: boot.map(WlmTime),
                reason,
            };
            let boot = boot.map_or("None".to_owned(), |at| {
                TimeZone::UTC.to_datetime(jiff::Timestamp::from_second(at).unwrap()).to_string()
            });
            let rest = node.reason.as_ref().map_or(String::new(), |reason| {
                format!(" Reason={reason} [root@2026-11-23T21:44:29] Comment=c d")
            });
            let text = line(&text, cpus, &node.state(), &boot, &rest);
            (node, text)
        })
}

proptest! {
    #[test]
    fn a_node_that_was_printed_is_read_back((node, text) in any_node()) {
        prop_assert_eq!(one(&text), node);
    }

    #[test]
    fn no_text_is_too_strange(text in "(NodeName=|PartitionName=|Nodes=|State=|Reason=|CPUAlloc=|BootTime=|Node | not found|[ |\\[\\]@+n1]|\\PC|\n){0,40}") {
        // An answer or an error, either is well.
        let wanted = ["n1".parse().unwrap()];
        let outcomes = (nodes(&text).is_ok(), jobs(&text).is_ok(), partitions(&text, &wanted).is_ok());
        prop_assert!(matches!(outcomes, (_, _, _)));
        prop_assert!(state(&text).1.len() <= 4);
    }

    #[test]
    fn no_node_goes_missing(lines in prop::collection::vec(any_node(), 0..5)) {
        let text: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        let read = nodes(&text).unwrap().nodes;
        prop_assert_eq!(read, lines.into_iter().map(|(node, _)| node).collect::<Vec<_>>());
    }
}

/// A job on each of 100,000 nodes, and a look at the largest step: far below the default limit of what is printed.
#[test]
fn a_hundred_thousand_jobs_and_the_largest_step_fit_into_an_answer() {
    let limit = crate::slurm::SlurmConfig::default().output_max;
    let lines =
        |n: u32| format!("{}|nid{n:06}|COMPLETING|2026-11-23T09:23:55|somebody-with-a-name\n", 4_000_000 + n);
    let text: String = (0..100_000).map(lines).collect();
    assert!(text.len() < limit / 10);
    assert_eq!(jobs(&text).unwrap().len(), 100_000);
    let reason = format!(" Reason={} [root@2026-11-23T09:22:55]\n", "r".repeat(1_000));
    let shown = line("nid000001", 0, "IDLE+DRAIN", "2026-11-23T20:37:37", &reason);
    assert!(shown.len() * 10_000 < limit);
}
