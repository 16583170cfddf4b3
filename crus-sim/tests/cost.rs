//! What an upgrade costs its peers: counted, so the same on every machine.

use crate::common::thousand;

/// The original needed 33,580 to 62,000 `scontrol` processes and 3,924 HSM calls for this.
#[test]
fn a_thousand_nodes_cost_few_calls_and_no_fixed_pauses() {
    let cost = thousand::run().unwrap();
    assert!(cost.wlm <= 1_400, "{} scontrol and squeue processes: {:?}", cost.wlm, cost.calls);
    assert!(cost.hsm <= 2_200, "{} HSM calls: {:?}", cost.hsm, cost.calls);
    // Four facts a step are waited for; each is seen within one poll.
    let polls = cost.own_ms / crus_core::Limits::default().poll_ms;
    let steps = u64::from(thousand::NODES / thousand::STEP_SIZE);
    assert!(polls <= 4 * steps, "{polls} polls beyond what was waited for, in {} ms", cost.took_ms);
    // BOS is asked for the template, for the reboot, and once a poll in the five minutes of a boot.
    assert!(cost.bos <= steps * (2 + 30 + 2), "{} BOS calls: {:?}", cost.bos, cost.calls);
}
