//! Scripted check commands.

use crus_core::ports::{CheckRequest, Checks as _, Peer, PortError, Verdict};
use crus_core::{UpgradeId, Xname};
use crus_sim::checks::{CheckEnd, SimChecks};
use crus_sim::cluster::lock;
use crus_sim::faults::{Fault, Faulty, Plan};

use super::support::{Ask as _, cluster, name, x};

fn request(step: u32, nodes: &[u32]) -> CheckRequest {
    CheckRequest {
        session: UpgradeId(uuid::Uuid::from_u128(1)),
        step,
        name: "smoke".parse().unwrap(),
        nodes: nodes.iter().map(|&n| (x(n), name(n))).collect(),
    }
}

fn failed(words: &str) -> Verdict {
    Verdict::Failed(words.to_owned())
}

#[tokio::test]
async fn each_node_is_judged_when_its_check_ends_and_once_in_a_step() {
    let cluster = cluster().shared();
    let checks = SimChecks::new(&cluster);
    let unknown = checks.judge(&request(0, &[1])).await.unwrap_err();
    assert!(matches!(&unknown, PortError::Refused { peer: Peer::Check, .. }), "{unknown}");
    checks.add("smoke".parse().unwrap());
    checks.set(x(2), CheckEnd::Fails { after_ms: 5_000, words: "no fan".to_owned() });
    checks.set(x(3), CheckEnd::Hangs);
    checks.set(x(4), CheckEnd::Passes { after_ms: 61_000 });
    let all = request(0, &[1, 2, 3, 4]);
    let (running, passed, late) = (Verdict::Running, Verdict::Passed, failed("it did not end within 60 s"));
    for (after_ms, verdicts) in [
        (0, [&passed, &running, &running, &running]),
        (4_999, [&passed, &running, &running, &running]),
        (1, [&passed, &failed("no fan"), &running, &running]),
        (55_000, [&passed, &failed("no fan"), &late, &late]),
        (1_000_000, [&passed, &failed("no fan"), &late, &late]),
    ] {
        lock(&cluster).after(after_ms);
        let expected: Vec<(Xname, Verdict)> = (1..=4).map(x).zip(verdicts.map(Clone::clone)).collect();
        assert_eq!(checks.judge(&all).await.unwrap(), expected);
    }
    assert_eq!(checks.started().len(), 4, "each once");
    checks.judge(&request(1, &[2])).await.unwrap();
    checks.die();
    checks.judge(&request(1, &[2])).await.unwrap();
    let steps: Vec<u32> = checks.started().iter().map(|check| check.step).collect();
    assert_eq!(steps, [0, 0, 0, 0, 1, 1], "in another step anew, and once more after a restart");
}

#[tokio::test]
async fn a_check_may_be_refused_by_plan() {
    let cluster = cluster().shared();
    let checks = SimChecks::new(&cluster);
    checks.add("smoke".parse().unwrap());
    let faulty = Faulty::new(checks.clone(), &cluster, Plan::none().at("check", 2, Fault::ReplyLost));
    assert_eq!(faulty.judge(&request(0, &[1])).await, Ok(vec![(x(1), Verdict::Passed)]));
    assert!(faulty.judge(&request(0, &[2])).await.unwrap_err().may_have_acted());
    assert_eq!(checks.started().len(), 2, "only the answer was lost");
}
